//! What the operator sees of the cache.

use super::*;
use crate::upstream::RateLimit;

impl Setup {
    fn counts(&self) -> Counts {
        self.mirrors.counts().remove(0)
    }

    /// Hits, revalidated, stale and misses.
    fn pulls(&self) -> [u64; 4] {
        let counts = self.counts();
        [counts.hits, counts.revalidated, counts.stale, counts.misses]
    }
}

#[test]
fn pulls_are_counted_by_their_outcome() {
    let setup = Setup::new();
    let bytes = manifest(&digest(b"1"));
    setup.up().tags.insert("latest".into(), bytes.clone());
    assert_eq!(setup.pulls(), [0, 0, 0, 0]);
    setup.pull("latest").unwrap();
    assert_eq!(setup.pulls(), [0, 0, 0, 1]);
    setup.pull("latest").unwrap();
    setup.pull(digest(&bytes).as_str()).unwrap();
    assert_eq!(setup.pulls(), [2, 0, 0, 1]);
    setup.platform.pass_ms(61 * SECOND_MS);
    setup.pull("latest").unwrap();
    assert_eq!(setup.pulls(), [2, 1, 0, 1]);
    setup.platform.pass_ms(61 * SECOND_MS);
    setup.up().trouble = Some((503, None));
    setup.pull("latest").unwrap();
    setup.pull("latest").unwrap();
    assert_eq!(setup.pulls(), [2, 1, 2, 1]);
    let traffic = setup.counts().traffic;
    assert_eq!((traffic.requests, traffic.errors, traffic.bytes_received), (3, 1, bytes.len() as u64));
    // Another upstream has counters of its own.
    assert_eq!((setup.mirrors.counts()[1].upstream.as_str(), setup.mirrors.counts()[1].misses), ("quay", 0));
}

#[test]
fn bytes_are_counted_on_both_sides() {
    let (setup, digest, bytes) = Setup::with_blob(PIECE_BYTES);
    let repository = setup.repository();
    read(repository.counted(setup.fetch(&digest).unwrap().body)).unwrap();
    let counts = setup.counts();
    assert_eq!((counts.misses, counts.bytes_served), (1, bytes.len() as u64));
    assert_eq!((counts.traffic.bytes_received, counts.traffic.errors), (bytes.len() as u64, 0));
    // A connection that breaks is an error, also after the head of the answer.
    let (setup, digest, _) = Setup::with_blob(PIECE_BYTES);
    setup.up().breaks_after = Some(READ_BYTES);
    assert!(read(setup.fetch(&digest).unwrap().body).is_err());
    assert_eq!((setup.counts().traffic.requests, setup.counts().traffic.errors), (3, 3));
    // Absent content is no error.
    assert!(setup.pull("absent").is_err());
    assert_eq!(setup.counts().traffic.errors, 3);
}

#[test]
fn the_rest_of_the_rate_limit_is_known() {
    let setup = Setup::new();
    setup.up().tags.insert("latest".into(), manifest(&digest(b"1")));
    setup.pull("latest").unwrap();
    assert_eq!(setup.counts().traffic.rate_limit, None);
    for (header, remaining, window_seconds, text) in [
        ("97;w=21600", 97, Some(21_600), "97 requests are left of the upstream's rate limit for 21600 s"),
        ("0", 0, None, "0 requests are left of the upstream's rate limit"),
        // A header that cannot be read changes nothing.
        ("many", 0, None, "0 requests are left of the upstream's rate limit"),
    ] {
        setup.up().rate_limit = Some(header);
        setup.platform.pass_ms(61 * SECOND_MS);
        setup.up().tags.insert("latest".into(), manifest(&digest(header.as_bytes())));
        setup.pull("latest").unwrap();
        let rest = setup.counts().traffic.rate_limit.unwrap();
        assert_eq!(rest, RateLimit { remaining, window_seconds }, "{header}");
        assert_eq!(rest.to_string(), text);
    }
}
