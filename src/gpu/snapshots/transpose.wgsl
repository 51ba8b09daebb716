// copy [4, 1, 1] [210, 0, 0, 7, 3, 5, 2, 1, 35, 7, 105, 1, 7, 21, 105]
struct Params {
    count: u32,
    from_base: i32,
    to_base: u32,
    dim0: u32,
    dim1: u32,
    dim2: u32,
    dim3: u32,
    from_stride0: i32,
    from_stride1: i32,
    from_stride2: i32,
    from_stride3: i32,
    to_stride0: u32,
    to_stride1: u32,
    to_stride2: u32,
    to_stride3: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<u32>;
@group(0) @binding(2) var<storage, read_write> output: array<u32>;

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
    at = rest % params.dim1;
    rest = rest / params.dim1;
    from_index += i32(at) * params.from_stride1;
    at = rest % params.dim2;
    rest = rest / params.dim2;
    from_index += i32(at) * params.from_stride2;
    at = rest % params.dim3;
    rest = rest / params.dim3;
    from_index += i32(at) * params.from_stride3;
    output[to_index] = input[u32(from_index)];
}
