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
    use std::io::BufRead as _;

    use super::*;

    /// Runs the check against a server that gives one answer.
    fn answered(status: &str) -> Result<()> {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        let served = std::thread::spawn(move || {
            let (stream, _) = server.accept().unwrap();
            let mut line = String::new();
            std::io::BufReader::new(&stream).read_line(&mut line).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
            line
        });
        let result = run(&Ready { readiness: readiness_of(&url).unwrap() });
        assert_eq!(served.join().unwrap(), "GET /readyz HTTP/1.1\r\n");
        result
    }

    #[test]
    fn the_answer_decides_and_an_error_says_where_to_look() {
        answered("200 OK").unwrap();
        let store = answered("503 Service Unavailable").unwrap_err().to_string();
        assert!(store.contains("/readyz") && store.contains("a store does not answer"), "{store}");
        let other = answered("404 Not Found").unwrap_err().to_string();
        assert!(other.contains("404 Not Found") && other.contains("is there an eyot"), "{other}");

        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nobody = run(&Ready { readiness: readiness_of(&format!("http://{closed}")).unwrap() }).unwrap_err();
        assert!(nobody.to_string().contains("the server does not answer"), "{nobody}");
    }

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
