//! Logging in with a name and a password.
//!
//! A login takes a place, is counted as failed, and only then is its password hashed. So every
//! password is counted before the password is checked, and many logins at once occupy neither the
//! threads that serve requests nor much memory: hashes are computed one at a time (`password.rs`),
//! natively on a thread for blocking work.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::flight::Flights;
use super::lease::{Lease, Leases};
use super::password::unblock;
use super::remembered::Remembered;
use super::throttle::Throttle;
use super::{Directory, PasswordHash, Refusal, Secret};
use crate::platform::Platform;
use crate::store::KeyValue;

/// A hash of an unknown password, of the kind that [`PasswordHash::new`] makes. A login of an
/// unknown user computes this hash, or a hash from the settings, so that the time does not reveal
/// that the user is unknown.
const DECOY: &str = "$argon2id$v=19$m=7168,t=5,p=1$ZXlvdCBkZWNveSBzYWx0IQ$yGhqZRdxhUzMc5uhi0hZoQuhlEyemqlB4vgFTeZe3JE";
/// The most logins that one instance checks at once. More logins are refused, because each login
/// waits for the hashes of the logins before it.
pub(super) const LOGINS_AT_ONCE_MAX: usize = 64;
/// When a login without a place is to be tried again, in milliseconds from now.
const BUSY_RETRY_MS: u64 = 1000;

/// How often a login asks for the lease. With the wait below, a login gives up after six seconds.
const LEASE_TRIES_MAX: usize = 60;
/// How long a login waits between two tries.
const LEASE_WAIT: Duration = Duration::from_millis(100);
/// How many milliseconds a lease lasts at most. An older lease is that of an instance that was
/// killed.
const LEASE_MS_MAX: u64 = 3000;

/// The users and their passwords.
pub(super) struct Logins {
    plain: Option<(String, Secret)>,
    users: HashMap<String, PasswordHash>,
    decoys: Vec<PasswordHash>,
    directory: Directory,
    throttle: Throttle,
    remembered: Remembered,
    under_way: Flights<[u8; 32], Result<(), Refusal>>,
    places: Arc<AtomicUsize>,
    /// The leases on checking a login, over all instances; `None` without
    /// `Accounts::one_login_at_a_time`.
    leases: Option<Leases>,
    keys: Arc<dyn KeyValue>,
    platform: Arc<dyn Platform>,
    checks: AtomicU64,
}

impl Logins {
    pub(super) fn new(keys: Arc<dyn KeyValue>, platform: Arc<dyn Platform>) -> Self {
        Self {
            plain: None,
            users: HashMap::new(),
            decoys: vec![PasswordHash::parse(DECOY).expect("a hash")],
            directory: Directory::new(keys.clone(), platform.clone()),
            throttle: Throttle::new(keys.clone(), platform.clone()),
            remembered: Remembered::new(platform.as_ref()),
            under_way: Flights::new(),
            places: Arc::default(),
            leases: None,
            keys,
            platform,
            checks: AtomicU64::new(0),
        }
    }

    pub(super) fn set_plain(&mut self, name: String, password: Secret) {
        self.plain = Some((name, password));
    }

    pub(super) fn set_hashes(&mut self, users: Vec<(String, PasswordHash)>) {
        if !users.is_empty() {
            self.decoys = users.iter().map(|(_, hash)| hash.clone()).collect();
        }
        self.users = users.into_iter().collect();
    }

    pub(super) fn lease_checks(&mut self) {
        self.leases = Some(Leases::new(self.keys.clone(), self.platform.clone()));
    }

