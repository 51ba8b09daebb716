//! What became of the cases.

use std::fmt::Write as _;
use std::path::Path;

use super::cases::Exceptions;

/// What a case's run came to.
pub struct Outcome {
    pub case: String,
    /// What went wrong; empty when nothing did.
    pub failures: Vec<String>,
    /// The operators of the model, each once; none when it could not be read.
    pub operators: Vec<String>,
    /// Those of them that ran on the GPU.
    pub on_gpu: Vec<String>,
    /// The nodes that ran on the CPU, each with its operator and why.
    pub on_cpu: Vec<(String, String)>,
    pub seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Passed,
    Failed,
    FailedAsExpected,
    PassedUnexpectedly,
}

impl Status {
    pub fn text(self) -> &'static str {
        match self {
            Status::Passed => "passed",
            Status::Failed => "failed",
            Status::FailedAsExpected => "failed as expected",
            Status::PassedUnexpectedly => "passed unexpectedly",
        }
    }
}

impl Outcome {
    pub fn status(&self, expected: &Exceptions) -> Status {
        match (self.failures.is_empty(), expected.expect_failure(&self.case)) {
            (true, false) => Status::Passed,
            (false, false) => Status::Failed,
            (false, true) => Status::FailedAsExpected,
            (true, true) => Status::PassedUnexpectedly,
        }
    }

    /// The failures in one line.
    pub fn message(&self) -> String {
        let text = self.failures.join(" | ");
        text.split(['\n', '\t']).map(str::trim).collect::<Vec<_>>().join("; ")
    }
}

/// Writes a table: case, status, seconds, operators, those on the GPU, those on the CPU with the reason, message.
pub fn write(path: &Path, outcomes: &[Outcome], expected: &Exceptions) {
    let mut text = String::from("case\tstatus\tseconds\toperators\ton_gpu\ton_cpu\tmessage\n");
    for outcome in outcomes {
        let (operators, on_gpu) = (outcome.operators.join(" "), outcome.on_gpu.join(" "));
        let on_cpu: Vec<String> = (outcome.on_cpu.iter())
            .map(|(operator, reason)| format!("{operator} ({reason})"))
            .collect();
        let on_cpu = on_cpu.join("; ");
        let (status, seconds) = (outcome.status(expected).text(), outcome.seconds);
        let (case, message) = (&outcome.case, outcome.message());
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{case}\t{status}\t{seconds:.3}\t{operators}\t{on_gpu}\t{on_cpu}\t{message}"
        );
    }
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
}
