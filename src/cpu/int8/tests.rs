//! Products and convolutions against sums as they are defined, in every form that an engine may ask for.

use super::{
    conv::{IntegerConv, run_with},
    store::{Per, Store, Target},
    *,
};
use crate::cpu::{
    conv::ConvParams,
    epilogue::{Bias, Clamp, Epilogue},
    simd::bytes::IMITATED,
    testing::Rng,
};

/// The forms that this build can run.
fn kinds() -> Vec<Option<ByteDot>> {
    if cfg!(target_arch = "wasm32") {
        return vec![None, byte_dot()];
    }
    vec![
        None,
        Some(ByteDot::Unsigned),
        Some(ByteDot::Signed),
        Some(ByteDot::Seven),
    ]
}

fn imitate(kind: Option<ByteDot>) {
    IMITATED.set(kind.unwrap_or(ByteDot::Seven));
}

/// Whether the pool's threads, which imitate nothing of their own, compute in this form.
fn is_default(kind: Option<ByteDot>) -> bool {
    matches!(kind, None | Some(ByteDot::Unsigned)) || cfg!(target_arch = "wasm32")
}

/// Bytes among which are those that saturate first, or of a narrow range.
fn bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    let narrow = rng.bool();
    let extreme = rng.bool();
    let byte = |rng: &mut Rng| match (narrow, extreme) {
        (true, _) => rng.size(40, 40 + 127) as u8,
        (_, true) => [0, 255, 128, 127, 1][rng.size(0, 4)],
        _ => rng.next_u64() as u8,
    };
    (0..len).map(|_| byte(rng)).collect()
}

fn zeros(rng: &mut Rng, count: usize, is_signed: bool) -> Vec<i32> {
    let all_zero = rng.bool();
    let zero = |rng: &mut Rng| {
        if all_zero {
            0
        } else {
            number(rng.next_u64() as u8, is_signed)
        }
    };
    (0..count).map(|_| zero(rng)).collect()
}

/// One zero point or one for each.
fn some(rng: &mut Rng, zeros: &mut [i32]) -> bool {
    let one = rng.bool();
    if one {
        let first = zeros.first().copied().unwrap_or(0);
        zeros.fill(first);
    }
    one
}

fn per(zeros: &[i32], one: bool) -> Zeros<'_> {
    if one {
        Zeros::One(zeros.first().copied().unwrap_or(0))
    } else {
        Zeros::Each(zeros)
    }
}

#[test]
fn products_are_the_naive_sums() {
    let (mut rng, threads) = (Rng::new(41), Threads::eager(3));
    for round in 0..400 {
        let large = round % 20 == 0;
        let (m, k, n) = if large {
            (rng.size(1, 80), rng.size(1000, 2600), rng.size(1, 300))
        } else {
            (rng.size(0, 11), rng.size(0, 37), rng.size(0, 70))
        };
        let (x, w) = (bytes(&mut rng, m * k), bytes(&mut rng, k * n));
        let (x_signed, w_signed) = (rng.bool(), rng.bool());
        let (mut xz, mut wz) = (zeros(&mut rng, m, x_signed), zeros(&mut rng, n, w_signed));
        let (x_one, w_one) = (some(&mut rng, &mut xz), some(&mut rng, &mut wz));
        let mut expected = vec![0i32; m * n];
        for (at, sum) in expected.iter_mut().enumerate() {
            let (i, j) = (at / n, at % n);
            for d in 0..k {
                let x = number(x[i * k + d], x_signed) - xz[i];
                *sum += x * (number(w[d * n + j], w_signed) - wz[j]);
            }
        }
        for kind in kinds() {
            imitate(kind);
            let w = ByteMatrix {
                data: &w,
                is_signed: w_signed,
                zeros: per(&wz, w_one),
            };
            let weights = Weights::right_for(kind, w, k, n);
            let x = ByteMatrix {
                data: &x,
                is_signed: x_signed,
                zeros: per(&xz, x_one),
            };
            let shape = GemmShape { m, k, n };
            let mut out = vec![7i32; m * n];
            let threads = if round % 2 == 0 || !is_default(kind) {
                Threads::SINGLE
            } else {
                threads.clone()
            };
            let mut scratch = vec![i32::MIN; threads.count() * matmul_scratch_len(shape)];
            let epilogue = Epilogue::none();
            let store = Store::new(Target::Sums(&mut out), n, Per::One(0), Per::One(1.0), &epilogue);
            matmul(shape, x, &weights, &mut scratch, &store, &threads);
            if let Some(at) = (0..m * n).find(|&at| out[at] != expected[at]) {
                panic!("{shape:?} {kind:?} at {at}: {} for {}", out[at], expected[at]);
            }
        }
    }
}

