//! Random numbers of one core, for spreading load; not for secrets.

use std::cell::Cell;

/// Generator (xorshift64*) that is seeded once per core.
pub(crate) struct Random(Cell<u64>);

impl Random {
    /// Creates the generator for `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed | 1))
    }

    /// Returns the next number.
    pub(crate) fn next(&self) -> u32 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }
}
