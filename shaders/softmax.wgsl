// Softmax (or, with LOG, its logarithm) over the middle of [outer, length, inner]. With SHARED a workgroup takes a row,
// otherwise a thread does.

//: if SHARED
var<workgroup> shared_values: array<f32, $THREADS>;

fn reduce_largest(local: u32, value: f32) -> f32 {
    shared_values[local] = value;
    workgroupBarrier();
    for (var half = $THREADSu / 2u; half > 0u; half = half / 2u) {
        if (local < half) {
            shared_values[local] = max(shared_values[local], shared_values[local + half]);
        }
        workgroupBarrier();
    }
    let result = shared_values[0];
    workgroupBarrier();
    return result;
}

fn reduce_sum(local: u32, value: f32) -> f32 {
    shared_values[local] = value;
    workgroupBarrier();
    for (var half = $THREADSu / 2u; half > 0u; half = half / 2u) {
        if (local < half) {
            shared_values[local] += shared_values[local + half];
        }
        workgroupBarrier();
    }
    let result = shared_values[0];
    workgroupBarrier();
    return result;
}
//: end

@compute @workgroup_size($THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    //: if SHARED
    let index = group.y * groups.x + group.x;
    let row = min(index, params.rows - 1u);
    let first = local;
    let step = $THREADSu;
    //: else
    let index = (group.y * groups.x + group.x) * $THREADSu + local;
    if (index >= params.rows) {
        return;
    }
    let row = index;
    let first = 0u;
    let step = 1u;
    //: end
    let base = (row / params.inner) * params.length * params.inner + row % params.inner;

    var largest = input[base];
    for (var at = first; at < params.length; at += step) {
        largest = max(largest, input[base + at * params.inner]);
    }
    //: if SHARED
    largest = reduce_largest(local, largest);
    //: end

    var sum = 0.0;
    for (var at = first; at < params.length; at += step) {
        //: if LOG
        sum += exp(input[base + at * params.inner] - largest);
        //: else
        let value = exp(input[base + at * params.inner] - largest);
        sum += value;
        //: if !SHARED
        output[base + at * params.inner] = value;
        //: end
        //: end
    }
    //: if SHARED
    sum = reduce_sum(local, sum);
    if (index >= params.rows) {
        return;
    }
    //: end

    //: if LOG
    // Taken off after the largest: the sum of the two would lose the logarithm beside a large one.
    let log_sum = log(sum);
    //: else
    let scale = 1.0 / sum;
    //: end
    for (var at = first; at < params.length; at += step) {
        let offset = base + at * params.inner;
        //: if LOG
        output[offset] = input[offset] - largest - log_sum;
        //: else
        //: if SHARED
        let value = exp(input[offset] - largest) * scale;
        //: else
        let value = output[offset] * scale;
        //: end
        //: if ZERONAN
        output[offset] = select(0.0, value, sum > 0.0);
        //: else
        output[offset] = value;
        //: end
        //: end
    }
}
