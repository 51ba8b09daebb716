//! Imports of small models made field by field: what well-formed ones become, and the error that each kind of bad file
//! ends in.

use super::wire::Writer;
use super::*;
use crate::graph::{Node, ValueId};
use crate::tensor::{DType, Tensor};

type Fill<'f> = &'f dyn Fn(&mut Writer);

fn bytes(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    fill(&mut writer);
    writer.into_bytes()
}

/// A model of IR version 8 and opset 17 whose graph is written by `graph`.
fn model(graph: impl FnOnce(&mut Writer)) -> Vec<u8> {
    model_of(8, graph, |_| {})
}

fn model_of(ir: u64, graph: impl FnOnce(&mut Writer), rest: impl FnOnce(&mut Writer)) -> Vec<u8> {
    bytes(|model| {
        model.varint_field(1, ir);
        opset(model, 8, "", 17);
        model.message_field(7, graph);
        rest(model);
    })
}

fn opset(writer: &mut Writer, field: u32, domain: &str, version: u64) {
    writer.message_field(field, |import| {
        import.bytes_field(1, domain.as_bytes());
        import.varint_field(2, version);
    });
}

fn text(writer: &mut Writer, field: u32, text: &str) {
    writer.bytes_field(field, text.as_bytes());
}

/// A node as field `field`: 1 of a graph, 7 of a function.
fn node_in(writer: &mut Writer, field: u32, op: &str, inputs: &[&str], outputs: &[&str], rest: Fill<'_>) {
    writer.message_field(field, |node| {
        inputs.iter().for_each(|name| text(node, 1, name));
        outputs.iter().for_each(|name| text(node, 2, name));
        text(node, 4, op);
        rest(node);
    });
}

fn node(graph: &mut Writer, op: &str, inputs: &[&str], outputs: &[&str]) {
    node_in(graph, 1, op, inputs, outputs, &|_| {});
}

/// A float vector of unknown length called `name`: field 11 is a graph's inputs, 12 its outputs.
fn value(graph: &mut Writer, field: u32, name: &str) {
    graph.message_field(field, |info| {
        text(info, 1, name);
        info.message_field(2, |ty| {
            ty.message_field(1, |tensor| {
                tensor.varint_field(1, 1);
                tensor.message_field(2, |shape| shape.message_field(1, |dim| text(dim, 2, "n")));
            })
        });
    });
}

fn initializer(graph: &mut Writer, name: &str, data: &[f32]) {
    let tensor = Tensor::new(&[data.len()], data.to_vec()).unwrap();
    graph.bytes_field(5, &write_tensor(name, &tensor));
}

/// An attribute with its type and what `fill` adds.
fn attribute(node: &mut Writer, name: &str, kind: i32, fill: impl FnOnce(&mut Writer)) {
    node.message_field(5, |attribute| {
        text(attribute, 1, name);
        attribute.varint_field(20, kind as u64);
        fill(attribute);
    });
}

fn graph_of(bytes: Vec<u8>) -> Graph {
    import(bytes, &NoExternalData).unwrap_or_else(|error| panic!("{error}"))
}

fn error_of(bytes: Vec<u8>) -> Error {
    import(bytes, &NoExternalData)
        .map(|graph| panic!("imported with {} nodes", graph.nodes.len()))
        .unwrap_err()
}

fn operators(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| &*node.operator.name).collect()
}

fn constant_of<'g>(graph: &'g Graph, name: &str) -> &'g Tensor {
    graph.value(graph.find_value(name).unwrap()).constant.as_ref().unwrap()
}

/// Follows single-input nodes from the graph's first output back to where the chain starts.
fn chain(graph: &Graph) -> Vec<(&Node, &str)> {
    let producers = graph.producers();
    let mut at = graph.outputs[0];
    let mut found = Vec::new();
    while let Some(id) = producers[at.index()] {
        let node = &graph.nodes[id.index()];
        at = node.inputs[0].unwrap();
        found.push((node, graph.value(at).name.as_str()));
    }
    found
}

