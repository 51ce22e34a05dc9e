--
-- watch.sql: the watched tables
--

CREATE TABLE fraud.watch_config (
    target      regclass PRIMARY KEY,
    threshold   numeric NOT NULL DEFAULT 1
        CHECK (threshold > 0 AND threshold < 'Infinity'),
    event_time  name,
    entity      name,
    amount      name,
    on_update   boolean NOT NULL DEFAULT false,
    paused      boolean NOT NULL DEFAULT false,
    -- false after unwatch: the table keeps its columns, its rules, its options
    active      boolean NOT NULL DEFAULT true,
    approval    boolean NOT NULL DEFAULT false,
    watched_by  text NOT NULL,
    watched_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE fraud.watch_config IS 'Tables whose rows are judged';
COMMENT ON COLUMN fraud.watch_config.target IS 'The table; a partitioned table stands for all its partitions';
COMMENT ON COLUMN fraud.watch_config.threshold IS 'A row is fraud when the scores of the live rules that fire add up to this';
COMMENT ON COLUMN fraud.watch_config.event_time IS 'Column that says when it happened';
COMMENT ON COLUMN fraud.watch_config.entity IS 'Column that says who (card, account)';
COMMENT ON COLUMN fraud.watch_config.amount IS 'Column of the money';
COMMENT ON COLUMN fraud.watch_config.on_update IS 'Whether an UPDATE is judged too';
COMMENT ON COLUMN fraud.watch_config.paused IS 'Rows are stored unjudged';
COMMENT ON COLUMN fraud.watch_config.active IS 'False when the table is no longer watched';
COMMENT ON COLUMN fraud.watch_config.approval IS 'Changes of rules wait for a second person''s approval';
COMMENT ON COLUMN fraud.watch_config.watched_by IS 'Who called watch last';
COMMENT ON COLUMN fraud.watch_config.watched_at IS 'When that was';
SELECT pg_catalog.pg_extension_config_dump('fraud.watch_config', '');

CREATE FUNCTION fraud.config_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'fraud_config_changed';
COMMENT ON FUNCTION fraud.config_changed() IS
    'Internal: trigger of the configuration tables: tells every session that rules have changed';
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON fraud.watch_config
    FOR EACH STATEMENT EXECUTE FUNCTION fraud.config_changed();

CREATE FUNCTION fraud.mark() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'fraud_mark';
COMMENT ON FUNCTION fraud.mark() IS 'Internal: trigger of watched tables: judges a row and sets its marks';
CREATE FUNCTION fraud.move() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'fraud_move';
COMMENT ON FUNCTION fraud.move() IS 'Internal: trigger of watched partitioned tables: recognises a row that moves to another partition';
CREATE FUNCTION fraud.ledger() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'fraud_ledger';
COMMENT ON FUNCTION fraud.ledger() IS 'Internal: trigger of watched tables: writes the alert of a fraud';

CREATE FUNCTION fraud.table_name(target regclass) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET quote_all_identifiers = off AS $$
    SELECT format('%I.%I', n.nspname, c.relname)
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.oid = target
    $$;
COMMENT ON FUNCTION fraud.table_name(regclass) IS
    'Internal: a table''s schema-qualified name, as history and ledger have it';

-- The marks: name, type, and the comment that tells them from a user's column
CREATE FUNCTION fraud.mark_columns(OUT name name, OUT type regtype, OUT note text)
    RETURNS SETOF record
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    VALUES ('is_fraud'::name, 'boolean'::regtype,
            'Whether the rules in force when the row arrived called it fraud; NULL if it was never judged (set by pg_fraud)'),
           ('fraud_score', 'numeric', 'Sum of the scores of the live rules that fired (set by pg_fraud)'),
           ('fraud_rules', 'text[]', 'Names of the live rules that fired (set by pg_fraud)'),
           ('fraud_alert_id', 'bigint', 'The row''s alert, see fraud.alerts (set by pg_fraud)')
    $$;
COMMENT ON FUNCTION fraud.mark_columns() IS 'Internal: the columns that watch adds to a table';

-- Raises an error unless the table can be watched.
CREATE FUNCTION fraud.check_target(target regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    class pg_class;
BEGIN
    SELECT c.* INTO class FROM pg_class AS c WHERE c.oid = target;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = 'the table to watch does not exist';
    ELSIF class.relispartition THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('table "%s" is a partition', class.relname),
            HINT = format('Watch the partitioned table: SELECT fraud.watch(%L).',
                          fraud.table_name((SELECT relid FROM pg_partition_ancestors(target) AS a(relid)
                                             ORDER BY relid = target, relid LIMIT 1)));
    ELSIF class.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('"%s" is not a table', class.relname),
            HINT = 'Watch the table from which it takes its rows.';
    ELSIF class.relpersistence = 't' THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('temporary table "%s" cannot be watched', class.relname);
    ELSIF class.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = target) THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('table "%s" has tables that inherit from it', class.relname),
            HINT = 'Triggers are not inherited, and rows of those tables would go unjudged.  Use a partitioned table.';
    ELSIF class.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace,
                                 'fraud'::regnamespace) THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('system table "%s" cannot be watched', class.relname);
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.check_target(regclass) IS 'Internal: refuses what cannot be watched';

