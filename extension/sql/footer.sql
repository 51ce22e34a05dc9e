--
-- footer.sql: what must come last
--

SELECT fraud.withhold_grants();

-- a gateway that is running learns of the new schema
NOTIFY pgrst, 'reload schema';
