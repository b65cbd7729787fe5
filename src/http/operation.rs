//! Parses requests into operations: the routes and parameters of the distribution API.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderName, Method};
use percent_encoding::percent_decode_str;

use super::error::Error;
use super::limits::{HEADER_BYTES_MAX, URI_BYTES_MAX};
use crate::oci::name::ReferenceError;
use crate::oci::{Algorithm, Digest, Reference, RepositoryName, Tag};
use crate::registry::{self, PageRequest, ReferrersRequest, SessionId};

/// The path of the token endpoint.
pub(super) const TOKEN_PATH: &str = "/v2/_eyot/token";

/// One operation of the API. Repository names, references, digests and session ids are checked
/// against their grammars. Names of users and machine tokens, and the query of a token request, are
/// not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Version,
    Catalog(PageRequest),
    Tags(RepositoryName, PageRequest),
    GetManifest(RepositoryName, Reference),
    PutManifest(RepositoryName, Reference, Vec<Tag>),
    DeleteManifest(RepositoryName, Reference),
    GetBlob(RepositoryName, Digest),
    DeleteBlob(RepositoryName, Digest),
    Referrers(RepositoryName, Digest, ReferrersRequest),
    GetWarnings(RepositoryName, Option<Tag>),
    SetWarning(RepositoryName, Option<Tag>),
    DeleteWarning(RepositoryName, Option<Tag>),
    Collect {
        dry_run: bool,
    },
    Check,
    /// A `GET` of a token, with the bytes of the query.
    Token(Vec<u8>),
    PostToken,
    ListUsers(Option<String>),
    PutUser(String),
    DeleteUser(String),
    ListTokens(Option<String>),
    PutToken(String),
    DeleteToken(String),
    BeginUpload(RepositoryName, Algorithm),
    PushBlob(RepositoryName, Digest),
    MountBlob {
        repository: RepositoryName,
        digest: Digest,
        from: Option<RepositoryName>,
    },
    UploadStatus(RepositoryName, SessionId),
    AppendUpload(RepositoryName, SessionId),
    CompleteUpload(RepositoryName, SessionId, Digest),
    CancelUpload(RepositoryName, SessionId),
}

/// The endpoint that a path names, whatever the method. All texts are percent-decoded and not yet
/// checked.
enum Route {
    Version,
    Catalog,
    Tags(String),
    Manifest(String, String),
    Blob(String, String),
    Referrers(String, String),
    /// An extension of eyot's own (extensions/README of the specification): the warnings of a
    /// repository (`<name>`) or of a tag (`<name>:<tag>`).
    Warnings(String),
    /// An extension of eyot's own: a step of the collection.
    Collect,
    /// An extension of eyot's own: the self-check of the stores.
    Check,
    /// Extensions of eyot's own, up to `MachineToken`: tokens, users and machine tokens.
    Token,
    Users,
    User(String),
    Tokens,
    MachineToken(String),
    Uploads(String),
    Upload(String, String),
}

impl Route {
    /// Reads a path. Each segment between two slashes is decoded on its own (RFC 3986, section
    /// 2.4), so `team%2Fapp` is the same repository as `team/app`. One slash at the end of the path
    /// is ignored.
    fn parse(path: &str) -> Option<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let decoded: Vec<Cow<'_, str>> = path.split('/').map(decode).collect();
        let segments: Vec<&str> = decoded.iter().map(AsRef::as_ref).collect();
        let joined = |segments: &[&str]| segments.join("/");
        let ["", "v2", rest @ ..] = segments.as_slice() else { return None };
        Some(match rest {
            [] => Self::Version,
            ["_catalog"] => Self::Catalog,
            ["_eyot", "check"] => Self::Check,
            ["_eyot", "collect"] => Self::Collect,
            ["_eyot", "token"] => Self::Token,
            ["_eyot", "users"] => Self::Users,
            ["_eyot", "tokens"] => Self::Tokens,
            ["_eyot", "warnings", target @ ..] => Self::Warnings(joined(target)),
            ["_eyot", "users", name @ ..] => Self::User(joined(name)),
            ["_eyot", "tokens", name @ ..] => Self::MachineToken(joined(name)),
            [name @ .., "blobs", "uploads"] if !name.is_empty() => Self::Uploads(joined(name)),
            [name @ .., "tags", "list"] if !name.is_empty() => Self::Tags(joined(name)),
            [name @ .., "manifests", reference] if !name.is_empty() => {
                Self::Manifest(joined(name), (*reference).to_owned())
            }
            [name @ .., "referrers", digest] if !name.is_empty() => Self::Referrers(joined(name), (*digest).to_owned()),
            [name @ .., "blobs", "uploads", session] if !name.is_empty() => {
                Self::Upload(joined(name), (*session).to_owned())
            }
            [name @ .., "blobs", digest] if !name.is_empty() => Self::Blob(joined(name), (*digest).to_owned()),
            _ => return None,
        })
    }

    fn methods(&self) -> &'static str {
        match self {
            Self::Version | Self::Catalog | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Warnings(_) => "GET, HEAD, PUT, DELETE",
            Self::Uploads(_) | Self::Collect | Self::Check => "POST",
            Self::Users | Self::Tokens => "GET, HEAD",
            Self::User(_) | Self::MachineToken(_) => "PUT, DELETE",
            Self::Token => "GET, HEAD, POST",
            Self::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }
}

