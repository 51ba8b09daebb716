//! What preparing a program tells whoever waits for it.

use std::{fmt, rc::Rc};

/// A stage of preparing a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Kernels are chosen, and weights packed for the CPU.
    Plan,
    /// Constants go to GPU memory, counted in bytes.
    Upload,
    /// Pipelines are compiled.
    Compile,
}

impl Stage {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Plan => "plan",
            Stage::Upload => "upload",
            Stage::Compile => "compile",
        }
    }
}

/// Somebody who is told of each stage how much of it is done, and of how much; or nobody.
#[derive(Clone, Default)]
pub struct Progress(Option<Rc<dyn Fn(Stage, usize, usize)>>);

impl Progress {
    /// Tells `listener`.
    pub fn to(listener: impl Fn(Stage, usize, usize) + 'static) -> Progress {
        Progress(Some(Rc::new(listener)))
    }

    /// Tells that `done` of `total` is done.
    pub fn tell(&self, stage: Stage, done: usize, total: usize) {
        if let Some(listener) = &self.0 {
            listener(stage, done, total);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Progress" } else { "no Progress" })
    }
}
