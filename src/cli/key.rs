use std::io::{Write, stdout};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::limits::{LimitArguments, LimitChange};
use super::project::{ALL, ensure_organisation};
use super::time::duration;
use crate::app::DEFAULT_ORGANISATION;
use crate::tenancy::{Admin, KeyWish, Made};
use crate::types::{Actor, ApiKey, KeyId, KeysOf, Scope, Store};

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key, and print its secret, which is shown this once
    Create(Box<CreateArguments>),
    /// Print every key's id, project and the end of its secret
    List {
        /// Of one project alone: its name or id
        #[arg(long)]
        project: Option<String>,
    },
    /// Make a successor of a key and print its secret; the old key is accepted for a while longer
    Rotate {
        /// The key's id
        key: String,
        /// How long: 24h, 30m, 7d
        #[arg(long, default_value = "24h", value_parser = duration)]
        overlap: SignedDuration,
    },
    /// Take a key back at once
    Revoke {
        /// The key's id
        key: String,
    },
    /// Print the limits of a key, or set them: those that are not given end
    Limit {
        /// The key's id
        key: String,
        #[command(flatten)]
        change: Box<LimitChange>,
    },
}

#[derive(Args)]
pub(super) struct CreateArguments {
    /// The project that pays: its name or id
    #[arg(long, required_unless_present = "admin")]
    project: Option<String>,
    /// For an administrator, who makes projects and keys and asks no models; of the project's organisation
    #[arg(long)]
    admin: bool,
    /// What people call it
    #[arg(long, default_value = "")]
    name: String,
    /// How long it is accepted: 90d, 12h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires_in: Option<SignedDuration>,
    /// A model that it may ask, and no other; may be given several times
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    #[command(flatten)]
    limits: LimitArguments,
}

pub(super) async fn run(command: KeyCommand, store: &dyn Store) -> Result<()> {
    let admin = Admin {
        store,
        actor: Actor::CommandLine,
    };
    let mut out = stdout().lock();
    match command {
        KeyCommand::Create(arguments) => {
            writeln!(out, "{}", create(&admin, *arguments).await?.secret)?;
        }
        KeyCommand::List { project } => {
            let of = match project {
                Some(project) => KeysOf::Project(store.find_project(&project).await?.id),
                None => KeysOf::All,
            };
            let projects = store.projects(None, true, &ALL).await?;
            for key in store.keys(&of, &ALL).await? {
                let project = projects
                    .iter()
                    .find(|project| Some(&project.id) == key.project.as_ref());
                let project = project.map_or("(admin)", |project| &project.name);
                writeln!(
                    out,
                    "{}  {project}  fb-...{}{}",
                    key.id,
                    key.hint,
                    notes(&key)
                )?;
            }
        }
        KeyCommand::Rotate { key, overlap } => {
            let old = store.find_key(&key.into()).await?;
            let until = Timestamp::now() + overlap;
            writeln!(out, "{}", admin.rotate_key(&old, until).await?.secret)?;
        }
        KeyCommand::Revoke { key } => {
            admin
                .revoke_key(&store.find_key(&key.into()).await?)
                .await?;
        }
        KeyCommand::Limit { key, change } => {
            let key = store.find_key(&KeyId::from(key)).await?;
            let id = key.id.as_str().to_owned();
            change
                .apply(&admin, &key.organisation, Scope::Key, id, &mut out)
                .await?;
        }
    }
    Ok(())
}

async fn create(admin: &Admin<'_>, arguments: CreateArguments) -> Result<Made> {
    let wish = KeyWish {
        name: arguments.name,
        models: Some(arguments.models).filter(|models| !models.is_empty()),
        expires: arguments.expires_in.map(|time| Timestamp::now() + time),
        limits: arguments.limits.into(),
    };
    let project = match &arguments.project {
        Some(project) => Some(admin.store.find_project(project).await?),
        None => None,
    };
    Ok(match (arguments.admin, project) {
        (true, Some(project)) => admin.create_admin_key(&project.organisation, wish).await?,
        (true, None) => {
            let organisation = ensure_organisation(admin, DEFAULT_ORGANISATION).await?;
            admin.create_admin_key(&organisation.id, wish).await?
        }
        (false, Some(project)) => admin.create_key(&project, wish).await?,
        (false, None) => return Err(anyhow!("--project or --admin is needed")),
    })
}

fn notes(key: &ApiKey) -> String {
    let mut notes = String::new();
    if !key.name.is_empty() {
        notes += &format!("  {:?}", key.name);
    }
    if let Some(end) = key.expires {
        let word = if end <= Timestamp::now() {
            "expired"
        } else {
            "until"
        };
        notes += &format!("  {word} {end:.0}");
    }
    notes
}
