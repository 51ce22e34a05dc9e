--
-- watch.sql: the watched tables
--

CREATE TABLE fraud.watch_config (
    target      regclass PRIMARY KEY,
    threshold   numeric NOT NULL DEFAULT 1 CHECK (threshold > 0),
    event_time  name,
    entity      name,
    amount      name,
    on_update   boolean NOT NULL DEFAULT false,
    paused      boolean NOT NULL DEFAULT false,
    watched_by  text NOT NULL,
    watched_at  timestamptz NOT NULL DEFAULT now()
);
