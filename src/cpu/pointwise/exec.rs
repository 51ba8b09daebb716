//! The steps' inner loops: one dispatch per tile, then SIMD over its elements.
//!
//! All functions here work on raw pointers, because a step's result may lie in the memory of its operands. That is
//! sound as every element is loaded before the same element is stored, and no loop looks at other positions.
//!
//! Each loop is a function of its own (`inline(never)`): V8 allocates registers badly in one function of a hundred
//! loops, which costs up to a factor of two.

use super::compile::{Op, Two};
use crate::cpu::math;
use crate::cpu::simd::{F32x4, I32x4, LANES};
use crate::pointwise::{BinaryOp, CompareOp, LogicOp, TestOp, UnaryOp, reference};

/// An operand's elements.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// One element per position, from here on.
    Elements(*const f32),
    /// This element for every position.
    Splat(*const f32),
}

impl Source {
    fn pointer(self) -> *const f32 {
        match self {
            Source::Elements(p) | Source::Splat(p) => p,
        }
    }
}

/// Runs `op` over `n` elements.
///
/// # Safety
/// `dst` is writable for `n` f32, and each source is readable for `n` (`Splat`: one). A source may be the very memory
/// of `dst`, but not overlap it otherwise. `op` is neither `Load` nor `Store`, and has as many sources as it takes; if
/// all are `Splat`, `n` is one.
pub(super) unsafe fn run(op: Op, src: &[Source], dst: *mut f32, n: usize) {
    // SAFETY: the pointers go on under the contract above; each arm reads only the sources that its operation has.
    unsafe {
        match (op, src) {
            (Op::Unary(op), &[a]) => unary(op, a.pointer(), dst, n),
            (Op::Test(op), &[a]) => test(op, a.pointer(), dst, n),
            (Op::Not, &[a]) => map(a.pointer(), dst, n, |x| mask(x.to_bits() ^ I32x4::splat(-1))),
            (Op::ToBool, &[a]) => map(a.pointer(), dst, n, |x| {
                let is_zero = x.eq(F32x4::zero());
                mask(is_zero ^ I32x4::splat(-1))
            }),
            (Op::ToF32, &[a]) => map(a.pointer(), dst, n, |x| mask(x.to_bits() & F32x4::splat(1.0).to_bits())),
            (Op::Clamp { low, high }, &[a]) => {
                let (low, high) = (F32x4::splat(low), F32x4::splat(high));
                map(a.pointer(), dst, n, |x| x.at_least(low).at_most(high));
            }
            (
                Op::AffineClamp {
                    scale,
                    shift,
                    low,
                    high,
                    factor,
                },
                &[a],
            ) => {
                let [scale, shift, low, high] = [scale, shift, low, high].map(F32x4::splat);
                let gate = |x: F32x4| (x * scale + shift).at_least(low).at_most(high);
                match factor.map(F32x4::splat) {
                    Some(factor) => map(a.pointer(), dst, n, |x| x * gate(x) * factor),
                    None => map(a.pointer(), dst, n, gate),
                }
            }
            (Op::Swish, &[a]) => map_long(a.pointer(), dst, n, math::swish),
            (Op::TanhGate, &[a, b]) => zip(a, b, dst, n, math::tanh_gate),
            (Op::Gelu, &[a]) => map_long(a.pointer(), dst, n, math::gelu),
            (Op::Binary(op), &[a, b]) => binary(op, a, b, dst, n),
            (Op::AddRelu, &[a, b]) => zip(a, b, dst, n, |x, y| (x + y).at_least(F32x4::zero())),
            (Op::Compare(op), &[a, b]) => compare(op, a, b, dst, n),
            (Op::Logic(op), &[a, b]) => match op {
                LogicOp::And => zip(a, b, dst, n, |x, y| mask(x.to_bits() & y.to_bits())),
                LogicOp::Or => zip(a, b, dst, n, |x, y| mask(x.to_bits() | y.to_bits())),
                LogicOp::Xor => zip(a, b, dst, n, |x, y| mask(x.to_bits() ^ y.to_bits())),
            },
            (Op::Two(Two::MulAdd), &[a, b, c]) => two(a, b, c, dst, n, |x, y| x * y, |x, y| x + y),
            (Op::Two(Two::AddMul), &[a, b, c]) => two(a, b, c, dst, n, |x, y| x + y, |x, y| x * y),
            (Op::Two(Two::SubMul), &[a, b, c]) => two(a, b, c, dst, n, |x, y| x - y, |x, y| x * y),
            (Op::Two(Two::SubDiv), &[a, b, c]) => two(a, b, c, dst, n, |x, y| x - y, |x, y| x / y),
            (Op::Select, &[c, a, b]) => select(c, a, b, dst, n),
            _ => debug_assert!(false, "{op:?} with {} operands", src.len()),
        }
    }
}

