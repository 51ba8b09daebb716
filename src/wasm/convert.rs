//! Values, types, graphs and errors to JavaScript and back. Tensor data crosses by one copy of its bytes.
//!
//! A tensor is `{ name, type, shape, data }`; in a run a feed of the declared type is `{ input, shape, data }` with the input's
//! position, and an output `{ shape, data }`, with its `type` where that is not the declared one. A sequence is `{ name, items }`, a map `{ name, keys, values }` of two
//! tensors, and an empty optional `{ name }`. What stands inside another value has no name. A tensor in GPU memory is
//! `{ name, type, shape, buffer }`.

use js_sys::{
    Array, ArrayBuffer, BigInt64Array, BigUint64Array, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array,
    Object, Reflect, Uint8Array, Uint16Array, Uint32Array,
};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};

use crate::{
    Error, ErrorCode, Result, ValueInfo,
    graph::{Graph, NodeId},
    session::{Event, Profile, ProfileRow},
    tensor::{AlignedBytes, DType, Dim, Map, Tensor, Value, packed},
};

// What a run reads and writes has its properties named here, as code: a name that is handed to `Reflect` costs a
// conversion of its text at each call, which is much of the time of a small model.
#[wasm_bindgen]
extern "C" {
    /// A value as it crosses.
    #[wasm_bindgen(extends = Object)]
    type Fields;
    #[wasm_bindgen(method, getter, structural)]
    fn input(this: &Fields) -> Option<u32>;
    #[wasm_bindgen(method, getter, structural)]
    fn name(this: &Fields) -> JsValue;
    #[wasm_bindgen(method, getter, structural, js_name = type)]
    fn type_name(this: &Fields) -> JsValue;
    #[wasm_bindgen(method, getter, structural)]
    fn shape(this: &Fields) -> JsValue;
    #[wasm_bindgen(method, getter, structural)]
    fn data(this: &Fields) -> JsValue;
    #[wasm_bindgen(method, getter, structural)]
    fn buffer(this: &Fields) -> JsValue;
    #[wasm_bindgen(method, setter, structural)]
    fn set_name(this: &Fields, name: &str);
    #[wasm_bindgen(method, setter, structural, js_name = type)]
    fn set_type_name(this: &Fields, name: &str);
    #[wasm_bindgen(method, setter, structural)]
    fn set_shape(this: &Fields, shape: &Array);
    #[wasm_bindgen(method, setter, structural)]
    fn set_data(this: &Fields, data: &JsValue);
    #[wasm_bindgen(method, setter, structural)]
    fn set_buffer(this: &Fields, buffer: &JsValue);

    /// A typed array or a DataView.
    #[wasm_bindgen(extends = Object)]
    type View;
    #[wasm_bindgen(method, getter, structural)]
    fn buffer(this: &View) -> JsValue;
    #[wasm_bindgen(method, getter, structural, js_name = byteOffset)]
    fn byte_offset(this: &View) -> f64;
    #[wasm_bindgen(method, getter, structural, js_name = byteLength)]
    fn byte_length(this: &View) -> f64;
}

fn set(object: &Object, key: &str, value: &JsValue) {
    // Setting a property of a fresh plain object cannot fail.
    let _ = Reflect::set(object, &key.into(), value);
}

fn get(object: &JsValue, key: &str) -> JsValue {
    Reflect::get(object, &key.into()).unwrap_or(JsValue::UNDEFINED)
}

/// `{ code, message, node?, operator?, input?, expected?, actual?, details? }`.
pub(super) fn error_to_js(error: &Error) -> JsValue {
    let object = Object::new();
    set(&object, "code", &error.code().as_str().into());
    set(&object, "message", &error.message().into());
    let place = error.place();
    let parts = [
        ("node", &place.node),
        ("operator", &place.operator),
        ("input", &place.input),
        ("expected", &place.expected),
        ("actual", &place.actual),
    ];
    for (key, text) in parts {
        if let Some(text) = text {
            set(&object, key, &text.into());
        }
    }
    if !place.details.is_empty() {
        let lines: Array = place.details.iter().map(JsValue::from).collect();
        set(&object, "details", &lines);
    }
    object.into()
}

