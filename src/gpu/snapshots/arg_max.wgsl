// extreme [1, 1, 1] [9, 3, 6]
struct Params {
    length: u32,
    inner: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<i32>;


fn element(index: u32) {
    let inner = index % params.inner;
    let base = index / params.inner * params.length * params.inner + inner;

    var best = 0u;
    var so_far = input[base];
    for (var i = 1u; i < params.length; i++) {
        let value = input[base + i * params.inner];
        let comparable = ((bitcast<u32>(value) & 0x7fffffffu) <= 0x7f800000u)
            && ((bitcast<u32>(so_far) & 0x7fffffffu) <= 0x7f800000u);
        if (comparable && value > so_far) {
            best = i;
            so_far = value;
        }
    }
    output[index] = i32(best);



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
