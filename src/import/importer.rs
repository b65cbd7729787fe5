//! The order of an import: repositories one after the other; in each the tags, then the manifests
//! without a tag, then the referrers of all that was taken.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::blobs::{Context, Place};
use super::error::{Error, Result};
use super::manifests::{Outcome, Visit};
use super::options::{Options, Target};
use super::report::{Progress, Report, Step};
use super::source::Source;
use crate::Registry;
use crate::oci::{Digest, Tag};
use crate::store::KeyValue;

/// How many names an error lists.
const NAMES_LISTED_MAX: usize = 5;

/// Imports what `options` choose of a source into a registry. `keys` is the registry's key-value
/// store, and `progress` gets each step.
///
/// The report has everything that could not be taken. Images that are stored already, and blobs that
/// any repository has, are not read from the source.
pub async fn import(
    registry: &Registry,
    keys: &Arc<dyn KeyValue>,
    source: &dyn Source,
    options: &Options,
    progress: &(dyn Fn(&Progress<'_>) + Sync),
) -> Report {
    let failures = AtomicUsize::default();
    let context = Context { registry, keys, source, dry_run: options.dry_run, progress, failures };
    let mut importer = Importer { context: &context, options, report: Report::default() };
    if let Err(error) = importer.run().await {
        importer.report.ended = Some(error);
    }
    importer.report
}

struct Importer<'a> {
    context: &'a Context<'a>,
    options: &'a Options,
    report: Report,
}

/// An image to take.
struct Image {
    /// The image's name in messages.
    name: String,
    digest: Digest,
    tag: Option<Tag>,
}

impl Importer<'_> {
    async fn run(&mut self) -> Result<()> {
        let mut names = self.context.counted(self.context.source.repositories().await)?;
        names.retain(|name| self.options.takes_repository(name));
        if let Some(Target { repository, .. }) = &self.options.target
            && names.len() > 1
        {
            let listed = names.iter().take(NAMES_LISTED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Error::refused(format!(
                "{} repositories would get the name {repository}: {listed}{}; choose one with --repositories",
                names.len(),
                if names.len() > NAMES_LISTED_MAX { ", …" } else { "" }
            )));
        }
        if names.is_empty() {
            return Err(Error::refused("the source has no repository, or none that --repositories names"));
        }
        for there in names {
            self.report.repositories += 1;
            match self.options.name_here(&there) {
                Ok(here) => {
                    let place = Place { there, here };
                    let imported = self.import_repository(&place).await;
                    self.note(place.here.as_str(), imported)?;
                }
                Err(why) => self.fail(&there, &why),
            }
        }
        Ok(())
    }

    /// Imports a repository. An error is about the repository as a whole.
    async fn import_repository(&mut self, place: &Place) -> Result<()> {
        let source = self.context.source;
        let all_tags = self.context.counted(source.tags(&place.there).await)?;
        let listed = self.context.counted(source.listed(&place.there).await)?;
        let (chosen, others): (Vec<Tag>, Vec<Tag>) = all_tags.into_iter().partition(|tag| self.options.takes_tag(tag));
        let mut report = std::mem::take(&mut self.report);
        let mut visit = Visit::new(self.context, place, &mut report);
        let visited = self.visit(place, &mut visit, chosen, &others, &listed).await;
        visit.count_unnamed();
        // Problems that were found meanwhile are in the importer's own report.
        report.problems_total += self.report.problems_total;
        report.problems.append(&mut self.report.problems);
        self.report = report;
        visited
    }

    async fn visit(
        &mut self,
        place: &Place,
        visit: &mut Visit<'_>,
        chosen: Vec<Tag>,
        others: &[Tag],
        listed: &[Digest],
    ) -> Result<()> {
        match self.options.target.as_ref().and_then(|target| target.tag.clone()) {
            Some(tag) => {
                let digest = self.only_image(place, &chosen, listed).await?;
                let name = format!("{}:{tag}", place.here);
                self.take(visit, Image { name, digest, tag: Some(tag) }).await?;
            }
            None if chosen.is_empty() && place.there.is_empty() => {
                return Err(Error::refused("the image has no tag in the source: give one with --as NAME:TAG"));
            }
            None => {
                for tag in chosen {
                    self.take_tag(place, visit, tag).await?;
                }
                if self.options.tags.is_empty() {
                    for digest in listed {
                        let name = format!("{}@{digest}", place.here);
                        self.take(visit, Image { name, digest: digest.clone(), tag: None }).await?;
                    }
                }
            }
        }
        self.take_referrers(place, visit, others, listed).await
    }

    /// The only image of a repository, which gets the tag that the operator names.
    async fn only_image(&self, place: &Place, chosen: &[Tag], listed: &[Digest]) -> Result<Digest> {
        match (chosen, listed) {
            ([tag], _) => self.context.counted(self.context.source.resolve(&place.there, tag).await),
            ([], [digest]) => Ok(digest.clone()),
            _ => Err(Error::refused(format!(
                "the tag of --as is for one image, and the source has {}: choose one with --tags",
                chosen.len().max(listed.len())
            ))),
        }
    }

    async fn take_tag(&mut self, place: &Place, visit: &mut Visit<'_>, tag: Tag) -> Result<()> {
        let name = format!("{}:{tag}", place.here);
        match self.context.counted(self.context.source.resolve(&place.there, &tag).await) {
            Ok(digest) => self.take(visit, Image { name, digest, tag: Some(tag) }).await,
            Err(error) => self.note(&name, Err(error)),
        }
    }

    /// Takes an image and points its tag. An image without a tag that was looked at before is
    /// passed over: a list has the images with tags, and those in indexes, too.
    async fn take(&mut self, visit: &mut Visit<'_>, image: Image) -> Result<()> {
        let Image { name, digest, tag } = image;
        if tag.is_none() && visit.has_seen(&digest) {
            return Ok(());
        }
        let outcome = visit.take(&digest).await?;
        let was_here = match (outcome, &tag) {
            (Outcome::Absent(why) | Outcome::Failed(why), _) => {
                self.fail(&name, &why);
                return Ok(());
            }
            (_, Some(tag)) => match visit.point(tag, &digest).await {
                Ok(was_here) => was_here,
                Err(error) => return self.note(&name, Err(error)),
            },
            (outcome, None) => outcome == Outcome::Here,
        };
        (self.context.progress)(&Progress { name: &name, step: if was_here { Step::Here } else { Step::Taken } });
        Ok(())
    }

    /// Takes the manifests that refer to those that were taken, and the tags by which signatures and
    /// fallback lists name a manifest (`sha256-…`).
    async fn take_referrers(
        &mut self,
        place: &Place,
        visit: &mut Visit<'_>,
        others: &[Tag],
        listed: &[Digest],
    ) -> Result<()> {
        let by_subject = self.by_subject(visit, listed).await;
        let mut looked_at = 0;
        // The list grows by the referrers, which may have referrers too.
        while let Some(subject) = visit.taken().get(looked_at).cloned() {
            looked_at += 1;
            let asked = self.context.counted(self.context.source.referrers(&place.there, &subject).await);
            let mut referrers = match asked {
                Ok(referrers) => referrers,
                Err(error) => {
                    self.note(&format!("{}@{subject}", place.here), Err(error))?;
                    continue;
                }
            };
            referrers.extend(by_subject.get(&subject).into_iter().flatten().cloned());
            for digest in referrers {
                let name = format!("{}@{digest}", place.here);
                self.take(visit, Image { name, digest, tag: None }).await?;
            }
            let begin = format!("{}-{}", subject.algorithm().as_str(), subject.hex());
            for tag in others.iter().filter(|tag| tag.as_str().starts_with(&begin)) {
                self.take_tag(place, visit, tag.clone()).await?;
            }
        }
        Ok(())
    }

    /// The listed manifests by their subjects. Empty where all listed manifests are taken anyway.
    async fn by_subject(&self, visit: &Visit<'_>, listed: &[Digest]) -> HashMap<Digest, Vec<Digest>> {
        let mut by_subject: HashMap<Digest, Vec<Digest>> = HashMap::new();
        let takes_all = self.options.tags.is_empty() && self.options.target.is_none();
        for digest in listed.iter().filter(|_| !takes_all) {
            if let Some(subject) = visit.subject(digest).await {
                by_subject.entry(subject).or_default().push(digest.clone());
            }
        }
        by_subject
    }

    /// Lists an error as a problem, unless the error ends the import.
    fn note(&mut self, name: &str, done: Result<()>) -> Result<()> {
        match done {
            Err(error) if error.ends_the_import() => Err(error),
            Err(error) => {
                self.fail(name, &error.to_string());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn fail(&mut self, name: &str, why: &str) {
        self.report.add_problem(name, why);
        (self.context.progress)(&Progress { name, step: Step::Failed(why) });
    }
}
