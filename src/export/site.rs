//! Exports for web servers: the files of all repositories, and one configuration that serves them by
//! a few rules, however many manifests there are.
//!
//! | path in the folder | content |
//! | --- | --- |
//! | `blobs/<algorithm>/<hex>` | a blob, for all repositories |
//! | `repositories/<name>/_manifests/<tag or digest>` | a manifest; see [`Server`] |
//! | `repositories/<name>/_referrers/<digest>` | an image index: the referrers of a manifest |
//! | `repositories/<name>/_tags` | the list of tags |
//! | `manifests/<entry>/<entry>` | nginx and Caddy: a manifest, for all repositories |
//! | `catalog`, `version`, `no-referrers`, `errors/<code>` | answers that all repositories share |
//! | `nginx.conf`, `apache.conf` or `Caddyfile` | the configuration |
//!
//! An `<entry>` is `<digest>,<type>,<subtype>`, with the two halves of the media type. No component
//! of a repository's name begins with `_`, so that repositories within repositories never collide
//! with the files of a repository.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::error::Result;
use super::limits::limit;
use super::tree::{
    Digests, Item, JSON, Output, Taken, Tree, catalog, index, remove_content, remove_files, repositories_below,
    tags_list,
};
use crate::oci::manifest::OCI_INDEX;
use crate::oci::{Descriptor, Digest, RepositoryName};
use crate::store::s3::Head;

/// The longest name of a file on the usual file systems.
const FILE_NAME_BYTES_MAX: usize = 255;

/// The name of a file with HTTP headers in front of a manifest.
const HEADED: &str = "headed";

/// The codes of the answers with status 404 (distribution-spec, "Error Codes").
const ERRORS: [(&str, &str); 4] = [
    ("BLOB_UNKNOWN", "this registry does not have the blob"),
    ("MANIFEST_UNKNOWN", "this registry does not have the manifest"),
    ("NAME_UNKNOWN", "this registry does not have the repository"),
    ("UNSUPPORTED", "this registry has no such path"),
];

/// A web server, and how the server learns the media type and the digest of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// `_manifests/<reference>` is a symbolic link to the folder `manifests/<entry>`. nginx resolves
    /// the link, and reads the entry in the path.
    Nginx,
    /// `_manifests/<reference>/headed` is a file with HTTP headers in front of the manifest, for
    /// mod_asis. The name of the file has no dot, because mod_mime would take the end of a tag such
    /// as `v1.gz` for an encoding.
    Apache,
    /// As for nginx. Caddy finds the file in the folder by a wildcard, and reads the entry in the
    /// name of the file.
    Caddy,
}

/// A folder for a web server.
pub(super) struct Site {
    server: Server,
    /// The path of the folder on the machine of the web server.
    root: String,
    /// The entries of all repositories so far.
    entries: BTreeSet<String>,
}

impl Site {
    pub(super) fn new(server: Server, served_from: &str) -> Self {
        Self { server, root: served_from.trim_end_matches('/').to_owned(), entries: BTreeSet::new() }
    }

    /// The name of the configuration, and its text with `{root}` for the folder.
    fn configuration(&self) -> (&'static str, &'static str) {
        match self.server {
            Server::Nginx => ("nginx.conf", include_str!("hosts/nginx.conf")),
            Server::Apache => ("apache.conf", include_str!("hosts/apache.conf")),
            Server::Caddy => ("Caddyfile", include_str!("hosts/Caddyfile")),
        }
    }

    /// The path of the file or link that a tag or a digest of a repository leads to.
    fn reference(&self, repository: &RepositoryName, name: &str) -> String {
        let path = format!("{}/{name}", manifests_of(repository));
        if self.server == Server::Apache { format!("{path}/{HEADED}") } else { path }
    }

    /// Writes what a tag or a digest of a repository leads to.
    async fn put_reference(
        &self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        name: &str,
        item: &Item,
    ) -> Result<()> {
        let path = self.reference(repository, name);
        if self.server == Server::Apache {
            let Item { digest, media_type, bytes } = item;
            let length = bytes.len();
            let head =
                format!("Content-Type: {media_type}\nDocker-Content-Digest: {digest}\nContent-Length: {length}\n\n");
            return output.put(&path, &item.head(), &[head.as_bytes(), bytes]).await;
        }
        let up = "../".repeat(repository.as_str().split('/').count() + 2);
        output.link(&path, &format!("{up}manifests/{}", entry(&item.digest, &item.media_type))).await
    }
}

fn manifests_of(repository: &RepositoryName) -> String {
    format!("repositories/{repository}/_manifests")
}

fn referrers_of(repository: &RepositoryName) -> String {
    format!("repositories/{repository}/_referrers")
}

