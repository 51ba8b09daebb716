//! Categories as numbers and back: LabelEncoder, CategoryMapper, OneHotEncoder.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        lower::{invalid, unsupported},
    },
    scores::{first, reserve},
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, ErrorCode, Result},
    graph::{Attributes, Node},
    tensor::{DType, Dim, Tensor, element_count},
};

/// Positions of keys in their list.
#[derive(Debug)]
enum Positions {
    Strings(HashMap<String, usize>),
    /// Integers and floats, by [`bits_of`] or as they are.
    Numbers(HashMap<u64, usize>),
}

/// What stands for a float in a table: all NaN are the same, and so are both zeros.
fn bits_of(value: f64) -> u64 {
    match value {
        _ if value.is_nan() => f64::NAN.to_bits(),
        _ => (value + 0.0).to_bits(),
    }
}

/// The elements of a numeric tensor as they stand in a table.
fn number_keys(tensor: &Tensor) -> Result<Vec<u64>> {
    if tensor.dtype().is_float() {
        return Ok(tensor.to_f64s()?.into_iter().map(bits_of).collect());
    }
    Ok(tensor.to_i64s()?.into_iter().map(|value| value as u64).collect())
}

impl Positions {
    /// The positions of keys; of equal ones, the last counts, or the first.
    fn of(keys: &Tensor, last: bool) -> Result<Positions> {
        fn fill<K: std::hash::Hash + Eq>(keys: impl Iterator<Item = K>, last: bool) -> HashMap<K, usize> {
            let mut map = HashMap::new();
            for (position, key) in keys.enumerate() {
                if last {
                    map.insert(key, position);
                } else {
                    map.entry(key).or_insert(position);
                }
            }
            map
        }
        Ok(match keys.strings() {
            Ok(strings) => Positions::Strings(fill(strings.iter().cloned(), last)),
            Err(_) => Positions::Numbers(fill(number_keys(keys)?.into_iter(), last)),
        })
    }

    /// The position of each element of `x`, where it is a key.
    fn find(&self, x: &Tensor) -> Result<Vec<Option<usize>>> {
        Ok(match self {
            Positions::Strings(map) => x.strings()?.iter().map(|key| map.get(key).copied()).collect(),
            Positions::Numbers(map) => number_keys(x)?.iter().map(|key| map.get(key).copied()).collect(),
        })
    }
}

/// Keys and what they become.
#[derive(Debug)]
struct Table {
    key_type: DType,
    positions: Positions,
    values: Tensor,
    /// One element, of the values' type.
    default: Tensor,
}

impl Table {
    fn new(keys: &Tensor, values: Tensor, default: Tensor, last: bool) -> Result<Table> {
        if keys.len() != values.len() || default.len() != 1 || default.dtype() != values.dtype() {
            return Err(invalid("keys, values and the default value do not fit each other")
                .actual(format!("{keys:?}, {values:?} and {default:?}")));
        }
        Ok(Table {
            key_type: keys.dtype(),
            positions: Positions::of(keys, last)?,
            values,
            default,
        })
    }

    fn look_up(&self, x: &Tensor) -> Result<Tensor> {
        let found = self.positions.find(x)?;
        if let (Ok(values), Ok([default])) = (self.values.strings(), self.default.strings()) {
            let values = found
                .into_iter()
                .map(|position| position.map_or(default, |at| &values[at]).clone());
            return Tensor::from_strings(x.shape(), values.collect());
        }
        let width = self.default.bytes().len();
        let mut bytes = reserve(&[found.len(), width])?;
        for position in found {
            bytes.extend_from_slice(match position {
                Some(at) => &self.values.bytes()[at * width..(at + 1) * width],
                None => self.default.bytes(),
            });
        }
        Tensor::from_bytes(self.values.dtype(), x.shape(), bytes)
    }
}

/// ONNX-ML `LabelEncoder` and `CategoryMapper`: every element becomes the value of its key in a table, or a default value. Where
/// there is a table for each direction, the input's type says which.
#[derive(Debug)]
struct Encoder {
    tables: Vec<Arc<Table>>,
}

fn strings(list: Vec<&str>) -> Result<Tensor> {
    Tensor::from_strings(&[list.len()], list.into_iter().map(str::to_string).collect())
}

fn one_string(text: &str) -> Result<Tensor> {
    Tensor::from_strings(&[], vec![text.to_string()])
}

