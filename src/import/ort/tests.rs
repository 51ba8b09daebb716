use super::*;
use crate::graph::Attribute;
use crate::tensor::Tensor;

const MLP: &[u8] = include_bytes!("../../../tests/data/ort/mlp_unoptimized/model.ort");
const CONTROL_FLOW: &[u8] = include_bytes!("../../../tests/data/ort/control_flow/model.ort");
const SPARSE: &[u8] = include_bytes!("../../../tests/data/ort/sparse/model.ort");
const TEXTS: &[u8] = include_bytes!("../../../tests/data/ort/texts/model.ort");
const TREES: &[u8] = include_bytes!("../../../tests/data/ort/trees/model.ort");

fn constant<'g>(graph: &'g Graph, name: &str) -> &'g Tensor {
    let value = graph.values.iter().find(|value| value.name == name);
    value
        .and_then(|value| value.constant.as_ref())
        .expect("the value is a constant")
}

#[test]
fn a_model_becomes_the_graph_of_its_onnx_file() {
    let file = Bytes::from(MLP);
    let graph = import(file.clone()).unwrap();
    let nodes: Vec<String> = graph.nodes.iter().map(|node| node.operator.to_string()).collect();
    assert_eq!(nodes, ["Gemm", "Relu", "MatMul", "Add", "Softmax"]);
    let versions: Vec<i64> = graph.nodes.iter().map(|node| node.operator.version).collect();
    assert_eq!(versions, [13, 14, 13, 14, 13]);
    assert!(matches!(
        graph.nodes[0].attributes.get("transB"),
        Some(Attribute::Int(1))
    ));
    let types = |ids: &[crate::graph::ValueId]| -> Vec<String> {
        let text = |id: &crate::graph::ValueId| format!("{}: {}", graph.value(*id).name, graph.value(*id).ty);
        ids.iter().map(text).collect()
    };
    assert_eq!(types(&graph.inputs), ["x: float32[batch, 5]"]);
    assert_eq!(types(&graph.outputs), ["y: float32[batch, 3]"]);
    assert_eq!(
        graph.metadata.get("made_for").map(String::as_str),
        Some("mlp_unoptimized")
    );
    let weights = constant(&graph, "w1");
    assert_eq!(weights.shape(), [7, 5]);
    assert!(file.slice_of(weights.bytes()).is_some(), "weights are borrowed");
}

#[test]
fn subgraphs_sparse_initialisers_texts_and_lists_are_read() {
    let graph = import(CONTROL_FLOW).unwrap();
    let Some(Attribute::Graph(body)) = graph.nodes[0].attributes.get("body") else {
        panic!("a Loop has a body");
    };
    let branches = body
        .graph
        .nodes
        .iter()
        .find(|node| &*node.operator.name == "If")
        .unwrap();
    assert_eq!(branches.attributes.iter().count(), 2);
    assert_eq!(
        &*constant(&import(SPARSE).unwrap(), "weights").to_f32s().unwrap(),
        &[0.0, 5.0, 0.0, 0.0, -1.0, 0.0]
    );
    assert_eq!(
        constant(&import(TEXTS).unwrap(), "words").strings().unwrap(),
        ["käse", "", "b"]
    );
    let graph = import(TREES).unwrap();
    let trees = &graph.nodes[0];
    assert_eq!(trees.operator.to_string(), "ai.onnx.ml.TreeEnsembleClassifier");
    let attribute = |name| trees.attributes.get(name);
    assert!(matches!(attribute("class_ids"), Some(Attribute::Ints(ids)) if ids == &[0, 1, 2, 0]));
    assert!(matches!(attribute("class_weights"), Some(Attribute::Floats(weights)) if weights == &[0.7, 0.4, 0.9, 0.3]));
    assert!(matches!(attribute("post_transform"), Some(Attribute::String(text)) if text == b"SOFTMAX"));
    let maps = graph.value(graph.outputs[1]);
    assert_eq!(maps.ty.to_string(), "sequence(map(int64, float32[]))");
}

