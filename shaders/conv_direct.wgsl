// Convolution as an implicit matrix product, each thread CHANNELS * 4 output channels of four output positions, straight
// from storage buffers. With BLOCKS, weights are laid out as [group][kernel y][kernel x][input channel][output channel],
// four output channels to a vector, so that everything about a kernel position is worked out once and the loop over
// input channels only loads and multiplies. Otherwise they are as the operator has them: [group][output channel]
// [input channel][kernel y][kernel x].

@compute @workgroup_size($POSITIONTHREADS, $CHANNELTHREADS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let column = (workgroup.x * $POSITIONTHREADSu + local.x) * 4u;
    let block = (workgroup.y * $CHANNELTHREADSu + local.y) * $CHANNELSu;
    if (column >= params.n || block >= params.blocks) {
        return;
    }
    // Positions beyond the image repeat the last one; they are computed and not stored.
    //: for c in 0..4
    let position$c = min(column + $cu, params.n - 1u);
    let y$c = i32(position$c / params.out_width * params.stride_y) - params.pad_top;
    let x$c = i32(position$c % params.out_width * params.stride_x) - params.pad_left;
    //: end
    for (var batch = workgroup.z; batch < params.batches; batch += workgroups.z) {
        let group = batch % params.groups;
        let image = batch * params.k * params.plane;
        //: for q in 0..CHANNELS
        //: for o in 0..4
        var sum$q_$o = vec4<f32>();
        //: end
        //: end
        let taps = params.kernel_height * params.kernel_width;
        //: if BLOCKS
        var weight = group * taps * params.k * params.blocks + block;
        //: else
        // Output channels beyond the last repeat it; they are computed and not stored.
        //: for q in 0..CHANNELS
        //: for o in 0..4
        let row$q_$o = (group * params.m + min((block + $qu) * 4u + $ou, params.m - 1u)) * params.k * taps;
        //: end
        //: end
        //: end
        for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
            for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
                //: for c in 0..4
                let in_y$c = y$c + i32(kernel_y * params.dilation_y);
                let in_x$c = x$c + i32(kernel_x * params.dilation_x);
                let inside$c = in_y$c >= 0 && in_y$c < params.in_height && in_x$c >= 0 && in_x$c < params.in_width;
                var at$c = image + select(0u, u32(in_y$c * params.in_width + in_x$c), inside$c);
                //: end
                let inside = vec4<bool>(inside0, inside1, inside2, inside3);
                //: if !BLOCKS
                var weight = kernel_y * params.kernel_width + kernel_x;
                //: end
                for (var channel = 0u; channel < params.k; channel += 1u) {
                    let loaded = vec4<f32>(input[at0], input[at1], input[at2], input[at3]);
                    let value = select(vec4<f32>(), loaded, inside);
                    //: for q in 0..CHANNELS
                    {
                        //: if BLOCKS
                        let w = weights[weight + $qu];
                        //: else
                        let w = vec4<f32>(
                            weights[row$q_0 + weight],
                            weights[row$q_1 + weight],
                            weights[row$q_2 + weight],
                            weights[row$q_3 + weight],
                        );
                        //: end
                        sum$q_0 += w.x * value;
                        sum$q_1 += w.y * value;
                        sum$q_2 += w.z * value;
                        sum$q_3 += w.w * value;
                    }
                    //: end
                    //: for c in 0..4
                    at$c += params.plane;
                    //: end
                    //: if BLOCKS
                    weight += params.blocks;
                    //: else
                    weight += taps;
                    //: end
                }
            }
        }
        //: for q in 0..CHANNELS
        //: for o in 0..4
        if ((block + $qu) * 4u + $ou < params.m) {
            store(batch, (block + $qu) * 4u + $ou, column, sum$q_$o);
        }
        //: end
        //: end
    }
}