/// `{ type: "device-lost", continues, message }` or `{ type: "node-demoted", node, operator, message }`.
pub(super) fn event_to_js(event: &Event) -> JsValue {
    let object = Object::new();
    let put = |key: &str, text: &str| set(&object, key, &text.into());
    match event {
        Event::DeviceLost { message, on_new_device } => {
            put("type", "device-lost");
            put("continues", if *on_new_device { "webgpu" } else { "cpu" });
            put("message", message);
        }
        Event::NodeDemoted {
            node,
            operator,
            message,
        } => {
            put("type", "node-demoted");
            put("node", node);
            put("operator", operator);
            put("message", message);
        }
    }
    object.into()
}

/// `{ runs, runMs, nodes, kernels }`, the latter two lists of
/// `{ node, operator, device, kernel, shapes, calls, ms, meanMs, operations, bytes }`.
pub(super) fn profile_to_js(profile: &Profile) -> JsValue {
    let row = |row: &ProfileRow| {
        let object = Object::new();
        let device = if row.on_gpu { "gpu" } else { "cpu" };
        let texts = [
            ("node", &*row.node),
            ("operator", &row.operator),
            ("device", device),
            ("kernel", &row.kernel),
            ("shapes", &row.shapes),
        ];
        texts
            .into_iter()
            .for_each(|(key, text)| set(&object, key, &text.into()));
        let numbers = [
            ("calls", row.calls as f64),
            ("ms", row.ms),
            ("meanMs", row.mean_ms),
            ("operations", row.operations as f64),
            ("bytes", row.bytes as f64),
        ];
        numbers
            .into_iter()
            .for_each(|(key, number)| set(&object, key, &number.into()));
        JsValue::from(object)
    };
    let object = Object::new();
    set(&object, "runs", &(profile.runs as f64).into());
    set(&object, "runMs", &profile.run_ms.into());
    set(&object, "nodes", &profile.nodes.iter().map(row).collect::<Array>());
    set(
        &object,
        "kernels",
        &profile.kernels().iter().map(row).collect::<Array>(),
    );
    object.into()
}

/// `[{ name, type, shape, optional? }]`; an open dimension is its name, or `"?"`, and the shape of what is no tensor `[]`.
pub(super) fn info_to_js(values: &[ValueInfo]) -> JsValue {
    let list: Array = values
        .iter()
        .map(|value| {
            let object = Object::new();
            set(&object, "name", &value.name.as_str().into());
            set(&object, "type", &value.ty.name().into());
            let shape: Array = value.ty.shape().unwrap_or(&[]).iter().map(dim_to_js).collect();
            set(&object, "shape", &shape);
            if value.optional {
                set(&object, "optional", &true.into());
            }
            JsValue::from(object)
        })
        .collect();
    list.into()
}

fn dim_to_js(dim: &Dim) -> JsValue {
    match dim.known() {
        Some(size) => (size as f64).into(),
        None => {
            let text = dim.to_string();
            if text.contains('?') { "?".into() } else { text.into() }
        }
    }
}

/// What tensors in GPU memory are read and written with.
pub(super) type Gpu<'a> = Option<&'a crate::gpu::device::GpuDevice>;

