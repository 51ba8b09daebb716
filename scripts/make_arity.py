"""Writes src/ops/arity.rs: how many inputs and outputs each operator may have, over all of its versions.

    python scripts/make_arity.py

Needs onnx, and onnxruntime for its own operators.
"""

import collections
import pathlib

import onnx
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

HEAD = '''//! How many inputs and outputs operators may have; made by `scripts/make_arity.py` from the operators' schemas.

/// The bounds of one operator over all of its versions. 255 is any number.
pub struct Arity {
    /// The domain; empty for ONNX's own.
    pub domain: &'static str,
    /// The operator's type.
    pub name: &'static str,
    /// Least and most inputs, most outputs.
    pub bounds: [u8; 3],
}

const fn arity(domain: &'static str, name: &'static str, bounds: [u8; 3]) -> Arity {
    Arity { domain, name, bounds }
}

/// Sorted by domain and name.
#[rustfmt::skip]
pub static ARITIES: &[Arity] = &[
'''


def main():
    bounds = collections.defaultdict(lambda: [255, 0, 0])

    def add(domain, name, schema):
        own = bounds[(domain, name)]
        own[0] = min(own[0], schema.min_input)
        own[1] = max(own[1], min(schema.max_input, 255))
        own[2] = max(own[2], min(schema.max_output, 255))

    for schema in onnx.defs.get_all_schemas_with_history():
        add("" if schema.domain == "ai.onnx" else schema.domain, schema.name, schema)
    for schema in runtime.get_all_operator_schema():
        if schema.domain == "com.microsoft":
            add(schema.domain, schema.name, schema)
    # Operators that are not supported are an error before anything is counted.
    root = pathlib.Path(__file__).parent.parent
    sources = "".join(path.read_text() for path in root.glob("src/ops/**/*.rs") if path.name != "arity.rs")
    lines = [
        f'    arity("{domain}", "{name}", [{low}, {high}, {outputs}]),\n'
        for (domain, name), (low, high, outputs) in sorted(bounds.items())
        if f'"{name}"' in sources
    ]
    (root / "src/ops/arity.rs").write_text(HEAD + "".join(lines) + "];\n")


if __name__ == "__main__":
    main()
