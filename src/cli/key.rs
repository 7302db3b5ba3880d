use std::io::{Write, stdout};

use anyhow::Result;
use clap::Subcommand;

use crate::store::Sqlite;
use crate::tenancy::create_key;
use crate::types::TenantStore;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key, and print its secret, which is shown this once
    Create {
        /// The project that pays: its name or id
        #[arg(long)]
        project: String,
    },
    /// Print every key's id, project and the end of its secret
    List,
}

pub(super) async fn run(command: KeyCommand, store: &Sqlite) -> Result<()> {
    let mut out = stdout().lock();
    match command {
        KeyCommand::Create { project } => {
            let project = store.find_project(&project).await?;
            writeln!(out, "{}", create_key(store, &project).await?)?;
        }
        KeyCommand::List => {
            for key in store.keys().await? {
                writeln!(out, "{}  {}  fb-...{}", key.id, key.project, key.hint)?;
            }
        }
    }
    Ok(())
}
