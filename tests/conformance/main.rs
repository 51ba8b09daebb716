//! Runs the test cases of the `onnx` package through the public API: the folder that `make_cases.py` wrote, which
//! `MODELET_CONFORMANCE` names. Every case passes or stands in `expected_failures.tsv` with the reason; a case that
//! stands there and passes fails the run as well.
//!
//! - `MODELET_ONLY`: words separated by commas; only cases with one of them in their names are run. Without it, a build
//!   that is not optimized leaves out the whole networks (`light/`).
//! - `MODELET_CONFORMANCE_DEVICE`: `cpu` (the default) or `webgpu`.
//! - `MODELET_CONFORMANCE_REPORT`: a file for what became of each case, as tab-separated lines; coverage.mjs
//!   tells from it how many of them the GPU executed.

mod cases;
mod compare;
mod report;
mod run;

use std::path::Path;

use cases::{Case, Exceptions};
use compare::Tolerance;
use report::Status;

#[test]
fn the_cases_of_the_onnx_package_give_the_expected_outputs() {
    let Ok(folder) = std::env::var("MODELET_CONFORMANCE") else {
        println!("skipped: MODELET_CONFORMANCE names no folder of cases (npm test makes it)");
        return;
    };
    let folder = Path::new(&folder);
    let (mut all, expected) = (Case::all(folder), Exceptions::read(folder));
    for case in all.iter_mut().filter(|case| expected.is_random(&case.id)) {
        case.tolerance = Tolerance::ANY;
    }
    let only = std::env::var("MODELET_ONLY").unwrap_or_default();
    let chosen = all.iter().filter(|case| match only.as_str() {
        // Whole networks take minutes in a build that is not optimized, and seconds in WebAssembly, where they are run.
        "" => !(cfg!(debug_assertions) && case.id.starts_with("light/")),
        only => only.split(',').any(|word| case.id.contains(word)),
    });
    let outcomes = run::run_all(chosen.cloned().collect(), run::device());
    if let Ok(path) = std::env::var("MODELET_CONFORMANCE_REPORT") {
        report::write(Path::new(&path), &outcomes, &expected);
    }

    let count = |status| outcomes.iter().filter(|one| one.status(&expected) == status).count();
    for outcome in &outcomes {
        if let status @ (Status::Failed | Status::PassedUnexpectedly) = outcome.status(&expected) {
            println!("{}: {}: {}", status.text(), outcome.case, outcome.message());
        }
    }
    // Cases under another name, such as those of another version of the package, are reported too.
    let unknown = expected.unknown(&all);
    unknown.iter().for_each(|case| println!("not a case: {case}"));
    let passed = count(Status::Passed);
    println!(
        "conformance: {passed} passed, {} expected failures",
        count(Status::FailedAsExpected)
    );
    assert_eq!(
        (count(Status::Failed), count(Status::PassedUnexpectedly), unknown.len()),
        (0, 0, 0),
        "cases failed, passed although they are listed as failures, or are listed and do not exist"
    );
}
