//! Password hashes, as htpasswd files and argon2 programs write them.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use argon2::password_hash::phc::{Output, ParamsString, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64ct::{Base64Bcrypt, Encoding as _};
use subtle::ConstantTimeEq as _;

use super::invalid::InvalidAccess;
use super::{Secret, USER_NAME_BYTES_MAX};

/// The highest bcrypt cost that a hash may ask for (a logarithm: 14 takes about a second).
const BCRYPT_COST_MAX: u32 = 14;
/// The most memory that an argon2 hash may ask for, in KiB: a component has little memory.
const ARGON2_MEMORY_KIB_MAX: u32 = 64 * 1024;
/// The most passes that an argon2 hash may ask for.
const ARGON2_PASSES_MAX: u32 = 10;
/// The memory and the passes of the hashes that [`PasswordHash::new`] makes. OWASP's cheat sheet on
/// password storage counts 7 MiB and five passes as strong as argon2's default of 19 MiB and two
/// passes. Each instance of a component keeps the memory of one hash, so less memory is better.
const ARGON2_MEMORY_KIB: u32 = 7 * 1024;
const ARGON2_PASSES: u32 = 5;
/// The longest password that is checked, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// A password's hash: bcrypt (`$2y$…`) or argon2id (`$argon2id$…`).
#[derive(Clone)]
pub struct PasswordHash(String);

/// The text is not a usable hash. The error quotes nothing of the text, which may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordHashError {
    /// Another kind of hash, or a malformed hash.
    #[error("want a bcrypt hash (htpasswd -B) or an argon2id hash")]
    Kind,
    /// A hash that takes too long to compute.
    #[error(
        "the hash asks for too much work: bcrypt cost is at most {BCRYPT_COST_MAX}; argon2 takes at most \
         {ARGON2_MEMORY_KIB_MAX} KiB and {ARGON2_PASSES_MAX} passes"
    )]
    Work,
}

impl PasswordHash {
    /// Checks that a text is a usable hash.
    ///
    /// # Errors
    /// If the hash is of another kind, malformed, or would take too long to compute.
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        if ["$2y$", "$2a$", "$2b$"].iter().any(|kind| text.starts_with(kind)) {
            let parts = Bcrypt::parse(text).ok_or(PasswordHashError::Kind)?;
            if parts.cost > BCRYPT_COST_MAX {
                return Err(PasswordHashError::Work);
            }
        } else if text.starts_with("$argon2id$") {
            let hash = argon2::PasswordHash::new(text).map_err(|_| PasswordHashError::Kind)?;
            let params = Params::try_from(&hash).map_err(|_| PasswordHashError::Kind)?;
            if params.m_cost() > ARGON2_MEMORY_KIB_MAX || params.t_cost() > ARGON2_PASSES_MAX {
                return Err(PasswordHashError::Work);
            }
        } else {
            return Err(PasswordHashError::Kind);
        }
        Ok(Self(text.to_owned()))
    }

    /// Hashes a password (argon2id, 7 MiB, five passes). `salt` is random. Hashes are computed one
    /// at a time; this call blocks the thread meanwhile.
    pub fn new(password: &Secret, salt: [u8; 16]) -> Self {
        const RIGHT: &str = "the parameters and a salt of 16 bytes are right";
        let params = Params::new(ARGON2_MEMORY_KIB, ARGON2_PASSES, 1, None).expect(RIGHT);
        let mut out = [0; Params::DEFAULT_OUTPUT_LEN];
        argon2id(&params, Version::default(), password.expose().as_bytes(), &salt, &mut out).expect(RIGHT);
        let hash = argon2::PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::default().into()),
            params: ParamsString::try_from(&params).expect(RIGHT),
            salt: Some(Salt::new(&salt).expect(RIGHT)),
            hash: Some(Output::new(&out).expect(RIGHT)),
        };
        Self(hash.to_string())
    }

    /// Whether this is the hash of `password`. The computation takes about 25 ms natively, more in
    /// a component. Hashes are computed one at a time; this call blocks the thread meanwhile.
    pub fn verify(&self, password: &Secret) -> bool {
        let password = password.expose().as_bytes();
        if password.len() > PASSWORD_BYTES_MAX {
            return false;
        }
        match self.0.starts_with("$argon2id$") {
            true => verify_argon2id(&self.0, password).unwrap_or(false),
            false => {
                let _turn = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
                Bcrypt::parse(&self.0).is_some_and(|hash| hash.verify(password))
            }
        }
    }

    /// The hash's text, to be stored.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The memory of argon2, reused for each hash. An allocator keeps freed blocks of this size, so
