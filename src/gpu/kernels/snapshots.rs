//! The texts of kernels that run in the operators' own tests: each is valid, and a change of one is seen in review.

use super::super::epilogue::Epilogue;
use super::super::kernel::{AdapterKind, Binding, GpuCaps, GpuType};
use super::super::testing::assert_snapshot;
use super::attention::{Attention, Before, Bias, Rows};
use super::dot_attention::{DotAttention, Heads};
use super::indexed::{self, Data, ScatterOp};
use super::lines::{self, Extreme};
use super::nbits::{NBits, matmul_nbits};
use super::recurrent::{Given, Kind, Params, recurrent};
use super::volume::{self, VolumePool};
use super::{conv::Window, elementwise, fourier, sample};
use crate::gpu::kernel::GpuKernel;

fn caps() -> GpuCaps {
    GpuCaps::webgpu_default(AdapterKind::Software)
}

#[test]
fn indices_and_axes() {
    let caps = caps();
    let indices = || Binding::Input(1);
    let elements = indexed::gather_elements(&[3, 4], 1, &[3, 2], indices(), &caps);
    assert_snapshot("gather_elements", &elements.unwrap());
    let slices = indexed::scatter_nd(
        GpuType::F32,
        ScatterOp::Replace,
        &[4, 3],
        &[2, 1],
        indices(),
        Data::Copied,
        &caps,
    );
    assert_snapshot("scatter_nd", &slices.unwrap());
    let sums = indexed::scatter_elements(
        GpuType::F32,
        ScatterOp::Max,
        [&[4, 3], &[2, 3]],
        0,
        indices(),
        Data::Copied,
        &caps,
    );
    assert_snapshot("scatter_elements_max", &sums.unwrap());
    let top = lines::top_k(GpuType::F32, [2, 9, 1], 3, true, [true; 2], &caps);
    assert_snapshot("top_k", &top.unwrap());
    let extreme = lines::extreme(GpuType::F32, [2, 9, 3], ">", Extreme::Index, &caps);
    assert_snapshot("arg_max", &extreme.unwrap());
    let input = elementwise::Input {
        index: 0,
        ty: "i32",
        shape: &[3, 1],
    };
    let shifted = elementwise::kernel("x0 + 1", &[input], "i32", &[3, 4], |dispatch| dispatch, &caps);
    assert_snapshot("elementwise", &shifted.unwrap());
}

#[test]
fn windows_samples_and_transforms() {
    let caps = caps();
    let window = Window {
        kernel: &[2, 2, 2],
        strides: &[1, 1, 1],
        dilations: &[1, 1, 1],
        pads: &[0; 6],
    };
    let pool = volume::pool(VolumePool::Norm(3), &[1, 2, 4, 4, 4], &window, &[1, 2, 3, 3, 3], &caps);
    assert_snapshot("pool_volume", &pool.unwrap());
    let shapes: [&[usize]; 3] = [&[1, 2, 5, 6], &[1, 3, 4, 2], &[1, 2, 3, 4]];
    let sampled = sample::grid_sample("CUBIC", "REFLECTION", false, shapes, &caps);
    assert_snapshot("grid_sample", &sampled.unwrap());
    let transform = fourier::Transform {
        outer: 2,
        size: 8,
        inner: 1,
        parts: 1,
        length: 8,
        made: 5,
        inverse: false,
        half: false,
    };
    assert_snapshot("fourier", &fourier::dft(transform, &caps).unwrap());
}

#[test]
fn attention_layers_and_packed_weights() {
    let caps = caps();
    let rows = |binding| Rows::head_by_head(binding, 2, 5, 8);
    let attention = Attention {
        batch: 1,
        heads: 2,
        kv_heads: 2,
        queries: 5,
        keys: 5,
        head_size: 8,
        value_size: 8,
        q: rows(Binding::Input(0)),
        k: rows(Binding::Input(1)),
        v: rows(Binding::Input(2)),
        to: rows(Binding::Output(0)),
        scale: 0.5,
        soft_cap: 0.0,
        causal: true,
        window: [None; 2],
        before: Before::Same(0),
        bias: Some(Bias {
            binding: Binding::Input(3),
            steps: [0, 0, 5],
            keys: 5,
            is_truth: false,
        }),
        filter: None,
        sinks: None,
        record: None,
    };
    let kernel = GpuKernel::of(vec![attention.dispatch(&caps).unwrap()]);
    assert_snapshot("attention", &kernel);
    let hardware = GpuCaps::webgpu_default(AdapterKind::Hardware);
    let tiled = GpuKernel::of(vec![attention.dispatch(&hardware).unwrap()]);
    assert_snapshot("attention_hardware", &tiled);
    let heads = Heads {
        queries: 40,
        keys: 50,
        head_size: 16,
        value_size: 36,
        axes: vec![(3, [640, 800, 1800, 36])],
        bindings: [
            Binding::Input(0),
            Binding::Input(1),
            Binding::Input(2),
            Binding::Output(0),
        ],
        starts: [0; 4],
        rows: [16, 1, 36, 108],
        columns: [1, 50, 1, 1],
    };
    let adds = Epilogue {
        functions: "fn epilogue(value: f32, index: u32) -> f32 {
    return value + mask[index % params.mask_keys];
}"
        .into(),
        storages: vec![("mask".into(), "f32".into(), Binding::Input(3))],
        params: vec![("mask_keys".into(), "u32", 50)],
    };
    let masked = DotAttention {
        scale: 0.25,
        epilogue: Some(&adds),
        zero_nan: true,
    };
    for (caps, kind) in [(&hardware, "hardware"), (&caps, "software")] {
        let kernel = heads.attention(&masked, caps).unwrap();
        assert_snapshot(&format!("dot_attention_{kind}"), &kernel);
    }
    let params = Params {
        kind: Kind::Lstm { coupled: false },
        time: 1,
        batch: 2,
        input: 3,
        hidden: 4,
        backwards: vec![false],
        batch_first: false,
        clip: None,
        activations: [
            ("1.0 / (1.0 + exp(-x))", [0.0; 2]),
            ("bounded_tanh(x)", [0.0; 2]),
            ("bounded_tanh(x)", [0.0; 2]),
        ],
    };
    let given = Given {
        inputs: [true, false, false, false, false],
        outputs: [true, true, false],
    };
    assert_snapshot("lstm", &recurrent(&params, given, &caps).unwrap());
    let product = NBits {
        rows: 5,
        depth: 32,
        columns: 6,
        bits: 4,
        block: 16,
        weights: Binding::Input(1),
        scales: Binding::Input(2),
        zeros: None,
        bias: None,
    };
    assert_snapshot("matmul_nbits", &matmul_nbits(&product, &caps).unwrap());
}