-- Raises an error unless the column exists and is of a fitting type.
CREATE FUNCTION fraud.check_watch_column(target regclass, role text, col name, types regtype[]) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    type regtype;
BEGIN
    IF col IS NULL THEN
        RETURN;
    END IF;
    SELECT a.atttypid INTO type FROM pg_attribute AS a
     WHERE a.attrelid = target AND a.attname = col AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_column',
            MESSAGE = format('column "%s" of table %s does not exist', col, target::text),
            DETAIL = format('It was given as %s.', role);
    ELSIF type <> ALL (types) THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
            MESSAGE = format('column "%s" cannot be the %s: its type is %s', col, role, type),
            DETAIL = format('Types that can: %s.', array_to_string(types, ', '));
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.check_watch_column(regclass, text, name, regtype[]) IS 'Internal: checks a column named in watch';

-- The statements that turn a table into a watched one; none if it is.  Marks
-- that are there are taken if they are all there, as in a partition that was
-- detached or in a copy of a watched table; else such a column is the user's.
CREATE FUNCTION fraud.watch_statements(target regclass) RETURNS SETOF text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    full_name text := fraud.table_name(target);
    mark record;
    missing text[] := '{}';
    notes text[] := '{}';
    trigger record;
BEGIN
    FOR mark IN
        SELECT m.name, m.type, m.note, a.attnum, format_type(a.atttypid, a.atttypmod) AS old_type,
               bool_and(a.attnum IS NOT NULL) OVER () AS has_all,
               a.atttypid = m.type AS same_type,
               a.atttypid = m.type AND a.atttypmod = -1 AND NOT a.attnotnull AND a.attgenerated = '' AS fits,
               col_description(target, a.attnum) = m.note
                   OR EXISTS (SELECT FROM fraud.watch_config AS w WHERE w.target = $1) AS ours
          FROM fraud.mark_columns() WITH ORDINALITY AS m(name, type, note, n)
          LEFT JOIN pg_attribute AS a ON a.attrelid = target AND a.attname = m.name AND NOT a.attisdropped
         ORDER BY fits, m.n
    LOOP
        IF mark.attnum IS NULL THEN
            missing := missing || format('ADD COLUMN %I %s', mark.name, mark.type);
            notes := notes || format('COMMENT ON COLUMN %s.%I IS %L', full_name, mark.name, mark.note);
        ELSIF mark.same_type AND mark.ours THEN
            CONTINUE;
        ELSIF mark.has_all AND mark.fits THEN
            notes := notes || format('COMMENT ON COLUMN %s.%I IS %L', full_name, mark.name, mark.note);
        ELSE
            RAISE EXCEPTION USING ERRCODE = 'duplicate_column',
                MESSAGE = format('column "%s" of table %s already exists', mark.name, full_name),
                DETAIL = CASE WHEN NOT mark.same_type OR mark.has_all AND mark.old_type <> mark.type::text
                              THEN format('Its type is %s, that of the mark is %s.', mark.old_type, mark.type)
                              WHEN mark.has_all THEN 'It is generated or not null, which the mark is not.'
                              ELSE 'The table does not have the other marks.' END,
                HINT = 'Rename that column: pg_fraud keeps its marks in columns of this name.';
        END IF;
    END LOOP;
    IF missing <> '{}' THEN
        RETURN NEXT format('ALTER TABLE %s %s', full_name, array_to_string(missing, ', '));
    END IF;
    RETURN QUERY SELECT unnest(notes);

    FOR trigger IN
        SELECT * FROM (VALUES
            ('~~fraud_mark', 'BEFORE INSERT OR UPDATE', '', 'fraud.mark()', 'rp'),
            ('~~fraud_move', 'BEFORE DELETE', '', 'fraud.move()', 'p'),
            ('~~fraud_ledger', 'AFTER INSERT', 'WHEN (NEW.is_fraud) ', 'fraud.ledger()', 'rp'),
            ('~~fraud_ledger_update', 'AFTER UPDATE',
             'WHEN (NEW.is_fraud AND OLD.is_fraud IS NOT TRUE) ', 'fraud.ledger()', 'rp'))
            AS t(name, event, condition, function, kinds)
         WHERE strpos(t.kinds, (SELECT c.relkind::text FROM pg_class AS c WHERE c.oid = target)) > 0
           AND NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = target AND g.tgname = t.name)
    LOOP
        RETURN NEXT format('CREATE TRIGGER %I %s ON %s FOR EACH ROW %sEXECUTE FUNCTION %s',
                           trigger.name, trigger.event, full_name, trigger.condition, trigger.function);
    END LOOP;
