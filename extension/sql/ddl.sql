--
-- ddl.sql: DDL on tables under rules: warnings, and tables that are dropped
--

-- Warns of rules that no longer compile after DDL on their table.  Must not
-- fail: it would take the user's DDL with it, or a restore.
CREATE FUNCTION fraud.after_ddl() RETURNS event_trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    item record;
BEGIN
    IF NOT EXISTS (SELECT FROM fraud.watch_config) THEN
        RETURN;
    END IF;
    FOR item IN
        SELECT w.target, c.role, c.name
          FROM fraud.watch_config AS w
          CROSS JOIN LATERAL (VALUES ('event_time', w.event_time), ('entity', w.entity), ('amount', w.amount))
               AS c(role, name)
         WHERE w.active AND c.name IS NOT NULL
           AND w.target IN (SELECT d.objid FROM pg_event_trigger_ddl_commands() AS d)
           AND NOT EXISTS (SELECT FROM pg_attribute AS a
                            WHERE a.attrelid = w.target AND a.attname = c.name AND NOT a.attisdropped)
         ORDER BY w.target, c.role
    LOOP
        RAISE WARNING USING MESSAGE = format('table %s has lost its %s, column "%s"',
                                             fraud.table_name(item.target), item.role, item.name),
            HINT = format('Name another one: SELECT fraud.watch(%L, %s => ...).',
                          fraud.table_name(item.target), item.role);
    END LOOP;
    FOR item IN
        SELECT r.name, r.target, e.error
          FROM fraud.rule_config AS r
          CROSS JOIN LATERAL (SELECT fraud.rule_error(r.target, r.condition) AS error OFFSET 0) AS e
         WHERE r.mode <> 'off' AND e.error IS NOT NULL
           AND EXISTS (
               SELECT FROM pg_event_trigger_ddl_commands() AS c
                WHERE c.objid = r.target OR c.classid = 'pg_type'::regclass
                   OR c.classid = 'pg_class'::regclass
                      AND EXISTS (SELECT FROM pg_partition_ancestors(c.objid) AS a WHERE a.relid = r.target))
         ORDER BY r.target, r.name
    LOOP
        RAISE WARNING USING MESSAGE = format('rule "%s" of table %s is broken: %s',
                                             item.name, fraud.table_name(item.target), item.error),
            HINT = 'Rows are judged by the other rules.  Mend it with fraud.alter_rule.';
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'could not check the rules after the change: %', SQLERRM;
END
$$;
COMMENT ON FUNCTION fraud.after_ddl() IS 'Internal: event trigger: warns of rules that no longer compile';
CREATE EVENT TRIGGER pg_fraud_after_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER TYPE', 'ALTER DOMAIN')
    EXECUTE FUNCTION fraud.after_ddl();
COMMENT ON EVENT TRIGGER pg_fraud_after_ddl IS 'Warns of rules that a change of their table has broken';

-- Forgets tables that were dropped; history and ledger stay.
CREATE FUNCTION fraud.after_drop() RETURNS event_trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET quote_all_identifiers = off
    AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT o.objid, format('%I.%I', o.schema_name, o.object_name) AS name
          FROM pg_event_trigger_dropped_objects() AS o
         WHERE o.classid = 'pg_class'::regclass AND o.objsubid = 0
           AND EXISTS (SELECT FROM fraud.watch_config AS w WHERE w.target::oid = o.objid)
    LOOP
        INSERT INTO fraud.rule_versions (table_name, name, version, action, changed_by, actor, changed_at)
        SELECT item.name, r.name,
               1 + greatest(r.version, (SELECT max(v.version) FROM fraud.rule_versions AS v
                                         WHERE v.table_name = ANY (fraud.same_table(item.name)) AND v.name = r.name)),
               'drop', fraud.outer_role(), fraud.actor(), clock_timestamp()
          FROM fraud.rule_config AS r WHERE r.target::oid = item.objid;
        DELETE FROM fraud.rule_counters AS c USING fraud.rule_config AS r
         WHERE r.id = c.rule AND r.target::oid = item.objid;
        DELETE FROM fraud.rule_brakes AS b WHERE b.target::oid = item.objid;
        DELETE FROM fraud.rule_config AS r WHERE r.target::oid = item.objid;
        DELETE FROM fraud.watch_config AS w WHERE w.target::oid = item.objid;
        IF to_regprocedure('fraud.forget_target(oid)') IS NOT NULL THEN
            PERFORM fraud.forget_target(item.objid);
        END IF;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'could not forget a dropped table: %', SQLERRM;
END
$$;
COMMENT ON FUNCTION fraud.after_drop() IS 'Internal: event trigger: forgets tables that were dropped';
CREATE EVENT TRIGGER pg_fraud_after_drop ON sql_drop
    EXECUTE FUNCTION fraud.after_drop();
COMMENT ON EVENT TRIGGER pg_fraud_after_drop IS 'Forgets tables that were dropped';
