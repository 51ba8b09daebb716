//! A model that was read but not yet made ready for a device.

use crate::{
    error::{Error, ErrorCode, Result},
    graph::{Graph, ValueType},
    import::{
        import,
        onnx::{ExternalData, NoExternalData},
    },
    ops::{
        infer::{BoundGraph, infer_graph},
        registry,
    },
    tensor::{Bytes, Dim},
};

/// A model: its graph, checked to hold only supported operators.
pub struct Model {
    graph: Graph,
    parse_ms: f64,
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// Its name.
    pub name: String,
    /// Its type, with symbolic dimensions where sizes are open.
    pub ty: ValueType,
    /// Whether it may be left out of the feeds, because the model has a default for it.
    pub optional: bool,
}

impl Model {
    /// Reads an ONNX model or an `.ort` file. Weights are borrowed from `bytes`, not copied.
    ///
    /// Fails with `invalid-model`, `invalid-graph`, `unsupported-model` and `unsupported-operator`; the last names every
    /// operator that is not supported.
    pub fn load(bytes: impl Into<Bytes>) -> Result<Model> {
        Model::load_with(bytes, &NoExternalData)
    }

    /// Reads an ONNX model whose larger tensors stand in other files, which `external` reads.
    pub fn load_with(bytes: impl Into<Bytes>, external: &dyn ExternalData) -> Result<Model> {
        Model::from_graph(import(bytes, external)?)
    }

    /// Reads the model at `path`. Tensors that it keeps in other files are read from its folder, one by one.
    #[cfg(not(target_family = "wasm"))]
    pub fn load_file(path: impl AsRef<std::path::Path>) -> Result<Model> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| {
            let message = format!("the model {} cannot be read: {error}", path.display());
            Error::new(ErrorCode::InvalidArgument, message)
        })?;
        let folder = path.parent().unwrap_or(std::path::Path::new(""));
        Model::load_with(bytes, &crate::import::onnx::Folder::new(folder))
    }

    /// A model of a graph made by hand.
    pub fn from_graph(graph: Graph) -> Result<Model> {
        graph.verify()?;
        registry::check(&graph)?;
        Ok(Model { graph, parse_ms: 0.0 })
    }

    /// Notes how long reading took, for the report.
    pub fn with_parse_ms(mut self, parse_ms: f64) -> Model {
        self.parse_ms = parse_ms;
        self
    }

    /// What has to be fed.
    pub fn inputs(&self) -> Vec<ValueInfo> {
        inputs_of(&self.graph)
    }

    /// What a run yields, with the shapes that inference finds.
    pub fn outputs(&self) -> Result<Vec<ValueInfo>> {
        outputs_of(&self.graph)
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    pub(super) fn into_parts(self) -> (Graph, f64) {
        (self.graph, self.parse_ms)
    }
}

/// The inputs of a graph.
pub(super) fn inputs_of(graph: &Graph) -> Vec<ValueInfo> {
    let info = |&id| {
        let value = graph.value(id);
        ValueInfo {
            name: value.name.clone(),
            ty: value.ty.clone(),
            optional: value.constant.is_some(),
        }
    };
    graph.inputs.iter().map(info).collect()
}

/// The outputs of a graph: declared types, and what inference adds to them.
pub(super) fn outputs_of(graph: &Graph) -> Result<Vec<ValueInfo>> {
    let bound = BoundGraph::new(graph.clone())?;
    let facts = infer_graph(&bound, &[], &mut 0)?;
    let info = |&id: &crate::graph::ValueId| {
        let (value, facts) = (graph.value(id), &facts[id.index()]);
        let mut ty = value.ty.clone();
        if let ValueType::Tensor(tensor) = &mut ty {
            if tensor.dtype.is_some() && facts.dtype.is_some() && tensor.dtype != facts.dtype {
                return Err(Error::new(
                    ErrorCode::InvalidGraph,
                    "an output is declared with another element type",
                )
                .at_input(value.name.clone())
                .expected(tensor.dtype.map_or("", |dtype| dtype.name()))
                .actual(facts.dtype.map_or("", |dtype| dtype.name())));
            }
            tensor.dtype = facts.dtype.or(tensor.dtype);
            // A declared name says more to a person than an inferred expression, a known size more than a name.
            let declared = tensor.shape.take();
            tensor.shape = match (declared, &facts.shape) {
                (Some(declared), Some(inferred)) if declared.len() == inferred.len() => {
                    // A dimension that the model leaves open bears a name made up by the importer.
                    let made_up = |axis: usize| Dim::symbol(format!("{}.{axis}", value.name));
                    let pick = |(axis, (declared, inferred)): (usize, (Dim, &Dim))| {
                        if inferred.known().is_some() || declared == made_up(axis) {
                            inferred.clone()
                        } else {
                            declared
                        }
                    };
                    Some(declared.into_iter().zip(inferred).enumerate().map(pick).collect())
                }
                (declared, inferred) => inferred.clone().or(declared),
            };
        }
        Ok(ValueInfo {
            name: value.name.clone(),
            ty,
            optional: false,
        })
    };
    graph.outputs.iter().map(info).collect()
}
