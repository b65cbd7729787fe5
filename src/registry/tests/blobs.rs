//! The content of blobs, which repositories share.

use super::*;

/// Lost bytes of a blob are restored by the next push of the blob.
#[test]
fn a_push_restores_lost_content() {
    block_on(async {
        let (registry, _) = in_memory();
        let (first, second) = (name("a"), name("b"));
        registry.push_blob(&first, &digest(b"layer"), Bytes::from_static(b"layer").into()).await.unwrap();
        let location = registry.blob(&first, &digest(b"layer")).await.unwrap().fact.location;
        for stored in registry.parts.content.blobs.list(None, 10).await.unwrap() {
            registry.parts.content.blobs.remove(&stored.name).await.unwrap();
        }
        assert!(registry.parts.content.blobs.read(&location, 0..1).await.is_err());
        registry.push_blob(&second, &digest(b"layer"), Bytes::from_static(b"layer").into()).await.unwrap();
        assert_eq!(read(&registry, &second, &digest(b"layer")).await.unwrap(), "layer");
    });
}

#[test]
fn content_is_stored_once_for_all_repositories() {
    block_on(async {
        let (registry, _) = in_memory();
        let (first, second) = (name("a"), name("b"));
        registry.push_blob(&first, &digest(b"layer"), Bytes::from_static(b"layer").into()).await.unwrap();
        registry.push_blob(&second, &digest(b"layer"), Bytes::from_static(b"layer").into()).await.unwrap();
        let mut facts = Vec::new();
        for repository in [&first, &second] {
            let key = layout::blob(repository, &digest(b"layer"));
            facts.push(registry.parts.facts.load::<facts::BlobFact>(&key).await.unwrap().unwrap());
        }
        assert_eq!(facts[0], facts[1]);
        // Deleting a blob in one repository leaves the other repository's blob in place.
        registry.delete_blob(&first, &digest(b"layer")).await.unwrap();
        assert_eq!(read(&registry, &second, &digest(b"layer")).await.unwrap(), "layer");
        let gone = read(&registry, &first, &digest(b"layer")).await;
        assert_eq!(gone, Err(Error::BlobUnknown(digest(b"layer"))));
    });
}
