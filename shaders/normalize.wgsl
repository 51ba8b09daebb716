// Normalises rows of `length` elements: (x - mean) / sqrt(variance + epsilon) * scale + bias, or with RMS without the
// mean. A row's scale starts at (row % row_period) * row_step and moves on every `column_run` elements, which covers
// LayerNormalization, RMSNormalization, InstanceNormalization and GroupNormalization.
// With SHARED a workgroup takes a row, otherwise a thread does.

//: if SHARED
var<workgroup> shared_values: array<f32, $THREADS>;

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
    let base = row * params.length;

    var mean = 0.0;
    //: if !RMS
    {
        var at = first;
        while (at < params.length) {
            let end = min(params.length, at + 64u * step);
            var block = 0.0;
            for (; at < end; at += step) {
                block += input[base + at];
            }
            mean += block;
        }
    }
    //: if SHARED
    mean = reduce_sum(local, mean);
    //: end
    mean = mean / f32(params.length);
    //: end

    var variance = 0.0;
    {
        var at = first;
        while (at < params.length) {
            let end = min(params.length, at + 64u * step);
            var block = 0.0;
            for (; at < end; at += step) {
                let centred = input[base + at] - mean;
                block += centred * centred;
            }
            variance += block;
        }
    }
    //: if SHARED
    variance = reduce_sum(local, variance);
    if (index >= params.rows) {
        return;
    }
    //: end
    let inverse = 1.0 / sqrt(variance / f32(params.length) + params.epsilon);

    //: if MEANS
    if (first == 0u) {
        means[row] = mean;
    }
    //: end
    //: if INVERSES
    if (first == 0u) {
        inverses[row] = inverse;
    }
    //: end
    let channel = (row % params.row_period) * params.row_step;
    for (var at = first; at < params.length; at += step) {
        var value = (input[base + at] - mean) * inverse;
        //: if SCALE
        value = value * scale[channel + at / params.column_run];
        //: end
        //: if BIAS
        value = value + bias[channel + at / params.column_run];
        //: end
        //: if EPILOGUE
        value = epilogue(value, base + at);
        //: end
        output[base + at] = value;
    }
}
