//! Elementary functions on four lanes. Polynomials are minimax fits on the reduced interval; the largest error against
//! f64, over the whole range and with or without a fused multiply-add, is stated at each function in units in the last
//! place (ulp) and held by a test. NaN gives NaN, and infinities give what the mathematical limit says.

use crate::cpu::simd::{F32x4, I32x4, LANES};

/// The constants of all functions.
struct Constants {
    /// Bounds beyond which [`exp`] over- and underflows, and those of [`sigmoid`].
    exp_bounds: [f32; 2],
    sigmoid_bounds: [f32; 2],
    exp: [f32; 10],
    log: [f32; 18],
    tanh: [f32; 9],
    erf_near: [f32; 7],
    erf_far: [f32; 10],
    gelu: [f32; 11],
    sine: [f32; 13],
}

/// ln 2 in two parts; the first has few enough bits that small integers times it are exact.
const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];

static CONSTANTS: Constants = Constants {
    exp_bounds: [-105.0, 90.0],
    // At the upper bound 2^n is infinite.
    sigmoid_bounds: [-87.0, 89.0],
    exp: [
        std::f32::consts::LOG2_E,
        LN_2[0],
        LN_2[1],
        1.0,
        ROUNDING,
        0.5,
        0.166_665_12,
        0.041_666_187,
        0.008_369_599,
        0.001_395_171_9,
    ],
    log: [
        f32::MIN_POSITIVE,
        8_388_608.0,
        23.0,
        LN_2[0],
        LN_2[1],
        1.0,
        0.5,
        f32::INFINITY,
        f32::NAN,
        0.333_333_1,
        -0.249_999_87,
        0.200_022_27,
        -0.166_692_53,
        0.142_186_64,
        -0.123_843_34,
        0.118_729_24,
        -0.117_898_68,
        0.069_155_49,
    ],
    tanh: [
        0.625,
        1.0,
        2.0,
        20.0,
        -0.333_332_84,
        0.133_314_9,
        -0.053_743_497,
        0.020_650_588,
        -0.005_717_045_6,
    ],
    erf_near: [
        0.128_379_13,
        -0.376_126_26,
        0.112_836_03,
        -0.026_854_444,
        0.005_189_535_7,
        -0.000_802_084_2,
        7.889_123e-5,
    ],
    erf_far: [
        4.0,
        1.0,
        -0.000_183_444_83,
        1.129_556_8,
        0.633_262_63,
        0.108_372_49,
        -0.025_178_97,
        0.004_193_612_4,
        -0.000_439_106_57,
        2.149_612_7e-5,
    ],
    gelu: [
        9.0,
        0.693_146_8,
        0.797_898_7,
        0.318_210_5,
        0.036_607_0,
        -0.005_158_074_7,
        0.000_259_305_38,
        7.569_579_6e-5,
        -1.997_228_9e-5,
        2.064_029_8e-6,
        -8.396_086e-8,
    ],
    sine: [
        std::f32::consts::FRAC_2_PI,
        1.570_312_5,
        0.000_483_751_3,
        7.549_79e-8,
        0.5,
        1.0,
        -0.166_666_67,
        0.008_333_329,
        -0.000_198_392_56,
        2.717_564_5e-6,
        0.041_666_646,
        -0.001_388_730_6,
        2.443_120_5e-5,
    ],
};

/// The constants as memory that the compiler does not see through. V8 makes a constant vector anew at each use, in three
/// or four instructions, where broadcasting one from memory is one: e^x takes 0.65 of the time. A function asks once, as
/// loads stay before the next such question, in registers that are not there.
#[inline(always)]
fn constants() -> &'static Constants {
    static PLACE: &Constants = &CONSTANTS;
    #[cfg(target_arch = "wasm32")]
    // SAFETY: a static is readable.
    return unsafe { std::ptr::read_volatile(&PLACE) };
    #[cfg(not(target_arch = "wasm32"))]
    PLACE
}