impl Operation {
    pub(super) fn parse(head: &Parts) -> Result<Self, Error> {
        check_size(head)?;
        check_framing(head)?;
        let route = Route::parse(head.uri.path()).ok_or(Error::NotFound)?;
        let query = Query(head.uri.query().unwrap_or_default());
        // HEAD is GET without the body.
        let method = if head.method == Method::HEAD { &Method::GET } else { &head.method };
        match (&route, method.as_str()) {
            (Route::Version, "GET") => Ok(Self::Version),
            (Route::Catalog, "GET") => Ok(Self::Catalog(query.page()?)),
            (Route::Tags(repository), "GET") => Ok(Self::Tags(name(repository)?, query.page()?)),
            (Route::Manifest(repository, text), "GET") => {
                Ok(Self::GetManifest(name(repository)?, reference(text, &head.method)?))
            }
            (Route::Manifest(repository, text), "PUT") => {
                Ok(Self::PutManifest(name(repository)?, reference(text, &head.method)?, query.tags()?))
            }
            (Route::Manifest(repository, text), "DELETE") => {
                Ok(Self::DeleteManifest(name(repository)?, reference(text, &head.method)?))
            }
            (Route::Blob(repository, text), "GET") => Ok(Self::GetBlob(name(repository)?, digest(text)?)),
            (Route::Blob(repository, text), "DELETE") => Ok(Self::DeleteBlob(name(repository)?, digest(text)?)),
            (Route::Referrers(repository, text), "GET") => {
                let request =
                    ReferrersRequest { artifact_type: query.media_type("artifactType"), last: query.text("last") };
                Ok(Self::Referrers(name(repository)?, digest(text)?, request))
            }
            (Route::Warnings(text), method @ ("GET" | "PUT" | "DELETE")) => {
                let (repository, tag) = warning_target(text)?;
                Ok(match method {
                    "GET" => Self::GetWarnings(repository, tag),
                    "PUT" => Self::SetWarning(repository, tag),
                    _ => Self::DeleteWarning(repository, tag),
                })
            }
            (Route::Check, "POST") => Ok(Self::Check),
            (Route::Collect, "POST") => match query.text("dry_run").as_deref() {
                None | Some("false") => Ok(Self::Collect { dry_run: false }),
                Some("true") => Ok(Self::Collect { dry_run: true }),
                Some(_) => Err(Error::BadDryRun),
            },
            (Route::Token, "GET") => Ok(Self::Token(query.0.as_bytes().to_vec())),
            (Route::Token, "POST") => Ok(Self::PostToken),
            (Route::Users, "GET") => Ok(Self::ListUsers(query.text("last"))),
            (Route::User(name), "PUT") => Ok(Self::PutUser(name.clone())),
            (Route::User(name), "DELETE") => Ok(Self::DeleteUser(name.clone())),
            (Route::Tokens, "GET") => Ok(Self::ListTokens(query.text("last"))),
            (Route::MachineToken(name), "PUT") => Ok(Self::PutToken(name.clone())),
            (Route::MachineToken(name), "DELETE") => Ok(Self::DeleteToken(name.clone())),
            (Route::Uploads(repository), "POST") => Self::begin(name(repository)?, &query),
            (Route::Upload(repository, session), method @ ("GET" | "PATCH" | "PUT" | "DELETE")) => Self::upload(
                name(repository)?,
                session.parse::<SessionId>().map_err(registry::Error::from)?,
                method,
                &query,
            ),
            _ => Err(Error::MethodNotAllowed { allowed: route.methods() }),
        }
    }

    fn begin(repository: RepositoryName, query: &Query<'_>) -> Result<Self, Error> {
        if let Some(mount) = query.get("mount") {
            return Self::mount(repository, &mount, query);
        }
        match query.get("digest") {
            Some(text) => Ok(Self::PushBlob(repository, digest(&text)?)),
            None => Ok(Self::BeginUpload(repository, query.algorithm()?)),
        }
    }

    /// A mount with an invalid digest, or from an invalid repository name, cannot be done. The
    /// answer is a new upload, as for content that is not found.
    fn mount(repository: RepositoryName, mount: &str, query: &Query<'_>) -> Result<Self, Error> {
        let Ok(digest) = mount.parse::<Digest>() else {
            return Ok(Self::BeginUpload(repository, query.algorithm()?));
        };
        Ok(match query.get("from").map(|from| from.parse::<RepositoryName>()) {
            None => Self::MountBlob { repository, digest, from: None },
            Some(Ok(from)) => Self::MountBlob { repository, digest, from: Some(from) },
            Some(Err(_)) => Self::BeginUpload(repository, digest.algorithm()),
        })
    }

