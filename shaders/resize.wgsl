// Resizes dimensions A and B of [outer, A, middle, B, inner]. Each output element is a weighted sum of TAPSA x TAPSB input
// elements; `table` holds, for each position of A and then of B, the taps as input index and weight (as bits).

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
    var rest = index / params.inner;
    let b = rest % params.out_b;
    rest = rest / params.out_b;
    let middle = rest % params.middle;
    rest = rest / params.middle;
    let a = rest % params.out_a;
    let outer = rest / params.out_a;
    var value = 0.0;
    //: for i in 0..TAPSA
    {
        let tap_a = table[a * $TAPSAu + $iu];
        let row = ((outer * params.in_a + tap_a.x) * params.middle + middle) * params.in_b;
        var sum = 0.0;
        //: for j in 0..TAPSB
        {
            let tap_b = table[params.out_a * $TAPSAu + b * $TAPSBu + $ju];
            sum += bitcast<f32>(tap_b.y) * input[(row + tap_b.x) * params.inner + inner];
        }
        //: end
        value += bitcast<f32>(tap_a.y) * sum;
    }
    //: end
    output[index] = value;
}
