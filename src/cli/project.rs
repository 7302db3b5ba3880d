use std::io::{Write, stdout};

use anyhow::{Result, ensure};
use clap::Subcommand;

use crate::store::Sqlite;
use crate::tenancy::create_project;
use crate::types::TenantStore;

#[derive(Subcommand)]
pub(super) enum ProjectCommand {
    /// Make a project, and print its id
    Create {
        /// Unique among projects; it serves as the id everywhere
        name: String,
    },
    /// Print every project's id and name
    List,
}

pub(super) async fn run(command: ProjectCommand, store: &Sqlite) -> Result<()> {
    let mut out = stdout().lock();
    match command {
        ProjectCommand::Create { name } => {
            let plain = !name.trim().is_empty() && !name.chars().any(char::is_control);
            ensure!(
                plain && name.len() <= 128,
                "a project's name has 1 to 128 printable bytes"
            );
            writeln!(out, "{}", create_project(store, &name).await?.id)?;
        }
        ProjectCommand::List => {
            for project in store.projects().await? {
                writeln!(out, "{}  {}", project.id, project.name)?;
            }
        }
    }
    Ok(())
}
