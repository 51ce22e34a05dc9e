-- Every built-in function that a rule may call, on hostile values: no error
-- escapes, no row is lost
CREATE SCHEMA hostile;
SET search_path = hostile;
SET client_min_messages = warning;
CREATE TABLE f(i2 smallint, i4 int, i8 bigint, f4 real, f8 float8, n numeric, t text, vc varchar, bc bpchar, nm name, c "char", b bytea, bo bool, d date, ti time, tz timetz, ts timestamp, tstz timestamptz, iv interval, j json, jb jsonb, jp jsonpath, ip inet, ci cidr, m macaddr, m8 macaddr8, u uuid, bi bit(8), vb varbit, o oid, ia int[], ta text[], r4 int4range, nr numrange, tr tstzrange, mr int4multirange, p point, bx box, ls lseg, li line, pa path, po polygon, cr circle, tv tsvector, tq tsquery, x xid, x8 xid8, lsn pg_lsn, ti2 tid, mo money, fa float8[], f4a real[], na numeric[], jba jsonb[], ba "char"[]);
INSERT INTO f DEFAULT VALUES;
INSERT INTO f (i2,i4,i8,f4,f8,n,t,vc,bc,nm,c,b,bo,d,ti,tz,ts,tstz,iv,j,jb,jp,ip,ci,m,m8,u,bi,vb,o,ia,ta,r4,nr,tr,mr,p,bx,ls,li,pa,po,cr,tv,tq,x,x8,lsn,ti2,mo,fa,f4a,na,jba,ba) VALUES
(32767,2147483647,9223372036854775807,'NaN','Infinity','NaN',repeat('(',300),'\','','x','x','\x00ff','t','infinity','24:00','23:59:59-15:59','infinity','-infinity','178000000 years','{"a":1}','{"a":[1,{"b":null}]}','$.**{1 to 3}','::/0','0.0.0.0/0','ff:ff:ff:ff:ff:ff','ff:ff:ff:ff:ff:ff:ff:ff','ffffffff-ffff-ffff-ffff-ffffffffffff',B'11111111',B'',4294967295,'{}','{}','empty','(,)','empty','{}','(NaN,Infinity)','((NaN,1),(1,1))','[(0,0),(0,0)]','{1,0,0}','[(0,0)]','((0,0))','<(0,0),0>','','','4294967295','18446744073709551615','FFFFFFFF/FFFFFFFF','(4294967295,65535)','-92233720368547758.08','{NaN}','{}','{NaN}','{}','{}'),
(-32768,-2147483648,-9223372036854775808,'-Infinity','-1e308','-1e1000','','a%_\','   ','','','','f','4713-01-01 BC','00:00','00:00+15:59','4713-01-01 BC','294276-12-31','-178000000 years','[]','[]','$','255.255.255.255','10.0.0.0/8','0:0:0:0:0:0','00:00:00:00:00:00:00:00','00000000-0000-0000-0000-000000000000',B'00000000',B'1',0,'[-2147483648:-2147483647]={1,NULL}','[5:6]={a,NULL}','[-2147483648,2147483647)','[NaN,NaN]','(-infinity,infinity)','{(,)}','(0,0)','((0,0),(0,0))','[(1e300,1e300),(-1e300,-1e300)]','{0,1,1e300}','((1e300,0),(0,1e300))','((1e300,1e300),(0,0),(5,5))','<(1e300,1e300),1e300>','a:1A b:2,3B','a & !b | c:*','0','0','0/0','(0,0)','92233720368547758.07','{{1,2},{3,4}}','{1,2,3,4}','{1,NULL}','{"1"}','{A}'),
(1,1,1,1,1,1.5,'abc','abc','abc','abc','a','\x616263','t','2026-01-01','12:00','12:00Z','2026-01-01','2026-01-01Z','1 day','"x"','"x"','$.a','10.0.0.1/8','10.0.0.0/8','1:2:3:4:5:6','01:02:03:04:05:06:07:08','a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',B'10101010',B'101',16384,'{1,2,3}','{a,b}','[1,5)','[1,5]','[2026-01-01,2026-02-01)','{[1,3),[5,9)}','(1,2)','((1,2),(3,4))','[(1,2),(3,4)]','{1,2,3}','((1,2),(3,4),(5,0))','((1,2),(3,4),(5,0))','<(1,2),3>','''a'' b','a','5','5','16/B374D848','(1,1)','1.00','{1,2}','{0.1,0.2,0.4,1.0}','{1,2}','{"{}"}','{A,B}');

-- a column for each type of argument
CREATE TABLE col(typ regtype, colname text);
INSERT INTO col VALUES ('int2','i2'),('int4','i4'),('int8','i8'),('float4','f4'),('float8','f8'),('numeric','n'),('text','t'),('varchar','vc'),('bpchar','bc'),('name','nm'),('"char"','c'),('bytea','b'),('bool','bo'),('date','d'),('time','ti'),('timetz','tz'),('timestamp','ts'),('timestamptz','tstz'),('interval','iv'),('json','j'),('jsonb','jb'),('jsonpath','jp'),('inet','ip'),('cidr','ci'),('macaddr','m'),('macaddr8','m8'),('uuid','u'),('bit','bi'),('varbit','vb'),('oid','o'),('int4[]','ia'),('text[]','ta'),('int4range','r4'),('int4multirange','mr'),('point','p'),('box','bx'),('lseg','ls'),('line','li'),('path','pa'),('polygon','po'),('circle','cr'),('tsvector','tv'),('tsquery','tq'),('xid','x'),('xid8','x8'),('pg_lsn','lsn'),('tid','ti2'),('money','mo'),('float8[]','fa'),('float4[]','f4a'),('numeric[]','na'),('anyarray','ia'),('anyelement','i4'),('anynonarray','i4'),('anycompatible','i4'),('anycompatiblearray','ia'),('anyrange','r4'),('anymultirange','mr'),('"any"','i4'),('jsonb[]','jba'),('"char"[]','ba'),('regconfig','''simple'''),('anycompatiblenonarray','i4'),('anycompatiblerange','r4');

-- each function as a condition
CREATE TABLE conditions AS
SELECT p.oid, format('pg_catalog.%I(%s) IS NOT NULL', proname,
    (SELECT string_agg(CASE WHEN provariadic <> 0 AND o = pronargs AND c.colname IN ('ia', 'ta', 'jba') THEN 'VARIADIC ' ELSE '' END || c.colname, ', ' ORDER BY o)
     FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a(t, o) JOIN col c ON c.typ = a.t)) AS condition, NULL::text AS result
FROM pg_proc p
WHERE p.oid < 12000 AND prokind = 'f' AND NOT proretset AND proname <> 'repeat'
  AND prorettype NOT IN ('internal'::regtype, 'cstring'::regtype)
  AND pronargs = (SELECT count(*) FROM unnest(p.proargtypes::oid[]) a(t) JOIN col c ON c.typ = a.t);
DO $$
DECLARE
    c record; seen bigint;
BEGIN
    FOR c IN SELECT * FROM conditions LOOP
        BEGIN
            SELECT rows_seen INTO seen FROM fraud.backtest('f', c.condition);
            UPDATE conditions SET result = CASE WHEN seen = 4 THEN 'ran' ELSE 'lost rows' END WHERE oid = c.oid;
        EXCEPTION WHEN OTHERS THEN
            UPDATE conditions SET result = CASE WHEN SQLERRM LIKE '%cannot be used in a rule' THEN 'refused' ELSE SQLERRM END WHERE oid = c.oid;
        END;
    END LOOP;
END $$;
SELECT condition, result FROM conditions WHERE result NOT IN ('ran', 'refused') ORDER BY condition;
SELECT count(*) FILTER (WHERE result = 'ran') > 1000 AS many_ran, count(*) FILTER (WHERE result = 'refused') > 200 AS many_refused FROM conditions;
-- volatile functions are refused all
SELECT condition FROM conditions c JOIN pg_proc p USING (oid) WHERE p.provolatile = 'v' AND result <> 'refused';
-- all of them as rules of one table
CREATE TABLE g (LIKE f);
SELECT fraud.watch('g');
SELECT count(fraud.add_rule('g', 'r' || oid, condition, score => 0.001)) > 1000 AS many FROM conditions WHERE result = 'ran';
INSERT INTO g SELECT * FROM f;
SELECT count(*), count(is_fraud) AS judged, count(*) FILTER (WHERE cardinality(fraud_rules) > 500) AS fired FROM g;
SELECT count(*) FILTER (WHERE evaluated = 4) > 1000 AS evaluated, count(*) FILTER (WHERE failed > 0) > 100 AS failed,
       count(*) FILTER (WHERE state <> 'active') AS broken
FROM fraud.rules WHERE target = 'g'::regclass;
SET client_min_messages = error;
DROP SCHEMA hostile CASCADE;
DELETE FROM fraud.rule_failures WHERE table_name = 'hostile.g';
