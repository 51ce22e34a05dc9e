--
-- sink.sql: where frauds go, and how far each sink has come
--

CREATE TABLE fraud.sink_config (
    name          text PRIMARY KEY,
    kind          text NOT NULL CHECK (kind OPERATOR(pg_catalog.=) ANY (ARRAY['bigquery', 'kafka', 'webhook'])),
    options       jsonb NOT NULL DEFAULT '{}',
    target        regclass,
    start         text NOT NULL DEFAULT 'latest',
    paused        boolean NOT NULL DEFAULT false,
    stopped_at    timestamptz,
    stopped_reason text,
    stopped_hint  text,
    last_error    text,
    last_error_at timestamptz,
    changed_by    text NOT NULL,
    changed_at    timestamptz NOT NULL DEFAULT now()
);
