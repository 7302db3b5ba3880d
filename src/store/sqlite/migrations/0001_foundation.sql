-- Projects, keys and the ledger. Times are Unix milliseconds in UTC, amounts pico-units (10^-12).

CREATE TABLE project (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
    id          TEXT    PRIMARY KEY,
    project_id  TEXT    NOT NULL REFERENCES project (id),
    secret_hash BLOB    NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    hint        TEXT    NOT NULL,
    created_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX api_key_by_project ON api_key (project_id);

-- Append-only: a correction is a row of its own.
CREATE TABLE charge (
    event_id          TEXT    PRIMARY KEY,
    request_id        TEXT    NOT NULL,
    attempt           INTEGER NOT NULL,
    project_id        TEXT    NOT NULL,
    key_id            TEXT    NOT NULL,
    end_user          TEXT,
    model             TEXT    NOT NULL,
    revision          TEXT    NOT NULL,
    worker            TEXT    NOT NULL,
    endpoint          TEXT    NOT NULL,
    class             TEXT    NOT NULL,
    state             TEXT    NOT NULL CHECK (state IN ('settled', 'absorbed', 'recovered')),
    source            TEXT    NOT NULL CHECK (source IN ('engine', 'counted', 'recovered')),
    outcome           TEXT    NOT NULL CHECK (outcome IN ('completed', 'cancelled', 'failed', 'lost')),
    prompt_tokens     INTEGER NOT NULL CHECK (prompt_tokens >= 0),
    cached_tokens     INTEGER NOT NULL CHECK (cached_tokens BETWEEN 0 AND prompt_tokens),
    completion_tokens INTEGER NOT NULL CHECK (completion_tokens >= 0),
    reasoning_tokens  INTEGER NOT NULL DEFAULT 0 CHECK (reasoning_tokens BETWEEN 0 AND completion_tokens),
    price_version     TEXT    NOT NULL,
    amount_pico       INTEGER NOT NULL CHECK (state <> 'absorbed' OR amount_pico = 0),
    started_ms        INTEGER NOT NULL,
    first_token_ms    INTEGER,
    ended_ms          INTEGER NOT NULL,
    UNIQUE (request_id, attempt)
) STRICT, WITHOUT ROWID;

CREATE INDEX charge_by_project ON charge (project_id, ended_ms);

CREATE TRIGGER charge_is_never_changed BEFORE UPDATE ON charge
BEGIN
    SELECT RAISE(ABORT, 'a charge is append-only');
END;

CREATE TRIGGER charge_is_never_deleted BEFORE DELETE ON charge
BEGIN
    SELECT RAISE(ABORT, 'a charge is append-only');
END;

-- How far unsettled attempts have come. The prices ride along, so that a recovery needs no config.
CREATE TABLE in_flight (
    request_id        TEXT    NOT NULL,
    attempt           INTEGER NOT NULL,
    project_id        TEXT    NOT NULL,
    key_id            TEXT    NOT NULL,
    end_user          TEXT,
    model             TEXT    NOT NULL,
    revision          TEXT    NOT NULL,
    worker            TEXT    NOT NULL,
    endpoint          TEXT    NOT NULL,
    class             TEXT    NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    cached_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    price_version     TEXT    NOT NULL,
    prompt_pico       INTEGER NOT NULL,
    cached_pico       INTEGER NOT NULL,
    completion_pico   INTEGER NOT NULL,
    started_ms        INTEGER NOT NULL,
    first_token_ms    INTEGER,
    checkpoint_ms     INTEGER NOT NULL,
    PRIMARY KEY (request_id, attempt)
) STRICT, WITHOUT ROWID;
