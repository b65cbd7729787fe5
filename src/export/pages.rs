//! Exports for hosts of static pages, which take a folder, and rules in the files `_headers` and
//! `_redirects`: Cloudflare Pages and Netlify.
//!
//! | path in the folder | content |
//! | --- | --- |
//! | `site/v2/<name>/manifests/<digest>` | a manifest |
//! | `site/v2/<name>/referrers/<digest>` | an image index: the referrers of a manifest, for each manifest |
//! | `site/v2/<name>/tags/list`, `site/v2/_catalog`, `site/v2/index.html` | lists, and the check of the API |
//! | `site/blobs/<digest>` | a blob, for all repositories |
//! | `blobs/<digest>` | in place of the former, where blobs are served from elsewhere |
//! | `site/404.html`, `site/_headers`, `site/_redirects` | errors, and the rules |
//!
//! A tag is a redirect to the manifest's digest. Rules by patterns give the media type that most
//! manifests have, and each manifest of another media type has a rule of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use async_trait::async_trait;

use super::error::{Error, Result};
use super::limits::limit;
use super::tree::{
    Digests, Item, JSON, Output, Taken, Tree, catalog, index, remove_files, repositories_below, tags_list,
};
use crate::oci::manifest::OCI_INDEX;
use crate::oci::{Descriptor, Digest, RepositoryName};
use crate::store::s3::Head;

/// The folder to deploy.
const SITE: &str = "site";
/// The largest file that Cloudflare Pages takes, in bytes.
const CLOUDFLARE_FILE_BYTES_MAX: u64 = 25 * 1024 * 1024;
/// The most header rules that Cloudflare Pages takes.
const CLOUDFLARE_HEADERS_MAX: usize = 100;
/// The most redirects without a pattern that Cloudflare Pages takes.
const CLOUDFLARE_REDIRECTS_MAX: usize = 2000;

/// A host of static pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PagesHost {
    /// Cloudflare Pages: a pattern may have one `*` anywhere, and header values may have
    /// placeholders.
    Cloudflare,
    /// Netlify: `*` stands only at the end of a redirect, so that each depth of names has a rule.
    Netlify,
}

/// A folder for a host of static pages.
pub(super) struct Pages {
    host: PagesHost,
    /// The URL below which the blobs are served, if the site does not serve them itself.
    blobs_url: Option<String>,
    /// The tags of all repositories, each with its digest.
    tags: BTreeMap<String, Digest>,
    /// The paths of all manifests, each with its media type.
    manifests: BTreeMap<String, String>,
    /// The numbers of components that names of repositories have.
    depths: BTreeSet<usize>,
}

impl Pages {
    pub(super) fn new(host: PagesHost, blobs_url: Option<&str>) -> Self {
        let blobs_url = blobs_url.map(|url| url.trim_end_matches('/').to_owned());
        Self { host, blobs_url, tags: BTreeMap::new(), manifests: BTreeMap::new(), depths: BTreeSet::new() }
    }

    /// The patterns of the paths `/v2/<name>/<rest>`.
    fn patterns(&self, rest: &str) -> Vec<String> {
        match self.host {
            PagesHost::Cloudflare => vec![format!("/v2/*/{rest}")],
            PagesHost::Netlify => {
                let names = |depth: &usize| (1..=*depth).map(|part| format!(":name{part}/")).collect::<String>();
                self.depths.iter().map(|depth| format!("/v2/{}{rest}", names(depth))).collect()
            }
        }
    }

    /// The media type that most manifests have.
    fn usual_type(&self) -> &str {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for media_type in self.manifests.values() {
            *counts.entry(media_type).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map_or(OCI_INDEX, |(media_type, _)| media_type)
    }

    /// The text of `_headers`, and the number of rules in the text.
    fn headers(&self) -> (String, usize) {
        let is_cloudflare = self.host == PagesHost::Cloudflare;
        let digest = if is_cloudflare { "  Docker-Content-Digest: :digest\n" } else { "" };
        let usual = self.usual_type();
        let blob = "  Content-Type: application/octet-stream\n  Cache-Control: public, max-age=31536000, immutable\n";
        let json = format!("  Content-Type: {JSON}\n");
        let mut rules = vec![("/v2/".to_owned(), json.clone()), ("/v2/_catalog".to_owned(), json.clone())];
        let mut add = |rest: &str, headers: String| {
            rules.extend(self.patterns(rest).into_iter().map(|pattern| (pattern, headers.clone())));
        };
        add("tags/list", json);
        add("referrers/:digest", format!("  Content-Type: {OCI_INDEX}\n"));
        add("manifests/:digest", format!("  Content-Type: {usual}\n{digest}"));
        if self.blobs_url.is_none() {
            add("blobs/:digest", format!("{blob}{digest}"));
            rules.push(("/blobs/*".to_owned(), blob.to_owned()));
        }
        for (path, media_type) in self.manifests.iter().filter(|(_, media_type)| *media_type != usual) {
            // Cloudflare joins the values of a header unless the earlier value is removed, and takes
            // a colon before a letter for a placeholder.
            rules.push(match self.host {
                PagesHost::Cloudflare => {
                    (path.replace(':', "*"), format!("  ! Content-Type\n  Content-Type: {media_type}\n"))
                }
                PagesHost::Netlify => (path.clone(), format!("  Content-Type: {media_type}\n")),
            });
        }
        let text = rules.iter().map(|(pattern, headers)| format!("{pattern}\n{headers}")).collect();
        (text, rules.len())
    }

    /// The text of `_redirects`.
    fn redirects(&self) -> String {
        let mut text = String::new();
        for (path, digest) in &self.tags {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let _ = writeln!(text, "{path} {folder}/{digest} 302");
        }
        let (to, status) = match &self.blobs_url {
            Some(url) => (url.as_str(), 302),
            None => ("/blobs", 200),
        };
        for pattern in self.patterns("blobs/:digest") {
            let _ = writeln!(text, "{pattern} {to}/:digest {status}");
        }
        text
    }

    /// Checks the rules against the limits of the host.
    fn check(&self, headers: usize) -> Result<()> {
        if self.host != PagesHost::Cloudflare {
            return Ok(());
        }
        for (what, count, most) in [
            ("header rules, one for each manifest with another media type than most", headers, CLOUDFLARE_HEADERS_MAX),
            ("redirects, one for each tag", self.tags.len(), CLOUDFLARE_REDIRECTS_MAX),
        ] {
            if count > most {
                return Err(Error::Host { host: "Cloudflare Pages", what, count, most });
            }
        }
        Ok(())
    }
}

fn path_of(repository: &RepositoryName, folder: &str, name: impl std::fmt::Display) -> String {
    format!("/v2/{repository}/{folder}/{name}")
}

#[async_trait]
impl Tree for Pages {
    fn shares_blobs(&self) -> bool {
        true
    }

