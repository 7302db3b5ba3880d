-- Organisations, keys with an end, limits, the audit log, and who booked what.

CREATE TABLE organisation (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Where nobody cares for organisations, there is one.
INSERT INTO organisation (id, name, created_ms) VALUES ('org_default', 'default', 0);

-- Keys first: they refer to projects, which are rebuilt.
CREATE TABLE api_key_before AS SELECT * FROM api_key;
DROP TABLE api_key;
CREATE TABLE project_before AS SELECT * FROM project;
DROP TABLE project;

CREATE TABLE project (
    id              TEXT    PRIMARY KEY,
    organisation_id TEXT    NOT NULL REFERENCES organisation (id),
    name            TEXT    NOT NULL UNIQUE,
    created_ms      INTEGER NOT NULL,
    archived_ms     INTEGER
) STRICT, WITHOUT ROWID;

INSERT INTO project (id, organisation_id, name, created_ms)
SELECT id, 'org_default', name, created_ms FROM project_before;
DROP TABLE project_before;

CREATE INDEX project_by_organisation ON project (organisation_id);

-- A key without a project is an administrator's.
CREATE TABLE api_key (
    id              TEXT    PRIMARY KEY,
    organisation_id TEXT    NOT NULL REFERENCES organisation (id),
    project_id      TEXT    REFERENCES project (id),
    name            TEXT    NOT NULL,
    secret_hash     BLOB    NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    hint            TEXT    NOT NULL,
    models          TEXT,
    created_ms      INTEGER NOT NULL,
    expires_ms      INTEGER,
    revoked_ms      INTEGER,
    last_used_ms    INTEGER
) STRICT, WITHOUT ROWID;

INSERT INTO api_key (id, organisation_id, project_id, name, secret_hash, hint, created_ms)
SELECT id, 'org_default', project_id, '', secret_hash, hint, created_ms FROM api_key_before;
DROP TABLE api_key_before;

CREATE INDEX api_key_by_project ON api_key (project_id);

-- An empty model stands for all of them together.
CREATE TABLE limit_set (
    scope    TEXT NOT NULL CHECK (scope IN ('organisation', 'project', 'key')),
    scope_id TEXT NOT NULL,
    model    TEXT NOT NULL,
    limits   TEXT NOT NULL,
    PRIMARY KEY (scope, scope_id, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    id              TEXT    PRIMARY KEY,
    at_ms           INTEGER NOT NULL,
    organisation_id TEXT    NOT NULL,
    actor           TEXT    NOT NULL,
    action          TEXT    NOT NULL,
    target          TEXT    NOT NULL,
    detail          TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX audit_by_organisation ON audit (organisation_id, id);

CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

-- The processes that serve: a row for each life of one.
CREATE TABLE replica (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL,
    started_ms INTEGER NOT NULL,
    seen_ms    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE in_flight ADD COLUMN replica_id TEXT NOT NULL DEFAULT '';
ALTER TABLE in_flight ADD COLUMN request_pico INTEGER NOT NULL DEFAULT 0;

-- The name of the replica that booked it, and the row that it corrects.
ALTER TABLE charge ADD COLUMN replica TEXT NOT NULL DEFAULT '';
ALTER TABLE charge ADD COLUMN corrects TEXT;

CREATE INDEX charge_by_end ON charge (ended_ms);

-- What was spent on each day of UTC, kept in step with the ledger by the same transactions, for limits and budgets.
-- Amounts are summed in two halves of 32 bits: high * 2^32 + low.
CREATE TABLE spent (
    day_ms       INTEGER NOT NULL,
    project_id   TEXT    NOT NULL,
    key_id       TEXT    NOT NULL,
    model        TEXT    NOT NULL,
    replica      TEXT    NOT NULL,
    requests     INTEGER NOT NULL,
    tokens       INTEGER NOT NULL,
    batch_tokens INTEGER NOT NULL,
    high         INTEGER NOT NULL,
    low          INTEGER NOT NULL,
    PRIMARY KEY (project_id, day_ms, key_id, model, replica)
) STRICT, WITHOUT ROWID;

INSERT INTO spent
SELECT ended_ms - ended_ms % 86400000, project_id, key_id, model, '', count(*),
       sum(prompt_tokens + completion_tokens),
       sum(CASE WHEN class = 'batch' THEN prompt_tokens + completion_tokens ELSE 0 END),
       sum(amount_pico >> 32), sum(amount_pico & 4294967295)
FROM charge WHERE state <> 'absorbed' GROUP BY 1, 2, 3, 4;

-- Closed periods. Each charge is in one invoice at most; one that comes late is in the next.
CREATE TABLE billing_period (
    start_ms  INTEGER PRIMARY KEY,
    end_ms    INTEGER NOT NULL,
    closed_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE invoice (
    id           TEXT    PRIMARY KEY,
    project_id   TEXT    NOT NULL,
    project_name TEXT    NOT NULL,
    start_ms     INTEGER NOT NULL REFERENCES billing_period (start_ms),
    end_ms       INTEGER NOT NULL,
    closed_ms    INTEGER NOT NULL,
    UNIQUE (project_id, start_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE invoiced (
    event_id   TEXT PRIMARY KEY,
    invoice_id TEXT NOT NULL REFERENCES invoice (id)
) STRICT, WITHOUT ROWID;

CREATE INDEX invoiced_by_invoice ON invoiced (invoice_id);

CREATE TRIGGER invoice_is_never_changed BEFORE UPDATE ON invoice
BEGIN
    SELECT RAISE(ABORT, 'what is invoiced is append-only');
END;

CREATE TRIGGER invoice_is_never_deleted BEFORE DELETE ON invoice
BEGIN
    SELECT RAISE(ABORT, 'what is invoiced is append-only');
END;

CREATE TRIGGER invoiced_is_never_changed BEFORE UPDATE ON invoiced
BEGIN
    SELECT RAISE(ABORT, 'what is invoiced is append-only');
END;

CREATE TRIGGER invoiced_is_never_deleted BEFORE DELETE ON invoiced
BEGIN
    SELECT RAISE(ABORT, 'what is invoiced is append-only');
END;

-- Slices of limits that replicas hold. Those of the dead count no longer, but for what they used of a minute.
CREATE TABLE slice (
    bucket     TEXT    NOT NULL,
    window_ms  INTEGER NOT NULL,
    replica_id TEXT    NOT NULL,
    granted    INTEGER NOT NULL,
    -- Of the dead: until when it counts.
    until_ms   INTEGER,
    PRIMARY KEY (bucket, window_ms, replica_id)
) STRICT, WITHOUT ROWID;
