//! A model of the allowed observations: the possible values of every tag, given which requests were
//! acknowledged and which were concurrent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use eyot::oci::Digest;

/// A repository and a tag, by their numbers.
pub type TagId = (usize, usize);
/// A repository and a manifest, by their numbers.
pub type ManifestId = (usize, usize);
/// The manifest that a tag points to; `None`: the tag is absent.
pub type Value = Option<usize>;

#[derive(Default)]
pub struct Model {
    tags: BTreeMap<TagId, BTreeSet<Value>>,
    under_way: BTreeMap<u64, Write>,
    next: u64,
    step: u64,
    /// For each manifest, the step at which its last acknowledged push began (`pushed`), and the
    /// step until which a deletion was under way (`deleted`).
    pushed: BTreeMap<ManifestId, u64>,
    deleted: BTreeMap<ManifestId, u64>,
    /// The content that must stay with an acknowledged manifest.
    pub promises: BTreeMap<ManifestId, Promise>,
    /// The number of changes, so that conclusions are computed once per change.
    pub changes: u64,
}

/// The digests that occurred in a manifest's bytes, directly or through other manifests, and
/// existed in the repository when the manifest's push was acknowledged.
#[derive(Clone, Default)]
pub struct Promise {
    pub step: u64,
    /// Pairs of the naming manifest and a digest that existed as a blob; `manifests` likewise, for
    /// manifests.
    pub blobs: BTreeSet<(usize, Digest)>,
    pub manifests: BTreeSet<(usize, usize)>,
}

enum Write {
    Tag {
        tag: TagId,
        value: Value,
        began: u64,
        overlapping: BTreeSet<Value>,
    },
    /// A deletion of a manifest by digest, with the affected tags.
    Delete {
        manifest: ManifestId,
        affected: BTreeSet<TagId>,
        pushed_beside: BTreeSet<TagId>,
    },
}

impl Model {
    pub fn at_step(&mut self, step: u64) {
        self.step = step;
    }

    /// The possible values of a tag.
    pub fn values(&self, tag: TagId) -> BTreeSet<Value> {
        self.tags.get(&tag).cloned().unwrap_or_else(|| BTreeSet::from([None]))
    }

    fn values_mut(&mut self, tag: TagId) -> &mut BTreeSet<Value> {
        self.tags.entry(tag).or_insert_with(|| BTreeSet::from([None]))
    }

    /// The tags that cannot be absent.
    pub fn certain_tags(&self) -> impl Iterator<Item = (TagId, &BTreeSet<Value>)> {
        self.tags.iter().filter(|(_, values)| !values.contains(&None)).map(|(tag, values)| (*tag, values))
    }

    /// Acknowledged manifests that no client has deleted since.
    pub fn certain_manifests(&self) -> impl Iterator<Item = ManifestId> {
        self.pushed.keys().copied().filter(|manifest| !self.is_deleted_since(*manifest, self.pushed[manifest]))
    }

    /// Whether a client was deleting a manifest by its digest at or after a step.
    pub fn is_deleted_since(&self, manifest: ManifestId, step: u64) -> bool {
        self.deleted.get(&manifest).is_some_and(|until| *until >= step)
    }

    /// Whether a push of a manifest was acknowledged and no deletion has begun since.
    pub fn is_certain(&self, manifest: ManifestId) -> bool {
        self.pushed.get(&manifest).is_some_and(|pushed| !self.is_deleted_since(manifest, *pushed))
    }

    pub fn step(&self) -> u64 {
        self.step
    }

    /// The step at which the last acknowledged push began.
    pub fn pushed_at(&self, manifest: ManifestId) -> u64 {
        self.pushed.get(&manifest).copied().unwrap_or_default()
    }

    /// Whether no write of a tag is under way.
    pub fn is_calm(&self, tag: TagId) -> bool {
        !self.under_way.values().any(|write| match write {
            Write::Tag { tag: other, .. } => *other == tag,
            Write::Delete { affected, .. } => affected.contains(&tag),
        })
    }

