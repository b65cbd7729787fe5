//! The simulated clients, which push, pull, tag, delete and cancel, and the simulated collectors.

use std::collections::BTreeSet;

use bytes::Bytes;

use eyot::Body;
use eyot::oci::{Algorithm, Reference};
use eyot::platform::BodyError;
use eyot::registry::{Chunk, Error, Mounted, PageRequest};

use crate::contents::{Manifest, contents};
use crate::model::Writing;
use crate::upstream;
use crate::world::World;

/// `None` when a request failed in a way after which a client gives up.
type Outcome = Option<()>;

pub async fn client(world: World) {
    for _ in 0..world.setting.operations {
        let _ = operation(&world).await;
    }
}

async fn operation(world: &World) -> Outcome {
    if let Some(cache) = world.cache.as_ref().filter(|_| world.scheduler.below(2) == 0) {
        return upstream::operation(world, cache).await;
    }
    let (first, count) = world.setting.manifests;
    let repository = world.scheduler.below(world.setting.repositories);
    let tag = world.scheduler.below(world.setting.tags);
    let manifest = first + world.scheduler.below(count);
    match world.scheduler.below(16) {
        0..=6 => push_all(world, repository, manifest, 0).await,
        7 => push_manifest(world, repository, manifest, true).await.map(|_| ()),
        8 | 9 => pull(world, repository, tag).await,
        10 | 11 if world.setting.deletes => delete_tag(world, repository, tag).await,
        12 if world.setting.deletes => delete_manifest(world, repository, manifest).await,
        13 => cancel(world).await,
        14 => meddle(world).await,
        15 => list(world, repository).await,
        _ => push_all(world, repository, manifest, 0).await,
    }
}

/// Reports an error that the faults of the stores do not explain.
fn check_error(world: &World, what: &str, error: &Error) {
    world.scheduler.note(what, &error.to_string());
    if matches!(error, Error::Store(_)) && world.setting.faults_per_mille == 0 {
        world.fail(format!("{what}: {error}, and no store failed"));
    }
}

/// Pushes a manifest as clients do: first everything that the manifest names. Missing content is
/// pushed again.
async fn push_all(world: &World, repository: usize, manifest: usize, depth: usize) -> Outcome {
    let this = &contents().manifests[manifest];
    for _ in 0..3 {
        // A referrer may be pushed before its subject.
        let named = this.occurring_manifests.iter().filter(|named| this.subject != Some(**named));
        for child in named {
            Box::pin(push_all(world, repository, *child, depth + 1)).await?;
        }
        for blob in &this.occurring_blobs {
            push_blob(world, repository, *blob).await?;
        }
        match push_manifest(world, repository, manifest, depth == 0).await {
            Some(true) => return Some(()),
            Some(false) => {}
            None => return None,
        }
    }
    None
}

async fn push_blob(world: &World, repository: usize, blob: usize) -> Outcome {
    let (registry, name) = (world.registry(), world.repository(repository));
    let wanted = &contents().blobs[blob];
    for _ in 0..3 {
        let pushed = match world.scheduler.below(8) {
            // An existing blob need not be pushed.
            0 => match registry.blob(&name, &wanted.digest).await {
                Ok(_) => Ok(()),
                Err(Error::BlobUnknown(_)) => continue,
                Err(error) => Err(error),
            },
            1..=3 => registry.push_blob(&name, &wanted.digest, wanted.bytes.clone().into()).await,
            4 | 5 => {
                let from = world.repository(world.scheduler.below(world.setting.repositories));
                let from = world.scheduler.dice(|dice| dice.per_mille(500)).then_some(from);
                match registry.mount_or_begin(&name, &wanted.digest, from.as_ref()).await {
                    Ok(Mounted::Blob(_)) => Ok(()),
                    Ok(Mounted::Upload(status)) => upload(world, repository, blob, status.session).await,
                    Err(error) => Err(error),
                }
            }
            _ => match registry.begin_upload(&name, Algorithm::Sha256).await {
                Ok(status) => upload(world, repository, blob, status.session).await,
                Err(error) => Err(error),
            },
        };
        match pushed {
            Ok(()) => {
                world.scheduler.note("pushed blob", wanted.digest.as_str());
                return Some(());
            }
            Err(error) => check_error(world, "push of a blob", &error),
        }
    }
    None
}

/// A body of unknown length; some clients send whole blobs so.
fn streamed(bytes: Bytes) -> Body {
    Body::from_stream(futures_util::stream::iter([Ok::<_, BodyError>(bytes)]))
}

