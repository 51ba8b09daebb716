//! Holds the rooms of the crate to their order: reads which rooms each source file uses, and fails when a lower room
//! uses a higher one, when two rooms use each other, when one operator's file reaches into another's, and when a
//! shader is used by nobody. `docs/architecture.md` explains the rooms.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may use. Every room stands below those it uses, so no two can use each other.
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("tensor", &["error"]),
    ("pointwise", &["error", "tensor"]),
    ("graph", &["error", "tensor", "pointwise"]),
    ("import", &["error", "tensor", "pointwise", "graph"]),
    ("cpu", &["error", "tensor", "pointwise"]),
    ("gpu", &["error", "tensor", "pointwise"]),
    ("ops", &["error", "tensor", "pointwise", "graph", "cpu", "gpu"]),
    (
        "optimize",
        &["error", "tensor", "pointwise", "graph", "cpu", "gpu", "ops"],
    ),
    (
        "plan",
        &["error", "tensor", "pointwise", "graph", "cpu", "gpu", "ops", "optimize"],
    ),
    (
        "session",
        &[
            "error",
            "tensor",
            "pointwise",
            "graph",
            "import",
            "cpu",
            "gpu",
            "ops",
            "optimize",
            "plan",
        ],
    ),
    (
        "wasm",
        &[
            "error",
            "tensor",
            "pointwise",
            "graph",
            "import",
            "cpu",
            "gpu",
            "ops",
            "optimize",
            "plan",
            "session",
        ],
    ),
];

/// A path that a source file names: the modules from the crate's root on.
type ModulePath = Vec<String>;

/// A source file: the module it is, and its text without comments, strings and character literals.
struct Source {
    file: String,
    module: ModulePath,
    code: String,
}

fn sources(root: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    collect(root, "rs", &mut files);
    assert!(!files.is_empty(), "there are no sources under {}", root.display());
    files
        .iter()
        .map(|path| {
            let relative = path.strip_prefix(root).unwrap();
            let text = fs::read_to_string(path).unwrap();
            source(&relative.to_string_lossy().replace('\\', "/"), &text)
        })
        .collect()
}

fn collect(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, extension, files);
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
}

fn source(file: &str, text: &str) -> Source {
    let module = file
        .trim_end_matches(".rs")
        .split('/')
        .filter(|part| !matches!(*part, "mod" | "lib"));
    Source {
        file: file.to_string(),
        module: module.map(str::to_string).collect(),
        code: code_only(text),
    }
}

/// The text without comments, strings and character literals, so that braces and paths in them do not count.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let skipped = if rest.starts_with(b"//") {
            rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !code.last().is_some_and(|&byte| is_word(byte))) {
            length
        } else if rest[0] == b'"' {
            quoted(rest, b'"')
        } else if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || character(text, at)) {
            quoted(rest, b'\'')
        } else {
            code.push(rest[0]);
            at += 1;
            continue;
        };
        code.push(b' ');
        at += skipped;
    }
    String::from_utf8_lossy(&code).into_owned()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of `r"…"`, `r#"…"#` and so on, where the text starts with one.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest
        .strip_prefix(b"r")?
        .iter()
        .take_while(|&&byte| byte == b'#')
        .count();
    let body = rest.get(1 + hashes..)?.strip_prefix(b"\"")?;
    let end: Vec<u8> = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let length = body.windows(end.len()).position(|window| window == end)?;
    Some(2 + hashes + length + end.len())
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// Whether the quote at `at` starts a character literal and not a lifetime.
fn character(text: &str, at: usize) -> bool {
    let mut rest = text[at + 1..].chars();
    rest.next().is_some() && rest.next() == Some('\'')
}

/// Words, `::`, braces and other marks of the code.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        if !first.is_whitespace() {
            tokens.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    tokens
}

