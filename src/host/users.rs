//! `eyot user`: manages the users in the key-value store.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::config::Config;
use super::outbound::NativePlatform;
use crate::auth::{Directory, Secret};
use crate::http::audit_own;

/// Runs `add NAME`, `remove NAME` or `list` on the users in the key-value store. A server over the
/// same store may run meanwhile.
///
/// # Errors
/// When `request` is not `add NAME`, `remove NAME` or `list`, when the store is `memory`, which
/// keeps no users, or when the store fails.
pub async fn manage(config: &Config, request: &[&str]) -> Result<()> {
    if config.keys == "memory" {
        bail!("with keys=memory no users are kept");
    }
    let platform = Arc::new(NativePlatform::default());
    let users = Directory::new(config.open(platform.clone(), None)?.keys, platform);
    match request {
        ["add", name] => add(&users, name).await,
        ["remove", name] => {
            users.remove_user(name).await?;
            audit_own("delete-user", name);
            Ok(())
        }
        ["list"] => list(&users).await,
        _ => bail!("eyot user takes add NAME, remove NAME or list; see eyot --help"),
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
            writeln!(std::io::stdout(), "{name}")?;
        }
        last = names.into_iter().next_back();
    }
}
