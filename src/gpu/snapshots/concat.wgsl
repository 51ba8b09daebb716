// copy [1, 1, 1] [6, 0, 0, 3, 2, 1, 3, 1, 4]
struct Params {
    count: u32,
    from_base: i32,
    to_base: u32,
    dim0: u32,
    dim1: u32,
    from_stride0: i32,
    from_stride1: i32,
    to_stride0: u32,
    to_stride1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>;

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
    var to_index = params.to_base;
    at = rest % params.dim0;
    rest = rest / params.dim0;
    from_index += i32(at) * params.from_stride0;
    to_index += at * params.to_stride0;
    at = rest % params.dim1;
    rest = rest / params.dim1;
    from_index += i32(at) * params.from_stride1;
    to_index += at * params.to_stride1;
    output[to_index] = input[u32(from_index)];
}
// copy [1, 1, 1] [2, 0, 3, 1, 2, 1, 1, 1, 4]
struct Params {
    count: u32,
    from_base: i32,
    to_base: u32,
    dim0: u32,
    dim1: u32,
    from_stride0: i32,
    from_stride1: i32,
    to_stride0: u32,
    to_stride1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>;

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
    var to_index = params.to_base;
    at = rest % params.dim0;
    rest = rest / params.dim0;
    from_index += i32(at) * params.from_stride0;
    to_index += at * params.to_stride0;
    at = rest % params.dim1;
    rest = rest / params.dim1;
    from_index += i32(at) * params.from_stride1;
    to_index += at * params.to_stride1;
    output[to_index] = input[u32(from_index)];
}