    fn lists_all_referrers(&self) -> bool {
        true
    }

    fn blob(&self, _: &RepositoryName, digest: &Digest) -> String {
        if self.blobs_url.is_some() { format!("blobs/{digest}") } else { format!("{SITE}/blobs/{digest}") }
    }

    fn blob_refusal(&self, size: u64) -> Option<&'static str> {
        let is_large = self.host == PagesHost::Cloudflare && size > CLOUDFLARE_FILE_BYTES_MAX;
        (is_large && self.blobs_url.is_none())
            .then_some("Cloudflare Pages takes files of at most 25 MiB; serve the blobs from R2, with --blobs-url URL")
    }

    fn refusal(&self, media_type: &str) -> Option<&'static str> {
        let is_plain = media_type.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._+-".contains(&b));
        (!is_plain).then_some("the media type cannot stand in a header rule")
    }

    async fn put_manifest(&self, output: &mut Output<'_>, repository: &RepositoryName, item: &Item) -> Result<()> {
        let path = format!("{SITE}{}", path_of(repository, "manifests", &item.digest));
        output.put(&path, &item.head(), &[&item.bytes]).await
    }

    async fn put_tag(&self, _: &mut Output<'_>, _: &RepositoryName, _: &str, _: &Item) -> Result<()> {
        // The redirects have the tags.
        Ok(())
    }

    async fn put_referrers(
        &self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<()> {
        let list = index(referrers, "the referrers of a manifest", repository)?;
        let path = format!("{SITE}{}", path_of(repository, "referrers", subject));
        output.put(&path, &Head::of(OCI_INDEX), &[&list]).await
    }

    async fn end_repository(
        &mut self,
        output: &mut Output<'_>,
        repository: &RepositoryName,
        taken: &Taken,
        delete: bool,
    ) -> Result<()> {
        let list = tags_list(repository, taken)?;
        output.put(&format!("{SITE}{}", path_of(repository, "tags", "list")), &Head::of(JSON), &[&list]).await?;
        self.depths.insert(repository.as_str().split('/').count());
        for (digest, (media_type, _)) in &taken.manifests {
            self.manifests.insert(path_of(repository, "manifests", digest), media_type.clone());
        }
        for (tag, descriptor) in &taken.tags {
            self.tags.insert(path_of(repository, "manifests", tag), descriptor.digest.clone());
        }
        limit(self.manifests.len(), "the manifests", "all repositories")?;
        if !delete {
            return Ok(());
        }
        for folder in ["manifests", "referrers"] {
            let is_kept = |digest: &Digest| {
                taken.manifests.contains_key(digest) || folder == "referrers" && taken.subjects.contains(digest)
            };
            remove_files(output, &format!("{SITE}/v2/{repository}/{folder}"), |name| {
                name.parse().map_or(true, |digest| is_kept(&digest))
            })
            .await?;
        }
        Ok(())
    }

    async fn end(
        &mut self,
        output: &mut Output<'_>,
        repositories: &[RepositoryName],
        blobs: &Digests,
        delete: bool,
    ) -> Result<()> {
        let (headers, count) = self.headers();
        self.check(count)?;
        let catalog = catalog(repositories)?;
        let error =
            serde_json::json!({"errors": [{"code": "UNSUPPORTED", "message": "this registry does not have that"}]});
        for (path, bytes) in [
            ("v2/_catalog", catalog.as_slice()),
            ("v2/index.html", b"{}"),
            ("404.html", error.to_string().as_bytes()),
            ("_headers", headers.as_bytes()),
            ("_redirects", self.redirects().as_bytes()),
        ] {
            output.put(&format!("{SITE}/{path}"), &Head::of(JSON), &[bytes]).await?;
        }
        if !delete {
            return Ok(());
        }
        for gone in repositories_below(output.target, &format!("{SITE}/v2/"), "manifests").await? {
            if repositories.binary_search(&gone).is_err() {
                for folder in ["manifests", "referrers", "tags"] {
                    remove_files(output, &format!("{SITE}/v2/{gone}/{folder}"), |_| false).await?;
                }
            }
        }
        for folder in ["blobs", "site/blobs"] {
            let is_used = (folder == "blobs") == self.blobs_url.is_some();
            remove_files(output, folder, |name| name.parse().map_or(true, |digest| is_used && blobs.contains(&digest)))
                .await?;
        }
        Ok(())
    }
}
