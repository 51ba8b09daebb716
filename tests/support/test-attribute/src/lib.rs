//! `#[test]` for wasm32, under the name that the unit tests already use.

pub use wasm_bindgen_test::wasm_bindgen_test as test;
