"""Makes case folders, as make_cases.py does, of exported models that stand beside an `io.npz`.

    python from_npz.py SOURCE FOLDER [--models]

SOURCE (or the environment variable MODELET_FIXTURES) holds <framework>/<model>/model*.onnx with io.npz, whose arrays
`in/<name>` are fed. The expected outputs are ONNX Runtime's. Models that it does not load are named and left out. With
--models, SOURCE holds models without data (files *.onnx), and their inputs are made up.

    MODELET_CONFORMANCE=FOLDER cargo test --test conformance

then runs them. Needs onnx and onnxruntime.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from make_cases import fed, operators_of, type_name, write_set

RTOL, ATOL = "0.001", "1e-05"


def fit(array, info):
    """An array in the element type and the rank of a model's input."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
    rank = len(info.type.tensor_type.shape.dim)
    if array.dtype.kind == "U":
        array = array.astype(object)
    elif dtype != object:
        array = array.astype(dtype)
    else:
        array = array.astype(str).astype(object)
    if array.ndim == rank - 1:
        array = array[:, None] if info.type.tensor_type.shape.dim[-1].dim_value == 1 else array[None]
    return array


def feeds(model, arrays):
    given = {name[3:]: arrays[name] for name in arrays.files if name.startswith("in/")}
    infos = fed(model)
    wanted = {info.name: info for info in infos}
    if set(given) >= set(wanted):
        return {name: fit(given[name], info) for name, info in wanted.items()}
    if len(given) == len(infos):
        return {info.name: fit(array, info) for info, array in zip(infos, given.values())}
    if len(infos) == 1:
        columns = [np.atleast_1d(array) for array in given.values()]
        return {infos[0].name: fit(np.stack(columns, axis=1), infos[0])}
    raise ValueError(f"inputs {sorted(wanted)} where io.npz has {sorted(given)}")


def made_up(model):
    rng = np.random.default_rng(0)
    values = {}
    for info in fed(model):
        tensor = info.type.tensor_type
        shape = [dim.dim_value if dim.dim_value > 0 else 1 for dim in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype == object:
            values[info.name] = np.full(shape, "a", dtype=object)
        elif np.issubdtype(dtype, np.floating):
            values[info.name] = rng.random(shape).astype(dtype)
        else:
            values[info.name] = np.ones(shape, dtype)
    return values


def computed(path, values, results):
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Without this, products of 8-bit numbers saturate on some processors.
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        results.send(session.run(None, values))
    except Exception as error:
        results.send(str(error).splitlines()[0])


def expected(path, model, values, stored):
    """ONNX Runtime's outputs, computed in a process of its own: it may crash."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=computed, args=(path, values, sender))
    process.start()
    sender.close()
    try:
        outputs = receiver.recv()
    except EOFError:
        outputs = "ONNX Runtime crashed"
    finally:
        process.join()
    recorded = [stored.get(f"ort/{info.name}") for info in model.graph.output]
    if isinstance(outputs, str):
        if any(output is None for output in recorded):
            raise ValueError(outputs)
        return recorded
    for info, output, reference in zip(model.graph.output, outputs, recorded):
        if reference is not None and isinstance(output, np.ndarray) and output.dtype.kind == "f":
            if output.shape == reference.shape and not np.allclose(output, reference, 1e-2, 1e-3, equal_nan=True):
                print(f"{path}: {info.name} differs from its record in io.npz", file=sys.stderr)
    return outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=os.environ.get("MODELET_FIXTURES"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", action="store_true")
    arguments = parser.parse_args()
    source, folder = Path(arguments.source), arguments.folder

    lines, operators, left_out = [], [], []
    for path in sorted(source.rglob("*.onnx" if arguments.models else "model*.onnx")):
        identity = str(path.relative_to(source).with_suffix(""))
        io = path.with_name("io.npz")
        try:
            arrays = np.load(io) if io.exists() else None
            model = onnx.load(path, load_external_data=False)
            values = made_up(model) if arrays is None else feeds(model, arrays)
            outputs = expected(path, model, values, arrays if arrays is not None else {})
        except Exception as error:
            left_out.append(f"{identity}\t{str(error).splitlines()[0][:200]}")
            continue
        into = folder / identity
        into.mkdir(parents=True)
        for tensor in onnx.external_data_helper._get_all_tensors(model):
            for entry in tensor.external_data:
                if entry.key == "location" and not (into / entry.value).exists():
                    (into / entry.value).symlink_to(path.with_name(entry.value))
        shutil.copyfile(path, into / "model.onnx")
        write_set(into / "test_data_set_0", fed(model), list(values.values()), model.graph.output, outputs)
        inputs = "; ".join(type_name(info.type) for info in fed(model))
        results = "; ".join(type_name(info.type) for info in model.graph.output)
        lines.append("\t".join([identity, RTOL, ATOL, "1", inputs, results]))
        for domain, name, version, *types in operators_of(model):
            operators.append("\t".join([identity, domain, name, str(version), " ".join(types)]))
    (folder / "cases.tsv").write_text("\n".join(["case\trtol\tatol\tsets\tinputs\toutputs", *lines]) + "\n")
    (folder / "operators.tsv").write_text("\n".join(operators) + "\n")
    (folder / "expected_failures.tsv").write_text("")
    (folder / "left_out.tsv").write_text("\n".join(left_out) + "\n")
    print(f"{len(lines)} cases in {folder}, {len(left_out)} left out", file=sys.stderr)


if __name__ == "__main__":
    main()
