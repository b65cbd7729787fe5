//! The size of the pieces in which a client gets a body.

/// How many bytes a client must take without a pause to count as keeping up: more than sockets
/// buffer.
const KEPT_UP_BYTES: u64 = 4 * 1024 * 1024;
/// The longest time between two pieces that does not count as a pause, in milliseconds.
const PAUSE_MS: u64 = 20;

/// How fast a client takes the pieces of a body. Memory holds the pieces that a client has not
/// taken yet. So a slow client gets small pieces, and a client that keeps up gets large pieces,
/// which cost less time.
#[derive(Debug)]
pub struct ClientPace {
    small_bytes: usize,
    large_bytes: usize,
    asked_ms: u64,
    /// The bytes that the client has taken since its last pause.
    taken: u64,
}

impl ClientPace {
    /// A client that has not taken anything yet. The arguments are the sizes of small and large
    /// pieces, in bytes.
    pub fn new(small_bytes: usize, large_bytes: usize) -> Self {
        Self { small_bytes, large_bytes, asked_ms: 0, taken: 0 }
    }

    /// Records that the client asks for the next piece. Returns the largest size of that piece, in
    /// bytes.
    pub fn next_bytes(&mut self, now_ms: u64) -> usize {
        if now_ms.saturating_sub(self.asked_ms) > PAUSE_MS {
            self.taken = 0;
        }
        self.asked_ms = now_ms;
        let bytes = if self.taken < KEPT_UP_BYTES { self.small_bytes } else { self.large_bytes };
        self.taken += bytes as u64;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_for_clients_that_pause() {
        const SMALL: usize = 32 * 1024;
        const LARGE: usize = 256 * 1024;
        let mut pace = ClientPace::new(SMALL, LARGE);
        let small = (0..128).filter(|_| pace.next_bytes(1000) == SMALL).count();
        assert_eq!((small, pace.next_bytes(1000 + PAUSE_MS)), (128, LARGE));
        let mut now_ms = 2000;
        for _ in 0..1000 {
            now_ms += PAUSE_MS + 1;
            assert_eq!(pace.next_bytes(now_ms), SMALL);
        }
    }
}
