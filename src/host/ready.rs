//! `eyot ready`: the health check of containers and schedulers, for images without a shell or curl.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use http::{Request, StatusCode, Uri};

use super::outbound::NativePlatform;
use crate::platform::{Body, Platform as _};

/// The longest wait for the server's answer. The server itself waits 5 seconds for its stores.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct Ready {
    /// The server: a URL without a path
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:5000", value_parser = readiness_of)]
    readiness: Uri,
}

/// The URL of the readiness of the server at `server`.
fn readiness_of(server: &str) -> Result<Uri, String> {
    let uri: Uri = format!("{}/readyz", server.trim_end_matches('/')).parse().map_err(|_| "not a URL".to_owned())?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.path() == "/readyz" => Ok(uri),
        _ => Err("not a URL without a path, such as http://127.0.0.1:5000".to_owned()),
    }
}

/// Asks a server whether its stores answer.
///
/// # Errors
/// When the server does not answer within 10 seconds, or is not ready. The text names the URL and
/// says where to look.
pub(super) fn run(ready: &Ready) -> Result<()> {
    let url = &ready.readiness;
    let request = Request::get(url).body(Body::empty())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { NativePlatform::default().send(request, ANSWER_TIMEOUT).await });
    let answer = answer.with_context(|| format!("{url}: the server does not answer"))?;
    match answer.status() {
        StatusCode::OK => Ok(writeln!(std::io::stdout(), "ready")?),
        StatusCode::SERVICE_UNAVAILABLE => {
            bail!("{url}: the server runs, but a store does not answer; the log of the server names the store")
        }
        status => bail!("{url}: the server answered {status}; is there an eyot at this URL?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_url_without_a_path() {
        for server in ["http://127.0.0.1:5000", "http://127.0.0.1:5000/", "https://[::1]:443"] {
            assert_eq!(readiness_of(server).unwrap().path(), "/readyz", "{server}");
        }
        for wrong in ["", "127.0.0.1:5000", "ftp://127.0.0.1", "http://127.0.0.1/v2", "http://a?b=c", "http://a b"] {
            assert!(readiness_of(wrong).is_err(), "{wrong}");
        }
    }
}
