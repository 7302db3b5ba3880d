use std::io::{Write, stdout};

use anyhow::{Result, ensure};
use clap::Subcommand;

use super::limits::{LimitArguments, LimitChange};
use crate::app::DEFAULT_ORGANISATION;
use crate::tenancy::Admin;
use crate::types::{Actor, Organisation, Page, Scope, Store, StoreError};

#[derive(Subcommand)]
pub(super) enum ProjectCommand {
    /// Make a project, and print its id
    Create {
        /// Unique among projects; it serves as the id everywhere
        name: String,
        /// Whose it is; made where it isn't there
        #[arg(long, value_name = "NAME", default_value = DEFAULT_ORGANISATION)]
        organisation: String,
        #[command(flatten)]
        limits: Box<LimitArguments>,
    },
    /// Print every project's id and name
    List {
        /// Those that were archived, too
        #[arg(long)]
        archived: bool,
    },
    /// Give a project another name
    Rename {
        /// Its name or id
        project: String,
        /// Its new name
        name: String,
    },
    /// End a project: its keys are accepted no longer, what it used stays in the books
    Archive {
        /// Its name or id
        project: String,
    },
    /// Print the limits of a project, or set them: those that are not given end
    Limit {
        /// The project, by its name or id
        #[arg(required_unless_present = "organisation")]
        project: Option<String>,
        /// All projects of an organisation together instead
        #[arg(long, value_name = "NAME", conflicts_with = "project")]
        organisation: Option<String>,
        #[command(flatten)]
        change: Box<LimitChange>,
    },
}

pub(super) async fn run(command: ProjectCommand, store: &dyn Store) -> Result<()> {
    let admin = Admin {
        store,
        actor: Actor::CommandLine,
    };
    let mut out = stdout().lock();
    match command {
        ProjectCommand::Create {
            name,
            organisation,
            limits,
        } => {
            check_name("project", &name)?;
            check_name("organisation", &organisation)?;
            let organisation = ensure_organisation(&admin, &organisation).await?;
            let project = admin
                .create_project(&organisation.id, &name, (*limits).into())
                .await?;
            writeln!(out, "{}", project.id)?;
        }
        ProjectCommand::List { archived } => {
            for project in store.projects(None, archived, &ALL).await? {
                let mark = if project.archived.is_some() {
                    "  (archived)"
                } else {
                    ""
                };
                writeln!(out, "{}  {}{mark}", project.id, project.name)?;
            }
        }
        ProjectCommand::Rename { project, name } => {
            check_name("project", &name)?;
            let project = store.find_project(&project).await?;
            admin.rename_project(&project, &name).await?;
        }
        ProjectCommand::Archive { project } => {
            admin
                .archive_project(&store.find_project(&project).await?)
                .await?;
        }
        ProjectCommand::Limit {
            project: Some(project),
            change,
            ..
        } => {
            let project = store.find_project(&project).await?;
            let id = project.id.as_str().to_owned();
            change
                .apply(&admin, &project.organisation, Scope::Project, id, &mut out)
                .await?;
        }
        ProjectCommand::Limit {
            project: None,
            organisation,
            change,
        } => {
            let name = organisation.as_deref().unwrap_or(DEFAULT_ORGANISATION);
            let organisation = store.find_organisation(name).await?.id;
            let id = organisation.as_str().to_owned();
            change
                .apply(&admin, &organisation, Scope::Organisation, id, &mut out)
                .await?;
        }
    }
    Ok(())
}

/// Whole lists are printed.
pub(super) const ALL: Page = Page {
    after: None,
    limit: u32::MAX,
};

pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    let plain = !name.trim().is_empty() && !name.chars().any(char::is_control);
    ensure!(
        plain && name.len() <= 128,
        "the name of a {what} has 1 to 128 printable bytes"
    );
    Ok(())
}

pub(super) async fn ensure_organisation(
    admin: &Admin<'_>,
    name: &str,
) -> Result<Organisation, StoreError> {
    match admin.store.find_organisation(name).await {
        Err(StoreError::NotFound(_)) => {}
        other => return other,
    }
    match admin.create_organisation(name).await {
        // Another process was faster.
        Err(StoreError::Exists(_)) => admin.store.find_organisation(name).await,
        other => other,
    }
}
