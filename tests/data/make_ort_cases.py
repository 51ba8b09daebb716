"""Writes models in ONNX Runtime's own format below `tests/data/ort`, with ONNX Runtime's results.

    python make_ort_cases.py [folder]

Needs numpy, onnx and onnxruntime. Each model is saved as ONNX Runtime optimizes it: with its fused operators, or with
optimization off where the case says so.
"""

import os
import shutil
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FOLDER = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "ort")
RNG = np.random.default_rng(1)
LEVELS = onnxruntime.GraphOptimizationLevel


def floats(*shape):
    return (RNG.normal(size=shape) / max(1, shape[0]) ** 0.5).astype(np.float32)


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def case(name, graph, feeds, level=LEVELS.ORT_ENABLE_ALL, opsets=(("", 18),), ir_version=9, prepare=None, **settings):
    """Writes one case. `prepare` changes the file of the ONNX model before ONNX Runtime reads it."""
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, producer_name="")
    helper.set_model_props(model, {"made_for": name})
    folder = os.path.join(FOLDER, name)
    data = os.path.join(folder, "test_data_set_0")
    os.makedirs(data)
    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(temporary, "model.onnx")
        (prepare or onnx.save)(model, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.graph_optimization_level = level
        options.optimized_model_filepath = os.path.join(folder, "model.ort")
        options.add_session_config_entry("session.save_model_format", "ORT")
        for key, setting in settings.items():
            options.add_session_config_entry("session." + key, setting)
        # That one lays out channels for the CPU of this machine; its models run on no other.
        disabled = ["NchwcTransformer"]
        onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"], disabled_optimizers=disabled)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.path.join(folder, "model.ort"), options, providers=["CPUExecutionProvider"])
    results = session.run(None, feeds)
    values = [feeds.get(input.name) for input in session.get_inputs()]
    for kind, stored in (("input", values), ("output", results)):
        for index, array in enumerate(stored):
            if array is None:
                continue
            with open(os.path.join(data, f"{kind}_{index}.pb"), "wb") as file:
                file.write(encoded(array))


def encoded(stored):
    """A tensor, or a list of maps from integers to floats, as a file."""
    if not isinstance(stored, list):
        return numpy_helper.from_array(np.asarray(stored)).SerializeToString()
    sequence = onnx.SequenceProto(elem_type=onnx.SequenceProto.MAP)
    for entry in stored:
        item = sequence.map_values.add(key_type=TensorProto.INT64, keys=list(entry))
        item.values.elem_type = onnx.SequenceProto.TENSOR
        item.values.tensor_values.extend(numpy_helper.from_array(np.float32(score)) for score in entry.values())
    return sequence.SerializeToString()


def mlp(inputs_too=False):
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["m"]),
        helper.make_node("Add", ["m", "b2"], ["a"]),
        helper.make_node("Softmax", ["a"], ["y"], axis=-1),
    ]
    weights = [
        constant("w1", floats(7, 5)),
        constant("b1", floats(7)),
        constant("w2", floats(7, 3)),
        constant("b2", floats(3)),
    ]
    inputs = [value("x", TensorProto.FLOAT, ["batch", 5])]
    if inputs_too:
        inputs += [value(weight.name, TensorProto.FLOAT, list(weight.dims)) for weight in weights]
    return helper.make_graph(nodes, "mlp", inputs, [value("y", TensorProto.FLOAT, ["batch", 3])], weights)


