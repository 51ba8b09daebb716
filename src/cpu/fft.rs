//! Discrete Fourier transforms of any length in O(n log n) steps, in f64: mixed radices where the length has small prime
//! factors, else L. Bluestein's convolution ("A linear filtering approach to the computation of the discrete Fourier
//! transform", 1970) with a chirp.

use std::f64::consts::PI;

use crate::error::{Error, ErrorCode, Result};

/// A complex number: its real and imaginary parts.
pub type Complex = [f64; 2];

/// Prime factors up to this are transformed directly.
const LARGEST_RADIX: usize = 31;

/// The longest transform.
const MAX_LENGTH: usize = 1 << 26;

fn multiply(a: Complex, b: Complex) -> Complex {
    [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]
}

/// Makes `count` complex numbers, or says that there is no memory.
fn numbers(count: usize, make: impl FnMut(usize) -> Complex) -> Result<Vec<Complex>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count)
        .map_err(|_| Error::new(ErrorCode::OutOfMemory, "there is no memory for a Fourier transform"))?;
    list.extend((0..count).map(make));
    Ok(list)
}

/// The forward transform of one length.
#[derive(Debug)]
pub struct Fft {
    /// `exp(-2πi k / n)`; none for Bluestein's way.
    roots: Vec<Complex>,
    factors: Vec<usize>,
    chirp: Option<Box<Chirp>>,
    scratch: Vec<Complex>,
}

#[derive(Debug)]
struct Chirp {
    /// `exp(-πi k² / n)`
    factors: Vec<Complex>,
    /// The transform of the inverse chirp, over the number of its elements.
    filter: Vec<Complex>,
    fft: Fft,
    padded: Vec<Complex>,
}

impl Fft {
    /// A transform of `n` elements.
    pub fn new(n: usize) -> Result<Fft> {
        if n > MAX_LENGTH {
            return Err(Error::new(ErrorCode::LimitExceeded, "a Fourier transform is too long")
                .expected(format!("at most {MAX_LENGTH}"))
                .actual(n.to_string()));
        }
        let (mut factors, mut rest) = (Vec::new(), n.max(1));
        for radix in [4].into_iter().chain(2..=LARGEST_RADIX) {
            while rest.is_multiple_of(radix) {
                factors.push(radix);
                rest /= radix;
            }
        }
        let unit = |angle: f64| [angle.cos(), angle.sin()];
        if rest == 1 {
            return Ok(Fft {
                roots: numbers(n, |k| unit(-2.0 * PI * k as f64 / n as f64))?,
                factors,
                chirp: None,
                scratch: numbers(n, |_| [0.0; 2])?,
            });
        }
        // The square of k matters only up to a turn, so that the angle stays exact.
        let angle = |k: usize| PI * ((k as u64 * k as u64) % (2 * n as u64)) as f64 / n as f64;
        let length = (2 * n - 1).next_power_of_two();
        let mut fft = Fft::new(length)?;
        let mut filter = numbers(length, |_| [0.0; 2])?;
        for k in 0..n {
            let value = unit(angle(k)).map(|part| part / length as f64);
            filter[k] = value;
            filter[(length - k) % length] = value;
        }
        fft.forward(&mut filter);
        Ok(Fft {
            roots: Vec::new(),
            factors: Vec::new(),
            chirp: Some(Box::new(Chirp {
                factors: numbers(n, |k| unit(-angle(k)))?,
                filter,
                fft,
                padded: numbers(length, |_| [0.0; 2])?,
            })),
            scratch: Vec::new(),
        })
    }

    /// Transforms `data`, which has as many elements as this is for.
    pub fn forward(&mut self, data: &mut [Complex]) {
        if let Some(chirp) = &mut self.chirp {
            return chirp.forward(data);
        }
        self.scratch.copy_from_slice(data);
        transform(&self.scratch, 1, data, &self.factors, &self.roots);
    }

    /// The inverse transform, which divides by the number of elements.
    pub fn inverse(&mut self, data: &mut [Complex]) {
        data.iter_mut().for_each(|value| value[1] = -value[1]);
        self.forward(data);
        let scale = 1.0 / data.len() as f64;
        data.iter_mut()
            .for_each(|value| *value = [value[0] * scale, -value[1] * scale]);
    }
}

/// Decimation in time: `to` becomes the transform of every `stride`-th element of `from`.
fn transform(from: &[Complex], stride: usize, to: &mut [Complex], factors: &[usize], roots: &[Complex]) {
    let Some((&radix, factors)) = factors.split_first() else {
        to[0] = from[0];
        return;
    };
    let part = to.len() / radix;
    for index in 0..radix {
        let target = &mut to[index * part..(index + 1) * part];
        transform(&from[index * stride..], stride * radix, target, factors, roots);
    }
    let n = roots.len();
    let mut inputs = [[0.0; 2]; LARGEST_RADIX];
    for k in 0..part {
        for (index, input) in inputs[..radix].iter_mut().enumerate() {
            *input = multiply(to[index * part + k], roots[index * k * stride % n]);
        }
        for output in 0..radix {
            let turn = output * (n / radix);
            let mut sum = inputs[0];
            for (index, &input) in inputs[..radix].iter().enumerate().skip(1) {
                let term = multiply(input, roots[index * turn % n]);
                sum = [sum[0] + term[0], sum[1] + term[1]];
            }
            to[output * part + k] = sum;
        }
    }
}

impl Chirp {
    fn forward(&mut self, data: &mut [Complex]) {
        self.padded.fill([0.0; 2]);
        for ((padded, &value), &factor) in self.padded.iter_mut().zip(&*data).zip(&self.factors) {
            *padded = multiply(value, factor);
        }
        self.fft.forward(&mut self.padded);
        for (value, &filter) in self.padded.iter_mut().zip(&self.filter) {
            // Conjugated, so that a forward transform takes it back.
            let [real, imaginary] = multiply(*value, filter);
            *value = [real, -imaginary];
        }
        self.fft.forward(&mut self.padded);
        for ((value, &[real, imaginary]), &factor) in data.iter_mut().zip(&self.padded).zip(&self.factors) {
            *value = multiply([real, -imaginary], factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_of_every_length_agree_with_the_definition() {
        for n in (1..70).chain([128, 180, 211, 1009, 1024]) {
            let data: Vec<Complex> = (0..n)
                .map(|k| [((k * k * 7) % 11) as f64 - 5.0, ((k * 3) % 7) as f64])
                .collect();
            let mut result = data.clone();
            let mut fft = Fft::new(n).unwrap();
            fft.forward(&mut result);
            for k in (0..n).step_by(1 + n / 40) {
                let mut sum = [0.0; 2];
                for (index, &value) in data.iter().enumerate() {
                    let angle = -2.0 * PI * (index * k % n) as f64 / n as f64;
                    let term = multiply(value, [angle.cos(), angle.sin()]);
                    sum = [sum[0] + term[0], sum[1] + term[1]];
                }
                let error = (sum[0] - result[k][0]).hypot(sum[1] - result[k][1]);
                assert!(error < 1e-8, "length {n}, element {k}: {:?} is not {sum:?}", result[k]);
            }
            fft.inverse(&mut result);
            for (a, b) in result.iter().zip(&data) {
                assert!((a[0] - b[0]).hypot(a[1] - b[1]) < 1e-9, "inverse of length {n}");
            }
        }
        assert!(Fft::new(MAX_LENGTH + 1).is_err());
    }
}
