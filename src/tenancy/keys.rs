use jiff::Timestamp;
use rand::Rng;
use rand::distr::Alphanumeric;

use super::hash;
use crate::types::{KeyId, NewKey, Project, ProjectId, StoreError, TenantStore};

const SECRET_CHARACTERS: usize = 48;
const HINT_CHARACTERS: usize = 4;

/// Makes a project.
///
/// # Errors
/// The name is taken or the store failed.
pub async fn create_project(store: &dyn TenantStore, name: &str) -> Result<Project, StoreError> {
    let project = Project {
        id: ProjectId::mint(),
        name: name.to_owned(),
        created_s: Timestamp::now().as_second(),
    };
    store.create_project(&project).await?;
    Ok(project)
}

/// The project of this name, made where it isn't there.
///
/// # Errors
/// The store failed.
pub async fn ensure_project(store: &dyn TenantStore, name: &str) -> Result<Project, StoreError> {
    match store.find_project(name).await {
        Err(StoreError::NotFound(_)) => {}
        other => return other,
    }
    match create_project(store, name).await {
        // Another process was faster.
        Err(StoreError::Exists(_)) => store.find_project(name).await,
        other => other,
    }
}

/// Makes a key for a project and gives its secret, which is shown this once and stored nowhere.
///
/// # Errors
/// The store failed.
pub async fn create_key(store: &dyn TenantStore, project: &Project) -> Result<String, StoreError> {
    let random: String = rand::rng()
        .sample_iter(Alphanumeric)
        .take(SECRET_CHARACTERS)
        .map(char::from)
        .collect();
    let secret = format!("fb-{random}");
    store
        .create_key(&NewKey {
            id: KeyId::mint(),
            project: project.id.clone(),
            hash: hash(&secret),
            hint: secret[secret.len() - HINT_CHARACTERS..].to_owned(),
        })
        .await?;
    Ok(secret)
}