/// Reads a value with its name.
pub(super) fn value_from_js(value: &JsValue, gpu: Gpu<'_>) -> Result<(String, Value)> {
    let fields: &Fields = value.unchecked_ref();
    if !fields.type_name().is_undefined() {
        let buffer = fields.buffer();
        if !buffer.is_undefined() {
            let (name, dtype, shape) = description_from_js(value)?;
            let gpu = gpu.ok_or_else(|| {
                let message = "the tensor is in GPU memory, and the session does not use a GPU";
                Error::new(ErrorCode::InvalidArgument, message).at_input(name.clone())
            })?;
            return Ok((name, gpu.import(buffer, dtype, &shape)?.into()));
        }
        let (name, tensor) = tensor_from_js(value)?;
        return Ok((name, tensor.into()));
    }
    let name = fields.name().as_string().unwrap_or_default();
    let items = get(value, "items");
    if let Some(items) = items.dyn_ref::<Array>() {
        let items = items.iter().map(|item| Ok(value_from_js(&item, gpu)?.1));
        let items = items.collect::<Result<Vec<Value>>>();
        return Ok((
            name.clone(),
            Value::Sequence(items.map_err(|error| error.at_input(name))?),
        ));
    }
    let keys = get(value, "keys");
    if keys.is_undefined() {
        return Ok((name, Value::Absent));
    }
    let map = Map::new(tensor_from_js(&keys)?.1, tensor_from_js(&get(value, "values"))?.1);
    Ok((name.clone(), Value::Map(map.map_err(|error| error.at_input(name))?)))
}

/// Writes a value with a name.
pub(super) fn value_to_js(name: &str, value: &Value, gpu: Gpu<'_>) -> Result<JsValue> {
    if let Value::Tensor(tensor) = value {
        if let (Some(_), Some(gpu)) = (tensor.remote_id(), gpu) {
            let object = description_to_js(name, tensor);
            object.set_buffer(&gpu.export(tensor).unwrap_or_default());
            return Ok(object.into());
        }
        return tensor_to_js(name, tensor);
    }
    let object = Object::new();
    set(&object, "name", &name.into());
    match value {
        Value::Sequence(items) => {
            let items = items.iter().map(|item| value_to_js("", item, gpu));
            let items: Array = items.collect::<Result<Array>>()?;
            set(&object, "items", &items);
        }
        Value::Map(map) => {
            set(&object, "keys", &tensor_to_js("", map.keys())?);
            set(&object, "values", &tensor_to_js("", map.values())?);
        }
        Value::Tensor(_) | Value::Absent => {}
    }
    Ok(object.into())
}

/// Reads a tensor's name, type and shape.
fn description_from_js(value: &JsValue) -> Result<(String, DType, Vec<usize>)> {
    let invalid = |message: &str| Error::new(ErrorCode::InvalidTensor, message);
    let fields: &Fields = value.unchecked_ref();
    let name = fields.name().as_string().unwrap_or_default();
    let in_tensor = |error: Error| error.at_input(name.clone());
    let type_name = fields.type_name().as_string().unwrap_or_default();
    let dtype = DType::from_name(&type_name)
        .ok_or_else(|| in_tensor(invalid("there is no such element type").actual(type_name.clone())))?;
    let shape = shape_from_js(fields).map_err(in_tensor)?;
    Ok((name, dtype, shape))
}

fn shape_from_js(fields: &Fields) -> Result<Vec<usize>> {
    let invalid = |message: &str| Error::new(ErrorCode::InvalidTensor, message);
    let shape = fields.shape();
    let shape = shape
        .dyn_ref::<Array>()
        .ok_or_else(|| invalid("a tensor's shape is not an array"))?;
    let size = |dim: JsValue| {
        let size = dim
            .as_f64()
            .filter(|size| *size >= 0.0 && size.fract() == 0.0 && *size < 9e15);
        size.map(|size| size as usize)
            .ok_or_else(|| invalid("a dimension is not a whole number"))
    };
    shape.iter().map(size).collect()
}

/// Reads a feed of its input's declared type; `None` for one of another form.
pub(super) fn feed_from_js(feed: &JsValue, inputs: &[ValueInfo]) -> Option<Result<(String, Value)>> {
    let fields: &Fields = feed.unchecked_ref();
    let info = inputs.get(fields.input()? as usize)?;
    let dtype = info.ty.dtype()?;
    let tensor = shape_from_js(fields).and_then(|shape| data_from_js(dtype, &shape, &fields.data()));
    Some(match tensor {
        Ok(tensor) => Ok((info.name.clone(), tensor.into())),
        Err(error) => Err(error.at_input(info.name.clone())),
    })
}

