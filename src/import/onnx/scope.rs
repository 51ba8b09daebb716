//! Names and where they mean something: the graphs under construction, one inside the other, and the frames in which
//! names are looked up. A function's body has a frame of its own but is written into its caller's graph.

use crate::tensor::map::{HashMap, HashSet};
use std::rc::Rc;

use super::proto::AttributeProto;
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{Graph, Value, ValueId};

/// Subgraphs and function calls inside each other. Bounds the importer's own recursion.
const MAX_NESTING: usize = 48;

/// A graph under construction.
#[derive(Default)]
pub struct Level {
    pub graph: Graph,
    /// Inputs that may be fed; one with a constant has it as its default.
    pub inputs: HashSet<ValueId>,
    /// What was taken from the enclosing graph, in the order of [`Graph::captures`].
    pub captures: Vec<ValueId>,
    captured: HashMap<ValueId, ValueId>,
}

/// A part of the file in which names are looked up together.
pub struct Frame<'p> {
    /// What each name means; `None` for a function's input that the caller left out.
    pub names: HashMap<&'p str, Option<ValueId>>,
    /// The graph that nodes of this frame are written into.
    pub level: usize,
    /// The frame around this one; a function's body has none.
    pub parent: Option<usize>,
    /// What the names of nodes and values begin with, so that copies of a function's body can be told apart.
    pub prefix: Rc<str>,
    /// The function call that this frame belongs to.
    pub call: Option<Rc<Call<'p>>>,
}

/// What a function's body knows of the call that it is copied for.
pub struct Call<'p> {
    pub opsets: HashMap<&'p str, i64>,
    /// Attributes that the body may refer to.
    pub attributes: HashMap<&'p str, Binding<'p>>,
}

/// An attribute and the frame in which its subgraph's names mean something.
#[derive(Clone, Copy)]
pub struct Binding<'p> {
    pub attribute: &'p AttributeProto<'p>,
    pub frame: usize,
}

/// All graphs and frames that are open.
#[derive(Default)]
pub struct Scopes<'p> {
    pub levels: Vec<Level>,
    pub frames: Vec<Frame<'p>>,
}

/// What a name turned out to mean.
pub enum Found {
    Value(ValueId),
    /// An input of a function that the caller left out.
    LeftOut,
    Unknown,
}

impl<'p> Scopes<'p> {
    /// The graph that the frame's nodes are written into.
    pub fn level(&mut self, frame: usize) -> &mut Level {
        let level = self.frames[frame].level;
        &mut self.levels[level]
    }

    /// Opens a frame; an error when too many are open.
    pub fn open(&mut self, frame: Frame<'p>) -> Result<usize> {
        if self.frames.len() >= MAX_NESTING {
            let message = "subgraphs and functions are nested too deeply";
            return Err(Error::new(ErrorCode::LimitExceeded, message).expected(format!("at most {MAX_NESTING} levels")));
        }
        self.frames.push(frame);
        Ok(self.frames.len() - 1)
    }

    /// Gives a name to a new value of the frame's graph.
    pub fn declare(&mut self, frame: usize, name: &'p str, mut value: Value) -> Result<ValueId> {
        value.name = format!("{}{name}", self.frames[frame].prefix);
        if self.frames[frame].names.contains_key(name) {
            return Err(defined_twice(&value.name));
        }
        let id = self.level(frame).graph.add_value(value);
        self.frames[frame].names.insert(name, Some(id));
        Ok(id)
    }

    /// Finds what `name` means in `frame`, as a value of the graph that this frame is written into.
    ///
    /// `charge` is told the memory that each value taken from an enclosing graph needs.
    pub fn find(&mut self, frame: usize, name: &str, charge: impl Fn(usize) -> Result<()>) -> Result<Found> {
        let target = self.frames[frame].level;
        let mut at = frame;
        let (level, mut id) = loop {
            match self.frames[at].names.get(name) {
                Some(Some(id)) => break (self.frames[at].level, *id),
                Some(None) => return Ok(Found::LeftOut),
                None => match self.frames[at].parent {
                    Some(parent) => at = parent,
                    None => return Ok(Found::Unknown),
                },
            }
        };
        for inner in level + 1..=target {
            id = self.capture(inner, id, &charge)?;
        }
        Ok(Found::Value(id))
    }

    /// The value in graph `inner` that stands for the value `outer` of the graph around it. Constants are shared, not
    /// captured, so that the inner graph sees their contents.
    fn capture(&mut self, inner: usize, outer: ValueId, charge: &impl Fn(usize) -> Result<()>) -> Result<ValueId> {
        if let Some(&id) = self.levels[inner].captured.get(&outer) {
            return Ok(id);
        }
        let source = self.levels[inner - 1].graph.value(outer);
        charge(size_of::<Value>() + source.name.len())?;
        let is_input = self.levels[inner - 1].inputs.contains(&outer);
        let mut value = source.clone();
        if is_input {
            value.constant = None;
        }
        let constant = value.constant.is_some();
        let level = &mut self.levels[inner];
        let id = level.graph.add_value(value);
        if !constant {
            level.graph.captures.push(id);
            level.captures.push(outer);
        }
        level.captured.insert(outer, id);
        Ok(id)
    }
}

/// A name that two things bear.
pub fn defined_twice(name: &str) -> Error {
    Error::new(ErrorCode::InvalidGraph, format!("the value {name} is defined twice")).at_input(name)
}
