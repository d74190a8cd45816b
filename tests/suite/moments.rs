//! When to strike at a process.

use std::time::Duration;

/// Moments to strike at, in microseconds: the same in every run of the tests, without a pattern.
pub struct Moments(pub u64);

impl Moments {
    pub fn below(&mut self, limit: Duration) -> Duration {
        // Knuth's MMIX generator; its high bits are good.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        limit.mul_f64((self.0 >> 33) as f64 / (1u64 << 31) as f64)
    }
}