/// Writes an output, for one who knows what the model declares.
pub(super) fn output_to_js(tensor: &Tensor, info: &ValueInfo) -> Result<JsValue> {
    let object: Fields = Object::new().unchecked_into();
    if info.ty.dtype() != Some(tensor.dtype()) {
        object.set_type_name(tensor.dtype().name());
    }
    object.set_shape(&shape_to_js(tensor));
    object.set_data(&data_to_js(tensor)?);
    Ok(object.into())
}

/// Reads a tensor with its name.
pub(super) fn tensor_from_js(value: &JsValue) -> Result<(String, Tensor)> {
    let (name, dtype, shape) = description_from_js(value)?;
    let data = value.unchecked_ref::<Fields>().data();
    let tensor = data_from_js(dtype, &shape, &data).map_err(|error| error.at_input(name.clone()))?;
    Ok((name, tensor))
}

fn data_from_js(dtype: DType, shape: &[usize], data: &JsValue) -> Result<Tensor> {
    let invalid = |message: &str| Error::new(ErrorCode::InvalidTensor, message);
    if dtype == DType::String {
        let list = data
            .dyn_ref::<Array>()
            .ok_or_else(|| invalid("string data is not an array"))?;
        let strings = list.iter().map(|item| item.as_string());
        let strings = strings.collect::<Option<Vec<_>>>();
        let strings = strings.ok_or_else(|| invalid("string data holds something else than strings"))?;
        return Tensor::from_strings(shape, strings);
    }
    // The most frequent kind costs the fewest calls.
    if let (DType::F32, Some(values)) = (dtype, data.dyn_ref::<Float32Array>()) {
        let mut bytes = AlignedBytes::zeroed(values.length() as usize * 4)?;
        values.copy_to(bytemuck::cast_slice_mut(bytes.as_mut()));
        return Tensor::from_bytes(dtype, shape, bytes);
    }
    let view = if ArrayBuffer::is_view(data) {
        let view: &View = data.unchecked_ref();
        let (offset, len) = (view.byte_offset(), view.byte_length());
        Uint8Array::new_with_byte_offset_and_length(&view.buffer(), offset as u32, len as u32)
    } else {
        return Err(invalid("a tensor's data is not a typed array"));
    };
    let mut bytes = AlignedBytes::zeroed(view.length() as usize)?;
    view.copy_to(bytes.as_mut());
    if let Some(bits @ 1..8) = dtype.bits() {
        let values = bytes;
        bytes = AlignedBytes::zeroed(values.as_ref().len().div_ceil(8 / bits))?;
        packed::pack_into(bits, values.as_ref().iter().copied(), bytes.as_mut());
    }
    Tensor::from_bytes(dtype, shape, bytes)
}

/// Writes a tensor's name, type and shape.
fn description_to_js(name: &str, tensor: &Tensor) -> Fields {
    let object: Fields = Object::new().unchecked_into();
    object.set_name(name);
    object.set_type_name(tensor.dtype().name());
    object.set_shape(&shape_to_js(tensor));
    object
}

fn shape_to_js(tensor: &Tensor) -> Array {
    tensor.shape().iter().map(|&dim| JsValue::from(dim as f64)).collect()
}

/// Writes a tensor with a name.
pub(super) fn tensor_to_js(name: &str, tensor: &Tensor) -> Result<JsValue> {
    let object = description_to_js(name, tensor);
    object.set_data(&data_to_js(tensor)?);
    Ok(object.into())
}

