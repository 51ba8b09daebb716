"""Writes the test cases of the `onnx` package as ONNX-style case folders: operators (node), small models (simple,
pytorch-operator, pytorch-converted), and light: known networks whose weights are constants that the model computes;
and cases of ONNX Runtime's own operators (contrib).

    python make_cases.py FOLDER

makes FOLDER/<kind>/<case>/model.onnx with test_data_set_<k>/{input,output}_<i>.pb, and two tables of tab-separated
lines: FOLDER/cases.tsv (every case, with its tolerances and types) and FOLDER/operators.tsv (every operator of every
case, with the element types it meets there; its first lines are the schemas of all operators). Needs onnx and
onnxruntime.
"""

import argparse
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper
from onnx.backend.test import loader
from onnx.backend.test.case.test_case import TestCase

DATA = Path(loader.DATA_DIR)
KINDS = ["node", "simple", "pytorch-operator", "pytorch-converted", "light", "contrib"]

# Numpy transforms in float32: it leaves 2e-7 where the outputs are 0. ONNX Runtime quantizes an LSTM's activations.
ATOL = {"test_dft_inverse": 1e-6, "test_dft_inverse_opset19": 1e-6, "test_dynamic_quantize_lstm": 1e-2}

# ---- types as text ---------------------------------------------------------------------------------------------------

NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}


def dtype_name(number):
    name = TensorProto.DataType.Name(number)
    return NAMES.get(name, name.lower())


def type_name(ty):
    """Like the crate prints types: `float32[2, n]`, `sequence(int64[…])`, `optional(…)`, `map(string, …)`."""
    kind = ty.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(ty, kind)
        shape = "[…]"
        if tensor.HasField("shape"):
            dims = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
            shape = f"[{', '.join(dims)}]"
        return ("sparse " if kind.startswith("sparse") else "") + dtype_name(tensor.elem_type) + shape
    if kind in ("sequence_type", "optional_type"):
        return f"{kind.removesuffix('_type')}({type_name(getattr(ty, kind).elem_type)})"
    if kind == "map_type":
        return f"map({dtype_name(ty.map_type.key_type)}, {type_name(ty.map_type.value_type)})"
    return "?"


def element_type(ty):
    """The element type inside a type, or None."""
    kind = ty.WhichOneof("value")
    if kind == "tensor_type":
        return dtype_name(ty.tensor_type.elem_type) if ty.tensor_type.elem_type else None
    if kind in ("sequence_type", "optional_type"):
        return element_type(getattr(ty, kind).elem_type)
    return None


# ---- values as files -------------------------------------------------------------------------------------------------


def stored(value, ty, name):
    """The message that holds a value of this type; None for an optional that is absent."""
    kind = ty.WhichOneof("value")
    if isinstance(value, TensorProto):
        copy = TensorProto()
        copy.CopyFrom(value)
        copy.name = name
        return copy
    if kind == "optional_type":
        return numpy_helper.from_optional(value, name, optional_kind(ty))
    if kind == "sequence_type":
        return numpy_helper.from_list([in_type(item, ty.sequence_type.elem_type) for item in value], name)
    if kind == "map_type":
        return numpy_helper.from_dict(in_type(value, ty), name)
    return numpy_helper.from_array(np.asarray(value), name)


def in_type(value, ty):
    """A dictionary with values of the map's element type: Python's own numbers have another."""
    if not isinstance(value, dict):
        return value
    dtype = helper.tensor_dtype_to_np_dtype(ty.map_type.value_type.tensor_type.elem_type)
    return {key: np.asarray(item, dtype) for key, item in value.items()}


def optional_kind(ty):
    inner = ty.optional_type.elem_type.WhichOneof("value")
    kinds = {"tensor_type": "TENSOR", "sequence_type": "SEQUENCE", "map_type": "MAP", "optional_type": "OPTIONAL"}
    return onnx.OptionalProto.DataType.Value(kinds[inner])


def write_set(folder, graph_inputs, inputs, graph_outputs, outputs):
    folder.mkdir(parents=True)
    for prefix, infos, values in (("input", graph_inputs, inputs), ("output", graph_outputs, outputs)):
        if len(infos) != len(values):
            raise ValueError(f"{folder}: {len(values)} values for {len(infos)} {prefix}s")
        for index, (info, value) in enumerate(zip(infos, values)):
            message = stored(value, info.type, info.name)
            (folder / f"{prefix}_{index}.pb").write_bytes(message.SerializeToString())


# ---- cases -----------------------------------------------------------------------------------------------------------


def fed(model):
    """The inputs of a model that have no initialiser."""
    constant = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in constant]


def node_cases(folder):
    for case in loader.load_model_tests(kind="node"):
        into = folder / case.name
        into.mkdir(parents=True)
        (into / "model.onnx").write_bytes(case.model.SerializeToString())
        for index, (inputs, outputs) in enumerate(case.data_sets):
            graph = case.model.graph
            write_set(into / f"test_data_set_{index}", graph.input, inputs, graph.output, outputs)
        yield case, case.model


def stored_cases(folder, kind):
    """Cases that lie in the package as they are wanted here."""
    for case in loader.load_model_tests(kind=kind):
        shutil.copytree(case.model_dir, folder / case.name, ignore=shutil.ignore_patterns("*.json"))
        yield case, onnx.load(folder / case.name / "model.onnx")