END
$$;
COMMENT ON FUNCTION fraud.watch_statements(regclass) IS 'Internal: what watch has yet to do to a table';

-- What watch would do and whom it concerns, line by line.
CREATE FUNCTION fraud.watch_plan(target regclass) RETURNS SETOF text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    statements text[] := ARRAY(SELECT fraud.watch_statements(target));
BEGIN
    RETURN QUERY SELECT s || ';' FROM unnest(statements) AS s;
    IF statements <> '{}' THEN
        RETURN QUERY
            SELECT format('-- lock: ACCESS EXCLUSIVE on table %s, short: nothing is rewritten or scanned',
                          fraud.table_name(t.relid))
              FROM (SELECT target AS relid
                     UNION SELECT p.relid FROM pg_partition_tree(target) AS p WHERE p.relid IS NOT NULL) AS t
             ORDER BY t.relid <> target, t.relid::text;
    END IF;
    RETURN QUERY
        SELECT DISTINCT format('-- view: %s does not show the marks until it is made anew', fraud.table_name(r.ev_class))
          FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
         WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
           AND d.refobjid = target AND r.ev_class <> target;
    RETURN QUERY
        SELECT format('-- publication: %I sends the marks too, subscribers need the columns', p.pubname)
          FROM pg_publication_tables AS p
         WHERE format('%I.%I', p.schemaname, p.tablename) IN
               (SELECT fraud.table_name(target)
                 UNION SELECT fraud.table_name(t.relid) FROM pg_partition_tree(target) AS t)
         GROUP BY p.pubname;
END
$$;
COMMENT ON FUNCTION fraud.watch_plan(regclass) IS 'Internal: what watch would do to a table: statements, locks, views, publications';

-- The statements that take the triggers away.
CREATE FUNCTION fraud.unwatch_statements(target regclass) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format('DROP TRIGGER %I ON %s', t.tgname, fraud.table_name(target))
      FROM pg_trigger AS t
     WHERE t.tgrelid = target AND NOT t.tgisinternal
       AND t.tgname IN ('~~fraud_mark', '~~fraud_move', '~~fraud_ledger', '~~fraud_ledger_update')
     ORDER BY t.tgname
    $$;
COMMENT ON FUNCTION fraud.unwatch_statements(regclass) IS 'Internal: what unwatch has to do to a table';