fn data_to_js(tensor: &Tensor) -> Result<JsValue> {
    Ok(match tensor.dtype() {
        DType::F32 => Float32Array::from(&*tensor.view::<f32>()?).into(),
        DType::String => tensor.strings()?.iter().map(JsValue::from).collect::<Array>().into(),
        dtype => {
            let bytes = match dtype.bits() {
                Some(bits @ 1..8) => {
                    let mut values = packed::unpack(bits, tensor.bytes(), tensor.len());
                    if is_signed(dtype) {
                        values
                            .iter_mut()
                            .for_each(|value| *value = packed::sign_extend(bits, *value) as u8);
                    }
                    Uint8Array::from(values.as_slice())
                }
                _ => Uint8Array::from(tensor.bytes()),
            };
            array_over(dtype, &bytes.buffer())
        }
    })
}

/// The typed array that holds elements of a type. Narrow floats are bytes of bits.
fn array_over(dtype: DType, buffer: &ArrayBuffer) -> JsValue {
    match dtype {
        DType::F32 => Float32Array::new(buffer).into(),
        DType::F64 => Float64Array::new(buffer).into(),
        DType::F16 | DType::BF16 | DType::U16 => Uint16Array::new(buffer).into(),
        DType::I16 => Int16Array::new(buffer).into(),
        DType::I32 => Int32Array::new(buffer).into(),
        DType::U32 => Uint32Array::new(buffer).into(),
        DType::I64 => BigInt64Array::new(buffer).into(),
        DType::U64 => BigUint64Array::new(buffer).into(),
        dtype if is_signed(dtype) => Int8Array::new(buffer).into(),
        _ => Uint8Array::new(buffer).into(),
    }
}

fn is_signed(dtype: DType) -> bool {
    dtype.is_integer() && !dtype.is_unsigned()
}

/// `{ name, inputs, outputs, nodes: [{ name, operator, inputs, outputs, attributes, epilogue?, fused? }] }`.
pub(super) fn graph_to_js(graph: &Graph) -> JsValue {
    let value = |id: crate::graph::ValueId| {
        let value = graph.value(id);
        let object = Object::new();
        set(&object, "name", &value.name.as_str().into());
        set(&object, "type", &value.ty.to_string().into());
        if value.constant.is_some() {
            set(&object, "constant", &true.into());
        }
        JsValue::from(object)
    };
    let names = |ids: &[Option<crate::graph::ValueId>]| -> Array {
        let name =
            |id: &Option<crate::graph::ValueId>| id.map_or(JsValue::NULL, |id| graph.value(id).name.as_str().into());
        ids.iter().map(name).collect()
    };
    let object = Object::new();
    set(&object, "name", &graph.name.as_str().into());
    set(
        &object,
        "inputs",
        &graph.inputs.iter().map(|&id| value(id)).collect::<Array>(),
    );
    set(
        &object,
        "outputs",
        &graph.outputs.iter().map(|&id| value(id)).collect::<Array>(),
    );
    let nodes: Array = graph
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let object = Object::new();
            set(&object, "name", &graph.node_label(NodeId(index as u32)).into());
            set(&object, "operator", &node.operator.to_string().into());
            set(&object, "version", &(node.operator.version as f64).into());
            set(&object, "inputs", &names(&node.inputs));
            set(&object, "outputs", &names(&node.outputs));
            let attributes = Object::new();
            for (name, attribute) in node.attributes.iter() {
                set(&attributes, name, &attribute.type_name().into());
            }
            for (name, subgraph) in node.attributes.subgraphs() {
                set(&attributes, name, &graph_to_js(&subgraph.graph));
            }
            set(&object, "attributes", &attributes);
            if let Some(epilogue) = &node.epilogue {
                set(&object, "epilogue", &epilogue.expr.to_string().into());
            }
            if !node.fused.is_empty() {
                set(
                    &object,
                    "fused",
                    &node.fused.iter().map(JsValue::from).collect::<Array>(),
                );
            }
            JsValue::from(object)
        })
        .collect();
    set(&object, "nodes", &nodes);
    object.into()
}
