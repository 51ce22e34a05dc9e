--
-- lock.sql: the locks that say who owns a partition or a sink
--

-- Anybody who may connect can take an advisory lock.  One that somebody else
-- has taken is left to him: from then on another key stands for the name.
CREATE TABLE fraud.moved_locks (
    name     text PRIMARY KEY,
    key      bigint NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE fraud.moved_locks IS 'Locks whose usual keys were held by sessions that are no bridge''s';
COMMENT ON COLUMN fraud.moved_locks.name IS 'What the lock is for: source/NAME/PARTITION, sink/NAME, instance/UUID';
COMMENT ON COLUMN fraud.moved_locks.key IS 'Key of the advisory lock that stands for it now';
COMMENT ON COLUMN fraud.moved_locks.moved_at IS 'When it was moved last';

CREATE FUNCTION fraud.lock_key(name text) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT m.key FROM fraud.moved_locks m WHERE m.name = lock_key.name),
                    hashtextextended('pg_fraud/' || name, 0))
$$;
COMMENT ON FUNCTION fraud.lock_key(text) IS
'Internal: key of the advisory lock that stands for a name.';

CREATE FUNCTION fraud.partition_key(source text, kafka_partition int) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT fraud.lock_key('source/' || source || '/' || kafka_partition)
$$;
COMMENT ON FUNCTION fraud.partition_key(text, int) IS
'Internal: key of the advisory lock that the writer of a source''s partition holds.';

CREATE FUNCTION fraud.sink_key(name text) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT fraud.lock_key('sink/' || name)
$$;
COMMENT ON FUNCTION fraud.sink_key(text) IS
'Internal: key of the advisory lock that the one connection holds which runs the sink.';

-- Take a lock, if it is free.  That it still stands for the name is looked at
-- when it is held: a holder is no reason to move a lock, unless a stranger.
CREATE FUNCTION fraud.take_lock(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    taken bigint := fraud.lock_key(name);
BEGIN
    IF NOT pg_try_advisory_lock(taken) THEN
        RETURN false;
    END IF;
    LOCK TABLE fraud.moved_locks IN SHARE MODE;
    IF fraud.lock_key(name) <> taken THEN
        PERFORM pg_advisory_unlock(taken);
        RETURN false;
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION fraud.take_lock(text) IS
'Internal: takes the lock that stands for a name, until the connection ends; false if another connection has it.';

CREATE FUNCTION fraud.lock_holders(name text, OUT pid int, OUT role name, OUT is_bridge boolean, OUT instance uuid)
RETURNS SETOF record
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.pid, a.usename, coalesce(pg_has_role(a.usesysid, 'fraud_bridge', 'MEMBER'), false),
           substring(a.application_name
               from '^fraudbridge ([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$')::uuid
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND (l.classid::bigint << 32 | l.objid::bigint) = fraud.lock_key(lock_holders.name)
$$;
COMMENT ON FUNCTION fraud.lock_holders(text) IS
'Internal: sessions that hold the lock that stands for a name, whether they have the rights of fraud_bridge, and which bridge they say they are.';

-- Let another lock stand for a name if one holds it who is no bridge
CREATE FUNCTION fraud.move_lock(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stranger record;
BEGIN
    IF NOT EXISTS (SELECT FROM fraud.lock_holders(name) h WHERE NOT h.is_bridge) THEN
        RETURN false;
    END IF;
    -- looked at again when nobody can be taking the lock
    LOCK TABLE fraud.moved_locks IN EXCLUSIVE MODE;
    PERFORM pg_stat_clear_snapshot();
    SELECT h.* INTO stranger FROM fraud.lock_holders(name) h WHERE NOT h.is_bridge LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO fraud.moved_locks AS m (name, key)
    VALUES (move_lock.name, hashtextextended(gen_random_uuid()::text, 0))
    ON CONFLICT ON CONSTRAINT moved_locks_pkey DO UPDATE
    SET key = excluded.key, moved_at = now();
    RAISE WARNING 'the lock of "%" was held by a session that is no bridge', name
        USING DETAIL = CASE WHEN stranger.pid IS NULL THEN 'A prepared transaction holds it.'
                            ELSE format('Process %s of role "%s" holds it.', stranger.pid, stranger.role) END
                       || ' Another lock is used from now on.';
    RETURN true;
END $$;
COMMENT ON FUNCTION fraud.move_lock(text) IS
'Internal: lets another lock stand for a name if a session holds it that has not the rights of fraud_bridge; says whose.';

-- Make a lock free that nobody holds by right
CREATE FUNCTION fraud.evict_holder(name text, lease interval, owner uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    holder record;
BEGIN
    PERFORM pg_stat_clear_snapshot();
    IF fraud.move_lock(name) THEN
        RETURN false;
    END IF;
    SELECT h.pid, coalesce(h.instance, owner) AS instance INTO holder
    FROM fraud.lock_holders(name) h;
    IF holder.instance IS NULL OR EXISTS (
        SELECT FROM fraud.bridge_instances b
        WHERE b.instance = holder.instance
          AND b.heartbeat_at >= clock_timestamp() - lease) THEN
        RETURN false;
    END IF;
    RETURN pg_terminate_backend(holder.pid);
END $$;
COMMENT ON FUNCTION fraud.evict_holder(text, interval, uuid) IS
'Internal: common part of evict and evict_sink.';
