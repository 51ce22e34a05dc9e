--
-- ask.sql: what the rules say of a row or a message
--

CREATE FUNCTION fraud.is_fraud("row" record) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'fraud_is_fraud';
COMMENT ON FUNCTION fraud.is_fraud(record) IS
'Do the current rules call this row of a watched table fraud?
Call it with its schema, fraud.is_fraud(p): where the function is not on the search_path, is_fraud(p) is the column p.is_fraud.';

CREATE FUNCTION fraud.explain("row" record,
    OUT rule text, OUT version int, OUT mode text, OUT fired boolean,
    OUT score numeric, OUT condition text, OUT observed jsonb)
RETURNS SETOF record
LANGUAGE C STABLE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'fraud_explain';
COMMENT ON FUNCTION fraud.explain(record) IS
'What each live or shadow rule says of this row of a watched table, and the values that it looks at
fired is null where the rule is broken.';

CREATE FUNCTION fraud.check(target text, message jsonb,
    OUT is_fraud boolean, OUT score numeric, OUT rules text[], OUT reasons jsonb)
LANGUAGE C STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'fraud_check';
COMMENT ON FUNCTION fraud.check(text, jsonb) IS
'What the rules of a watched table say of a transaction that is not stored
The fields of the message are named as the columns; others are passed over; a column without a field has its default where that has no effects, else null.  reasons: for each rule that fired its version, score, condition and the values that it looked at.';

CREATE FUNCTION fraud_api.check(target text, message jsonb,
    OUT is_fraud boolean, OUT score numeric, OUT rules text[], OUT reasons jsonb)
LANGUAGE C STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'fraud_check';
COMMENT ON FUNCTION fraud_api.check(text, jsonb) IS
'Judge a transaction without storing it
The fields of the message are named as the columns of the watched table; others are passed over; a column without a field has its default where that has no effects, else null.  reasons: for each rule that fired its version, score, condition and the values that it looked at.';