fn reference(params: &ConvParams, x: &dyn Fn(usize) -> i32, w: &dyn Fn(usize, usize) -> i32) -> Vec<i32> {
    let [out_d, out_h, out_w] = params.output();
    let [in_d, in_h, in_w] = params.input.map(|size| size as isize);
    let [_, kernel_h, kernel_w] = params.kernel;
    let window: usize = params.kernel.iter().product();
    let depth = params.in_channels / params.groups;
    let per_group = params.out_channels / params.groups;
    let mut out = Vec::new();
    for row in 0..params.batch * params.out_channels {
        let (image, channel) = (row / params.out_channels, row % params.out_channels);
        for position in 0..out_d * out_h * out_w {
            let at = [position / out_w / out_h, position / out_w % out_h, position % out_w];
            let mut sum = 0;
            for step in 0..depth * window {
                let (c, tap) = (step / window, step % window);
                let taps = [tap / kernel_w / kernel_h, tap / kernel_w % kernel_h, tap % kernel_w];
                let place: [isize; 3] = std::array::from_fn(|axis| {
                    (at[axis] * params.strides[axis] + taps[axis] * params.dilations[axis]) as isize
                        - params.pads_begin[axis] as isize
                });
                let [z, y, x_at] = place;
                if (0..in_d).contains(&z) && (0..in_h).contains(&y) && (0..in_w).contains(&x_at) {
                    let plane = (image * params.in_channels + channel / per_group * depth + c) as isize;
                    let from = ((plane * in_d + z) * in_h + y) * in_w + x_at;
                    sum += x(from as usize) * w(channel, channel * depth * window + step);
                }
            }
            out.push(sum);
        }
    }
    out
}

#[test]
fn convolutions_are_the_naive_sums() {
    let (mut rng, threads) = (Rng::new(42), Threads::eager(3));
    for round in 0..500 {
        let groups = [1, 1, 1, 2, 4][rng.size(0, 4)];
        let (in_per_group, out_per_group) = match round % 4 {
            0 => (1, rng.size(1, 2)),
            _ => (rng.size(1, 9), rng.size(1, 9)),
        };
        let three = rng.size(0, 9) == 0;
        let mut axis = |low: usize, high: usize| {
            let depth = if three { rng.size(low, high) } else { low.min(1) };
            [depth, rng.size(low, high), rng.size(low, high)]
        };
        let kernel = if round % 3 == 0 { [1; 3] } else { axis(1, 4) };
        let plain = round % 6 == 0;
        let params = ConvParams {
            kernel,
            strides: if plain { [1; 3] } else { axis(1, 3) },
            dilations: axis(1, 2),
            pads_begin: if plain { [0; 3] } else { axis(0, 2) },
            pads_end: if plain { [0; 3] } else { axis(0, 2) },
            input: axis(1, 19),
            batch: rng.size(1, 2),
            in_channels: groups * in_per_group,
            out_channels: groups * out_per_group,
            groups,
        };
        let (x, w) = (
            bytes(&mut rng, params.input_len()),
            bytes(&mut rng, params.weights_len()),
        );
        let (x_signed, w_signed) = (rng.bool(), rng.bool());
        let xz = zeros(&mut rng, 1, x_signed);
        let mut wz = zeros(&mut rng, params.out_channels, w_signed);
        let w_one = some(&mut rng, &mut wz);
        let expected = reference(&params, &|at| number(x[at], x_signed) - xz[0], &|channel, at| {
            number(w[at], w_signed) - wz[channel]
        });
        let conv = IntegerConv::new(params.clone()).unwrap();
        for kind in kinds() {
            imitate(kind);
            let w = ByteMatrix {
                data: &w,
                is_signed: w_signed,
                zeros: per(&wz, w_one),
            };
            let x = ByteMatrix {
                data: &x,
                is_signed: x_signed,
                zeros: Zeros::One(xz[0]),
            };
            let weights = conv.pack_for(kind, w);
            let mut out = vec![7; params.output_len()];
            let threads = if round % 2 == 0 || !is_default(kind) {
                Threads::SINGLE
            } else {
                threads.clone()
            };
            run_with(&conv, x, &weights, &mut out, &threads);
            if let Some(at) = (0..out.len()).find(|&at| out[at] != expected[at]) {
                panic!("{params:?} {kind:?} at {at}: {} for {}", out[at], expected[at]);
            }
        }
    }
}

