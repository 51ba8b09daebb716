// softmax [1, 1, 1] [3, 300, 1]
struct Params {
    rows: u32,
    length: u32,
    inner: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;


@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= params.rows) {
        return;
    }
    let row = index;
    let first = 0u;
    let step = 1u;
    let base = (row / params.inner) * params.length * params.inner + row % params.inner;

    var largest = input[base];
    for (var at = first; at < params.length; at += step) {
        largest = max(largest, input[base + at * params.inner]);
    }

    var sum = 0.0;
    for (var at = first; at < params.length; at += step) {
        let value = exp(input[base + at * params.inner] - largest);
        sum += value;
        output[base + at * params.inner] = value;
    }

    let scale = 1.0 / sum;
    for (var at = first; at < params.length; at += step) {
        let offset = base + at * params.inner;
        let value = output[offset] * scale;
        output[offset] = value;
    }
}