def light_cases(folder):
    """Whole networks, fed with the ramp from 0 to 1 that their expected outputs were made from."""
    for case in loader.load_model_tests(kind="real"):
        path = DATA / "light" / f"light_{case.model_name}.onnx"
        model = onnx.load(path)
        into = folder / case.name
        into.mkdir(parents=True)
        shutil.copyfile(path, into / "model.onnx")
        inputs = []
        for info in fed(model):
            shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
        files = [path.with_name(f"{path.stem}_output_{i}.pb") for i in range(len(model.graph.output))]
        if all(file.exists() for file in files):
            outputs = [onnx.load_tensor(file) for file in files]
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            feeds = {info.name: value for info, value in zip(fed(model), inputs)}
            outputs = session.run(None, feeds)
        write_set(into / "test_data_set_0", fed(model), inputs, model.graph.output, outputs)
        yield case, model


def contrib_cases(folder):
    """ONNX Runtime's own operators, with its outputs."""
    import contrib_cases

    for name, model, inputs, outputs in contrib_cases.cases():
        into = folder / name
        into.mkdir(parents=True)
        (into / "model.onnx").write_bytes(model.SerializeToString())
        write_set(into / "test_data_set_0", fed(model), inputs, model.graph.output, outputs)
        yield TestCase(name, name, None, None, model, None, "contrib", 1e-3, 1e-5), model


def cases_of(folder, kind):
    if kind == "contrib":
        return contrib_cases(folder)
    if kind == "node":
        return node_cases(folder)
    return light_cases(folder) if kind == "light" else stored_cases(folder, kind)


# ---- which operators a case runs, on which types ---------------------------------------------------------------------

# A type variable that allows few types (indices, axes, shapes) says little about where an operator works, unless the
# operator has no other.
FEW = 2


def operators_of(model):
    """(domain, operator, opset, element types) of every node, those of subgraphs and functions included."""
    try:
        model = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        pass
    found = set()
    functions = {(function.domain, function.name): function for function in model.functions}
    opsets = {"" if opset.domain == "ai.onnx" else opset.domain: opset.version for opset in model.opset_import}

    def visit(nodes, types, opsets):
        for node in nodes:
            domain = "" if node.domain == "ai.onnx" else node.domain
            function = functions.get((domain, node.op_type))
            if function is not None:
                visit(function.node, {}, {opset.domain: opset.version for opset in function.opset_import})
                continue
            found.add((domain, node.op_type, opsets.get(domain, 1), *node_types(node, domain, opsets, types)))
            for attribute in node.attribute:
                graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
                for graph in graphs:
                    visit(graph.node, {**types, **types_of(graph)}, opsets)

    visit(model.graph.node, types_of(model.graph), opsets)
    return sorted(found)


def types_of(graph):
    infos = [*graph.input, *graph.output, *graph.value_info]
    types = {info.name: element_type(info.type) for info in infos}
    types.update({tensor.name: dtype_name(tensor.data_type) for tensor in graph.initializer})
    return types


def node_types(node, domain, opsets, types):
    try:
        schema = defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
    except defs.SchemaError:
        return sorted({types[name] for name in [*node.input, *node.output] if types.get(name)})
    many = {each.type_param_str for each in schema.type_constraints if len(each.allowed_type_strs) > FEW}
    met = []
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(names):
            if name in types and types[name] and formals:
                met.append((formals[min(index, len(formals) - 1)].type_str, types[name]))
    telling = {dtype for variable, dtype in met if variable in many}
    return sorted(telling or {dtype for _, dtype in met})


def schema_lines():
    """`schema`, domain, operator, versions, and whether it is deprecated, of every operator."""
    versions = {}
    for schema in defs.get_all_schemas_with_history():
        versions.setdefault((schema.domain, schema.name), []).append(schema)
    for (domain, name), schemas in sorted(versions.items()):
        schemas.sort(key=lambda schema: schema.since_version)
        since = ",".join(str(schema.since_version) for schema in schemas)
        state = "deprecated" if schemas[-1].deprecated else ""
        yield "\t".join(["schema", domain, name, since, state])


# ---- all of it -------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write; must not exist yet")
    folder = parser.parse_args().folder
    # The package's own reference code computes logarithms of zero and the like on purpose.
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")

    lines, operators = [], list(schema_lines())
    for kind in KINDS:
        for case, model in cases_of(folder / kind, kind):
            identity = f"{kind}/{case.name}"
            sets = len(list((folder / kind / case.name).glob("test_data_set_*")))
            inputs = "; ".join(type_name(info.type) for info in fed(model))
            outputs = "; ".join(type_name(info.type) for info in model.graph.output)
            atol = ATOL.get(case.name, case.atol)
            lines.append("\t".join([identity, str(case.rtol), str(atol), str(sets), inputs, outputs]))
            for domain, name, version, *types in operators_of(model):
                operators.append("\t".join([identity, domain, name, str(version), " ".join(types)]))
    (folder / "operators.tsv").write_text("\n".join(operators) + "\n", encoding="utf-8")
    header = "case\trtol\tatol\tsets\tinputs\toutputs"
    (folder / "cases.tsv").write_text("\n".join([header, *sorted(lines)]) + "\n", encoding="utf-8")
    print(f"{len(lines)} cases in {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
