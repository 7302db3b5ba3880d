use jiff::Timestamp;

use super::{KeyId, LimitSet, Limits, OrganisationId, ProjectId, Serving};

/// The SHA-256 of a key's secret: all that is ever stored of it.
pub type SecretHash = [u8; 32];

/// A customer, or a department: it has projects, and administrators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organisation {
    /// Its id, for ever.
    pub id: OrganisationId,
    /// Its name, unique.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

impl Organisation {
    /// The id of the one that every store has: the operator's own, where nobody cares for organisations.
    pub const DEFAULT: &'static str = "org_default";
}

/// A tenant: what is used is served to a project, limited by it and billed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its id, for ever.
    pub id: ProjectId,
    /// Whose it is.
    pub organisation: OrganisationId,
    /// Its name, unique among all projects, so that it may stand for the id.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// When its keys stopped being accepted, for ever.
    pub archived: Option<Timestamp>,
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its public name.
    pub id: KeyId,
    /// Whose it is.
    pub organisation: OrganisationId,
    /// The project that pays for what it asks. An administrator's key has none, and asks no model.
    pub project: Option<ProjectId>,
    /// What people call it. May be empty.
    pub name: String,
    /// The last characters of the secret, by which people tell keys apart.
    pub hint: String,
    /// The models that it may ask; any, where there is no list.
    pub models: Option<Vec<String>>,
    /// When it was made.
    pub created: Timestamp,
    /// When it is no longer accepted. A key that is rotated ends with the overlap.
    pub expires: Option<Timestamp>,
    /// When it was taken back.
    pub revoked: Option<Timestamp>,
    /// When it was last shown, to the minute.
    pub last_used: Option<Timestamp>,
}

/// Who holds a key, and what is known of them: all that a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The key itself.
    pub key: ApiKey,
    /// What people call its project; empty for an administrator's key.
    pub project_name: String,
    /// Whether its project was archived.
    pub archived: bool,
    /// What it must keep to: its own limits, its project's and its organisation's.
    pub limits: Vec<LimitSet>,
}

/// One administrative act. It is carried out and written into the audit log at once, or not at all.
#[derive(Debug, Clone)]
pub enum Act {
    /// A new organisation.
    CreateOrganisation(Organisation),
    /// A new project.
    CreateProject {
        /// All of it.
        project: Project,
        /// What it must keep to from its first request on.
        limits: Limits,
    },
    /// Another name for a project.
    RenameProject {
        /// Which.
        project: ProjectId,
        /// Its new name.
        name: String,
    },
    /// Its keys are accepted no longer. What it used stays in the books.
    ArchiveProject(ProjectId),
    /// A new key.
    CreateKey {
        /// All but its secret.
        key: Box<ApiKey>,
        /// The hash of its secret.
        hash: SecretHash,
        /// What it must keep to from its first request on.
        limits: Limits,
    },
    /// A key is taken back at once.
    RevokeKey(KeyId),
    /// A key gets a successor, and is accepted for a while longer.
    RotateKey {
        /// The old one.
        old: KeyId,
        /// When it is accepted no longer.
        until: Timestamp,
        /// The new one; the old one's own limits are taken over.
        new: Box<ApiKey>,
        /// The hash of its secret.
        hash: SecretHash,
    },
    /// Limits in the place of those that stood for this scope and model.
    SetLimits(LimitSet),
    /// Other revisions of a model serve.
    Serve {
        /// Its name in the audit log.
        event: &'static str,
        /// What serves from now on, if its version is one more than that which stands.
        next: Serving,
    },
}

impl Act {
    /// Its name in the audit log, in the form of OpenAI's event types.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateOrganisation(_) => "organization.created",
            Self::CreateProject { .. } => "project.created",
            Self::RenameProject { .. } => "project.updated",
            Self::ArchiveProject(_) => "project.archived",
            Self::CreateKey { .. } => "api_key.created",
            Self::RevokeKey(_) => "api_key.deleted",
            Self::RotateKey { .. } => "api_key.rotated",
            Self::SetLimits(_) => "rate_limit.updated",
            Self::Serve { event, .. } => event,
        }
    }

    /// What it was done to.
    #[must_use]
    pub fn target(&self) -> &str {
        match self {
            Self::CreateOrganisation(organisation) => organisation.id.as_str(),
            Self::CreateProject { project, .. } => project.id.as_str(),
            Self::RenameProject { project, .. } | Self::ArchiveProject(project) => project.as_str(),
            Self::CreateKey { key, .. } => key.id.as_str(),
            Self::RevokeKey(key) | Self::RotateKey { old: key, .. } => key.as_str(),
            Self::SetLimits(set) => &set.id,
            Self::Serve { next, .. } => &next.model,
        }
    }

    /// What an auditor wants to know of it. It holds no secret, nor a hash of one.
    #[must_use]
    pub fn detail(&self) -> serde_json::Value {
        use serde_json::json;
        match self {
            Self::CreateOrganisation(organisation) => json!({"name": organisation.name}),
            Self::CreateProject { project, limits } => {
                json!({"name": project.name, "limits": limits})
            }
            Self::RenameProject { name, .. } => json!({"name": name}),
            Self::ArchiveProject(_) | Self::RevokeKey(_) => json!({}),
            Self::CreateKey { key, limits, .. } => json!({
                "name": key.name, "project_id": key.project, "models": key.models,
                "expires_at": key.expires.map(Timestamp::as_second), "limits": limits,
            }),
            Self::RotateKey { until, new, .. } => {
                json!({"successor": new.id, "accepted_until": until.as_second()})
            }
            Self::SetLimits(set) => json!({
                "scope": set.scope.as_str(), "model": set.model, "limits": set.limits,
            }),
            Self::Serve { next, .. } => json!({
                "revision": next.revision, "previous": next.previous, "canary": next.canary, "shadow": next.shadow,
            }),
        }
    }
}

/// Who does an administrative act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Whoever runs the command line on the server's machine.
    CommandLine,
    /// The server itself, at its start.
    Server,
    /// The holder of an administrator's key.
    Key(KeyId),
}

impl Actor {
    /// Its name in the audit log.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::CommandLine => "cli",
            Self::Server => "server",
            Self::Key(key) => key.as_str(),
        }
    }
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// Names the line (UUID version 7, so lines sort by time).
    pub id: String,
    /// When it was done.
    pub at: Timestamp,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// More of it.
    pub detail: serde_json::Value,
}
