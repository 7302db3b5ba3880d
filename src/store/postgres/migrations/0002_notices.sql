-- What operators are to be told by webhook: one notice for each subject.
CREATE TABLE notice (
    id         TEXT    PRIMARY KEY,
    subject    TEXT    NOT NULL UNIQUE,
    body       TEXT    NOT NULL,
    created_ms BIGINT  NOT NULL,
    tries      BIGINT  NOT NULL,
    -- When it is to be sent next; none, where that is over.
    next_ms    BIGINT
);

CREATE INDEX notice_by_next ON notice (next_ms) WHERE next_ms IS NOT NULL;
