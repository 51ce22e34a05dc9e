--
-- sink_option.sql: the options of sinks, checked when they are given
--

-- Complains about an option that the kind does not know.
CREATE FUNCTION fraud.check_sink_keys(kind text, options jsonb, known text[]) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    unknown text;
BEGIN
    SELECT k INTO unknown FROM jsonb_object_keys(options) AS k
     WHERE k <> ALL (known) ORDER BY k LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unknown option "%s" for a sink of kind "%s"', unknown, kind),
            HINT = format('Options are: %s.', array_to_string(known, ', '));
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.check_sink_keys(text, jsonb, text[]) IS 'Internal: refuses options that a kind of sink does not have';

-- Returns the text of an option, NULL when it is not given.
CREATE FUNCTION fraud.sink_text(options jsonb, option text, required boolean DEFAULT false) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT options ? option THEN
        IF required THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('option "%s" is missing', option);
        END IF;
        RETURN NULL;
    END IF;
    IF jsonb_typeof(options -> option) <> 'string' OR options ->> option = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "%s" must be a non-empty string', option);
    END IF;
    RETURN options ->> option;
END
$$;
COMMENT ON FUNCTION fraud.sink_text(jsonb, text, boolean) IS 'Internal: text of a sink''s option';

-- A secret is named, never written: the name is that of a file in the
-- directory of secrets, and nothing that looks like key material passes.
CREATE FUNCTION fraud.check_secret_name(option text, value text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF value IS NULL THEN
        RETURN;
    END IF;
    IF value ~ '^(whsec_|ya29\.|AIza|eyJ)' OR value !~ '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$' THEN
        -- the value itself is not repeated: it may be the secret
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "%s" must be the name of a secret, not the secret', option),
            DETAIL = 'A name has at most 64 letters, digits, dots, dashes and underscores, and does not begin with a dot or a dash.',
            HINT = 'Put the secret into a file of that name in the bridge''s directory of secrets (--secrets-dir).';
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.check_secret_name(text, text) IS 'Internal: refuses a literal secret where the name of one belongs';

CREATE FUNCTION fraud.check_sink_interval(options jsonb, option text, lowest interval) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET intervalstyle = 'postgres'
    AS $$
DECLARE
    written constant text := fraud.sink_text(options, option);
    parsed interval;
BEGIN
    IF written IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        parsed := written::interval;
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "%s" is not an interval: "%s"', option, written),
            HINT = 'Use for example "90 seconds" or "7 days".';
    END;
    IF parsed < lowest THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "%s" must be at least %s', option, lowest);
    END IF;
END
$$;
COMMENT ON FUNCTION fraud.check_sink_interval(jsonb, text, interval) IS 'Internal: checks an option that is a length of time';

-- Options that sinks of all kinds have.
CREATE FUNCTION fraud.check_sink_common(options jsonb) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF options ? 'events' AND (
        jsonb_typeof(options -> 'events') <> 'array'
        OR options -> 'events' = '[]'
        OR NOT options -> 'events' <@ '["alert", "review", "cleared"]'
        OR EXISTS (SELECT FROM jsonb_array_elements(options -> 'events') AS e WHERE jsonb_typeof(e) <> 'string'))
    THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "events" must be an array of "alert", "review" and "cleared"';
    END IF;
    PERFORM fraud.check_sink_interval(options, 'max_age', '1 second');
END
$$;
COMMENT ON FUNCTION fraud.check_sink_common(jsonb) IS 'Internal: checks the options that all kinds of sinks have';

CREATE FUNCTION fraud.check_bigquery_options(options jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    mode constant text := coalesce(fraud.sink_text(options, 'mode'), 'insert_all');
BEGIN
    PERFORM fraud.check_sink_keys('bigquery', options,
        '{table,mode,every,credentials,events,max_age}');
    IF fraud.sink_text(options, 'table', true) !~
        '^([a-z0-9.-]+:)?[a-z][a-z0-9-]{0,28}[a-z0-9]\.[A-Za-z0-9_]+\.[A-Za-z0-9_-]+$'
    THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "table" is not a BigQuery table: "%s"', options ->> 'table'),
            HINT = 'Use "project.dataset.table".';
    END IF;
    IF mode NOT IN ('storage_write', 'load', 'insert_all') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "mode" has no value "%s"', mode),
            HINT = 'Values are: insert_all, load, storage_write.';
    END IF;
    IF mode = 'load' THEN
        PERFORM fraud.check_sink_interval(options, 'every', '1 second');
    ELSIF options ? 'every' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "every" has no meaning in mode "%s"', mode);
    END IF;
    PERFORM fraud.check_secret_name('credentials', fraud.sink_text(options, 'credentials'));
    -- kept with the sink, so that a later default does not change it
    RETURN options || jsonb_build_object('mode', mode);
END
$$;
COMMENT ON FUNCTION fraud.check_bigquery_options(jsonb) IS 'Internal: checks and completes the options of a bigquery sink';

-- Key and value are expressions over the columns of fraud.alerts.  They may
-- use what a rule may use; the bridge evaluates them with its own rights.  The
-- first form below is no expression when the text closes what it did not open.
CREATE FUNCTION fraud.check_sink_expression(options jsonb, option text) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    expression constant text := fraud.sink_text(options, option);
BEGIN
    IF expression IS NULL THEN
        RETURN;
    END IF;
    PERFORM fraud.validate_rule('fraud.alerts', 'CASE WHEN true THEN ' || expression || ' END IS NOT NULL');
    PERFORM fraud.validate_rule('fraud.alerts', '(' || expression || ')::text IS NOT NULL');
EXCEPTION WHEN syntax_error_or_access_rule_violation OR feature_not_supported OR data_exception THEN
    RAISE EXCEPTION USING ERRCODE = SQLSTATE,
        MESSAGE = format('option "%s" is not a valid expression: %s', option, replace(SQLERRM, ' in a rule', '')),
        HINT = 'It is an expression over the columns of fraud.alerts, made of what rules are made of.';
END
$$;
COMMENT ON FUNCTION fraud.check_sink_expression(jsonb, text) IS 'Internal: checks an option that is an SQL expression over the columns of fraud.alerts';

CREATE FUNCTION fraud.check_kafka_options(options jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.check_sink_keys('kafka', options, '{topic,key,value,events,max_age}');
    IF fraud.sink_text(options, 'topic', true) !~ '^[A-Za-z0-9._-]{1,249}$'
        OR options ->> 'topic' IN ('.', '..')
    THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "topic" is not a name of a topic: "%s"', options ->> 'topic');
    END IF;
    PERFORM fraud.check_sink_expression(options, 'key');
    PERFORM fraud.check_sink_expression(options, 'value');
    RETURN options;
END
$$;
COMMENT ON FUNCTION fraud.check_kafka_options(jsonb) IS 'Internal: checks the options of a kafka sink';

-- Headers that carry credentials take {"secret": "name"} instead of a text.
CREATE FUNCTION fraud.check_webhook_headers(headers jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    header record;
BEGIN
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "headers" must be an object';
    END IF;
    FOR header IN SELECT key, value FROM jsonb_each(headers) LOOP
        IF header.key !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,128}$'
            OR lower(header.key) IN ('host', 'content-length', 'content-type', 'transfer-encoding', 'connection')
            OR lower(header.key) LIKE 'webhook-%'
        THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('header "%s" cannot be set', header.key);
        END IF;
        IF jsonb_typeof(header.value) = 'object' AND header.value ->> 'secret' IS NOT NULL
            AND header.value - 'secret' = '{}'
        THEN
            PERFORM fraud.check_secret_name('headers', header.value ->> 'secret');
        ELSIF jsonb_typeof(header.value) <> 'string' OR header.value #>> '{}' ~ '[^ -~]' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('header "%s" must be printable text, or {"secret": "name"}', header.key);
        ELSIF header.key ~* '(authorization|cookie|token|secret|password|api-?key|signature)' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('header "%s" must be the name of a secret, not the secret', header.key),
                HINT = 'Use {"secret": "name"}, and put the value into a file of that name in the bridge''s directory of secrets.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION fraud.check_webhook_headers(jsonb) IS 'Internal: checks the option "headers" of a webhook sink';

CREATE FUNCTION fraud.check_webhook_options(options jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM fraud.check_sink_keys('webhook', options, '{url,secret,headers,concurrency,events,max_age}');
    IF fraud.sink_text(options, 'url', true) !~* '^https?://[a-z0-9._\[\]:-]+(/[!-~]*)?$' THEN
        -- not repeated: user and password may stand in it
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "url" must be an http or https address without user and password';
    END IF;
    PERFORM fraud.check_secret_name('secret', fraud.sink_text(options, 'secret'));
    IF options ? 'headers' THEN
        PERFORM fraud.check_webhook_headers(options -> 'headers');
    END IF;
    IF options ? 'concurrency' AND (
        jsonb_typeof(options -> 'concurrency') <> 'number'
        OR options ->> 'concurrency' !~ '^[0-9]{1,2}$'
        OR (options ->> 'concurrency')::int NOT BETWEEN 1 AND 64)
    THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "concurrency" must be an integer from 1 to 64';
    END IF;
    RETURN options;
END
$$;
COMMENT ON FUNCTION fraud.check_webhook_options(jsonb) IS 'Internal: checks the options of a webhook sink';

-- Returns the options as they are to be kept, or complains.
CREATE FUNCTION fraud.check_sink_options(kind text, options jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF options IS NULL OR jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'options of a sink must be a JSON object';
    END IF;
    PERFORM fraud.check_sink_common(options);
    CASE kind
        WHEN 'bigquery' THEN RETURN fraud.check_bigquery_options(options);
        WHEN 'kafka' THEN RETURN fraud.check_kafka_options(options);
        WHEN 'webhook' THEN RETURN fraud.check_webhook_options(options);
        ELSE
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('unknown kind of sink "%s"', kind),
                HINT = 'Kinds are: bigquery, kafka, webhook.';
    END CASE;
END
$$;
COMMENT ON FUNCTION fraud.check_sink_options(text, jsonb) IS 'Internal: checks and completes the options of a sink';

CREATE FUNCTION fraud.check_sink_target(target regclass) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF target IS NULL
        OR EXISTS (SELECT FROM fraud.watch_config AS w WHERE w.target = check_sink_target.target)
    THEN
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = format('table "%s" is not watched', target),
        HINT = format('Use fraud.watch(%L) first.', target);
END
$$;
COMMENT ON FUNCTION fraud.check_sink_target(regclass) IS 'Internal: refuses a target that is not watched';