-- Runs DDL on a table of another role as the extension's owner: the name is
-- locked first and looked at again, so that it cannot become another table.
-- What is run neither reads rows nor calls anybody's code.
CREATE FUNCTION fraud.run_on_table(target regclass, statements text[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    old_timeout text := current_setting('lock_timeout');
    full_name text := fraud.table_name(target);
    statement text;
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'lock_timeout' AND setting = '0' AND source <> 'session') THEN
        PERFORM set_config('lock_timeout', '2s', true);
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', full_name);
    IF to_regclass(full_name) IS DISTINCT FROM target THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use',
            MESSAGE = format('table %s was changed by another session', full_name);
    END IF;
    PERFORM fraud.require_owner(target);
    FOREACH statement IN ARRAY statements LOOP
        EXECUTE statement;
    END LOOP;
    PERFORM set_config('lock_timeout', old_timeout, true);
END
$$;
COMMENT ON FUNCTION fraud.run_on_table(regclass, text[]) IS 'Internal: runs DDL on a locked table';

CREATE FUNCTION fraud.watch(
    target     regclass,
    threshold  numeric DEFAULT NULL,
    event_time name DEFAULT NULL,
    entity     name DEFAULT NULL,
    amount     name DEFAULT NULL,
    on_update  boolean DEFAULT NULL,
    dry_run    boolean DEFAULT false,
    approval   boolean DEFAULT NULL)
    RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    times CONSTANT regtype[] := '{timestamptz,timestamp,date}';
    first boolean;
BEGIN
    PERFORM fraud.require_role('fraud_admin', 'fraud_operator');
    PERFORM fraud.check_target(target);
    PERFORM fraud.require_owner(target);
    PERFORM fraud.check_watch_column(target, 'event_time', event_time, times);
    IF entity IS NOT NULL THEN
        PERFORM fraud.check_watch_column(target, 'entity', entity,
            ARRAY(SELECT a.atttypid::regtype FROM pg_attribute AS a WHERE a.attrelid = target AND a.attname = entity));
    END IF;
    PERFORM fraud.check_watch_column(target, 'amount', amount,
        '{numeric,smallint,integer,bigint,real,double precision}');
    IF threshold <= 0 OR threshold >= 'Infinity' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'threshold must be a number greater than zero';
    END IF;

    IF dry_run THEN
        RETURN QUERY SELECT fraud.watch_plan(target);
        RETURN;
    END IF;

    IF EXISTS (SELECT FROM fraud.watch_statements(target)) THEN
        -- looked up again under the lock: somebody else may have done it meanwhile
        PERFORM fraud.run_on_table(target, '{}');
        PERFORM fraud.run_on_table(target, ARRAY(SELECT fraud.watch_statements(target)));
    END IF;

    IF amount IS NULL THEN
        SELECT a.attname INTO amount FROM pg_attribute AS a
         WHERE a.attrelid = target AND a.attname = 'amount' AND a.attnum > 0 AND NOT a.attisdropped
           AND a.atttypid IN ('numeric'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                              'float4'::regtype, 'float8'::regtype)
           AND NOT EXISTS (SELECT FROM fraud.watch_config AS w WHERE w.target = $1 AND w.amount IS NOT NULL);
    END IF;
    -- else who wants to change a rule alone would take it back first
    IF approval IS FALSE AND (SELECT w.approval FROM fraud.watch_config AS w WHERE w.target = $1)
       AND NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = fraud.outer_role()) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'only a superuser can take back that changes of rules need approval';
    END IF;
    first := NOT EXISTS (SELECT FROM fraud.watch_config AS w WHERE w.target = $1 AND w.active);
    INSERT INTO fraud.watch_config AS w
        (target, threshold, event_time, entity, amount, on_update, watched_by, approval)
    VALUES ($1, coalesce($2, 1), $3, $4, amount, coalesce($6, false), fraud.outer_role(), coalesce($8, false))
    ON CONFLICT ON CONSTRAINT watch_config_pkey DO UPDATE SET
        threshold = coalesce($2, w.threshold),
        event_time = coalesce($3, w.event_time),
        entity = coalesce($4, w.entity),
        amount = coalesce(excluded.amount, w.amount),
        on_update = coalesce($6, w.on_update),
        approval = coalesce($8, w.approval),
        active = true,
        watched_by = excluded.watched_by,
        watched_at = excluded.watched_at;
    IF first THEN
        RAISE NOTICE USING MESSAGE = format('rows of table %s are judged from now on', fraud.table_name(target)),
            HINT = format('To find frauds fast: CREATE INDEX%s ON %s (fraud_alert_id) WHERE is_fraud;',
                          CASE WHEN (SELECT c.relkind FROM pg_class AS c WHERE c.oid = target) = 'r'
                               THEN ' CONCURRENTLY' ELSE '' END, fraud.table_name(target));
    END IF;
    PERFORM pg_notify('pg_fraud', 'rule ' || fraud.table_name(target));
END
$$;
COMMENT ON FUNCTION fraud.watch(regclass, numeric, name, name, name, boolean, boolean, boolean) IS
    'Watches a table: adds the marks and the triggers that judge its rows
