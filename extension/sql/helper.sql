--
-- helper.sql: functions for rules
--
-- A rule calls them as fraud.luhn(card_number) or luhn(card_number).  None
-- but hour_in raises an error; what they cannot make sense of gives null.
--

CREATE FUNCTION fraud.distance_km(lat1 float8, lon1 float8, lat2 float8, lon2 float8)
RETURNS float8
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fraud_helper_distance_km';
COMMENT ON FUNCTION fraud.distance_km(float8, float8, float8, float8) IS
'Great-circle distance in kilometres of two places given in degrees
The haversine formula (R. W. Sinnott, Virtues of the Haversine, 1984) with the mean Earth radius 6371.0088 km (IUGG).  Null for places that are not on Earth.';

CREATE FUNCTION fraud.luhn(number text) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fraud_helper_luhn';
COMMENT ON FUNCTION fraud.luhn(text) IS
'Is the check digit of this card number right?
The algorithm of ISO/IEC 7812-1, annex B.  Spaces and hyphens are passed over; false for what is not 2 to 19 digits.';

CREATE FUNCTION fraud.card_brand(number text) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fraud_helper_card_brand';
COMMENT ON FUNCTION fraud.card_brand(text) IS
'amex, diners, discover, jcb, maestro, mastercard, mir, unionpay or visa, by the first six digits of a card number
The ranges of issuer identification numbers (ISO/IEC 7812) as the schemes publish them.  The digits after the sixth may be masked.';

CREATE FUNCTION fraud.email_domain(address text) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fraud_helper_email_domain';
COMMENT ON FUNCTION fraud.email_domain(text) IS
'The domain of an e-mail address in lower case
What follows the last @ (RFC 5321), without a final dot; null if nothing is on one of its sides.';

CREATE FUNCTION fraud.ip_in(address text, range inet) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fraud_helper_ip_in';
COMMENT ON FUNCTION fraud.ip_in(text, inet) IS
'Is this IP address, kept as text, in a range such as 10.0.0.0/8 or 2001:db8::/32?
CIDR notation (RFC 4632, RFC 4291); an IPv4 address mapped into IPv6 counts as IPv4.  Null if it is no address.';

CREATE FUNCTION fraud.hour_in(moment timestamptz, zone text) RETURNS int
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fraud_helper_hour_in';
COMMENT ON FUNCTION fraud.hour_in(timestamptz, text) IS
'The hour, 0 to 23, that the clocks of a time zone show
Zones of the IANA time zone database, such as Europe/Paris; an error if there is no such zone.';

CREATE FUNCTION fraud.similar(a text, b text, most int) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'fraud_helper_similar';
COMMENT ON FUNCTION fraud.similar(text, text, int) IS
'Do two texts differ by at most so many insertions, deletions and substitutions of characters?
The distance of V. I. Levenshtein (1966), which is computed no further than the bound.  Texts of more than 255 characters are similar only if they are equal.';
