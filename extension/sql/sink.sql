--
-- sink.sql: where frauds go, and how far each sink has come
--

CREATE TABLE fraud.sink_config (
    name          text PRIMARY KEY,
    kind          text NOT NULL CHECK (kind OPERATOR(pg_catalog.=) ANY (ARRAY['bigquery', 'kafka', 'webhook'])),
    options       jsonb NOT NULL DEFAULT '{}',
    target        regclass,
    start         text NOT NULL DEFAULT 'latest',
    paused        boolean NOT NULL DEFAULT false,
    stopped_at    timestamptz,
    stopped_reason text,
    stopped_hint  text,
    last_error    text,
    last_error_at timestamptz,
    changed_by    text NOT NULL,
    changed_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE fraud.sink_config IS 'Where alerts are sent: one row per sink';
COMMENT ON COLUMN fraud.sink_config.name IS 'The sink''s name';
COMMENT ON COLUMN fraud.sink_config.kind IS 'bigquery, kafka or webhook';
COMMENT ON COLUMN fraud.sink_config.options IS 'Options of the kind; secrets are named here, never written';
COMMENT ON COLUMN fraud.sink_config.target IS 'Watched table whose alerts are sent; NULL for all';
COMMENT ON COLUMN fraud.sink_config.start IS 'Where the sink began: latest or earliest';
COMMENT ON COLUMN fraud.sink_config.paused IS 'Paused by an operator';
COMMENT ON COLUMN fraud.sink_config.stopped_at IS 'When the bridge stopped it, if it did';
COMMENT ON COLUMN fraud.sink_config.stopped_reason IS 'Why the bridge stopped it';
COMMENT ON COLUMN fraud.sink_config.stopped_hint IS 'The statement that lets it go on';
COMMENT ON COLUMN fraud.sink_config.last_error IS 'The last failure, stopped or not';
COMMENT ON COLUMN fraud.sink_config.last_error_at IS 'When that was';
COMMENT ON COLUMN fraud.sink_config.changed_by IS 'Who changed it last';
COMMENT ON COLUMN fraud.sink_config.changed_at IS 'When it was changed last';

-- A sink reads the ledger between two snapshots: what a transaction wrote that
-- the old one does not see and the new one does.  last_xid and last_id say how
-- far it has come in that interval.  With from_id set it reads history by id
-- instead: all that the new snapshot sees, from that id.
--
-- batch_* describe the batch that is being sent.  They are committed before it
-- is, so that the same rows go out under the same uuid after a crash.
CREATE TABLE fraud.sink_cursor (
    sink              text PRIMARY KEY,
    system_identifier bigint NOT NULL,
    timeline          int NOT NULL,
    epoch             bigint NOT NULL DEFAULT 0,
    from_id           bigint,
    old_snapshot      pg_snapshot NOT NULL,
    new_snapshot      pg_snapshot,
    stage             text NOT NULL DEFAULT 'alert'
        CHECK (stage OPERATOR(pg_catalog.=) ANY (ARRAY['alert', 'review', 'parked'])),
    last_xid          xid8 NOT NULL DEFAULT '0',
    last_id           bigint NOT NULL DEFAULT 0,
    batch             uuid,
    batch_first_id    bigint,
    batch_xid         xid8,
    batch_id          bigint,
    batch_rows        int,
    batch_target      text,
    batch_since       timestamptz,
    batch_saved_at    timestamptz,
    last_batch        uuid,
    attempts          int NOT NULL DEFAULT 0,
    position          bigint NOT NULL DEFAULT 0,
    batches           bigint NOT NULL DEFAULT 0,
    sent              bigint NOT NULL DEFAULT 0,
    skipped           bigint NOT NULL DEFAULT 0,
    failed            bigint NOT NULL DEFAULT 0,
    retries           bigint NOT NULL DEFAULT 0,
    rate              real NOT NULL DEFAULT 0,
    sent_at           timestamptz,
    updated_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE fraud.sink_cursor IS 'How far each sink has come in the ledger';
COMMENT ON COLUMN fraud.sink_cursor.sink IS 'The sink''s name';
COMMENT ON COLUMN fraud.sink_cursor.system_identifier IS 'Database system in which the snapshots hold';
COMMENT ON COLUMN fraud.sink_cursor.timeline IS 'Timeline in which the snapshots hold';
COMMENT ON COLUMN fraud.sink_cursor.epoch IS 'Number of times that it was placed by hand';
COMMENT ON COLUMN fraud.sink_cursor.from_id IS 'Set while history is read: the first alert id of it';
COMMENT ON COLUMN fraud.sink_cursor.old_snapshot IS 'All that this snapshot sees is done with';
COMMENT ON COLUMN fraud.sink_cursor.new_snapshot IS 'What this snapshot sees is being sent; NULL when nothing is';
COMMENT ON COLUMN fraud.sink_cursor.stage IS 'Part of the interval being sent: alerts, then reviews, then parked ones that are to be tried again';
COMMENT ON COLUMN fraud.sink_cursor.last_xid IS 'Transaction of the last row done within the interval';
COMMENT ON COLUMN fraud.sink_cursor.last_id IS 'Id of the last row done within the interval';
COMMENT ON COLUMN fraud.sink_cursor.batch IS 'Identity of the batch being sent, the same at every try';
COMMENT ON COLUMN fraud.sink_cursor.batch_first_id IS 'Id of the batch''s first row';
COMMENT ON COLUMN fraud.sink_cursor.batch_xid IS 'Transaction of the batch''s last row';
COMMENT ON COLUMN fraud.sink_cursor.batch_id IS 'Id of the batch''s last row';
COMMENT ON COLUMN fraud.sink_cursor.batch_rows IS 'Number of rows in the batch';
COMMENT ON COLUMN fraud.sink_cursor.batch_target IS 'Name of the table whose rows the batch holds; NULL for all';
COMMENT ON COLUMN fraud.sink_cursor.batch_since IS 'Older alerts are not in the batch (option max_age)';
COMMENT ON COLUMN fraud.sink_cursor.batch_saved_at IS 'When the batch was first put together';
COMMENT ON COLUMN fraud.sink_cursor.last_batch IS 'Identity of the last batch done';
COMMENT ON COLUMN fraud.sink_cursor.attempts IS 'Times that sending the batch has failed so far';
COMMENT ON COLUMN fraud.sink_cursor.position IS 'Highest alert id sent or passed';
COMMENT ON COLUMN fraud.sink_cursor.batches IS 'Batches sent';
COMMENT ON COLUMN fraud.sink_cursor.sent IS 'Rows sent';
COMMENT ON COLUMN fraud.sink_cursor.skipped IS 'Rows passed over because of their age';
COMMENT ON COLUMN fraud.sink_cursor.failed IS 'Rows the receiver refused, kept in fraud.sink_failures';
COMMENT ON COLUMN fraud.sink_cursor.retries IS 'Times that a batch had to be sent again';
COMMENT ON COLUMN fraud.sink_cursor.rate IS 'Rows per second when last measured';
COMMENT ON COLUMN fraud.sink_cursor.sent_at IS 'When a batch was last accepted';
COMMENT ON COLUMN fraud.sink_cursor.updated_at IS 'When the cursor last moved';

CREATE TABLE fraud.sink_failures (
    id        bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    sink      text NOT NULL,
    event     text NOT NULL,
    alert_id  bigint NOT NULL,
    review_id bigint,
    event_id  uuid NOT NULL,
    reason    text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    -- place among those that are to be tried again, drawn under the sink's lock:
    -- what is committed later lies behind what a batch holds
    retry     bigint
);
CREATE SEQUENCE fraud.sink_failures_retry_seq OWNED BY fraud.sink_failures.retry;
CREATE UNIQUE INDEX sink_failures_retry_idx ON fraud.sink_failures (sink, retry)
    WHERE retry IS NOT NULL;
-- a batch that is sent again is refused again
CREATE UNIQUE INDEX sink_failures_event_idx
    ON fraud.sink_failures (sink, alert_id, (coalesce(review_id, 0)));
COMMENT ON TABLE fraud.sink_failures IS 'Alerts that a receiver refused for good; see fraud.parked';
COMMENT ON COLUMN fraud.sink_failures.id IS 'Ascending key';
COMMENT ON COLUMN fraud.sink_failures.sink IS 'The sink''s name';
COMMENT ON COLUMN fraud.sink_failures.event IS 'alert, review or cleared';
COMMENT ON COLUMN fraud.sink_failures.alert_id IS 'The alert, see fraud.alerts';
COMMENT ON COLUMN fraud.sink_failures.review_id IS 'The review, see fraud.reviews; NULL for the alert itself';
COMMENT ON COLUMN fraud.sink_failures.event_id IS 'The alert''s event_id';
COMMENT ON COLUMN fraud.sink_failures.reason IS 'What the receiver answered';
COMMENT ON COLUMN fraud.sink_failures.failed_at IS 'When it was refused';
COMMENT ON COLUMN fraud.sink_failures.retry IS 'Place among those that are to be tried again; NULL: it is not';

-- A sink that writes to a stream by offsets: where its last batch lies on it.
-- Saved before the batch is sent, so that it goes to the same place again.
CREATE TABLE fraud.sink_streams (
    sink         text PRIMARY KEY,
    stream       text NOT NULL,
    batch        uuid,
    batch_offset bigint NOT NULL,
    batch_rows   int NOT NULL,
    refused      jsonb NOT NULL DEFAULT '{}',
    saved_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE fraud.sink_streams IS 'Streams of BigQuery that sinks write to, and how far each has come';
COMMENT ON COLUMN fraud.sink_streams.sink IS 'The sink''s name';
COMMENT ON COLUMN fraud.sink_streams.stream IS 'The stream; empty when the next batch goes to a new one';
COMMENT ON COLUMN fraud.sink_streams.batch IS 'Identity of the last batch put on it';
COMMENT ON COLUMN fraud.sink_streams.batch_offset IS 'Offset of that batch''s first row';
COMMENT ON COLUMN fraud.sink_streams.batch_rows IS 'Number of the batch''s rows on the stream';
COMMENT ON COLUMN fraud.sink_streams.refused IS 'The batch''s other rows: why they were refused, by the event''s identity';
COMMENT ON COLUMN fraud.sink_streams.saved_at IS 'When that was saved';

SELECT pg_catalog.pg_extension_config_dump('fraud.sink_config', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.sink_cursor', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.sink_streams', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.sink_failures', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.sink_failures_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('fraud.sink_failures_retry_seq', '');

-- pg_control_checkpoint() names the timeline of the last checkpoint, which a
-- promotion leaves behind for a while; the name of the WAL file is up to date.
CREATE FUNCTION fraud.system_identity(OUT system_identifier bigint, OUT timeline int)
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT c.system_identifier,
           ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
      FROM pg_control_system() AS c
    $$;
COMMENT ON FUNCTION fraud.system_identity() IS
    'Internal: the database system and its timeline, which a restored or promoted copy does not share';

-- Rows of a restored ledger carry transaction ids of the system they came from.
-- Those that this system has yet to reach would be taken for new when it does.
-- Such a row is seen although its own xid says that it cannot be.
CREATE FUNCTION fraud.adopt_ledger() RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    me constant xid8 := pg_current_xact_id();
    alerts bigint;
    reviews bigint;
BEGIN
    UPDATE fraud.alerts SET xid = me
     WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())
       AND NOT pg_visible_in_snapshot(xid, pg_current_snapshot())
       AND xid <> me;
    GET DIAGNOSTICS alerts = ROW_COUNT;
    UPDATE fraud.reviews SET xid = me
     WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())
       AND NOT pg_visible_in_snapshot(xid, pg_current_snapshot())
       AND xid <> me;
    GET DIAGNOSTICS reviews = ROW_COUNT;
    RETURN alerts + reviews;
END
$$;
COMMENT ON FUNCTION fraud.adopt_ledger() IS
    'Internal: stamps ledger rows that came from another database system with a transaction of this one';

-- Complains about an option that the kind does not know.
CREATE FUNCTION fraud.check_sink_keys(kind text, options jsonb, known text[]) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    unknown text;
BEGIN
    SELECT k INTO unknown FROM jsonb_object_keys(options) AS k
     WHERE k <> ALL (known) ORDER BY k LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unknown option "%s" for a sink of kind "%s"', unknown, kind),
            HINT = format('Options are: %s.', array_to_string(known, ', '));
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.check_sink_keys(text, jsonb, text[]) IS 'Internal: refuses options that a kind of sink does not have';

-- Returns the text of an option, NULL when it is not given.
CREATE FUNCTION fraud.sink_text(options jsonb, option text, required boolean DEFAULT false) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT options ? option THEN
        IF required THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('option "%s" is missing', option);
        END IF;
        RETURN NULL;
    END IF;
    IF jsonb_typeof(options -> option) <> 'string' OR options ->> option = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "%s" must be a non-empty string', option);
    END IF;
    RETURN options ->> option;
END
$$;
COMMENT ON FUNCTION fraud.sink_text(jsonb, text, boolean) IS 'Internal: text of a sink''s option';

-- A secret is named, never written: the name is that of a file in the
-- directory of secrets, and nothing that looks like key material passes.
CREATE FUNCTION fraud.check_secret_name(option text, value text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF value IS NULL THEN
        RETURN;
    END IF;
    IF value ~ '^(whsec_|ya29\.|AIza|eyJ)' OR value !~ '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$' THEN
        -- the value itself is not repeated: it may be the secret
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "%s" must be the name of a secret, not the secret', option),
            DETAIL = 'A name has at most 64 letters, digits, dots, dashes and underscores, and does not begin with a dot or a dash.',
            HINT = 'Put the secret into a file of that name in the bridge''s directory of secrets (--secrets-dir).';
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.check_secret_name(text, text) IS 'Internal: refuses a literal secret where the name of one belongs';

CREATE FUNCTION fraud.check_sink_interval(options jsonb, option text, lowest interval) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET intervalstyle = 'postgres'
    AS $$
DECLARE
    written constant text := fraud.sink_text(options, option);
    parsed interval;
BEGIN
    IF written IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        parsed := written::interval;
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "%s" is not an interval: "%s"', option, written),
            HINT = 'Use for example "90 seconds" or "7 days".';
    END;
    IF parsed < lowest THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "%s" must be at least %s', option, lowest);
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.check_sink_interval(jsonb, text, interval) IS 'Internal: checks an option that is a length of time';

-- Options that sinks of all kinds have.
CREATE FUNCTION fraud.check_sink_common(options jsonb) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF options ? 'events' AND (
        jsonb_typeof(options -> 'events') <> 'array'
        OR options -> 'events' = '[]'
        OR NOT options -> 'events' <@ '["alert", "review", "cleared"]'
        OR EXISTS (SELECT FROM jsonb_array_elements(options -> 'events') AS e WHERE jsonb_typeof(e) <> 'string'))
    THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "events" must be an array of "alert", "review" and "cleared"';
    END IF;
    PERFORM fraud.check_sink_interval(options, 'max_age', '1 second');
END
$$;
COMMENT ON FUNCTION fraud.check_sink_common(jsonb) IS 'Internal: checks the options that all kinds of sinks have';

CREATE FUNCTION fraud.check_bigquery_options(options jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    mode constant text := coalesce(fraud.sink_text(options, 'mode'), 'insert_all');
BEGIN
    PERFORM fraud.check_sink_keys('bigquery', options,
        '{table,mode,every,credentials,events,max_age}');
    IF fraud.sink_text(options, 'table', true) !~
        '^([a-z0-9.-]+:)?[a-z][a-z0-9-]{0,28}[a-z0-9]\.[A-Za-z0-9_]+\.[A-Za-z0-9_-]+$'
    THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "table" is not a BigQuery table: "%s"', options ->> 'table'),
            HINT = 'Use "project.dataset.table".';
    END IF;
    IF mode NOT IN ('storage_write', 'load', 'insert_all') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "mode" has no value "%s"', mode),
            HINT = 'Values are: insert_all, load, storage_write.';
    END IF;
    IF mode = 'load' THEN
        PERFORM fraud.check_sink_interval(options, 'every', '1 second');
    ELSIF options ? 'every' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "every" has no meaning in mode "%s"', mode);
    END IF;
    PERFORM fraud.check_secret_name('credentials', fraud.sink_text(options, 'credentials'));
    -- kept with the sink, so that a later default does not change it
    RETURN options || jsonb_build_object('mode', mode);
END
$$;
COMMENT ON FUNCTION fraud.check_bigquery_options(jsonb) IS 'Internal: checks and completes the options of a bigquery sink';

-- Key and value are expressions over the columns of fraud.alerts.  They may
-- use what a rule may use; the bridge evaluates them with its own rights.  The
-- first form below is no expression when the text closes what it did not open.
CREATE FUNCTION fraud.check_sink_expression(options jsonb, option text) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    expression constant text := fraud.sink_text(options, option);
BEGIN
    IF expression IS NULL THEN
        RETURN;
    END IF;
    PERFORM fraud.validate_rule('fraud.alerts', 'CASE WHEN true THEN ' || expression || ' END IS NOT NULL');
    PERFORM fraud.validate_rule('fraud.alerts', '(' || expression || ')::text IS NOT NULL');
EXCEPTION WHEN syntax_error_or_access_rule_violation OR feature_not_supported OR data_exception THEN
    RAISE EXCEPTION USING ERRCODE = SQLSTATE,
        MESSAGE = format('option "%s" is not a valid expression: %s', option, replace(SQLERRM, ' in a rule', '')),
        HINT = 'It is an expression over the columns of fraud.alerts, made of what rules are made of.';
END
$$;
COMMENT ON FUNCTION fraud.check_sink_expression(jsonb, text) IS 'Internal: checks an option that is an SQL expression over the columns of fraud.alerts';

CREATE FUNCTION fraud.check_kafka_options(options jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.check_sink_keys('kafka', options, '{topic,key,value,events,max_age}');
    IF fraud.sink_text(options, 'topic', true) !~ '^[A-Za-z0-9._-]{1,249}$'
        OR options ->> 'topic' IN ('.', '..')
    THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "topic" is not a name of a topic: "%s"', options ->> 'topic');
    END IF;
    PERFORM fraud.check_sink_expression(options, 'key');
    PERFORM fraud.check_sink_expression(options, 'value');
    RETURN options;
END
$$;
COMMENT ON FUNCTION fraud.check_kafka_options(jsonb) IS 'Internal: checks the options of a kafka sink';

-- Headers that carry credentials take {"secret": "name"} instead of a text.
CREATE FUNCTION fraud.check_webhook_headers(headers jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    header record;
BEGIN
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "headers" must be an object';
    END IF;
    FOR header IN SELECT key, value FROM jsonb_each(headers) LOOP
        IF header.key !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,128}$'
            OR lower(header.key) IN ('host', 'content-length', 'content-type', 'transfer-encoding', 'connection')
            OR lower(header.key) LIKE 'webhook-%'
        THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('header "%s" cannot be set', header.key);
        END IF;
        IF jsonb_typeof(header.value) = 'object' AND header.value ->> 'secret' IS NOT NULL
            AND header.value - 'secret' = '{}'
        THEN
            PERFORM fraud.check_secret_name('headers', header.value ->> 'secret');
        ELSIF jsonb_typeof(header.value) <> 'string' OR header.value #>> '{}' ~ '[^ -~]' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('header "%s" must be printable text, or {"secret": "name"}', header.key);
        ELSIF header.key ~* '(authorization|cookie|token|secret|password|api-?key|signature)' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('header "%s" must be the name of a secret, not the secret', header.key),
                HINT = 'Use {"secret": "name"}, and put the value into a file of that name in the bridge''s directory of secrets.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION fraud.check_webhook_headers(jsonb) IS 'Internal: checks the option "headers" of a webhook sink';

CREATE FUNCTION fraud.check_webhook_options(options jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.check_sink_keys('webhook', options, '{url,secret,headers,concurrency,events,max_age}');
    IF fraud.sink_text(options, 'url', true) !~* '^https?://[a-z0-9._\[\]:-]+(/[!-~]*)?$' THEN
        -- not repeated: user and password may stand in it
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "url" must be an http or https address without user and password';
    END IF;
    PERFORM fraud.check_secret_name('secret', fraud.sink_text(options, 'secret'));
    IF options ? 'headers' THEN
        PERFORM fraud.check_webhook_headers(options -> 'headers');
    END IF;
    IF options ? 'concurrency' AND (
        jsonb_typeof(options -> 'concurrency') <> 'number'
        OR options ->> 'concurrency' !~ '^[0-9]{1,2}$'
        OR (options ->> 'concurrency')::int NOT BETWEEN 1 AND 64)
    THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "concurrency" must be an integer from 1 to 64';
    END IF;
    RETURN options;
END
$$;
COMMENT ON FUNCTION fraud.check_webhook_options(jsonb) IS 'Internal: checks the options of a webhook sink';

-- Returns the options as they are to be kept, or complains.
CREATE FUNCTION fraud.check_sink_options(kind text, options jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF options IS NULL OR jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'options of a sink must be a JSON object';
    END IF;
    PERFORM fraud.check_sink_common(options);
    CASE kind
        WHEN 'bigquery' THEN RETURN fraud.check_bigquery_options(options);
        WHEN 'kafka' THEN RETURN fraud.check_kafka_options(options);
        WHEN 'webhook' THEN RETURN fraud.check_webhook_options(options);
        ELSE
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('unknown kind of sink "%s"', kind),
                HINT = 'Kinds are: bigquery, kafka, webhook.';
    END CASE;
END
$$;
COMMENT ON FUNCTION fraud.check_sink_options(text, jsonb) IS 'Internal: checks and completes the options of a sink';

CREATE FUNCTION fraud.check_sink_target(target regclass) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF target IS NULL
        OR EXISTS (SELECT FROM fraud.watch_config AS w WHERE w.target = check_sink_target.target)
    THEN
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = format('table "%s" is not watched', target),
        HINT = format('Use fraud.watch(%L) first.', target);
END
$$;
COMMENT ON FUNCTION fraud.check_sink_target(regclass) IS 'Internal: refuses a target that is not watched';

-- Sets the cursor: behind all that is visible now, or before the alert from_id.
CREATE FUNCTION fraud.place_sink(sink text, from_id bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.adopt_ledger();
    INSERT INTO fraud.sink_cursor AS c
        (sink, system_identifier, timeline, from_id, old_snapshot, last_id, position)
    SELECT place_sink.sink, i.system_identifier, i.timeline, place_sink.from_id,
           pg_current_snapshot(), coalesce(place_sink.from_id - 1, 0),
           coalesce(place_sink.from_id - 1,
                    (SELECT max(a.id) FROM fraud.alerts AS a), 0)
      FROM fraud.system_identity() AS i
    ON CONFLICT ON CONSTRAINT sink_cursor_pkey DO UPDATE
       SET system_identifier = excluded.system_identifier,
           timeline = excluded.timeline, epoch = c.epoch + 1, from_id = excluded.from_id,
           old_snapshot = excluded.old_snapshot, new_snapshot = NULL,
           stage = 'alert', last_xid = '0', last_id = excluded.last_id,
           batch = NULL, batch_first_id = NULL, batch_xid = NULL,
           batch_id = NULL, batch_rows = NULL, batch_target = NULL,
           batch_since = NULL, batch_saved_at = NULL, last_batch = NULL, attempts = 0,
           position = excluded.position, updated_at = clock_timestamp();
END
$$;
COMMENT ON FUNCTION fraud.place_sink(text, bigint) IS 'Internal: sets the cursor of a sink anew';

-- What Kafka knows of the last batch is kept with the topic: with another one
-- a sink begins to count anew, and its thread has to read the cursor again.
CREATE FUNCTION fraud.change_sink_topic(sink text, old_options jsonb, new_options jsonb) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    UPDATE fraud.sink_cursor AS c
       SET last_batch = NULL, epoch = c.epoch + 1
     WHERE c.sink = change_sink_topic.sink
       AND old_options -> 'topic' IS DISTINCT FROM new_options -> 'topic'
    $$;
COMMENT ON FUNCTION fraud.change_sink_topic(text, jsonb, jsonb) IS 'Internal: forgets the last batch of a sink whose topic changes';

-- What became of a batch in doubt is known to the mode that sent it alone: a
-- load job may still run, and insertId is asked of nobody else.
CREATE FUNCTION fraud.change_sink_mode(sink text, old_options jsonb, new_options jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    first_id bigint;
BEGIN
    IF old_options -> 'mode' IS NOT DISTINCT FROM new_options -> 'mode' THEN
        RETURN;
    END IF;
    -- its thread reads the cursor again before it begins another batch
    UPDATE fraud.sink_cursor AS c SET epoch = c.epoch + 1
     WHERE c.sink = change_sink_mode.sink AND c.batch IS NULL;
    IF NOT FOUND THEN
        SELECT c.batch_first_id INTO first_id FROM fraud.sink_cursor AS c
         WHERE c.sink = change_sink_mode.sink;
        RAISE EXCEPTION USING ERRCODE = 'object_in_use',
            MESSAGE = format('option "mode" of sink "%s" cannot be changed while a batch is being sent', sink),
            DETAIL = format('Whether BigQuery has its alerts, from %s on, mode "%s" alone can find out.',
                            first_id, old_options ->> 'mode'),
            HINT = format('Try again when it is done.  To give it up, change the mode in one transaction with '
                          'SELECT fraud.resume_sink(%L, %s), which sends those alerts again.', sink, first_id);
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.change_sink_mode(text, jsonb, jsonb) IS 'Internal: refuses to change the mode of a sink while a batch is in doubt';

-- Locks the row of a sink that must exist.
CREATE FUNCTION fraud.lock_sink(sink text) RETURNS fraud.sink_config
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    found_sink fraud.sink_config;
BEGIN
    PERFORM fraud.require_role('fraud_operator', 'fraud_admin');
    SELECT * INTO found_sink FROM fraud.sink_config AS s
     WHERE s.name = lock_sink.sink FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('sink "%s" does not exist', sink);
    END IF;
    RETURN found_sink;
END
$$;
COMMENT ON FUNCTION fraud.lock_sink(text) IS 'Internal: locks the row of a sink for a change';

CREATE FUNCTION fraud.add_sink(name text, kind text, options jsonb, target regclass DEFAULT NULL, start text DEFAULT 'latest', replace boolean DEFAULT false)
    RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    checked jsonb;
    old_kind text;
    old_options jsonb;
BEGIN
    PERFORM fraud.require_role('fraud_operator', 'fraud_admin');
    IF name IS NULL OR name !~ '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_name',
            MESSAGE = format('name of a sink is not valid: %s', coalesce('"' || name || '"', 'NULL')),
            HINT = 'Use at most 63 letters, digits, dots, dashes and underscores.';
    END IF;
    IF start IS NULL OR start NOT IN ('latest', 'earliest') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('start of a sink is not valid: %s', coalesce('"' || start || '"', 'NULL')),
            HINT = 'Use "latest" or "earliest"; fraud.resume_sink(name, from_id) starts at an alert.';
    END IF;
    checked := fraud.check_sink_options(kind, options);
    PERFORM fraud.check_sink_target(target);
    SELECT s.kind, s.options INTO old_kind, old_options FROM fraud.sink_config AS s
     WHERE s.name = add_sink.name FOR UPDATE;
    IF FOUND AND replace IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('sink "%s" already exists', name),
            HINT = 'Use fraud.alter_sink, or replace => true.';
    END IF;
    INSERT INTO fraud.sink_config AS s (name, kind, options, target, start, changed_by)
    VALUES (add_sink.name, add_sink.kind, checked, add_sink.target, add_sink.start, fraud.outer_role())
    ON CONFLICT ON CONSTRAINT sink_config_pkey DO UPDATE
       SET kind = excluded.kind, options = excluded.options,
           target = excluded.target, start = excluded.start,
           stopped_at = NULL, stopped_reason = NULL, stopped_hint = NULL,
           changed_by = excluded.changed_by, changed_at = now();
    -- a sink that is replaced by one of its kind goes on where it was
    IF old_kind IS DISTINCT FROM kind THEN
        PERFORM fraud.place_sink(name, CASE start WHEN 'earliest' THEN 1 END);
    ELSE
        PERFORM fraud.change_sink_topic(name, old_options, checked);
        PERFORM fraud.change_sink_mode(name, old_options, checked);
    END IF;
    PERFORM pg_notify('pg_fraud', 'sink ' || name);
END
$$;
COMMENT ON FUNCTION fraud.add_sink(text, text, jsonb, regclass, text, boolean) IS
    'Adds a sink: alerts go to BigQuery, a Kafka topic or a webhook';

CREATE FUNCTION fraud.alter_sink(name text, options jsonb DEFAULT NULL, target regclass DEFAULT NULL)
    RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    sink constant fraud.sink_config := fraud.lock_sink(name);
    merged jsonb := sink.options;
BEGIN
    IF options IS NOT NULL THEN
        IF jsonb_typeof(options) <> 'object' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = 'options of a sink must be a JSON object';
        END IF;
        merged := jsonb_strip_nulls(sink.options || options);
    END IF;
    PERFORM fraud.check_sink_target(target);
    merged := fraud.check_sink_options(sink.kind, merged);
    PERFORM fraud.change_sink_topic(name, sink.options, merged);
    PERFORM fraud.change_sink_mode(name, sink.options, merged);
    UPDATE fraud.sink_config AS s
       SET options = merged,
           target = coalesce(alter_sink.target, s.target),
           stopped_at = NULL, stopped_reason = NULL, stopped_hint = NULL,
           changed_by = fraud.outer_role(), changed_at = now()
     WHERE s.name = alter_sink.name;
    PERFORM pg_notify('pg_fraud', 'sink ' || name);
END
$$;
COMMENT ON FUNCTION fraud.alter_sink(text, jsonb, regclass) IS
    'Changes a sink: options given are merged into the old ones, null takes one away';

CREATE FUNCTION fraud.drop_sink(name text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.lock_sink(name);
    DELETE FROM fraud.sink_cursor AS c WHERE c.sink = drop_sink.name;
    DELETE FROM fraud.sink_streams AS t WHERE t.sink = drop_sink.name;
    DELETE FROM fraud.sink_failures AS f WHERE f.sink = drop_sink.name;
    DELETE FROM fraud.sink_config AS s WHERE s.name = drop_sink.name;
    PERFORM pg_notify('pg_fraud', 'sink ' || name);
END
$$;
COMMENT ON FUNCTION fraud.drop_sink(text) IS 'Removes a sink with its position and its failures';

CREATE FUNCTION fraud.pause_sink(name text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.lock_sink(name);
    UPDATE fraud.sink_config AS s
       SET paused = true, changed_by = fraud.outer_role(), changed_at = now()
     WHERE s.name = pause_sink.name;
    PERFORM pg_notify('pg_fraud', 'sink ' || name);
END
$$;
COMMENT ON FUNCTION fraud.pause_sink(text) IS 'Pauses a sink; alerts wait in the ledger';

-- Accepts the system the database is in now.  Another system knows nothing of
-- the transactions the cursor counts in, so there it takes an id to start at.
CREATE FUNCTION fraud.resume_sink(name text, from_id bigint DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    here record;
    cursor_system bigint;
BEGIN
    PERFORM fraud.lock_sink(name);
    SELECT * INTO here FROM fraud.system_identity();
    SELECT c.system_identifier INTO cursor_system
      FROM fraud.sink_cursor AS c WHERE c.sink = resume_sink.name FOR UPDATE;
    IF from_id IS NOT NULL THEN
        PERFORM fraud.place_sink(name, from_id);
    ELSIF cursor_system IS DISTINCT FROM here.system_identifier THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('the position of sink "%s" belongs to another database system', name),
            HINT = fraud.sink_resume_hint(name);
    ELSE
        UPDATE fraud.sink_cursor AS c
           SET timeline = here.timeline, updated_at = clock_timestamp()
         WHERE c.sink = resume_sink.name;
    END IF;
    UPDATE fraud.sink_config AS s
       SET paused = false, stopped_at = NULL, stopped_reason = NULL,
           stopped_hint = NULL, changed_by = fraud.outer_role(), changed_at = now()
     WHERE s.name = resume_sink.name;
    PERFORM pg_notify('pg_fraud', 'sink ' || name);
END
$$;
COMMENT ON FUNCTION fraud.resume_sink(text, bigint) IS
    'Lets a paused or stopped sink go on, where it was or at the alert from_id';

-- Ids are drawn as alerts are made, but a transaction that lasts long may have
-- drawn a lower one: none that is as late as that is left out, and a few that
-- are earlier may be sent too.
CREATE FUNCTION fraud.resume_sink(name text, since timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.lock_sink(name);
    IF since IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'the time from which a sink is to send again is missing';
    END IF;
    PERFORM fraud.resume_sink(name, from_id => coalesce(
        (SELECT min(a.id) FROM fraud.alerts AS a WHERE a.detected_at >= since),
        (SELECT max(a.id) + 1 FROM fraud.alerts AS a), 1));
END
$$;
COMMENT ON FUNCTION fraud.resume_sink(text, timestamptz) IS
    'Lets a sink go on at the first alert that was made at that time or later, also if it sent that before';

-- The bridge tries them in this order, behind what is new.
CREATE FUNCTION fraud.retry_parked(sink text, ids bigint[] DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    unknown bigint;
    asked bigint;
BEGIN
    PERFORM fraud.lock_sink(sink);
    SELECT i INTO unknown FROM unnest(ids) AS i
     WHERE NOT EXISTS (SELECT FROM fraud.sink_failures AS f
                        WHERE f.id = i AND f.sink = retry_parked.sink)
     ORDER BY i LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('sink "%s" has parked nothing with id %s', sink, coalesce(unknown::text, 'NULL')),
            HINT = 'See fraud.parked.';
    END IF;
    WITH chosen AS (
        SELECT f.id, nextval('fraud.sink_failures_retry_seq') AS place
          FROM (SELECT g.id FROM fraud.sink_failures AS g
                 WHERE g.sink = retry_parked.sink AND g.retry IS NULL
                   AND (ids IS NULL OR g.id = ANY (ids))
                   AND EXISTS (SELECT FROM fraud.alerts AS a WHERE a.id = g.alert_id)
                 ORDER BY g.alert_id, g.review_id NULLS FIRST) AS f)
    UPDATE fraud.sink_failures AS f SET retry = c.place FROM chosen AS c WHERE c.id = f.id;
    GET DIAGNOSTICS asked = ROW_COUNT;
    RETURN asked;
END
$$;
COMMENT ON FUNCTION fraud.retry_parked(text, bigint[]) IS
    'Has a sink try again what its receiver refused, all of it or those with these ids of fraud.parked; returns how many';

CREATE FUNCTION fraud.park_again(sink text, alert_id bigint, review_id bigint, reason text) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    UPDATE fraud.sink_failures AS f
       SET retry = NULL, reason = park_again.reason, failed_at = clock_timestamp()
     WHERE f.sink = park_again.sink AND f.alert_id = park_again.alert_id
       AND coalesce(f.review_id, 0) = coalesce(park_again.review_id, 0) AND f.retry IS NOT NULL
    $$;
COMMENT ON FUNCTION fraud.park_again(text, bigint, bigint, text) IS
    'Internal: for the bridge; keeps what was tried again and refused again, with the new reason';

CREATE FUNCTION fraud.unpark(sink text, last bigint) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    DELETE FROM fraud.sink_failures AS f WHERE f.sink = unpark.sink AND f.retry <= last
    $$;
COMMENT ON FUNCTION fraud.unpark(text, bigint) IS
    'Internal: for the bridge; forgets what was tried again, up to that place, and accepted';

-- What a sink has yet to send, what the branch has yet to ask about, and what
-- is to be tried again stays.
CREATE FUNCTION fraud.prune_alerts(before timestamptz, batch int DEFAULT 100000, OUT deleted bigint, OUT kept bigint, OUT waits_for text[])
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.require_role('fraud_admin');
    IF before IS NULL OR coalesce(batch, 0) < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'before and batch must be given, and batch be positive';
    END IF;
    WITH chosen AS MATERIALIZED (
    SELECT a.id, array_remove(array_agg(DISTINCT w.name), NULL) AS held_by
      FROM (SELECT b.* FROM fraud.alerts AS b WHERE b.detected_at < before
             ORDER BY b.id LIMIT batch) AS a
      LEFT JOIN LATERAL (
            SELECT format('sink %s', s.name) AS name
              FROM fraud.sink_config AS s JOIN fraud.sink_cursor AS c ON c.sink = s.name
             WHERE (a.forward AND CASE WHEN c.from_id IS NULL
                        THEN NOT pg_visible_in_snapshot(a.xid, c.old_snapshot)
                        ELSE a.id > c.last_id OR c.stage <> 'alert' END)
                OR EXISTS (SELECT FROM fraud.reviews AS r WHERE r.alert_id = a.id
                              AND NOT pg_visible_in_snapshot(r.xid, c.old_snapshot))
                OR EXISTS (SELECT FROM fraud.sink_failures AS f
                            WHERE f.sink = s.name AND f.alert_id = a.id AND f.retry IS NOT NULL)
            UNION ALL
            SELECT format('branch of source %s', q.name)
              FROM fraud.source_config AS q
              LEFT JOIN fraud.branch_positions AS p
                ON p.source = q.name AND p.kafka_partition = a.kafka_partition
             WHERE q.name = a.source
               AND num_nonnulls(q.fraud_topic, q.legit_topic, q.dead_letter_topic) > 0
               AND a.kafka_offset >= coalesce(p.next_offset, -1)) AS w ON true
     GROUP BY a.id),
    gone AS (SELECT p.id FROM chosen AS p WHERE p.held_by = '{}'),
    parked AS (DELETE FROM fraud.sink_failures AS f USING gone AS g WHERE f.alert_id = g.id),
    reviews AS (DELETE FROM fraud.reviews AS r USING gone AS g WHERE r.alert_id = g.id),
    alerts AS (DELETE FROM fraud.alerts AS a USING gone AS g WHERE a.id = g.id RETURNING a.id)
    SELECT (SELECT count(*) FROM alerts),
           (SELECT count(*) FROM chosen AS p WHERE p.held_by <> '{}'),
           (SELECT array_agg(DISTINCT h.name) FROM chosen AS p, unnest(p.held_by) AS h (name))
      INTO deleted, kept, waits_for;
END
$$;
COMMENT ON FUNCTION fraud.prune_alerts(timestamptz, int) IS
    'Deletes alerts made before that time, with their reviews, at most so many, oldest first; what a sink has yet to send or a branch to ask about is kept, and who it waits for is told';

-- The statement that lets a sink go on in the system the database is in now.
-- In another system the first alert not known as sent is looked for by the
-- snapshots of the old one: they still hold for the rows that came from there.
CREATE FUNCTION fraud.sink_resume_hint(sink text) RETURNS text
    LANGUAGE sql STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format('SELECT fraud.resume_sink(%L%s);', c.sink,
        CASE WHEN c.system_identifier <> i.system_identifier THEN ', ' ||
            least((SELECT min(a.id) FROM fraud.alerts AS a
                    WHERE a.id >= coalesce(c.from_id, 0)
                      AND CASE WHEN c.from_id IS NULL
                               THEN NOT pg_visible_in_snapshot(a.xid, c.old_snapshot)
                                    AND (c.new_snapshot IS NULL
                                         OR (c.stage = 'alert' AND (a.xid, a.id) > (c.last_xid, c.last_id))
                                         OR NOT pg_visible_in_snapshot(a.xid, c.new_snapshot))
                               ELSE a.id > c.last_id END),
                  c.position + 1)
        ELSE '' END)
      FROM fraud.sink_cursor AS c, fraud.system_identity() AS i
     WHERE c.sink = sink_resume_hint.sink
    $$;
COMMENT ON FUNCTION fraud.sink_resume_hint(text) IS 'Internal: the statement that lets a sink go on here';

-- Called by the bridge when it takes up a sink: false when the cursor belongs
-- to another system or timeline, and the sink is stopped with the way out.
CREATE FUNCTION fraud.open_sink(sink text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    here record;
    known fraud.sink_cursor;
BEGIN
    SELECT * INTO here FROM fraud.system_identity();
    SELECT * INTO known FROM fraud.sink_cursor AS c WHERE c.sink = open_sink.sink;
    IF known.system_identifier = here.system_identifier AND known.timeline = here.timeline THEN
        RETURN true;
    END IF;
    PERFORM fraud.report_sink(sink, true,
        CASE WHEN known.sink IS NULL THEN 'the sink has no position'
             WHEN known.system_identifier <> here.system_identifier THEN
                format('the position belongs to database system %s, this is %s: the database was restored elsewhere',
                       known.system_identifier, here.system_identifier)
             ELSE format('the position belongs to timeline %s, this is %s: the database was restored or failed over',
                         known.timeline, here.timeline) END,
        coalesce(fraud.sink_resume_hint(sink), format('SELECT fraud.resume_sink(%L, 1);', sink)));
    RETURN false;
END
$$;
COMMENT ON FUNCTION fraud.open_sink(text) IS
    'Internal: for the bridge; checks that the position of a sink belongs to this database system';

-- A bridge that was stopped or cut off holds its sinks' locks and sends
-- nothing.  What it held is sent again by the next one, under the same uuid.
CREATE FUNCTION fraud.evict_sink(sink text, lease interval) RETURNS boolean
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT fraud.evict_holder('sink/' || sink, lease, NULL) $$;
COMMENT ON FUNCTION fraud.evict_sink(text, interval) IS
    'Internal: ends the connection that holds a sink if its bridge has given no sign of life for longer than the lease; takes another lock for the sink if a stranger holds it';

CREATE FUNCTION fraud.report_sink(sink text, stopped boolean, reason text, hint text DEFAULT NULL) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    UPDATE fraud.sink_config AS s
       SET last_error = coalesce(report_sink.reason, s.last_error),
           last_error_at = CASE WHEN report_sink.reason IS NULL THEN s.last_error_at
                                ELSE clock_timestamp() END,
           stopped_at = CASE WHEN report_sink.stopped THEN clock_timestamp() END,
           stopped_reason = CASE WHEN report_sink.stopped THEN report_sink.reason END,
           stopped_hint = CASE WHEN report_sink.stopped THEN report_sink.hint END
     WHERE s.name = report_sink.sink
    $$;
COMMENT ON FUNCTION fraud.report_sink(text, boolean, text, text) IS
    'Internal: for the bridge; keeps the last error of a sink, and why it stopped';

-- What the bridge's statements ask for each alert that they read.
CREATE FUNCTION fraud.alert_json(id bigint, event_id uuid, table_name text, detected_at timestamptz, occurred_at timestamptz, score numeric, rules text[], transaction jsonb) RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'fraud_alert_json';
COMMENT ON FUNCTION fraud.alert_json(bigint, uuid, text, timestamptz, timestamptz, numeric, text[], jsonb) IS
    'Internal: for the bridge; an alert as the JSON that sinks send, its fields in the order of the parameters';

CREATE FUNCTION fraud.page_fits(size int, most bigint) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fraud_page_fits';
COMMENT ON FUNCTION fraud.page_fits(int, bigint) IS
    'Internal: for the bridge; whether the sizes seen so far in this statement add up to no more than that; the first row always fits';

-- Alerts that a sink has yet to send.  They are looked for as the bridge does
-- it, so that a transaction open for hours makes nothing to be read.
CREATE FUNCTION fraud.sink_lag(place fraud.sink_cursor, table_name text, OUT lag_rows bigint, OUT oldest timestamptz)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    AS $$
DECLARE
    names constant text[] := fraud.same_table(sink_lag.table_name);
BEGIN
    IF place.from_id IS NOT NULL THEN
        SELECT count(*), min(a.detected_at) INTO lag_rows, oldest
          FROM fraud.alerts AS a
         WHERE a.forward AND (names IS NULL OR a.table_name = ANY (names))
           AND CASE place.stage WHEN 'alert' THEN a.id > place.last_id
                    ELSE NOT pg_visible_in_snapshot(a.xid, place.new_snapshot) END;
        RETURN;
    END IF;
    SELECT count(*), min(a.detected_at) INTO lag_rows, oldest
      FROM (SELECT b.* FROM pg_snapshot_xip(place.old_snapshot) AS x (xid)
              JOIN fraud.alerts AS b ON b.xid = x.xid
            UNION ALL
            SELECT b.* FROM fraud.alerts AS b
             WHERE b.xid >= pg_snapshot_xmax(place.old_snapshot)) AS a
     WHERE a.forward AND (names IS NULL OR a.table_name = ANY (names))
       AND (place.new_snapshot IS NULL
            OR place.stage = 'alert' AND (a.xid, a.id) > (place.last_xid, place.last_id)
            OR NOT pg_visible_in_snapshot(a.xid, place.new_snapshot));
END
$$;
COMMENT ON FUNCTION fraud.sink_lag(fraud.sink_cursor, text) IS 'Internal: number and age of the alerts that a sink has yet to send';

CREATE VIEW fraud.sinks AS
SELECT s.name, s.kind, s.target, s.options,
       CASE WHEN s.stopped_at IS NOT NULL THEN 'stopped'
            WHEN s.paused THEN 'paused'
            WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_locks AS l
                              WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted
                                AND l.objsubid OPERATOR(pg_catalog.=) 1
                                AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
                                AND ((l.classid::bigint OPERATOR(pg_catalog.<<) 32) OPERATOR(pg_catalog.|) l.objid::bigint)
                                    OPERATOR(pg_catalog.=) fraud.sink_key(s.name)) THEN 'waiting'
            WHEN c.attempts OPERATOR(pg_catalog.>) 0 THEN 'retrying'
            ELSE 'running' END AS state,
       c.position, lag.lag_rows,
       CASE WHEN lag.lag_rows OPERATOR(pg_catalog.=) 0 THEN 0
            ELSE pg_catalog.round(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) lag.oldest)::numeric, 3) END AS lag_seconds,
       CASE WHEN c.updated_at OPERATOR(pg_catalog.>) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '10 s'::interval)
            THEN c.rate ELSE 0 END AS rate,
       c.sent, c.skipped, c.failed, c.retries, c.sent_at,
       (SELECT pg_catalog.count(*) FROM fraud.sink_failures AS f WHERE f.sink OPERATOR(pg_catalog.=) s.name) AS parked,
       s.last_error, s.last_error_at, s.stopped_at, s.stopped_reason, s.stopped_hint,
       s.changed_by, s.changed_at
  FROM fraud.sink_config AS s
  LEFT JOIN fraud.sink_cursor AS c ON c.sink OPERATOR(pg_catalog.=) s.name
  LEFT JOIN pg_catalog.pg_class AS t ON t.oid OPERATOR(pg_catalog.=) s.target
  LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) t.relnamespace
 CROSS JOIN LATERAL fraud.sink_lag(c, CASE WHEN t.oid IS NOT NULL THEN pg_catalog.format('%I.%I', n.nspname, t.relname) END) AS lag;
COMMENT ON VIEW fraud.sinks IS 'Sinks, how far they have come and what keeps them';
COMMENT ON COLUMN fraud.sinks.name IS 'The sink''s name';
COMMENT ON COLUMN fraud.sinks.kind IS 'bigquery, kafka or webhook';
COMMENT ON COLUMN fraud.sinks.target IS 'Watched table whose alerts are sent; NULL for all';
COMMENT ON COLUMN fraud.sinks.options IS 'Options of the kind';
COMMENT ON COLUMN fraud.sinks.state IS 'running, retrying, waiting (no bridge runs it), paused or stopped';
COMMENT ON COLUMN fraud.sinks.position IS 'Highest alert id sent or passed';
COMMENT ON COLUMN fraud.sinks.lag_rows IS 'Alerts yet to be sent';
COMMENT ON COLUMN fraud.sinks.lag_seconds IS 'Age of the oldest of them';
COMMENT ON COLUMN fraud.sinks.rate IS 'Rows per second, measured in the last ten seconds';
COMMENT ON COLUMN fraud.sinks.sent IS 'Rows sent';
COMMENT ON COLUMN fraud.sinks.skipped IS 'Rows passed over because of their age';
COMMENT ON COLUMN fraud.sinks.failed IS 'Rows refused by the receiver, see fraud.sink_failures';
COMMENT ON COLUMN fraud.sinks.retries IS 'Times that a batch had to be sent again';
COMMENT ON COLUMN fraud.sinks.sent_at IS 'When a batch was last accepted';
COMMENT ON COLUMN fraud.sinks.parked IS 'Rows that the receiver refused and that were not accepted since, see fraud.parked';
COMMENT ON COLUMN fraud.sinks.last_error IS 'The last failure';
COMMENT ON COLUMN fraud.sinks.last_error_at IS 'When that was';
COMMENT ON COLUMN fraud.sinks.stopped_at IS 'When the bridge stopped it';
COMMENT ON COLUMN fraud.sinks.stopped_reason IS 'Why the bridge stopped it';
COMMENT ON COLUMN fraud.sinks.stopped_hint IS 'The statement that lets it go on';
COMMENT ON COLUMN fraud.sinks.changed_by IS 'Who changed it last';
COMMENT ON COLUMN fraud.sinks.changed_at IS 'When it was changed last';

CREATE VIEW fraud.parked AS
SELECT f.id, f.sink, f.event, f.alert_id, f.review_id, f.event_id, f.reason, f.failed_at,
       f.retry IS NOT NULL AS retrying, a.table_name, a.detected_at, a.transaction
  FROM fraud.sink_failures AS f
  LEFT JOIN fraud.alerts AS a ON a.id OPERATOR(pg_catalog.=) f.alert_id;
COMMENT ON VIEW fraud.parked IS 'What receivers refused for good, and why; fraud.retry_parked tries it again';
COMMENT ON COLUMN fraud.parked.id IS 'Ascending key';
COMMENT ON COLUMN fraud.parked.sink IS 'The sink''s name';
COMMENT ON COLUMN fraud.parked.event IS 'alert, review or cleared';
COMMENT ON COLUMN fraud.parked.alert_id IS 'The alert';
COMMENT ON COLUMN fraud.parked.review_id IS 'The review; NULL for the alert itself';
COMMENT ON COLUMN fraud.parked.event_id IS 'The alert''s event_id';
COMMENT ON COLUMN fraud.parked.reason IS 'What the receiver answered';
COMMENT ON COLUMN fraud.parked.failed_at IS 'When that was';
COMMENT ON COLUMN fraud.parked.retrying IS 'Whether the bridge is about to try it again';
COMMENT ON COLUMN fraud.parked.table_name IS 'The watched table';
COMMENT ON COLUMN fraud.parked.detected_at IS 'When the row was judged';
COMMENT ON COLUMN fraud.parked.transaction IS 'The row';
