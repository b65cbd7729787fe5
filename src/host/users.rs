//! `eyot user`: manages the users in the key-value store.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Subcommand;

use super::config::Config;
use super::log::visible;
use super::outbound::NativePlatform;
use super::settings::KeyValueName;
use crate::auth::{Directory, Secret};
use crate::http::audit_own;

/// What `eyot user` does.
#[derive(Subcommand)]
pub(super) enum User {
    /// Add a user, or change a password; the password is read from standard input
    ///
    /// Example: pass show registry | eyot user add ci
    Add {
        /// The name of the user
        name: String,
    },
    /// Remove a user
    Remove {
        /// The name of the user
        name: String,
    },
    /// List the users that were added
    List,
}

/// Adds, removes or lists users in the key-value store. A server over the same store may run
/// meanwhile.
///
/// # Errors
/// When the store is `memory`, which keeps no users, or when the store fails.
pub(super) async fn manage(config: &Config, request: &User) -> Result<()> {
    if config.stores.keys == KeyValueName::Memory {
        bail!("setting keys: the store memory keeps no users; use files or s3");
    }
    let platform = Arc::new(NativePlatform::default());
    let users = Directory::new(config.open(platform.clone(), None)?.keys, platform);
    match request {
        User::Add { name } => add(&users, name).await,
        User::Remove { name } => {
            users.remove_user(name).await?;
            audit_own("delete-user", name);
            Ok(())
        }
        User::List => list(&users).await,
    }
}

async fn add(users: &Directory, name: &str) -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    users.add_user(name, &Secret::new(line.trim_end_matches(['\r', '\n']))).await?;
    audit_own("put-user", name);
    Ok(())
}

async fn list(users: &Directory) -> Result<()> {
    let mut last = None;
    loop {
        let names = users.users(last.as_deref()).await?;
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            writeln!(std::io::stdout(), "{}", visible(name))?;
        }
        last = names.into_iter().next_back();
    }
}
