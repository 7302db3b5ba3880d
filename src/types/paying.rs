/// When a request's client pays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Paying {
    /// For what it has got, piece by piece, whatever happens then.
    #[default]
    AsItGoes,
    /// For the whole answer or not at all: it sees nothing before the end.
    AtTheEnd,
    /// It has paid already, for an answer that this server lost.
    Already,
}
