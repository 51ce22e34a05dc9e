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
