//! Warnings.

use super::*;

#[test]
fn disabled_warnings_cost_no_reads() {
    block_on(async {
        let (registry, _) = in_memory();
        let (repository, tag) = (name("a"), "v1".parse().unwrap());
        registry.set_warning(&repository, Some(&tag), "use v2").await.unwrap();
        assert_eq!(registry.warnings(&repository, Some(&tag)).await, Ok(vec![]));
        let registry = with_limits(&registry, Limits { warnings: true, ..Limits::default() });
        registry.set_warning(&repository, None, "moved").await.unwrap();
        let all = ["moved", "use v2"].map(str::to_owned).to_vec();
        assert_eq!(registry.warnings(&repository, Some(&tag)).await, Ok(all));
        registry.delete_warning(&repository, None).await.unwrap();
        assert_eq!(registry.warnings(&repository, Some(&tag)).await, Ok(vec!["use v2".to_owned()]));
        assert_eq!(registry.warnings(&name("a/b"), Some(&tag)).await, Ok(vec![]));
        for bad in ["", "two\nlines", "ö", &"x".repeat(1001)] {
            let refused = registry.set_warning(&repository, None, bad).await;
            assert!(matches!(refused, Err(Error::WarningInvalid(_))), "{bad}");
        }
    });
}