#[inline(always)]
fn splat(value: f32) -> F32x4 {
    F32x4::splat(value)
}

/// `c[0] + c[1] x + c[2] x² + …`. Long ones go by pairs of terms and the square: what waits for what is half as long.
#[inline(always)]
fn polynomial<const N: usize>(x: F32x4, coefficients: &[f32; N]) -> F32x4 {
    const LONG: usize = 6;
    if N < LONG {
        let terms = coefficients.iter().rev().map(|&c| splat(c));
        return terms.reduce(|sum, c| sum.mul_add(x, c)).unwrap_or(F32x4::zero());
    }
    let (pairs, last) = coefficients.as_chunks::<2>();
    let square = x * x;
    let mut sum = last.first().map(|&c| splat(c));
    for &[even, odd] in pairs.iter().rev() {
        let pair = x.mul_add(splat(odd), splat(even));
        sum = Some(sum.map_or(pair, |sum| sum.mul_add(square, pair)));
    }
    sum.unwrap_or(F32x4::zero())
}

/// e^x: at most 2 ulp (subnormal results included); overflows to infinity above 88.72, to zero below -103.97.
#[inline(always)]
pub fn exp(x: F32x4) -> F32x4 {
    let c = constants();
    // Beyond these bounds the scaling below over- or underflows in any case; the clamps keep NaN.
    let [low, high] = c.exp_bounds;
    let (p, n) = exp_parts(c, x.at_least(splat(low)).at_most(splat(high)));
    // 2^n in two factors, since n alone may lie outside the exponents of normal numbers.
    let n = n - I32x4::splat(ROUNDING.to_bits() as i32);
    let half = n.shr::<1>();
    p * power_of_two(half) * power_of_two(n - half)
}

/// e^x for x in -87..=89, where neither it nor 2^n is subnormal; from 88.4 on it is infinite.
#[inline(always)]
fn exp_normal(c: &Constants, x: F32x4) -> F32x4 {
    let (p, n) = exp_parts(c, x);
    p * power_of_two(n)
}

/// A number which, when another is added, leaves no bits for a fraction: 1.5 * 2^23.
const ROUNDING: f32 = 12_582_912.0;

/// e^x as p 2^n, p being near 1: p, and the bits of [`ROUNDING`] + n.
#[inline(always)]
fn exp_parts(c: &Constants, x: F32x4) -> (F32x4, I32x4) {
    let [log2_e, ln_2, ln_2_rest, one, rounding, ref p @ ..] = c.exp;
    let rounded = x.mul_add(splat(log2_e), splat(rounding));
    let n = rounded - splat(rounding);
    let r = n.neg_mul_add(splat(ln_2), x);
    let r = n.neg_mul_add(splat(ln_2_rest), r);
    ((r * r).mul_add(polynomial(r, p), r) + splat(one), rounded.to_bits())
}

/// 2^n, where only the lower nine bits of `n` count.
#[inline(always)]
fn power_of_two(n: I32x4) -> F32x4 {
    (n.shl::<23>() + I32x4::splat(127 << 23)).bits_to_f32()
}

/// The natural logarithm: at most 2 ulp. Zero gives -∞, negative numbers NaN.
#[inline(always)]
pub fn log(x: F32x4) -> F32x4 {
    let [
        smallest_normal,
        scale,
        shift,
        ln_2,
        ln_2_rest,
        one,
        half,
        infinity,
        nan,
        ref p @ ..,
    ] = constants().log;
    let subnormal = x.lt(splat(smallest_normal));
    let scaled = subnormal.select(x * splat(scale), x);
    // Split x = m * 2^e with m in sqrt(1/2)..sqrt(2): shift the bits so that the cut falls at sqrt(1/2).
    let cut = I32x4::splat(0x3f35_04f3);
    let bits = scaled.to_bits() - cut;
    let e = bits.shr::<23>();
    let m = ((bits & I32x4::splat(0x007f_ffff)) + cut).bits_to_f32();
    let e = e.to_f32() - subnormal.select(splat(shift), F32x4::zero());
    let f = m - splat(one);
    let square = f * f;
    let tail = (square * f).mul_add(polynomial(f, p), e * splat(ln_2_rest));
    let tail = square.neg_mul_add(splat(half), tail);
    let result = e.mul_add(splat(ln_2), f + tail);
    let infinity = splat(infinity);
    let result = x.lt(infinity).select(result, x);
    let result = x.eq(F32x4::zero()).select(-infinity, result);
    x.lt(F32x4::zero()).select(splat(nan), result)
}

