//! Maps from labels to numbers: ZipMap makes them, CastMap and DictVectorizer make tensors of them.

use std::collections::HashMap;

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        lower::{invalid, mismatch},
    },
    scores::{Labels, infer_rows, reserve, rows_of},
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, ErrorCode, Result},
    graph::{Node, TensorType, ValueType},
    tensor::{DType, Dim, Map, Tensor, Value},
};

/// Elements that a map is spread over at most.
const MAX_SPREAD: usize = 1 << 28;

fn only_on_values() -> Result<CpuKernel> {
    Err(Error::internal("the operator works on whole values and has no kernel"))
}

fn input(inputs: &[Option<Value>]) -> Result<&Value> {
    let first = inputs.first().and_then(Option::as_ref);
    first.ok_or_else(|| invalid("required input 0 is missing"))
}

/// The element type of the values of the first input, a map, when it is known.
fn map_values(ctx: &InferContext<'_>) -> Option<DType> {
    match ctx.container(0)? {
        ValueType::Map(_, values) => values.dtype(),
        _ => None,
    }
}

/// ONNX-ML `ZipMap`: each row of `[n, classes]`, or the one row of `[classes]`, as a map from the classes' labels to its numbers;
/// a sequence of maps.
#[derive(Debug)]
struct ZipMap {
    labels: Labels,
}

/// Makes [`ZipMap`].
pub fn make_zip(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(ZipMap {
        labels: Labels::of(&node.attributes, "classlabels_int64s", "classlabels_strings")?,
    }))
}

impl Operator for ZipMap {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        infer_rows(ctx)?;
        let values = ValueType::Tensor(TensorType {
            dtype: Some(dtype),
            shape: Some(Vec::new()),
        });
        let map = ValueType::Map(self.labels.dtype(), Box::new(values));
        ctx.set_container(0, ValueType::Sequence(Box::new(map)));
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        only_on_values()
    }

    fn works_on_values(&self) -> bool {
        true
    }

    fn on_values(&self, inputs: &[Option<Value>]) -> Result<Vec<Value>> {
        let x = input(inputs)?.tensor()?;
        let (rows, columns) = rows_of(x.shape())?;
        if columns != self.labels.len() {
            return Err(mismatch("the columns are not one for each label")
                .expected(self.labels.len().to_string())
                .actual(columns.to_string()));
        }
        let Some(bits @ 8..) = x.dtype().bits() else {
            return Err(Error::new(ErrorCode::WrongType, "the input is not of numbers").actual(x.dtype().name()));
        };
        let (keys, width) = (self.labels.all()?, columns * bits / 8);
        let row = |row: usize| {
            let bytes = x.bytes()[row * width..(row + 1) * width].to_vec();
            let values = Tensor::from_bytes(x.dtype(), &[columns], bytes)?;
            Ok(Value::Map(Map::new(keys.clone(), values)?))
        };
        Ok(vec![Value::Sequence((0..rows).map(row).collect::<Result<_>>()?)])
    }
}

/// ONNX-ML `CastMap`: the values of a map from integers, in the order of their keys (dense) or at the positions that the keys are
/// (sparse), as `[1, n]` f32s, integers or strings. Sparse keys of `max_map` and above are left out.
#[derive(Debug)]
struct CastMap {
    dtype: DType,
    /// The length of the output when it is sparse.
    length: Option<usize>,
}

/// Makes [`CastMap`].
pub fn make_cast(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let dtype = match attributes.string("cast_to")?.unwrap_or("TO_FLOAT") {
        "TO_FLOAT" => DType::F32,
        "TO_INT64" => DType::I64,
        "TO_STRING" => DType::String,
        other => return Err(invalid("attribute cast_to names no type").actual(other)),
    };
    let length = match attributes.string("map_form")?.unwrap_or("DENSE") {
        "DENSE" => None,
        "SPARSE" => {
            let length = attributes.int("max_map")?.unwrap_or(1);
            let fits = usize::try_from(length).ok().filter(|&length| length <= MAX_SPREAD);
            Some(fits.ok_or_else(|| {
                Error::new(
                    ErrorCode::LimitExceeded,
                    "attribute max_map is outside what is supported",
                )
                .expected(format!("0 to {MAX_SPREAD}"))
                .actual(length.to_string())
            })?)
        }
        other => return Err(invalid("attribute map_form is neither \"DENSE\" nor \"SPARSE\"").actual(other)),
    };
    Ok(Box::new(CastMap { dtype, length }))
}