#[test]
fn sums_are_scaled_shifted_clamped_and_quantised_on_the_way_out() {
    let mut rng = Rng::new(43);
    for _ in 0..60 {
        let (m, k, n) = (rng.size(1, 9), rng.size(1, 30), rng.size(1, 40));
        let (x, w) = (bytes(&mut rng, m * k), bytes(&mut rng, k * n));
        let zeros = Zeros::One(100);
        let matrix = |data| ByteMatrix {
            data,
            is_signed: false,
            zeros,
        };
        let sum = |i: usize, j: usize| -> i32 {
            (0..k)
                .map(|d| (i32::from(x[i * k + d]) - 100) * (i32::from(w[d * n + j]) - 100))
                .sum()
        };
        let ints: Vec<i32> = (0..m.max(n)).map(|_| rng.size(0, 900) as i32 - 450).collect();
        let (row_floats, column_floats) = (rng.vec(m), rng.vec(n));
        let (by_row, residual) = (rng.bool(), rng.vec(m * n));
        let epilogue = Epilogue {
            bias: if by_row {
                Bias::PerRow(&row_floats)
            } else {
                Bias::PerColumn(&column_floats)
            },
            residual: Some(&residual),
            clamp: Some(Clamp { min: -3.0, max: 90.0 }),
            ..Epilogue::none()
        };
        let (bias, scale) = if by_row {
            (Per::Row(&ints[..m]), Per::Row(&row_floats[..]))
        } else {
            (Per::Column(&ints[..n]), Per::Column(&column_floats[..]))
        };
        let expected: Vec<f32> = (0..m * n)
            .map(|at| {
                let (i, j) = (at / n, at % n);
                let (int, float) = if by_row {
                    (ints[i], row_floats[i])
                } else {
                    (ints[j], column_floats[j])
                };
                let value = (sum(i, j) + int) as f32 * float + float + residual[at];
                value.max(-3.0).min(90.0)
            })
            .collect();
        let weights = Weights::right(matrix(&w), k, n);
        let shape = GemmShape { m, k, n };
        let mut scratch = vec![0; matmul_scratch_len(shape)];
        let mut floats = vec![0.0; m * n];
        let quantization = quantize::Quantization {
            scale: 0.4,
            zero: 20.0,
            is_signed: false,
        };
        let mut bytes = vec![0u8; m * n];
        let targets = [Target::Floats(&mut floats), Target::Bytes(&mut bytes, quantization)];
        for target in targets {
            let store = Store::new(target, n, bias, scale, &epilogue);
            matmul(shape, matrix(&x), &weights, &mut scratch, &store, &Threads::SINGLE);
        }
        assert_eq!(floats, expected);
        let expected: Vec<u8> = expected.iter().map(|&value| quantization.byte(value)).collect();
        assert_eq!(bytes, expected);
    }
}