/// Uploads a blob in chunks and completes the upload.
async fn upload(
    world: &World,
    repository: usize,
    blob: usize,
    session: eyot::registry::SessionId,
) -> Result<(), Error> {
    let (registry, name) = (world.registry(), world.repository(repository));
    let wanted = &contents().blobs[blob];
    world.sessions.lock().unwrap().push((repository, session.clone()));
    let cut = world.scheduler.below(wanted.bytes.len() + 1);
    let (first, last) = (wanted.bytes.slice(..cut), wanted.bytes.slice(cut..));
    registry.append_upload(&name, &session, Chunk { range: None, body: streamed(first) }).await?;
    let registry = world.registry();
    let chunk = Chunk { range: Some(cut as u64..wanted.bytes.len() as u64), body: last.into() };
    registry.complete_upload(&name, &session, &wanted.digest, chunk).await
}

/// Pushes a manifest. `Some(false)`: content that the manifest names is missing, the registry is
/// busy, or a store failed.
async fn push_manifest(world: &World, repository: usize, manifest: usize, may_tag: bool) -> Option<bool> {
    let this = &contents().manifests[manifest];
    let name = world.repository(repository);
    let tags: BTreeSet<usize> = match may_tag {
        true => (0..world.scheduler.below(4)).map(|_| world.scheduler.below(world.setting.tags)).collect(),
        false => BTreeSet::new(),
    };
    let mut beside: Vec<usize> = tags.iter().copied().collect();
    // A push with several tags or without tags uses the digest as reference.
    let reference = match beside.len() {
        1 => Reference::Tag(world.tag(beside.remove(0))),
        _ => Reference::Digest(this.digest.clone()),
    };
    let (began, began_ms) = (world.scheduler.step(), world.bare.now_ms());
    let mut writings: Vec<(usize, Writing)> =
        tags.iter().map(|tag| (*tag, Writing::tag(&world.model, (repository, *tag), Some(manifest)))).collect();
    let tags_beside: Vec<_> = beside.iter().map(|tag| world.tag(*tag)).collect();
    let body = this.bytes.clone().into();
    let pushed = world.registry().push_manifest(&name, &reference, &tags_beside, Some(this.media_type), body).await;
    match pushed {
        Ok(pushed) => {
            world.scheduler.note("pushed manifest", &format!("{manifest} to {name} as {tags:?}"));
            // A push that takes too long may leave tags to its client.
            let in_time = world.bare.now_ms() - began_ms < 15_000;
            if pushed.tags.len() < tags_beside.len() && world.setting.faults_per_mille == 0 && in_time {
                world.fail("not all tags were pointed, and no store failed");
            }
            // The acknowledged tags are the first of the requested tags.
            let done = if beside.is_empty() { writings.len() } else { pushed.tags.len() };
            writings.drain(..done).for_each(|(_, writing)| writing.acknowledged());
            world.model.lock().unwrap().acknowledge((repository, manifest), began);
            crate::check::promise(world, (repository, manifest));
            check_now(world, repository);
            Some(true)
        }
        Err(error) => {
            check_error(world, "push of a manifest", &error);
            match error {
                Error::ManifestBlobUnknown(_) | Error::Busy | Error::Store(_) => Some(false),
                error => {
                    world.fail(format!("push of manifest {manifest}: {error}"));
                    None
                }
            }
        }
    }
}

/// Checks that acknowledged content exists.
fn check_now(world: &World, repository: usize) {
    if let Err(why) = crate::check::repository(world, repository) {
        world.fail(why);
    }
}

async fn pull(world: &World, repository: usize, tag: usize) -> Outcome {
    let (registry, name) = (world.registry(), world.repository(repository));
    let is_certain = || {
        let model = world.model.lock().unwrap();
        model.is_calm((repository, tag)) && !model.values((repository, tag)).contains(&None)
    };
    let (was_certain, changes) = (is_certain(), world.model.lock().unwrap().changes);
    let found = registry.manifest(&name, &Reference::Tag(world.tag(tag))).await;
    let is_certain = was_certain && is_certain() && world.model.lock().unwrap().changes == changes;
    let found = match found {
        Ok(found) => found,
        Err(Error::ManifestUnknown(_)) => {
            if is_certain {
                world.fail(format!("{name}:{tag} is not found, and it was acknowledged"));
            }
            return None;
        }
        Err(error) => {
            check_error(world, "pull of a manifest", &error);
            return None;
        }
    };
    let Some(number) = contents().manifest_of(&found.digest) else {
        world.fail(format!("{name}:{tag} is {}, which nobody pushed", found.digest));
        return None;
    };
    let this: &Manifest = &contents().manifests[number];
    read(world, "a manifest", registry.read_manifest(&found).await, &this.bytes).await?;
    for blob in &this.blobs {
        let wanted = &contents().blobs[*blob];
        // Meanwhile the tag may have moved and the blob may have been collected.
        let blob = registry.blob(&name, &wanted.digest).await.ok()?;
        read(world, "a blob", registry.read_blob(&blob, 0..blob.size).await, &wanted.bytes).await?;
    }
    Some(())
}

