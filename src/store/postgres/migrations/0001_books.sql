-- Organisations, projects, keys and the ledger. Times are Unix milliseconds in UTC, amounts pico-units (10^-12).

CREATE TABLE organisation (
    id         TEXT   PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL
);

-- Where nobody cares for organisations, there is one.
INSERT INTO organisation (id, name, created_ms) VALUES ('org_default', 'default', 0);

CREATE TABLE project (
    id              TEXT   PRIMARY KEY,
    organisation_id TEXT   NOT NULL REFERENCES organisation (id),
    name            TEXT   NOT NULL UNIQUE,
    created_ms      BIGINT NOT NULL,
    archived_ms     BIGINT
);

CREATE INDEX project_by_organisation ON project (organisation_id);

-- A key without a project is an administrator's.
CREATE TABLE api_key (
    id              TEXT   PRIMARY KEY,
    organisation_id TEXT   NOT NULL REFERENCES organisation (id),
    project_id      TEXT   REFERENCES project (id),
    name            TEXT   NOT NULL,
    secret_hash     BYTEA  NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    hint            TEXT   NOT NULL,
    models          TEXT,
    created_ms      BIGINT NOT NULL,
    expires_ms      BIGINT,
    revoked_ms      BIGINT,
    last_used_ms    BIGINT
);

CREATE INDEX api_key_by_project ON api_key (project_id);

-- An empty model stands for all of them together.
CREATE TABLE limit_set (
    scope    TEXT NOT NULL CHECK (scope IN ('organisation', 'project', 'key')),
    scope_id TEXT NOT NULL,
    model    TEXT NOT NULL,
    limits   TEXT NOT NULL,
    PRIMARY KEY (scope, scope_id, model)
);

CREATE FUNCTION refuse_to_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END
$$;

CREATE TABLE audit (
    id              TEXT   PRIMARY KEY,
    at_ms           BIGINT NOT NULL,
    organisation_id TEXT   NOT NULL,
    actor           TEXT   NOT NULL,
    action          TEXT   NOT NULL,
    target          TEXT   NOT NULL,
    detail          TEXT   NOT NULL
);

CREATE INDEX audit_by_organisation ON audit (organisation_id, id);

CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change();

-- The processes that serve: a row for each life of one.
CREATE TABLE replica (
    id         TEXT   PRIMARY KEY,
    name       TEXT   NOT NULL,
    started_ms BIGINT NOT NULL,
    seen_ms    BIGINT NOT NULL
) WITH (fillfactor = 50);

-- A correction is a row of its own.
CREATE TABLE charge (
    event_id          TEXT   PRIMARY KEY,
    request_id        TEXT   NOT NULL,
    attempt           BIGINT NOT NULL,
    project_id        TEXT   NOT NULL,
    key_id            TEXT   NOT NULL,
    end_user          TEXT,
    model             TEXT   NOT NULL,
    revision          TEXT   NOT NULL,
    worker            TEXT   NOT NULL,
    endpoint          TEXT   NOT NULL,
    class             TEXT   NOT NULL,
    state             TEXT   NOT NULL CHECK (state IN ('settled', 'absorbed', 'recovered')),
    source            TEXT   NOT NULL CHECK (source IN ('engine', 'counted', 'recovered')),
    outcome           TEXT   NOT NULL CHECK (outcome IN ('completed', 'cancelled', 'failed', 'lost')),
    prompt_tokens     BIGINT NOT NULL CHECK (prompt_tokens >= 0),
    cached_tokens     BIGINT NOT NULL CHECK (cached_tokens BETWEEN 0 AND prompt_tokens),
    completion_tokens BIGINT NOT NULL CHECK (completion_tokens >= 0),
    reasoning_tokens  BIGINT NOT NULL DEFAULT 0 CHECK (reasoning_tokens BETWEEN 0 AND completion_tokens),
    price_version     TEXT   NOT NULL,
    amount_pico       BIGINT NOT NULL CHECK (state <> 'absorbed' OR amount_pico = 0),
    started_ms        BIGINT NOT NULL,
    first_token_ms    BIGINT,
    ended_ms          BIGINT NOT NULL,
    -- The name of the replica that booked it, and the row that it corrects.
    replica           TEXT   NOT NULL,
    corrects          TEXT,
    UNIQUE (request_id, attempt)
);

