// gather_elements [1, 1, 1] [2, 3, 0, 4, 4, 1, 6]
struct Params {
    dim0: u32,
    dim1: u32,
    from_stride0: u32,
    from_stride1: u32,
    axis: u32,
    axis_stride: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<i32>;
@group(0) @binding(3) var<storage, read_write> output: array<u32>;

fn place(index: i32, size: u32) -> u32 {
    let at = select(index, index + i32(size), index < 0);
    return u32(clamp(at, 0, i32(size) - 1));
}



fn element(index: u32) {
    var rest = index;
    var from_index = 0u;
    from_index += rest % params.dim0 * params.from_stride0;
    rest = rest / params.dim0;
    from_index += rest % params.dim1 * params.from_stride1;
    rest = rest / params.dim1;
    output[index] = input[from_index + place(indices[index], params.axis) * params.axis_stride];







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