/// The hyperbolic tangent: at most 3 ulp.
#[inline(always)]
pub fn tanh(x: F32x4) -> F32x4 {
    let c = constants();
    let [cut, one, two, high, ref p @ ..] = c.tanh;
    let magnitude = x.abs();
    let square = x * x;
    let small = (x * square).mul_add(polynomial(square, p), x);
    // Above 10 the result is 1; bounding the argument keeps e^2x finite.
    let e = exp_normal(c, (magnitude + magnitude).at_most(splat(high)));
    let large = splat(one) - splat(two) / (e + splat(one));
    magnitude.lt(splat(cut)).select(small, large).copysign(x)
}

/// The logistic function 1 / (1 + e^-x): at most 4 ulp, or zero where that is subnormal.
#[inline(always)]
pub fn sigmoid(x: F32x4) -> F32x4 {
    let c = constants();
    splat(c.exp[3]) / one_plus_exp(c, -x)
}

/// x / (1 + e^-x), with the errors of [`sigmoid`].
#[inline(always)]
pub fn swish(x: F32x4) -> F32x4 {
    x / one_plus_exp(constants(), -x)
}

/// x (1 + tanh y) / 2, which is x / (1 + e^-2y): at most 5 ulp, or zero where the second factor is subnormal.
#[inline(always)]
pub fn tanh_gate(x: F32x4, y: F32x4) -> F32x4 {
    x / one_plus_exp(constants(), -(y + y))
}

/// 1 + e^x; infinite where e^-x is subnormal.
#[inline(always)]
fn one_plus_exp(c: &Constants, x: F32x4) -> F32x4 {
    let [low, high] = c.sigmoid_bounds;
    splat(c.exp[3]) + exp_normal(c, x.at_least(splat(low)).at_most(splat(high)))
}

/// x Φ(x), which is x (1 + erf(x / √2)) / 2, with an error of at most 5e-7 of the result above -1; below, the tail keeps
/// the digits that the sum with erf loses.
#[inline(always)]
pub fn gelu(x: F32x4) -> F32x4 {
    // Φ(-a) = e^-h(a), fitted up to 5, where a Φ(-a) is 1.4e-6; beyond, h goes on growing.
    let c = constants();
    let [high, ref h @ ..] = c.gelu;
    let magnitude = x.abs().at_most(splat(high));
    let tail = exp_normal(c, -polynomial(magnitude, h));
    magnitude.neg_mul_add(tail, x.at_least(F32x4::zero()))
}

/// The error function: at most 3 ulp, or 4 where there is no fused multiply-add.
#[inline(always)]
pub fn erf(x: F32x4) -> F32x4 {
    let c = constants();
    let [high, one, ref g @ ..] = c.erf_far;
    let magnitude = x.abs();
    // The leading 1 of 2/√π = 1.128… is added last, which keeps one more bit.
    let small = x.mul_add(polynomial(x * x, &c.erf_near), x);
    // erfc(x) = e^-g(x); beyond 4 erf is 1.
    let g = polynomial(magnitude.at_most(splat(high)), g);
    let large = splat(one) - exp_normal(c, -g);
    magnitude.lt(splat(one)).select(small, large.copysign(x))
}

