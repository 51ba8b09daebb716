// pool_volume [1, 1, 1] [1077936128, 3, 3, 3, 2, 2, 2, 4, 4, 4, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 54]
struct Params {
    power: f32,
    out0: u32,
    out1: u32,
    out2: u32,
    kernel0: u32,
    kernel1: u32,
    kernel2: u32,
    in0: i32,
    in1: i32,
    in2: i32,
    stride0: i32,
    stride1: i32,
    stride2: i32,
    dilation0: i32,
    dilation1: i32,
    dilation2: i32,
    pad0: i32,
    pad1: i32,
    pad2: i32,
    end0: i32,
    end1: i32,
    end2: i32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

fn powered(value: f32) -> f32 {
    return select(pow(abs(value), params.power), 0.0, value == 0.0);
}

fn rooted(sum: f32) -> f32 {
    return select(pow(sum, 1.0 / params.power), 0.0, sum == 0.0);
}

fn element(index: u32) {
    var rest = index;
    let out0 = i32(rest % params.out0);
    rest = rest / params.out0;
    let out1 = i32(rest % params.out1);
    rest = rest / params.out1;
    let out2 = i32(rest % params.out2);
    rest = rest / params.out2;
    let volume = params.in0 * params.in1 * params.in2;
    let taps = params.kernel0 * params.kernel1 * params.kernel2;

    let plane = rest * u32(volume);
    var value = 0.0;
    var counted = 0u;

    for (var tap = 0u; tap < taps; tap++) {
        var part = tap;
        var inside = true;
        let k0 = i32(part % params.kernel0);
        part = part / params.kernel0;
        let at0 = out0 * params.stride0 + k0 * params.dilation0 - params.pad0;
        inside = inside && at0 >= 0 && at0 < params.in0;
        let k1 = i32(part % params.kernel1);
        part = part / params.kernel1;
        let at1 = out1 * params.stride1 + k1 * params.dilation1 - params.pad1;
        inside = inside && at1 >= 0 && at1 < params.in1;
        let k2 = i32(part % params.kernel2);
        part = part / params.kernel2;
        let at2 = out2 * params.stride2 + k2 * params.dilation2 - params.pad2;
        inside = inside && at2 >= 0 && at2 < params.in2;
        if (!inside) {
            continue;
        }
        let place = (at2 * params.in1 + at1) * params.in0 + at0;
        let element = input[plane + u32(place)];
        value += powered(element);
    }

    value = rooted(value);
    output[index] = value;
}


@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index < params.count) {
        element(index);
    }
}
