//! Invariants of the simulation, checked in the bare stores.

use std::collections::BTreeSet;
use std::future::Future;

use eyot::oci::{Digest, Reference};
use eyot::registry::{CollectRequest, Error, InvalidManifest, PageRequest, ReferrersRequest};
use eyot::store::Location;
use futures_util::FutureExt as _;
use serde_json::Value as Json;

use crate::contents::contents;
use crate::executor::Step;
use crate::model::{ManifestId, Model, Promise};
use crate::upstream::EXPIRED_MS;
use crate::world::World;

type Outcome<T = ()> = Result<T, String>;

/// The maximum number of collection rounds until only content in use is left.
const ROUNDS_MAX: usize = 5;

/// Returns the result of a future over the bare stores, which answer at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("bare stores answer at once")
}

/// Checks all repositories after a step that may have removed needed content.
pub fn after(world: &World, step: &Step) -> Outcome {
    match step.what {
        "remove" => everything(world),
        "delete" if step.of.starts_with("pack/") => everything(world),
        "delete" if is_needed(world, &step.of) => everything(world),
        _ => Ok(()),
    }
}

/// Whether a key may belong to content that must exist.
fn is_needed(world: &World, key: &str) -> bool {
    let Some((kind, last)) = key.split_once('/').map(|(kind, rest)| (kind, rest.rsplit('!').next().unwrap_or(rest)))
    else {
        return false;
    };
    match kind {
        "tag" => true,
        "manifest" | "blob" => {
            let model = world.model.lock().unwrap();
            let values = model.certain_tags().flat_map(|(_, values)| values.iter().flatten().copied());
            let mut open: Vec<usize> = values.collect();
            if world.setting.untagged_lifetime_ms.is_none() {
                open.extend(model.certain_manifests().map(|(_, manifest)| manifest));
            }
            let mut seen = BTreeSet::new();
            while let Some(manifest) = open.pop() {
                let manifest = &contents().manifests[manifest];
                if !seen.insert(&manifest.digest) {
                    continue;
                }
                if manifest.digest.as_str() == last
                    || manifest.occurring_blobs.iter().any(|blob| contents().blobs[*blob].digest.as_str() == last)
                {
                    return true;
                }
                open.extend(&manifest.occurring_manifests);
            }
            false
        }
        _ => false,
    }
}

pub fn everything(world: &World) -> Outcome {
    world.repositories().try_for_each(|number| repository(world, number))
}

/// Checks that all acknowledged content of a repository is served.
pub fn repository(world: &World, number: usize) -> Outcome {
    let model = world.model.lock().unwrap();
    for (tag, values) in model.certain_tags().filter(|(tag, _)| tag.0 == number) {
        let name = format!("{}:{}", world.repository(number), world.tag(tag.1));
        let reference = Reference::Tag(world.tag(tag.1));
        let found = now(world.bare.manifest(&world.repository(number), &reference));
        let found = found.map_err(|error| format!("{name}, which is one of {values:?}: {error}"))?;
        let value = contents().manifest_of(&found.digest);
        if !values.contains(&value) {
            return Err(format!("{name} is {value:?}, and not one of {values:?}"));
        }
        let manifest = (number, value.unwrap_or_default());
        whole(world, manifest, &|parent, child| model.is_deleted_since(child, model.pushed_at(parent)))
            .map_err(|why| format!("{name}: {why}"))?;
        // While other values are possible, the found value may come from an unacknowledged push.
        if values.len() == 1 {
            promised(world, &model, manifest).map_err(|why| format!("{name}: {why}"))?;
        }
    }
    if world.setting.untagged_lifetime_ms.is_none() {
        for manifest in model.certain_manifests().filter(|manifest| manifest.0 == number) {
            whole(world, manifest, &|parent, child| model.is_deleted_since(child, model.pushed_at(parent)))?;
            promised(world, &model, manifest)?;
        }
    }
    Ok(())
}