fn mask(lanes: I32x4) -> F32x4 {
    lanes.bits_to_f32()
}

/// Where a loop finds four elements.
trait Lanes: Copy {
    /// # Safety
    /// The elements from `i` on exist: four of them, or `rest` if that is given.
    unsafe fn at(self, i: usize) -> F32x4;
    /// # Safety
    /// As for `at`, for `rest < 4` elements.
    unsafe fn tail(self, i: usize, rest: usize) -> F32x4;
}

#[derive(Clone, Copy)]
struct Stream(*const f32);

impl Lanes for Stream {
    #[inline(always)]
    unsafe fn at(self, i: usize) -> F32x4 {
        // SAFETY: the caller's.
        unsafe { F32x4::load_ptr(self.0.add(i)) }
    }

    #[inline(always)]
    unsafe fn tail(self, i: usize, rest: usize) -> F32x4 {
        let mut lanes = [0.0; LANES];
        for (k, lane) in lanes.iter_mut().enumerate().take(rest) {
            // SAFETY: the caller's.
            *lane = unsafe { *self.0.add(i + k) };
        }
        F32x4::from_array(lanes)
    }
}

#[derive(Clone, Copy)]
struct Splat(F32x4);

impl Splat {
    /// # Safety
    /// `p` is readable for one f32.
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Splat {
        // SAFETY: the caller's.
        Splat(unsafe { F32x4::load_splat_ptr(p) })
    }
}

impl Lanes for Splat {
    #[inline(always)]
    unsafe fn at(self, _: usize) -> F32x4 {
        self.0
    }

    #[inline(always)]
    unsafe fn tail(self, _: usize, _: usize) -> F32x4 {
        self.0
    }
}

/// A function of other lanes. `Lanes` and not a closure over positions, because LLVM must inline it at every use.
#[derive(Clone, Copy)]
struct Map<A, F>(A, F);

impl<A: Lanes, F: Fn(F32x4) -> F32x4 + Copy> Lanes for Map<A, F> {
    #[inline(always)]
    unsafe fn at(self, i: usize) -> F32x4 {
        // SAFETY: the caller's.
        (self.1)(unsafe { self.0.at(i) })
    }

    #[inline(always)]
    unsafe fn tail(self, i: usize, rest: usize) -> F32x4 {
        // SAFETY: the caller's.
        (self.1)(unsafe { self.0.tail(i, rest) })
    }
}

#[derive(Clone, Copy)]
struct Zip<A, B, F>(A, B, F);

impl<A: Lanes, B: Lanes, F: Fn(F32x4, F32x4) -> F32x4 + Copy> Lanes for Zip<A, B, F> {
    #[inline(always)]
    unsafe fn at(self, i: usize) -> F32x4 {
        // SAFETY: the caller's.
        unsafe { (self.2)(self.0.at(i), self.1.at(i)) }
    }

    #[inline(always)]
    unsafe fn tail(self, i: usize, rest: usize) -> F32x4 {
        // SAFETY: the caller's.
        unsafe { (self.2)(self.0.tail(i, rest), self.1.tail(i, rest)) }
    }
}

/// Stores `lanes`, four vectors at a time so that cheap operations are not bound by the loop itself.
///
/// # Safety
/// `dst` is writable for `n` f32, and `lanes` has as many.
#[inline(always)]
unsafe fn fill(dst: *mut f32, n: usize, lanes: impl Lanes) {
    let mut i = 0;
    // SAFETY: all positions are below `n`.
    unsafe {
        while i + 4 * LANES <= n {
            let (a, b) = (lanes.at(i), lanes.at(i + LANES));
            let (c, d) = (lanes.at(i + 2 * LANES), lanes.at(i + 3 * LANES));
            a.store_ptr(dst.add(i));
            b.store_ptr(dst.add(i + LANES));
            c.store_ptr(dst.add(i + 2 * LANES));
            d.store_ptr(dst.add(i + 3 * LANES));
            i += 4 * LANES;
        }
        fill_from(dst, i, n, lanes);
    }
}

