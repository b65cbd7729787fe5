use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use base64ct::{Base64Bcrypt, Encoding as _};
use bytes::Bytes;
use futures_executor::block_on;
use futures_util::future::{BoxFuture, join_all};

use super::*;
use crate::auth::lease;
use crate::store::memory::MemoryKeyValue;
use crate::store::{self, Entry, Version, When};

const MINUTE_MS: u64 = 60 * 1000;

/// A platform whose clock the test sets, and that runs background tasks on threads if a test asks
/// for them.
struct World {
    now_ms: AtomicU64,
    drawn: AtomicU64,
    runs_tasks: bool,
}

impl World {
    fn new(runs_tasks: bool) -> Arc<Self> {
        Arc::new(Self { now_ms: AtomicU64::new(1_700_000_000_000), drawn: AtomicU64::new(0), runs_tasks })
    }

    fn pass(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

#[async_trait]
impl Platform for World {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn random(&self) -> [u8; 16] {
        u128::from(self.drawn.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
    }

    fn runs_tasks(&self) -> bool {
        self.runs_tasks
    }

    /// Sleeps for a thousandth of the time, because the hashes in these tests are as much cheaper.
    async fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration / 1000);
        Yield(false).await;
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        std::thread::spawn(|| block_on(task));
    }
}

/// A store that lets every other request run before each call, which is the worst order for the
/// counts. The store supports all conditions, or only `Absent`, as file stores under WASI do.
struct Yielding {
    inner: MemoryKeyValue,
    knows_unchanged: bool,
}

struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[async_trait]
impl KeyValue for Yielding {
    async fn get(&self, key: &str) -> store::Result<Option<Entry>> {
        Yield(false).await;
        self.inner.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When) -> store::Result<Option<Version>> {
        Yield(false).await;
        match when {
            When::Unchanged(_) if !self.knows_unchanged => Err(store::Error::unsupported("as under WASI")),
            when => self.inner.put(key, value, when).await,
        }
    }

    async fn delete(&self, key: &str) -> store::Result<()> {
        Yield(false).await;
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> store::Result<Vec<String>> {
        self.inner.list(prefix, after, limit).await
    }
}

/// A hash with the lowest cost that bcrypt allows.
fn hash_of(password: &str) -> PasswordHash {
    let hash = bcrypt::bcrypt(4, [7; 16], format!("{password}\0").as_bytes());
    let (salt, hash) = (Base64Bcrypt::encode_string(&[7; 16]), Base64Bcrypt::encode_string(&hash[..23]));
    PasswordHash::parse(&format!("$2y$04${salt}{hash}")).unwrap()
}

struct Site {
    logins: Arc<Logins>,
    keys: Arc<dyn KeyValue>,
    world: Arc<World>,
}

impl Site {
    fn new(runs_tasks: bool) -> Self {
        Self::over_store(runs_tasks, true)
    }

    fn over_store(runs_tasks: bool, knows_unchanged: bool) -> Self {
        Self::over(Arc::new(Yielding { inner: MemoryKeyValue::default(), knows_unchanged }), World::new(runs_tasks))
    }

    /// Another instance on the same store, with empty memory.
    fn over(keys: Arc<dyn KeyValue>, world: Arc<World>) -> Self {
        let mut logins = Logins::new(keys.clone(), world.clone());
        logins.set_hashes(vec![("alice".into(), hash_of("right"))]);
        Self { logins: Arc::new(logins), keys, world }
    }

    fn again(&self) -> Self {
        Self::over(self.keys.clone(), self.world.clone())
    }

    /// Another instance on the same store, that checks one login at a time, as components do.
    fn with_lease(&self) -> Self {
        let mut site = self.again();
        Arc::get_mut(&mut site.logins).unwrap().lease_checks();
        site
    }

    fn try_once(&self, password: &str, address: Option<&str>) -> Result<(), Refusal> {
        block_on(self.log_in("alice", password, address))
    }

    async fn log_in(&self, user: &str, password: &str, address: Option<&str>) -> Result<(), Refusal> {
        let address = address.map(|address| address.parse().unwrap());
        self.logins.log_in(user, &Secret::new(password), address).await
    }