threshold: score from which a row is fraud (1); event_time, entity, amount: the columns that say when, who, how much; on_update: judge updates too (false); approval: changes of rules wait until another member of fraud_admin approves them (false). An option not given keeps its value. dry_run returns what would be done and does nothing.';

CREATE FUNCTION fraud.unwatch(target regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.require_role('fraud_admin', 'fraud_operator');
    PERFORM fraud.require_owner(target);
    PERFORM fraud.require_watched(target);
    PERFORM fraud.run_on_table(target, '{}');
    PERFORM fraud.run_on_table(target, ARRAY(SELECT fraud.unwatch_statements(target)));
    UPDATE fraud.watch_config AS w SET active = false WHERE w.target = $1;
    PERFORM pg_notify('pg_fraud', 'rule ' || fraud.table_name(target));
END
$$;
COMMENT ON FUNCTION fraud.unwatch(regclass) IS
    'Stops judging a table''s rows; its marks, rules, alerts and history stay';

CREATE FUNCTION fraud.require_watched(target regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM fraud.watch_config AS w WHERE w.target = $1 AND w.active) THEN
        PERFORM fraud.check_target(target);
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('table %s is not watched', fraud.table_name(target)),
            HINT = format('Watch it first: SELECT fraud.watch(%L).', fraud.table_name(target));
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.require_watched(regclass) IS 'Internal: raises an error unless the table is watched';

CREATE FUNCTION fraud.set_paused(target regclass, paused boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.require_role('fraud_admin', 'fraud_operator');
    PERFORM fraud.require_watched(target);
    UPDATE fraud.watch_config AS w SET paused = $2 WHERE w.target = $1 AND w.paused <> $2;
    PERFORM pg_notify('pg_fraud', 'rule ' || fraud.table_name(target));
END
$$;
COMMENT ON FUNCTION fraud.set_paused(regclass, boolean) IS 'Internal: common part of pause and resume';

CREATE FUNCTION fraud.pause(target regclass) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT fraud.set_paused(target, true)';
COMMENT ON FUNCTION fraud.pause(regclass) IS
    'Stores a watched table''s rows unjudged until resume; takes no lock on the table';
CREATE FUNCTION fraud.resume(target regclass) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT fraud.set_paused(target, false)';
COMMENT ON FUNCTION fraud.resume(regclass) IS 'Judges a watched table''s rows again';

CREATE VIEW fraud.watched AS
    SELECT w.target, w.threshold, w.event_time, w.entity, w.amount, w.on_update, w.paused,
           w.watched_by, w.watched_at, w.approval
      FROM fraud.watch_config AS w
     WHERE w.active;
COMMENT ON VIEW fraud.watched IS 'Tables whose rows are judged';
COMMENT ON COLUMN fraud.watched.target IS 'The table; a partitioned table stands for all its partitions';
COMMENT ON COLUMN fraud.watched.threshold IS 'A row is fraud when the scores of the live rules that fire add up to this';
COMMENT ON COLUMN fraud.watched.event_time IS 'Column that says when it happened';
COMMENT ON COLUMN fraud.watched.entity IS 'Column that says who (card, account)';
COMMENT ON COLUMN fraud.watched.amount IS 'Column of the money';
COMMENT ON COLUMN fraud.watched.on_update IS 'Whether an UPDATE is judged too';
COMMENT ON COLUMN fraud.watched.paused IS 'Rows are stored unjudged';
COMMENT ON COLUMN fraud.watched.watched_by IS 'Who called watch last';
COMMENT ON COLUMN fraud.watched.watched_at IS 'When that was';
COMMENT ON COLUMN fraud.watched.approval IS 'Changes of rules wait for a second person''s approval';

CREATE FUNCTION fraud.load_packed(target regclass, columns text[], kinds text, rows bytea) RETURNS bigint
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fraud_load_packed';
COMMENT ON FUNCTION fraud.load_packed(regclass, text[], text, bytea) IS
    'Internal: for the bridge; stores rows as COPY would, but in groups, and returns how many; they are in a form of the bridge''s own, kinds says how each column has come';
CREATE FUNCTION fraud.load_obstacle(target regclass) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'fraud_load_obstacle';
COMMENT ON FUNCTION fraud.load_obstacle(regclass) IS
    'Internal: for the bridge; why fraud.load_packed would refuse a table; NULL if it would not';
