use std::sync::{PoisonError, RwLock};

use super::ReplicaId;

/// A process that serves, in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// This life of it.
    pub id: ReplicaId,
    /// What operators call it; the same in each of its lives.
    pub name: String,
}

/// The life that this process is in. It gets another one when the others took it for dead.
#[derive(Debug)]
pub struct Membership(RwLock<Replica>);

impl Membership {
    /// The first life of a process of this name.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self(RwLock::new(Replica {
            id: ReplicaId::mint(),
            name,
        }))
    }

    /// The life that it is in.
    #[must_use]
    pub fn now(&self) -> Replica {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether it is in this life.
    #[must_use]
    pub fn is(&self, id: &ReplicaId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).id == *id
    }

    /// Begins another life, and gives it.
    pub fn renew(&self) -> Replica {
        let mut replica = self.0.write().unwrap_or_else(PoisonError::into_inner);
        replica.id = ReplicaId::mint();
        replica.clone()
    }
}
