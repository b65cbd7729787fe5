//! The actions that grants permit and that scopes ask for.

use serde::{Deserialize, Serialize};

/// An action on a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Action {
    /// See the repository in the catalog. Policies grant this action with `pull`.
    List,
    /// Read manifests, blobs, tags and referrers.
    Pull,
    /// Write manifests and blobs, move tags.
    Push,
    /// Delete tags, manifests and blobs.
    Delete,
    /// Attach warnings. Granted for every repository (`**`), also: administer users, tokens and the
    /// registry itself.
    Admin,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 5] = [Self::List, Self::Pull, Self::Push, Self::Delete, Self::Admin];

    /// The name of the action in scopes and policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    /// The action with a name that [`Action::as_str`] gives; `None` for any other name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }
}