    /// The number of failures in each count.
    fn counts(&self) -> Vec<u64> {
        let keys = block_on(self.keys.list("auth/failures/", None, 1000)).unwrap();
        let count = |key: &String| -> u64 {
            let entry = block_on(self.keys.get(key)).unwrap().unwrap();
            serde_json::from_slice::<serde_json::Value>(&entry.value).unwrap()["count"].as_u64().unwrap()
        };
        keys.iter().map(count).collect()
    }
}

fn waits(outcome: &Result<(), Refusal>) -> Option<u64> {
    match outcome {
        Err(Refusal::TooManyAttempts { retry_after_ms }) => Some(*retry_after_ms),
        _ => None,
    }
}

#[test]
fn guesses_at_the_same_moment_are_counted_one_by_one() {
    for (runs_tasks, knows_unchanged, address, crowd) in [
        (false, true, None, 800),
        (false, true, Some("192.0.2.1"), 800),
        (true, true, Some("192.0.2.1"), 100),
        (false, false, None, 800),
        (false, false, Some("192.0.2.1"), 800),
    ] {
        let site = Site::over_store(runs_tasks, knows_unchanged);
        let site = if knows_unchanged { site } else { site.with_lease() };
        for (round, guesses) in [crowd, 60].into_iter().enumerate() {
            let guesses: Vec<_> = (0..guesses).map(|n| format!("guess {n}")).collect();
            let outcomes = block_on(join_all(guesses.iter().map(|guess| site.log_in("alice", guess, address))));
            let kinds = outcomes.iter().fold(BTreeMap::<&str, usize>::new(), |mut kinds, outcome| {
                *kinds
                    .entry(match outcome {
                        Err(Refusal::Unauthorized) => "wrong",
                        Err(Refusal::TooManyAttempts { .. } | Refusal::Busy { .. }) => "later",
                        _ => "other",
                    })
                    .or_default() += 1;
                kinds
            });
            let expected = if round == 0 { 11 } else { 0 };
            assert_eq!(kinds.get("wrong").copied().unwrap_or(0), expected, "{runs_tasks} {address:?}: {kinds:?}");
            assert_eq!(kinds.get("other"), None, "{runs_tasks} {address:?}");
            assert_eq!(site.logins.checks(), 11, "{runs_tasks} {address:?}: passwords that were looked at");
        }
    }
}

#[test]
fn the_same_wrong_guess_counts_each_time() {
    let site = Site::new(true);
    let outcomes = block_on(join_all((0..200).map(|_| site.log_in("alice", "wrong", None))));
    assert!(outcomes.iter().all(Result::is_err));
    assert!(site.logins.checks() <= 11, "{}", site.logins.checks());
    assert_eq!(site.counts(), [11]);
}

#[test]
fn right_passwords_leave_no_count_and_a_crowd_of_them_is_one_attempt() {
    let site = Site::new(true);
    let outcomes = block_on(join_all((0..200).map(|_| site.log_in("alice", "right", Some("192.0.2.1")))));
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(site.logins.checks(), 1);
    for _ in 0..30 {
        assert_eq!(site.again().try_once("right", Some("192.0.2.1")), Ok(()));
    }
    assert!(site.counts().iter().all(|count| *count == 0), "{:?}", site.counts());
    // A successful login does not clear earlier failures.
    for _ in 0..5 {
        assert_eq!(site.try_once("wrong", Some("192.0.2.1")), Err(Refusal::Unauthorized));
    }
    assert_eq!(site.again().try_once("right", Some("192.0.2.1")), Ok(()));
    assert_eq!(site.counts().iter().max(), Some(&5), "{:?}", site.counts());
}

#[test]
fn somebody_elses_guesses_do_not_keep_a_user_out() {
    let site = Site::new(false);
    let (home, evil, new) = (Some("192.0.2.1"), Some("203.0.113.9"), Some("198.51.100.1"));
    assert_eq!(site.try_once("right", home), Ok(()));
    for minute in 0..300 {
        // Guesses come from many networks, as often as each network's limit allows.
        let networks = [evil.map(str::to_owned), Some(format!("203.0.{minute}.9")).filter(|_| minute < 256)];
        for network in networks.iter().flatten() {
            let _ = site.try_once("wrong", Some(network));
        }
        let outcome = site.again().try_once("right", home);
        assert_eq!(outcome, Ok(()), "minute {minute}");
        if let Some(wait_ms) = waits(&site.again().try_once("right", new)) {
            assert!(wait_ms <= 10_000, "{wait_ms}");
            site.world.pass(wait_ms);
            assert_eq!(site.again().try_once("right", new), Ok(()), "minute {minute}");
        }
        site.world.pass(MINUTE_MS);
    }
    // The guesser waits longer, and so does a user in the guesser's network.
    let _ = site.try_once("wrong", evil);
    assert!(waits(&site.try_once("right", evil)).is_some_and(|wait_ms| wait_ms > 50_000));
}

#[test]
fn a_user_without_a_known_address_waits_for_ten_seconds_at_most() {
    let site = Site::new(false);
    for _ in 0..60 {
        let _ = site.try_once("wrong", None);
        site.world.pass(MINUTE_MS);
    }
    let _ = site.try_once("wrong", None);
    let wait_ms = waits(&site.try_once("right", None)).unwrap();
    assert!((1..=10_000).contains(&wait_ms), "{wait_ms}");
    site.world.pass(wait_ms);
    assert_eq!(site.try_once("right", None), Ok(()));
}

#[test]
fn removal_or_another_password_counts_at_once() {
    let site = Site::new(false);
    let directory = Directory::new(site.keys.clone(), site.world.clone());
    let add = |password| block_on(directory.add_user_with_hash("bob", hash_of(password).as_str())).unwrap();
    let log_in = |password| block_on(site.log_in("bob", password, None));
    add("first");
    assert_eq!(log_in("first"), Ok(()));
    let checks = site.logins.checks();
    assert_eq!(log_in("first"), Ok(()));
    assert_eq!(site.logins.checks(), checks, "the password is remembered");
    add("second");
    assert_eq!((log_in("first"), log_in("second")), (Err(Refusal::Unauthorized), Ok(())));
    block_on(directory.remove_user("bob")).unwrap();
    assert_eq!(log_in("second"), Err(Refusal::Unauthorized));
}

#[test]
fn a_crowd_of_logins_finds_no_place() {
    let site = Site::new(false);
    let names: Vec<_> = (0..200).map(|n| format!("user{n}")).collect();
    let outcomes = block_on(join_all(names.iter().map(|name| site.log_in(name, "wrong", None))));
    let busy = outcomes.iter().filter(|outcome| matches!(outcome, Err(Refusal::Busy { .. }))).count();
    assert_eq!((busy, site.logins.checks()), (200 - LOGINS_AT_ONCE_MAX, LOGINS_AT_ONCE_MAX as u64));
    assert_eq!(site.try_once("right", None), Ok(()), "the places are free again");
}

#[test]
fn instances_that_share_nothing_check_one_login_at_a_time() {
    let first = Site::over_store(false, false);
    let instances: Vec<_> = (0..50).map(|_| first.with_lease()).collect();
    let logins = instances.iter().map(|instance| instance.log_in("alice", "right", Some("192.0.2.1")));
    let outcomes = block_on(join_all(logins));
    // In a crowd, logins are served one by one, and the remaining logins get `Busy`. No login is
    // refused as a guess.
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(Refusal::Busy { .. }))), "{outcomes:?}");
    let checks: u64 = instances.iter().map(|instance| instance.logins.checks()).sum();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64, checks);
    assert!(checks > 0);
    first.world.pass(lease::HOLDER_MS);
    // A login that waits in vain for the lease does not count as failed.
    let leases = Leases::new(first.keys.clone(), first.world.clone());
    let Lease::Acquired(left) = block_on(leases.acquire(LEASE_MS_MAX)).unwrap() else { panic!("the lease is free") };
    for _ in 0..30 {
        let outcome = first.with_lease().try_once("right", Some("198.51.100.1"));
        assert!(matches!(outcome, Err(Refusal::Busy { .. })), "{outcome:?}");
    }
    assert!(first.counts().iter().all(|count| *count == 0), "{:?}", first.counts());
    // The lease of a killed instance expires.
    first.world.pass(LEASE_MS_MAX + 1);
    assert_eq!(first.with_lease().try_once("right", Some("198.51.100.1")), Ok(()));
    assert_eq!(block_on(leases.acquire(LEASE_MS_MAX)), Ok(Lease::Acquired(left + 2)));
}

/// Each instance of a component keeps the memory of its hashes until the instance ends.
#[test]
fn a_crowd_of_logins_hashes_in_few_instances() {
    let first = Site::over_store(false, false);
    let instances: Vec<_> = (0..50).map(|_| first.with_lease()).collect();
    for round in 1..4 {
        let logins = instances.iter().enumerate().map(async |(number, instance)| {
            let name = format!("user{round}{number}");
            (instance.log_in(&name, "wrong", None).await, instance.log_in(&name, "again", None).await)
        });
        block_on(join_all(logins));
        let hashed = instances.iter().filter(|instance| instance.logins.checks() > 0).count();
        // An instance that has hashed may hash again.
        assert_eq!(hashed, lease::HOLDERS_MAX, "round {round}");
    }
    // Other instances hash once the first ones have been idle for so long that the host has dropped
    // them.
    first.world.pass(lease::HOLDER_MS);
    assert_eq!(first.with_lease().try_once("right", None), Ok(()));
}
