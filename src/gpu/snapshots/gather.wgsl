// gather [1, 1, 1] [12, 5, 4, 3]
struct Params {
    count: u32,
    axis: u32,
    picks: u32,
    inner: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<i32>;
@group(0) @binding(3) var<storage, read_write> output: array<u32>;

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
    let row = index / params.inner;
    let picked = row % params.picks;
    let outer = row / params.picks;
    let axis = i32(params.axis);
    var at = indices[picked];
    if (at < 0) {
        at += axis;
    }
    at = clamp(at, 0, axis - 1);
    output[index] = input[(outer * params.axis + u32(at)) * params.inner + inner];
}
