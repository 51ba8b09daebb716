//! Models of one node, drawn from bytes.

use std::sync::{Mutex, OnceLock};

use arbitrary::{Result, Unstructured};
use modelet::{
    DType, Device, ErrorCode, Limits, Model, Session, SessionOptions, Tensor,
    graph::{Attribute, GraphBuilder, OperatorId},
    optimize::Level,
    tensor::Dim,
};

/// The last model that was drawn, as text.
pub static LAST: Mutex<String> = Mutex::new(String::new());

/// A line of operators.tsv.
struct Line {
    domain: &'static str,
    name: &'static str,
    versions: Vec<i64>,
    /// Names and the letter of their kind.
    attributes: Vec<(&'static str, char)>,
}

fn lines() -> &'static [Line] {
    static LINES: OnceLock<Vec<Line>> = OnceLock::new();
    LINES.get_or_init(|| {
        let line = |text: &'static str| {
            let parts: Vec<&str> = text.split('\t').collect();
            let attribute = |pair: &'static str| pair.split_once(':').map(|(name, kind)| (name, kind.chars().next()));
            Line {
                domain: parts[0],
                name: parts[1],
                versions: parts[2].split(',').map(|number| number.parse().expect("a version")).collect(),
                attributes: parts[3]
                    .split(' ')
                    .filter_map(attribute)
                    .map(|(name, kind)| (name, kind.expect("a kind")))
                    .collect(),
            }
        };
        include_str!("../operators.tsv").lines().map(line).collect()
    })
}

const TEXTS: &[&str] = &[
    "", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "constant", "reflect", "edge", "wrap", "linear", "nearest",
    "cubic", "bilinear", "bicubic", "align_corners", "asymmetric", "half_pixel", "pytorch_half_pixel",
    "tf_crop_and_resize", "floor", "ceil", "round_prefer_ceil", "zeros", "border", "reflection", "avg", "max", "sum",
    "mean", "none", "add", "mul", "min", "forward", "reverse", "bidirectional", "Sigmoid", "Tanh", "Relu", "Affine",
    "ij,jk->ik", "...ij,...jk->...ik", "ii->i", "i,j", "bij,bjk", "LINEAR", "POLY", "RBF", "SIGMOID", "SUM", "AVERAGE",
    "MIN", "MAX", "NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT", "L1", "L2", "BRANCH_LEQ", "BRANCH_LT",
    "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "LEAF", "LOWER", "UPPER", "DCR", "CRD", "TF", "IDF", "TFIDF",
    "a.*", "[a-c]+(x|y)?", "up", "down", "RGB", "BGR", "Grayscale", "tanh", "silu", "gelu", "DENSE", "SPARSE",
    "TO_FLOAT", "TO_STRING", "TO_INT64", "en_US",
];

fn int(u: &mut Unstructured<'_>) -> Result<i64> {
    const EDGES: [i64; 14] = [
        0, 1, 2, 3, -1, -2, 4, 8, 16, 32, 255, i64::MAX, i64::MIN, 1 << 40,
    ];
    Ok(match u.int_in_range(0..=9u8)? {
        0..=7 => EDGES[u.int_in_range(0..=9usize)?],
        8 => EDGES[u.choose_index(EDGES.len())?],
        _ => u.arbitrary::<i8>()?.into(),
    })
}

fn float(u: &mut Unstructured<'_>) -> Result<f32> {
    const EDGES: [f32; 12] = [
        0.0, 1.0, -1.0, 0.5, 2.0, 1e-5, 100.0, -3.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38,
    ];
    Ok(*u.choose(&EDGES)?)
}

fn text(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(match u.ratio(1, 12)? {
        true => u.bytes(4)?.to_vec(),
        false => u.choose(TEXTS)?.as_bytes().to_vec(),
    })
}

fn list<T>(u: &mut Unstructured<'_>, one: impl Fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=6u8)?).map(|_| one(u)).collect()
}