/// Reads a body and asserts that successfully read bytes are the expected bytes.
async fn read(world: &World, what: &str, body: Result<Body, Error>, expected: &[u8]) -> Outcome {
    let bytes = body.ok()?.collect_up_to(1 << 20).await.ok()?;
    if bytes != expected {
        world.fail(format!("{what} has the wrong bytes: {bytes:?}"));
    }
    Some(())
}

async fn delete_tag(world: &World, repository: usize, tag: usize) -> Outcome {
    let writing = Writing::tag(&world.model, (repository, tag), None);
    let reference = Reference::Tag(world.tag(tag));
    match world.registry().delete_manifest(&world.repository(repository), &reference).await {
        Ok(()) => {
            world.scheduler.note("deleted tag", &format!("{repository}:{tag}"));
            writing.acknowledged();
        }
        Err(Error::ManifestUnknown(_)) if !writing.could_be_absent() => {
            world.fail(format!("tag {repository}:{tag} is not found to be deleted, and it was acknowledged"));
        }
        Err(Error::ManifestUnknown(_)) => {}
        Err(error) => check_error(world, "deletion of a tag", &error),
    }
    Some(())
}

async fn delete_manifest(world: &World, repository: usize, manifest: usize) -> Outcome {
    let reference = Reference::Digest(contents().manifests[manifest].digest.clone());
    let writing = Writing::delete(&world.model, (repository, manifest));
    match world.registry().delete_manifest(&world.repository(repository), &reference).await {
        Ok(()) => {
            world.scheduler.note("deleted manifest", &format!("{repository}@{manifest}"));
            writing.acknowledged();
            check_now(world, repository);
        }
        Err(Error::ManifestUnknown(_)) => {}
        Err(error) => check_error(world, "deletion of a manifest", &error),
    }
    Some(())
}

fn some_session(world: &World) -> Option<(usize, eyot::registry::SessionId)> {
    let sessions = world.sessions.lock().unwrap();
    (!sessions.is_empty()).then(|| sessions[world.scheduler.below(sessions.len())].clone())
}

async fn cancel(world: &World) -> Outcome {
    let (repository, session) = some_session(world)?;
    match world.registry().cancel_upload(&world.repository(repository), &session).await {
        Ok(()) => world.scheduler.note("cancelled", &session.to_string()),
        Err(error) => check_error(world, "cancelling", &error),
    }
    Some(())
}

/// Appends bytes to another client's upload, or ends the upload.
async fn meddle(world: &World) -> Outcome {
    let (repository, session) = some_session(world)?;
    let name = world.repository(repository);
    let blob = &contents().blobs[world.scheduler.below(contents().blobs.len())];
    let chunk = Chunk { range: None, body: blob.bytes.clone().into() };
    let meddled = match world.scheduler.below(2) {
        0 => world.registry().append_upload(&name, &session, chunk).await.map(|_| ()),
        _ => world.registry().complete_upload(&name, &session, &blob.digest, chunk).await,
    };
    if let Err(error) = meddled {
        check_error(world, "meddling with an upload", &error);
    }
    Some(())
}

async fn list(world: &World, repository: usize) -> Outcome {
    let name = world.repository(repository);
    let before = world.model.lock().unwrap().changes;
    let page = world.registry().tags(&name, &PageRequest { count: Some(1000), last: None }).await;
    let model = world.model.lock().unwrap();
    if model.changes != before || world.setting.limits.page_entries_max < world.setting.tags {
        return Some(());
    }
    let mut certain = model.certain_tags().filter(|(tag, _)| tag.0 == repository && model.is_calm(*tag));
    let missing = match page {
        Ok(page) => certain.find(|(tag, _)| !page.entries.contains(&world.tag(tag.1).to_string())),
        Err(Error::NameUnknown(_)) => certain.next(),
        Err(_) => None,
    };
    if let Some((tag, _)) = missing {
        world.fail(format!("tag {tag:?} is not listed, and it was acknowledged"));
    }
    Some(())
}

/// Runs `steps` steps of the collection.
pub async fn collector(world: World, steps: usize) {
    for _ in 0..steps {
        match world.registry().collect_step(&world.setting.request()).await {
            Ok(report) => {
                world.scheduler.note("collected", &format!("{} {} done: {}", report.round, report.phase, report.done));
                // A blob that a client deleted on purpose would count as unknown, but the simulated
                // clients delete no blobs.
                let is_unknown = report.unknown.count > 0;
                if is_unknown && world.setting.faults_per_mille == 0 {
                    world.fail(format!("the collector cannot read {:?}", report.unknown));
                }
            }
            Err(Error::Busy) => {
                let ms = world.scheduler.dice(|dice| [0, 1_000, 130_000][dice.below(3)]);
                world.scheduler.sleep(ms).await;
            }
            Err(error) => check_error(&world, "a step of the collection", &error),
        }
    }
}