/// [`fill`] from `i` on, one vector at a time.
///
/// # Safety
/// As for [`fill`].
#[inline(always)]
unsafe fn fill_from(dst: *mut f32, mut i: usize, n: usize, lanes: impl Lanes) {
    // SAFETY: all positions are below `n`.
    unsafe {
        while i + LANES <= n {
            lanes.at(i).store_ptr(dst.add(i));
            i += LANES;
        }
        if i < n {
            let last = lanes.tail(i, n - i).to_array();
            for (k, lane) in last.into_iter().enumerate().take(n - i) {
                *dst.add(i + k) = lane;
            }
        }
    }
}

/// # Safety
/// As for [`run`].
#[inline(never)]
unsafe fn map(a: *const f32, dst: *mut f32, n: usize, f: impl Fn(F32x4) -> F32x4 + Copy) {
    // SAFETY: `a` and `dst` hold `n` elements.
    unsafe { fill(dst, n, Map(Stream(a), f)) }
}

/// [`map`] for functions that are long themselves.
///
/// # Safety
/// As for [`run`].
#[inline(never)]
unsafe fn map_long(a: *const f32, dst: *mut f32, n: usize, f: impl Fn(F32x4) -> F32x4 + Copy) {
    // SAFETY: `a` and `dst` hold `n` elements.
    unsafe { fill_from(dst, 0, n, Map(Stream(a), f)) }
}

/// One element after the other, for what has no SIMD form and for what LLVM vectorises well alone.
///
/// # Safety
/// As for [`run`].
#[inline(never)]
unsafe fn map_scalar(a: *const f32, dst: *mut f32, n: usize, f: impl Fn(f32) -> f32) {
    for i in 0..n {
        // SAFETY: `a` and `dst` hold `n` elements.
        unsafe { *dst.add(i) = f(*a.add(i)) }
    }
}

/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn zip(a: Source, b: Source, dst: *mut f32, n: usize, f: impl Fn(F32x4, F32x4) -> F32x4 + Copy) {
    // SAFETY: sources and `dst` hold `n` elements, or one where they are splat; two splats come with `n = 1`, so that
    // the first is a stream of one.
    unsafe {
        match (a, b) {
            (Source::Elements(a), Source::Elements(b)) => zip_lanes(Stream(a), Stream(b), dst, n, f),
            (Source::Elements(a) | Source::Splat(a), Source::Splat(b)) => {
                zip_lanes(Stream(a), Splat::load(b), dst, n, f)
            }
            (Source::Splat(a), Source::Elements(b)) => zip_lanes(Splat::load(a), Stream(b), dst, n, f),
        }
    }
}

/// # Safety
/// As for [`run`].
#[inline(never)]
unsafe fn zip_lanes(a: impl Lanes, b: impl Lanes, dst: *mut f32, n: usize, f: impl Fn(F32x4, F32x4) -> F32x4 + Copy) {
    // SAFETY: the caller's.
    unsafe { fill(dst, n, Zip(a, b, f)) }
}

/// # Safety
/// As for [`run`].
unsafe fn unary(op: UnaryOp, a: *const f32, dst: *mut f32, n: usize) {
    let one = F32x4::splat(1.0);
    // SAFETY: the caller's.
    unsafe {
        match op {
            UnaryOp::Neg => map(a, dst, n, |x| -x),
            UnaryOp::Abs => map(a, dst, n, F32x4::abs),
            UnaryOp::Sign => map(a, dst, n, |x| {
                let zero = F32x4::zero();
                // NaN compares with nothing and comes through.
                let one_signed = one.copysign(x);
                let sign = (x.lt(zero) | x.gt(zero)).select(one_signed, x);
                x.eq(zero).select(zero, sign)
            }),
            UnaryOp::Sqrt => map(a, dst, n, F32x4::sqrt),
            UnaryOp::Reciprocal => map(a, dst, n, |x| one / x),
            UnaryOp::Relu => map(a, dst, n, |x| x.at_least(F32x4::zero())),
            UnaryOp::Floor => map_scalar(a, dst, n, f32::floor),
            UnaryOp::Ceil => map_scalar(a, dst, n, f32::ceil),
            UnaryOp::Round => map_scalar(a, dst, n, f32::round_ties_even),
            UnaryOp::Exp => map_long(a, dst, n, math::exp),
            UnaryOp::Log => map_long(a, dst, n, math::log),
            UnaryOp::Sin => map_long(a, dst, n, math::sin),
            UnaryOp::Cos => map_long(a, dst, n, math::cos),
            UnaryOp::Tanh => map_long(a, dst, n, math::tanh),
            UnaryOp::Erf => map_long(a, dst, n, math::erf),
            UnaryOp::Sigmoid => map_long(a, dst, n, math::sigmoid),
            UnaryOp::Softplus => map_long(a, dst, n, softplus),
            UnaryOp::Tan
            | UnaryOp::Asin
            | UnaryOp::Acos
            | UnaryOp::Atan
            | UnaryOp::Sinh
            | UnaryOp::Cosh
            | UnaryOp::Asinh
            | UnaryOp::Acosh
            | UnaryOp::Atanh => map_scalar(a, dst, n, |x| reference::unary(op, x)),
        }
    }
}