fn tensor(u: &mut Unstructured<'_>, usual: Option<DType>) -> Result<Tensor> {
    const SIZES: [usize; 10] = [1, 2, 3, 4, 0, 5, 6, 7, 8, 16];
    const COMMON: [DType; 6] = [DType::F32, DType::I64, DType::F32, DType::U8, DType::F16, DType::I32];
    let dtype = match (usual, u.int_in_range(0..=9u8)?) {
        (Some(dtype), 0..=6) => dtype,
        (_, 7) => *u.choose(&DType::ALL)?,
        _ => *u.choose(&COMMON)?,
    };
    let rank = u.int_in_range(0..=4usize)?;
    let shape: Vec<usize> = (0..rank).map(|_| Ok(*u.choose(&SIZES)?)).collect::<Result<_>>()?;
    let count: usize = shape.iter().product();
    let made = if dtype == DType::String {
        let strings = (0..count).map(|_| Ok(String::from_utf8_lossy(&text(u)?).into_owned()));
        Tensor::from_strings(&shape, strings.collect::<Result<_>>()?)
    } else if dtype.is_float() && u.ratio(1, 4)? {
        let values = (0..count).map(|_| Ok(float(u)?.into())).collect::<Result<Vec<f64>>>()?;
        Tensor::from_f64s(dtype, &shape, &values)
    } else if dtype.is_integer() && u.ratio(1, 4)? {
        let values = (0..count).map(|_| int(u)).collect::<Result<Vec<i64>>>()?;
        Tensor::from_i64s(dtype, &shape, &values)
    } else {
        let (start, step): (i8, i8) = (u.int_in_range(-4..=4)?, u.int_in_range(-2..=3)?);
        let values: Vec<f64> = (0..count).map(|i| f64::from(start) + f64::from(step) * (i % 7) as f64).collect();
        Tensor::from_f64s(dtype, &shape, &values)
    };
    Ok(made.expect("a small tensor"))
}

fn attribute(u: &mut Unstructured<'_>, kind: char) -> Result<Attribute> {
    Ok(match kind {
        'f' => Attribute::Float(float(u)?),
        'i' => Attribute::Int(int(u)?),
        's' => Attribute::String(text(u)?),
        't' => Attribute::Tensor(tensor(u, None)?),
        'F' => Attribute::Floats(list(u, float)?),
        'I' => Attribute::Ints(list(u, int)?),
        _ => Attribute::Strings(list(u, text)?),
    })
}

/// Draws a model and runs it. The inner error is a finding: an error that says it is a defect of ours.
pub fn run(u: &mut Unstructured<'_>) -> Result<std::result::Result<(), String>> {
    let line = &lines()[u.choose_index(lines().len())?];
    let version = *u.choose(&line.versions)?;
    let mut attributes = Vec::new();
    for &(name, kind) in &line.attributes {
        if u.ratio(3, 5)? {
            let kind = if u.ratio(1, 40)? { *u.choose(&['f', 'i', 's', 't', 'F', 'I', 'S'])? } else { kind };
            attributes.push((name, attribute(u, kind)?));
        }
    }
    let usual = tensor(u, None)?.dtype();
    let mut b = GraphBuilder::new(version);
    let mut feeds = Vec::new();
    let mut inputs = Vec::new();
    for index in 0..u.int_in_range(0..=8usize)? {
        let value = tensor(u, Some(usual))?;
        let name = format!("input{index}");
        inputs.push(match u.int_in_range(0..=9u8)? {
            0 => None,
            1..=4 => Some(b.constant(&name, value)),
            5..=7 => {
                let shape = value.shape().iter().map(|&dim| Dim::from(dim)).collect();
                let id = b.input(&name, value.dtype(), shape);
                feeds.push((name, value));
                Some(id)
            }
            _ => {
                let dims = value.shape().iter().enumerate();
                let shape = dims.map(|(axis, _)| Dim::symbol(format!("{name}.{axis}"))).collect();
                let id = b.input(&name, value.dtype(), shape);
                feeds.push((name, value));
                Some(id)
            }
        });
    }
    let outputs = u.int_in_range(1..=4usize)?;
    let operator = OperatorId::new(line.domain, line.name, version);
    for (index, output) in b.node_of(operator, &inputs, &attributes, outputs).into_iter().enumerate() {
        b.output(&format!("output{index}"), output);
    }
    let Ok(graph) = b.finish() else { return Ok(Ok(())) };
    let text = graph.to_string();
    LAST.lock().expect("the last model").clone_from(&text);
    let level = *u.choose(&[Level::All, Level::None])?;
    let result = pollster::block_on(async {
        let options = SessionOptions {
            device: Device::Cpu,
            optimization: level,
            limits: Limits {
                memory_bytes: Some(64 << 20),
                run_millis: Some(2000.0),
                loop_iterations: Some(100),
            },
            ..SessionOptions::default()
        };
        let mut session = Session::new(Model::from_graph(graph)?, options).await?;
        session.run(feeds).await
    });
    Ok(match result {
        Err(error) if error.code() == ErrorCode::Internal => Err(format!("{error}\n{text}")),
        _ => Ok(()),
    })
}
