// softmax [3, 1, 1] [3, 300, 1]
struct Params {
    rows: u32,
    length: u32,
    inner: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

var<workgroup> shared_values: array<f32, 64>;

fn reduce_largest(local: u32, value: f32) -> f32 {
    shared_values[local] = value;
    workgroupBarrier();
    for (var half = 64u / 2u; half > 0u; half = half / 2u) {
        if (local < half) {
            shared_values[local] = max(shared_values[local], shared_values[local + half]);
        }
        workgroupBarrier();
    }
    let result = shared_values[0];
    workgroupBarrier();
    return result;
}

fn reduce_sum(local: u32, value: f32) -> f32 {
    shared_values[local] = value;
    workgroupBarrier();
    for (var half = 64u / 2u; half > 0u; half = half / 2u) {
        if (local < half) {
            shared_values[local] += shared_values[local + half];
        }
        workgroupBarrier();
    }
    let result = shared_values[0];
    workgroupBarrier();
    return result;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = group.y * groups.x + group.x;
    let row = min(index, params.rows - 1u);
    let first = local;
    let step = 64u;
    let base = (row / params.inner) * params.length * params.inner + row % params.inner;

    var largest = input[base];
    for (var at = first; at < params.length; at += step) {
        largest = max(largest, input[base + at * params.inner]);
    }
    largest = reduce_largest(local, largest);

    var sum = 0.0;
    for (var at = first; at < params.length; at += step) {
        let value = exp(input[base + at * params.inner] - largest);
        sum += value;
    }
    sum = reduce_sum(local, sum);
    if (index >= params.rows) {
        return;
    }

    let scale = 1.0 / sum;
    for (var at = first; at < params.length; at += step) {
        let offset = base + at * params.inner;
        let value = exp(input[offset] - largest) * scale;
        output[offset] = value;
    }
}