/// Records a promise for a just acknowledged manifest: all blobs and manifests that exist now and
/// whose digests occur in the manifest's bytes, at any depth.
pub fn promise(world: &World, manifest: ManifestId) {
    let mut model = world.model.lock().unwrap();
    let name = world.repository(manifest.0);
    let mut promise = Promise { step: model.step(), ..Promise::default() };
    let (mut open, mut seen) = (vec![manifest.1], BTreeSet::new());
    while let Some(this) = open.pop() {
        if !seen.insert(this) {
            continue;
        }
        for digest in &contents().manifests[this].occurring {
            if now(world.bare.blob(&name, digest)).is_ok() {
                promise.blobs.insert((this, digest.clone()));
            }
            // An unacknowledged push may remove its own manifest again.
            let named = contents().manifest_of(digest).filter(|named| model.is_certain((manifest.0, *named)));
            if let Some(named) = named
                && now(world.bare.manifest(&name, &Reference::Digest(digest.clone()))).is_ok()
            {
                promise.manifests.insert((this, named));
                open.push(named);
            }
        }
    }
    model.promises.insert(manifest, promise);
}

/// Checks that blobs and manifests promised to a kept manifest still exist.
fn promised(world: &World, model: &Model, manifest: ManifestId) -> Outcome {
    let name = world.repository(manifest.0);
    let Some(promise) = model.promises.get(&manifest) else { return Ok(()) };
    let (mut open, mut seen) = (vec![manifest.1], BTreeSet::new());
    while let Some(this) = open.pop() {
        // Content that only a deleted manifest named may be removed with that manifest.
        if !seen.insert(this) || model.is_deleted_since((manifest.0, this), promise.step) {
            continue;
        }
        let wrong = |error: Error| format!("what occurs in manifest {this} in {name} is lost: {error}");
        now(world.bare.manifest(&name, &Reference::Digest(contents().manifests[this].digest.clone())))
            .map_err(wrong)?;
        for (_, digest) in promise.blobs.iter().filter(|(by, _)| *by == this) {
            let blob = now(world.bare.blob(&name, digest)).map_err(wrong)?;
            let bytes = now(world.bare.read_blob(&blob, 0..blob.size)).map_err(wrong)?;
            let bytes =
                now(bytes.collect_up_to(1 << 20)).map_err(|error| wrong(InvalidManifest::Body(error).into()))?;
            if !digest.matches(&bytes) {
                return Err(format!("{digest}, which occurs in manifest {this} in {name}, has wrong bytes"));
            }
        }
        open.extend(promise.manifests.iter().filter(|(by, _)| *by == this).map(|(_, named)| *named));
    }
    Ok(())
}

/// Checks that a manifest and all blobs and children that it names can be read, except children
/// deleted since the push of their parent. A push checks only the children of its own manifest;
/// their children may be missing.
fn whole(world: &World, manifest: ManifestId, is_deleted: &dyn Fn(ManifestId, ManifestId) -> bool) -> Outcome {
    let name = world.repository(manifest.0);
    let this = &contents().manifests[manifest.1];
    let wrong = |what: &str, error: &str| format!("manifest {} in {name}: {what}: {error}", manifest.1);
    let found = now(world.bare.manifest(&name, &Reference::Digest(this.digest.clone())));
    let found = found.map_err(|error| wrong("itself", &error.to_string()))?;
    let body = now(world.bare.read_manifest(&found)).map_err(|error| wrong("its bytes", &error.to_string()))?;
    if now(body.collect_up_to(1 << 20)).ok().as_ref() != Some(&this.bytes) {
        return Err(wrong("its bytes", "wrong or missing"));
    }
    for blob in &this.blobs {
        let wanted = &contents().blobs[*blob];
        let what = format!("blob {blob} {}", wanted.digest);
        let found = now(world.bare.blob(&name, &wanted.digest)).map_err(|error| wrong(&what, &error.to_string()))?;
        let body =
            now(world.bare.read_blob(&found, 0..found.size)).map_err(|error| wrong(&what, &error.to_string()))?;
        if now(body.collect_up_to(1 << 20)).ok().as_ref() != Some(&wanted.bytes) {
            return Err(wrong(&what, "wrong or missing bytes"));
        }
    }
    for child in &this.children {
        if !is_deleted(manifest, (manifest.0, *child)) {
            whole(world, (manifest.0, *child), is_deleted).map_err(|why| wrong("its child", &why))?;
        }
    }
    Ok(())
}