#[test]
fn a_model_becomes_a_graph_with_symbols_constants_and_metadata() {
    let graph = graph_of(model_of(
        8,
        |graph| {
            text(graph, 2, "main");
            value(graph, 11, "x");
            value(graph, 12, "y");
            initializer(graph, "w", &[2.0]);
            node(graph, "Mul", &["x", "w"], &["y"]);
        },
        |model| {
            model.message_field(14, |entry| {
                text(entry, 1, "author");
                text(entry, 2, "someone");
            });
        },
    ));
    assert_eq!((graph.name.as_str(), operators(&graph)), ("main", vec!["Mul"]));
    assert_eq!(graph.value(graph.inputs[0]).ty.to_string(), "float32[n]");
    assert_eq!(graph.value(graph.outputs[0]).ty.to_string(), "float32[n]");
    assert_eq!(constant_of(&graph, "w").to_f32s().unwrap()[..], [2.0]);
    assert_eq!(graph.inputs.len(), 1);
    assert_eq!(graph.metadata["author"], "someone");
    assert_eq!(graph.nodes[0].operator.version, 17);
}

#[test]
fn initialisers_listed_as_inputs_are_constants_in_old_files_and_defaults_in_new_ones() {
    let file = |ir| {
        let fill = |graph: &mut Writer| {
            value(graph, 11, "x");
            value(graph, 11, "w");
            value(graph, 12, "y");
            initializer(graph, "w", &[2.0]);
            node(graph, "Mul", &["x", "w"], &["y"]);
        };
        graph_of(model_of(ir, fill, |_| {}))
    };
    let (old, new) = (file(3), file(4));
    assert_eq!((old.inputs.len(), new.inputs.len()), (1, 2));
    let (in_old, in_new) = (old.find_value("w").unwrap(), new.find_value("w").unwrap());
    assert!(old.constant(in_old).is_some() && new.constant(in_new).is_none());
    assert!(new.value(in_new).constant.is_some());
    assert_eq!(old.value(in_old).ty.to_string(), "float32[1]");
    assert_eq!(new.value(in_new).ty.to_string(), "float32[n]");
}

#[test]
fn constant_nodes_of_every_form_become_constants() {
    let file = model(|graph| {
        let constant = |graph: &mut Writer, name: &str, kind, fill: Fill<'_>| {
            node_in(graph, 1, "Constant", &[], &[name], &|node| {
                attribute(node, name, kind, fill)
            });
        };
        let vector = write_tensor("", &Tensor::new(&[2], vec![1i64, 2]).unwrap());
        constant(graph, "value", 4, &|a| a.bytes_field(5, &vector));
        constant(graph, "value_float", 1, &|a| a.fixed32_field(2, 1.5f32.to_bits()));
        constant(graph, "value_int", 2, &|a| a.varint_field(3, 7));
        constant(graph, "value_string", 3, &|a| a.bytes_field(4, b"s"));
        constant(graph, "value_floats", 6, &|a| a.fixed32_field(7, 2f32.to_bits()));
        constant(graph, "value_ints", 7, &|a| a.varint_field(8, 3));
        constant(graph, "value_strings", 8, &|a| a.bytes_field(9, b"t"));
        constant(graph, "sparse_value", 11, &|a| {
            a.message_field(22, |sparse| {
                sparse.bytes_field(1, &write_tensor("", &Tensor::new(&[1], vec![5.0f32]).unwrap()));
                sparse.bytes_field(2, &write_tensor("", &Tensor::new(&[1], vec![1i64]).unwrap()));
                sparse.varint_field(3, 3);
            })
        });
        value(graph, 12, "value");
    });
    let graph = graph_of(file);
    assert!(graph.nodes.is_empty());
    assert_eq!(constant_of(&graph, "value").to_i64s().unwrap(), [1, 2]);
    assert_eq!(*constant_of(&graph, "value_float"), Tensor::scalar(1.5f32));
    assert_eq!(*constant_of(&graph, "value_int"), Tensor::scalar(7i64));
    assert_eq!(constant_of(&graph, "value_string").strings().unwrap(), ["s"]);
    assert_eq!(constant_of(&graph, "value_floats").shape(), [1]);
    assert_eq!(constant_of(&graph, "value_ints").to_i64s().unwrap(), [3]);
    assert_eq!(constant_of(&graph, "value_strings").strings().unwrap(), ["t"]);
    assert_eq!(
        constant_of(&graph, "sparse_value").to_f32s().unwrap()[..],
        [0.0, 5.0, 0.0]
    );
}

