//! Helpers of the kernels' tests: seeded numbers and comparisons that name the first difference.

/// A small deterministic generator (xorshift64*).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A value of `low..=high`.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        low + (self.next_u64() >> 33) as usize % (high - low + 1)
    }

    /// A value of -1..1.
    pub fn f32(&mut self) -> f32 {
        ((self.next_u64() >> 40) as f32 / (1u64 << 24) as f32) * 2.0 - 1.0
    }

    pub fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.f32()).collect()
    }

    pub fn bool(&mut self) -> bool {
        self.next_u64() >> 63 == 1
    }
}

/// Fails at the first element that differs by more than `tolerance * max(1, |expected|)`.
#[track_caller]
pub fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    for (index, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let equal = a == e || (a.is_nan() && e.is_nan());
        assert!(
            equal || (a - e).abs() <= tolerance * e.abs().max(1.0),
            "{what}: first difference at {index}: {a} instead of {e}"
        );
    }
}

/// Fails unless what several threads computed equals what one did, bit by bit.
#[track_caller]
pub fn assert_same_bits(parallel: &[f32], alone: &[f32], what: &str) {
    assert_eq!(parallel.len(), alone.len(), "{what}");
    for (index, (a, b)) in parallel.iter().zip(alone).enumerate() {
        assert!(
            a.to_bits() == b.to_bits(),
            "{what}: {a} instead of {b} at {index} on several threads"
        );
    }
}
