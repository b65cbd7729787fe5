//! The servers that the component may send requests to: `allowed_outbound_hosts` of the manifest.

use std::path::Path;

use hyper::Uri;
use wasmtime::Result;
use wasmtime::error::Context as _;

use crate::variables::Variables;

const LIST: &str = "allowed_outbound_hosts = [";

/// The entries of the list, with values in place of variables; `None` allows every server.
pub struct AllowedHosts(Option<Vec<String>>);

impl AllowedHosts {
    /// Reads the list of a manifest. The list must be one line, as in eyot's `spin.toml`.
    pub fn read(manifest: Option<&Path>, variables: &Variables) -> Result<Self> {
        let Some(manifest) = manifest else { return Ok(Self(None)) };
        let text = std::fs::read_to_string(manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        let list = text.lines().find_map(|line| line.strip_prefix(LIST));
        let list = list.with_context(|| format!("{} has no line {LIST}", manifest.display()))?;
        let entries = list.split('"').skip(1).step_by(2).map(|entry| expand(entry, &text, variables));
        Ok(Self(Some(entries.collect::<Result<_>>()?)))
    }

    /// Whether requests may go to the server of `uri`.
    pub fn contain(&self, uri: &Uri) -> bool {
        self.0.as_ref().is_none_or(|entries| entries.iter().any(|entry| matches(entry, uri)))
    }
}

/// Replaces an entry of the form `{{ NAME }}` by the value of the variable, or by the default in
/// the manifest.
fn expand(entry: &str, manifest: &str, variables: &Variables) -> Result<String> {
    let name = entry.strip_prefix("{{").and_then(|entry| entry.strip_suffix("}}")).map(str::trim);
    let Some(name) = name else { return Ok(entry.to_owned()) };
    if let Ok(value) = variables.value(name) {
        return Ok(value);
    }
    let beginning = format!("{name} = {{ default = \"");
    let default = manifest.lines().find_map(|line| line.strip_prefix(&beginning)?.split('"').next());
    Ok(default.with_context(|| format!("the manifest has no default of the variable {name}"))?.to_owned())
}

/// Whether an entry such as `https://*.example.com:8443` has the scheme, the host and the port.
fn matches(entry: &str, uri: &Uri) -> bool {
    let (Some((scheme, server)), Some(host)) = (entry.split_once("://"), uri.host()) else { return false };
    let server = server.trim_end_matches('/');
    let (wanted, port) = match server.rsplit_once(':') {
        Some((wanted, port)) if !port.ends_with(']') => (wanted, Some(port)),
        _ => (server, None),
    };
    let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    let actual = uri.port_u16().unwrap_or(default);
    let has_port = port.map_or(actual == default, |port| port == "*" || port.parse() == Ok(actual));
    let has_host = match wanted.strip_prefix('*') {
        Some("") => true,
        Some(domain) => host.ends_with(domain),
        None => host == wanted,
    };
    has_port && has_host && (scheme == "*" || uri.scheme_str() == Some(scheme))
}