#[test]
fn every_truncation_is_an_error_or_the_same_model() {
    for file in [MLP, CONTROL_FLOW, SPARSE] {
        let whole = import(file).unwrap().to_string();
        for end in 0..file.len() {
            // The last bytes may be padding.
            if let Ok(graph) = import(&file[..end]) {
                assert_eq!(graph.to_string(), whole, "cut at {end}");
            }
        }
        assert!(import(&file[..file.len() * 3 / 4]).is_err());
    }
}

#[test]
fn every_changed_byte_ends_in_a_graph_or_an_error() {
    for file in [CONTROL_FLOW, SPARSE, TEXTS, TREES] {
        let mut changed = file.to_vec();
        for at in 0..file.len() {
            for flip in [0xff, 0x04] {
                changed[at] ^= flip;
                if let Ok(graph) = import(changed.as_slice()) {
                    graph.verify().unwrap();
                }
                changed[at] ^= flip;
            }
        }
    }
}

fn word(file: &mut Vec<u8>, value: u32) {
    file.extend(value.to_le_bytes());
}

/// Writes a vtable: the fields with these numbers stand one after the other in the table, in four bytes each.
fn vtable(file: &mut Vec<u8>, numbers: &[usize]) -> usize {
    let start = file.len();
    let fields = numbers.iter().max().map_or(0, |last| last + 1);
    file.extend((4 + 2 * fields as u16).to_le_bytes());
    file.extend((4 + 4 * numbers.len() as u16).to_le_bytes());
    for number in 0..fields {
        let place = numbers.iter().position(|&found| found == number);
        file.extend(place.map_or(0, |place| 4 + 4 * place as u16).to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(4), 0);
    start
}

/// Begins a table, whose fields follow.
fn table(file: &mut Vec<u8>, vtable: usize) {
    word(file, (file.len() - vtable) as u32);
}

#[test]
fn offsets_that_lead_outside_are_errors() {
    for offset in [4, 5, 1000, u32::MAX - 20, u32::MAX] {
        let mut file = b"\0\0\0\0ORTM".to_vec();
        let session = vtable(&mut file, &[1]);
        let root = file.len() as u32;
        file[..4].copy_from_slice(&root.to_le_bytes());
        table(&mut file, session);
        word(&mut file, offset);
        let error = import(file.as_slice()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidModel);
        assert!(error.message().contains("damaged"), "{error}");
    }
    let error = import(b"\x08\0\0\0ORTM\0\0\0\x80".as_slice()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidModel);
}

#[test]
fn many_references_to_one_table_are_stopped() {
    // Each graph lists one node many times, whose attribute is the next graph.
    const NODES: u32 = 2000;
    let mut file = b"\0\0\0\0ORTM".to_vec();
    let session = vtable(&mut file, &[1]);
    let model = vtable(&mut file, &[7]);
    let graph = vtable(&mut file, &[2]);
    let node = vtable(&mut file, &[10]);
    let attribute = vtable(&mut file, &[2, 7]);
    let root = file.len() as u32;
    file[..4].copy_from_slice(&root.to_le_bytes());
    table(&mut file, session);
    word(&mut file, 4);
    table(&mut file, model);
    word(&mut file, 4);
    for _ in 0..20 {
        table(&mut file, graph);
        word(&mut file, 4);
        word(&mut file, NODES);
        (0..NODES).for_each(|index| word(&mut file, 4 * (NODES - index)));
        table(&mut file, node);
        word(&mut file, 4);
        word(&mut file, 1);
        word(&mut file, 4);
        table(&mut file, attribute);
        word(&mut file, attribute_type::GRAPH as u32);
        word(&mut file, 4);
    }
    table(&mut file, graph);
    word(&mut file, 4);
    word(&mut file, 0);
    let error = import(file.as_slice()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::LimitExceeded, "{error}");
}

#[test]
fn other_files_are_not_taken_for_ort() {
    assert!(is_ort(MLP) && !is_ort(b"ORTM") && !is_ort(&[8; 16]));
    let graph = crate::import::import(MLP, &NoExternalData).unwrap();
    assert_eq!(graph.nodes.len(), 5);
}
