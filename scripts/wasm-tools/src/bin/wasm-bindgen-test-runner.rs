//! `wasm-bindgen-test-runner`: runs a compiled `wasm-bindgen-test` suite in a headless browser.

use std::{env, process};

fn main() {
    if let Err(error) = wasm_bindgen_cli::wasm_bindgen_test_runner::run_cli_with_args(env::args_os()) {
        eprintln!("error: {error:?}");
        process::exit(1);
    }
}