#[test]
fn sparse_initialisers_become_dense_constants() {
    let graph = graph_of(model(|graph| {
        graph.message_field(15, |sparse| {
            sparse.bytes_field(1, &write_tensor("w", &Tensor::new(&[1], vec![5i64]).unwrap()));
            sparse.bytes_field(2, &write_tensor("", &Tensor::new(&[1], vec![2i64]).unwrap()));
            sparse.varint_field(3, 4);
        });
        value(graph, 12, "w");
    }));
    assert_eq!(constant_of(&graph, "w").to_i64s().unwrap(), [0, 0, 5, 0]);
}

#[test]
fn external_data_comes_through_the_callback() {
    let file = model(|graph| {
        graph.message_field(5, |tensor| {
            tensor.varint_field(1, 2);
            tensor.varint_field(2, 2);
            text(tensor, 8, "w");
            tensor.varint_field(14, 1);
            tensor.message_field(13, |entry| {
                text(entry, 1, "location");
                text(entry, 2, "w.bin");
            });
        });
        value(graph, 12, "w");
    });
    let graph = import(file.clone(), &|_: &str| Ok(Bytes::from(vec![3, 4]))).unwrap();
    assert_eq!(constant_of(&graph, "w").bytes(), [3, 4]);
    let error = error_of(file);
    assert_eq!(error.code(), ErrorCode::ExternalData);
    assert!(error.message().contains("w.bin"));
}

#[test]
fn left_out_inputs_and_outputs_stay_at_their_places() {
    let graph = graph_of(model(|graph| {
        value(graph, 11, "x");
        value(graph, 12, "y");
        node(graph, "LSTM", &["x", "", "x", "", ""], &["", "y", ""]);
    }));
    let x = Some(graph.inputs[0]);
    assert_eq!(graph.nodes[0].inputs, [x, None, x]);
    assert_eq!(graph.nodes[0].outputs, [None, Some(graph.outputs[0])]);
}

#[test]
fn nodes_out_of_order_are_sorted_and_both_spellings_of_the_domain_are_one() {
    let file = bytes(|model| {
        model.varint_field(1, 8);
        opset(model, 8, "ai.onnx", 13);
        opset(model, 8, "", 11);
        model.message_field(7, |graph| {
            value(graph, 11, "x");
            value(graph, 12, "z");
            node(graph, "Neg", &["y"], &["z"]);
            node_in(graph, 1, "Abs", &["x"], &["y"], &|node| text(node, 7, "ai.onnx"));
            node_in(graph, 1, "Odd", &["x"], &["w"], &|node| text(node, 7, "elsewhere"));
        });
    });
    let graph = graph_of(file);
    let named: Vec<String> = graph.nodes.iter().map(|node| format!("{:?}", node.operator)).collect();
    assert_eq!(named, ["Abs@13", "Neg@13", "elsewhere.Odd@1"]);
}

