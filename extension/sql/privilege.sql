--
-- privilege.sql: PUBLIC gets nothing, each role what its work needs
--

REVOKE ALL ON SCHEMA fraud, fraud_api FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA fraud, fraud_api FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA fraud, fraud_api FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA fraud, fraud_api FROM PUBLIC;

-- role.sql
GRANT USAGE ON SCHEMA fraud TO fraud_reader, fraud_bridge;
GRANT USAGE ON SCHEMA fraud_api TO fraud_reader;
GRANT EXECUTE ON FUNCTION fraud.outer_role(), fraud.actor() TO fraud_reader, fraud_bridge;

-- watch.sql, rule.sql, proposal.sql, brake.sql, counter.sql, ledger.sql
GRANT EXECUTE ON FUNCTION
    fraud.watch(regclass, numeric, name, name, name, boolean, boolean, boolean),
    fraud.unwatch(regclass),
    fraud.pause(regclass),
    fraud.resume(regclass)
    TO fraud_admin, fraud_operator;
GRANT EXECUTE ON FUNCTION
    fraud.add_rule(regclass, text, text, numeric, text, text, text, boolean, float8, float8, int),
    fraud.alter_rule(regclass, text, text, numeric, text, text, text, float8, float8, int),
    fraud.release_rule(regclass, text),
    fraud.approve_rule(regclass, text),
    fraud.reject_rule(regclass, text, text),
    fraud.drop_rule(regclass, text),
    fraud.rollback_rule(regclass, text, int)
    TO fraud_admin;
GRANT EXECUTE ON PROCEDURE fraud.remark(regclass, timestamptz, timestamptz, int, boolean)
    TO fraud_admin;
GRANT EXECUTE ON FUNCTION fraud.table_name(regclass), fraud.rule_counts(),
    fraud.rule_error(regclass, text)
    TO fraud_reader, fraud_bridge;
GRANT SELECT ON fraud.watched, fraud.rules, fraud.rule_versions, fraud.rule_proposals TO fraud_reader;
GRANT EXECUTE ON FUNCTION fraud.rule_diff(regclass, text, int, int),
    fraud.get_version(text, text, int, int) TO fraud_reader;
GRANT EXECUTE ON FUNCTION fraud.begin_batch(text, text, int, text),
    fraud.begin_batch(text, text, int, text, bigint, bigint, bigint, bigint, bytea, bigint, uuid),
    fraud.end_batch(boolean), fraud.batch_judges(regclass), fraud.fold_counters(),
    fraud.load_packed(regclass, text[], text, bytea),
    fraud.load_obstacle(regclass)
    TO fraud_bridge;

-- source.sql, position.sql, dead_letter.sql
GRANT EXECUTE ON FUNCTION
    fraud.add_source(text, text, regclass, jsonb, text, text, text, text, text, boolean),
    fraud.alter_source(text, text, regclass, jsonb, text, text, text, text, text),
    fraud.drop_source(text, boolean),
    fraud.pause_source(text),
    fraud.resume_source(text),
    fraud.replay(bigint)
    TO fraud_admin, fraud_operator;
GRANT EXECUTE ON FUNCTION
    fraud.set_position(text, int, text, boolean),
    fraud.set_position(text, int, bigint, boolean),
    fraud.accept_cluster(text, text)
    TO fraud_operator;
GRANT SELECT ON fraud.source_config, fraud.offsets, fraud.dead_letters,
    fraud.verdicts, fraud.position_changes TO fraud_admin, fraud_operator;
GRANT SELECT ON fraud.source_config TO fraud_bridge;
GRANT SELECT, INSERT, UPDATE ON fraud.offsets TO fraud_bridge;
GRANT SELECT, INSERT, UPDATE ON fraud.dead_letters TO fraud_bridge;
GRANT SELECT, INSERT, UPDATE, DELETE ON fraud.verdicts TO fraud_bridge;

-- branch.sql
GRANT EXECUTE ON FUNCTION fraud.set_branch_position(text, int, bigint)
    TO fraud_operator;
GRANT SELECT ON fraud.branch_positions TO fraud_admin, fraud_operator;
GRANT SELECT, INSERT, UPDATE ON fraud.branch_positions TO fraud_bridge;

-- bridge.sql
GRANT EXECUTE ON FUNCTION
    fraud.take_lock(text),
    fraud.suspects(interval),
    fraud.register_bridge(uuid, text, int, text, text[]),
    fraud.heartbeat(uuid, jsonb),
    fraud.unregister_bridge(uuid),
    fraud.report_source(text, boolean, text, text),
    fraud.evict(text, int, interval)
    TO fraud_bridge;
GRANT EXECUTE ON FUNCTION fraud.is_alive(timestamptz) TO fraud_reader;
GRANT EXECUTE ON FUNCTION fraud.partition_key(text, int) TO fraud_bridge;
GRANT EXECUTE ON FUNCTION fraud.lock_key(text), fraud.sink_key(text) TO fraud_reader, fraud_bridge;
GRANT SELECT ON fraud.moved_locks TO fraud_reader, fraud_bridge;
GRANT SELECT ON fraud.bridge_instances TO fraud_bridge, fraud_reader;
GRANT SELECT ON fraud.sources TO fraud_reader;
-- sink.sql
GRANT EXECUTE ON FUNCTION
    fraud.add_sink(text, text, jsonb, regclass, text, boolean),
    fraud.alter_sink(text, jsonb, regclass),
    fraud.drop_sink(text),
    fraud.pause_sink(text),
    fraud.resume_sink(text, bigint),
    fraud.resume_sink(text, timestamptz),
    fraud.retry_parked(text, bigint[])
    TO fraud_operator, fraud_admin;