/// `max(x, 0) + log(1 + e^-|x|)`.
#[inline(always)]
fn softplus(x: F32x4) -> F32x4 {
    let one = F32x4::splat(1.0);
    let e = math::exp(-x.abs());
    // log(1 + e) loses e's low bits in the sum; their share is put back by the quotient.
    let sum = one + e;
    let rounded = sum - one;
    let log = rounded.eq(F32x4::zero()).select(e, math::log(sum) * (e / rounded));
    x.at_least(F32x4::zero()) + log
}

/// # Safety
/// As for [`run`].
unsafe fn test(op: TestOp, a: *const f32, dst: *mut f32, n: usize) {
    // SAFETY: the caller's.
    unsafe {
        match op {
            TestOp::IsNan => map(a, dst, n, |x| mask(x.is_nan())),
            TestOp::IsInf { positive, negative } => {
                let (low, high) = (F32x4::splat(f32::NEG_INFINITY), F32x4::splat(f32::INFINITY));
                let (if_low, if_high) = (I32x4::splat(-(negative as i32)), I32x4::splat(-(positive as i32)));
                map(a, dst, n, |x| mask((x.eq(low) & if_low) | (x.eq(high) & if_high)));
            }
        }
    }
}

/// # Safety
/// As for [`run`].
unsafe fn binary(op: BinaryOp, a: Source, b: Source, dst: *mut f32, n: usize) {
    // SAFETY: the caller's.
    unsafe {
        match op {
            BinaryOp::Add => zip(a, b, dst, n, |x, y| x + y),
            BinaryOp::Sub => zip(a, b, dst, n, |x, y| x - y),
            BinaryOp::Mul => zip(a, b, dst, n, |x, y| x * y),
            BinaryOp::Div => zip(a, b, dst, n, |x, y| x / y),
            BinaryOp::Min => zip(a, b, dst, n, F32x4::min),
            BinaryOp::Max => zip(a, b, dst, n, F32x4::max),
            BinaryOp::Pow | BinaryOp::Fmod => {
                let (step_a, step_b) = (
                    matches!(a, Source::Elements(_)) as usize,
                    matches!(b, Source::Elements(_)) as usize,
                );
                let (a, b) = (a.pointer(), b.pointer());
                for i in 0..n {
                    *dst.add(i) = reference::binary(op, *a.add(i * step_a), *b.add(i * step_b));
                }
            }
        }
    }
}

/// # Safety
/// As for [`run`].
unsafe fn compare(op: CompareOp, a: Source, b: Source, dst: *mut f32, n: usize) {
    // SAFETY: the caller's.
    unsafe {
        match op {
            CompareOp::Equal => zip(a, b, dst, n, |x, y| mask(x.eq(y))),
            CompareOp::NotEqual => zip(a, b, dst, n, |x, y| mask(x.eq(y) ^ I32x4::splat(-1))),
            CompareOp::Less => zip(a, b, dst, n, |x, y| mask(x.lt(y))),
            CompareOp::LessOrEqual => zip(a, b, dst, n, |x, y| mask(x.le(y))),
            CompareOp::Greater => zip(a, b, dst, n, |x, y| mask(x.gt(y))),
            CompareOp::GreaterOrEqual => zip(a, b, dst, n, |x, y| mask(x.ge(y))),
        }
    }
}

/// `second(first(a, b), c)`, where `a` is a stream.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn two(
    a: Source,
    b: Source,
    c: Source,
    dst: *mut f32,
    n: usize,
    first: impl Fn(F32x4, F32x4) -> F32x4 + Copy,
    second: impl Fn(F32x4, F32x4) -> F32x4 + Copy,
) {
    // SAFETY: the caller's.
    unsafe {
        let a = Stream(a.pointer());
        match (b, c) {
            (Source::Elements(b), Source::Elements(c)) => {
                zip_lanes(Zip(a, Stream(b), first), Stream(c), dst, n, second)
            }
            (Source::Elements(b), Source::Splat(c)) => {
                zip_lanes(Zip(a, Stream(b), first), Splat::load(c), dst, n, second)
            }
            (Source::Splat(b), Source::Elements(c)) => {
                zip_lanes(Zip(a, Splat::load(b), first), Stream(c), dst, n, second)
            }
            (Source::Splat(b), Source::Splat(c)) => {
                zip_lanes(Zip(a, Splat::load(b), first), Splat::load(c), dst, n, second)
            }
        }
    }
}