#[test]
fn operator_sets_that_are_not_imported_have_their_latest_version_beside_others() {
    let versions = |imports: &[(&str, u64)]| {
        let file = bytes(|model| {
            model.varint_field(1, 8);
            imports
                .iter()
                .for_each(|(domain, version)| opset(model, 8, domain, *version));
            model.message_field(7, |graph| {
                value(graph, 11, "x");
                value(graph, 12, "z");
                node_in(graph, 1, "Scaler", &["x"], &["y"], &|node| text(node, 7, "ai.onnx.ml"));
                node_in(graph, 1, "Odd", &["y"], &["w"], &|node| text(node, 7, "elsewhere"));
                node(graph, "Neg", &["y"], &["z"]);
            });
        });
        graph_of(file)
            .nodes
            .iter()
            .map(|node| node.operator.version)
            .collect::<Vec<_>>()
    };
    assert_eq!(versions(&[("ai.onnx.ml", 3)]), [3, 1, 28]);
    assert_eq!(versions(&[("elsewhere", 4)]), [5, 4, 28]);
    assert_eq!(
        versions(&[("", 9), ("ai.onnx", 11), ("", 1), ("ai.onnx.ml", 1)]),
        [1, 1, 11]
    );
    // Files from before there were operator sets.
    assert_eq!(versions(&[]), [1, 1, 1]);
}

/// `If` with a branch that writes `Neg(x)`, where `x` is of the graph around it.
fn branch(node: &mut Writer, name: &str, inner: Fill<'_>) {
    attribute(node, name, 5, |attribute| attribute.message_field(6, inner));
}

#[test]
fn subgraphs_capture_values_across_several_levels_and_share_constants() {
    let graph = graph_of(model(|graph| {
        value(graph, 11, "x");
        value(graph, 11, "go");
        value(graph, 12, "y");
        initializer(graph, "w", &[2.0]);
        node_in(graph, 1, "If", &["go"], &["y"], &|node| {
            branch(node, "then_branch", &|outer| {
                value(outer, 12, "a");
                node_in(outer, 1, "If", &["go"], &["a"], &|node| {
                    branch(node, "then_branch", &|inner| {
                        super::tests::node(inner, "Mul", &["x", "w"], &["b"]);
                        value(inner, 12, "b");
                    });
                });
            });
        });
    }));
    let subgraph = |node: &Node| node.attributes.graph("then_branch").unwrap().unwrap().clone();
    let outer = subgraph(&graph.nodes[0]);
    assert_eq!(outer.captures, [graph.inputs[1], graph.inputs[0]]);
    let names = |graph: &Graph, ids: &[ValueId]| -> Vec<String> {
        ids.iter().map(|&id| graph.value(id).name.clone()).collect()
    };
    assert_eq!(names(&outer.graph, &outer.graph.captures), ["go", "x"]);
    let inner = subgraph(&outer.graph.nodes[0]);
    assert_eq!(names(&outer.graph, &inner.captures), ["x"]);
    assert_eq!(names(&inner.graph, &inner.graph.captures), ["x"]);
    assert_eq!(constant_of(&inner.graph, "w").to_f32s().unwrap()[..], [2.0]);
}

/// A function of domain `custom`: 25 is a model's field for it.
fn function(model: &mut Writer, name: &str, inputs: &[&str], outputs: &[&str], body: Fill<'_>) {
    model.message_field(25, |function| {
        text(function, 1, name);
        text(function, 10, "custom");
        inputs.iter().for_each(|name| text(function, 4, name));
        outputs.iter().for_each(|name| text(function, 5, name));
        opset(function, 9, "", 18);
        body(function);
    });
}

fn call(writer: &mut Writer, field: u32, name: &str, inputs: &[&str], outputs: &[&str], rest: Fill<'_>) {
    node_in(writer, field, name, inputs, outputs, &|node| {
        text(node, 7, "custom");
        text(node, 3, &format!("call_{}", outputs[0]));
        rest(node);
    });
}

fn reference(node: &mut Writer, name: &str, kind: i32, to: &str) {
    attribute(node, name, kind, |attribute| text(attribute, 21, to));
}

