//! Finds the manifests of a repository that are in use because other manifests refer to them.

use super::Collector;
use super::cursor::Phase;
use super::manifests::ManifestRead;
use super::marks::mark_of;
use crate::registry::Result;
use crate::registry::layout::Kind;
use crate::registry::limits::GRAPH_DEPTH_MAX;

/// The node that stands for the unknown references of a manifest whose bytes are gone.
const UNKNOWN: &str = "unknown";

impl Collector<'_> {
    /// Notes which manifests the repository has, so that the graph can leave out edges to the many
    /// layers.
    pub(super) async fn present(&mut self) -> Result<()> {
        let (keys, more) = self.page(&self.keys_of(Kind::Manifest)).await?;
        let digests = keys.iter().map(|key| mark_of(key.digest()));
        let store = self.mark_store();
        self.cursor.sets.present.mark(&store, digests).await?;
        if !more {
            self.cursor.enter(Phase::Graph);
        }
        Ok(())
    }

    pub(super) async fn graph(&mut self) -> Result<()> {
        let (keys, more) = self.page(&self.keys_of(Kind::Manifest)).await?;
        let now_ms = self.collection.platform.now_ms();
        let lifetime_ms = self.cursor.untagged_lifetime_ms.unwrap_or(u64::MAX);
        let store = self.mark_store();
        for read in self.read_manifests(keys).await?.into_iter().filter_map(|(_, read)| read) {
            let is_kept = match self.evicts() && read.fact.cached {
                true => self.is_pulled(&read.digest, &read.fact).await?,
                false => now_ms.saturating_sub(read.fact.pushed_ms) < lifetime_ms,
            };
            if is_kept {
                self.cursor.sets.kept.mark(&store, [mark_of(&read.digest)]).await?;
            }
            let edges = self.edges(&read);
            self.cursor.sets.edges.mark(&store, edges).await?;
        }
        if more {
            return Ok(());
        }
        let sets = &mut self.cursor.sets;
        sets.present = Default::default();
        if sets.kept.is_in_memory() && sets.edges.is_in_memory() {
            sets.kept.follow(&sets.edges);
            return self.end_graph().await;
        }
        self.cursor.enter(Phase::Follow);
        Ok(())
    }

    /// The edges of a manifest: from the manifest to each manifest that its JSON names, and from
    /// its subject to the manifest, because a subject keeps its referrers in use.
    fn edges(&self, read: &ManifestRead) -> Vec<String> {
        let own = mark_of(&read.digest);
        let named = read.manifest.iter().flat_map(|manifest| manifest.digests());
        let manifests = named.map(|name| mark_of(name.as_str())).filter(|name| self.cursor.sets.present.may_have(name));
        let children = manifests.map(|child| edge(&own, &child));
        let subject = read.fact.subject.iter().map(|subject| edge(&mark_of(subject.as_str()), &own));
        let unknown = read.manifest.is_none().then(|| edge(&own, UNKNOWN));
        children.chain(subject).chain(unknown).collect()
    }

    /// Finds the manifests that one page of edges reaches from the frontier. Used when the graph is
    /// too large for memory: all edges are read, in sorted order, for each step along the graph.
    pub(super) async fn follow(&mut self) -> Result<()> {
        let store = self.mark_store();
        let (sets, is_first) = (&mut self.cursor.sets, self.cursor.follows == 0);
        let after = self.cursor.after.take().unwrap_or_default();
        let edges = sets.edges.after(&store, &after).await?;
        for (parent, child) in edges.iter().filter_map(|edge| edge.split_once(' ')) {
            let frontier = if is_first { &mut sets.kept } else { &mut sets.frontier };
            if frontier.has(&store, parent).await? {
                sets.reached.mark(&store, [child.to_owned()]).await?;
            }
        }
        self.cursor.after = edges.last().cloned();
        if edges.is_empty() {
            self.cursor.sets.frontier = Default::default();
            self.cursor.enter(Phase::Reached);
        }
        Ok(())
    }

    /// Marks the manifests that were reached. The newly marked ones become the next frontier.
    pub(super) async fn reached(&mut self) -> Result<()> {
        let store = self.mark_store();
        let sets = &mut self.cursor.sets;
        let after = self.cursor.after.take().unwrap_or_default();
        let reached = sets.reached.after(&store, &after).await?;
        for name in &reached {
            if !sets.kept.has(&store, name).await? {
                sets.kept.mark(&store, [name.clone()]).await?;
                sets.frontier.mark(&store, [name.clone()]).await?;
            }
        }
        self.cursor.after = reached.last().cloned();
        if !reached.is_empty() {
            return Ok(());
        }
        sets.reached = Default::default();
        self.cursor.follows += 1;
        if self.cursor.sets.frontier.is_empty() {
            return self.end_graph().await;
        }
        if self.cursor.follows > GRAPH_DEPTH_MAX {
            // Manifests in use may be unmarked, so the repository keeps everything.
            let repository = self.cursor.repository.as_deref().unwrap_or_default();
            tracing::warn!(
                "the collection keeps everything in {repository}: its manifests name each other in a chain of more than {GRAPH_DEPTH_MAX}"
            );
            self.cursor.unsure = true;
            return self.end_graph().await;
        }
        self.cursor.enter(Phase::Follow);
        Ok(())
    }

    async fn end_graph(&mut self) -> Result<()> {
        let store = self.mark_store();
        let cursor = &mut self.cursor;
        cursor.unsure |= cursor.sets.kept.has(&store, UNKNOWN).await?;
        (cursor.sets.edges, cursor.sets.frontier) = Default::default();
        cursor.enter(Phase::Manifests);
        Ok(())
    }
}

/// The edge from `parent` to `child`: the child is in use if the parent is.
fn edge(parent: &str, child: &str) -> String {
    format!("{parent} {child}")
}
