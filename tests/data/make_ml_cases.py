"""Writes cases of the `ai.onnx.ml` operators below `tests/data/ml`, with ONNX Runtime's results.

    python make_ml_cases.py [folder [seed]]

Needs numpy, onnx and onnxruntime. Models that ONNX Runtime does not run are not written. Forms whose results in ONNX
Runtime contradict the operators' documents are not among the cases:

- TreeEnsembleClassifier of two classes with leaves that vote for both, or with two base values;
- a transform of the one score of a regressor;
- transforms 1 and 2 of TreeEnsemble, which ONNX Runtime exchanges;
- a key that a LabelEncoder has twice, or that is NaN.
"""

import os
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

FOLDER = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "ml")
RNG = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
TRANSFORMS = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"]
written = []


def case(name, operator, feeds, outputs, version=3, domain="ai.onnx.ml", opset=21, **attributes):
    """Writes one case of one node, unless ONNX Runtime refuses it."""
    attributes = {key: value for key, value in attributes.items() if value is not None}
    node = helper.make_node(operator, list(feeds), outputs, domain=domain, **attributes)
    inputs = []
    for key, value in feeds.items():
        kind = onnx.TensorProto.STRING if value.dtype.kind in "OU" else helper.np_dtype_to_tensor_dtype(value.dtype)
        inputs.append(helper.make_tensor_value_info(key, kind, [None] * value.ndim))
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, version))

    def model(outputs):
        graph = helper.make_graph([node], "case", inputs, outputs)
        return helper.make_model(graph, opset_imports=imports, ir_version=10, producer_name="")

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    bare = model([helper.make_empty_tensor_value_info(output) for output in outputs]).SerializeToString()
    try:
        session = onnxruntime.InferenceSession(bare, options, providers=["CPUExecutionProvider"])
        results = session.run(None, feeds)
    except Exception as error:  # noqa: BLE001
        print(f"{name}: not run by ONNX Runtime: {str(error)[:160]}")
        return
    typed = []
    for output, value in zip(outputs, results):
        kind = onnx.TensorProto.STRING if value.dtype.kind in "OU" else helper.np_dtype_to_tensor_dtype(value.dtype)
        typed.append(helper.make_tensor_value_info(output, kind, [None] * value.ndim))
    data = os.path.join(FOLDER, name, "test_data_set_0")
    os.makedirs(data)
    with open(os.path.join(FOLDER, name, "model.onnx"), "wb") as file:
        file.write(model(typed).SerializeToString())
    for kind, values in (("input", feeds.values()), ("output", results)):
        for index, value in enumerate(values):
            with open(os.path.join(data, f"{kind}_{index}.pb"), "wb") as file:
                file.write(numpy_helper.from_array(np.asarray(value)).SerializeToString())
    written.append(name)


def type_of(value):
    """The ONNX type of an array, of a dictionary of numbers, or of a list of those."""
    if isinstance(value, list):
        return helper.make_sequence_type_proto(type_of(value[0]))
    if isinstance(value, dict):
        key, number = next(iter(value.items()))
        kind = onnx.TensorProto.STRING if isinstance(key, str) else onnx.TensorProto.INT64
        number = helper.np_dtype_to_tensor_dtype(np.asarray(number).dtype)
        return helper.make_map_type_proto(kind, helper.make_tensor_type_proto(number, []))
    kind = onnx.TensorProto.STRING if value.dtype.kind in "OU" else helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_type_proto(kind, [None] * value.ndim)


def stored(value):
    """The message that a file of test data holds for a value."""
    if isinstance(value, list):
        sequence = onnx.SequenceProto(elem_type=onnx.SequenceProto.MAP)
        sequence.map_values.extend(stored(item) for item in value)
        return sequence
    if isinstance(value, dict):
        dtype = type_of(value).map_type.value_type.tensor_type.elem_type
        numbers = [np.asarray(number, helper.tensor_dtype_to_np_dtype(dtype)) for number in value.values()]
        map_proto = onnx.MapProto(key_type=type_of(value).map_type.key_type)
        if map_proto.key_type == onnx.TensorProto.STRING:
            map_proto.string_keys.extend(key.encode() for key in value)
        else:
            map_proto.keys.extend(value)
        map_proto.values.elem_type = onnx.SequenceProto.TENSOR
        map_proto.values.tensor_values.extend(numpy_helper.from_array(number) for number in numbers)
        return map_proto
    return numpy_helper.from_array(value)