#[test]
fn functions_are_copied_with_their_attributes_and_calls_inside_them() {
    let file = model_of(
        8,
        |graph| {
            value(graph, 11, "x");
            value(graph, 12, "y");
            call(graph, 1, "Outer", &["x"], &["m"], &|node| {
                attribute(node, "alpha", 1, |a| a.fixed32_field(2, 4f32.to_bits()))
            });
            call(graph, 1, "Outer", &["m"], &["y"], &|_| {});
        },
        |model| {
            function(model, "Outer", &["a"], &["b"], &|function| {
                call(function, 7, "Inner", &["a"], &["b"], &|node| {
                    reference(node, "slope", 1, "alpha")
                });
                function.message_field(11, |default| {
                    text(default, 1, "alpha");
                    default.varint_field(20, 1);
                    default.fixed32_field(2, 3f32.to_bits());
                });
            });
            function(model, "Inner", &["a"], &["b"], &|function| {
                node_in(function, 7, "LeakyRelu", &["a"], &["t"], &|node| {
                    reference(node, "alpha", 1, "slope");
                    reference(node, "unset", 1, "never_given");
                });
                node_in(function, 7, "Neg", &["t"], &["b"], &|_| {});
            });
        },
    );
    let graph = graph_of(file);
    assert_eq!(operators(&graph), ["LeakyRelu", "Neg", "LeakyRelu", "Neg"]);
    let slopes: Vec<Option<f32>> = graph
        .nodes
        .iter()
        .map(|node| node.attributes.float("alpha").unwrap())
        .collect();
    assert_eq!(slopes, [Some(4.0), None, Some(3.0), None]);
    assert!(graph.nodes.iter().all(|node| node.attributes.get("unset").is_none()));
    let names: Vec<&str> = chain(&graph).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["call_y/call_b/t", "m", "call_m/call_b/t", "x"]);
    assert_eq!(graph.nodes[0].operator.version, 18);
}

#[test]
fn functions_may_pass_inputs_through_and_have_inputs_left_out() {
    let file = model_of(
        8,
        |graph| {
            value(graph, 11, "x");
            value(graph, 12, "y");
            value(graph, 12, "z");
            call(graph, 1, "Both", &["x"], &["y", "z"], &|_| {});
        },
        |model| {
            function(model, "Both", &["a", "optional"], &["a", "b"], &|function| {
                node_in(function, 7, "Clip", &["a", "optional"], &["b"], &|_| {});
            });
        },
    );
    let graph = graph_of(file);
    assert_eq!(operators(&graph), ["Clip", "Identity"]);
    assert_eq!(graph.nodes[0].inputs, [Some(graph.inputs[0])]);
    assert_eq!(graph.nodes[1].inputs, [Some(graph.inputs[0])]);
}

#[test]
fn overloads_are_told_apart_and_subgraphs_may_be_attributes_of_calls() {
    let file = model_of(
        10,
        |graph| {
            value(graph, 11, "x");
            value(graph, 12, "y");
            call(graph, 1, "F", &["x"], &["y"], &|node| {
                text(node, 8, "second");
                branch(node, "body", &|inner| {
                    super::tests::node(inner, "Exp", &["x"], &["e"]);
                    value(inner, 12, "e");
                });
            });
        },
        |model| {
            function(model, "F", &["a"], &["b"], &|function| {
                node_in(function, 7, "Neg", &["a"], &["b"], &|_| {});
            });
            function(model, "F", &["a"], &["b"], &|function| {
                text(function, 13, "second");
                node_in(function, 7, "If", &["a"], &["b"], &|node| {
                    reference(node, "then_branch", 5, "body")
                });
            });
        },
    );
    let graph = graph_of(file);
    assert_eq!(operators(&graph), ["If"]);
    let body = graph.nodes[0].attributes.graph("then_branch").unwrap().unwrap();
    assert_eq!(body.captures, [graph.inputs[0]]);
    assert_eq!(operators(&body.graph), ["Exp"]);
}

