-- Everything that the extension makes says what it is
WITH members AS (
    SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.refclassid = 'pg_extension'::regclass AND e.extname = 'pg_fraud' AND d.deptype = 'e')
SELECT pg_describe_object(m.classid, m.objid, 0) AS without_comment
FROM members m
WHERE obj_description(m.objid, m.classid::regclass::name) IS NULL
  -- tables bring types and sequences along
  AND m.classid <> 'pg_type'::regclass
  AND NOT (m.classid = 'pg_class'::regclass
           AND (SELECT relkind IN ('S', 'i') FROM pg_class c WHERE c.oid = m.objid))
ORDER BY 1;
SELECT c.oid::regclass AS relation, a.attname AS without_comment
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace IN ('fraud'::regnamespace, 'fraud_api'::regnamespace)
  AND c.relkind IN ('r', 'v', 'p') AND a.attnum > 0 AND NOT a.attisdropped
  AND col_description(c.oid, a.attnum) IS NULL
  AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
              AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.oid::regclass::text, a.attnum;

-- These functions are for people; all others say first that they are not
\pset format unaligned
\pset tuples_only on
SELECT DISTINCT n.nspname || '.' || p.proname
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('fraud', 'fraud_api')
  AND obj_description(p.oid, 'pg_proc') !~ '^Internal: ' ORDER BY 1;

-- Of the internal ones, each role may call what its views and programs need
SELECT r.rolname, p.oid::regprocedure
FROM pg_proc p, aclexplode(p.proacl) e JOIN pg_roles r ON r.oid = e.grantee
WHERE p.pronamespace = 'fraud'::regnamespace AND e.grantee <> p.proowner
  AND obj_description(p.oid, 'pg_proc') ~ '^Internal: ' ORDER BY 1, p.oid::regprocedure::text COLLATE "C";