def cnn():
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2"], ["c2"], group=16, pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "p"], ["s"]),
        helper.make_node("Clip", ["s", "low", "high"], ["k"]),
        helper.make_node("GlobalAveragePool", ["k"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"]),
    ]
    weights = [
        constant("w1", floats(16, 3, 3, 3)),
        constant("scale", floats(16)),
        constant("shift", floats(16)),
        constant("mean", floats(16)),
        constant("var", np.abs(floats(16)) + 0.5),
        constant("w2", floats(16, 1, 3, 3)),
        constant("low", np.float32(0)),
        constant("high", np.float32(6)),
        constant("w3", floats(16, 4)),
    ]
    inputs, outputs = [value("x", TensorProto.FLOAT, [1, 3, 8, 8])], [value("y", TensorProto.FLOAT, [1, 4])]
    return helper.make_graph(nodes, "cnn", inputs, outputs, weights)


def transformer():
    """Patterns that ONNX Runtime fuses: LayerNormalization, Gelu, BiasGelu, SkipLayerNormalization, FusedMatMul."""
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], axis=-1),
        helper.make_node("MatMul", ["n", "w1"], ["m1"]),
        helper.make_node("Add", ["m1", "b1"], ["a1"]),
        helper.make_node("Div", ["a1", "sqrt2"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["e1"]),
        helper.make_node("Mul", ["a1", "e1"], ["q"]),
        helper.make_node("Mul", ["q", "half"], ["gelu"]),
        helper.make_node("MatMul", ["gelu", "w2"], ["m2"]),
        helper.make_node("Add", ["m2", "x"], ["s"]),
        helper.make_node("LayerNormalization", ["s", "g", "b"], ["n2"], axis=-1),
        helper.make_node("Transpose", ["n2"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["n2", "t"], ["y"]),
    ]
    weights = [
        constant("g", floats(6)),
        constant("b", floats(6)),
        constant("w1", floats(6, 8)),
        constant("b1", floats(8)),
        constant("w2", floats(8, 6)),
        constant("sqrt2", np.float32(2**0.5)),
        constant("one", np.float32(1)),
        constant("half", np.float32(0.5)),
    ]
    shape = ["batch", "time", 6]
    outputs = [value("y", TensorProto.FLOAT, ["batch", "time", "time"])]
    return helper.make_graph(nodes, "transformer", [value("x", TensorProto.FLOAT, shape)], outputs, weights)


def quantized():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "sy", "zx"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "sy", "zx"], ["cd"]),
        helper.make_node("Flatten", ["cd"], ["f"]),
        helper.make_node("DynamicQuantizeLinear", ["f"], ["fq", "fs", "fz"]),
        helper.make_node("MatMulInteger", ["fq", "v", "fz"], ["i"]),
        helper.make_node("Cast", ["i"], ["fi"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["fi", "fs"], ["y"]),
    ]
    weights = [
        constant("sx", np.float32(0.02)),
        constant("zx", np.uint8(128)),
        constant("w", RNG.integers(-100, 100, (4, 2, 3, 3)).astype(np.int8)),
        constant("sw", np.float32(0.01)),
        constant("zw", np.int8(0)),
        constant("sy", np.float32(0.1)),
        constant("v", RNG.integers(0, 255, (64, 3)).astype(np.uint8)),
    ]
    inputs, outputs = [value("x", TensorProto.FLOAT, [1, 2, 4, 4])], [value("y", TensorProto.FLOAT, [1, 3])]
    return helper.make_graph(nodes, "quantized", inputs, outputs, weights)


def control_flow():
    """An If inside a Loop; the branches take values from both graphs around them."""
    then = helper.make_graph(
        [helper.make_node("Add", ["sum", "x"], ["then_y"])], "then", [], [value("then_y", TensorProto.FLOAT, [3])]
    )
    other = helper.make_graph(
        [helper.make_node("Mul", ["sum", "two"], ["else_y"])], "else", [], [value("else_y", TensorProto.FLOAT, [3])]
    )
    body = helper.make_graph(
        [
            helper.make_node("Mod", ["i", "n2"], ["odd"]),
            helper.make_node("Cast", ["odd"], ["is_odd"], to=TensorProto.BOOL),
            helper.make_node("If", ["is_odd"], ["next"], then_branch=then, else_branch=other),
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("ReduceSum", ["next"], ["total"], keepdims=0),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("sum", TensorProto.FLOAT, [3]),
        ],
        [
            value("go_on", TensorProto.BOOL, []),
            value("next", TensorProto.FLOAT, [3]),
            value("total", TensorProto.FLOAT, []),
        ],
        [constant("n2", np.int64(2))],
    )
    loop = helper.make_node("Loop", ["count", "", "x"], ["y", "totals"], body=body)
    inputs = [value("x", TensorProto.FLOAT, [3]), value("count", TensorProto.INT64, [])]
    outputs = [value("y", TensorProto.FLOAT, [3]), value("totals", TensorProto.FLOAT, ["count"])]
    return helper.make_graph([loop], "control_flow", inputs, outputs, [constant("two", np.float32(2))])