    fn begin(&mut self, tag: TagId, value: Value) -> u64 {
        let before = self.values(tag);
        let mut overlapping = BTreeSet::new();
        let target = value.map(|manifest| (tag.0, manifest));
        let is_being_deleted = self
            .under_way
            .values()
            .any(|write| matches!(write, Write::Delete { manifest, .. } if Some(*manifest) == target));
        for write in self.under_way.values_mut() {
            match write {
                Write::Tag { tag: other, value: theirs, overlapping: seen, .. } if *other == tag => {
                    overlapping.insert(*theirs);
                    // The deletion may remove the tag too, and end before the other write does.
                    seen.extend(is_being_deleted.then_some(None));
                    // The other push's manifest may have been deleted concurrently. That push
                    // notices only after pointing the tag.
                    overlapping.extend(seen.contains(&None).then_some(None));
                    seen.insert(value);
                }
                Write::Tag { .. } => {}
                Write::Delete { manifest, affected, pushed_beside } if manifest.0 == tag.0 => {
                    if value == Some(manifest.1) {
                        pushed_beside.insert(tag);
                        affected.insert(tag);
                    }
                    // The deletion may have seen the tag before the tag moved, and may remove the
                    // tag afterwards.
                    if affected.contains(&tag) || before.contains(&Some(manifest.1)) {
                        overlapping.insert(None);
                    }
                }
                Write::Delete { .. } => {}
            }
        }
        let values = self.values_mut(tag);
        values.insert(value);
        values.extend(overlapping.iter().filter(|value| value.is_none()));
        self.add(Write::Tag { tag, value, began: self.step, overlapping })
    }

    fn begin_delete(&mut self, manifest: ManifestId) -> u64 {
        let tags = self.tags.iter().filter(|(tag, values)| tag.0 == manifest.0 && values.contains(&Some(manifest.1)));
        let affected: BTreeSet<TagId> = tags.map(|(tag, _)| *tag).collect();
        affected.iter().for_each(|tag| {
            self.values_mut(*tag).insert(None);
        });
        let mut pushed_beside = BTreeSet::new();
        for write in self.under_way.values_mut() {
            if let Write::Tag { tag, value, overlapping, .. } = write
                && affected.contains(tag)
            {
                overlapping.insert(None);
                if *value == Some(manifest.1) {
                    pushed_beside.insert(*tag);
                }
            }
        }
        self.deleted.insert(manifest, u64::MAX);
        self.add(Write::Delete { manifest, affected, pushed_beside })
    }

    fn add(&mut self, write: Write) -> u64 {
        self.changes += 1;
        self.next += 1;
        self.under_way.insert(self.next, write);
        self.next
    }

    fn end(&mut self, id: u64, is_acknowledged: bool) {
        self.changes += 1;
        match self.under_way.remove(&id) {
            Some(Write::Tag { tag, value, began, overlapping }) if is_acknowledged => {
                *self.values_mut(tag) = overlapping.into_iter().chain([value]).collect();
                if let Some(manifest) = value {
                    self.acknowledge((tag.0, manifest), began);
                }
            }
            Some(Write::Delete { manifest, affected, pushed_beside }) => {
                let still = self
                    .under_way
                    .values()
                    .any(|write| matches!(write, Write::Delete { manifest: other, .. } if *other == manifest));
                self.deleted.insert(manifest, if still { u64::MAX } else { self.step });
                if is_acknowledged {
                    for tag in affected.difference(&pushed_beside) {
                        self.values_mut(*tag).remove(&Some(manifest.1));
                    }
                }
            }
            _ => {}
        }
    }

    /// Records that a push of a manifest, which began at step `began`, was acknowledged.
    pub fn acknowledge(&mut self, manifest: ManifestId, began: u64) {
        self.changes += 1;
        let pushed = self.pushed.entry(manifest).or_default();
        *pushed = began.max(*pushed);
    }
}

/// A write that is under way. Dropping the value ends the write without an answer.
pub struct Writing {
    model: Arc<Mutex<Model>>,
    id: u64,
    values_before: BTreeSet<Value>,
}

impl Writing {
    pub fn tag(model: &Arc<Mutex<Model>>, tag: TagId, value: Value) -> Self {
        let mut locked = model.lock().unwrap();
        let values_before = locked.values(tag);
        Self { model: model.clone(), id: locked.begin(tag, value), values_before }
    }

    pub fn delete(model: &Arc<Mutex<Model>>, manifest: ManifestId) -> Self {
        let id = model.lock().unwrap().begin_delete(manifest);
        Self { model: model.clone(), id, values_before: BTreeSet::new() }
    }

    /// Whether the tag may have been absent at some time since this write began.
    pub fn could_be_absent(&self) -> bool {
        let model = self.model.lock().unwrap();
        let beside = match model.under_way.get(&self.id) {
            Some(Write::Tag { overlapping, .. }) => overlapping.contains(&None),
            _ => true,
        };
        beside || self.values_before.contains(&None)
    }

    pub fn acknowledged(self) {
        self.model.lock().unwrap().end(self.id, true);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // After an acknowledgement the write is already removed, and `end` has no effect.
        self.model.lock().unwrap().end(self.id, false);
    }
}
