#!/usr/bin/env python3
"""Makes ONNX-style test cases of fetched models, with ONNX Runtime's outputs as reference.

usage: make_cases.py MODELS_DIR OUT_DIR [--only id,id]

Writes OUT_DIR/<id>/model.onnx (a link) and OUT_DIR/<id>/test_data_set_<k>/{input,output}_<i>.pb. The inputs are drawn
as cases.json says, from seeded generators, so that every run makes the same cases; models with symbolic dimensions get
two sets of different shapes. Needs onnx, onnxruntime and numpy.
"""
import argparse
import json
import os
import sys

import numpy as np
import onnxruntime as ort
from onnx import numpy_helper

HERE = os.path.dirname(os.path.abspath(__file__))


def draw(spec, rng):
    shape, kind = spec.get('shape', []), spec['kind']
    if kind == 'normal':
        values = rng.standard_normal(shape) * spec.get('scale', 1) + spec.get('shift', 0)
    elif kind == 'uniform':
        values = rng.random(shape) * spec.get('scale', 1) + spec.get('shift', 0)
    elif kind == 'int':
        values = rng.integers(spec['lo'], spec['hi'], shape)
    elif kind == 'full':
        values = np.full(shape, spec['value'])
    elif kind == 'value':
        values = np.array(spec['value'])
    else:
        sys.exit('unknown kind %r' % kind)
    return np.asarray(values).astype(np.dtype(spec.get('dtype', 'float32')))


def expand(inputs):
    """Yields (name, spec): '{l}' in the name of a spec with "range" stands for one input per index."""
    for name, spec in inputs.items():
        if 'range' in spec:
            for index in range(spec['range']):
                yield name.replace('{l}', str(index)), spec
        else:
            yield name, spec


def write(path, name, values):
    with open(path, 'wb') as file:
        file.write(numpy_helper.from_array(np.asarray(values), name).SerializeToString())


def as_tensor(value):
    """A sequence of maps (what ZipMap gives) as a matrix with one column per key."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        keys = sorted(value[0])
        return np.array([[row[key] for key in keys] for row in value], dtype=np.float32)
    return value


def make_cases(model, cases, folder):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    order = [value.name for value in session.get_inputs()]
    os.makedirs(folder, exist_ok=True)
    link = os.path.join(folder, 'model.onnx')
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(model, link)
    for index, inputs in enumerate(cases):
        rng = np.random.default_rng(1000 + index)
        feeds = {name: draw(spec, rng) for name, spec in expand(inputs)}
        if set(feeds) != set(order):
            sys.exit('%s: cases.json and the model differ in the inputs %s' % (model, set(order) ^ set(feeds)))
        outputs = session.run(None, feeds)
        data = os.path.join(folder, 'test_data_set_%d' % index)
        os.makedirs(data, exist_ok=True)
        for i, name in enumerate(order):
            write(os.path.join(data, 'input_%d.pb' % i), name, feeds[name])
        for i, (info, value) in enumerate(zip(session.get_outputs(), outputs)):
            write(os.path.join(data, 'output_%d.pb' % i), info.name, as_tensor(value))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models')
    parser.add_argument('out')
    parser.add_argument('--only', help='comma-separated model ids')
    args = parser.parse_args()
    only = set(args.only.split(',')) if args.only else None
    with open(os.path.join(HERE, 'cases.json')) as file:
        specs = json.load(file)
    for name, cases in specs.items():
        if only and name not in only:
            continue
        model = os.path.abspath(os.path.join(args.models, name + '.onnx'))
        if not os.path.exists(model):
            print('skip', name, '(not fetched)')
            continue
        make_cases(model, cases, os.path.join(args.out, name))
        print('ok  ', name, len(cases), 'case(s)')


main()