/// Every path that a file names from `crate` or `super` on, as modules from the crate's root on.
fn paths(source: &Source) -> Vec<ModulePath> {
    let tokens = tokens(&source.code);
    let mut found = Vec::new();
    // The modules written inside this file that are open, each with the depth of braces at which it closes.
    let mut inline: Vec<(&str, usize)> = Vec::new();
    let mut depth = 0;
    for (index, &token) in tokens.iter().enumerate() {
        match token {
            "{" => {
                depth += 1;
                if let [.., "mod", name] = tokens[..index] {
                    inline.push((name, depth));
                }
            }
            "}" => {
                if inline.last().is_some_and(|&(_, opened)| opened == depth) {
                    inline.pop();
                }
                depth -= 1;
            }
            "crate" | "super" if index == 0 || tokens[index - 1] != "::" => {
                let mut module = source.module.clone();
                module.extend(inline.iter().map(|(name, _)| name.to_string()));
                let mut next = index;
                if token == "crate" {
                    module.clear();
                    next += 1;
                }
                while tokens.get(next) == Some(&"super") {
                    module.pop();
                    next += 1;
                    if tokens[next..].starts_with(&["::", "super"]) {
                        next += 1;
                    }
                }
                tree(&tokens, next, &module, &mut found);
            }
            _ => {}
        }
    }
    found
}

/// Reads what follows a prefix, `::a::b` or `::{a::b, c}`, and returns where it ends.
fn tree(tokens: &[&str], mut at: usize, prefix: &[String], found: &mut Vec<ModulePath>) -> usize {
    let mut path = prefix.to_vec();
    while tokens.get(at) == Some(&"::") {
        at += 1;
        match tokens.get(at) {
            Some(&"{") => {
                at += 1;
                while !matches!(tokens.get(at), None | Some(&"}")) {
                    let mut branch = path.clone();
                    branch.push(tokens[at].to_string());
                    at = tree(tokens, at + 1, &branch, found);
                    // `as name` and the comma.
                    while !matches!(tokens.get(at), None | Some(&"," | &"}")) {
                        at += 1;
                    }
                    if tokens.get(at) == Some(&",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some(word) => {
                path.push(word.to_string());
                at += 1;
            }
            None => break,
        }
    }
    if !path.is_empty() {
        found.push(path);
    }
    at
}

/// Which room a name at the crate's root comes from: what `lib.rs` re-exports, and macros, which live at the root.
fn root_names(sources: &[Source]) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for source in sources {
        let tokens = tokens(&source.code);
        if source.module.is_empty() {
            for (index, _) in tokens
                .windows(2)
                .enumerate()
                .filter(|(_, pair)| *pair == ["pub", "use"])
            {
                let mut paths = Vec::new();
                tree(&tokens, index + 3, &[tokens[index + 2].to_string()], &mut paths);
                for path in paths {
                    names.insert(path[path.len() - 1].clone(), path[0].clone());
                }
            }
        } else {
            for three in tokens
                .windows(3)
                .filter(|three| three[0] == "macro_rules" && three[1] == "!")
            {
                names.insert(three[2].to_string(), source.module[0].clone());
            }
        }
    }
    names
}

/// Everything that breaks the order, one sentence each.
fn violations(sources: &[Source]) -> Vec<String> {
    let root_names = root_names(sources);
    let mut problems = Vec::new();
    for source in sources {
        let Some(room) = source.module.first() else { continue };
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| name == room) else {
            problems.push(format!(
                "{}: `{room}` is no room: give it a place in the order first",
                source.file
            ));
            continue;
        };
        for path in paths(source) {
            let Some(first) = path.first() else { continue };
            let used = root_names.get(first).unwrap_or(first);
            let is_room = ROOMS.iter().any(|(name, _)| name == used);
            if is_room && used != room && !allowed.contains(&used.as_str()) {
                problems.push(format!(
                    "{}: `{room}` may not use `{used}` (crate::{})",
                    source.file,
                    path.join("::")
                ));
            }
            if room == "ops" && used == "ops" {
                problems.extend(operator_violation(sources, source, &path));
            }
        }
    }
    problems.dedup();
    problems
}

/// An operator's file may use its own family and what operators share, but no other operator's file.
fn operator_violation(sources: &[Source], source: &Source, path: &ModulePath) -> Option<String> {
    let (own, other) = (source.module.get(1)?, path.get(1)?);
    let reaches = own != other && has_operators(sources, own) && has_operators(sources, other);
    reaches.then(|| {
        format!(
            "{}: reaches into another operator's file (crate::{})",
            source.file,
            path.join("::")
        )
    })
}

