//! Manifests: limits, deletions with tags, large manifests, pushes beside deletions.

use super::*;

#[test]
fn a_manifest_names_no_more_than_the_limit() {
    block_on(async {
        let (registry, _) = in_memory();
        let registry = with_limits(&registry, Limits { manifest_references_max: 2, ..Limits::default() });
        let child = |n: u8| format!(r#"{{"mediaType":"a/b","digest":"{}","size":1}}"#, digest(&[n]));
        for (children, expected) in [(2, "missing"), (3, "too many")] {
            let children: Vec<String> = (0..children).map(child).collect();
            let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, children.join(","));
            let tag = Reference::Tag("v1".parse().unwrap());
            let refused = registry.push_manifest(&name("a"), &tag, &[], None, index.into_bytes().into()).await;
            match refused {
                Err(Error::ManifestBlobUnknown(_)) => assert_eq!(expected, "missing"),
                Err(Error::ManifestInvalid(_)) => assert_eq!(expected, "too many"),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn deleting_a_manifest_deletes_its_tags_and_no_other() {
    block_on(async {
        let (registry, _) = in_memory();
        let registry = with_limits(&registry, Limits { page_entries_max: 2, ..Limits::default() });
        let repository = name("a");
        for tag in ["t1", "t2", "t3", "t4", "t5", "moved"] {
            push(&registry, &repository, tag, INDEX).await;
        }
        push(&registry, &repository, "moved", OTHER_INDEX).await;
        push(&registry, &name("a/b"), "t1", INDEX).await;
        registry.delete_manifest(&repository, &Reference::Digest(digest(INDEX))).await.unwrap();
        let tags = registry.tags(&repository, &PageRequest::default()).await.unwrap();
        assert_eq!(tags.entries, ["moved"]);
        let kept = registry.manifest(&name("a/b"), &Reference::Digest(digest(INDEX))).await;
        assert_eq!(kept.unwrap().size, INDEX.len() as u64);
    });
}

#[test]
fn a_large_manifest_is_in_the_blob_store() {
    block_on(async {
        let (registry, _) = in_memory();
        let limits = Limits { manifest_inline_bytes_max: INDEX.len() as u64, ..Limits::default() };
        let registry = with_limits(&registry, limits);
        let repository = name("a");
        push(&registry, &repository, "small", INDEX).await;
        push(&registry, &repository, "large", OTHER_INDEX).await;
        for (tag, bytes, in_blobs) in [("small", INDEX, false), ("large", OTHER_INDEX, true)] {
            let manifest = registry.manifest(&repository, &Reference::Tag(tag.parse().unwrap())).await.unwrap();
            assert_eq!(registry.read_manifest(&manifest).await.unwrap().collect_up_to(1000).await.unwrap(), bytes);
            let value = registry
                .parts
                .facts
                .keys
                .get(&layout::manifest(&repository, &digest(bytes)))
                .await
                .unwrap()
                .unwrap()
                .value;
            assert_eq!(!value.ends_with(bytes), in_blobs, "{value:?}");
        }
    });
}

/// A push and a deletion of the same manifest. Each runs completely between any two storage calls
/// of the other.
#[test]
fn a_push_beside_a_deletion_leaves_no_dangling_name() {
    async fn push(registry: &Registry) -> Result<()> {
        let (tag, more) = (Reference::Tag("v1".parse().unwrap()), ["v2".parse().unwrap()]);
        let bytes = refers_to(INDEX, "met");
        registry.push_manifest(&name("a"), &tag, &more, None, bytes.into()).await.map(drop)
    }
    async fn delete(registry: &Registry) -> Result<()> {
        let reference = Reference::Digest(digest(&refers_to(INDEX, "met")));
        registry.delete_manifest(&name("a"), &reference).await
    }
    block_on(async {
        for push_is_first in [true, false] {
            let mut meetings = 0;
            for calls_left in 0.. {
                let (plain, platform) = in_memory();
                let plain = Arc::new(plain);
                push(&plain).await.unwrap();
                let other = plain.clone();
                let other_request: BoxFuture<'static, ()> = Box::pin(async move {
                    if push_is_first { delete(&other).await.unwrap() } else { push(&other).await.unwrap() }
                });
                let (calls_left, other_request) = (AtomicI64::new(calls_left), Mutex::new(Some(other_request)));
                let keys = Arc::new(Interleaved { inner: plain.parts.facts.keys.clone(), calls_left, other_request });
                let registry =
                    Registry::new(keys.clone(), plain.parts.content.blobs.clone(), platform, Limits::default());
                if push_is_first {
                    push(&registry).await.unwrap()
                } else {
                    delete(&registry).await.unwrap()
                }
                if keys.other_request.lock().unwrap().is_some() {
                    break;
                }
                meetings += 1;
                let tags = plain.tags(&name("a"), &PageRequest::default()).await.unwrap().entries;
                let tags = tags.into_iter().map(|tag| Reference::Tag(tag.parse().unwrap()));
                let referrers =
                    plain.referrers(&name("a"), &digest(INDEX), &ReferrersRequest::default()).await.unwrap();
                let referrers = referrers.descriptors.into_iter().map(|found| Reference::Digest(found.digest));
                for reference in tags.chain(referrers) {
                    let found = plain.manifest(&name("a"), &reference).await;
                    assert!(found.is_ok(), "meeting {meetings}, push first: {push_is_first}: {found:?}");
                }
            }
            assert!(meetings > 5, "only {meetings}");
        }
    });
}
