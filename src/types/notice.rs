use std::time::Duration;

/// Something that an operator is told of by webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its id, the same each time that it is sent.
    pub id: String,
    /// What is sent: JSON.
    pub body: String,
    /// How often it was tried, this time included.
    pub tries: u32,
}

/// How sending a notice went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was taken.
    Taken,
    /// It wasn't: it is to be sent again after this time.
    Again(Duration),
    /// It wasn't, time and again: no more.
    Never,
}
