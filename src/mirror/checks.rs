//! The check of the upstreams: whether each answers as a registry and takes its login.

use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::{Mirror, Mirrors};
use crate::store::check::Verdict;

/// How many upstreams are asked at the same time.
const CHECKS_AT_ONCE: usize = 10;

/// The result for one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UpstreamFinding {
    /// The name of the upstream.
    pub upstream: String,
    /// [`Verdict::Holds`] for an upstream that can be used, else [`Verdict::Broken`].
    pub verdict: Verdict,
    /// What the upstream answers, or what is wrong.
    pub means: String,
}

impl Mirrors {
    /// Asks each upstream for `/v2/`, with its login. Nothing is stored.
    pub async fn check(&self) -> Vec<UpstreamFinding> {
        let checks: Vec<_> = self.mirrors.iter().map(Mirror::check).collect();
        stream::iter(checks).buffered(CHECKS_AT_ONCE).collect().await
    }
}

impl Mirror {
    async fn check(&self) -> UpstreamFinding {
        let upstream = self.client.upstream();
        let (verdict, means) = match self.client.check().await {
            Ok(()) if upstream.has_login() => (Verdict::Holds, "answers, and takes the login".to_owned()),
            Ok(()) => (Verdict::Holds, "answers; there is no login for this upstream".to_owned()),
            Err(error) => (Verdict::Broken, error.kind.to_string()),
        };
        UpstreamFinding { upstream: upstream.name().to_owned(), verdict, means }
    }
}
