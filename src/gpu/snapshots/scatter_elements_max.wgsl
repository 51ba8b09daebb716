// copy [1, 1, 1] [3, 0, 0, 3, 1, 1]
struct Params {
    count: u32,
    from_base: i32,
    to_base: u32,
    dim0: u32,
    from_stride0: i32,
    to_stride0: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= params.count) {
        return;
    }
    var rest = index;
    var at = 0u;
    var from_index = params.from_base;
    let to_index = params.to_base + index;
    at = rest % params.dim0;
    rest = rest / params.dim0;
    from_index += i32(at) * params.from_stride0;
    output[to_index] = input[u32(from_index)];
}
// scatter_elements [1, 1, 1] [3, 1, 1, 0, 1, 0, 2, 3, 4, 3, 3]
struct Params {
    dim0: u32,
    dim1: u32,
    to_stride0: u32,
    to_stride1: u32,
    from_stride0: u32,
    from_stride1: u32,
    length: u32,
    step: u32,
    axis: u32,
    axis_stride: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> indices: array<i32>;
@group(0) @binding(2) var<storage, read> updates: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;

fn place(index: i32, size: u32) -> u32 {
    let at = select(index, index + i32(size), index < 0);
    return u32(clamp(at, 0, i32(size) - 1));
}

fn is_nan(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
}

fn combine(a: f32, b: f32) -> f32 {
    return select(b, a, a > b || is_nan(a));
}


fn element(index: u32) {


    var rest = index;
    var to_index = 0u;
    var from_index = 0u;
    to_index += rest % params.dim0 * params.to_stride0;
    from_index += rest % params.dim0 * params.from_stride0;
    rest = rest / params.dim0;
    to_index += rest % params.dim1 * params.to_stride1;
    from_index += rest % params.dim1 * params.from_stride1;
    rest = rest / params.dim1;
    for (var i = 0u; i < params.length; i++) {
        let update = from_index + i * params.step;
        let to = to_index + place(indices[update], params.axis) * params.axis_stride;
        output[to] = combine(output[to], updates[update]);
    }





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
