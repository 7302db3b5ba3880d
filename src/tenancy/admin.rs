use jiff::Timestamp;
use rand::Rng;
use rand::distr::Alphanumeric;

use super::hash;
use crate::types::{
    Act, Actor, ApiKey, KeyId, LimitSet, Limits, Organisation, OrganisationId, Project, ProjectId,
    SecretHash, StoreError, TenantStore,
};

const SECRET_CHARACTERS: usize = 48;
const HINT_CHARACTERS: usize = 4;

/// Administrative acts in somebody's name. Each leaves a line in the audit log.
pub struct Admin<'a> {
    /// Where they take effect.
    pub store: &'a dyn TenantStore,
    /// Who acts.
    pub actor: Actor,
}

/// What a new key is to be.
#[derive(Debug, Clone, Default)]
pub struct KeyWish {
    /// What people call it. May be empty.
    pub name: String,
    /// The models that it may ask; any, where there is no list.
    pub models: Option<Vec<String>>,
    /// When it is no longer accepted.
    pub expires: Option<Timestamp>,
    /// Its own limits.
    pub limits: Limits,
}

/// A new key with its secret, which is shown this once and stored nowhere.
pub struct Made {
    /// All but the secret.
    pub key: ApiKey,
    /// What its holder sends.
    pub secret: String,
}

impl Admin<'_> {
    /// Makes an organisation.
    ///
    /// # Errors
    /// The name is taken, or the store failed.
    pub async fn create_organisation(&self, name: &str) -> Result<Organisation, StoreError> {
        let organisation = Organisation {
            id: OrganisationId::mint(),
            name: name.to_owned(),
            created: Timestamp::now(),
        };
        let act = Act::CreateOrganisation(organisation.clone());
        self.act(&organisation.id, act).await?;
        Ok(organisation)
    }

    /// Makes a project.
    ///
    /// # Errors
    /// The name is taken, or the store failed.
    pub async fn create_project(
        &self,
        organisation: &OrganisationId,
        name: &str,
        limits: Limits,
    ) -> Result<Project, StoreError> {
        let project = Project {
            id: ProjectId::mint(),
            organisation: organisation.clone(),
            name: name.to_owned(),
            created: Timestamp::now(),
            archived: None,
        };
        let act = Act::CreateProject {
            project: project.clone(),
            limits,
        };
        self.act(organisation, act).await?;
        Ok(project)
    }

    /// The project of this name, made where it isn't there.
    ///
    /// # Errors
    /// The store failed.
    pub async fn ensure_project(
        &self,
        organisation: &OrganisationId,
        name: &str,
    ) -> Result<Project, StoreError> {
        match self.store.find_project(name).await {
            Err(StoreError::NotFound(_)) => {}
            other => return other,
        }
        match self
            .create_project(organisation, name, Limits::default())
            .await
        {
            // Another process was faster.
            Err(StoreError::Exists(_)) => self.store.find_project(name).await,
            other => other,
        }
    }

    /// Gives a project another name.
    ///
    /// # Errors
    /// The name is taken, or the store failed.
    pub async fn rename_project(&self, project: &Project, name: &str) -> Result<(), StoreError> {
        let act = Act::RenameProject {
            project: project.id.clone(),
            name: name.to_owned(),
        };
        self.act(&project.organisation, act).await
    }

    /// Ends a project: its keys are accepted no longer, and what it used stays in the books.
    ///
    /// # Errors
    /// The store failed.
    pub async fn archive_project(&self, project: &Project) -> Result<(), StoreError> {
        let act = Act::ArchiveProject(project.id.clone());
        self.act(&project.organisation, act).await
    }

    /// Makes a key for a project.
    ///
    /// # Errors
    /// The store failed.
    pub async fn create_key(&self, project: &Project, wish: KeyWish) -> Result<Made, StoreError> {
        self.make_key(&project.organisation, Some(project.id.clone()), wish)
            .await
    }

    /// Makes a key for an administrator.
    ///
    /// # Errors
    /// The store failed.
    pub async fn create_admin_key(
        &self,
        organisation: &OrganisationId,
        wish: KeyWish,
    ) -> Result<Made, StoreError> {
        self.make_key(organisation, None, wish).await
    }

    async fn make_key(
        &self,
        organisation: &OrganisationId,
        project: Option<ProjectId>,
        wish: KeyWish,
    ) -> Result<Made, StoreError> {
        let (secret, hash) = secret();
        let key = ApiKey {
            id: KeyId::mint(),
            organisation: organisation.clone(),
            project,
            name: wish.name,
            hint: hint(&secret),
            models: wish.models,
            created: Timestamp::now(),
            expires: wish.expires,
            revoked: None,
            last_used: None,
        };
        let act = Act::CreateKey {
            key: Box::new(key.clone()),
            hash,
            limits: wish.limits,
        };
        self.act(organisation, act).await?;
        Ok(Made { key, secret })
    }

    /// Takes a key back at once.
    ///
    /// # Errors
    /// It was taken back before, or the store failed.
    pub async fn revoke_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.act(&key.organisation, Act::RevokeKey(key.id.clone()))
            .await
    }

    /// Makes a successor of a key, with its name, models and limits. The old one is accepted until then.
    ///
    /// # Errors
    /// It was taken back before, or the store failed.
    pub async fn rotate_key(&self, old: &ApiKey, until: Timestamp) -> Result<Made, StoreError> {
        let (secret, hash) = secret();
        let key = ApiKey {
            id: KeyId::mint(),
            hint: hint(&secret),
            created: Timestamp::now(),
            last_used: None,
            ..old.clone()
        };
        let act = Act::RotateKey {
            old: old.id.clone(),
            until,
            new: Box::new(key.clone()),
            hash,
        };
        self.act(&old.organisation, act).await?;
        Ok(Made { key, secret })
    }

    /// Sets the limits of a scope, in the place of those that it had for the same model.
    ///
    /// # Errors
    /// The scope isn't there, or the store failed.
    pub async fn set_limits(
        &self,
        organisation: &OrganisationId,
        set: LimitSet,
    ) -> Result<(), StoreError> {
        self.act(organisation, Act::SetLimits(set)).await
    }

    async fn act(&self, organisation: &OrganisationId, act: Act) -> Result<(), StoreError> {
        self.store.act(&self.actor, organisation, &act).await
    }
}

fn secret() -> (String, SecretHash) {
    let random: String = rand::rng()
        .sample_iter(Alphanumeric)
        .take(SECRET_CHARACTERS)
        .map(char::from)
        .collect();
    let secret = format!("fb-{random}");
    let hash = hash(&secret);
    (secret, hash)
}

fn hint(secret: &str) -> String {
    secret[secret.len() - HINT_CHARACTERS..].to_owned()
}
