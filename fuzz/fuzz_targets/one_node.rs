//! Models of one node, of any operator and version, with attributes and inputs drawn from the bytes: each ends in outputs
//! or in a typed error, within its limits of time and memory. An error of code `internal` is a finding too.

#![no_main]

#[path = "../src/one_node.rs"]
mod one_node;

use libfuzzer_sys::{arbitrary::Unstructured, fuzz_target};

fuzz_target!(|data: &[u8]| {
    // Too few bytes are no case.
    if let Ok(Err(finding)) = one_node::run(&mut Unstructured::new(data)) {
        panic!("{finding}");
    }
});
