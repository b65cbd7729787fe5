//! Requests with credentials, forms and proxies' headers of any kind. Each request gets an answer
//! that clients can read, a challenge names only a valid host, and the registry accepts every
//! issued token.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use eyot::auth::{Access, Attempt, Authority, Caller, Credentials, Refusal, Secret, Tokens};
use eyot::http::Peer;
use eyot::{Body, Handler};
use http::{HeaderMap, Request};

use super::registry::{Repeatable, Reply, registry, send};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const USER: &str = "alice";
const PASSWORD: &str = "s:cret";

/// The outcomes so far, as `METHOD kind status`. A test checks by this set that the inputs still
/// reach the intended outcomes.
pub static LOGINS_REACHED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// An authority with one user, whose password is compared without a hash, because hashing would
/// take most of the time.
#[derive(Default)]
struct OneUser {
    /// The address of the last request's client.
    address: Mutex<Option<IpAddr>>,
}

#[async_trait]
impl Authority for OneUser {
    async fn identify(&self, attempt: Attempt<'_>) -> Result<Caller, Refusal> {
        *self.address.lock().expect("no panic holds it") = attempt.address;
        match attempt.credentials {
            Credentials::Anonymous => Ok(Caller::default()),
            Credentials::Basic { user, password } if user == USER && password.expose() == PASSWORD => {
                Ok(Caller::unlimited(Some(user.clone())))
            }
            _ => Err(Refusal::Unauthorized),
        }
    }
}

/// The input consists of the request line (method and target), lines of headers, an empty line, and
/// the body.
pub fn logins(data: &[u8]) {
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((data, &[][..]), |at| (&data[..at], &data[at + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next().and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let (method, target) = first.split_once(' ').unwrap_or(("GET", first));
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        request = request.header(&line[..colon], line[colon..].strip_prefix(b":").unwrap_or_default().trim_ascii());
    }
    let Ok(mut request) = request.body(Body::from(body.to_vec())) else { return };
    request.extensions_mut().insert(Peer { address: Some(PROXY), is_tls: false, shows_host: true });
    let user = Arc::new(OneUser::default());
    let platform = Arc::new(Repeatable::default());
    let tokens = Tokens::with_key("eyot", &Secret::new("a key of thirty-two bytes or more"), platform.clone());
    let handler = Handler::new(registry(platform), Access::new(user.clone(), tokens));
    let handler = handler.with_proxies("127.0.0.1 10.0.0.0/8".parse().expect("networks"));
    let headers = request.headers().clone();
    let reply = send(&handler, request);
    let is_token = target.starts_with("/v2/_eyot/token");
    let outcome = format!("{method} {} {}", if is_token { "token" } else { "other" }, reply.status.as_u16());
    LOGINS_REACHED.lock().expect("no panic holds it").insert(outcome);
    check_address(*user.address.lock().expect("no panic holds it"), &headers);
    if let Some(challenge) = reply.header("www-authenticate") {
        check_challenge(challenge);
    }
    if reply.status == 200 && is_token && method != "HEAD" {
        check_token(&handler, &reply);
    }
}

/// Without a forwarding header, the client's address is the address of the peer.
fn check_address(address: Option<IpAddr>, headers: &HeaderMap) {
    let is_forwarded = headers.contains_key("x-forwarded-for") || headers.contains_key("forwarded");
    if let Some(address) = address.filter(|_| !is_forwarded) {
        assert_eq!(address, PROXY);
    }
}

/// A challenge has the form `Bearer realm="…",service="…"`. No text from the client can end a
/// quoted string.
fn check_challenge(challenge: &str) {
    if challenge == "Basic realm=\"eyot\"" {
        return;
    }
    let parameters = challenge.strip_prefix("Bearer ").unwrap_or_else(|| panic!("{challenge}"));
    for parameter in parameters.split("\",") {
        let (name, value) = parameter.split_once("=\"").unwrap_or_else(|| panic!("{challenge}"));
        let value = value.strip_suffix('"').unwrap_or(value);
        assert!(["realm", "service", "scope", "error"].contains(&name), "{challenge}");
        assert!(!value.contains(['"', '\\']), "{challenge}");
        if name == "realm" {
            let host = value.strip_suffix("/v2/_eyot/token").and_then(|base| base.split_once("://"));
            let (scheme, host) = host.unwrap_or_else(|| panic!("{challenge}"));
            assert!(["http", "https"].contains(&scheme), "{challenge}");
            assert!(
                !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)),
                "{challenge}"
            );
        }
    }
}

fn check_token(handler: &Handler, reply: &Reply) {
    let answer: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    let token = answer["token"].as_str().expect("a token");
    let request = Request::get("/v2/").header("host", "eyot").header("authorization", format!("Bearer {token}"));
    let taken = send(handler, request.body(Body::empty()).expect("a request"));
    assert_eq!(taken.status, 200, "{answer}");
}
