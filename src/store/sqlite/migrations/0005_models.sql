-- What models were and are, as their config said: a revision is never changed.
CREATE TABLE revision (
    model      TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    definition TEXT    NOT NULL,
    made_ms    INTEGER NOT NULL,
    PRIMARY KEY (model, id)
) STRICT;

-- Which of them serve.
CREATE TABLE serving (
    model   TEXT    NOT NULL PRIMARY KEY,
    -- Counts the changes.
    version INTEGER NOT NULL,
    state   TEXT    NOT NULL
) STRICT;

-- How they did on suites.
CREATE TABLE evaluation (
    id            TEXT    NOT NULL PRIMARY KEY,
    at_ms         INTEGER NOT NULL,
    suite         TEXT    NOT NULL,
    suite_version TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    revision      TEXT    NOT NULL,
    score         REAL    NOT NULL,
    low           REAL    NOT NULL,
    high          REAL    NOT NULL,
    items         INTEGER NOT NULL,
    failed        INTEGER NOT NULL,
    report        TEXT    NOT NULL
) STRICT;

CREATE INDEX evaluation_by_revision ON evaluation (revision, suite_version);

-- Why a request that asked for `auto` came to this model.
ALTER TABLE in_flight ADD COLUMN route TEXT;
ALTER TABLE charge ADD COLUMN route TEXT;
