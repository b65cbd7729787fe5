//! The endpoints of the API, one file per noun. Each file has a table with the method and the path
//! of its endpoints, and beside the table the permission, the audit line and the handler of each
//! operation.

mod blobs;
mod catalog;
mod check;
mod collection;
mod health;
#[cfg(feature = "accounts")]
mod machine_tokens;
mod manifests;
mod mounts;
mod packages;
mod path;
mod pull;
mod referrers;
mod tags;
pub(super) mod token;
mod uploads;
#[cfg(feature = "accounts")]
mod users;
mod version;
mod warnings;

use async_trait::async_trait;
use http::Method;
use http::request::Parts;

use super::Handler;
use super::audit::Change;
use super::error::Error;
use super::permission::Permission;
use super::pulled::Pulled;
use super::query::Query;
use super::reply::Reply;
use crate::auth::Caller;
use crate::platform::Body;

pub(super) use health::Readiness;
use path::{Target, Template};

/// All endpoints. A path belongs to the first endpoint whose path fits, so the paths with fixed
/// names come before the paths in which a repository name may stand.
pub(super) const ENDPOINTS: &[&[Endpoint]] = &[
    version::ENDPOINTS,
    health::ENDPOINTS,
    packages::ENDPOINTS,
    catalog::ENDPOINTS,
    check::ENDPOINTS,
    collection::ENDPOINTS,
    token::ENDPOINTS,
    #[cfg(feature = "accounts")]
    users::ENDPOINTS,
    #[cfg(feature = "accounts")]
    machine_tokens::ENDPOINTS,
    warnings::ENDPOINTS,
    mounts::ENDPOINTS,
    uploads::ENDPOINTS,
    blobs::ENDPOINTS,
    manifests::ENDPOINTS,
    tags::ENDPOINTS,
    referrers::ENDPOINTS,
];

/// A method on a path.
pub(super) struct Endpoint {
    /// The method. `GET` answers HEAD too: HEAD is GET without the body.
    pub(super) method: &'static str,
    /// The path, written as the specification writes paths: `<name>` stands for a value. A query
    /// (`?mount=<digest>`) names a parameter without which the endpoint does not apply.
    pub(super) path: &'static str,
    /// Makes the operation of a request from the values in the request's URL.
    parse: fn(&Target<'_>) -> Result<Box<dyn Operation>, Error>,
}

/// A parsed request to an endpoint. Repository names, references, digests and session ids are
/// checked against their grammars. Names of users and machine tokens are not checked yet.
#[async_trait]
pub(super) trait Operation: Send + Sync {
    /// The permission that the operation requires of its caller.
    fn permission(&self) -> Permission<'_>;

    /// The repository that a pull reads, so that the request can be routed to an upstream; `None` for
    /// an operation that is no pull.
    fn pulled(&mut self) -> Option<&mut Pulled> {
        None
    }

    /// The change to write into the audit log; `None` for an operation without a change.
    fn change(&self) -> Option<Change>;

    /// Carries out the operation for a caller who has the permission.
    async fn perform(self: Box<Self>, handler: &Handler, call: Call<'_>) -> Result<Reply, Error>;
}

/// The parts of a request that an operation may use beside the values in the URL.
pub(super) struct Call<'a> {
    pub(super) head: &'a Parts,
    pub(super) caller: &'a Caller,
    pub(super) body: Body,
}

/// The operation that a request asks for.
///
/// # Errors
/// [`Error::NotFound`] for an unknown path, [`Error::MethodNotAllowed`] for another method, and
/// errors of the grammars.
pub(super) fn parse(head: &Parts) -> Result<Box<dyn Operation>, Error> {
    let query = Query(head.uri.query().unwrap_or_default());
    let (endpoint, values) = find(head, &query)?;
    (endpoint.parse)(&Target { values, query, method: &head.method })
}

/// The endpoint of a request, and the values in the path of the request.
pub(super) fn find(head: &Parts, query: &Query<'_>) -> Result<(&'static Endpoint, path::Values), Error> {
    let segments = path::segments(head.uri.path());
    let all = || ENDPOINTS.iter().copied().flatten();
    let fitting = all().find_map(|endpoint| {
        let template = endpoint.template();
        Some((template.path, template.values(&segments)?))
    });
    let (path, values) = fitting.ok_or(Error::NotFound)?;
    let method = if head.method == Method::HEAD { "GET" } else { head.method.as_str() };
    let of_path = all().filter(|endpoint| endpoint.template().path == path);
    let mut of_method = of_path.clone().filter(|endpoint| endpoint.method == method);
    let found = of_method.find(|endpoint| endpoint.template().parameter.is_none_or(|name| query.has(name)));
    match found {
        Some(endpoint) => Ok((endpoint, values)),
        None => Err(Error::MethodNotAllowed { allowed: allowed(of_path) }),
    }
}

/// The methods of endpoints, as the header `Allow` lists methods.
fn allowed(endpoints: impl Iterator<Item = &'static Endpoint>) -> String {
    let mut methods = Vec::new();
    for endpoint in endpoints {
        if !methods.contains(&endpoint.method) {
            methods.push(endpoint.method);
            methods.extend((endpoint.method == "GET").then_some("HEAD"));
        }
    }
    methods.join(", ")
}

impl Endpoint {
    fn template(&self) -> Template {
        Template::new(self.path)
    }
}

/// The result of parsing a request that is valid.
fn operation(operation: impl Operation + 'static) -> Result<Box<dyn Operation>, Error> {
    Ok(Box::new(operation))
}
