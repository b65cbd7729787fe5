//! `eyot export`: writes repositories to a folder or a bucket, for web servers or other tools.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::config::Config;
use super::outbound::NativePlatform;
use super::settings::{Values, read_bucket};
use crate::export::{self, Kind, Place, Request, Selection, Selector, Summary};
use crate::oci::RepositoryName;
use crate::platform::Platform as _;
use crate::store::s3::{BucketAddress, S3, S3Settings};

/// The least time between two lines of progress, in milliseconds.
const PROGRESS_MS: u64 = 2000;

const EXAMPLES: &str = "\
Examples:
  eyot export --for nginx /srv/registry                    # all repositories
  eyot export --for caddy /srv/registry 'team/**' app:v1   # some
  eyot export --for nginx --delete /srv/registry           # and remove what is gone
  eyot export --for s3 s3://my-bucket                      # a bucket that is served as it is
  eyot export --for cloudflare-pages site --blobs-url https://blobs.example.org
  eyot export --for oci-layout /backup/registry            # a backup that skopeo and oras read
  skopeo copy oci:/backup/registry/team/app:v1 docker://registry.example.org/team/app:v1

A server may run meanwhile. Run again, an export writes only what is new. The summary goes to
standard output in JSON. The status is 1 if anything could not be exported, with the reason.
The server and the login of a bucket are in the settings S3_ENDPOINT, S3_ACCESS_KEY_ID and
S3_SECRET_ACCESS_KEY. docs/static-sites.md has the setup of each host.";

/// What `eyot export` does.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Export {
    /// What will read the export: nginx, apache, caddy, s3 (a bucket), netlify, cloudflare-pages or
    /// oci-layout
    #[arg(long = "for", value_name = "HOST")]
    kind: Kind,
    /// The folder to write, made if missing; or s3://BUCKET/PREFIX, for s3 and oci-layout
    #[arg(value_name = "FOLDER|s3://BUCKET/PREFIX")]
    target: String,
    /// Repositories or REPOSITORY:TAG, all if missing; * stands for a part of a name, ** for anything
    #[arg(value_name = "REPOSITORY[:TAG]")]
    selectors: Vec<Selector>,
    /// Remove from the folder or bucket what the selected repositories do not have (any more)
    #[arg(long)]
    delete: bool,
    /// Change nothing, and report what would be written and removed
    #[arg(long)]
    dry_run: bool,
    /// Link to the files of the data folder where the file systems allow links, in place of copies.
    /// Only the owner of the data folder can read the links.
    #[arg(long)]
    link: bool,
    /// The path of the folder on the web server, if the folder will be moved there
    #[arg(long, value_name = "PATH")]
    served_from: Option<String>,
    /// The URL below which the blobs will be served, for netlify and cloudflare-pages: the folder
    /// `blobs` of the export must be copied there, such as to R2
    #[arg(long, value_name = "URL")]
    blobs_url: Option<String>,
}

impl Export {
    fn request(&self, config: &Config, values: Values<'_>, platform: &Arc<NativePlatform>) -> Result<Request> {
        let (place, path) = if BucketAddress::is_one(&self.target) {
            let settings = read_bucket(values, &self.target.parse()?)?;
            check_apart(&self.target, &settings, config.s3.as_ref())?;
            let bucket = S3::new(settings, platform.clone()).map_err(anyhow::Error::msg)?;
            (Place::Bucket(bucket.tree()), String::new())
        } else {
            let folder =
                std::path::absolute(&self.target).with_context(|| format!("cannot find the folder {}", self.target))?;
            let path = folder.display().to_string();
            (Place::Folder(folder), path)
        };
        let served_from = self.served_from.clone().unwrap_or(path);
        Ok(Request {
            kind: self.kind,
            place,
            served_from,
            blobs_url: self.blobs_url.clone(),
            selection: Selection::new(self.selectors.clone()),
            delete: self.delete,
            dry_run: self.dry_run,
            link: self.link,
        })
    }
}

