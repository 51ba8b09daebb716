// reduce [1, 1, 1] [20, 600, 5, 4, 2, 3000, 2, 300, 1, 10]
struct Params {
    count: u32,
    length: u32,
    kept_dim0: u32,
    kept_dim1: u32,
    kept_stride0: u32,
    kept_stride1: u32,
    reduced_dim0: u32,
    reduced_dim1: u32,
    reduced_stride0: u32,
    reduced_stride1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;


fn reduced_offset(index: u32) -> u32 {
    var rest = index;
    var offset = 0u;
    offset += (rest % params.reduced_dim0) * params.reduced_stride0;
    rest = rest / params.reduced_dim0;
    offset += (rest % params.reduced_dim1) * params.reduced_stride1;
    rest = rest / params.reduced_dim1;
    return offset;
}

fn kept_offset(index: u32) -> u32 {
    var rest = index;
    var offset = 0u;
    offset += (rest % params.kept_dim0) * params.kept_stride0;
    rest = rest / params.kept_dim0;
    offset += (rest % params.kept_dim1) * params.kept_stride1;
    rest = rest / params.kept_dim1;
    return offset;
}

fn is_nan(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
}

fn larger(a: f32, b: f32) -> f32 {
    return select(b, a, a > b || is_nan(a));
}

fn smaller(a: f32, b: f32) -> f32 {
    return select(b, a, a < b || is_nan(a));
}

fn combine(a: f32, b: f32) -> f32 {
    return a + b;
}

fn element(value: f32, shift: f32) -> f32 {
    return select(exp(value - shift), 1.0, value == shift);
}

fn logarithm(value: f32) -> f32 {
    let endless = (bitcast<u32>(value) & 0x7fffffffu) >= 0x7f800000u;
    let none = bitcast<f32>(select(0x7fc00000u, 0xff800000u, value == 0.0));
    return select(select(log(value), value, endless), none, value <= 0.0);
}

fn finish(value: f32, shift: f32) -> f32 {
    return logarithm(value) + shift;
}

fn initial(base: u32, at: u32) -> f32 {
    return f32(0);
}

fn partial(base: u32, first: u32, step: u32, shift: f32) -> f32 {
    var total = initial(base, first);
    var at = first;
    while (at < params.length) {
        let end = min(params.length, at + 64u * step);
        var block = initial(base, at);
        for (; at < end; at += step) {
            block = combine(block, element(input[base + reduced_offset(at)], shift));
        }
        total = combine(total, block);
    }
    return total;
}

fn partial_largest(base: u32, first: u32, step: u32) -> f32 {
    var largest = input[base + reduced_offset(min(first, params.length - 1u))];
    for (var at = first; at < params.length; at += step) {
        largest = larger(largest, input[base + reduced_offset(at)]);
    }
    return largest;
}

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
    let base = kept_offset(index);
    var shift = f32(0);
    shift = partial_largest(base, 0u, 1u);
    output[index] = finish(partial(base, 0u, 1u, shift), shift);
}