fn tags_of(repository: &RepositoryName) -> String {
    format!("repositories/{repository}/_tags")
}

fn entry(digest: &Digest, media_type: &str) -> String {
    format!("{digest},{}", media_type.replacen('/', ",", 1))
}

#[async_trait]
impl Tree for Site {
    fn shares_blobs(&self) -> bool {
        true
    }

    fn blob(&self, _: &RepositoryName, digest: &Digest) -> String {
        format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
    }

    fn refusal(&self, media_type: &str) -> Option<&'static str> {
        // RFC 6838, section 4.2. The server's configuration has the same characters.
        let is_name =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b));
        let (kind, subtype) = media_type.split_once('/').unwrap_or_default();
        if !is_name(kind) || !is_name(subtype) {
            return Some(
                "the web server cannot be told media types with other characters than letters, digits, . _ + -",
            );
        }
        // The longest digest is that of SHA-512.
        let entry_bytes = "sha512:".len() + 128 + ",".len() + media_type.len();
        (entry_bytes > FILE_NAME_BYTES_MAX).then_some("the media type is too long for the name of a file")
    }

    async fn put_manifest(&self, output: &mut Output<'_>, repository: &RepositoryName, item: &Item) -> Result<()> {
        if self.server != Server::Apache {
            let entry = entry(&item.digest, &item.media_type);
            if !self.entries.contains(&entry) {
                output.put(&format!("manifests/{entry}/{entry}"), &item.head(), &[&item.bytes]).await?;
            }
        }
        self.put_reference(output, repository, item.digest.as_str(), item).await
    }

    async fn put_tag(
        &self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        tag: &str,
        item: &Item,
    ) -> Result<()> {
        self.put_reference(output, repository, tag, item).await
    }

    async fn put_referrers(
        &self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<()> {
        let list = index(referrers, "the referrers of a manifest", repository)?;
        output.put(&format!("{}/{subject}", referrers_of(repository)), &Head::of(OCI_INDEX), &[&list]).await
    }

    async fn end_repository(
        &mut self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        taken: &Taken,
        delete: bool,
    ) -> Result<()> {
        let list = tags_list(repository, taken)?;
        output.put(&tags_of(repository), &Head::of(JSON), &[&list]).await?;
        if self.server != Server::Apache {
            self.entries.extend(taken.manifests.iter().map(|(digest, (media_type, _))| entry(digest, media_type)));
            limit(self.entries.len(), "the manifests", "all repositories")?;
        }
        if !delete {
            return Ok(());
        }
        for (name, _) in output.target.names(&manifests_of(repository)).await? {
            let is_kept = match name.parse::<Digest>() {
                Ok(digest) => taken.manifests.contains_key(&digest),
                Err(_) => taken.tags.contains_key(&name),
            };
            if !is_kept {
                output.remove(&self.reference(repository, &name)).await?;
            }
        }
        remove_files(output, &referrers_of(repository), |name| {
            name.parse().map_or(true, |subject| taken.subjects.contains(&subject))
        })
        .await
    }

    async fn end(
        &mut self,
        output: &mut Output<'_>,
        repositories: &[RepositoryName],
        blobs: &Digests,
        delete: bool,
    ) -> Result<()> {
        output.put("catalog", &Head::of(JSON), &[&catalog(repositories)?]).await?;
        output.put("version", &Head::of(JSON), &[b"{}"]).await?;
        output.put("no-referrers", &Head::of(OCI_INDEX), &[&index(&[], "", "")?]).await?;
        for (code, message) in ERRORS {
            let error = serde_json::json!({"errors": [{"code": code, "message": message}]});
            output.put(&format!("errors/{code}"), &Head::of(JSON), &[error.to_string().as_bytes()]).await?;
        }
        let (name, text) = self.configuration();
        output.put(name, &Head::of("text/plain"), &[text.replace("{root}", &self.root).as_bytes()]).await?;
        if !delete {
            return Ok(());
        }
        for gone in repositories_below(output.target, "repositories/", "_manifests").await? {
            if repositories.binary_search(&gone).is_err() {
                output.remove(&tags_of(&gone)).await?;
                remove_files(output, &referrers_of(&gone), |_| false).await?;
                for (name, _) in output.target.names(&manifests_of(&gone)).await? {
                    output.remove(&self.reference(&gone, &name)).await?;
                }
            }
        }
        for (name, _) in output.target.names("manifests").await? {
            if name.contains(',') && !self.entries.contains(&name) {
                output.remove(&format!("manifests/{name}/{name}")).await?;
            }
        }
        remove_content(output, "blobs", |digest| blobs.contains(digest)).await
    }
}