/// Refuses a target in a bucket in which the objects of the registry and of the export would mix.
fn check_apart(target: &str, export: &S3Settings, store: Option<&S3Settings>) -> Result<()> {
    let same = |store: &&S3Settings| store.endpoint == export.endpoint && store.bucket == export.bucket;
    let Some(store) = store.filter(same) else { return Ok(()) };
    let own = ["keys/", "blobs/"].map(|folder| format!("{}{folder}", store.prefix));
    if store.prefix.starts_with(&export.prefix) || own.iter().any(|own| export.prefix.starts_with(own)) {
        bail!(
            "{target} holds objects of the registry itself (its prefix is {:?}); give a prefix beside them, such as \
             s3://{}/{}site",
            store.prefix,
            store.bucket,
            store.prefix
        );
    }
    Ok(())
}

/// Exports to a folder or a bucket. Prints progress to standard error, and the summary to standard
/// output.
///
/// # Errors
/// When the registry cannot be read or the target cannot be written.
pub(super) async fn run(options: &Export, config: &Config, values: Values<'_>) -> Result<ExitCode> {
    let platform = Arc::new(NativePlatform::default());
    let request = options.request(config, values, &platform)?;
    let registry = config.open(platform.clone(), None)?.registry();
    let mut next_ms = platform.now_ms() + PROGRESS_MS;
    let mut progress = |summary: &Summary, repository: &RepositoryName| {
        if platform.now_ms() >= next_ms {
            next_ms = platform.now_ms() + PROGRESS_MS;
            eprintln!("{repository}: {}", describe(summary));
        }
    };
    let summary = export::export(&registry, &request, &mut progress).await?;
    for problem in &summary.named_problems {
        eprintln!("eyot: {}", super::log::visible(problem));
    }
    let named = summary.named_problems.len() as u64;
    if summary.problems > named {
        eprintln!("eyot: {} more problems", summary.problems - named);
    }
    eprintln!("{}{}", if request.dry_run { "would be done: " } else { "" }, describe(&summary));
    writeln!(std::io::stdout(), "{}", serde_json::json!(summary))?;
    Ok(if summary.problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(summary: &Summary) -> String {
    let Summary { repositories, tags, manifests, blobs, files_written, bytes_written, files_removed, .. } = summary;
    format!(
        "{repositories} repositories, {tags} tags, {manifests} manifests, {blobs} blobs looked at; \
         {files_written} files with {bytes_written} bytes written, {files_removed} files removed"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::s3::PART_BYTES_DEFAULT;

    #[test]
    fn an_export_lies_beside_the_objects_of_the_registry() {
        let settings = |bucket: &str, prefix: &str| S3Settings {
            endpoint: "https://s3.example".into(),
            public_endpoint: None,
            region: "eu-1".into(),
            bucket: bucket.into(),
            prefix: prefix.into(),
            path_style: true,
            access_key_id: "key".into(),
            secret_access_key: "secret".into(),
            session_token: None,
            part_bytes: PART_BYTES_DEFAULT,
            equal_parts: false,
            conditional_puts: true,
            redirect_lifetime: Duration::from_secs(60),
        };
        for (store, export, is_apart) in [
            ("", "", false),
            ("", "site/", true),
            ("", "blobs/site/", false),
            ("", "keys/", false),
            ("registry/", "", false),
            ("registry/", "registry/", false),
            ("registry/", "registry/blobs/", false),
            ("registry/", "registry/site/", true),
            ("registry/", "site/", true),
        ] {
            let (own, target) = (settings("b", store), settings("b", export));
            let checked = check_apart("s3://b/x", &target, Some(&own));
            assert_eq!(checked.is_ok(), is_apart, "{store:?} and {export:?}");
            assert!(check_apart("s3://c/x", &settings("c", export), Some(&own)).is_ok(), "another bucket");
        }
    }
}
