//! Pseudo-random numbers: the Mersenne Twister (MT19937) as NumPy's legacy generator seeds and reads it, so that a seed
//! gives the numbers of ONNX's reference.

use std::sync::atomic::{AtomicU32, Ordering};

const LEN: usize = 624;
const MIDDLE: usize = 397;

/// A sequence of pseudo-random numbers.
pub struct Twister {
    state: Vec<u32>,
    next: usize,
    /// Normal numbers are made in pairs.
    second: Option<f64>,
}

impl Twister {
    /// The sequence of a seed.
    pub fn seeded(seed: u32) -> Twister {
        let mut state = Vec::with_capacity(LEN);
        let mut value = seed;
        for index in 1..=LEN as u32 {
            state.push(value);
            value = 1_812_433_253u32.wrapping_mul(value ^ (value >> 30)).wrapping_add(index);
        }
        Twister {
            state,
            next: LEN,
            second: None,
        }
    }

    /// A sequence that differs from call to call, and from process to process.
    pub fn unseeded() -> Twister {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        // An odd factor keeps calls apart.
        let call = CALLS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9);
        Twister::seeded(entropy().wrapping_add(call))
    }

    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        if self.next == LEN {
            for index in 0..LEN {
                let mixed = (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % LEN] & 0x7fff_ffff);
                let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[index] = self.state[(index + MIDDLE) % LEN] ^ (mixed >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut value = self.state[self.next];
        self.next += 1;
        value ^= value >> 11;
        value ^= (value << 7) & 0x9d2c_5680;
        value ^= (value << 15) & 0xefc6_0000;
        value ^ (value >> 18)
    }

    /// The next number of [0, 1), of 53 random bits.
    pub fn unit(&mut self) -> f64 {
        let (high, low) = (self.bits() >> 5, self.bits() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// The next number of the standard normal distribution, by the polar method.
    pub fn normal(&mut self) -> f64 {
        if let Some(second) = self.second.take() {
            return second;
        }
        loop {
            let (x, y) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let factor = (-2.0 * square.ln() / square).sqrt();
                self.second = Some(factor * x);
                return factor * y;
            }
        }
    }
}

#[cfg(target_arch = "wasm32")]
fn entropy() -> u32 {
    (js_sys::Math::random() * f64::from(u32::MAX)) as u32
}

#[cfg(not(target_arch = "wasm32"))]
fn entropy() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_numpys_numbers() {
        let mut twister = Twister::seeded(5489);
        assert_eq!(twister.bits(), 3_499_211_612);
        assert_eq!((1..10_000).map(|_| twister.bits()).last(), Some(4_123_659_995));
        let mut zero = Twister::seeded(0);
        assert_eq!([zero.unit(), zero.unit()], [0.5488135039273248, 0.7151893663724195]);
        let mut zero = Twister::seeded(0);
        let normals = [1.764052345967664, 0.4001572083672233, 0.9787379841057392];
        assert!(normals.iter().all(|normal| (zero.normal() - normal).abs() < 1e-14));
    }

    #[test]
    fn sequences_without_a_seed_differ() {
        let draw = || Twister::unseeded().bits();
        assert!((0..4).map(|_| draw()).any(|bits| bits != draw()));
    }
}