def map_case(name, operator, value, **attributes):
    """Writes one case of one node that takes or makes maps."""
    node = helper.make_node(operator, ["X"], ["Y"], domain="ai.onnx.ml", **attributes)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]

    def model(output):
        graph = helper.make_graph([node], "case", [helper.make_value_info("X", type_of(value))], [output])
        return helper.make_model(graph, opset_imports=imports, ir_version=10, producer_name="").SerializeToString()

    bare = model(helper.make_empty_tensor_value_info("Y"))
    session = onnxruntime.InferenceSession(bare, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"X": value})
    if isinstance(result, list):
        result = [{key: np.float32(number) for key, number in item.items()} for item in result]
    data = os.path.join(FOLDER, name, "test_data_set_0")
    os.makedirs(data)
    with open(os.path.join(FOLDER, name, "model.onnx"), "wb") as file:
        file.write(model(helper.make_value_info("Y", type_of(result))))
    for path, content in (("input_0.pb", value), ("output_0.pb", result)):
        with open(os.path.join(data, path), "wb") as file:
            file.write(stored(content).SerializeToString())
    written.append(name)


def maps():
    rows = np.array([[0.5, 0.25, 0.25], [1, 0, 0]], np.float32)
    map_case("zip_ints", "ZipMap", rows, classlabels_int64s=[1, 2, 3])
    map_case("zip_strings", "ZipMap", rows, classlabels_strings=["a", "b", "c"])
    numbers = {3: np.float32(1.5), 1: np.float32(2.25)}
    map_case("cast_dense", "CastMap", numbers, cast_to="TO_FLOAT", map_form="DENSE")
    map_case("cast_sparse_int64", "CastMap", numbers, cast_to="TO_INT64", map_form="SPARSE", max_map=5)
    map_case("cast_strings", "CastMap", numbers, cast_to="TO_STRING", map_form="DENSE")
    words = {"a": np.float32(1.5), "q": np.float32(2.0), "b": np.float32(-1.0)}
    map_case("dictionary_words", "DictVectorizer", words, string_vocabulary=["b", "z", "a"])
    map_case("dictionary_numbers", "DictVectorizer", {5: np.float32(0.5)}, int64_vocabulary=[4, 5])


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def classic_trees(trees, features, modes, depth, integers=False):
    """Random trees in the attributes of TreeEnsembleClassifier and TreeEnsembleRegressor, and their leaves."""
    nodes = {key: [] for key in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")}
    missing, leaves = [], []
    for tree in range(trees):
        count = 0

        def grow(level):
            nonlocal count
            own, count = count, count + 1
            at = len(nodes["modes"])
            for key in nodes:
                nodes[key].append(0)
            missing.append(0)
            nodes["treeids"][at], nodes["nodeids"][at] = tree, own
            if level == 0 or RNG.random() < 0.15:
                nodes["modes"][at] = "LEAF"
                nodes["values"][at] = 0.0
                leaves.append((tree, own))
                return own
            nodes["modes"][at] = str(RNG.choice(modes))
            nodes["featureids"][at] = int(RNG.integers(features))
            value = RNG.integers(-2, 3) if integers else RNG.normal() * 0.7
            nodes["values"][at] = float(np.float32(value))
            missing[at] = int(RNG.integers(2))
            nodes["truenodeids"][at] = grow(level - 1)
            nodes["falsenodeids"][at] = grow(level - 1)
            return own

        grow(depth)
    attributes = {f"nodes_{key}": value for key, value in nodes.items()}
    return attributes, missing, leaves


def rows(count, features, dtype, integers, with_nan):
    x = RNG.normal(size=(count, features)) * 2
    if integers:
        x = np.round(x)
    x = x.astype(dtype)
    if with_nan and x.dtype.kind == "f":
        x[RNG.random(x.shape) < 0.2] = np.nan
    return x


def as_tensors(attributes, names):
    for name in names:
        if attributes.get(name) is not None:
            value = np.array(attributes.pop(name), np.float64)
            attributes[f"{name}_as_tensor"] = numpy_helper.from_array(value)


def tree_regressor(name, modes, targets=1, dtype=np.float32, double=False, with_nan=False, base=False, batch=5, **more):
    integers = dtype in (np.int32, np.int64) or "BRANCH_EQ" in modes
    attributes, missing, leaves = classic_trees(4, 3, modes, 4, integers)
    votes = [(tree, leaf, target) for tree, leaf in leaves for target in range(targets) if RNG.random() < 0.8 or target == 0]
    attributes.update(
        target_treeids=[vote[0] for vote in votes],
        target_nodeids=[vote[1] for vote in votes],
        target_ids=[vote[2] for vote in votes],
        target_weights=RNG.normal(size=len(votes)).round(3).tolist(),
        n_targets=targets,
        base_values=RNG.normal(size=targets).round(3).tolist() if base else None,
        nodes_missing_value_tracks_true=missing if with_nan else None,
        **more,
    )
    if double:
        as_tensors(attributes, ["nodes_values", "target_weights", "base_values"])
    x = rows(batch, 3, dtype, integers, with_nan)
    case(name, "TreeEnsembleRegressor", {"X": x}, ["Y"], **attributes)


def tree_classifier(name, classes, only=None, positive=False, strings=False, dtype=np.float32, double=False, base=0, **more):
    attributes, missing, leaves = classic_trees(3, 3, ["BRANCH_LEQ"], 3, dtype in (np.int32, np.int64))
    votes = []
    for tree, leaf in leaves:
        for target in [only] if only is not None else range(classes):
            votes.append((tree, leaf, target))
    weights = RNG.normal(size=len(votes)).round(3)
    attributes.update(
        class_treeids=[vote[0] for vote in votes],
        class_nodeids=[vote[1] for vote in votes],
        class_ids=[vote[2] for vote in votes],
        class_weights=(abs(weights) / 4 if positive else weights).tolist(),
        base_values=RNG.normal(size=base).round(3).tolist() if base else None,
        nodes_missing_value_tracks_true=missing,
        **more,
    )
    if double:
        as_tensors(attributes, ["nodes_values", "class_weights", "base_values"])
    if strings:
        attributes["classlabels_strings"] = [f"class {label}" for label in range(classes)]
    else:
        attributes["classlabels_int64s"] = [3 * label + 7 for label in range(classes)]
    x = rows(6, 3, dtype, dtype in (np.int32, np.int64), True)
    case(name, "TreeEnsembleClassifier", {"X": x}, ["Y", "Z"], **attributes)


def tree_ensemble(name, dtype, aggregate=1, transform=0, targets=2, members=False):
    """Random trees in the attributes of TreeEnsemble (version 5)."""
    interior, leaves, roots, sets = [], [], [], []

    def grow(level):
        if level == 0 or RNG.random() < 0.1:
            leaves.append((int(RNG.integers(targets)), float(RNG.normal())))
            return 1, len(leaves) - 1
        at = len(interior)
        mode = 6 if members and RNG.random() < 0.4 else int(RNG.integers(6))
        split = float(RNG.integers(-2, 3))
        node = {"mode": mode, "split": split, "feature": int(RNG.integers(3)), "missing": int(RNG.integers(2))}
        interior.append(node)
        node["true"] = grow(level - 1)
        node["false"] = grow(level - 1)
        return 0, at

    for _ in range(4):
        while True:
            before = len(interior), len(leaves)
            leaf, at = grow(4)
            if not leaf:
                roots.append(at)
                break
            del interior[before[0] :], leaves[before[1] :]
    for node in interior:
        if node["mode"] == 6:
            if sets:
                sets.append(np.nan)
            sets.extend(RNG.choice(np.arange(-4, 5), size=RNG.integers(1, 6), replace=False).tolist())

    def tensor(values, kind=dtype):
        return numpy_helper.from_array(np.array(values, kind))

    case(
        name,
        "TreeEnsemble",
        {"X": rows(7, 3, dtype, True, True)},
        ["Y"],
        version=5,
        n_targets=targets,
        aggregate_function=aggregate,
        post_transform=transform,
        tree_roots=roots,
        nodes_modes=tensor([node["mode"] for node in interior], np.uint8),
        nodes_splits=tensor([node["split"] for node in interior]),
        nodes_featureids=[node["feature"] for node in interior],
        nodes_missing_value_tracks_true=[node["missing"] for node in interior],
        nodes_truenodeids=[node["true"][1] for node in interior],
        nodes_trueleafs=[node["true"][0] for node in interior],
        nodes_falsenodeids=[node["false"][1] for node in interior],
        nodes_falseleafs=[node["false"][0] for node in interior],
        leaf_targetids=[leaf[0] for leaf in leaves],
        leaf_weights=tensor([leaf[1] for leaf in leaves]),
        membership_values=tensor(sets) if sets else None,
    )


def svm_classifier(name, classes, kernel, probabilities, strings=False, linear=False, dtype=np.float32, **more):
    pairs = classes * (classes - 1) // 2
    counts = RNG.integers(1, 4, size=classes)
    total = int(counts.sum())
    attributes = dict(kernel_type=kernel, kernel_params=[0.3, 0.2, 2.0], **more)
    if linear:
        attributes.update(coefficients=floats(classes * 3).tolist(), rho=[0.25])
    else:
        attributes.update(
            coefficients=floats((classes - 1) * total).tolist(),
            support_vectors=floats(total * 3).tolist(),
            vectors_per_class=counts.tolist(),
            rho=floats(pairs).tolist(),
        )
    if probabilities:
        attributes.update(prob_a=(-abs(floats(pairs))).tolist(), prob_b=floats(pairs).tolist())
    if strings:
        attributes["classlabels_strings"] = [f"c{label}" for label in range(classes)]
    else:
        attributes["classlabels_ints"] = [label * 2 + 1 for label in range(classes)]
    x = rows(5, 3, dtype, dtype == np.int64, False)
    case(name, "SVMClassifier", {"X": x}, ["Y", "Z"], version=1, **attributes)


def svm_regressor(name, kernel, vectors, **more):
    attributes = dict(kernel_type=kernel, kernel_params=[0.3, 0.2, 3.0], rho=[0.125], n_supports=vectors, **more)
    attributes["coefficients"] = floats(vectors or 3).tolist()
    if vectors:
        attributes["support_vectors"] = floats(vectors * 3).tolist()
    case(name, "SVMRegressor", {"X": floats(5, 3)}, ["Y"], version=1, **attributes)


def models():
    orders = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"]
    every = [*orders, "BRANCH_EQ", "BRANCH_NEQ"]
    tree_regressor("tree_regressor_leq", ["BRANCH_LEQ"])
    tree_regressor("tree_regressor_orders_nan", orders, with_nan=True)
    tree_regressor("tree_regressor_every_mode_nan", every, with_nan=True, batch=20)
    tree_regressor("tree_regressor_f64", orders, dtype=np.float64, with_nan=True)
    tree_regressor("tree_regressor_f64_tensors", orders, dtype=np.float64, double=True, base=True)
    tree_regressor("tree_regressor_int64", every, dtype=np.int64)
    tree_regressor("tree_regressor_int32", every, dtype=np.int32)
    tree_regressor("tree_regressor_targets_base", ["BRANCH_LT"], targets=3, base=True, batch=70)
    for function in ("AVERAGE", "MIN", "MAX"):
        targets = 1 if function == "AVERAGE" else 2
        tree_regressor(f"tree_regressor_{function.lower()}", orders, targets, base=True, aggregate_function=function)
    for transform in TRANSFORMS[1:]:
        tree_regressor(f"tree_regressor_{transform.lower()}", orders, targets=3, post_transform=transform)
    for transform in TRANSFORMS:
        suffix = transform.lower()
        tree_classifier(f"tree_classifier_three_{suffix}", 3, post_transform=transform, base=3)
        if transform != "PROBIT":
            tree_classifier(f"tree_classifier_margin_{suffix}", 2, only=0, post_transform=transform)
            tree_classifier(f"tree_classifier_probability_{suffix}", 2, only=0, positive=True, post_transform=transform)
        tree_classifier(f"tree_classifier_second_{suffix}", 2, only=1, post_transform=transform)
    tree_classifier("tree_classifier_second_positive", 2, only=1, positive=True)
    tree_classifier("tree_classifier_one_base", 2, only=0, base=1, post_transform="LOGISTIC")
    tree_classifier("tree_classifier_strings", 4, strings=True)
    tree_classifier("tree_classifier_strings_binary", 2, only=0, strings=True)
    tree_classifier("tree_classifier_f64_tensors", 3, dtype=np.float64, double=True, base=3)
    tree_classifier("tree_classifier_int64", 3, dtype=np.int64)
    for aggregate in range(4):
        tree_ensemble(f"tree_ensemble_aggregate_{aggregate}", np.float32, aggregate)
    for transform in (3, 4):
        tree_ensemble(f"tree_ensemble_transform_{transform}", np.float64, transform=transform)
    tree_ensemble("tree_ensemble_members", np.float32, members=True, targets=3)
    tree_ensemble("tree_ensemble_members_f64", np.float64, members=True, targets=1)
    for kernel in ("LINEAR", "POLY", "RBF", "SIGMOID"):
        suffix = kernel.lower()
        svm_classifier(f"svm_classifier_{suffix}_two", 2, kernel, False)
        svm_classifier(f"svm_classifier_{suffix}_four", 4, kernel, False, strings=True)
        svm_classifier(f"svm_classifier_{suffix}_probabilities", 3, kernel, True)
        svm_regressor(f"svm_regressor_{suffix}", kernel, 4)
    svm_regressor("svm_regressor_one_class", "RBF", 4, one_class=1)
    svm_regressor("svm_regressor_linear_model", "LINEAR", 0)
    svm_classifier("svm_classifier_probabilities_two", 2, "RBF", True)
    svm_classifier("svm_classifier_linear_model", 3, "LINEAR", False, linear=True)
    svm_classifier("svm_classifier_int64", 3, "POLY", False, dtype=np.int64)
    for transform in TRANSFORMS[1:4]:
        svm_classifier(f"svm_classifier_two_{transform.lower()}", 2, "RBF", False, post_transform=transform)
        svm_classifier(f"svm_classifier_three_{transform.lower()}", 3, "RBF", False, post_transform=transform)
    for transform in TRANSFORMS:
        suffix = transform.lower()
        linear = dict(version=1, post_transform=transform)
        x = floats(5, 3) * 0.3
        three = dict(coefficients=(floats(9) * 0.1).tolist(), intercepts=[0.5, 0.375, 0.25])
        case(f"linear_classifier_three_{suffix}", "LinearClassifier", {"X": x}, ["Y", "Z"], **linear, **three, classlabels_ints=[5, 1, 3])
        case(f"linear_regressor_three_{suffix}", "LinearRegressor", {"X": x}, ["Y"], **linear, **three, targets=3)
        if transform != "PROBIT":
            one = dict(coefficients=floats(3).tolist(), intercepts=[0.5])
            case(f"linear_classifier_one_{suffix}", "LinearClassifier", {"X": x}, ["Y", "Z"], **linear, **one, classlabels_strings=["no", "yes"])
    case("linear_regressor_one_row", "LinearRegressor", {"X": floats(1, 11)}, ["Y"], version=1, coefficients=floats(11).tolist(), intercepts=[0.5])
    case("linear_regressor_int64", "LinearRegressor", {"X": rows(4, 3, np.int64, True, False)}, ["Y"], version=1, coefficients=[0.5, -1.0, 2.0])


def features():
    x = np.array([[1, -2, 3], [0, 0, 0], [-1, -2, -0.5], [4, 0, 1]], np.float32)
    nan = np.array([[np.nan, 1, 0], [0, np.nan, 2]], np.float32)
    for norm in ("MAX", "L1", "L2"):
        case(f"normalizer_{norm.lower()}", "Normalizer", {"X": x}, ["Y"], version=1, norm=norm)
    case("normalizer_list_int64", "Normalizer", {"X": np.array([3, -1, 4])}, ["Y"], version=1, norm="L1")
    case("scaler", "Scaler", {"X": x}, ["Y"], version=1, offset=[1.0, 0.5, -2.0], scale=[2.0, -1.0, 0.1])
    case("scaler_one_int32", "Scaler", {"X": x.astype(np.int32)}, ["Y"], version=1, offset=[0.5], scale=[2.0])
    case("scaler_f64", "Scaler", {"X": x.astype(np.float64)}, ["Y"], version=1, offset=[0.5], scale=[2.0])
    case("imputer_nan", "Imputer", {"X": nan}, ["Y"], version=1, imputed_value_floats=[7.0, 8.0, 9.0], replaced_value_float=float("nan"))
    case("imputer_zero", "Imputer", {"X": nan}, ["Y"], version=1, imputed_value_floats=[5.5])
    case("imputer_int64", "Imputer", {"X": np.array([[1, -1], [-1, 2]])}, ["Y"], version=1, imputed_value_int64s=[10, 20], replaced_value_int64=-1)
    case("binarizer", "Binarizer", {"X": x}, ["Y"], version=1, threshold=0.5)
    case("extractor_rows", "ArrayFeatureExtractor", {"X": x, "I": np.array([[2, 0, 2]])}, ["Y"], version=1)
    case("extractor_list", "ArrayFeatureExtractor", {"X": x[0], "I": np.array([1])}, ["Y"], version=1)
    case("extractor_strings", "ArrayFeatureExtractor", {"X": np.array([["a", "b"], ["c", "d"]], object), "I": np.array([1])}, ["Y"], version=1)
    case("extractor_cube_int32", "ArrayFeatureExtractor", {"X": np.arange(12, dtype=np.int32).reshape(2, 2, 3), "I": np.array([2, 1])}, ["Y"], version=1)
    two = {"A": x, "B": x[:, :2].copy()}
    case("vectorizer", "FeatureVectorizer", two, ["Y"], version=1, inputdimensions=[3, 2])
    case("vectorizer_cut_and_filled", "FeatureVectorizer", two, ["Y"], version=1, inputdimensions=[2, 4])
    case("vectorizer_int64", "FeatureVectorizer", {"A": np.array([[1], [2]])}, ["Y"], version=1, inputdimensions=[1])


def categories():
    words = np.array([["b", "zz"], ["a", "ü"]], object)
    case("one_hot_strings", "OneHotEncoder", {"X": words}, ["Y"], version=1, cats_strings=["a", "b", "ü"])
    case("one_hot_floats", "OneHotEncoder", {"X": np.array([1.7, -0.5, -2.2, 9], np.float32)}, ["Y"], version=1, cats_int64s=[0, 1, -2])
    case("one_hot_int64", "OneHotEncoder", {"X": np.array([[4], [2]])}, ["Y"], version=1, cats_int64s=[2, 4], zeros=0)
    case("mapper_to_strings", "CategoryMapper", {"X": np.array([1, 3, 2])}, ["Y"], version=1, cats_int64s=[1, 2], cats_strings=["x", "y"])
    case("mapper_to_ints", "CategoryMapper", {"X": words}, ["Y"], version=1, cats_int64s=[1, 2], cats_strings=["a", "zz"], default_int64=-7)
    case("encoder_1_to_strings", "LabelEncoder", {"X": np.array([0, 1, 5, -1])}, ["Y"], version=1, classes_strings=["p", "q"])
    case("encoder_1_to_ints", "LabelEncoder", {"X": words}, ["Y"], version=1, classes_strings=["b", "a"])
    keys = {"strings": ["a", "b", "zz"], "int64s": [1, 2, -3], "floats": [0.5, -0.0, 2.0]}
    inputs = {"strings": words, "int64s": np.array([2, 7, -3]), "floats": np.array([[0.0, 0.5, 3.0]], np.float32)}
    defaults = {"strings": ("default_string", "none"), "int64s": ("default_int64", 42), "floats": ("default_float", 1.5)}
    for key in keys:
        for value in keys:
            more = {f"keys_{key}": keys[key], f"values_{value}": keys[value]}
            if (len(key) + len(value)) % 2:
                more[defaults[value][0]] = defaults[value][1]
            for version in (2, 4):
                case(f"encoder_{version}_{key}_{value}", "LabelEncoder", {"X": inputs[key]}, ["Y"], version=version, **more)
    keys = numpy_helper.from_array(np.array(["a", "b"], object))
    values = numpy_helper.from_array(np.array([5, -6], np.int16))
    case("encoder_4_tensors", "LabelEncoder", {"X": words}, ["Y"], version=4, keys_tensor=keys, values_tensor=values)
    keys = numpy_helper.from_array(np.array([1.25, 2.5]))
    values = numpy_helper.from_array(np.array([-1.0, 7.0]))
    default = numpy_helper.from_array(np.array([0.125]))
    case("encoder_4_f64", "LabelEncoder", {"X": np.array([2.5, 1.0, 1.25])}, ["Y"], version=4, keys_tensor=keys, values_tensor=values, default_tensor=default)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    models()
    features()
    categories()
    maps()
    print(f"{len(written)} cases")