GRANT EXECUTE ON FUNCTION
    fraud.system_identity(),
    fraud.open_sink(text),
    fraud.alert_json(bigint, uuid, text, timestamptz, timestamptz, numeric, text[], jsonb),
    fraud.page_fits(int, bigint),
    fraud.park_again(text, bigint, bigint, text),
    fraud.unpark(text, bigint),
    fraud.evict_sink(text, interval),
    fraud.report_sink(text, boolean, text, text)
    TO fraud_bridge;
GRANT EXECUTE ON FUNCTION fraud.sink_lag(fraud.sink_cursor, text) TO fraud_reader, fraud_bridge;
GRANT SELECT ON fraud.sinks TO fraud_reader, fraud_operator, fraud_admin, fraud_bridge;
GRANT EXECUTE ON FUNCTION fraud.prune_alerts(timestamptz, int) TO fraud_admin;
GRANT SELECT ON fraud.sink_failures, fraud.parked TO fraud_operator, fraud_admin;
GRANT SELECT ON fraud.sink_config TO fraud_bridge;
GRANT SELECT, UPDATE ON fraud.sink_cursor TO fraud_bridge;
GRANT SELECT, INSERT ON fraud.sink_failures TO fraud_bridge;
GRANT SELECT, INSERT, UPDATE ON fraud.sink_streams TO fraud_bridge;
GRANT SELECT ON fraud.alerts, fraud.reviews, fraud.watch_config TO fraud_bridge;

-- api.sql
GRANT SELECT ON ALL TABLES IN SCHEMA fraud_api TO fraud_reader;
GRANT SELECT ON fraud.alerts, fraud.reviews, fraud.table_names TO fraud_reader;
GRANT SELECT (target) ON fraud.watch_config TO fraud_reader;
GRANT EXECUTE ON FUNCTION fraud.same_table(text) TO fraud_bridge;
GRANT SELECT (id, source, kafka_topic, kafka_partition, kafka_offset, headers,
    stage, sqlstate, reason, truncated, received_at, replay_requested_at,
    replayed_at) ON fraud.dead_letters TO fraud_reader;
GRANT INSERT (alert_id, status, note) ON fraud.reviews TO fraud_analyst;
GRANT EXECUTE ON FUNCTION
    fraud.table_name(regclass),
    fraud.tables(boolean),
    fraud.dead_letter_part(bigint, text),
    fraud.find_watched(text),
    fraud_api.windows(text, interval, timestamptz, timestamptz)
    TO fraud_reader;
GRANT EXECUTE ON FUNCTION fraud_api.review_alert(bigint, text, text) TO fraud_analyst;
GRANT EXECUTE ON FUNCTION fraud.expose(regclass), fraud.unexpose(regclass) TO fraud_admin, fraud_operator;

-- ask.sql, failure.sql
GRANT EXECUTE ON FUNCTION
    fraud.is_fraud(record),
    fraud.explain(record),
    fraud.check(text, jsonb),
    fraud_api.check(text, jsonb)
    TO fraud_reader;
GRANT EXECUTE ON FUNCTION fraud.is_fraud(record) TO fraud_bridge;
GRANT SELECT ON fraud.rule_failures TO fraud_admin, fraud_operator;

-- compare.sql
GRANT EXECUTE ON FUNCTION
    fraud.compare_row(record, text, text, numeric),
    fraud.challenger(regclass, text, text, int),
    fraud.compare(regclass, text, text, int, timestamptz, timestamptz)
    TO fraud_reader;

-- backtest.sql
GRANT EXECUTE ON FUNCTION
    fraud.backtest(regclass, text, timestamptz, timestamptz, text, int),
    fraud.rule_to_try(regclass, text, int),
    fraud.tally(boolean, numeric, boolean, boolean),
    fraud.tally_listed(text, "any", boolean, numeric, boolean, boolean)
    TO fraud_analyst;

-- helper.sql
GRANT EXECUTE ON FUNCTION
    fraud.distance_km(float8, float8, float8, float8),
    fraud.luhn(text),
    fraud.card_brand(text),
    fraud.email_domain(text),
    fraud.ip_in(text, inet),
    fraud.hour_in(timestamptz, text),
    fraud.similar(text, text, int)
    TO fraud_reader;

-- list.sql
GRANT EXECUTE ON FUNCTION
    fraud.create_list(name, text, name),
    fraud.drop_list(name)
    TO fraud_admin;
GRANT EXECUTE ON FUNCTION
    fraud.add_to_list(name, text[], timestamptz, text),
    fraud.add_to_list(name, text, timestamptz, text),
    fraud.remove_from_list(name, text),
    fraud.in_list(text, text),
    fraud.in_list(text, bigint)
    TO fraud_analyst;
GRANT SELECT ON fraud.lists, fraud.list_config, fraud.list_entries TO fraud_analyst;