#[test]
fn functions_that_cannot_be_copied_are_errors() {
    let with = |body: Fill<'_>, inputs: &[&str], rest: Fill<'_>| {
        let graph = |graph: &mut Writer| {
            value(graph, 11, "x");
            value(graph, 12, "y");
            call(graph, 1, "F", inputs, &["y"], &|_| {});
        };
        error_of(model_of(8, graph, |model| {
            function(model, "F", &["a"], &["b"], body);
            rest(model);
        }))
    };
    let cases = [
        with(&|f| call(f, 7, "F", &["a"], &["b"], &|_| {}), &["x"], &|_| {}),
        with(&|f| call(f, 7, "G", &["a"], &["b"], &|_| {}), &["x"], &|model| {
            function(model, "G", &["a"], &["b"], &|g| {
                call(g, 7, "F", &["a"], &["b"], &|_| {})
            })
        }),
        with(&|_| {}, &["x"], &|_| {}),
        with(&|f| node_in(f, 7, "Neg", &["a"], &["b"], &|_| {}), &["x", "x"], &|_| {}),
        with(&|f| node_in(f, 7, "Neg", &["x"], &["b"], &|_| {}), &["x"], &|_| {}),
        with(&|f| node_in(f, 7, "Neg", &["a"], &["a"], &|_| {}), &["x"], &|_| {}),
        with(&|f| node_in(f, 7, "Neg", &["a"], &["b"], &|_| {}), &["x"], &|model| {
            function(model, "F", &["a"], &["b"], &|_| {})
        }),
    ];
    let expected = [
        "calls itself",
        "calls itself",
        "does not make its output",
        "too many",
        "nothing in the graph makes",
        "defined twice",
        "defined twice",
    ];
    for (error, expected) in cases.iter().zip(expected) {
        assert_eq!(error.code(), ErrorCode::InvalidGraph, "{error}");
        assert!(error.to_string().contains(expected), "{error} should say: {expected}");
    }
    assert_eq!(cases[0].place().node.as_deref(), Some("call_y/call_b"));
    assert_eq!(cases[0].place().operator.as_deref(), Some("custom.F"));
}

#[test]
fn functions_that_double_at_every_level_are_stopped() {
    let file = model_of(
        8,
        |graph| {
            value(graph, 11, "x");
            value(graph, 12, "y");
            call(graph, 1, "F0", &["x"], &["y"], &|_| {});
        },
        |model| {
            for level in 0..40 {
                function(model, &format!("F{level}"), &["a"], &["b"], &|function| {
                    let next = format!("F{}", level + 1);
                    call(function, 7, &next, &["a"], &["t"], &|_| {});
                    call(function, 7, &next, &["t"], &["b"], &|_| {});
                });
            }
        },
    );
    assert_eq!(error_of(file).code(), ErrorCode::LimitExceeded);
}

#[test]
fn files_that_are_no_models_say_what_they_look_like() {
    let cases: [(&[u8], &str); 7] = [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
        (b"PK\x03\x04\x14\0\0\0\x08\0", "a zip archive"),
        (b"{\"format\": \"graph-model\"}", "a JSON text"),
        (&[0xff; 64], "damaged"),
        (&[0x08, 0x08], "no ONNX graph"),
    ];
    for (bytes, expected) in cases {
        let error = error_of(bytes.to_vec());
        assert_eq!(error.code(), ErrorCode::InvalidModel);
        assert!(error.message().contains(expected), "{error} should say: {expected}");
    }
}

/// A small model with most kinds of message in it.
fn varied() -> Vec<u8> {
    model(|graph| {
        value(graph, 11, "x");
        value(graph, 12, "y");
        initializer(graph, "w", &[1.0, 2.0, 3.0]);
        node(graph, "Mul", &["x", "w"], &["t"]);
        node_in(graph, 1, "Conv", &["t", "w"], &["y"], &|node| {
            attribute(node, "pads", 7, |a| a.bytes_field(8, &[1, 1, 1, 1]));
            attribute(node, "auto_pad", 3, |a| a.bytes_field(4, b"NOTSET"));
        });
    })
}

#[test]
fn every_truncation_of_a_model_is_an_error() {
    let file = varied();
    graph_of(file.clone());
    for end in 0..file.len() {
        let error = error_of(file[..end].to_vec());
        assert_eq!(error.code(), ErrorCode::InvalidModel, "cut at {end}: {error}");
    }
}