/// Checks, when all writers have ended, that every listed tag is served.
pub fn quiet(world: &World) -> Outcome {
    everything(world)?;
    for number in 0..world.setting.repositories {
        let name = world.repository(number);
        let tags = match now(world.bare.tags(&name, &PageRequest::default())) {
            Ok(page) => page.entries,
            Err(Error::NameUnknown(_)) => Vec::new(),
            Err(error) => return Err(error.to_string()),
        };
        for tag in tags {
            let found = now(world.bare.manifest(&name, &tag.parse().unwrap()));
            let found = found.map_err(|error| format!("{name}:{tag} is listed: {error}"))?;
            let value = contents().manifest_of(&found.digest).ok_or("a manifest that nobody pushed")?;
            let model = world.model.lock().unwrap();
            whole(world, (number, value), &|_, child| model.is_deleted_since(child, 0))
                .map_err(|why| format!("{name}:{tag} is listed: {why}"))?;
        }
    }
    Ok(())
}

/// Checks that the collection removes everything that is unused and old enough, and nothing else.
pub fn collected(world: &World) -> Outcome {
    let request = CollectRequest { grace_ms: 0, untagged_lifetime_ms: Some(0), dry_run: false };
    let (mut left, mut expected) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..ROUNDS_MAX {
        world.scheduler.pass_ms(if world.cache.is_some() { EXPIRED_MS } else { 4_000_000 });
        loop {
            let report = now(world.bare.collect_step(&request));
            let report = report.map_err(|error| format!("collection at the end: {error}"))?;
            world.scheduler.remark(&format!("{report:?}"));
            if report.done {
                break;
            }
        }
        everything_but_untagged(world)?;
        (left, expected) = (all_there_is(world), in_use(world)?);
        if left == expected {
            return referrers(world);
        }
    }
    let extra: Vec<_> = left.difference(&expected).collect();
    let missing: Vec<_> = expected.difference(&left).collect();
    Err(format!("after the collection there is also {extra:?}, and there is not {missing:?}"))
}

fn everything_but_untagged(world: &World) -> Outcome {
    if world.setting.untagged_lifetime_ms.is_none() { Ok(()) } else { everything(world) }
}

fn all_there_is(world: &World) -> BTreeSet<String> {
    let keys = now(world.keys.list("", None, 100_000)).unwrap();
    // Skip the keys of packed content (`pack/`): the blob store lists the same content by name.
    let keys = keys.into_iter().filter(|key| !key.starts_with("collection/") && !key.starts_with("pack/"));
    // An index entry from digest to content may be lost. The loss costs only another upload.
    let keys = keys.filter(|key| !key.starts_with("content/"));
    let stored = now(world.blobs.list(None, 100_000)).unwrap();
    keys.chain(stored.into_iter().map(|stored| format!("stored {}", stored.name))).collect()
}

