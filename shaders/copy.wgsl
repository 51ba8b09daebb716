// Copies a box of up to RANK dimensions between two strided layouts; dimension 0 is the innermost.
// Serves Transpose, Slice, Expand, Concat and Split. $T is any four-byte type or a vector of four of them.

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
    var rest = index;
    var at = 0u;
    var from_index = params.from_base;
    //: if DENSE
    let to_index = params.to_base + index;
    //: else
    var to_index = params.to_base;
    //: end
    //: for d in 0..RANK
    at = rest % params.dim$d;
    rest = rest / params.dim$d;
    from_index += i32(at) * params.from_stride$d;
    //: if !DENSE
    to_index += at * params.to_stride$d;
    //: end
    //: end
    output[to_index] = input[u32(from_index)];
}
