--
-- name.sql: names that watched tables have or had
--

-- History and ledger have a table's name at the time: names that watched tables
-- had before are kept, so that a renamed table keeps its rules' versions and its
-- alerts.  A name may be
-- there twice: a key would let one session's DDL wait for that of another.
CREATE TABLE fraud.table_names (
    target regclass NOT NULL,
    name   text NOT NULL
);
-- for rows to be deleted while a publication of all tables is there
ALTER TABLE fraud.table_names REPLICA IDENTITY FULL;
COMMENT ON TABLE fraud.table_names IS 'Names that watched tables have or had, with their schemas';
COMMENT ON COLUMN fraud.table_names.target IS 'The table';
COMMENT ON COLUMN fraud.table_names.name IS 'A name that it has or had';
SELECT pg_catalog.pg_extension_config_dump('fraud.table_names', '');

-- Must not fail: it would take the user's DDL with it, or a restore
CREATE FUNCTION fraud.before_ddl() RETURNS event_trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO fraud.table_names (target, name)
    SELECT w.target, fraud.table_name(w.target)
    FROM fraud.watch_config w
    WHERE fraud.table_name(w.target) IS NOT NULL AND NOT EXISTS (
        SELECT FROM fraud.table_names n
        WHERE n.target = w.target AND n.name = fraud.table_name(w.target));
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'could not keep the names of watched tables: %', sqlerrm;
END $$;
COMMENT ON FUNCTION fraud.before_ddl() IS
'Internal: event trigger: keeps the names of watched tables before one may be renamed';
CREATE EVENT TRIGGER pg_fraud_before_ddl ON ddl_command_start
    WHEN TAG IN ('ALTER TABLE', 'ALTER SCHEMA')
    EXECUTE FUNCTION fraud.before_ddl();
COMMENT ON EVENT TRIGGER pg_fraud_before_ddl IS
'Keeps the names of watched tables before one may be renamed';

CREATE FUNCTION fraud.same_table(name text) RETURNS text[]
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    WITH named AS (
        SELECT w.target FROM fraud.watch_config w WHERE fraud.table_name(w.target) = same_table.name
        UNION
        SELECT n.target FROM fraud.table_names n WHERE n.name = same_table.name)
    SELECT array_agg(a.name ORDER BY a.name) FROM (
        SELECT same_table.name
        UNION
        SELECT fraud.table_name(d.target) FROM named d
        UNION
        SELECT n.name FROM fraud.table_names n JOIN named d ON d.target = n.target) a(name)
$$;
COMMENT ON FUNCTION fraud.same_table(text) IS
'Internal: all names that the table of this name has or had, as history and ledger may have them.';