/// Whether a module of `ops/` holds an operator, and is not among what operators share.
fn has_operators(sources: &[Source], module: &str) -> bool {
    let inside = |source: &&Source| source.module.iter().map(String::as_str).take(2).eq(["ops", module]);
    sources
        .iter()
        .filter(inside)
        .any(|source| tokens(&source.code).windows(2).any(|pair| pair == ["Operator", "for"]))
}

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn rooms_keep_their_order() {
    let problems = violations(&sources(&project().join("src")));
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_room_uses_only_rooms_listed_before_it() {
    for (index, (room, allowed)) in ROOMS.iter().enumerate() {
        for used in *allowed {
            assert!(
                ROOMS[..index].iter().any(|(name, _)| name == used),
                "{room} uses {used}, which is not before it"
            );
        }
    }
}

#[test]
fn every_shader_is_used() {
    let folder = project().join("shaders");
    let mut shaders = Vec::new();
    collect(&folder, "wgsl", &mut shaders);
    let mut files = Vec::new();
    collect(&project().join("src"), "rs", &mut files);
    let texts: Vec<String> = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    for shader in shaders {
        let name = format!(
            "/{}\"",
            shader
                .strip_prefix(&folder)
                .unwrap()
                .to_string_lossy()
                .replace('\\', "/")
        );
        assert!(
            texts.iter().any(|text| text.contains(&name)),
            "no source includes {}",
            shader.display()
        );
    }
}

#[test]
fn a_lower_room_that_uses_a_higher_one_is_found() {
    let cases = [
        ("tensor/shape.rs", "use crate::graph::Graph;"),
        (
            "cpu/gemm.rs",
            "use crate::{error::Error, gpu::{kernel::Kernel, device}};",
        ),
        ("graph/mod.rs", "fn f() { let x = crate::import::onnx::read(); }"),
        ("ops/conv.rs", "mod tests { use super::super::super::plan::Program; }"),
        ("ops/conv.rs", "use super::super::plan::Program;"),
        ("plan/mod.rs", "use crate::Session;"),
        (
            "tensor/mod.rs",
            "fn f() -> char { '\"' } use crate::cpu::gemm; const S: &str = \"\";",
        ),
        ("ops/conv.rs", "use super::matmul::Gemm; impl Operator for Conv {}"),
        (
            "ops/conv.rs",
            "use super::{Operator, matmul}; impl Operator for Conv {}",
        ),
        (
            "ops/conv/winograd.rs",
            "use crate::ops::{context, matmul::Gemm}; impl Operator for A {}",
        ),
        ("helpers.rs", ""),
        ("cpu/mod.rs", "crate::operators!();"),
    ];
    for (file, text) in cases {
        let sources = [
            source("lib.rs", "pub mod session; pub use session::{Session, Options};"),
            source("ops/registry.rs", "macro_rules! operators { () => {} }"),
            source("ops/matmul.rs", "impl Operator for MatMul {}"),
            source(file, text),
        ];
        assert!(!violations(&sources).is_empty(), "{file}: {text}");
    }
}

#[test]
fn permitted_uses_pass() {
    let cases = [
        (
            "session.rs",
            "use crate::import::onnx; use crate::{plan::Program, Error};",
        ),
        (
            "graph/build.rs",
            "use super::Graph; use super::super::tensor::Shape; mod tests { use super::*; }",
        ),
        (
            "ops/conv.rs",
            "use super::context::CpuContext; use crate::cpu::{gemm::{self, Tile as T}, conv}; use super::Operator;",
        ),
        (
            "ops/conv/winograd.rs",
            "use super::shared; use crate::ops::conv::Attributes; use crate::ops::conv;",
        ),
        ("ops/registry.rs", "use super::{conv::Conv, matmul::MatMul};"),
        (
            "tensor/mod.rs",
            "// use crate::plan::Program;\n/* crate::wasm */ const S: &str = \"crate::session::x\"; fn f<'a>(x: &'a u8) {}",
        ),
        (
            "tensor/dtype.rs",
            "const S: &str = r#\"\"crate::gpu::x\"#; const C: char = '\\''; pub(crate) fn f() {}",
        ),
        ("wasm/mod.rs", "use crate::session::Session;"),
    ];
    for (file, text) in cases {
        let sources = [source("lib.rs", "pub use error::{Error, Result};"), source(file, text)];
        assert!(violations(&sources).is_empty(), "{file}: {:?}", violations(&sources));
    }
}