/// many hashes at once would leave the process large. The holder of the lock has the turn to hash;
/// bcrypt takes the lock too.
static MEMORY: Mutex<Vec<Block>> = Mutex::new(Vec::new());

fn argon2id(params: &Params, version: Version, password: &[u8], salt: &[u8], out: &mut [u8]) -> argon2::Result<()> {
    let mut memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let blocks = params.block_count();
    if memory.len() < blocks {
        // Free the old blocks first, as their content is not needed: growing would hold both for a
        // moment.
        *memory = Vec::new();
        memory.resize(blocks, Block::new());
    }
    let hasher = Argon2::new(Algorithm::Argon2id, version, params.clone());
    hasher.hash_password_into_with_memory(password, salt, out, &mut memory[..blocks])
}

fn verify_argon2id(text: &str, password: &[u8]) -> Option<bool> {
    let hash = argon2::PasswordHash::new(text).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
    let (salt, known) = (hash.salt?, hash.hash?);
    let mut out = vec![0; known.len()];
    argon2id(&params, version, password, &salt, &mut out).ok()?;
    Some(out.ct_eq(known.as_ref()).into())
}

/// Computes a hash without holding up other requests: natively on a thread for blocking work. A
/// component has no such thread and computes the hash in place.
pub(super) async fn unblock<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(not(target_family = "wasm"))]
    return blocking::unblock(work).await;
    #[cfg(target_family = "wasm")]
    return work();
}

/// The parts of a bcrypt hash: `$2y$<cost>$<salt><hash>`.
struct Bcrypt {
    cost: u32,
    salt: [u8; 16],
    hash: [u8; 23],
}

impl Bcrypt {
    /// The most bytes of a password that count, including the zero byte that ends the password.
    const PASSWORD_BYTES: usize = 72;

    fn parse(text: &str) -> Option<Self> {
        let (cost, rest) = text.get(4..)?.split_once('$')?;
        let (salt, hash) = rest.split_at_checked(22)?;
        let mut parts = Self { cost: cost.parse().ok()?, salt: [0; 16], hash: [0; 23] };
        Base64Bcrypt::decode(salt, &mut parts.salt).ok().filter(|bytes| bytes.len() == 16)?;
        Base64Bcrypt::decode(hash, &mut parts.hash).ok().filter(|bytes| bytes.len() == 23)?;
        (4..=31).contains(&parts.cost).then_some(parts)
    }

