//! Referrers: lists under fallback tags, and large annotations.

use super::*;

#[test]
fn referrers_listed_under_a_fallback_tag_are_imported() {
    block_on(async {
        let (registry, _) = in_memory();
        let repository = name("a");
        let (valid, of_another) = (refers_to(INDEX, "valid"), refers_to(OTHER_INDEX, "of another"));
        let mut listed = Vec::new();
        for bytes in [&valid, &of_another] {
            let reference = Reference::Digest(digest(bytes));
            registry.push_manifest(&repository, &reference, &[], None, bytes.clone().into()).await.unwrap();
            listed.push(format!(r#"{{"mediaType":"a/b","digest":"{}","size":{}}}"#, digest(bytes), bytes.len()));
        }
        // The state from before the registry stored referrers.
        let key = layout::referrer(&repository, &digest(INDEX), digest(&valid).as_str());
        registry.parts.facts.keys.delete(&key).await.unwrap();
        let request = ReferrersRequest::default();
        assert_eq!(registry.referrers(&repository, &digest(INDEX), &request).await.unwrap().descriptors, []);

        let fallback = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, listed.join(","));
        let tag: crate::oci::Tag = format!("sha256-{}", digest(INDEX).hex()).parse().unwrap();
        let tag = Reference::Tag(tag);
        registry.push_manifest(&repository, &tag, &[], None, fallback.into_bytes().into()).await.unwrap();
        for _ in 0..2 {
            let page = registry.referrers(&repository, &digest(INDEX), &request).await.unwrap();
            let digests: Vec<_> = page.descriptors.iter().map(|descriptor| &descriptor.digest).collect();
            assert_eq!(digests, [&digest(&valid)]);
        }
    });
}

#[test]
fn annotations_larger_than_a_value_are_read_from_the_manifest() {
    block_on(async {
        let (registry, _) = in_memory();
        let limits = Limits { manifest_inline_bytes_max: 1000, ..Limits::default() };
        let registry = with_limits(&registry, limits);
        let repository = name("a");
        let large = refers_to(INDEX, &"x".repeat(5000));
        let reference = Reference::Digest(digest(&large));
        registry.push_manifest(&repository, &reference, &[], None, large.into()).await.unwrap();
        let entries = registry.parts.facts.keys.list("", None, 100).await.unwrap();
        for key in entries {
            assert!(registry.parts.facts.keys.get(&key).await.unwrap().unwrap().value.len() < 1000, "{key}");
        }
        let page = registry.referrers(&repository, &digest(INDEX), &ReferrersRequest::default()).await.unwrap();
        assert_eq!(page.descriptors[0].annotations["note"].len(), 5000);
    });
}
