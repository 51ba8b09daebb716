// One element, or one vector of four, per thread; the body is printed from an expression.

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
$BODY
}
