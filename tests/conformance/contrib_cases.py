"""Cases of ONNX Runtime's own operators (com.microsoft), for which the `onnx` package has none. The expected outputs are
ONNX Runtime's. Operators that its CPU provider lacks are left out.
"""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

F, I8, U8, I32, I64 = np.float32, np.int8, np.uint8, np.int32, np.int64


class Const:
    """An input that is an initialiser of the model."""

    def __init__(self, array):
        self.array = array


def definitions():
    """(name, operator, inputs, attributes, number of outputs, domain) of every case."""
    rng = np.random.default_rng(7)

    def f(*shape):
        return rng.standard_normal(shape).astype(F)

    def integers(dtype, *shape):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max + 1, shape).astype(dtype)

    def u8(*shape):
        return integers(U8, *shape)

    def i8(*shape):
        return integers(I8, *shape)

    def s(value, dtype=F):
        return np.array(value, dtype)

    found = []

    def case(name, operator, inputs, outputs=1, domain="com.microsoft", **attributes):
        found.append((name, operator, inputs, attributes, outputs, domain))

    # Activations.
    case("bias_gelu", "BiasGelu", [f(2, 3, 8), f(8)])
    case("fast_gelu", "FastGelu", [f(2, 3, 8)])
    case("fast_gelu_bias", "FastGelu", [f(2, 3, 8), f(8)])
    case("gelu", "Gelu", [f(2, 3, 8)])
    case("quick_gelu", "QuickGelu", [f(2, 3, 8)])
    case("quick_gelu_alpha", "QuickGelu", [f(5)], alpha=0.7)
    case("bias_softmax", "BiasSoftmax", [f(2, 3, 4, 5), f(2, 1, 1, 5)], axis=3, is_inner_broadcast=0)

    # Products.
    case("fused_gemm_relu", "FusedGemm", [f(3, 4), f(4, 5), f(5)], activation="Relu", alpha=0.5, beta=2.0)
    case("fused_gemm_leaky", "FusedGemm", [f(4, 3), f(5, 4), f(3, 1)], activation="LeakyRelu", activation_alpha=0.2,
         transA=1, transB=1)
    case("fused_matmul", "FusedMatMul", [f(2, 3, 4), f(2, 4, 5)], alpha=0.25)
    case("fused_matmul_trans", "FusedMatMul", [f(2, 4, 3), f(2, 5, 4)], transA=1, transB=1)
    case("fused_matmul_trans_batch", "FusedMatMul", [f(3, 2, 4), f(2, 4, 5)], transBatchA=1)
    case("transpose_matmul", "TransposeMatMul", [f(2, 4, 3), f(2, 4, 5)], transA=1)
    for bits, block, columns, rows in ((4, 32, 64, 7), (4, 16, 40, 5), (8, 32, 64, 6), (2, 32, 64, 6)):
        blocks = -(-columns // block)
        packed = u8(rows, blocks, block * bits // 8)
        scales = np.abs(f(rows * blocks)) * F(0.1)
        zeros = u8(rows * -(-blocks * bits // 8))
        settings = {"K": columns, "N": rows, "bits": bits, "block_size": block}
        case(f"matmul_nbits_{bits}_{block}", "MatMulNBits", [f(2, 3, columns), Const(packed), Const(scales)], **settings)
        case(f"matmul_nbits_{bits}_{block}_zero_points", "MatMulNBits",
             [f(3, columns), Const(packed), Const(scales), Const(zeros)], **settings)
    case("cdist_euclidean", "CDist", [f(5, 3), f(4, 3)], metric="euclidean")
    case("cdist_sqeuclidean", "CDist", [f(5, 3), f(4, 3)], metric="sqeuclidean")

    # Convolution.
    for activation, settings in (("Relu", {}), ("LeakyRelu", {"activation_params": [0.2]}), ("Tanh", {}), ("Sigmoid", {}),
                                 ("HardSigmoid", {"activation_params": [0.3, 0.4]}),
                                 ("Clip", {"activation_params": [-0.5, 0.5]})):
        case(f"fused_conv_{activation.lower()}", "FusedConv", [f(1, 3, 7, 6), f(4, 3, 3, 3), f(4)],
             activation=activation, pads=[1, 1, 1, 1], **settings)
    case("fused_conv_sum", "FusedConv", [f(1, 3, 7, 6), f(4, 3, 3, 3), f(4), f(1, 4, 5, 4)], activation="Relu")
    case("nhwc_fused_conv", "NhwcFusedConv", [f(1, 7, 6, 3), f(4, 3, 3, 3), f(4)], activation="Relu")

    # Normalisation.
    case("skip_layer_norm", "SkipLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8)], epsilon=1e-5)
    case("skip_layer_norm_bias", "SkipLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8), f(8)])
    case("skip_layer_norm_broadcast", "SkipLayerNormalization", [f(2, 3, 8), f(1, 3, 8), f(8)])
    case("skip_layer_norm_sum", "SkipLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8), f(8)], outputs="0..3")
    case("skip_simplified_layer_norm", "SkipSimplifiedLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8)],
         outputs="0..3")
    case("skip_simplified_layer_norm_bias", "SkipSimplifiedLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8)])
    case("simplified_layer_norm", "SimplifiedLayerNormalization", [f(2, 3, 8), f(8)], domain="", epsilon=1e-6)
    ids, segments, mask = integers(U8, 2, 4).astype(I32) % 10, np.array([[0, 0, 1, 1]] * 2, I32), np.ones((2, 4), I32)
    mask[1, 3] = 0
    tables = [f(10, 8), f(6, 8), f(2, 8), f(8), f(8)]
    case("embed_layer_norm", "EmbedLayerNormalization", [ids, segments, *tables, mask], outputs=2)
    case("embed_layer_norm_no_segment", "EmbedLayerNormalization", [ids, None, *tables[:2], None, *tables[3:]], outputs=2)
    case("embed_layer_norm_sum", "EmbedLayerNormalization", [ids, segments, *tables], outputs=3)

    # Attention.
    case("attention", "Attention", [f(2, 4, 8), f(8, 24), f(24)], num_heads=2)
    case("attention_causal", "Attention", [f(2, 4, 8), f(8, 24), f(24)], num_heads=2, unidirectional=1)
    case("attention_key_lengths", "Attention", [f(2, 4, 8), f(8, 24), f(24), np.array([4, 2], I32)], num_heads=2)
    case("attention_mask", "Attention", [f(2, 4, 8), f(8, 24), f(24), mask], num_heads=2)
    case("attention_mask_3d", "Attention", [f(2, 4, 8), f(8, 24), f(24), np.tril(np.ones((2, 4, 4), I32))], num_heads=2)
    case("attention_past", "Attention", [f(2, 3, 8), f(8, 24), f(24), None, f(2, 2, 2, 5, 4)], outputs=2, num_heads=2,
         unidirectional=1)
    case("attention_bias", "Attention", [f(2, 4, 8), f(8, 24), f(24), None, None, f(1, 2, 4, 4)], num_heads=2)
    case("attention_sizes", "Attention", [f(2, 4, 8), f(8, 28), f(28)], num_heads=2, qkv_hidden_sizes=[8, 8, 12])
    case("attention_scale", "Attention", [f(2, 4, 8), f(8, 24), f(24)], num_heads=2, scale=0.3)
    case("mha", "MultiHeadAttention", [f(2, 4, 8), f(2, 6, 8), f(2, 6, 8)], num_heads=2)
    case("mha_bias", "MultiHeadAttention", [f(2, 4, 8), f(2, 6, 8), f(2, 6, 10), f(26)], num_heads=2)
    case("mha_lengths", "MultiHeadAttention", [f(2, 4, 8), f(2, 6, 8), f(2, 6, 8), None, np.array([6, 3], I32)],
         num_heads=2)
    padding = np.ones((2, 6), I32)
    padding[0, 4:] = 0
    case("mha_padding", "MultiHeadAttention", [f(2, 4, 8), f(2, 6, 8), f(2, 6, 8), None, padding], num_heads=2)
    case("mha_attention_bias", "MultiHeadAttention", [f(2, 4, 8), f(2, 6, 8), f(2, 6, 8), None, None, f(1, 2, 4, 6)],
         num_heads=2)
    case("mha_causal", "MultiHeadAttention", [f(2, 4, 8), f(2, 4, 8), f(2, 4, 8)], num_heads=2, unidirectional=1)
    case("mha_past", "MultiHeadAttention",
         [f(2, 3, 8), f(2, 3, 8), f(2, 3, 8), None, None, None, f(2, 2, 5, 4), f(2, 2, 5, 4)], outputs=3, num_heads=2)
    case("mha_packed_kv", "MultiHeadAttention", [f(2, 4, 8), f(2, 6, 2, 2, 4)], num_heads=2)
    case("mha_packed_qkv", "MultiHeadAttention", [f(2, 4, 2, 3, 4)], num_heads=2)
    case("mha_cross_heads_first", "MultiHeadAttention", [f(2, 4, 8), f(2, 2, 6, 4), f(2, 2, 6, 4)], num_heads=2)

    def gqa(name, query, key, value, past, lengths, total, extra=(), outputs=3, **settings):
        head = query.shape[-1] // (4 if key is not None else 8)
        past_key, past_value = f(2, 2, past, head), f(2, 2, past, head)
        inputs = [query, key, value, past_key, past_value, np.array(lengths, I32), s(total, I32), *extra]
        case(name, "GroupQueryAttention", inputs, outputs, num_heads=4, kv_num_heads=2, **settings)

    gqa("gqa_prompt", f(2, 5, 32), f(2, 5, 16), f(2, 5, 16), 0, [4, 4], 5)
    gqa("gqa_prompt_padded", f(2, 5, 32), f(2, 5, 16), f(2, 5, 16), 0, [4, 2], 5)
    gqa("gqa_decode", f(2, 1, 32), f(2, 1, 16), f(2, 1, 16), 5, [5, 5], 6)
    # Of caches of unequal lengths, what lies beyond a length is undefined: the caches are not compared.
    gqa("gqa_decode_uneven", f(2, 1, 32), f(2, 1, 16), f(2, 1, 16), 5, [5, 3], 6, outputs="0 of 3")
    gqa("gqa_packed", f(2, 5, 64), None, None, 0, [4, 4], 5)
    gqa("gqa_window", f(2, 5, 32), f(2, 5, 16), f(2, 5, 16), 0, [4, 4], 5, local_window_size=2)
    gqa("gqa_softcap", f(2, 5, 32), f(2, 5, 16), f(2, 5, 16), 0, [4, 4], 5, softcap=1.5)
    gqa("gqa_scale", f(2, 5, 32), f(2, 5, 16), f(2, 5, 16), 0, [4, 4], 5, scale=0.2)
    gqa("gqa_smooth_softmax", f(2, 5, 32), f(2, 5, 16), f(2, 5, 16), 0, [4, 4], 5, smooth_softmax=1)
    angles = np.outer(np.arange(16), 0.3 ** np.arange(4)).astype(F)
    caches = [np.cos(angles), np.sin(angles)]
    wide = np.outer(np.arange(16), 0.3 ** np.arange(8)).astype(F)
    wide = [np.cos(wide), np.sin(wide)]
    gqa("gqa_rotary_prompt", f(2, 5, 64), f(2, 5, 32), f(2, 5, 32), 0, [4, 4], 5, wide, do_rotary=1)
    gqa("gqa_rotary_decode", f(2, 1, 64), f(2, 1, 32), f(2, 1, 32), 5, [5, 3], 6, wide, "0 of 3", do_rotary=1)
    gqa("gqa_rotary_interleaved", f(2, 5, 64), f(2, 5, 32), f(2, 5, 32), 0, [4, 4], 5, wide, do_rotary=1,
        rotary_interleaved=1)
    gqa("gqa_head_sink", f(2, 5, 32), f(2, 5, 16), f(2, 5, 16), 0, [4, 4], 5, [None, None, None, None, f(4)])
    gqa("gqa_attention_bias", f(2, 5, 32), f(2, 5, 16), f(2, 5, 16), 0, [4, 4], 5, [None, None, None, f(1, 4, 5, 5)])
    positions = np.tile(np.arange(3, dtype=I64), (2, 1))
    case("rotary", "RotaryEmbedding", [f(2, 3, 16), positions, *caches], num_heads=2)
    case("rotary_interleaved", "RotaryEmbedding", [f(2, 3, 16), positions, *caches], num_heads=2, interleaved=1)
    case("rotary_4d_offset", "RotaryEmbedding", [f(2, 2, 3, 8), np.array([4], I64), *caches])
    case("rotary_partial", "RotaryEmbedding", [f(2, 3, 24), positions, *caches], num_heads=2, rotary_embedding_dim=8)

    # Quantized.
    scale, zero = s(0.03), s(120, U8)
    for dtype, zeros in ((U8, 120), (I8, -3), (np.uint16, 30000), (np.int16, 100)):
        name = np.dtype(dtype).name
        case(f"quantize_{name}", "QuantizeLinear", [f(3, 4), scale, s(zeros, dtype)])
        case(f"dequantize_{name}", "DequantizeLinear", [integers(dtype, 3, 4), scale, s(zeros, dtype)])
    case("quantize_per_axis", "QuantizeLinear", [f(3, 4), np.abs(f(3)) + F(0.1), u8(3)], axis=0)
    case("dequantize_per_axis", "DequantizeLinear", [i8(3, 4), np.abs(f(4)), i8(4)], axis=1)
    case("dynamic_quantize_matmul", "DynamicQuantizeMatMul", [f(4, 8), Const(i8(8, 6)), Const(s(0.02)), Const(s(3, I8))])
    case("dynamic_quantize_matmul_bias", "DynamicQuantizeMatMul",
         [f(4, 8), Const(u8(8, 6)), Const(np.abs(f(6))), Const(u8(6)), f(6)])
    case("matmul_integer_to_float", "MatMulIntegerToFloat", [u8(4, 8), i8(8, 6), s(0.1), s(0.02), zero, s(3, I8)])
    case("matmul_integer_to_float_columns", "MatMulIntegerToFloat",
         [u8(4, 8), u8(8, 6), s(0.1), np.abs(f(6)), zero, u8(6), f(6)])
    case("qgemm", "QGemm", [u8(3, 5), s(0.02), zero, Const(i8(5, 4)), Const(s(0.03)), Const(s(0, I8)),
                            integers(I8, 4).astype(I32), s(0.1), zero])
    case("qgemm_float", "QGemm", [u8(3, 5), s(0.02), zero, Const(i8(4, 5)), Const(np.abs(f(4))), Const(np.zeros(4, I8))],
         transB=1, alpha=0.5)
    case("qlinear_add", "QLinearAdd", [u8(3, 4), s(0.02), zero, u8(4), s(0.03), s(10, U8), s(0.05), s(128, U8)])
    case("qlinear_mul", "QLinearMul", [i8(3, 4), s(0.02), s(1, I8), i8(3, 1), s(0.03), s(-4, I8), s(0.05), s(0, I8)])
    case("qlinear_average_pool", "QLinearAveragePool", [u8(1, 2, 6, 6), s(0.02), zero, s(0.0213), zero],
         kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    case("qlinear_average_pool_last", "QLinearAveragePool", [u8(1, 6, 6, 2), s(0.02), zero, s(0.0313), zero],
         kernel_shape=[2, 2], channels_last=1, count_include_pad=1)
    case("qlinear_global_average_pool", "QLinearGlobalAveragePool", [u8(2, 3, 4, 5), s(0.02), zero, s(0.0137), zero])
    case("qlinear_global_average_pool_last", "QLinearGlobalAveragePool", [u8(2, 4, 5, 3), s(0.02), zero, s(0.0137), zero],
         channels_last=1)
    case("qlinear_concat", "QLinearConcat", [s(0.05), zero, u8(2, 3), s(0.02), zero, u8(2, 4), s(0.03), s(10, U8)], axis=1)
    case("qlinear_leaky_relu", "QLinearLeakyRelu", [i8(3, 4), s(0.02), s(0, I8), s(0.02), s(0, I8)], alpha=0.1)
    case("qlinear_sigmoid", "QLinearSigmoid", [u8(3, 4), s(0.05), zero, s(0.004), s(0, U8)])
    case("qlinear_softmax", "QLinearSoftmax", [u8(3, 4), s(0.05), zero, s(1 / 256), s(0, U8)], axis=-1, opset=13)
    case("qlinear_where", "QLinearWhere",
         [np.array([[True], [False]]), u8(2, 3), s(0.02), zero, u8(2, 3), s(0.03), s(9, U8), s(0.04), zero])
    case("qlinear_conv_last", "QLinearConv",
         [u8(1, 6, 6, 2), s(0.02), zero, Const(i8(4, 2, 3, 3)), Const(s(0.03)), Const(s(0, I8)), s(0.5), zero],
         channels_last=1)
    case("qattention", "QAttention",
         [u8(2, 4, 8), Const(i8(8, 24)), f(24), s(0.02), Const(s(0.01)), mask, zero, Const(s(0, I8))], num_heads=2)
    case("dynamic_quantize_lstm", "DynamicQuantizeLSTM",
         [f(4, 2, 3), Const(i8(1, 3, 20)), Const(i8(1, 5, 20)), f(1, 40), None, None, None, None,
          Const(s([0.01])), Const(s([0], I8)), Const(s([0.01])), Const(s([0], I8))], outputs=3, hidden_size=5)

    # The rest.
    case("expand_dims", "ExpandDims", [f(2, 3), s(-1, I32)])
    case("gather_nd", "GatherND", [f(2, 3, 4), np.array([[0, 1], [1, 2]], I64)])
    case("grid_sample", "GridSample", [f(1, 2, 4, 4), rng.uniform(-1.2, 1.2, (1, 3, 3, 2)).astype(F)])
    case("grid_sample_border", "GridSample", [f(1, 2, 4, 4), rng.uniform(-1.2, 1.2, (1, 3, 3, 2)).astype(F)],
         mode="nearest", padding_mode="border", align_corners=1)
    case("is_all_finite", "IsAllFinite", [f(3, 4), f(2)])
    case("pad", "Pad", [f(2, 3), np.array([1, 0, 0, 2], I64), s(0.5)])
    case("pad_reflect", "Pad", [f(4, 5), np.array([1, 2, 3, 0], I64)], mode="reflect")
    case("range", "Range", [s(1.0), s(3.0), s(0.4)])
    case("range_default", "Range", [s(1, I64), s(5, I64)])
    case("trilu", "Trilu", [f(2, 4, 5), s(1, I64)], upper=1)
    case("trilu_lower", "Trilu", [f(4, 5)], upper=0)
    case("unique", "Unique", [np.array([2, 1, 1, 3, 4, 3], F)], outputs=3)
    return found


def build(operator, inputs, attributes, outputs, domain):
    """The model of one node, its feeds, and its outputs' names. `"0..3"` is the node's first and fourth output alone,
    `"0 of 3"` the first of three that it makes."""
    names, feeds, constants = [], {}, []
    for index, value in enumerate(inputs):
        names.append("" if value is None else f"x{index}")
        if isinstance(value, Const):
            constants.append(numpy_helper.from_array(np.asarray(value.array), names[-1]))
        elif value is not None:
            feeds[names[-1]] = np.asarray(value)
    special = {"0..3": ["y0", "", "", "y3"], "0 of 3": ["y0", "y1", "y2"]}
    results = special.get(outputs) or [f"y{index}" for index in range(outputs)]
    node = helper.make_node(operator, names, results, domain=domain, **attributes)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    results = results[:1] if outputs == "0 of 3" else [name for name in results if name]
    unknown = [helper.make_empty_tensor_value_info(name) for name in results]
    graph = helper.make_graph([node], operator, infos, unknown, constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feeds, results


def cases():
    """Name, model, inputs and ONNX Runtime's outputs of every case that it runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Without this, products of 8-bit numbers saturate on some processors.
    options.add_session_config_entry("session.x64quantprecision", "1")
    for name, operator, inputs, attributes, outputs, domain in definitions():
        model, feeds, results = build(operator, inputs, attributes, outputs, domain)
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            values = session.run(results, feeds)
        except Exception as error:
            print(f"left out: {name}: {str(error).splitlines()[0][:160]}")
            continue
        del model.graph.output[:]
        for result, value in zip(results, values):
            dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
            model.graph.output.append(helper.make_tensor_value_info(result, dtype, [None] * value.ndim))
        yield f"test_{name}", model, list(feeds.values()), values
