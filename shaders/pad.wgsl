// Pads (or, with negative pads, crops) up to RANK dimensions; dimension 0 is the innermost.
// One of the flags CONSTANT, EDGE, REFLECT and WRAP says what stands outside the input.

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
    var from_index = 0i;
    var inside = true;
    //: for d in 0..RANK
    {
        let size = params.size$d;
        var at = i32(rest % params.dim$d) - params.before$d;
        rest = rest / params.dim$d;
        //: if CONSTANT
        inside = inside && at >= 0 && at < size;
        //: end
        //: if EDGE
        at = clamp(at, 0, size - 1);
        //: end
        //: if REFLECT
        let period = max(2 * (size - 1), 1);
        at = ((at % period) + period) % period;
        at = min(at, period - at);
        at = select(at, 0, size == 1);
        //: end
        //: if WRAP
        at = ((at % size) + size) % size;
        //: end
        from_index += at * params.stride$d;
    }
    //: end
    //: if CONSTANT
    //: if FILLED
    var value = fill[0];
    //: else
    var value = bitcast<$T>(params.fill);
    //: end
    if (inside) {
        value = input[u32(from_index)];
    }
    output[index] = value;
    //: else
    output[index] = input[u32(from_index)];
    //: end
}