/// # Safety
/// As for [`run`].
unsafe fn select(c: Source, a: Source, b: Source, dst: *mut f32, n: usize) {
    // SAFETY: the caller's. One condition for all comes from a run or row scalar; with `n = 1` it is a stream.
    unsafe {
        let c = match c {
            Source::Elements(c) => c,
            Source::Splat(c) => {
                let chosen = if (*c).to_bits() != 0 { a } else { b };
                return match chosen {
                    Source::Elements(a) => fill(dst, n, Stream(a)),
                    Source::Splat(a) => splat(*a, dst, n),
                };
            }
        };
        match (a, b) {
            (Source::Elements(a), Source::Elements(b)) => select_lanes(c, Stream(a), Stream(b), dst, n),
            (Source::Elements(a), Source::Splat(b)) => select_lanes(c, Stream(a), Splat::load(b), dst, n),
            (Source::Splat(a), Source::Elements(b)) => select_lanes(c, Splat::load(a), Stream(b), dst, n),
            (Source::Splat(a), Source::Splat(b)) => select_lanes(c, Splat::load(a), Splat::load(b), dst, n),
        }
    }
}

/// # Safety
/// As for [`run`].
#[inline(never)]
unsafe fn select_lanes(c: *const f32, a: impl Lanes, b: impl Lanes, dst: *mut f32, n: usize) {
    #[derive(Clone, Copy)]
    struct Choice<A, B>(Stream, A, B);

    impl<A: Lanes, B: Lanes> Lanes for Choice<A, B> {
        #[inline(always)]
        unsafe fn at(self, i: usize) -> F32x4 {
            // SAFETY: the caller's.
            unsafe { self.0.at(i).to_bits().select(self.1.at(i), self.2.at(i)) }
        }

        #[inline(always)]
        unsafe fn tail(self, i: usize, rest: usize) -> F32x4 {
            // SAFETY: the caller's.
            unsafe {
                self.0
                    .tail(i, rest)
                    .to_bits()
                    .select(self.1.tail(i, rest), self.2.tail(i, rest))
            }
        }
    }

    // SAFETY: the caller's.
    unsafe { fill(dst, n, Choice(Stream(c), a, b)) }
}

/// Sets `n` elements to `value`.
///
/// # Safety
/// `dst` is writable for `n` f32.
pub(super) unsafe fn splat(value: f32, dst: *mut f32, n: usize) {
    let value = F32x4::splat(value);
    // SAFETY: the caller's.
    unsafe { fill(dst, n, Splat(value)) }
}

/// Copies `n` elements that lie `stride` apart.
///
/// # Safety
/// `src` is readable at every `stride`-th of `n` elements, `dst` writable for `n` f32; they may be the same memory
/// only if `stride` is one.
pub(super) unsafe fn load_f32(src: *const f32, stride: usize, dst: *mut f32, n: usize) {
    // SAFETY: the caller's.
    unsafe {
        match stride {
            0 => splat(*src, dst, n),
            1 => fill(dst, n, Stream(src)),
            _ => (0..n).for_each(|i| *dst.add(i) = *src.add(i * stride)),
        }
    }
}

/// Turns `n` bytes that lie `stride` apart into masks.
///
/// # Safety
/// `src` is readable at every `stride`-th of `n` bytes, `dst` writable for `n` f32, and they do not overlap.
pub(super) unsafe fn load_bool(src: *const u8, stride: usize, dst: *mut f32, n: usize) {
    let mask = |byte: u8| f32::from_bits(if byte != 0 { u32::MAX } else { 0 });
    // SAFETY: the caller's.
    unsafe {
        match stride {
            0 => splat(mask(*src), dst, n),
            _ => (0..n).for_each(|i| *dst.add(i) = mask(*src.add(i * stride))),
        }
    }
}

/// Turns `n` masks into bytes, 1 or 0.
///
/// # Safety
/// `src` is readable for `n` f32 (`Splat`: one), `dst` writable for `n` bytes, and they do not overlap.
pub(super) unsafe fn store_bool(src: Source, dst: *mut u8, n: usize) {
    // SAFETY: the caller's.
    unsafe {
        match src {
            Source::Elements(src) => (0..n).for_each(|i| *dst.add(i) = ((*src.add(i)).to_bits() & 1) as u8),
            Source::Splat(src) => dst.write_bytes(((*src).to_bits() & 1) as u8, n),
        }
    }
}
