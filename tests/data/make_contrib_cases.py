"""Makes the cases of `com.microsoft` operators below `contrib/`: one model of one node each, random inputs, and the
results of ONNX Runtime (of the formulas below where it has no CPU kernel). Needs numpy, onnx and onnxruntime.

    python tests/data/make_contrib_cases.py [part of a case's name]
"""

import math
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parent / "contrib"
ONLY = sys.argv[1] if len(sys.argv) > 1 else ""
MS = "com.microsoft"


class Constant:
    """An input that is an initializer."""

    def __init__(self, array, dtype=None):
        self.array = np.asarray(array)
        self.dtype = dtype


C = Constant
rng = np.random.default_rng(0)
names = set()


def f32(*shape, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def u8(*shape, low=0, high=256):
    return rng.integers(low, high, shape).astype(np.uint8)


def i8(*shape, low=-128, high=128):
    return rng.integers(low, high, shape).astype(np.int8)


def scalar(value, dtype=np.float32):
    return np.array(value, dtype)


def proto(array, name, dtype=None):
    if dtype is not None:
        return helper.make_tensor(name, dtype, array.shape, array.flatten().tolist())
    return numpy_helper.from_array(array, name)


def case(name, operator, inputs, outputs=1, domain=MS, opset=21, expected=None, typed=False, **attributes):
    """Writes one case. `inputs` are arrays, `Constant`s and None; `outputs` a count or a list of whether each is wanted."""
    global rng
    if ONLY not in name:
        return
    assert name not in names, name
    names.add(name)
    wanted = [True] * outputs if isinstance(outputs, int) else outputs
    nodes_in, graph_in, initializers, feeds, fed = [], [], [], {}, []
    for index, value in enumerate(inputs):
        if value is None:
            nodes_in.append("")
            continue
        label = f"x{index}"
        nodes_in.append(label)
        if isinstance(value, Constant):
            initializers.append(proto(value.array, label, value.dtype))
        else:
            value = np.asarray(value)
            graph_in.append(helper.make_tensor_value_info(label, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))
            feeds[label] = value
            fed.append(numpy_helper.from_array(value, label))
    labels = [f"y{index}" if want else "" for index, want in enumerate(wanted)]
    node = helper.make_node(operator, nodes_in, labels, name="node", domain=domain, **attributes)
    named = [label for label in labels if label]
    # The types follow from the node.
    graph_out = [onnx.ValueInfoProto(name=label) for label in named]
    if typed:
        graph_out = [helper.make_tensor_value_info(label, TensorProto.FLOAT, None) for label in named]
    graph = helper.make_graph([node], "graph", graph_in, graph_out, initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    if expected is None:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            expected = session.run(None, feeds)
        except Exception as error:
            print(f"{name}: {str(error)[:300]}")
            return
    for output, value in zip(model.graph.output, expected):
        output.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype)
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    data = folder / "test_data_set_0"
    data.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for index, tensor in enumerate(fed):
        (data / f"input_{index}.pb").write_bytes(tensor.SerializeToString())
    for index, (label, value) in enumerate(zip(named, expected)):
        (data / f"output_{index}.pb").write_bytes(numpy_helper.from_array(np.asarray(value), label).SerializeToString())
    rng = np.random.default_rng(zlib.crc32(name.encode()))


def erf(x):
    return np.vectorize(math.erf)(x).astype(x.dtype)


def gelu(x):
    return (0.5 * x * (1 + erf(x / np.sqrt(2).astype(x.dtype)))).astype(x.dtype)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def fused():
    x = f32(2, 3, 8)
    case("bias_gelu", "BiasGelu", [x, C(f32(8))])
    case("bias_gelu_fed", "BiasGelu", [x, f32(8)])
    case("fast_gelu", "FastGelu", [x])
    case("fast_gelu_bias", "FastGelu", [x, C(f32(8))])
    case("quick_gelu", "QuickGelu", [x])
    case("quick_gelu_alpha", "QuickGelu", [x], alpha=0.7)
    case("gelu", "Gelu", [x])
    bias, skip = f32(8), f32(2, 3, 8)
    case("bias_add", "BiasAdd", [x, C(bias), skip], expected=[x + bias + skip])
    s = x + bias
    case("bias_split_gelu", "BiasSplitGelu", [x, C(bias)], expected=[s[..., :4] * gelu(s[..., 4:])])
    bias = f32(1, 3, 8)
    want = np.exp(x + bias)
    case("bias_softmax", "BiasSoftmax", [x, bias], axis=2, is_inner_broadcast=0, expected=[want / want.sum(-1, keepdims=True)])
    bias = f32(8)
    gamma, beta = C(f32(8)), C(f32(8))
    case("skip_norm", "SkipLayerNormalization", [x, skip, gamma, beta])
    case("skip_norm_sum", "SkipLayerNormalization", [x, skip, gamma, beta, C(bias)], [True, False, False, True])
    case("skip_norm_broadcast", "SkipLayerNormalization", [x, f32(3, 8), gamma], epsilon=1e-3)
    case("skip_norm_broadcast_1", "SkipLayerNormalization", [x, f32(1, 3, 8), gamma, None, C(bias)], [True, False, False, True])
    half = lambda *shape: f32(*shape).astype(np.float16)
    case("skip_norm_f16", "SkipLayerNormalization", [half(2, 3, 8), half(2, 3, 8), C(half(8)), C(half(8))])
    case("skip_rms", "SkipSimplifiedLayerNormalization", [x, skip, gamma], epsilon=1e-5)
    case("skip_rms_sum", "SkipSimplifiedLayerNormalization", [x, skip, gamma, C(bias)], [True, False, False, True])
    case("rms", "SimplifiedLayerNormalization", [x, gamma], domain="", opset=17, axis=-1, epsilon=1e-5)
    case("rms_inverse", "SimplifiedLayerNormalization", [x, gamma], 2, domain="", opset=17, axis=-1, epsilon=1e-5)
    ids = rng.integers(0, 10, (2, 5)).astype(np.int32)
    segments = rng.integers(0, 2, (2, 5)).astype(np.int32)
    words, positions, kinds = C(f32(10, 8)), C(f32(7, 8)), C(f32(2, 8))
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    case("embed_norm", "EmbedLayerNormalization", [ids, segments, words, positions, kinds, gamma, beta, mask], 2)
    case("embed_norm_sum", "EmbedLayerNormalization", [ids, None, words, positions, None, gamma, beta], [True, True, True])
    places = np.array([[2, 1, 0, 4, 6]], np.int32)
    case("embed_norm_places", "EmbedLayerNormalization", [ids, segments, words, positions, kinds, gamma, beta, None, places], 2)

    tables = [C(u8(10, 8)), C(u8(7, 8)), C(u8(2, 8)), C(u8(8)), C(u8(8))]
    scales = [C(np.array(value, np.float32)) for value in (0.01, 0.02, 0.03, 0.01, 0.02)]
    zero_points = [C(np.array(value, np.uint8)) for value in (120, 130, 100, 0, 90)]
    case("qembed_norm", "QEmbedLayerNormalization", [ids, segments, *tables, mask, *scales, *zero_points], 2)

    def group_norm(x, gamma, beta, groups, epsilon, silu):
        n, h, w, c = x.shape
        y = x.astype(np.float64).reshape(n, h * w, groups, c // groups)
        mean = y.mean((1, 3), keepdims=True)
        var = y.var((1, 3), keepdims=True)
        y = ((y - mean) / np.sqrt(var + epsilon)).reshape(x.shape) * gamma + beta
        return (y * sigmoid(y) if silu else y).astype(np.float32)

    x = f32(2, 3, 4, 6)
    gamma, beta = f32(6), f32(6)
    for silu in (0, 1):
        want = group_norm(x, gamma, beta, 3, 1e-5, silu)
        case(f"group_norm_{silu}", "GroupNorm", [x, C(gamma), C(beta)], expected=[want], groups=3, activation=silu)
    want = group_norm(x, gamma, beta, 2, 1e-3, 0).transpose(0, 3, 1, 2)
    case("group_norm_first", "GroupNorm", [x.transpose(0, 3, 1, 2).copy(), C(gamma), C(beta)], expected=[want.copy()], groups=2,
         activation=0, channels_last=0, epsilon=1e-3)
    for label, shape in (("full", x.shape), ("rows", (2, 6)), ("pixel", (2, 1, 1, 6))):
        skip, bias = f32(*shape), f32(6)
        total = x + (skip.reshape(2, 1, 1, 6) if label == "rows" else skip) + bias
        want = group_norm(total, gamma, beta, 3, 1e-5, 1)
        case(f"skip_group_norm_{label}", "SkipGroupNorm", [x, C(gamma), C(beta), skip, C(bias)], 2, expected=[want, total],
             groups=3, activation=1)
    x, gate, scale = f32(2, 3, 8), f32(2, 3, 8), f32(4)
    for activation in ("silu", "sigmoid"):
        rows = x.reshape(2, 3, 2, 4)
        y = (rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-5) * scale).reshape(x.shape)
        y = y * (gate * sigmoid(gate) if activation == "silu" else sigmoid(gate))
        case(f"gated_norm_{activation}", "GatedRMSNorm", [x, C(scale), gate], expected=[y], activation=activation)

    x, w, b = f32(1, 4, 6, 6), f32(6, 4, 3, 3), f32(6)
    for activation, params in (("Relu", None), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.5]), ("HardSigmoid", [0.3, 0.4]), ("Tanh", None)):
        more = {"activation_params": params} if params else {}
        case(f"fused_conv_{activation}", "FusedConv", [x, C(w), C(b)], activation=activation, pads=[1, 1, 1, 1], **more)
    case("fused_conv_sum", "FusedConv", [x, C(w), C(b), f32(1, 6, 3, 3)], activation="Relu", pads=[1, 1, 1, 1], strides=[2, 2])
    case("fused_conv_group", "FusedConv", [x, C(f32(6, 2, 3, 3))], group=2, dilations=[2, 2])
    def conv_nhwc(w, b, **attributes):
        import onnx.reference
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)
        graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, 1, None) for n in "xwb"], [helper.make_tensor_value_info("y", 1, None)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x, "w": w, "b": b})[0].transpose(0, 2, 3, 1).copy()
    case("nhwc_conv", "NhwcConv", [x.transpose(0, 2, 3, 1).copy(), C(w), C(b)], pads=[1, 1, 1, 1], strides=[2, 1],
         expected=[conv_nhwc(w, b, pads=[1, 1, 1, 1], strides=[2, 1])])
    case("nhwc_max_pool", "NhwcMaxPool", [u8(1, 5, 6, 3)], kernel_shape=[2, 3], strides=[2, 1], pads=[1, 0, 0, 1])
    a, b, c = f32(3, 5), f32(5, 4), f32(4)
    case("fused_gemm_relu", "FusedGemm", [a, C(b), C(c)], activation="Relu", alpha=0.5, beta=2.0)
    case("fused_gemm_leaky", "FusedGemm", [a.T.copy(), C(b.T.copy()), c], activation="LeakyRelu", activation_alpha=0.3, transA=1, transB=1)
    case("fused_matmul_activation", "FusedMatMulActivation", [a, b], activation="Relu", alpha=0.5, expected=[np.maximum(0.5 * a @ b, 0)])
    a, b = f32(2, 3, 4, 5), f32(2, 3, 5, 6)
    case("fused_matmul", "FusedMatMul", [a, b], alpha=0.3)
    case("fused_matmul_trans", "FusedMatMul", [a.swapaxes(-1, -2).copy(), b.swapaxes(-1, -2).copy()], transA=1, transB=1)
    case("fused_matmul_batch_a", "FusedMatMul", [f32(4, 2, 3, 5), b], transBatchA=1)
    case("fused_matmul_batch_ab", "FusedMatMul", [f32(5, 2, 3, 4), f32(6, 2, 3, 5)], transBatchA=1, transA=1, transBatchB=1, transB=1)
    case("fused_matmul_batch_b", "FusedMatMul", [f32(3, 4, 5), C(f32(5, 3, 6))], transBatchB=1)


