//! Reproducible randomness: a seed determines one sequence (splitmix64).

/// A sequence of pseudorandom numbers.
#[derive(Clone)]
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// Takes the seed from `EYOT_SEED`, else a fixed seed, so that CI does not fail by chance.
    pub fn from_environment() -> Self {
        Self::new(std::env::var("EYOT_SEED").map_or(1, |text| text.parse().expect("EYOT_SEED is a number")))
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number from 0 to `end` - 1; `end` must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn choose<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
