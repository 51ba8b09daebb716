"""Writes the fuzzer's starting points: the small models of ONNX's own operator tests, and models with the parts of the
format that those tests do not use. Needs the `onnx` package.

    python fuzz/make_seeds.py fuzz/corpus/onnx_import
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
from onnx import AttributeProto, SparseTensorProto, TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

LARGEST = 2048


def models():
    for case in collect_testcases(None):
        if case.model is not None:
            yield case.model
    yield functions()
    yield nested_control_flow()
    yield stored_in_every_way()
    yield constants()


def value(name, shape=("n", 2), dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def functions():
    scaled = helper.make_node("Constant", [], ["factor"])
    scaled.attribute.add(name="value_float", ref_attr_name="alpha", type=AttributeProto.FLOAT)
    inner = helper.make_function(
        "custom", "Scale", ["x"], ["y"],
        [scaled, helper.make_node("Mul", ["x", "factor"], ["y"])],
        [helper.make_opsetid("", 17)], ["alpha"],
    )
    call = helper.make_node("Scale", ["a"], ["b"], domain="custom")
    call.attribute.add(name="alpha", ref_attr_name="alpha", type=AttributeProto.FLOAT)
    outer = helper.make_function(
        "custom", "Twice", ["a"], ["c"],
        [call, helper.make_node("Scale", ["b"], ["c"], domain="custom", alpha=2.0)],
        [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)],
        attribute_protos=[helper.make_attribute("alpha", 3.0)],
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], domain="custom", name="twice")], "functions", [value("x")], [value("y")]
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, functions=[inner, outer], opset_imports=imports, ir_version=8)


def nested_control_flow():
    leaf = helper.make_graph([helper.make_node("Neg", ["x"], ["leaf_y"])], "leaf", [], [value("leaf_y")])
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["other_y"])], "other", [], [value("other_y")])
    branch = helper.make_node("If", ["go"], ["branch_y"], then_branch=leaf, else_branch=other)
    body = helper.make_graph(
        [branch, helper.make_node("Add", ["state", "branch_y"], ["next"]), helper.make_node("Identity", ["go"], ["again"])],
        "body",
        [value("i", (), TensorProto.INT64), value("go", (), TensorProto.BOOL), value("state")],
        [value("again", (), TensorProto.BOOL), value("next")],
    )
    loop = helper.make_node("Loop", ["count", "keep", "x"], ["y"], body=body)
    graph = helper.make_graph(
        [loop], "loop",
        [value("x"), value("count", (), TensorProto.INT64), value("keep", (), TensorProto.BOOL)], [value("y")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stored_in_every_way():
    raw = numpy_helper.from_array(np.arange(4, dtype=np.float32).reshape(2, 2), "raw")
    typed = helper.make_tensor("typed", TensorProto.INT32, [3], [1, -2, 3])
    half = helper.make_tensor("half", TensorProto.FLOAT16, [2], [0.5, 2.0])
    nibbles = helper.make_tensor("nibbles", TensorProto.INT4, [3], [1, -2, 3])
    texts = helper.make_tensor("texts", TensorProto.STRING, [2], [b"a", b"b"])
    outside = TensorProto(name="outside", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, text in (("location", "weights.bin"), ("offset", "8"), ("length", "16")):
        outside.external_data.add(key=key, value=text)
    sparse = SparseTensorProto(
        values=helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0]),
        indices=helper.make_tensor("at", TensorProto.INT64, [2], [1, 5]),
        dims=[2, 3],
    )
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "raw"], ["y"])], "stored", [value("x"), value("raw", (2, 2))], [value("y")],
        initializer=[raw, typed, half, nibbles, texts, outside], sparse_initializer=[sparse],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"author": "seed"})
    return model


def constants():
    forms = {
        "value": numpy_helper.from_array(np.ones((2,), np.int64)), "value_float": 1.0, "value_floats": [1.0, 2.0],
        "value_int": 3, "value_ints": [3, 4], "value_string": "s", "value_strings": ["s", "t"],
    }
    nodes = [helper.make_node("Constant", [], [f"c_{name}"], **{name: form}) for name, form in forms.items()]
    nodes.append(helper.make_node("Reshape", ["x", "c_value_ints"], ["y"]))
    graph = helper.make_graph(nodes, "constants", [value("x")], [value("y", (3, 4))])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for model in models():
        data = model.SerializeToString()
        if len(data) <= LARGEST:
            (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)
            written += 1
    print(f"{written} seeds in {folder}")


if __name__ == "__main__":
    main()
