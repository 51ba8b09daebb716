"""Writes operators.tsv, what the one_node fuzz target draws from: every operator with its versions and attributes.

    python fuzz/make_operators.py

Needs onnx, and onnxruntime for its own operators.
"""

import collections
import pathlib

import onnx
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

KINDS = {"FLOAT": "f", "INT": "i", "STRING": "s", "TENSOR": "t", "FLOATS": "F", "INTS": "I", "STRINGS": "S"}


def main():
    operators = collections.defaultdict(lambda: (set(), {}))

    def add(domain, name, version, attributes):
        versions, kinds = operators[(domain, name)]
        versions.add(version)
        for attribute, kind in attributes:
            if kind in KINDS:
                kinds[attribute] = KINDS[kind]

    for schema in onnx.defs.get_all_schemas_with_history():
        domain = "" if schema.domain == "ai.onnx" else schema.domain
        kinds = [(a.name, a.type.name) for a in schema.attributes.values()]
        add(domain, schema.name, schema.since_version, kinds)
    for schema in runtime.get_all_operator_schema():
        if schema.domain == "com.microsoft":
            kinds = [(name, str(a.type).rsplit(".", 1)[-1]) for name, a in schema.attributes.items()]
            add(schema.domain, schema.name, schema.since_version, kinds)

    lines = []
    for (domain, name), (versions, kinds) in sorted(operators.items()):
        attributes = " ".join(f"{attribute}:{kind}" for attribute, kind in sorted(kinds.items()))
        lines.append(f"{domain}\t{name}\t{','.join(map(str, sorted(versions)))}\t{attributes}\n")
    pathlib.Path(__file__).with_name("operators.tsv").write_text("".join(lines))


if __name__ == "__main__":
    main()