#[test]
fn every_changed_byte_of_a_model_ends_in_a_graph_or_an_error() {
    let file = varied();
    for at in 0..file.len() {
        for flip in [0x01, 0x02, 0x08, 0x80, 0xff] {
            let mut changed = file.clone();
            changed[at] ^= flip;
            if let Ok(graph) = import(changed, &NoExternalData) {
                graph.verify().unwrap();
            }
        }
    }
}

#[test]
fn lengths_beyond_the_file_and_deep_nesting_are_errors() {
    let mut long = vec![0x08, 0x08, 0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f];
    long.extend([0; 20]);
    let error = error_of(long);
    assert_eq!(error.code(), ErrorCode::InvalidModel);
    assert!(error.message().contains("4294967295"), "{error}");

    // Graphs inside nodes inside graphs.
    let nest = |depth: usize| {
        let mut graph = bytes(|graph| value(graph, 12, "x"));
        for _ in 0..depth {
            graph = bytes(|outer| {
                node_in(outer, 1, "If", &[], &["o"], &|node| {
                    attribute(node, "g", 5, |a| a.bytes_field(6, &graph));
                });
                value(outer, 12, "x");
            });
        }
        model(|outer| {
            value(outer, 11, "x");
            value(outer, 12, "x");
            node_in(outer, 1, "If", &[], &["o"], &|node| {
                attribute(node, "g", 5, |a| a.bytes_field(6, &graph));
            });
        })
    };
    assert_eq!(graph_of(nest(20)).nodes.len(), 1);
    let error = error_of(nest(200));
    assert_eq!(error.code(), ErrorCode::InvalidModel);
    assert!(error.message().contains("nested too deeply"), "{error}");
}

#[test]
fn shapes_of_2_to_the_40_elements_are_errors() {
    for dtype in [1u64, 8, 16, 22] {
        let error = error_of(model(|graph| {
            graph.message_field(5, |tensor| {
                tensor.varint_field(1, 1 << 20);
                tensor.varint_field(1, 1 << 20);
                tensor.varint_field(2, dtype);
                text(tensor, 8, "huge");
            });
            value(graph, 12, "huge");
        }));
        // The shape alone is beyond what a 32-bit address space holds.
        let expected = if usize::BITS == 32 {
            ErrorCode::LimitExceeded
        } else {
            ErrorCode::InvalidTensor
        };
        assert_eq!(error.code(), expected, "{error}");
        assert_eq!(error.place().input.as_deref(), Some("huge"));
    }
    let sparse = error_of(model(|graph| {
        graph.message_field(15, |sparse| {
            sparse.bytes_field(1, &write_tensor("huge", &Tensor::zeros(DType::F32, &[0]).unwrap()));
            sparse.bytes_field(2, &write_tensor("", &Tensor::zeros(DType::I64, &[0]).unwrap()));
            sparse.varint_field(3, 1 << 40);
        });
    }));
    // A dimension beyond the address space is no valid one.
    let expected = if usize::BITS == 32 {
        ErrorCode::InvalidTensor
    } else {
        ErrorCode::LimitExceeded
    };
    assert_eq!(sparse.code(), expected);
}

