#!/usr/bin/env python3
"""Networks that every peer can run, with seeded random weights.

usage: make_networks.py OUT_DIR SQUEEZENET.onnx
needs: pip install onnx numpy

Writes mnist-cnn.onnx (two 5x5 convolutions, max-pooled, and a dense layer, as in ONNX's model zoo), digits-mlp.onnx
(784-64-10), and squeezenet.onnx, which is that of tests/models/make_cnns.py with the shapes of all values written down
and without its Dropout, as wonnx wants it.
"""
import os, sys
import numpy as np, onnx
from onnx import helper as h, numpy_helper as nh, TensorProto as T

rng = np.random.default_rng(0)


def weight(name, *shape):
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
    values = rng.standard_normal(shape) * np.sqrt(2 / fan_in) if len(shape) > 1 else 0.1 * rng.standard_normal(shape)
    return nh.from_array(values.astype(np.float32), name)


def save(out, name, nodes, shape, weights):
    x = h.make_tensor_value_info('x', T.FLOAT, shape)
    y = h.make_tensor_value_info('y', T.FLOAT, [1, 10])
    graph = h.make_graph(nodes, name, [x], [y], weights)
    model = h.make_model(graph, opset_imports=[h.make_opsetid('', 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    # wonnx wants the shapes of intermediate values written down.
    onnx.save(onnx.shape_inference.infer_shapes(model), os.path.join(out, name + '.onnx'))


def conv(x, w, b, y):
    return h.make_node('Conv', [x, w, b], [y], kernel_shape=[5, 5], pads=[2, 2, 2, 2], strides=[1, 1])


def pool(x, y, size):
    return h.make_node('MaxPool', [x], [y], kernel_shape=[size, size], strides=[size, size], pads=[0, 0, 0, 0])


out = sys.argv[1]
os.makedirs(out, exist_ok=True)
save(out, 'mnist-cnn', [
    conv('x', 'w1', 'b1', 'c1'),
    h.make_node('Relu', ['c1'], ['r1']),
    pool('r1', 'p1', 2),
    conv('p1', 'w2', 'b2', 'c2'),
    h.make_node('Relu', ['c2'], ['r2']),
    pool('r2', 'p2', 2),
    h.make_node('Flatten', ['p2'], ['f'], axis=1),
    h.make_node('Gemm', ['f', 'w3', 'b3'], ['y'], transB=0),
], [1, 1, 28, 28], [
    weight('w1', 8, 1, 5, 5), weight('b1', 8),
    weight('w2', 16, 8, 5, 5), weight('b2', 16),
    weight('w3', 784, 10), weight('b3', 10),
])
save(out, 'digits-mlp', [
    h.make_node('Gemm', ['x', 'w1', 'b1'], ['h'], transB=0),
    h.make_node('Relu', ['h'], ['r']),
    h.make_node('Gemm', ['r', 'w2', 'b2'], ['y'], transB=0),
], [1, 784], [
    weight('w1', 784, 64), weight('b1', 64),
    weight('w2', 64, 10), weight('b2', 10),
])

model = onnx.load(sys.argv[2])
kept = []
renamed = {}
for node in model.graph.node:
    node.input[:] = [renamed.get(name, name) for name in node.input]
    if node.op_type == 'Softmax' and not node.attribute:
        # What is left out is another axis from opset 13 on, and not every engine looks at the opset.
        node.attribute.append(h.make_attribute('axis', 1))
    if node.op_type == 'Dropout':
        renamed[node.output[0]] = node.input[0]
    else:
        kept.append(node)
del model.graph.node[:]
model.graph.node.extend(kept)
onnx.save(onnx.shape_inference.infer_shapes(model), os.path.join(out, 'squeezenet.onnx'))