    pub(super) fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }

    /// Lets in a user with the right password. A password that was right a moment ago is not hashed
    /// again, as long as the user still has the same hash.
    pub(super) async fn log_in(
        self: &Arc<Self>,
        user: &str,
        password: &Secret,
        address: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let now_ms = self.platform.now_ms();
        let is_remembered = |hash: &str| self.remembered.holds(&self.remembered.digest(user, password, hash), now_ms);
        if let Some(hash) = self.set_hash_of(user)
            && is_remembered(hash)
        {
            return Ok(());
        }
        // The directory is read for every user, so that the time does not reveal where a user is
        // kept.
        let stored = self.directory.hash_of(user).await?;
        if self.set_hash_of(user).is_none() && stored.as_ref().is_some_and(|hash| is_remembered(hash.as_str())) {
            return Ok(());
        }
        // Logins of one user with one password from one address at the same moment are one attempt
        // if the password is right. Wrong passwords are counted one by one.
        let key = self.remembered.digest(user, password, &format!("{address:?}"));
        let (this, name, secret, hash) = (self.clone(), user.to_owned(), password.clone(), stored.clone());
        let attempt = async move { this.attempt(&name, &secret, hash, address).await };
        match self.under_way.join(self.platform.as_ref(), key, attempt).await {
            (Err(_), false) => self.attempt(user, password, stored, address).await,
            (outcome, _) => outcome,
        }
    }

    async fn attempt(
        &self,
        user: &str,
        password: &Secret,
        stored: Option<PasswordHash>,
        address: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let hash = self.set_hash_of(user).or(stored.as_ref().map(PasswordHash::as_str)).unwrap_or_default();
        let digest = self.remembered.digest(user, password, hash);
        // Another attempt with the same password may have succeeded since this attempt began.
        if self.remembered.holds(&digest, self.platform.now_ms()) {
            return Ok(());
        }
        let _place = Place::take(&self.places)?;
        match &self.leases {
            None => self.count_and_check(user, password, stored.as_ref(), address).await?,
            Some(leases) => {
                // An attempt that the throttle refuses takes no lease.
                self.throttle.check(user, address).await?;
                let check = self.count_and_check(user, password, stored.as_ref(), address);
                self.under_lease(leases, check).await??;
            }
        }
        self.remembered.keep(digest, self.platform.now_ms());
        Ok(())
    }

    /// Counts an attempt, and takes the count back if the password is right.
    async fn count_and_check(
        &self,
        user: &str,
        password: &Secret,
        stored: Option<&PasswordHash>,
        address: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let counted = self.throttle.begin(user, address).await?;
        match self.is_right(user, password, stored).await {
            true => self.throttle.succeeded(counted).await,
            false => Err(Refusal::Unauthorized),
        }
    }

    /// Does the work while this instance holds the lease. After some seconds without the lease, the
    /// login is refused with [`Refusal::Busy`].
    async fn under_lease<T>(&self, leases: &Leases, work: impl Future<Output = T>) -> Result<T, Refusal> {
        for _ in 0..LEASE_TRIES_MAX {
            match leases.acquire(LEASE_MS_MAX).await? {
                Lease::Acquired(number) => {
                    let done = work.await;
                    leases.end(number).await?;
                    return Ok(done);
                }
                Lease::Unsupported => return Ok(work.await),
                Lease::HeldElsewhere => self.platform.sleep(LEASE_WAIT).await,
            }
        }
        Err(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS })
    }

    /// The hash of a user in the settings. A user with a password in plain text has a fixed text in
    /// place of a hash.
    fn set_hash_of(&self, user: &str) -> Option<&str> {
        match &self.plain {
            Some((name, _)) if name == user => Some("the settings"),
            _ => self.users.get(user).map(PasswordHash::as_str),
        }
    }

    /// Whether the password is right. A hash is computed whether the user exists or not, so that
    /// the time does not reveal which users exist. Only a right password in plain text in the
    /// settings is accepted faster.
    async fn is_right(&self, user: &str, password: &Secret, stored: Option<&PasswordHash>) -> bool {
        self.checks.fetch_add(1, Ordering::Relaxed);
        let plain = self.plain.as_ref().filter(|(name, _)| name == user);
        if plain.is_some_and(|(_, known)| known.matches(password)) {
            return true;
        }
        let known = self.users.get(user).or(stored).filter(|_| plain.is_none());
        let (hash, password) = (known.unwrap_or_else(|| self.decoy(user)).clone(), password.clone());
        let matches = unblock(move || hash.verify(&password)).await;
        matches && known.is_some()
    }

    /// The hash to compute for an unknown user: always the same hash for the same name.
    fn decoy(&self, user: &str) -> &PasswordHash {
        let number = Sha256::digest(user)[..4].iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        &self.decoys[number % self.decoys.len()]
    }
}

/// One of the [`LOGINS_AT_ONCE_MAX`] places for logins that are being checked.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(places: &Arc<AtomicUsize>) -> Result<Self, Refusal> {
        let place = Self(places.clone());
        match places.fetch_add(1, Ordering::Relaxed) < LOGINS_AT_ONCE_MAX {
            true => Ok(place),
            false => Err(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
