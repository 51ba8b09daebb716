//! Holds `docs/operators.md` to the table of operators: every operator that the table has stands there, and no other.
//! `scripts/operators.mjs` writes the page; it asks this test for the table by naming a file in
//! `MODELET_OPERATOR_TABLE`.

use std::collections::BTreeSet;
use std::path::Path;

use modelet::graph::INTERNAL_DOMAIN;
use modelet::ops::registry::TABLES;

/// Domain and operator, as the page names them.
fn supported() -> BTreeSet<(String, String)> {
    let entries = TABLES.iter().copied().flatten();
    let public = entries.filter(|entry| entry.domain != INTERNAL_DOMAIN);
    public
        .map(|entry| (domain(entry.domain), entry.name.to_string()))
        .collect()
}

fn domain(name: &str) -> String {
    if name.is_empty() { "ai.onnx" } else { name }.to_string()
}

/// The first columns of the page's tables, each below a heading `` ## `domain` ``.
fn documented(page: &str) -> BTreeSet<(String, String)> {
    let mut operators = BTreeSet::new();
    let mut domain = None;
    for line in page.lines() {
        let quoted = |line: &str| line.split('`').nth(1).map(str::to_string);
        if line.starts_with("## ") {
            domain = quoted(line);
        } else if let (Some(domain), true) = (&domain, line.starts_with("| `")) {
            operators.extend(quoted(line).map(|name| (domain.clone(), name)));
        }
    }
    operators
}

#[test]
fn the_page_of_operators_names_those_of_the_table() {
    if let Ok(path) = std::env::var("MODELET_OPERATOR_TABLE") {
        let lines = TABLES
            .iter()
            .copied()
            .flatten()
            .filter(|entry| entry.domain != INTERNAL_DOMAIN);
        let lines = lines.map(|entry| format!("{}\t{}\t{}\n", domain(entry.domain), entry.name, entry.since));
        std::fs::write(&path, lines.collect::<String>()).expect("the table can be written");
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators.md");
    let page = std::fs::read_to_string(&path).expect("docs/operators.md can be read");
    let (supported, documented) = (supported(), documented(&page));
    let missing: Vec<_> = supported.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&supported).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/operators.md is out of date: it lacks {missing:?} and has {stale:?}; run: node scripts/operators.mjs"
    );
}