CREATE INDEX charge_by_project ON charge (project_id, ended_ms);
CREATE INDEX charge_by_end ON charge (ended_ms);

CREATE TRIGGER charge_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON charge
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change();

-- How far unsettled attempts have come. The prices ride along, so that a recovery needs no config.
CREATE TABLE in_flight (
    request_id        TEXT   NOT NULL,
    attempt           BIGINT NOT NULL,
    replica_id        TEXT   NOT NULL,
    project_id        TEXT   NOT NULL,
    key_id            TEXT   NOT NULL,
    end_user          TEXT,
    model             TEXT   NOT NULL,
    revision          TEXT   NOT NULL,
    worker            TEXT   NOT NULL,
    endpoint          TEXT   NOT NULL,
    class             TEXT   NOT NULL,
    prompt_tokens     BIGINT NOT NULL,
    cached_tokens     BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    price_version     TEXT   NOT NULL,
    prompt_pico       BIGINT NOT NULL,
    cached_pico       BIGINT NOT NULL,
    completion_pico   BIGINT NOT NULL,
    request_pico      BIGINT NOT NULL,
    started_ms        BIGINT NOT NULL,
    first_token_ms    BIGINT,
    checkpoint_ms     BIGINT NOT NULL,
    PRIMARY KEY (request_id, attempt)
) WITH (fillfactor = 50);

-- What was spent on each day of UTC, kept in step with the ledger by the same transactions, for limits and budgets.
-- Amounts are summed in two halves of 32 bits: high * 2^32 + low.
CREATE TABLE spent (
    day_ms       BIGINT  NOT NULL,
    project_id   TEXT    NOT NULL,
    key_id       TEXT    NOT NULL,
    model        TEXT    NOT NULL,
    replica      TEXT    NOT NULL,
    requests     BIGINT  NOT NULL,
    tokens       BIGINT  NOT NULL,
    batch_tokens BIGINT  NOT NULL,
    high         BIGINT  NOT NULL,
    low          BIGINT  NOT NULL,
    PRIMARY KEY (project_id, day_ms, key_id, model, replica)
);

-- Closed periods. Each charge is in one invoice at most; one that comes late is in the next.
CREATE TABLE billing_period (
    start_ms  BIGINT  PRIMARY KEY,
    end_ms    BIGINT  NOT NULL,
    closed_ms BIGINT  NOT NULL
);

CREATE TABLE invoice (
    id           TEXT    PRIMARY KEY,
    project_id   TEXT    NOT NULL,
    project_name TEXT    NOT NULL,
    start_ms     BIGINT  NOT NULL REFERENCES billing_period (start_ms),
    end_ms       BIGINT  NOT NULL,
    closed_ms    BIGINT  NOT NULL,
    UNIQUE (project_id, start_ms)
);

CREATE TABLE invoiced (
    event_id   TEXT PRIMARY KEY,
    invoice_id TEXT NOT NULL REFERENCES invoice (id)
);

CREATE INDEX invoiced_by_invoice ON invoiced (invoice_id);

CREATE TRIGGER invoice_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON invoice
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change();

CREATE TRIGGER invoiced_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON invoiced
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change();

-- Slices of limits that replicas hold. Those of the dead count no longer, but for what they used of a minute.
CREATE TABLE slice (
    bucket     TEXT    NOT NULL,
    window_ms  BIGINT  NOT NULL,
    replica_id TEXT    NOT NULL,
    granted    BIGINT  NOT NULL,
    -- Of the dead: until when it counts.
    until_ms   BIGINT ,
    PRIMARY KEY (bucket, window_ms, replica_id)
) WITH (fillfactor = 50);