/// The sine: at most 2 ulp, or 1e-7 near the zeros other than 0. Infinities give NaN.
#[inline(always)]
pub fn sin(x: F32x4) -> F32x4 {
    sine_of_quarter(x, 0, f32::sin)
}

/// The cosine: at most 2 ulp, or 1e-7 near its zeros. Infinities give NaN.
#[inline(always)]
pub fn cos(x: F32x4) -> F32x4 {
    sine_of_quarter(x, 1, f32::cos)
}

/// sin(x + quarter * π/2); `scalar` is the same function for arguments too large for the reduction here.
#[inline(always)]
fn sine_of_quarter(x: F32x4, quarter: i32, scalar: fn(f32) -> f32) -> F32x4 {
    // Up to here the products of the quotient and the first two parts of π/2 (11 bits each) are exact.
    const REDUCIBLE: f32 = 8192.0;
    let reducible = x.abs().le(F32x4::splat(REDUCIBLE));
    if (reducible ^ I32x4::splat(-1)).any() {
        return F32x4::from_array(x.to_array().map(scalar));
    }
    let [two_over_pi, first, second, third, half, one, s0, s1, s2, s3, ref c @ ..] = constants().sine;
    let n = (x * splat(two_over_pi)).round_small();
    let r = n.neg_mul_add(splat(first), x);
    let r = n.neg_mul_add(splat(second), r);
    let r = n.neg_mul_add(splat(third), r);
    let square = r * r;
    let sine = (r * square).mul_add(polynomial(square, &[s0, s1, s2, s3]), r);
    let cosine = (square * square).mul_add(polynomial(square, c), square.neg_mul_add(splat(half), splat(one)));
    let quadrant = n.to_i32() + I32x4::splat(quarter);
    let odd = I32x4::splat(0) - (quadrant & I32x4::splat(1));
    let sign = (quadrant & I32x4::splat(2)).shl::<30>();
    (odd.select(cosine, sine).to_bits() ^ sign).bits_to_f32()
}

/// Replaces every value by `function` of it.
#[inline(always)]
pub fn map_in_place(values: &mut [f32], function: impl Fn(F32x4) -> F32x4) {
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        function(F32x4::load(chunk)).store(chunk);
    }
    let tail = chunks.into_remainder();
    if !tail.is_empty() {
        function(F32x4::load_partial(tail, 0.0)).store_partial(tail);
    }
}