def quantized():
    one = lambda value: C(np.array(value, np.float32))
    u, s = (lambda v: C(np.array(v, np.uint8))), (lambda v: C(np.array(v, np.int8)))
    x, w = u8(1, 4, 6, 6), i8(6, 4, 3, 3)
    bias = rng.integers(-2000, 2000, (6,)).astype(np.int32)
    per = C(rng.uniform(0.002, 0.01, 6).astype(np.float32))
    plain = [one(0.02), u(120)]
    case("qlinear_conv", "QLinearConv", [x, *plain, C(w), one(0.005), s(0), one(0.06), u(128), C(bias)], domain="", pads=[1, 1, 1, 1])
    case("qlinear_conv_channels", "QLinearConv", [x, *plain, C(w), per, C(np.zeros(6, np.int8)), one(0.06), u(100)], domain="", strides=[2, 2])
    case("qlinear_conv_u8", "QLinearConv", [x, *plain, C(u8(6, 2, 3, 3)), one(0.005), u(130), one(0.05), u(100)], domain="", group=2, pads=[0, 1, 0, 1])
    case("qlinear_conv_depthwise", "QLinearConv", [i8(1, 6, 5, 5), one(0.02), s(3), C(i8(6, 1, 3, 3)), per, C(np.zeros(6, np.int8)), one(0.02), s(-4), C(bias)], domain="", group=6)
    case("qlinear_conv_last", "QLinearConv", [u8(1, 5, 5, 4), *plain, C(w), one(0.005), s(0), one(0.06), u(128), C(bias)], channels_last=1)
    a, b = u8(2, 3, 5), u8(5, 4)
    case("qlinear_matmul", "QLinearMatMul", [a, *plain, C(b), one(0.01), u(130), one(0.02), u(100)], domain="")
    case("qlinear_matmul_i8", "QLinearMatMul", [a[0], *plain, C(i8(5, 4)), C(np.array([0.01, 0.02, 0.004, 0.03], np.float32)), C(np.zeros(4, np.int8)), one(0.04), u(100)], domain="")
    case("conv_integer", "ConvInteger", [x, C(u8(6, 4, 3, 3)), u(120), u(133)], domain="", pads=[1, 1, 1, 1])
    case("conv_integer_i8", "ConvInteger", [x, C(w)], domain="", strides=[2, 1])
    case("conv_integer_fed", "ConvInteger", [x, u8(6, 4, 3, 3), scalar(7, np.uint8)], domain="")
    case("dynamic_matmul", "DynamicQuantizeMatMul", [f32(2, 3, 5), C(i8(5, 4)), one(0.02)])
    case("dynamic_matmul_columns", "DynamicQuantizeMatMul", [f32(3, 5), C(u8(5, 4)), C(np.array([0.01, 0.02, 0.004, 0.03], np.float32)), C(u8(4)), C(f32(4))])
    case("matmul_to_float", "MatMulIntegerToFloat", [a, C(i8(5, 4)), one(0.02), one(0.03), u(120), None, C(f32(4))])
    case("matmul_to_float_columns", "MatMulIntegerToFloat", [a, C(b), one(0.02), C(np.array([0.01, 0.02, 0.004, 0.03], np.float32)), u(120), C(u8(4))])
    case("qgemm", "QGemm", [u8(3, 5), *plain, C(i8(5, 4)), one(0.01), s(0), C(bias[:4]), one(0.05), u(128)])
    case("qgemm_float", "QGemm", [u8(5, 3), *plain, C(i8(4, 5)), C(np.array([0.01, 0.02, 0.004, 0.03], np.float32)), C(np.zeros(4, np.int8))], transA=1, transB=1, alpha=0.5)
    x = u8(2, 3, 4)
    case("qlinear_add", "QLinearAdd", [x, *plain, u8(4), one(0.03), u(100), one(0.05), u(120)])
    case("qlinear_add_i8", "QLinearAdd", [i8(2, 3, 4), one(0.02), s(3), C(i8(2, 1, 4)), one(0.03), s(-7), one(0.05), s(1)])
    case("qlinear_mul", "QLinearMul", [x, *plain, u8(3, 1), one(0.03), u(100), one(0.05), u(120)])
    case("qlinear_sigmoid", "QLinearSigmoid", [x, *plain, one(1 / 256), u(0)])
    case("qlinear_leaky", "QLinearLeakyRelu", [i8(2, 3, 4), one(0.02), s(3), one(0.015), s(-20)], alpha=0.1)
    softmax("qlinear_softmax", [x, *plain, one(1 / 256), u(0)], 13, -1)
    softmax("qlinear_softmax_12", [x, *plain, one(1 / 256), u(0)], 12, 1)
    softmax("qlinear_softmax_default", [x, *plain, one(1 / 256), u(0)], 11, None)
    case("qlinear_concat", "QLinearConcat", [one(0.05), u(120), x, *plain, u8(2, 2, 4), one(0.03), u(100)], axis=1)
    image = u8(1, 3, 5, 5)
    case("qlinear_average", "QLinearAveragePool", [image, *plain, one(0.018), u(110)], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    case("qlinear_average_pad", "QLinearAveragePool", [image, *plain, one(0.018), u(110)], kernel_shape=[2, 3], pads=[1, 1, 0, 1], count_include_pad=1)
    case("qlinear_average_last", "QLinearAveragePool", [u8(1, 5, 5, 3), *plain, one(0.018), u(110)], kernel_shape=[2, 2], channels_last=1)
    case("qlinear_global", "QLinearGlobalAveragePool", [image, *plain, one(0.018), u(110)])
    case("qlinear_global_last", "QLinearGlobalAveragePool", [u8(1, 5, 5, 3), *plain, one(0.018), u(110)], channels_last=1)
    case("qlinear_where", "QLinearWhere", [rng.integers(0, 2, (2, 3, 4)).astype(bool), x, *plain, u8(1, 4), one(0.03), u(100), one(0.05), u(120)])
    xq = x.astype(np.float32)
    mean = ((xq - 120) * np.float32(0.02)).mean(1)
    want = np.clip(np.round(mean / np.float32(0.015)) + 110, 0, 255).astype(np.uint8)
    case("qlinear_mean", "QLinearReduceMean", [x, *plain, one(0.015), u(110)], axes=[1], keepdims=0, expected=[want])
    case("quantize_u16", "QuantizeLinear", [f32(2, 3), one(0.0001), C(np.array(30000, np.uint16))])
    case("quantize_axis", "QuantizeLinear", [f32(2, 3), C(np.array([0.01, 0.02, 0.03], np.float32)), C(np.array([1, 2, 3], np.int8))], axis=1)
    case("dequantize_i16", "DequantizeLinear", [rng.integers(-30000, 30000, (2, 3)).astype(np.int16), one(0.0001), C(np.array(-5, np.int16))])
    case("dequantize_axis", "DequantizeLinear", [u8(2, 3), C(np.array([0.01, 0.02], np.float32)), C(u8(2))], axis=0)
    case("dequantize_u4", "DequantizeLinear", [C(rng.integers(0, 16, (2, 3)), TensorProto.UINT4), one(0.1), C(np.array(7), TensorProto.UINT4)])


def softmax(name, inputs, version, axis):
    if ONLY not in name:
        return
    # The attribute `opset` has the name of a parameter of `case`.
    original = helper.make_node
    def with_opset(*args, **kwargs):
        return original(*args, **kwargs, opset=version) if args[0] == "QLinearSoftmax" else original(*args, **kwargs)
    helper.make_node = with_opset
    try:
        case(name, "QLinearSoftmax", inputs, axis=axis)
    finally:
        helper.make_node = original


def small():
    case("expand_dims", "ExpandDims", [f32(2, 3), C(np.array(1, np.int32))])
    case("expand_dims_last", "ExpandDims", [f32(2, 3), C(np.array(-1, np.int32))])
    case("pad", "Pad", [f32(2, 3), C(np.array([1, 0, 0, 2], np.int64)), C(np.array([1.5], np.float32))])
    case("pad_reflect", "Pad", [f32(3, 4), C(np.array([[1, 2, 0, 1]], np.int64))], mode="reflect")
    case("range", "Range", [scalar(1.0), scalar(3.0), scalar(0.5)])
    case("range_default", "Range", [scalar(2, np.int64), np.array([6], np.int64)])
    case("unique", "Unique", [np.array([2, 1, 1, 3, 4, 3], np.float32)], 3)
    case("trilu", "Trilu", [f32(3, 4), C(np.array(1, np.int64))], upper=0)
    case("cdist", "CDist", [f32(3, 4), f32(5, 4)])
    case("cdist_root", "CDist", [f32(3, 4), f32(5, 4)], metric="euclidean")
    a, b = f32(2, 3, 2), f32(2, 3, 2)
    product = lambda a, b: (lambda z: np.stack([z.real, z.imag], -1).astype(np.float32))((a[..., 0] + 1j * a[..., 1]) * b)
    case("complex_mul", "ComplexMul", [a, b], expected=[product(a, b[..., 0] + 1j * b[..., 1])])
    case("complex_mul_conj", "ComplexMulConj", [a, b], expected=[product(a, b[..., 0] - 1j * b[..., 1])])
    x = f32(2, 3, 8)
    z = np.fft.rfft(x)
    case("rfft", "Rfft", [x], expected=[np.stack([z.real, z.imag], -1).astype(np.float32)])
    case("mul_integer", "MulInteger", [u8(2, 3), C(np.array(7, np.uint8)), u8(3), C(np.array(9, np.uint8))])
    case("matmul_integer16", "MatMulInteger16", [rng.integers(-300, 300, (2, 3)).astype(np.int16), rng.integers(-300, 300, (3, 2)).astype(np.int16)])
    x = u8(2, 3, 4)
    case("reduce_sum_integer", "ReduceSumInteger", [x], axes=[1], keepdims=1, expected=[x.astype(np.int32).sum(1, keepdims=True, dtype=np.int32)])
    case("gather_nd", "GatherND", [f32(3, 4), C(np.array([[0, 1], [2, 3]], np.int64))])
    case("grid_sample", "GridSample", [f32(1, 2, 4, 5), (f32(1, 3, 3, 2) * 0.6)])
    case("grid_sample_nearest", "GridSample", [f32(1, 2, 4, 5), (f32(1, 3, 3, 2))], mode="nearest", padding_mode="border", align_corners=1)
    case("inverse", "Inverse", [f32(2, 4, 4)])
    case("murmur_i32", "MurmurHash3", [np.array([[1, -5, 70000]], np.int32)])
    case("murmur_seed", "MurmurHash3", [np.array([1, -5, 70000], np.int64)], positive=0, seed=42)
    case("murmur_float", "MurmurHash3", [f32(4)], seed=7)
    case("murmur_text", "MurmurHash3", [C(np.array(["", "a", "abcd", "hello world"], object))])
    rois = C(np.array([[0.1, 0.2, 0.8, 0.9], [-0.2, 0, 1.3, 1], [0.9, 0.9, 0.1, 0.2]], np.float32))
    which, size = C(np.array([0, 1, 0], np.int32)), C(np.array([3, 4], np.int32))
    case("crop", "CropAndResize", [f32(2, 2, 5, 6), rois, which, size], extrapolation_value=0.5)
    case("crop_nearest", "CropAndResize", [f32(2, 2, 5, 6), rois, which, size], mode="nearest")


def attention():
    i32 = lambda *values: np.array(values, np.int32)
    b, s, n, h = 2, 3, 2, 4
    d = n * h
    x, w, bias = f32(b, s, 6), C(f32(6, 3 * d, scale=0.5)), C(f32(3 * d))
    case("attention", "Attention", [x, w, bias], num_heads=n)
    case("attention_causal", "Attention", [x, w, bias], num_heads=n, unidirectional=1, scale=0.3)
    case("attention_lengths", "Attention", [x, w, bias, i32(2, 3)], num_heads=n)
    case("attention_starts", "Attention", [x, w, bias, i32(3, 2, 1, 0)], num_heads=n)
    case("attention_mask", "Attention", [x, w, bias, np.array([[1, 1, 0], [0, 1, 1]], np.int32)], num_heads=n, mask_filter_value=-3.0)
    case("attention_mask3", "Attention", [x, w, bias, rng.integers(0, 2, (b, s, s)).astype(np.int32)], num_heads=n, unidirectional=1)
    case("attention_bias", "Attention", [x, w, bias, None, None, f32(1, n, s, s)], num_heads=n)
    case("attention_sizes", "Attention", [x, C(f32(6, 20)), C(f32(20))], num_heads=n, qkv_hidden_sizes=[8, 8, 4])
    past = f32(2, b, n, 2, h)
    case("attention_past", "Attention", [x, w, bias, None, past], 2, num_heads=n, unidirectional=1)
    case("attention_past_mask", "Attention", [x, w, bias, rng.integers(0, 2, (b, s + 2)).astype(np.int32), past], 2, num_heads=n, unidirectional=1)
    case("attention_present", "Attention", [x, w, bias], 2, num_heads=n)
    one = lambda value, kind=np.float32: C(np.array(value, kind))
    case("qattention", "QAttention", [u8(b, s, 6), C(i8(6, 3 * d)), bias, one(0.02), one(0.005), i32(2, 3), one(128, np.uint8), one(0, np.int8)], num_heads=n)
    case("qattention_columns", "QAttention", [u8(b, s, 6), C(i8(6, 3 * d)), bias, one(0.02), C(rng.uniform(0.002, 0.01, 3 * d).astype(np.float32)), None, one(128, np.uint8), C(np.zeros(3 * d, np.int8))], num_heads=n, unidirectional=1)

    q, k, v = f32(b, s, d), f32(b, 5, d), f32(b, 5, 6)
    case("mha", "MultiHeadAttention", [q, k, v], num_heads=n)
    case("mha_bias", "MultiHeadAttention", [q, k, v, C(f32(2 * d + 6))], num_heads=n, scale=0.2)
    case("mha_lengths", "MultiHeadAttention", [q, k, v, None, i32(5, 3)], num_heads=n)
    case("mha_mask", "MultiHeadAttention", [q, k, v, None, rng.integers(0, 2, (b, 5)).astype(np.int32)], num_heads=n)
    case("mha_mask3", "MultiHeadAttention", [q, k, v, None, rng.integers(0, 2, (b, s, 5)).astype(np.int32), f32(1, 1, s, 5)], num_heads=n)
    case("mha_added", "MultiHeadAttention", [q, k, v, None, None, f32(b, n, s, 5)], num_heads=n)

    def reference(q, k, v):
        scores = np.einsum("bsnh,blnh->bnsl", q, k) / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("bnsl,blnh->bsnh", weights, v)
        return out.reshape(*out.shape[:2], -1).astype(np.float32)

    kv, qkv, packed_bias = f32(b, 5, n, 2, h), f32(b, s, n, 3, h), f32(3 * d)
    want = reference(q.reshape(b, s, n, h), kv[..., 0, :], kv[..., 1, :])
    case("mha_packed_kv", "MultiHeadAttention", [q, kv], num_heads=n, expected=[want])
    case("mha_packed_qkv", "MultiHeadAttention", [qkv], num_heads=n, expected=[reference(*(qkv[..., i, :] for i in range(3)))])
    biased = qkv + packed_bias.reshape(3, n, h).transpose(1, 0, 2)
    case("mha_packed_bias", "MultiHeadAttention", [qkv, None, None, C(packed_bias)], num_heads=n,
         expected=[reference(*(biased[..., i, :] for i in range(3)))])
    case("mha_cross", "MultiHeadAttention", [q, f32(b, n, 5, h), f32(b, n, 5, h)], num_heads=n)
    case("mha_cross_bias", "MultiHeadAttention", [q, f32(b, n, 5, h), f32(b, n, 5, h), C(f32(3 * d))], num_heads=n)
    k, v = f32(b, s, d), f32(b, s, d)
    pk, pv = f32(b, n, 2, h), f32(b, n, 2, h)
    case("mha_past", "MultiHeadAttention", [q, k, v, None, None, None, pk, pv], 3, num_heads=n, unidirectional=1)
    case("mha_past_bias", "MultiHeadAttention", [q, k, v, C(f32(3 * d)), rng.integers(0, 2, (b, 5)).astype(np.int32), f32(b, n, s, 5), pk, pv], 3, num_heads=n)
    case("mha_present", "MultiHeadAttention", [q, k, v], 3, num_heads=n)
    case("mha_scores", "MultiHeadAttention", [q, k, v], [True, False, False, True], num_heads=n, typed=True)
    case("mha_scores_mask", "MultiHeadAttention", [q, k, v, None, i32(2, 3)], [True, False, False, True], num_heads=n, typed=True)
    case("mha_one", "MultiHeadAttention", [f32(b, 1, d), f32(b, 1, d), f32(b, 1, d), None, None, None, pk, pv], 3, num_heads=n)
    case("mha_shared", "MultiHeadAttention", [f32(b, 1, d), f32(b, 1, d), f32(b, 1, d), None, None, None, f32(b, n, 6, h), f32(b, n, 6, h), i32(3)], 3, num_heads=n)

    cos, sin = C(np.cos(f32(12, 4))), C(np.sin(f32(12, 4)))
    positions = np.array([[3, 4, 5], [0, 1, 7]], np.int64)
    x = f32(2, 3, 16)
    case("rotary", "RotaryEmbedding", [x, positions, cos, sin])
    case("rotary_interleaved", "RotaryEmbedding", [x, positions, cos, sin], interleaved=1)
    case("rotary_offset", "RotaryEmbedding", [x, np.array([2], np.int64), cos, sin])
    case("rotary_heads", "RotaryEmbedding", [f32(2, 2, 3, 8), positions, cos, sin])
    case("rotary_part", "RotaryEmbedding", [f32(2, 3, 32), positions, cos, sin], num_heads=2, rotary_embedding_dim=8)
    case("rotary_part_heads", "RotaryEmbedding", [f32(2, 2, 3, 16), positions, cos, sin], num_heads=2, rotary_embedding_dim=8, interleaved=1)

    n, m, h = 4, 2, 16
    cos, sin = C(np.cos(f32(16, h // 2))), C(np.sin(f32(16, h // 2)))
    def gqa(name, rows, past, lengths=None, batch=1, outputs=3, packed=False, bias=None, sink=None, capacity=None, positions=None, total=None, **attributes):
        query = f32(batch, rows, (n + 2 * m) * h if packed else n * h)
        key, value = (None, None) if packed else (f32(batch, rows, m * h), f32(batch, rows, m * h))
        capacity = past if capacity is None else capacity
        total = total or past + rows
        lengths = lengths or [total - 1] * batch
        cache = [f32(batch, m, capacity, h), f32(batch, m, capacity, h)]
        rotates = attributes.get("do_rotary")
        tables = [cos, sin] if rotates else [None, None]
        more = [positions, bias, sink]
        while more and more[-1] is None:
            more.pop()
        inputs = [query, key, value, *cache, i32(*lengths), scalar(total, np.int32), *tables, *more]
        while inputs[-1] is None:
            inputs.pop()
        case("gqa_" + name, "GroupQueryAttention", inputs, outputs, num_heads=n, kv_num_heads=m, **attributes)
    gqa("prompt", 5, 0)
    gqa("prompt_packed", 5, 0, packed=True, do_rotary=1)
    gqa("token", 1, 6)
    gqa("token_rotary", 1, 6, do_rotary=1)
    gqa("token_interleaved", 1, 6, packed=True, do_rotary=1, rotary_interleaved=1)
    gqa("window", 6, 0, local_window_size=3)
    gqa("window_token", 1, 8, local_window_size=4)
    gqa("softcap", 5, 0, softcap=2.0)
    gqa("softcap_bias", 5, 0, softcap=2.0, bias=f32(1, n, 5, 5))
    gqa("smooth", 1, 6, smooth_softmax=1)
    gqa("sink", 4, 0, sink=C(f32(n)))
    gqa("bias", 1, 6, bias=f32(1, 1, 1, 7))
    gqa("scale", 4, 0, scale=0.1)
    gqa("batch", 1, 6, lengths=[6, 3], batch=2, do_rotary=1)
    gqa("batch_prompt", 4, 0, lengths=[3, 3], batch=2)
    gqa("capacity", 1, 6, capacity=10, do_rotary=1)
    gqa("capacity_prompt", 4, 0, capacity=10)
    gqa("chunk", 3, 4, do_rotary=1)
    gqa("chunk_capacity", 3, 4, capacity=9)
    gqa("positions", 1, 6, positions=np.array([[4]], np.int64), do_rotary=1)
    gqa("scores", 3, 0, outputs=4, qk_output=1)
    gqa("weights", 3, 4, outputs=4, qk_output=2)
    gqa("weights_window", 1, 6, outputs=4, qk_output=2, local_window_size=3)
    gqa("all", 4, 0, causal=0)
    half = lambda *shape: f32(*shape).astype(np.float16)
    case("gqa_f16", "GroupQueryAttention", [half(1, 3, n * h), half(1, 3, m * h), half(1, 3, m * h), half(1, m, 2, h), half(1, m, 2, h), i32(4), scalar(5, np.int32)], 3, num_heads=n, kv_num_heads=m)


def blocks():
    def nbits(name, bits, block, n, k, rows=(3,), zero=None, bias=False, groups=False, half=False, fed=False):
        cast = (lambda x: x.astype(np.float16)) if half else (lambda x: x)
        count = -(-k // block)
        wrap = (lambda x: x) if fed else C
        weights = wrap(u8(n, count, block * bits // 8))
        scales = wrap(cast(rng.uniform(0.01, 0.1, (n, count)).astype(np.float32)))
        zeros = None
        if zero == "packed":
            zeros = wrap(u8(n, -(-count * bits // 8)))
        elif zero == "float":
            zeros = wrap(cast(rng.uniform(0, 2**bits, (n, count)).astype(np.float32)))
        index = C(rng.integers(0, count, (k,)).astype(np.int32)) if groups else None
        added = C(cast(f32(n))) if bias else None
        inputs = [cast(f32(*rows, k)), weights, scales, zeros, index, added]
        while inputs[-1] is None:
            inputs.pop()
        case("nbits_" + name, "MatMulNBits", inputs, N=n, K=k, bits=bits, block_size=block)
    nbits("4", 4, 16, 5, 32)
    nbits("4_one", 4, 32, 9, 96, rows=(1, 1))
    nbits("4_zero", 4, 32, 5, 96, zero="packed")
    nbits("4_zero_one", 4, 16, 5, 48, rows=(1,), zero="packed", bias=True)
    nbits("4_zero_float", 4, 32, 5, 64, zero="float")
    nbits("4_ragged", 4, 32, 5, 40, zero="packed")
    nbits("4_groups", 4, 16, 5, 64, groups=True)
    nbits("4_many", 4, 128, 10, 300, rows=(2, 7), bias=True)
    nbits("4_fed", 4, 16, 5, 32, zero="packed", fed=True)
    nbits("4_f16", 4, 16, 5, 32, zero="packed", half=True)
    nbits("8", 8, 32, 5, 64, rows=(6,))
    nbits("8_zero", 8, 16, 5, 48, zero="packed")
    nbits("2", 2, 32, 5, 64)
    nbits("2_zero", 2, 16, 5, 64, rows=(1,), zero="packed")
    for kind, name in ((0, "fp4"), (1, "nf4")):
        for rows in (1, 6):
            data, absmax = C(u8(5 * 48 // 2)), C(rng.uniform(0.1, 1, 5 * 48 // 16).astype(np.float32))
            case(f"bnb4_{name}_{rows}", "MatMulBnb4", [f32(rows, 48), data, absmax], N=5, K=48, block_size=16, quant_type=kind)
    indices = np.array([[2, 0], [3, -1]], np.int64)
    int4 = lambda *shape: C(rng.integers(-8, 8, shape), TensorProto.INT4)
    uint4 = lambda *shape: C(rng.integers(0, 16, shape), TensorProto.UINT4)
    case("gather_i4", "GatherBlockQuantized", [int4(4, 32), indices, C(f32(4, 2))], gather_axis=0, quantize_axis=1, block_size=16)
    case("gather_u4_zero", "GatherBlockQuantized", [uint4(3, 32, 4), np.array([1, 3, 0], np.int32), C(f32(3, 2, 4)), uint4(3, 2, 4)], gather_axis=2, quantize_axis=1, block_size=16)
    case("gather_u8_4", "GatherBlockQuantized", [C(u8(4, 32)), indices, C(f32(4, 2)), C(u8(4, 1))], gather_axis=0, quantize_axis=1, block_size=32, bits=4)
    case("gather_u8_8", "GatherBlockQuantized", [C(u8(4, 32)), indices, C(f32(4, 2))], gather_axis=0, quantize_axis=1, block_size=16, bits=8)
    case("gather_f16", "GatherBlockQuantized", [int4(4, 32), indices, C(f32(4, 2).astype(np.float16))], block_size=16)

    hidden, inner, experts = 16, 32, 4
    x, router = f32(5, hidden), f32(5, experts)
    fc1, fc2, fc3 = (C(f32(experts, inner, hidden, scale=0.3)), C(f32(experts, hidden, inner, scale=0.3)), C(f32(experts, inner, hidden, scale=0.3)))
    b1, b2 = C(f32(experts, inner)), C(f32(experts, hidden))
    case("moe", "MoE", [x, router, fc1, b1, fc2, b2], k=2, activation_type="relu")
    case("moe_gelu", "MoE", [f32(2, 3, hidden), f32(6, experts), fc1, None, fc2], k=2, activation_type="gelu", normalize_routing_weights=1)
    case("moe_silu", "MoE", [x, router, fc1, b1, fc2, b2], k=1, activation_type="silu", normalize_routing_weights=1)
    wide, wide_bias = C(f32(experts, 2 * inner, hidden, scale=0.3)), C(f32(experts, 2 * inner))
    case("moe_swiglu", "MoE", [x, router, wide, wide_bias, fc2, b2], k=2, activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1,
         activation_alpha=1.702, activation_beta=1.0, swiglu_limit=7.0)
    def packed(n, k, bits, block=0):
        scales = rng.uniform(0.01, 0.05, (experts, n, k // block) if block else (experts, n)).astype(np.float32)
        return C(u8(experts, n, k * bits // 8)), C(scales)
    for bits in (4, 8):
        w1, s1 = packed(2 * inner, hidden, bits)
        w2, s2 = packed(hidden, inner, bits)
        case(f"qmoe_{bits}", "QMoE", [x, router, w1, s1, wide_bias, w2, s2, b2], k=2, expert_weight_bits=bits, activation_type="swiglu",
             swiglu_fusion=1, normalize_routing_weights=1, weights_prepacked=0)
    w1, s1 = packed(2 * inner, hidden, 4, 16)
    w2, s2 = packed(hidden, inner, 4, 16)
    case("qmoe_blocks", "QMoE", [x, router, w1, s1, None, w2, s2], k=2, expert_weight_bits=4, block_size=16, activation_type="swiglu",
         swiglu_fusion=1, normalize_routing_weights=1, weights_prepacked=0)
    z1, z2 = C(u8(experts, 2 * inner, 1)), C(u8(experts, hidden, 1))
    case("qmoe_zeros", "QMoE", [x, router, w1, s1, None, w2, s2, None, None, None, None, z1, z2], k=2, expert_weight_bits=4, block_size=16,
         activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1, weights_prepacked=0)

    def dequantized(weights, scales):
        codes = np.stack([weights & 15, weights >> 4], -1).reshape(*scales.shape, -1).astype(np.float32) - 8
        return (codes * scales[..., None]).reshape(scales.shape[0], -1)

    x, skip, norm = f32(2, 32), f32(2, 32), f32(32)
    weights = [(u8(4, 1, 16), rng.uniform(0.01, 0.1, (4, 1)).astype(np.float32), f32(4)) for _ in range(3)]
    total = x + skip
    normal = total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-6) * norm
    results = [normal @ dequantized(w, s).T + b for w, s, b in weights]
    flat = [C(part) for triple in weights for part in triple]
    case("nbits_qkv", "MatMulNBitsQkv", [x, skip, C(norm), *flat], 4, expected=[*results, total], K=32, Nq=4, Nkv=4, bits=4, block_size=32)
    gate, up = (x @ dequantized(w, s).T + b for w, s, b in weights[:2])
    case("nbits_mlp", "MatMulNBitsMlp", [x, None, None, *flat[:6]], expected=[gate * sigmoid(gate) * up], K=32, N=4, bits=4,
         block_size=32, activation="silu")


def recurrence():
    b, t, dk, dv = 2, 3, 4, 5
    def linear(name, hq, hk, rule, past=False, wide=False, one=False, **attributes):
        state = f32(b, hk, dk, dv) if past else None
        decay = -np.abs(f32(b, t, hk * dk if wide else hk)) if "gated" in rule else None
        beta = sigmoid(f32(b, t, 1 if one else hk)) if "delta" in rule else None
        inputs = [f32(b, t, hq * dk), f32(b, t, hk * dk), f32(b, t, hk * dv), state, decay, beta]
        while inputs[-1] is None:
            inputs.pop()
        case("linear_" + name, "LinearAttention", inputs, 2, q_num_heads=hq, kv_num_heads=hk, update_rule=rule, **attributes)
    linear("plain", 2, 2, "linear")
    linear("gated", 2, 2, "gated", past=True)
    linear("gated_wide", 4, 2, "gated", past=True, wide=True)
    linear("delta", 2, 2, "delta", scale=0.7)
    linear("gated_delta", 4, 2, "gated_delta", past=True)
    linear("gated_delta_one", 2, 2, "gated_delta", one=True)
    linear("inverse", 2, 4, "gated_delta", past=True)
    x, w = f32(2, 3, 5), C(f32(3, 1, 4))
    case("causal_conv", "CausalConvWithState", [x, w], 2)
    case("causal_conv_state", "CausalConvWithState", [x, w, C(f32(3)), f32(2, 3, 3)], 2, activation="silu")
    case("causal_conv_one", "CausalConvWithState", [f32(2, 3, 1), w, C(f32(3)), f32(2, 3, 3)], 2)
    case("causal_conv_dilation", "CausalConvWithState", [x, w, None, f32(2, 3, 6)], 2, dilation=2)
    case("causal_conv_last", "CausalConvWithState", [f32(2, 5, 3), w, C(f32(3)), f32(2, 3, 3)], 2, channels_last=1)


GROUPS = [fused, quantized, small, attention, blocks, recurrence]

if __name__ == "__main__":
    if not ONLY:
        shutil.rmtree(FOLDER, ignore_errors=True)
    for group in GROUPS:
        rng = np.random.default_rng(zlib.crc32(group.__name__.encode()))
        group()
    print(len(names), "cases")
