// Convolution as an implicit matrix product, each thread CHANNELS * 4 output channels of four output positions, `width`
// apart, so that threads side by side read side by side, straight from storage buffers. With BLOCKS, weights are laid out
// as [group][kernel y][kernel x][input channel][output channel], four output channels to a vector, so that everything
// about a kernel position is worked out once and the loop over input channels only loads and multiplies. Otherwise they
// are as the operator has them: [group][output channel][input channel][kernel y][kernel x].

@compute @workgroup_size($THREADS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let width = params.width;
    let column = workgroup.x * width * 4u + local % width;
    let block = (workgroup.y * ($THREADSu / width) + local / width) * $CHANNELSu;
    if (column >= params.n || block >= params.blocks) {
        return;
    }
    let depth = params.k;
    let plane = params.plane;
    let in_height = vec4<u32>(u32(params.in_height));
    let in_width = vec4<u32>(u32(params.in_width));
    // Positions and output channels beyond the last read what lies there; they are computed and not stored. What lies
    // before the image has a large number.
    let spots = column + vec4<u32>(0u, width, 2u * width, 3u * width);
    let y = spots / params.out_width * params.stride_y - u32(params.pad_top);
    let x = spots % params.out_width * params.stride_x - u32(params.pad_left);
    let taps = params.kernel_height * params.kernel_width;
    //: if BLOCKS
    let weight_step = params.blocks;
    //: else
    let weight_step = taps;
    let weight_row = depth * taps;
    //: end
    for (var batch = workgroup.z; batch < params.batches; batch += workgroups.z) {
        let group = batch % params.groups;
        let image = batch * depth * plane;
        //: for q in 0..CHANNELS
        //: for o in 0..4
        var sum$q_$o = vec4<f32>();
        //: end
        //: end
        //: if BLOCKS
        var weight = group * taps * depth * params.blocks + block;
        //: end
        for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
            for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
                let tap_y = kernel_y * params.dilation_y;
                let tap_x = kernel_x * params.dilation_x;
                let inside = (y + tap_y < in_height) & (x + tap_x < in_width);
                var at = image + select(vec4<u32>(), (y + tap_y) * in_width.x + x + tap_x, inside);
                //: if !BLOCKS
                var weight = (group * params.m + block * 4u) * weight_row + kernel_y * params.kernel_width + kernel_x;
                //: end
                for (var channel = 0u; channel < depth; channel += 1u) {
                    let loaded = vec4<f32>(input[at.x], input[at.y], input[at.z], input[at.w]);
                    let value = select(vec4<f32>(), loaded, inside);
                    //: for q in 0..CHANNELS
                    {
                        //: if BLOCKS
                        let w = weights[weight + $qu];
                        //: else
                        let first = weight + $qu * 4u * weight_row;
                        let w = vec4<f32>(
                            weights[first],
                            weights[first + weight_row],
                            weights[first + 2u * weight_row],
                            weights[first + 3u * weight_row],
                        );
                        //: end
                        sum$q_0 += w.x * value;
                        sum$q_1 += w.y * value;
                        sum$q_2 += w.z * value;
                        sum$q_3 += w.w * value;
                    }
                    //: end
                    at += plane;
                    weight += weight_step;
                }
            }
        }
        var sums = array<vec4<f32>, $ROWS>(
            //: for q in 0..CHANNELS
            //: for o in 0..4
            sum$q_$o,
            //: end
            //: end
        );
        for (var i = 0u; i < $ROWSu * 4u; i += 1u) {
            let to_row = block * 4u + i / 4u;
            let to_column = column + i % 4u * width;
            if ((to_row < params.m) & (to_column < params.n)) {
                store(batch, to_row, to_column, sums[i / 4u][i % 4u]);
            }
        }
    }
}