    fn verify(&self, password: &[u8]) -> bool {
        let mut counted = [password, &[0]].concat();
        counted.truncate(Self::PASSWORD_BYTES);
        bcrypt::bcrypt(self.cost, self.salt, &counted)[..23].ct_eq(&self.hash).into()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// Parses an htpasswd file: `user:hash`, one per line.
///
/// # Errors
/// The text names the user or the line that is wrong, and nothing of the hash.
pub fn parse_htpasswd(text: &str) -> Result<Vec<(String, PasswordHash)>, InvalidAccess> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let users = lines.enumerate().map(|(index, line)| {
        let (user, hash) = line.split_once(':').ok_or(format!("line {}: want user:hash", index + 1))?;
        check_user_name(user).map_err(|why| format!("line {}: {why}", index + 1))?;
        let hash = PasswordHash::parse(hash).map_err(|why| format!("user {user}: {why}"))?;
        Ok((user.to_owned(), hash))
    });
    users.collect()
}

/// Refuses invalid user names: a name goes into rules, keys and the log.
///
/// # Errors
/// The text says which names are valid.
pub fn check_user_name(name: &str) -> Result<(), InvalidAccess> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._-@+".contains(&b);
    if name.is_empty() || name.len() > USER_NAME_BYTES_MAX || !name.bytes().all(known) {
        return Err("a user's name is 1 to 64 letters, digits and . _ - @ +".into());
    }
    if [super::policy::ANONYMOUS, super::policy::AUTHENTICATED].contains(&name) {
        return Err(
            "anonymous means everybody and authenticated means every user, so neither is the name of a user".into()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_hash() {
        // A hash from the system's crypt, with htpasswd's default cost.
        let bcrypt = PasswordHash::parse("$2y$05$2u19vXTpwbdgY5nUa2owdODn7t5c99iA/xu8hiyvzLxJiggxVWcLm").unwrap();
        let argon2 = PasswordHash::new(&Secret::new("secret"), [1; 16]);
        for hash in [bcrypt, PasswordHash::parse(argon2.as_str()).unwrap()] {
            assert!(hash.verify(&Secret::new("secret")));
            for wrong in ["", "Secret", "secret ", "secre\0t", &"x".repeat(5000)] {
                assert!(!hash.verify(&Secret::new(wrong)));
            }
            assert_eq!(format!("{hash:?}"), "PasswordHash");
        }
    }

    #[test]
    fn the_memory_of_hashes_is_used_again() {
        let hash = PasswordHash::new(&Secret::new("secret"), [1; 16]);
        let held = || {
            let memory = MEMORY.lock().unwrap();
            (memory.as_ptr() as usize, memory.capacity())
        };
        let before = held();
        for password in ["secret", "other"].repeat(3) {
            assert_eq!(hash.verify(&Secret::new(password)), password == "secret");
        }
        assert_eq!((held(), before.1), (before, ARGON2_MEMORY_KIB as usize), "one block of 7 MiB");
    }

    #[test]
    fn of_a_long_password_bcrypt_takes_the_beginning() {
        let hash = PasswordHash::parse("$2b$05$Q/qT9TuONKqRYHUyS8b9XuG7GGIHFwMnPTkXHVEtiIX.DeMg/rHtK").unwrap();
        assert!(hash.verify(&Secret::new("x".repeat(100))) && hash.verify(&Secret::new("x".repeat(72))));
        assert!(!hash.verify(&Secret::new("x".repeat(71))));
    }

    #[test]
    fn other_hashes_are_refused_without_showing_them() {
        for (line, expected) in [
            ("alice:{SHA}5en6G6MezRroT3XKqkdPOmY", "user alice: want a bcrypt hash"),
            ("alice:$apr1$x$y", "user alice: want a bcrypt hash"),
            ("alice:hunter2", "user alice: want a bcrypt hash"),
            ("alice:$2y$31$abcdefghijklmnopqrstuuPYgVGhrY4Mfpz3Yw5pVIsH8QGcvCPWq", "user alice: the hash asks"),
            ("alice:$argon2id$v=19$m=1048576,t=2,p=1$c29tZXNhbHQ$RdescudvJCsgt3ub+b4dWRWJTmaaJObG", "asks for too"),
            ("alice:$2y$05$short", "user alice: want a bcrypt hash"),
            ("alice:$2y$05$é", "user alice: want a bcrypt hash"),
            ("hunter2", "line 1: want user:hash"),
            ("a b:x", "line 1: a user's name"),
            ("anonymous:x", "line 1: anonymous"),
        ] {
            let error = parse_htpasswd(line).unwrap_err();
            assert!(error.to_string().contains(expected) && !error.to_string().contains("hunter2"), "{error}");
        }
    }
}
