-- Files of projects, whole or in parts, and batches of requests.
CREATE TABLE file (
    id         TEXT    PRIMARY KEY,
    project_id TEXT    NOT NULL,
    -- The upload that it is a part of, and once that is complete the file, with its place in it.
    upload_id  TEXT,
    part_of    TEXT,
    position   INTEGER,
    state      TEXT    NOT NULL CHECK (state IN ('coming', 'part', 'used', 'ready', 'gone')),
    filename   TEXT    NOT NULL,
    purpose    TEXT    NOT NULL,
    bytes      INTEGER  NOT NULL CHECK (bytes >= 0),
    created_ms INTEGER  NOT NULL,
    expires_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX file_by_project ON file (project_id, id);
CREATE INDEX file_by_upload ON file (upload_id) WHERE upload_id IS NOT NULL;
CREATE INDEX file_by_whole ON file (part_of) WHERE part_of IS NOT NULL;
CREATE INDEX file_by_end ON file (expires_ms) WHERE expires_ms IS NOT NULL;
CREATE INDEX file_gone ON file (id) WHERE state = 'gone';

CREATE TABLE file_piece (
    file_id TEXT   NOT NULL REFERENCES file (id),
    piece   INTEGER NOT NULL,
    content BLOB   NOT NULL,
    PRIMARY KEY (file_id, piece)
) STRICT;

CREATE TABLE upload (
    id         TEXT   PRIMARY KEY,
    project_id TEXT   NOT NULL,
    file_id    TEXT   NOT NULL,
    filename   TEXT   NOT NULL,
    purpose    TEXT   NOT NULL,
    mime_type  TEXT   NOT NULL,
    bytes      INTEGER NOT NULL,
    status     TEXT   NOT NULL CHECK (status IN ('pending', 'completed', 'cancelled', 'expired')),
    created_ms INTEGER NOT NULL,
    until_ms   INTEGER NOT NULL,
    -- For how long the file is kept, in seconds.
    keep_s     INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE batch (
    id              TEXT   PRIMARY KEY,
    organisation_id TEXT   NOT NULL,
    project_id      TEXT   NOT NULL,
    key_id          TEXT   NOT NULL,
    endpoint        TEXT   NOT NULL,
    input_id        TEXT   NOT NULL,
    output_id       TEXT,
    errors_id       TEXT,
    metadata        TEXT,
    keep_s          INTEGER,
    status          TEXT   NOT NULL,
    faults          TEXT   NOT NULL,
    lines           INTEGER NOT NULL,
    completed       INTEGER NOT NULL,
    failed          INTEGER NOT NULL,
    created_ms      INTEGER NOT NULL,
    expires_ms      INTEGER NOT NULL,
    in_progress_ms  INTEGER,
    finalizing_ms   INTEGER,
    ended_ms        INTEGER,
    cancelling_ms   INTEGER,
    -- The life of the replica that works on it, and until when no other does.
    held_by         TEXT   NOT NULL DEFAULT '',
    held_until_ms   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE INDEX batch_by_project ON batch (project_id, id);
CREATE INDEX batch_open ON batch (id) WHERE ended_ms IS NULL;

-- The lines that were begun. What came of them goes once the files of answers are written.
CREATE TABLE batch_line (
    batch_id   TEXT   NOT NULL REFERENCES batch (id),
    line       INTEGER NOT NULL,
    request_id TEXT   NOT NULL,
    custom_id  TEXT   NOT NULL,
    -- 1, where an answer was charged and lost.
    paid       INTEGER NOT NULL,
    status     INTEGER,
    body       TEXT,
    PRIMARY KEY (batch_id, line)
) STRICT;

-- Requests that clients may send again under the same key, with the answer once it is there.
CREATE TABLE repeatable (
    project_id    TEXT   NOT NULL,
    key           TEXT   NOT NULL,
    fingerprint   TEXT   NOT NULL,
    request_id    TEXT   NOT NULL,
    -- The first request under the key, which names what it makes.
    first_id      TEXT   NOT NULL,
    created_ms    INTEGER NOT NULL,
    -- Until when whoever runs it is to be heard of.
    held_until_ms INTEGER NOT NULL,
    kind          TEXT,
    body          BLOB,
    -- 1, where an answer was charged and lost.
    paid          INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (project_id, key)
) STRICT;

CREATE INDEX repeatable_by_age ON repeatable (created_ms);