def trees():
    """A classifier of two trees, and its probabilities as maps."""
    ensemble = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0, 1, 1, 1],
        nodes_nodeids=[0, 1, 2, 0, 1, 2],
        nodes_featureids=[0, 0, 0, 1, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.1, 0.0, 0.0, -0.2, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0, 1, 0, 0],
        nodes_falsenodeids=[2, 0, 0, 2, 0, 0],
        class_treeids=[0, 0, 1, 1],
        class_nodeids=[1, 2, 1, 2],
        class_ids=[0, 1, 2, 0],
        class_weights=[0.7, 0.4, 0.9, 0.3],
        classlabels_int64s=[3, 5, 9],
        post_transform="SOFTMAX",
    )
    maps = helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[3, 5, 9])
    entry = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [
        value("label", TensorProto.INT64, [None]),
        helper.make_value_info("maps", helper.make_sequence_type_proto(entry)),
    ]
    return helper.make_graph([ensemble, maps], "trees", [value("x", TensorProto.FLOAT, [None, 2])], outputs)


def texts():
    nodes = [helper.make_node("Where", ["c", "words", "x"], ["y"])]
    words = helper.make_tensor("words", TensorProto.STRING, [3], ["käse", "", "b"])
    inputs = [value("c", TensorProto.BOOL, [3]), value("x", TensorProto.STRING, [3])]
    return helper.make_graph(nodes, "texts", inputs, [value("y", TensorProto.STRING, [3])], [words])


def sparse():
    """A sparse initialiser, a default of an input, and a Constant of every plain kind."""
    values = numpy_helper.from_array(np.array([5, -1], np.float32), "weights")
    weights = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 4], np.int64)), [2, 3])
    nodes = [
        helper.make_node("Constant", [], ["bias"], value_floats=[0.5, 0.25, 0.125]),
        helper.make_node("Constant", [], ["factor"], value_float=2.0),
        helper.make_node("Cast", ["bias"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["again"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "weights"], ["m"]),
        helper.make_node("Add", ["m", "again"], ["a"]),
        helper.make_node("Mul", ["a", "factor"], ["b"]),
        helper.make_node("Add", ["b", "offset"], ["y"]),
    ]
    inputs = [value("x", TensorProto.FLOAT, ["n", 2]), value("offset", TensorProto.FLOAT, [1])]
    graph = helper.make_graph(nodes, "sparse", inputs, [value("y", TensorProto.FLOAT, ["n", 3])])
    graph.sparse_initializer.append(weights)
    graph.initializer.append(constant("offset", np.array([10], np.float32)))
    return graph


def external(model, path):
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights.bin")


shutil.rmtree(FOLDER, ignore_errors=True)
none, basic, extended = LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_EXTENDED
rows = {"x": floats(4, 5)}
case("mlp", mlp(), rows)
case("mlp_unoptimized", mlp(), rows, level=none)
case("mlp_old_ir", mlp(inputs_too=True), rows, level=none, opsets=[("", 11)], ir_version=3)
case("mlp_external", mlp(), rows, level=basic, prepare=external)
image = {"x": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)}
case("cnn", cnn(), image)
case("cnn_extended", cnn(), image, level=extended)
tokens = {"x": RNG.normal(size=(2, 3, 6)).astype(np.float32)}
case("transformer", transformer(), tokens)
case("transformer_portable", transformer(), tokens, level=extended)
signal = {"x": RNG.normal(size=(1, 2, 4, 4)).astype(np.float32)}
case("quantized", quantized(), signal)
case("quantized_unoptimized", quantized(), signal, level=none)
case("control_flow", control_flow(), {"x": np.array([1, -2, 0.5], np.float32), "count": np.array(5)})
case("trees", trees(), {"x": floats(6, 2)}, opsets=[("", 18), ("ai.onnx.ml", 3)])
case("texts", texts(), {"c": np.array([True, False, True]), "x": np.array(["x", "ÿ", "z"], object)})
case("sparse", sparse(), {"x": floats(3, 2)}, level=none)
