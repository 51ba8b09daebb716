//! Draws one-node models from random bytes, without guidance but fast, and prints each kind of finding once.
//!
//!     cargo run --profile sweep --bin sweep -- SECONDS [SEED]

#[path = "../one_node.rs"]
mod one_node;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    time::{Duration, Instant},
};

use arbitrary::Unstructured;

static PANIC: Mutex<String> = Mutex::new(String::new());

fn main() {
    let mut arguments = std::env::args().skip(1).map(|number| number.parse::<u64>().expect("a number"));
    let seconds = arguments.next().unwrap_or(60);
    let mut state = arguments.next().unwrap_or(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::panic::set_hook(Box::new(|info| *PANIC.lock().expect("the panic's text") = info.to_string()));
    let mut findings: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let (started, mut runs, mut slowest) = (Instant::now(), 0u64, (Duration::ZERO, String::new()));
    while started.elapsed().as_secs() < seconds {
        let mut bytes = [0u8; 1024];
        for chunk in bytes.chunks_exact_mut(8) {
            // xorshift64 (Marsaglia, "Xorshift RNGs")
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| one_node::run(&mut Unstructured::new(&bytes))));
        runs += 1;
        if begun.elapsed() > slowest.0 {
            slowest = (begun.elapsed(), format!("{state:#x}"));
        }
        let finding = match result {
            Ok(Ok(Err(finding))) => finding,
            Ok(_) => continue,
            Err(_) => {
                let (panic, last) = (PANIC.lock().expect("the text"), one_node::LAST.lock().expect("the model"));
                format!("panic: {}\n{last}", panic.replace('\n', " "))
            }
        };
        // Numbers and names of inputs differ from model to model.
        let line = finding.lines().next().unwrap_or_default();
        let line = line.split("; inputs:").next().unwrap_or_default();
        let key: String = line.chars().filter(|character| !character.is_ascii_digit()).collect();
        findings.entry(key).or_insert((0, finding)).0 += 1;
    }
    for (count, finding) in findings.values() {
        println!("---- {count} times: {finding}\n");
    }
    println!("{runs} models, {} kinds of findings, the slowest took {:?}", findings.len(), slowest.0);
    std::process::exit(i32::from(!findings.is_empty()));
}
