//! Whether response times reveal which users exist: `cargo bench --bench login`. A wrong password
//! and an unknown user should take the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eyot::auth::{Accounts, Attempt, Authority, Credentials, Directory, PasswordHash, Policy, Secret, parse_htpasswd};
use eyot::platform::Platform;
use eyot::store::KeyValue;
use eyot::store::memory::MemoryKeyValue;
use futures_executor::block_on;

/// The number of login attempts.
const ATTEMPTS: usize = 400;

/// A clock that advances an hour per reading, so that failures are forgotten and no login is
/// delayed.
#[derive(Default)]
struct Flying(AtomicU64);

impl Platform for Flying {
    fn now_ms(&self) -> u64 {
        self.0.fetch_add(3_600_000, Ordering::Relaxed)
    }

    fn random(&self) -> [u8; 16] {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
    }
}

fn attempt(accounts: &Accounts, user: &str) -> Duration {
    let credentials = Credentials::Basic { user: user.into(), password: Secret::new("a wrong password") };
    let begun = Instant::now();
    let outcome = block_on(accounts.identify(Attempt { credentials: &credentials, address: None }));
    assert!(outcome.is_err());
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The median times for a known and for unknown users, with attempts in random order. Memory that
/// one attempt frees makes the next attempt faster, and a regular order would attribute that effect
/// to the user.
fn measure(accounts: &Accounts) -> (Duration, Duration) {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    let mut drawn: u64 = 0x2545_f491_4f6c_dd1d;
    for number in 0..ATTEMPTS {
        drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match drawn >> 63 {
            0 => known.push(attempt(accounts, "alice")),
            _ => unknown.push(attempt(accounts, &format!("user{number}"))),
        }
    }
    (median(known), median(unknown))
}

fn main() {
    let platform: Arc<dyn Platform> = Arc::new(Flying::default());
    let keys: Arc<dyn KeyValue> = Arc::new(MemoryKeyValue::default());
    let password = Secret::new("the right password");
    let accounts = || Accounts::new(Policy::read_write(), keys.clone(), platform.clone());
    // htpasswd -nbB -C 6
    let bcrypt = "$2y$06$WUHhXETkX0fnYkrqZU3ta.I4Dq0u7QtQbQb8lqcOZEQyl3hdD0dPG";
    PasswordHash::parse(bcrypt).expect("a hash");
    let htpasswd = parse_htpasswd(&format!("alice:{bcrypt}\nbob:{bcrypt}")).expect("a file of two users");
    let in_settings = accounts().with_user("alice", password.clone()).expect("a user");
    let in_a_file = accounts().with_hashes(htpasswd);
    block_on(Directory::new(keys.clone(), platform.clone()).add_user("alice", &password)).expect("a user");
    let in_the_store = accounts();
    for (what, accounts) in
        [("auth_password", in_settings), ("htpasswd, bcrypt", in_a_file), ("key-value store, argon2id", in_the_store)]
    {
        let (known, unknown) = measure(&accounts);
        let ratio = known.as_secs_f64() / unknown.as_secs_f64();
        println!("{what}: wrong password {known:.2?}, unknown user {unknown:.2?}, ratio {ratio:.3}");
    }
}
