//! What is impure and not storage: the clock and randomness. All of it goes through here, so that tests can own it.

/// The clock and the randomness of a host.
pub trait Platform: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Random bytes that nobody can guess.
    fn random(&self) -> [u8; 16];

    /// A new random UUID (version 4): upload sessions and stages are called so.
    fn uuid(&self) -> String {
        uuid::Builder::from_random_bytes(self.random()).into_uuid().to_string()
    }
}

/// The operating system's clock and randomness; on WASI the host's.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemPlatform;

#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
impl Platform for SystemPlatform {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that draws randomness")]
    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        bytes
    }
}
