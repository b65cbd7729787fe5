//! Users and permissions of your own: an `Authority` over a table, and a policy that is a function.
//!
//!     cargo run --example own_users
//!     skopeo copy --dest-tls-verify=false --dest-creds ada:engine … docker://127.0.0.1:3000/ada/app

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use eyot::auth::{Access, Action, Attempt, Authority, Caller, Credentials, Grant, Refusal, Tokens};
use eyot::platform::SystemPlatform;
use eyot::registry::Limits;
use eyot::store::memory::{MemoryBlobStore, MemoryKeyValue};
use eyot::{Handler, Registry};

/// The users of this program. A real program asks a database here, and compares hashes.
struct Table<P> {
    passwords: HashMap<&'static str, &'static str>,
    policy: P,
}

#[async_trait::async_trait]
impl<P> Authority for Table<P>
where
    P: Fn(Option<&str>) -> Vec<Grant> + Send + Sync,
{
    async fn identify(&self, attempt: Attempt<'_>) -> Result<Caller, Refusal> {
        let user = match attempt.credentials {
            Credentials::Anonymous => None,
            Credentials::Basic { user, password } => match self.passwords.get(user.as_str()) {
                Some(expected) if *expected == password.expose() => Some(user.clone()),
                _ => return Err(Refusal::Unauthorized),
            },
            _ => return Err(Refusal::Unauthorized),
        };
        Ok(Caller { grants: (self.policy)(user.as_deref()), user, ..Caller::default() })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let everywhere: eyot::auth::Pattern = "**".parse()?;
    // Anyone may pull. A user may also push and delete below their own name.
    let policy = move |user: Option<&str>| {
        let mut grants = vec![Grant::new(everywhere.clone(), [Action::Pull])];
        if let Some(Ok(own)) = user.map(|user| format!("{user}/**").parse()) {
            grants.push(Grant::new(own, [Action::Pull, Action::Push, Action::Delete]));
        }
        grants
    };
    let users = Table { passwords: HashMap::from([("ada", "engine"), ("grace", "compiler")]), policy };

    let (keys, platform) = (Arc::new(MemoryKeyValue::default()), Arc::new(SystemPlatform));
    let blobs = Arc::new(MemoryBlobStore::new(platform.clone()));
    // Clients trade a password for a short-lived token, so passwords are compared once for each pull
    // or push.
    let tokens = Tokens::stored("eyot", keys.clone(), platform.clone());
    let registry = Registry::new(keys, blobs, platform, Limits::default());
    let handler = Handler::new(registry, Access::new(Arc::new(users), tokens));

    let port = std::env::var("PORT").unwrap_or("3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, Router::new().fallback_service(handler)).await?;
    Ok(())
}
