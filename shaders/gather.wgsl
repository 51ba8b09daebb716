// output[outer, i, inner] = input[outer, indices[i], inner]. Negative indices count from the end; those outside the
// axis are clamped to it, since a shader has no way to fail.

@compute @workgroup_size($THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * $THREADSu + local;
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