impl Operator for CastMap {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let length = match self.length {
            Some(length) => Dim::from(length),
            None => ctx.fresh_dim(),
        };
        ctx.set_output(0, self.dtype, Some(vec![Dim::from(1), length]));
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        only_on_values()
    }

    fn works_on_values(&self) -> bool {
        true
    }

    fn on_values(&self, inputs: &[Option<Value>]) -> Result<Vec<Value>> {
        let map = input(inputs)?.map()?;
        let keys = map.keys().to_i64s()?;
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by_key(|&index| keys[index]);
        let length = self.length.unwrap_or(keys.len());
        // Where each value comes from, place by place.
        let mut sources: Vec<Option<usize>> = reserve(&[length])?;
        match self.length {
            None => sources.extend(order.into_iter().map(Some)),
            Some(length) => {
                sources.resize(length, None);
                for index in order {
                    let key = usize::try_from(keys[index]).map_err(|_| {
                        Error::new(ErrorCode::RunFailed, "a key of a sparse map is negative")
                            .actual(keys[index].to_string())
                    })?;
                    if let Some(place) = sources.get_mut(key) {
                        *place = Some(index);
                    }
                }
            }
        }
        let (shape, values) = ([1, length], map.values());
        let tensor = match (self.dtype, values.strings()) {
            (DType::String, Ok(texts)) => {
                let texts = sources
                    .into_iter()
                    .map(|source| source.map_or_else(String::new, |at| texts[at].clone()));
                Tensor::from_strings(&shape, texts.collect())?
            }
            (DType::String, Err(_)) => {
                let numbers = values.to_f64s()?;
                let text = |source: Option<usize>| source.map_or_else(String::new, |at| format!("{:.6}", numbers[at]));
                Tensor::from_strings(&shape, sources.into_iter().map(text).collect())?
            }
            (dtype, texts) => {
                let numbers = match texts {
                    Ok(texts) => texts.iter().map(|text| parse(text)).collect::<Result<Vec<_>>>()?,
                    Err(_) => values.to_f64s()?,
                };
                let numbers: Vec<f64> = sources
                    .into_iter()
                    .map(|source| source.map_or(0.0, |at| numbers[at]))
                    .collect();
                Tensor::from_f64s(dtype, &shape, &numbers)?
            }
        };
        Ok(vec![tensor.into()])
    }
}

fn parse(text: &str) -> Result<f64> {
    let number = text.trim().parse();
    number.map_err(|_| Error::new(ErrorCode::RunFailed, "a map's value is text that is no number").actual(text))
}

/// ONNX-ML `DictVectorizer`: `[1, n]` values of a map, each where its key stands in the vocabulary, with zeros or empty strings for
/// keys that the map lacks. Keys outside the vocabulary are left out.
#[derive(Debug)]
struct DictVectorizer {
    vocabulary: Labels,
}

/// Makes [`DictVectorizer`].
pub fn make_vectorizer(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(DictVectorizer {
        vocabulary: Labels::of(&node.attributes, "int64_vocabulary", "string_vocabulary")?,
    }))
}