    fn upload(repository: RepositoryName, id: SessionId, method: &str, query: &Query<'_>) -> Result<Self, Error> {
        match method {
            "GET" => Ok(Self::UploadStatus(repository, id)),
            "PATCH" => Ok(Self::AppendUpload(repository, id)),
            "DELETE" => Ok(Self::CancelUpload(repository, id)),
            _ => {
                let missing = || registry::Error::DigestInvalid("the parameter digest is missing".into());
                let text = query.get("digest").ok_or_else(missing)?;
                Ok(Self::CompleteUpload(repository, id, digest(&text)?))
            }
        }
    }
}

/// The value of a header that controls a write, as text. Refuses a value that is not text.
pub(super) fn header<'a>(head: &'a Parts, name: &HeaderName) -> Result<Option<&'a str>, Error> {
    let Some(value) = head.headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Error::BadHeader(name.clone()))
}

fn check_size(head: &Parts) -> Result<(), Error> {
    let uri_bytes = head.uri.path_and_query().map_or(0, |text| text.as_str().len());
    if uri_bytes > URI_BYTES_MAX {
        return Err(Error::UriTooLong);
    }
    let header_bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > HEADER_BYTES_MAX {
        return Err(Error::HeadersTooLarge);
    }
    Ok(())
}

/// Refuses a body whose end is ambiguous: two programs that disagree about the end of a body also
/// disagree about where the next request begins (RFC 9112, section 6.1). Also refuses transfer
/// codings other than chunked: they are not decoded here, so the body would be stored encoded.
fn check_framing(head: &Parts) -> Result<(), Error> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
        return Err(Error::UnknownCoding);
    }
    if head.headers.contains_key(CONTENT_LENGTH) { Err(Error::LengthAndCoding) } else { Ok(()) }
}

fn name(text: &str) -> Result<RepositoryName, Error> {
    text.parse().map_err(Error::NameInvalid)
}

fn digest(text: &str) -> Result<Digest, Error> {
    Ok(text.parse::<Digest>().map_err(registry::Error::from)?)
}

/// `<name>` or `<name>:<tag>`.
fn warning_target(text: &str) -> Result<(RepositoryName, Option<Tag>), Error> {
    match text.split_once(':') {
        None => Ok((name(text)?, None)),
        Some((repository, tag)) => {
            let tag = tag.parse::<Tag>().map_err(|error| registry::Error::WarningInvalid(error.to_string()))?;
            Ok((name(repository)?, Some(tag)))
        }
    }
}

/// Percent-decodes a segment of a path: clients may write the colon of a digest as `%3A`. Bytes
/// that are not UTF-8 become U+FFFD, which the grammar of no name allows.
fn decode(segment: &str) -> Cow<'_, str> {
    percent_decode_str(segment).decode_utf8_lossy()
}

fn reference(text: &str, method: &Method) -> Result<Reference, Error> {
    text.parse::<Reference>().map_err(|error| match error {
        ReferenceError::Digest(error) => registry::Error::from(error).into(),
        // An invalid tag is an error of a push. Any other request asks for an unknown manifest,
        // because no manifest can have an invalid tag.
        ReferenceError::Tag(error) if *method == Method::PUT => {
            registry::Error::ManifestInvalid(error.to_string()).into()
        }
        ReferenceError::Tag(_) => registry::Error::ManifestUnknown(text.chars().take(128).collect()).into(),
    })
}

struct Query<'a>(&'a str);

impl Query<'_> {
    /// The first value of a parameter.
    fn get(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.0.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The first value of a parameter; `None` if the value is empty.
    fn text(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The first value of a parameter that holds a media type. A bare `+` stands for itself: media
    /// types have no spaces, and clients send `application/vnd.x+json` without encoding it.
    fn media_type(&self, name: &str) -> Option<String> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let value = pairs.filter(|(key, _)| decode(key) == name).map(|(_, value)| decode(value)).next()?;
        (!value.is_empty()).then(|| value.into_owned())
    }

    /// The hash algorithm of a new upload (`digest-algorithm`).
    fn algorithm(&self) -> Result<Algorithm, Error> {
        let Some(name) = self.text("digest-algorithm") else { return Ok(Algorithm::default()) };
        Ok(name.parse::<Algorithm>().map_err(registry::Error::from)?)
    }

    /// The tags that a push names.
    fn tags(&self) -> Result<Vec<Tag>, Error> {
        let named = form_urlencoded::parse(self.0.as_bytes()).filter(|(key, _)| key == "tag");
        let tags = named.map(|(_, text)| text.parse::<Tag>());
        tags.collect::<Result<_, _>>().map_err(|error| registry::Error::ManifestInvalid(error.to_string()).into())
    }

    fn page(&self) -> Result<PageRequest, Error> {
        let count = match self.text("n") {
            // A number that overflows is above the limit of a page in any case.
            Some(n) if n.bytes().all(|b| b.is_ascii_digit()) => Some(n.parse().unwrap_or(usize::MAX)),
            Some(_) => return Err(Error::BadCount),
            None => None,
        };
        Ok(PageRequest { count, last: self.text("last") })
    }
}