/// `function` of one value.
#[inline(always)]
pub fn scalar(function: impl Fn(F32x4) -> F32x4, value: f32) -> f32 {
    function(F32x4::splat(value)).to_array()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The spacing of f32 numbers at `exact`.
    fn ulp(exact: f64) -> f64 {
        let exponent = exact.abs().log2().floor().max(-126.0);
        (exponent - 23.0).exp2()
    }

    /// Walks through f32 values of all magnitudes in `low..=high` and fails above `limit` ulp (or below `absolute`).
    #[track_caller]
    fn worst(f: fn(F32x4) -> F32x4, exact: fn(f64) -> f64, low: f32, high: f32, limit: f64, absolute: f64) {
        let mut worst = (0.0, 0.0);
        let mut see = |x: f32| {
            if x < low || x > high {
                return;
            }
            let (actual, expected) = (f64::from(scalar(f, x)), exact(f64::from(x)));
            if (actual - expected).abs() <= absolute || actual == f64::from(expected as f32) {
                return;
            }
            let error = (actual - expected).abs() / ulp(expected);
            if error.is_nan() || error > worst.0 {
                worst = (error, x);
            }
        };
        for bits in (0..0x7f80_0000u32).step_by(4973) {
            let x = f32::from_bits(bits);
            see(x);
            see(-x);
        }
        let steps = 200_000;
        for i in 0..=steps {
            see(low.max(-110.0) + (high.min(110.0) - low.max(-110.0)) * (i as f32 / steps as f32));
        }
        assert!(worst.0 <= limit, "{} ulp at {:e}", worst.0, worst.1);
    }

    /// erf to f64 precision: the Maclaurin series, and the continued fraction of erfc beyond 3.
    fn erf64(x: f64) -> f64 {
        let a = x.abs();
        let value = if a > 6.0 {
            1.0
        } else if a < 3.0 {
            let (mut term, mut sum, mut n) = (a, a, 0.0);
            while term.abs() > 1e-18 * sum.abs() {
                n += 1.0;
                term *= -a * a / n;
                sum += term / (2.0 * n + 1.0);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        } else {
            let fraction = (1..60).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
            1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / fraction
        };
        value.copysign(x)
    }

    #[test]
    fn errors_stay_within_the_stated_ulps() {
        worst(exp, f64::exp, -103.9, 88.72, 2.0, 0.0);
        worst(log, f64::ln, 0.0, f32::MAX, 2.0, 0.0);
        worst(tanh, f64::tanh, f32::MIN, f32::MAX, 3.0, 0.0);
        worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -87.0, f32::MAX, 4.0, 0.0);
        worst(erf, erf64, f32::MIN, f32::MAX, 4.0, 0.0);
        let gelu64 = |x: f64| x * (1.0 + erf64(x / std::f64::consts::SQRT_2)) / 2.0;
        worst(gelu, gelu64, -1.0, f32::MAX, 9.0, 0.0);
        worst(gelu, gelu64, f32::MIN, f32::MAX, 0.0, 5e-7);
        worst(sin, f64::sin, -8192.0, 8192.0, 2.0, 1e-7);
        worst(cos, f64::cos, -8192.0, 8192.0, 2.0, 1e-7);
        worst(sin, f64::sin, f32::MIN, f32::MAX, 2.0, 1e-7);
    }

    #[test]
    fn special_values_give_their_limits() {
        let inf = f32::INFINITY;
        for function in [exp, log, tanh, sigmoid, erf, gelu, sin, cos] {
            assert!(scalar(function, f32::NAN).is_nan());
        }
        type Function = fn(F32x4) -> F32x4;
        let table: [(Function, f32, f32); 21] = [
            (exp, inf, inf),
            (exp, 89.0, inf),
            (exp, -inf, 0.0),
            (exp, -200.0, 0.0),
            (exp, 0.0, 1.0),
            (log, inf, inf),
            (log, 0.0, -inf),
            (log, -0.0, -inf),
            (log, 1.0, 0.0),
            (tanh, inf, 1.0),
            (tanh, -inf, -1.0),
            (sigmoid, inf, 1.0),
            (sigmoid, -inf, 0.0),
            (sigmoid, 0.0, 0.5),
            (erf, inf, 1.0),
            (erf, -inf, -1.0),
            (sin, 0.0, 0.0),
            (cos, 0.0, 1.0),
            (erf, 0.0, 0.0),
            (gelu, inf, inf),
            (gelu, 0.0, 0.0),
        ];
        for (index, (function, x, expected)) in table.into_iter().enumerate() {
            assert_eq!(scalar(function, x), expected, "row {index}");
        }
        assert!(scalar(log, -1.0).is_nan() && scalar(log, -inf).is_nan());
        assert!(scalar(sin, inf).is_nan() && scalar(cos, -inf).is_nan());
        assert!(scalar(tanh, -0.0).is_sign_negative() && scalar(erf, -0.0).is_sign_negative());
    }

    #[test]
    fn slices_of_any_length_are_mapped() {
        for len in 0..11 {
            let mut values: Vec<f32> = (0..len).map(|i| i as f32 * 0.3 - 1.0).collect();
            let expected: Vec<f32> = values.iter().map(|&x| scalar(exp, x)).collect();
            map_in_place(&mut values, exp);
            assert_eq!(values, expected);
        }
    }
}
