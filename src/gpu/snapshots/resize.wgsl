// resize [1, 1, 1] [3, 1, 1, 2, 2, 1, 1]
struct Params {
    count: u32,
    inner: u32,
    middle: u32,
    in_a: u32,
    in_b: u32,
    out_a: u32,
    out_b: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;

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
    let inner = index % params.inner;
    var rest = index / params.inner;
    let b = rest % params.out_b;
    rest = rest / params.out_b;
    let middle = rest % params.middle;
    rest = rest / params.middle;
    let a = rest % params.out_a;
    let outer = rest / params.out_a;
    var value = 0.0;
    {
        let tap_a = table[a * 2u + 0u];
        let row = ((outer * params.in_a + tap_a.x) * params.middle + middle) * params.in_b;
        var sum = 0.0;
        {
            let tap_b = table[params.out_a * 2u + b * 2u + 0u];
            sum += bitcast<f32>(tap_b.y) * input[(row + tap_b.x) * params.inner + inner];
        }
        {
            let tap_b = table[params.out_a * 2u + b * 2u + 1u];
            sum += bitcast<f32>(tap_b.y) * input[(row + tap_b.x) * params.inner + inner];
        }
        value += bitcast<f32>(tap_a.y) * sum;
    }
    {
        let tap_a = table[a * 2u + 1u];
        let row = ((outer * params.in_a + tap_a.x) * params.middle + middle) * params.in_b;
        var sum = 0.0;
        {
            let tap_b = table[params.out_a * 2u + b * 2u + 0u];
            sum += bitcast<f32>(tap_b.y) * input[(row + tap_b.x) * params.inner + inner];
        }
        {
            let tap_b = table[params.out_a * 2u + b * 2u + 1u];
            sum += bitcast<f32>(tap_b.y) * input[(row + tap_b.x) * params.inner + inner];
        }
        value += bitcast<f32>(tap_a.y) * sum;
    }
    output[index] = value;
}
