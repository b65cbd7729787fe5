//! What may be seen: for every tag the values that it may have, given which requests were answered and which were under way at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use eyot::oci::Digest;

/// A repository and a tag, by their numbers.
pub type TagId = (usize, usize);
/// A repository and a manifest, by their numbers.
pub type ManifestId = (usize, usize);
/// What a tag points to.
pub type Value = Option<usize>;

#[derive(Default)]
pub struct Model {
    tags: BTreeMap<TagId, BTreeSet<Value>>,
    under_way: BTreeMap<u64, Write>,
    next: u64,
    step: u64,
    /// Since which step a manifest was acknowledged, and until which it was being deleted.
    pushed: BTreeMap<ManifestId, u64>,
    deleted: BTreeMap<ManifestId, u64>,
    /// What must stay with a manifest whose push was acknowledged last at that time.
    pub promises: BTreeMap<ManifestId, Promise>,
    /// Counts the changes, so that what follows from them is found out once.
    pub changes: u64,
}

/// What occurred in the bytes of a manifest, and of those that it led to, and was in their repository when the push of the first
/// one was acknowledged.
#[derive(Clone, Default)]
pub struct Promise {
    pub step: u64,
    /// By the manifest that names it: digests that were there as a blob, and manifests.
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
    /// Of a manifest by its digest, with its tags.
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

    /// What a tag may be.
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

    /// Manifests that were acknowledged and that nobody has deleted since.
    pub fn certain_manifests(&self) -> impl Iterator<Item = ManifestId> {
        self.pushed.keys().copied().filter(|manifest| !self.is_deleted_since(*manifest, self.pushed[manifest]))
    }

    /// Whether somebody deleted a manifest by its digest after a step.
    pub fn is_deleted_since(&self, manifest: ManifestId, step: u64) -> bool {
        self.deleted.get(&manifest).is_some_and(|until| *until >= step)
    }

    /// Whether a push of a manifest was acknowledged, and nobody has begun to delete the manifest since.
    pub fn is_certain(&self, manifest: ManifestId) -> bool {
        self.pushed.get(&manifest).is_some_and(|pushed| !self.is_deleted_since(manifest, *pushed))
    }

    pub fn step(&self) -> u64 {
        self.step
    }

    /// When the push began that was acknowledged last.
    pub fn pushed_at(&self, manifest: ManifestId) -> u64 {
        self.pushed.get(&manifest).copied().unwrap_or_default()
    }

    /// Whether nobody is writing a tag.
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
                    // The deletion may take the tag with it, and end before they do.
                    seen.extend(is_being_deleted.then_some(None));
                    // What they push may have been deleted beside them; they notice only after they have pointed the tag.
                    overlapping.extend(seen.contains(&None).then_some(None));
                    seen.insert(value);
                }
                Write::Tag { .. } => {}
                Write::Delete { manifest, affected, pushed_beside } if manifest.0 == tag.0 => {
                    if value == Some(manifest.1) {
                        pushed_beside.insert(tag);
                        affected.insert(tag);
                    }
                    // It may have seen the tag before it moved, and removes it after.
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

    /// A push of a manifest that began at a step was acknowledged.
    pub fn acknowledge(&mut self, manifest: ManifestId, began: u64) {
        self.changes += 1;
        let pushed = self.pushed.entry(manifest).or_default();
        *pushed = began.max(*pushed);
    }
}

/// A write that is under way. It ends without an answer when this is dropped.
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

    /// Whether the tag may have been absent at some time since this began.
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
        // After an acknowledgement there is nothing left to end.
        self.model.lock().unwrap().end(self.id, false);
    }
}