/// Tables for both directions between integers and strings, with the defaults that the attributes name.
fn both_ways(attributes: &Attributes, ints: &[i64], texts: Vec<&str>) -> Result<Box<dyn Operator>> {
    let (ints, texts) = (Tensor::new(&[ints.len()], ints.to_vec())?, strings(texts)?);
    let default_int = Tensor::scalar(attributes.int("default_int64")?.unwrap_or(-1));
    let default_text = one_string(attributes.string("default_string")?.unwrap_or("_Unused"))?;
    let tables = vec![
        Arc::new(Table::new(&texts, ints.clone(), default_int, false)?),
        Arc::new(Table::new(&ints, texts, default_text, false)?),
    ];
    Ok(Box::new(Encoder { tables }))
}

/// Makes an [`Encoder`] of a `CategoryMapper`.
pub fn make_mapper(node: &Node) -> Result<Box<dyn Operator>> {
    let ints = node.attributes.ints("cats_int64s")?.unwrap_or_default();
    let texts = node.attributes.strings("cats_strings")?.unwrap_or_default();
    both_ways(&node.attributes, ints, texts)
}

/// Makes an [`Encoder`] of a `LabelEncoder`. Version 1 maps strings to their positions and back; version 2 any keys to any
/// values; version 4 keys and values of more types, and of equal keys the last counts.
pub fn make_encoder(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    if node.operator.version < 2 {
        let texts = attributes.strings("classes_strings")?.unwrap_or_default();
        let positions: Vec<i64> = (0..texts.len() as i64).collect();
        return both_ways(attributes, &positions, texts);
    }
    let (_, keys) = list(attributes, "keys")?;
    let (kind, values) = list(attributes, "values")?;
    let default = match attributes.tensor("default_tensor")? {
        Some(tensor) => tensor.reshaped(&[])?,
        None => match kind {
            "strings" => one_string(attributes.string("default_string")?.unwrap_or("_Unused"))?,
            "int64s" => Tensor::scalar(attributes.int("default_int64")?.unwrap_or(-1)),
            "floats" => Tensor::scalar(attributes.float("default_float")?.unwrap_or(-0.0)),
            _ if values.dtype() == DType::String => one_string("_Unused")?,
            _ => Tensor::from_f64s(
                values.dtype(),
                &[],
                &[if values.dtype().is_float() { -0.0 } else { -1.0 }],
            )?,
        },
    };
    if values.dtype().bits().is_some_and(|bits| bits < 8) {
        return Err(unsupported("LabelEncoder does not make values of this type").actual(values.dtype().name()));
    }
    let table = Table::new(&keys, values, default, node.operator.version >= 4)?;
    Ok(Box::new(Encoder {
        tables: vec![Arc::new(table)],
    }))
}

/// The one list among the attributes whose names begin with `what`, and how its name ends.
fn list(attributes: &Attributes, what: &str) -> Result<(&'static str, Tensor)> {
    let name = |kind: &str| format!("{what}_{kind}");
    let mut found = Vec::new();
    if let Some(list) = attributes.strings(&name("strings"))?.filter(|list| !list.is_empty()) {
        found.push(("strings", strings(list)?));
    }
    if let Some(list) = attributes.ints(&name("int64s"))?.filter(|list| !list.is_empty()) {
        found.push(("int64s", Tensor::new(&[list.len()], list.to_vec())?));
    }
    if let Some(list) = attributes.floats(&name("floats"))?.filter(|list| !list.is_empty()) {
        found.push(("floats", Tensor::new(&[list.len()], list.to_vec())?));
    }
    if let Some(tensor) = attributes.tensor(&name("tensor"))? {
        found.push(("tensor", tensor.clone()));
    }
    let count = found.len();
    let only = found.pop().filter(|_| count == 1);
    only.ok_or_else(|| {
        invalid(format!("not exactly one attribute {what}_* is given"))
            .expected("1")
            .actual(count.to_string())
    })
}

impl Encoder {
    fn table(&self, dtype: DType) -> Result<&Arc<Table>> {
        let found = self.tables.iter().find(|table| table.key_type == dtype);
        found.ok_or_else(|| {
            let types: Vec<&str> = self.tables.iter().map(|table| table.key_type.name()).collect();
            Error::new(ErrorCode::WrongType, "the input is of another type than the keys")
                .expected(types.join(" or "))
                .actual(dtype.name())
        })
    }
}

impl Operator for Encoder {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = self.table(ctx.dtype(0)?)?.values.dtype();
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let table = self.table(ctx.input(0)?.dtype)?.clone();
        Ok(CpuKernel::dynamic("label_encoder", move |inputs| {
            Ok(vec![table.look_up(first(inputs)?)?])
        }))
    }
}

