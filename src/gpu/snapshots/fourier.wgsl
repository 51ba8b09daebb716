// fourier [1, 1, 1] [1, 8, 8, 5, 8, 10]
struct Params {
    inner: u32,
    size: u32,
    given: u32,
    made: u32,
    length: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> turns: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;

fn element(index: u32) {
    let inner = index % params.inner;
    let k = index / params.inner % params.made;
    let outer = index / params.inner / params.made;
    var real = 0.0;
    var imaginary = 0.0;
    var at = 0u;
    while (at < params.given) {
        let end = min(params.given, at + 32u);
        var block = vec2<f32>(0.0, 0.0);
        for (; at < end; at++) {
            let from_index = ((outer * params.size + at) * params.inner + inner) * 1u;
            let x = input[from_index];
            let y = 0.0;
            let turn = (at * k) % params.length;
            let c = turns[turn * 2u];
            let s = -turns[turn * 2u + 1u];
            block += vec2<f32>(x * c - y * s, x * s + y * c);
        }
        real += block.x;
        imaginary += block.y;
    }
    output[index * 2u] = real;
    output[index * 2u + 1u] = imaginary;
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