#[test]
fn broken_graphs_are_errors_that_name_node_and_value() {
    let with = |fill: Fill<'_>| {
        error_of(model(|graph| {
            value(graph, 11, "x");
            value(graph, 12, "y");
            fill(graph);
        }))
    };
    let named = |node: &mut Writer| text(node, 3, "bad");
    let cases: [(Error, &str, Option<&str>, Option<&str>); 13] = [
        (
            with(&|graph| {
                node_in(graph, 1, "Add", &["x", "z"], &["y"], &named);
                node(graph, "Neg", &["y"], &["z"]);
            }),
            "cycle",
            Some("bad"),
            None,
        ),
        (
            with(&|graph| node_in(graph, 1, "Neg", &["q"], &["y"], &named)),
            "makes the value q",
            Some("bad"),
            Some("q"),
        ),
        (
            with(&|graph| {
                node(graph, "Neg", &["x"], &["y"]);
                node_in(graph, 1, "Abs", &["x"], &["y"], &named);
            }),
            "defined twice",
            Some("bad"),
            Some("y"),
        ),
        (
            with(&|graph| node_in(graph, 1, "Neg", &["x"], &["x"], &named)),
            "defined twice",
            Some("bad"),
            Some("x"),
        ),
        (with(&|_| {}), "nothing in the graph makes the value y", None, Some("y")),
        (with(&|graph| value(graph, 11, "x")), "defined twice", None, Some("x")),
        (with(&|graph| value(graph, 11, "")), "no name", None, None),
        (
            with(&|graph| {
                initializer(graph, "w", &[]);
                initializer(graph, "w", &[]);
            }),
            "defined twice",
            None,
            Some("w"),
        ),
        (
            with(&|graph| node_in(graph, 1, "", &["x"], &["y"], &named)),
            "no operator type",
            Some("bad"),
            None,
        ),
        (
            with(&|graph| {
                node_in(graph, 1, "Neg", &["x"], &["y"], &|node| {
                    named(node);
                    attribute(node, "a", 2, |_| {});
                    attribute(node, "a", 2, |_| {});
                })
            }),
            "attribute a is given twice",
            Some("bad"),
            None,
        ),
        (
            with(&|graph| {
                node_in(graph, 1, "Neg", &["x"], &["y"], &|node| {
                    named(node);
                    reference(node, "a", 2, "b");
                })
            }),
            "outside of a function",
            Some("bad"),
            None,
        ),
        (
            with(&|graph| {
                node_in(graph, 1, "Neg", &["x"], &["y"], &|node| {
                    named(node);
                    attribute(node, "a", 5, |_| {});
                })
            }),
            "attribute a has no value",
            Some("bad"),
            None,
        ),
        (
            with(&|graph| {
                node_in(graph, 1, "Constant", &[], &["y"], &|node| {
                    named(node);
                    attribute(node, "value_float", 2, |a| a.varint_field(3, 1));
                })
            }),
            "INT attribute value_float",
            Some("bad"),
            None,
        ),
    ];
    for (error, message, node, value) in &cases {
        assert_eq!(error.code(), ErrorCode::InvalidGraph, "{error}");
        assert!(error.message().contains(message), "{error} should say: {message}");
        assert_eq!(
            (error.place().node.as_deref(), error.place().input.as_deref()),
            (*node, *value),
            "{error}"
        );
    }
}

#[test]
fn inputs_of_unsupported_types_are_errors_and_such_outputs_are_left_to_inference() {
    let complex = |graph: &mut Writer, field, name: &str| {
        graph.message_field(field, |info| {
            text(info, 1, name);
            info.message_field(2, |ty| ty.message_field(1, |tensor| tensor.varint_field(1, 14)));
        })
    };
    let error = error_of(model(|graph| {
        complex(graph, 11, "x");
        value(graph, 12, "x");
    }));
    assert_eq!(error.code(), ErrorCode::UnsupportedOperator);
    assert_eq!(error.place().input.as_deref(), Some("x"));
    let graph = graph_of(model(|graph| {
        value(graph, 11, "x");
        complex(graph, 12, "y");
        node(graph, "Odd", &["x"], &["y"]);
    }));
    assert_eq!(graph.value(graph.outputs[0]).ty.dtype(), None);
}

#[test]
fn attributes_without_a_type_have_that_of_their_value() {
    let graph = graph_of(model(|graph| {
        value(graph, 11, "x");
        value(graph, 12, "y");
        node_in(graph, 1, "Odd", &["x"], &["y"], &|node| {
            node.message_field(5, |a| {
                text(a, 1, "axis");
                a.varint_field(3, -1i64 as u64);
            });
            // Written by something that leaves out zeros.
            attribute(node, "zero", 2, |_| {});
        });
    }));
    let attributes = &graph.nodes[0].attributes;
    assert_eq!(
        (attributes.int("axis").unwrap(), attributes.int("zero").unwrap()),
        (Some(-1), Some(0))
    );
}
