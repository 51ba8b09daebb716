//! Limits on what a run may use, for models that are not trusted.

use std::cell::Cell;

use crate::{
    error::{Error, ErrorCode, Result},
    tensor::Value,
};

/// The most that a session may use. What exceeds a limit ends in an error with code `limit-exceeded`; the session stays
/// usable.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes of the model's weights and of the values that a run holds at one time, temporary ones of kernels and packed
    /// copies of weights not counted. Checked before memory is taken wherever a size is known before.
    pub memory_bytes: Option<u64>,
    /// Milliseconds of one run. Checked between kernels, so a run ends after the kernel in which time is up.
    pub run_millis: Option<f64>,
    /// Iterations of all loops of one run together, `Scan` and `SequenceMap` included.
    pub loop_iterations: Option<u64>,
}

/// What the current run has used.
pub(super) struct Meter {
    limits: Limits,
    clock: fn() -> f64,
    weights: u64,
    started: Cell<f64>,
    iterations: Cell<u64>,
    held: Cell<u64>,
}

impl Meter {
    /// A meter for a session whose weights take `weights` bytes; an error when they alone are too many.
    pub fn new(limits: Limits, clock: fn() -> f64, weights: u64) -> Result<Meter> {
        let meter = Meter {
            limits,
            clock,
            weights,
            started: Cell::new(0.0),
            iterations: Cell::new(0),
            held: Cell::new(0),
        };
        meter.check_memory(0, "the model's weights take")?;
        Ok(meter)
    }

    /// Notes that a run begins.
    pub fn begin(&self) {
        self.iterations.set(0);
        self.held.set(0);
        if self.limits.run_millis.is_some() {
            self.started.set((self.clock)());
        }
    }

    /// Fails when the run's time is up.
    pub fn check_time(&self) -> Result<()> {
        let Some(limit) = self.limits.run_millis else {
            return Ok(());
        };
        let taken = (self.clock)() - self.started.get();
        if taken <= limit {
            return Ok(());
        }
        Err(Error::new(ErrorCode::LimitExceeded, "the run takes longer than it may")
            .expected(format!("at most {limit} ms"))
            .actual(format!("{taken:.0} ms so far")))
    }

    /// Counts an iteration of a loop.
    pub fn iterate(&self) -> Result<()> {
        self.check_time()?;
        let count = self.iterations.get() + 1;
        self.iterations.set(count);
        match self.limits.loop_iterations {
            Some(limit) if count > limit => Err(Error::new(
                ErrorCode::LimitExceeded,
                "the loops of a run go round more often than they may",
            )
            .expected(format!("at most {limit} iterations"))
            .actual(format!("{count} so far"))),
            _ => Ok(()),
        }
    }

    /// Bytes that are held until [`Meter::release_to`] is called with the result.
    pub fn hold(&self, bytes: u64, what: &str) -> Result<u64> {
        let before = self.held.get();
        self.check_memory(bytes, what)?;
        self.held.set(before.saturating_add(bytes));
        Ok(before)
    }

    /// Forgets what was held since.
    pub fn release_to(&self, before: u64) {
        self.held.set(before);
    }

    /// Fails when `bytes` more than what is held are too many.
    pub fn check_memory(&self, bytes: u64, what: &str) -> Result<()> {
        let Some(limit) = self.limits.memory_bytes else {
            return Ok(());
        };
        let needed = self.weights.saturating_add(self.held.get()).saturating_add(bytes);
        if needed <= limit {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::LimitExceeded,
            format!("{what} more memory than the session may use"),
        )
        .expected(format!("at most {limit} bytes in all"))
        .actual(format!("{needed} bytes")))
    }
}

/// Bytes that a value's elements take.
pub(super) fn bytes_of(value: &Value) -> u64 {
    match value {
        Value::Tensor(tensor) => match tensor.strings() {
            Ok(strings) => strings
                .iter()
                .map(|text| (text.len() + size_of::<String>()) as u64)
                .sum(),
            Err(_) => tensor.byte_len() as u64,
        },
        Value::Sequence(values) => values.iter().map(bytes_of).sum(),
        Value::Map(map) => bytes_of(&map.keys().clone().into()) + bytes_of(&map.values().clone().into()),
        Value::Absent => 0,
    }
}
