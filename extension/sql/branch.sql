--
-- branch.sql: how far each source's records have gone on to their topics
--

CREATE TABLE fraud.branch_positions (
    source           text NOT NULL,
    kafka_partition  int NOT NULL,
    next_offset      bigint NOT NULL DEFAULT -1,
    cluster_id       text,
    -- what set_branch_position() asked for; the bridge goes on from there
    requested_offset bigint,
    updated_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, kafka_partition)
);

COMMENT ON TABLE fraud.branch_positions IS 'Mirror of the branches'' positions, which are in Kafka';
COMMENT ON COLUMN fraud.branch_positions.source IS 'The source';
COMMENT ON COLUMN fraud.branch_positions.kafka_partition IS 'The partition';
COMMENT ON COLUMN fraud.branch_positions.next_offset IS 'The next offset to branch; -1: none was branched yet';
COMMENT ON COLUMN fraud.branch_positions.cluster_id IS 'Kafka cluster that the offset is of';
COMMENT ON COLUMN fraud.branch_positions.requested_offset IS 'Where an operator said that it goes on';
COMMENT ON COLUMN fraud.branch_positions.updated_at IS 'When it moved last';

SELECT pg_catalog.pg_extension_config_dump('fraud.branch_positions', '');

-- The branch asks for what became of a range of offsets.  The source, which
-- tells little apart, comes last: what is of fixed size is compared faster.
-- Alerts of sources that copy no records anywhere do without.
CREATE INDEX alerts_kafka_idx ON fraud.alerts (kafka_partition, kafka_offset, source)
    WHERE branched;
CREATE INDEX dead_letters_kafka_idx ON fraud.dead_letters (source, kafka_partition, kafka_offset);

CREATE FUNCTION fraud.hold_batches(source text) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fraud_hold_batches';
COMMENT ON FUNCTION fraud.hold_batches(text) IS
'Internal: waits for the batches of a source that are under way; those that follow wait for the end of this transaction.';
REVOKE ALL ON FUNCTION fraud.hold_batches(text) FROM PUBLIC;

-- A source is about to copy its records to topics: have its alerts found.
-- Most of them while batches go on, the others when none is under way.
CREATE FUNCTION fraud.branch_alerts(source text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen xid8;
BEGIN
    -- each statement has to see what was committed before it
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'topics cannot be given to source "%" in a % transaction',
                source, current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'Use BEGIN ISOLATION LEVEL READ COMMITTED.';
    END IF;
    seen := pg_snapshot_xmin(pg_current_snapshot());
    IF EXISTS (SELECT FROM fraud.offsets o WHERE o.source = branch_alerts.source) THEN
        UPDATE fraud.alerts a SET branched = true
        WHERE a.source = branch_alerts.source AND NOT a.branched;
    END IF;
    PERFORM fraud.hold_batches(source);
    UPDATE fraud.alerts a SET branched = true
    WHERE a.xid >= seen AND a.source = branch_alerts.source AND NOT a.branched;
END $$;
COMMENT ON FUNCTION fraud.branch_alerts(text) IS
'Internal: marks the alerts of a source for the branch.';
REVOKE ALL ON FUNCTION fraud.branch_alerts(text) FROM PUBLIC;

CREATE FUNCTION fraud.set_branch_position(source text, partition int, "position" bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM fraud.require_role('fraud_operator');
    IF source IS NULL OR coalesce(partition, -1) < 0 OR coalesce("position", -1) < 0 THEN
        RAISE EXCEPTION 'source, partition and position must be given and not be negative'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT EXISTS (SELECT FROM fraud.source_config s
                   WHERE s.name = set_branch_position.source) THEN
        RAISE EXCEPTION 'source "%" does not exist', source
            USING ERRCODE = 'undefined_object';
    END IF;
    INSERT INTO fraud.branch_positions AS b (source, kafka_partition, requested_offset)
    VALUES (set_branch_position.source, set_branch_position.partition,
            set_branch_position."position")
    ON CONFLICT ON CONSTRAINT branch_positions_pkey DO UPDATE SET
        requested_offset = excluded.requested_offset, updated_at = now();
    PERFORM pg_notify('pg_fraud', 'source ' || source);
END $$;
COMMENT ON FUNCTION fraud.set_branch_position(text, int, bigint) IS
'Says from which offset a source''s partition is branched, after Kafka has lost the position
Records before it that were branched already are not branched again; those behind it are.';
REVOKE ALL ON FUNCTION fraud.set_branch_position(text, int, bigint) FROM PUBLIC;
REVOKE ALL ON fraud.branch_positions FROM PUBLIC;