/// ONNX-ML `OneHotEncoder`: for each element a row of zeros with a 1 where its category stands, f32, with the categories as a new
/// last dimension. Numbers are truncated to integers. Elements of no category are rows of zeros, or an error.
#[derive(Debug)]
struct OneHotEncoder {
    positions: Arc<Positions>,
    count: usize,
    zeros: bool,
}

/// Makes [`OneHotEncoder`].
pub fn make_one_hot(node: &Node) -> Result<Box<dyn Operator>> {
    let categories = list(&node.attributes, "cats")?.1;
    Ok(Box::new(OneHotEncoder {
        positions: Arc::new(Positions::of(&categories, false)?),
        count: categories.len(),
        zeros: node.attributes.flag("zeros", true)?,
    }))
}

impl Operator for OneHotEncoder {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        if matches!(*self.positions, Positions::Strings(_)) != (dtype == DType::String) {
            return Err(
                Error::new(ErrorCode::WrongType, "the input is of another type than the categories")
                    .actual(dtype.name()),
            );
        }
        let shape = ctx
            .shape(0)
            .map(|shape| shape.iter().cloned().chain([Dim::from(self.count)]).collect());
        ctx.set_output(0, DType::F32, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (positions, count, zeros) = (self.positions.clone(), self.count, self.zeros);
        Ok(CpuKernel::dynamic("one_hot_encoder", move |inputs| {
            let x = first(inputs)?;
            let found = if x.dtype().is_float() {
                positions.find(&Tensor::from_f64s(DType::I64, x.shape(), &x.to_f64s()?)?)?
            } else {
                positions.find(x)?
            };
            let shape: Vec<usize> = x.shape().iter().copied().chain([count]).collect();
            let mut values: Vec<f32> = reserve(&shape)?;
            values.resize(element_count(&shape)?, 0.0);
            for (index, position) in found.into_iter().enumerate() {
                match position {
                    Some(position) => values[index * count + position] = 1.0,
                    None if zeros => {}
                    None => {
                        return Err(Error::new(ErrorCode::RunFailed, "an element is none of the categories")
                            .actual(format!("element {index}")));
                    }
                }
            }
            Ok(vec![Tensor::new(&shape, values)?])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::OperatorId,
        ops::testing::{TestNode, f32s, i64s, tensor},
    };

    fn node(name: &str, version: i64) -> TestNode {
        TestNode::of(OperatorId::new("ai.onnx.ml", name, version))
    }

    #[test]
    fn equal_keys_and_nan_are_looked_up_as_the_versions_say() {
        let twice = |version: i64| {
            let node = node("LabelEncoder", version).attr("keys_floats", [1.0f32, f32::NAN, 1.0]);
            node.attr("values_int64s", [5i64, 6, 7])
                .input(f32s(&[3], &[1.0, -f32::NAN, 2.0]))
                .run1()
                .unwrap()
        };
        assert_eq!(twice(2), i64s(&[3], &[5, 6, -1]));
        assert_eq!(twice(4), i64s(&[3], &[7, 6, -1]));
        let tensors = node("LabelEncoder", 4).attr("keys_tensor", tensor(&[2], &[1i16, 2]));
        let tensors = tensors
            .attr("values_tensor", tensor(&[2], &[0.5f64, 1.5]))
            .input(tensor(&[2, 1], &[2i16, 9]));
        assert_eq!(tensors.run1().unwrap(), tensor(&[2, 1], &[1.5f64, -0.0]));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let encoder = || {
            node("LabelEncoder", 2)
                .attr("keys_int64s", [1i64, 2])
                .attr("values_int64s", [3i64, 4])
        };
        assert!(encoder().input(i64s(&[0], &[])).run().is_ok());
        assert!(
            encoder()
                .attr("values_int64s", [3i64])
                .input(i64s(&[1], &[1]))
                .run()
                .is_err()
        );
        assert!(
            encoder()
                .attr("keys_floats", [1.0f32, 2.0])
                .input(i64s(&[1], &[1]))
                .run()
                .is_err()
        );
        assert_eq!(
            encoder().input(f32s(&[1], &[1.0])).run().unwrap_err().code(),
            ErrorCode::WrongType
        );
        let strict = node("OneHotEncoder", 1).attr("cats_int64s", [1i64, 2]).attr("zeros", 0);
        assert_eq!(
            strict.clone().input(i64s(&[1], &[2])).run1().unwrap(),
            f32s(&[1, 2], &[0.0, 1.0])
        );
        assert_eq!(
            strict.input(i64s(&[1], &[3])).run().unwrap_err().code(),
            ErrorCode::RunFailed
        );
    }
}