impl Operator for DictVectorizer {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let length = Dim::from(self.vocabulary.len());
        let dtype = map_values(ctx);
        if let Some(output) = ctx.outputs.first_mut() {
            output.dtype = dtype;
            output.shape = Some(vec![Dim::from(1), length]);
        }
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        only_on_values()
    }

    fn works_on_values(&self) -> bool {
        true
    }

    fn on_values(&self, inputs: &[Option<Value>]) -> Result<Vec<Value>> {
        let map = input(inputs)?.map()?;
        let places: Vec<Option<usize>> = match &self.vocabulary {
            Labels::Strings(list) => {
                let places: HashMap<&str, usize> = list.iter().map(String::as_str).zip(0..).collect();
                map.keys()
                    .strings()?
                    .iter()
                    .map(|key| places.get(key.as_str()).copied())
                    .collect()
            }
            Labels::Ints(list) => {
                let places: HashMap<i64, usize> = list.iter().copied().zip(0..).collect();
                map.keys()
                    .to_i64s()?
                    .iter()
                    .map(|key| places.get(key).copied())
                    .collect()
            }
        };
        let (shape, values) = ([1, self.vocabulary.len()], map.values());
        let pairs = places
            .into_iter()
            .enumerate()
            .filter_map(|(from, to)| Some((from, to?)));
        let tensor = if let Ok(texts) = values.strings() {
            let mut made = vec![String::new(); shape[1]];
            pairs.for_each(|(from, to)| made[to].clone_from(&texts[from]));
            Tensor::from_strings(&shape, made)?
        } else if values.dtype().is_float() {
            let (numbers, mut made) = (values.to_f64s()?, vec![0.0; shape[1]]);
            pairs.for_each(|(from, to)| made[to] = numbers[from]);
            Tensor::from_f64s(values.dtype(), &shape, &made)?
        } else {
            let (numbers, mut made) = (values.to_i64s()?, vec![0; shape[1]]);
            pairs.for_each(|(from, to)| made[to] = numbers[from]);
            Tensor::from_i64s(values.dtype(), &shape, &made)?
        };
        Ok(vec![tensor.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::{Attribute, OperatorId, ValueId},
        ops::{
            registry,
            testing::{IntoAttribute, f32s, i64s},
        },
    };

    fn run(name: &str, attributes: &[(&str, Attribute)], input: Value) -> Result<Value> {
        let mut node = Node::new(
            OperatorId::new("ai.onnx.ml", name, 1),
            vec![Some(ValueId(0))],
            Vec::new(),
        );
        for (name, attribute) in attributes {
            node.attributes.set(*name, attribute.clone());
        }
        Ok(registry::operator(&node)?.on_values(&[Some(input)])?.swap_remove(0))
    }

    fn strings(shape: &[usize], texts: &[&str]) -> Tensor {
        Tensor::from_strings(shape, texts.iter().map(|text| text.to_string()).collect()).unwrap()
    }

    fn map(keys: Tensor, values: Tensor) -> Value {
        Value::Map(Map::new(keys, values).unwrap())
    }

    #[test]
    fn rows_become_maps() {
        let labels = [("classlabels_strings", ["a", "b"].into_attribute())];
        let maps = run("ZipMap", &labels, f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]).into()).unwrap();
        let keys = || strings(&[2], &["a", "b"]);
        let expected = [
            map(keys(), f32s(&[2], &[1.0, 2.0])),
            map(keys(), f32s(&[2], &[3.0, 4.0])),
        ];
        assert_eq!(maps.sequence().unwrap(), expected);
        let one = run("ZipMap", &labels, f32s(&[2], &[1.0, 2.0]).into()).unwrap();
        assert_eq!(one.sequence().unwrap(), &expected[..1]);
        assert!(run("ZipMap", &labels, f32s(&[1, 3], &[0.0; 3]).into()).is_err());
        assert!(run("ZipMap", &[], f32s(&[1, 3], &[0.0; 3]).into()).is_err());
    }

    #[test]
    fn maps_become_tensors_in_the_order_or_at_the_places_of_their_keys() {
        let numbers = || map(i64s(&[3], &[3, 1, 9]), f32s(&[3], &[1.5, 2.25, -3.0]));
        let cast = |form: &str, to: &str, input: Value| {
            let form = ("map_form", form.into_attribute());
            let attributes = [
                form,
                ("cast_to", to.into_attribute()),
                ("max_map", 5i64.into_attribute()),
            ];
            run("CastMap", &attributes, input).map(|value| value.tensor().unwrap().clone())
        };
        assert_eq!(
            cast("DENSE", "TO_FLOAT", numbers()).unwrap(),
            f32s(&[1, 3], &[2.25, 1.5, -3.0])
        );
        assert_eq!(
            cast("SPARSE", "TO_INT64", numbers()).unwrap(),
            i64s(&[1, 5], &[0, 2, 0, 1, 0])
        );
        let texts = cast("DENSE", "TO_STRING", numbers()).unwrap();
        assert_eq!(texts, strings(&[1, 3], &["2.250000", "1.500000", "-3.000000"]));
        let texts = || map(i64s(&[2], &[2, 0]), strings(&[2], &["7", "0.5"]));
        assert_eq!(
            cast("SPARSE", "TO_FLOAT", texts()).unwrap(),
            f32s(&[1, 5], &[0.5, 0.0, 7.0, 0.0, 0.0])
        );
        let negative = map(i64s(&[1], &[-1]), f32s(&[1], &[1.0]));
        assert!(cast("SPARSE", "TO_FLOAT", negative).is_err());
        assert!(cast("DENSE", "TO_FLOAT", map(i64s(&[1], &[0]), strings(&[1], &["x"]))).is_err());
    }

    #[test]
    fn a_dictionary_is_spread_over_its_vocabulary() {
        let words = [("string_vocabulary", ["a", "c", "b", "z"].into_attribute())];
        let input = map(strings(&[3], &["c", "a", "unknown"]), i64s(&[3], &[8, 4, 1]));
        let made = run("DictVectorizer", &words, input).unwrap();
        assert_eq!(made, i64s(&[1, 4], &[4, 8, 0, 0]).into());
        let numbers = [("int64_vocabulary", [5i64, 6].into_attribute())];
        let input = map(i64s(&[1], &[6]), strings(&[1], &["six"]));
        assert_eq!(
            run("DictVectorizer", &numbers, input).unwrap(),
            strings(&[1, 2], &["", "six"]).into()
        );
        assert!(run("DictVectorizer", &numbers, Value::Absent).is_err());
    }
}
