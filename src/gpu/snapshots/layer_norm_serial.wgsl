// normalize [1, 1, 1] [3, 300, 925353388, 1, 0, 1]
struct Params {
    rows: u32,
    length: u32,
    epsilon: f32,
    row_period: u32,
    row_step: u32,
    column_run: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;
@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;


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
    let base = row * params.length;

    var mean = 0.0;
    {
        var at = first;
        while (at < params.length) {
            let end = min(params.length, at + 64u * step);
            var block = 0.0;
            for (; at < end; at += step) {
                block += input[base + at];
            }
            mean += block;
        }
    }
    mean = mean / f32(params.length);

    var variance = 0.0;
    {
        var at = first;
        while (at < params.length) {
            let end = min(params.length, at + 64u * step);
            var block = 0.0;
            for (; at < end; at += step) {
                let centred = input[base + at] - mean;
                block += centred * centred;
            }
            variance += block;
        }
    }
    let inverse = 1.0 / sqrt(variance / f32(params.length) + params.epsilon);

    let channel = (row % params.row_period) * params.row_step;
    for (var at = first; at < params.length; at += step) {
        var value = (input[base + at] - mean) * inverse;
        value = value * scale[channel + at / params.column_run];
        value = value + bias[channel + at / params.column_run];
        output[base + at] = value;
    }
}