fn fact(world: &World, key: &str) -> Outcome<Json> {
    let entry = now(world.keys.get(key)).unwrap().ok_or_else(|| format!("{key} is missing"))?;
    let line = entry.value.split(|byte| *byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice(line).map_err(|error| format!("{key}: {error}"))
}

/// Every key and object that is reachable from tags.
fn in_use(world: &World) -> Outcome<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let (mut locations, mut unread) = (BTreeSet::new(), BTreeSet::new());
    for number in world.repositories() {
        let name = world.repository(number);
        let prefix = format!("tag/{name}!");
        let mut open = Vec::new();
        for key in now(world.keys.list(&prefix, None, 1000)).unwrap() {
            let digest: Digest = fact(world, &key)?["digest"].as_str().unwrap_or_default().parse().unwrap();
            let tag = &key[prefix.len()..];
            all.insert(format!("tagged/{name}!{digest}!{tag}"));
            // A tag that came from the upstream stays if it leads to a pushed manifest.
            let of_cache = format!("mirror/tag/{name}!{tag}");
            if now(world.keys.get(&of_cache)).unwrap().is_some() {
                all.insert(of_cache);
            }
            all.insert(format!("repository/{name}!"));
            open.push(contents().manifest_of(&digest).ok_or("a manifest that nobody pushed")?);
            all.insert(key);
        }
        let is_there = |manifest: usize| {
            let key = format!("manifest/{name}!{}", contents().manifests[manifest].digest);
            now(world.keys.get(&key)).unwrap().is_some()
        };
        let mut seen = BTreeSet::new();
        while let Some(manifest) = open.pop() {
            if !seen.insert(manifest) {
                continue;
            }
            let this = &contents().manifests[manifest];
            open.extend((0..contents().manifests.len()).filter(|n| contents().manifests[*n].subject == Some(manifest)));
            // A child may have been deleted on purpose. Its referrers stay as long as the child is
            // listed.
            if !is_there(manifest) {
                continue;
            }
            open.extend(&this.occurring_manifests);
            let key = format!("manifest/{name}!{}", this.digest);
            if fact(world, &key)?["large"] == true {
                let large = format!("large/{name}!{}", this.digest);
                locations.insert(fact(world, &large)?["location"].as_str().unwrap_or_default().to_owned());
                all.insert(large);
            }
            all.insert(key);
            // A cached referrer stays with its pushed subject, and so does the note of its last pull.
            let note = format!("used/{name}!{}", this.digest);
            if now(world.keys.get(&note)).unwrap().is_some() {
                all.insert(note);
            }
            if let Some(subject) = this.subject {
                let subject = &contents().manifests[subject].digest;
                let referrer = format!("referrer/{name}!{subject}!{}", this.digest);
                // A push that was cut off may have stored the manifest without its referrer entry.
                if now(world.keys.get(&referrer)).unwrap().is_some() {
                    all.insert(referrer);
                }
            }
            for blob in &this.occurring_blobs {
                let key = format!("blob/{name}!{}", contents().blobs[*blob].digest);
                // A blob that the push does not check may have been missing at the push.
                if !this.blobs.contains(blob) && now(world.keys.get(&key)).unwrap().is_none() {
                    continue;
                }
                let location = fact(world, &key)?["location"].as_str().unwrap_or_default().to_owned();
                // The location of an empty blob is never read, so its object need not exist.
                let is_empty = contents().blobs[*blob].bytes.is_empty();
                if is_empty { &mut unread } else { &mut locations }.insert(location);
                all.insert(key);
            }
        }
    }
    let names_of = |locations: BTreeSet<String>| -> Result<BTreeSet<String>, String> {
        let mut all = BTreeSet::new();
        for location in locations {
            let names = now(world.blobs.names_of(&Location(location))).map_err(|error| error.to_string())?;
            all.extend(names.into_iter().map(|name| format!("stored {name}")));
        }
        Ok(all)
    };
    all.extend(names_of(locations)?);
    all.extend(names_of(unread)?.intersection(&all_there_is(world)).cloned());
    Ok(all)
}

/// Checks that acknowledged referrers that exist are listed under their subject.
fn referrers(world: &World) -> Outcome {
    let model = world.model.lock().unwrap();
    for (number, manifest) in model.certain_manifests() {
        let (name, this) = (world.repository(number), &contents().manifests[manifest]);
        let Some(subject) = this.subject else { continue };
        if now(world.bare.manifest(&name, &Reference::Digest(this.digest.clone()))).is_err() {
            continue;
        }
        let subject = &contents().manifests[subject].digest;
        let listed = now(world.bare.referrers(&name, subject, &ReferrersRequest::default()));
        let listed = listed.map_err(|error| error.to_string())?;
        if !listed.descriptors.iter().any(|descriptor| descriptor.digest == this.digest) {
            return Err(format!("manifest {manifest} in {name} is not listed under its subject"));
        }
    }
    Ok(())
}
