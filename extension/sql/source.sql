--
-- source.sql: Kafka topics read into watched tables
--

CREATE TABLE fraud.source_config (
    name              text PRIMARY KEY,
    topic             text NOT NULL,
    target            regclass NOT NULL,
    mapping           jsonb NOT NULL DEFAULT '{}',
    start             text NOT NULL DEFAULT 'earliest',
    on_conflict       text NOT NULL DEFAULT 'dead_letter'
        CHECK (on_conflict OPERATOR(pg_catalog.=) ANY (ARRAY['dead_letter', 'ignore', 'update'])),
    fraud_topic       text,
    legit_topic       text,
    dead_letter_topic text,
    paused            boolean NOT NULL DEFAULT false,
    -- why the bridge stopped reading it, and the statement that lets it go on
    stopped_at        timestamptz,
    stopped_reason    text,
    stopped_hint      text,
    -- the last error, stopped or not
    last_error        text,
    last_error_at     timestamptz,
    changed_by        text NOT NULL,
    changed_at        timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE fraud.source_config IS 'Kafka topics that are read into watched tables; see fraud.sources';
COMMENT ON COLUMN fraud.source_config.name IS 'Name of the source';
COMMENT ON COLUMN fraud.source_config.topic IS 'Topic that is read';
COMMENT ON COLUMN fraud.source_config.target IS 'Table that the records become rows of';
COMMENT ON COLUMN fraud.source_config.mapping IS 'Columns and their places in the message';
COMMENT ON COLUMN fraud.source_config.start IS 'Where reading starts: earliest, latest or a time in UTC';
COMMENT ON COLUMN fraud.source_config.on_conflict IS 'dead_letter, ignore or update';
COMMENT ON COLUMN fraud.source_config.fraud_topic IS 'Topic that records judged fraud are copied to';
COMMENT ON COLUMN fraud.source_config.legit_topic IS 'Topic that all other records are copied to';
COMMENT ON COLUMN fraud.source_config.dead_letter_topic IS 'Topic that dead letters are copied to';
COMMENT ON COLUMN fraud.source_config.paused IS 'Whether reading was paused by hand';
COMMENT ON COLUMN fraud.source_config.stopped_at IS 'When a bridge stopped reading';
COMMENT ON COLUMN fraud.source_config.stopped_reason IS 'Why it stopped';
COMMENT ON COLUMN fraud.source_config.stopped_hint IS 'The statement that lets it go on';
COMMENT ON COLUMN fraud.source_config.last_error IS 'The last error, stopped or not';
COMMENT ON COLUMN fraud.source_config.last_error_at IS 'When it happened';
COMMENT ON COLUMN fraud.source_config.changed_by IS 'Role that changed the configuration last';
COMMENT ON COLUMN fraud.source_config.changed_at IS 'When it was changed last';
SELECT pg_catalog.pg_extension_config_dump('fraud.source_config', '');

--
-- Checks
--

CREATE FUNCTION fraud.check_topic(option text, topic text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF topic !~ '^[A-Za-z0-9._-]{1,249}$' OR topic IN ('.', '..') THEN
        RAISE EXCEPTION 'invalid topic name for "%": "%"', option, topic
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A Kafka topic''s name has 1 to 249 letters, digits, dots, underscores and hyphens.';
    END IF;
END $$;
COMMENT ON FUNCTION fraud.check_topic(text, text) IS
'Internal: raises an error unless Kafka allows the name of a topic.';

-- A place in the record: a JSON Pointer (RFC 6901) or one of the record's own
CREATE FUNCTION fraud.is_record_path(path text) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT path ~ '^(/([^~/]|~[01])*)*$'
        OR path IN ('@key', '@topic', '@partition', '@offset', '@timestamp')
        OR path ~ '^@headers/.'
$$;
COMMENT ON FUNCTION fraud.is_record_path(text) IS
'Internal: whether a text names a place in a Kafka record: a JSON Pointer, or @key, @topic, @partition, @offset, @timestamp, @headers/NAME.';

CREATE FUNCTION fraud.check_mapping(target regclass, mapping jsonb) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col record;
    opt record;
    path text;
    base oid;
BEGIN
    IF jsonb_typeof(mapping) <> 'object' THEN
        RAISE EXCEPTION 'mapping must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'It gives columns their places in the message, for example {"city": "/location/city"}.';
    END IF;
    FOR col IN
        SELECT m.key, m.value, a.attnum, a.attgenerated, a.atttypid
        FROM jsonb_each(mapping) m
        LEFT JOIN pg_attribute a ON a.attrelid = target AND a.attname = m.key
                                AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY m.key
    LOOP
        IF col.key IN ('is_fraud', 'fraud_score', 'fraud_rules', 'fraud_alert_id',
                       'kafka_partition', 'kafka_offset') THEN
            RAISE EXCEPTION 'column "%" cannot be mapped', col.key
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = 'pg_fraud sets it itself.';
        ELSIF col.attnum IS NULL THEN
            RAISE EXCEPTION 'column "%" of table % does not exist', col.key, target
                USING ERRCODE = 'undefined_column',
                      DETAIL = 'The mapping names it.';
        ELSIF col.attgenerated <> '' THEN
            RAISE EXCEPTION 'column "%" cannot be mapped', col.key
                USING ERRCODE = 'generated_always',
                      DETAIL = 'It is a generated column.';
        END IF;

        path := '/';
        IF jsonb_typeof(col.value) = 'string' THEN
            path := col.value #>> '{}';
        ELSIF jsonb_typeof(col.value) = 'object' THEN
            FOR opt IN SELECT o.key, o.value, jsonb_typeof(o.value) AS type,
                              o.value #>> '{}' AS text
                       FROM jsonb_each(col.value) o
            LOOP
                IF opt.key = 'path' AND opt.type = 'string' THEN
                    path := opt.text;
                ELSIF opt.key = 'required' AND opt.type = 'boolean' THEN
                    CONTINUE;
                ELSIF opt.key = 'format' AND opt.type = 'string' THEN
                    IF opt.text NOT IN ('epoch_s', 'epoch_ms', 'epoch_us', 'epoch_ns') THEN
                        RAISE EXCEPTION 'invalid format "%" for column "%"', opt.text, col.key
                            USING ERRCODE = 'invalid_parameter_value',
                                  HINT = 'Formats are epoch_s, epoch_ms, epoch_us and epoch_ns.';
                    END IF;
                    base := col.atttypid;
                    WHILE (SELECT typtype = 'd' FROM pg_type WHERE oid = base) LOOP
                        SELECT typbasetype INTO base FROM pg_type WHERE oid = base;
                    END LOOP;
                    IF (SELECT typcategory <> 'D' FROM pg_type WHERE oid = base) THEN
                        RAISE EXCEPTION 'format "%" does not fit column "%" of type %',
                            opt.text, col.key, format_type(col.atttypid, NULL)
                            USING ERRCODE = 'invalid_parameter_value',
                                  HINT = 'The epoch formats are for columns of date and time types.';
                    END IF;
                ELSE
                    RAISE EXCEPTION 'invalid option "%" in the mapping of column "%"', opt.key, col.key
                        USING ERRCODE = 'invalid_parameter_value',
                              HINT = 'Options are "path" (text), "format" (text) and "required" (true or false).';
                END IF;
            END LOOP;
        ELSE
            RAISE EXCEPTION 'invalid mapping of column "%"', col.key
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Give a path as text, or an object with "path", "format", "required".';
        END IF;
        IF NOT fraud.is_record_path(path) THEN
            RAISE EXCEPTION 'invalid path "%" for column "%"', path, col.key
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'A path is a JSON Pointer such as "/location/city", "" for the whole message, or @key, @topic, @partition, @offset, @timestamp, @headers/NAME.';
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION fraud.check_mapping(regclass, jsonb) IS
'Internal: raises an error unless the mapping of a source fits its table.';

-- A position in words; a time without a zone is UTC
CREATE FUNCTION fraud.resolve_start(start text) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC'
SET "DateStyle" = 'ISO, YMD' AS $$
DECLARE
    moment timestamptz;
BEGIN
    IF start IN ('earliest', 'latest') THEN
        RETURN start;
    END IF;
    BEGIN
        moment := start::timestamptz;
    EXCEPTION WHEN data_exception THEN
        moment := 'infinity';
    END;
    IF NOT isfinite(moment) THEN
        RAISE EXCEPTION 'invalid position "%"', start
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give earliest, latest or a time such as 2026-01-31T12:00:00Z.';
    END IF;
    RETURN to_char(moment, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
END $$;
COMMENT ON FUNCTION fraud.resolve_start(text) IS
'Internal: a starting position as it is stored: earliest, latest or a time in UTC.';

--
-- The table that a source writes to
--

-- Add the columns that say where in Kafka a row came from
CREATE FUNCTION fraud.add_provenance(target regclass) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    col record;
    additions text;
BEGIN
    FOR col IN
        SELECT w.name, w.type, a.atttypid
        FROM (VALUES ('kafka_partition', 'int4'::regtype),
                     ('kafka_offset', 'int8'::regtype)) w(name, type)
        LEFT JOIN pg_attribute a ON a.attrelid = target AND a.attname = w.name
                                AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        IF col.atttypid IS NULL THEN
            additions := concat_ws(', ', additions,
                format('ADD COLUMN %I %s', col.name, col.type));
        ELSIF col.atttypid <> col.type THEN
            RAISE EXCEPTION 'column "%" of table % is of type %', col.name, target,
                format_type(col.atttypid, NULL)
                USING ERRCODE = 'duplicate_column',
                      DETAIL = format('A source keeps a row''s place in Kafka there and needs type %s.', col.type),
                      HINT = 'Rename that column.';
        END IF;
    END LOOP;
    IF additions IS NOT NULL THEN
        PERFORM fraud.run_on_table(target,
            ARRAY[format('ALTER TABLE %s %s', target, additions)]);
    END IF;
END $$;
COMMENT ON FUNCTION fraud.add_provenance(regclass) IS
'Internal: adds the columns kafka_partition and kafka_offset to a table that has none.';

-- Give the bridge what it needs to write a table's rows
CREATE FUNCTION fraud.grant_target(target regclass, on_conflict text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    needs text := CASE on_conflict WHEN 'update' THEN 'INSERT, SELECT, UPDATE'
                                   WHEN 'ignore' THEN 'INSERT, SELECT'
                                   ELSE 'INSERT' END;
    schema record;
    sequence regclass;
    need text;
BEGIN
    SELECT n.nspname, n.nspowner INTO schema
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = target;
    IF NOT has_schema_privilege('fraud_bridge', schema.nspname, 'USAGE') THEN
        IF NOT pg_has_role(fraud.outer_role(), schema.nspowner, 'USAGE') THEN
            RAISE EXCEPTION 'role fraud_bridge may not use schema "%"', schema.nspname
                USING ERRCODE = 'insufficient_privilege',
                      HINT = format('Ask the owner of the schema to run: GRANT USAGE ON SCHEMA %I TO fraud_bridge', schema.nspname);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO fraud_bridge', schema.nspname);
    END IF;
    IF on_conflict <> 'dead_letter'
       AND NOT has_database_privilege('fraud_bridge', current_database(), 'TEMPORARY') THEN
        RAISE EXCEPTION 'role fraud_bridge may not create temporary tables'
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = format('on_conflict => ''%s'' goes through one.', on_conflict),
                  HINT = format('GRANT TEMPORARY ON DATABASE %I TO fraud_bridge', current_database());
    END IF;
    FOREACH need IN ARRAY string_to_array(needs, ', ') LOOP
        IF NOT has_table_privilege('fraud_bridge', target, need) THEN
            EXECUTE format('GRANT %s ON %s TO fraud_bridge', need, target);
        END IF;
    END LOOP;
    -- a serial column's default draws from a sequence that belongs to the table
    FOR sequence IN
        SELECT d.objid FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid = target AND d.deptype = 'a' AND c.relkind = 'S'
    LOOP
        IF NOT has_sequence_privilege('fraud_bridge', sequence, 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO fraud_bridge', sequence);
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION fraud.grant_target(regclass, text) IS
'Internal: grants the bridge what it needs to write to a source''s table.';

--
-- Sources
--

-- Check a source as it is to be, and store it
CREATE FUNCTION fraud.store_source(source fraud.source_config) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other text;
BEGIN
    PERFORM fraud.require_owner(source.target);
    IF source.name !~ '^[^[:cntrl:]]{1,200}$' THEN
        RAISE EXCEPTION 'invalid source name "%"', source.name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A name has 1 to 200 characters, none of them a control character.';
    END IF;
    PERFORM fraud.require_watched(source.target);

    source.fraud_topic := nullif(source.fraud_topic, '');
    source.legit_topic := nullif(source.legit_topic, '');
    source.dead_letter_topic := nullif(source.dead_letter_topic, '');
    PERFORM fraud.check_topic('topic', source.topic);
    PERFORM fraud.check_topic('fraud_topic', source.fraud_topic);
    PERFORM fraud.check_topic('legit_topic', source.legit_topic);
    PERFORM fraud.check_topic('dead_letter_topic', source.dead_letter_topic);
    IF (SELECT count(t) <> count(DISTINCT t)
        FROM unnest(ARRAY[source.topic, source.fraud_topic, source.legit_topic,
                          source.dead_letter_topic]) t) THEN
        RAISE EXCEPTION 'topics of source "%" must differ from each other', source.name
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT o.kafka_topic INTO other FROM fraud.offsets o
    WHERE o.source = (store_source.source).name AND o.kafka_topic <> (store_source.source).topic;
    IF FOUND THEN
        RAISE EXCEPTION 'source "%" has positions in topic "%"', source.name, other
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Read the other topic under another name, or forget the positions first: SELECT fraud.drop_source(%L, forget => true)', source.name);
    END IF;

    source.start := fraud.resolve_start(source.start);
    IF source.on_conflict NOT IN ('dead_letter', 'ignore', 'update') THEN
        RAISE EXCEPTION 'invalid value for "on_conflict": "%"', source.on_conflict
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Values are dead_letter, ignore and update.';
    ELSIF source.on_conflict <> 'dead_letter' AND NOT EXISTS (
        SELECT FROM pg_constraint c
        WHERE c.conrelid = source.target AND c.contype = 'p' AND NOT c.condeferrable) THEN
        RAISE EXCEPTION 'table % has no primary key', source.target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('on_conflict => ''%s'' needs one that is not deferrable.', source.on_conflict),
                  HINT = 'Add a primary key, or use on_conflict => ''dead_letter''.';
    END IF;

    PERFORM fraud.check_mapping(source.target, source.mapping);
    PERFORM fraud.add_provenance(source.target);
    PERFORM fraud.grant_target(source.target, source.on_conflict);

    IF num_nonnulls(source.fraud_topic, source.legit_topic, source.dead_letter_topic) > 0
       AND NOT EXISTS (
        SELECT FROM fraud.source_config s WHERE s.name = (store_source.source).name
        AND num_nonnulls(s.fraud_topic, s.legit_topic, s.dead_letter_topic) > 0) THEN
        PERFORM fraud.branch_alerts(source.name);
    END IF;

    source.changed_by := fraud.outer_role();
    source.changed_at := now();
    INSERT INTO fraud.source_config SELECT source.*
    ON CONFLICT (name) DO UPDATE SET
        topic = excluded.topic, target = excluded.target,
        mapping = excluded.mapping, start = excluded.start,
        on_conflict = excluded.on_conflict, fraud_topic = excluded.fraud_topic,
        legit_topic = excluded.legit_topic,
        dead_letter_topic = excluded.dead_letter_topic,
        changed_by = excluded.changed_by, changed_at = excluded.changed_at;
    PERFORM pg_notify('pg_fraud', 'source ' || source.name);
END $$;
COMMENT ON FUNCTION fraud.store_source(fraud.source_config) IS
'Internal: checks and stores a source, prepares its table and tells the bridge.';

-- A source's configuration, locked against other changes
CREATE FUNCTION fraud.lock_source(name text) RETURNS fraud.source_config
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source fraud.source_config;
BEGIN
    SELECT * INTO source FROM fraud.source_config s
    WHERE s.name = lock_source.name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'source "%" does not exist', name
            USING ERRCODE = 'undefined_object';
    END IF;
    RETURN source;
END $$;
COMMENT ON FUNCTION fraud.lock_source(text) IS
'Internal: reads and locks the configuration of a source that must exist.';

CREATE FUNCTION fraud.add_source(
    name text, topic text, target regclass, mapping jsonb DEFAULT NULL,
    start text DEFAULT NULL, on_conflict text DEFAULT NULL,
    fraud_topic text DEFAULT NULL, legit_topic text DEFAULT NULL,
    dead_letter_topic text DEFAULT NULL, replace boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source fraud.source_config;
    existed boolean;
BEGIN
    PERFORM fraud.require_role('fraud_admin', 'fraud_operator');
    IF name IS NULL OR topic IS NULL OR target IS NULL THEN
        RAISE EXCEPTION 'name, topic and target of a source must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- a name that two sessions add is taken by one of them, the other waits
    INSERT INTO fraud.source_config AS s (name, topic, target, changed_by)
    VALUES (add_source.name, add_source.topic, add_source.target, fraud.outer_role())
    ON CONFLICT ON CONSTRAINT source_config_pkey DO NOTHING;
    existed := NOT FOUND;
    SELECT * INTO source FROM fraud.source_config s
    WHERE s.name = add_source.name FOR UPDATE;
    IF existed AND NOT coalesce(replace, false) THEN
        RAISE EXCEPTION 'source "%" already exists', name
            USING ERRCODE = 'duplicate_object',
                  HINT = 'Use replace => true, or fraud.alter_source.';
    END IF;
    source.name := name;
    source.topic := topic;
    source.target := target;
    source.mapping := coalesce(mapping, source.mapping, '{}');
    source.start := coalesce(start, source.start, 'earliest');
    source.on_conflict := coalesce(on_conflict, source.on_conflict, 'dead_letter');
    source.fraud_topic := coalesce(fraud_topic, source.fraud_topic);
    source.legit_topic := coalesce(legit_topic, source.legit_topic);
    source.dead_letter_topic := coalesce(dead_letter_topic, source.dead_letter_topic);
    source.paused := coalesce(source.paused, false);
    PERFORM fraud.store_source(source);
END $$;
COMMENT ON FUNCTION fraud.add_source(text, text, regclass, jsonb, text, text, text, text, text, boolean) IS
'Reads a Kafka topic into a watched table
mapping gives columns their places in the message (JSON Pointer; a column not named takes the field of its own name). start is earliest (default), latest or a time; on_conflict is dead_letter (default), ignore or update. Frauds, legit and dead records are branched to the topics that are given. A name that exists is an error unless replace => true; options not given then keep their values. Adds the columns kafka_partition and kafka_offset to the table.';

CREATE FUNCTION fraud.alter_source(
    name text, topic text DEFAULT NULL, target regclass DEFAULT NULL,
    mapping jsonb DEFAULT NULL, start text DEFAULT NULL,
    on_conflict text DEFAULT NULL, fraud_topic text DEFAULT NULL,
    legit_topic text DEFAULT NULL, dead_letter_topic text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source fraud.source_config;
BEGIN
    PERFORM fraud.require_role('fraud_admin', 'fraud_operator');
    source := fraud.lock_source(name);
    source.topic := coalesce(topic, source.topic);
    source.target := coalesce(target, source.target);
    source.mapping := coalesce(mapping, source.mapping);
    source.start := coalesce(start, source.start);
    source.on_conflict := coalesce(on_conflict, source.on_conflict);
    source.fraud_topic := coalesce(fraud_topic, source.fraud_topic);
    source.legit_topic := coalesce(legit_topic, source.legit_topic);
    source.dead_letter_topic := coalesce(dead_letter_topic, source.dead_letter_topic);
    PERFORM fraud.store_source(source);
END $$;
COMMENT ON FUNCTION fraud.alter_source(text, text, regclass, jsonb, text, text, text, text, text) IS
'Changes a source
Options not given keep their values; an empty text takes a topic away again.';

CREATE FUNCTION fraud.drop_source(name text, forget boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source fraud.source_config;
BEGIN
    PERFORM fraud.require_role('fraud_admin', 'fraud_operator');
    SELECT * INTO source FROM fraud.source_config s
    WHERE s.name = drop_source.name FOR UPDATE;
    -- of a source dropped earlier, the positions may still be there to forget
    IF NOT FOUND AND NOT (coalesce(forget, false) AND EXISTS (
        SELECT FROM fraud.offsets o WHERE o.source = drop_source.name)) THEN
        PERFORM fraud.lock_source(name);
    END IF;
    DELETE FROM fraud.source_config s WHERE s.name = drop_source.name;
    IF forget THEN
        PERFORM fraud.require_role('fraud_operator');
        WITH gone AS (
            DELETE FROM fraud.offsets o WHERE o.source = drop_source.name
            RETURNING o.kafka_topic, o.kafka_partition, o.next_offset)
        INSERT INTO fraud.position_changes
            (source, kafka_topic, kafka_partition, action, old_value, changed_by, actor)
        SELECT drop_source.name, g.kafka_topic, g.kafka_partition, 'forget',
               g.next_offset, fraud.outer_role(), fraud.actor()
        FROM gone g ORDER BY g.kafka_partition;
        DELETE FROM fraud.verdicts v WHERE v.source = drop_source.name;
        DELETE FROM fraud.branch_positions b WHERE b.source = drop_source.name;
    END IF;
    PERFORM pg_notify('pg_fraud', 'source ' || name);
END $$;
COMMENT ON FUNCTION fraud.drop_source(text, boolean) IS
'Stops reading a topic
The table, its rows and the positions stay: a source of the same name and topic goes on where this one ended, unless forget => true.';

CREATE FUNCTION fraud.pause_source(name text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM fraud.require_role('fraud_admin', 'fraud_operator');
    PERFORM fraud.lock_source(name);
    UPDATE fraud.source_config s SET paused = true,
        changed_by = fraud.outer_role(), changed_at = now()
    WHERE s.name = pause_source.name;
    PERFORM pg_notify('pg_fraud', 'source ' || name);
END $$;
COMMENT ON FUNCTION fraud.pause_source(text) IS
'Lets the bridge stop reading a source after its current batch.';

CREATE FUNCTION fraud.resume_source(name text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM fraud.require_role('fraud_admin', 'fraud_operator');
    PERFORM fraud.lock_source(name);
    UPDATE fraud.source_config s SET paused = false,
        stopped_at = NULL, stopped_reason = NULL, stopped_hint = NULL,
        changed_by = fraud.outer_role(), changed_at = now()
    WHERE s.name = resume_source.name;
    PERFORM pg_notify('pg_fraud', 'source ' || name);
END $$;
COMMENT ON FUNCTION fraud.resume_source(text) IS
'Lets the bridge go on reading a source that was paused or has stopped.';

-- Called when a table was dropped: what would have written to it goes with it
CREATE FUNCTION fraud.forget_target(target oid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dropped text;
BEGIN
    FOR dropped IN DELETE FROM fraud.source_config s WHERE s.target::oid = forget_target.target
                  RETURNING s.name
    LOOP
        RAISE NOTICE 'source "%" was dropped with its table', dropped;
        PERFORM pg_notify('pg_fraud', 'source ' || dropped);
    END LOOP;
    FOR dropped IN SELECT s.name FROM fraud.sink_config s
                    WHERE s.target::oid = forget_target.target
    LOOP
        PERFORM fraud.erase_sink(dropped);
        RAISE NOTICE 'sink "%" was dropped with its table', dropped;
    END LOOP;
    DELETE FROM fraud.exposed_tables e WHERE e.target::oid = forget_target.target;
    DELETE FROM fraud.table_names n WHERE n.target::oid = forget_target.target;
END $$;
COMMENT ON FUNCTION fraud.forget_target(oid) IS
'Internal: drops the sources and sinks of a table that was dropped.';
