// elementwise [1, 1, 1] [1, 4, 0, 4, 3, 1, 12]
struct Params {
    divisor0_1: u32,
    dim0_1: u32,
    stride0_1: u32,
    divisor0_0: u32,
    dim0_0: u32,
    stride0_0: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> in0: array<i32>;
@group(0) @binding(2) var<storage, read_write> output: array<i32>;




fn element(index: u32) {
    let x0 = in0[index / params.divisor0_1 % params.dim0_1 * params.stride0_1 + index / params.divisor0_0 % params.dim0_0 * params.stride0_0];
    output[index] = x0 + 1;
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
