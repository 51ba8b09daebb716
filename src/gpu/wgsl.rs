//! Assembles one dispatch: a WGSL file of `shaders/` with its bindings, parameters, unrolled loops and epilogue.
//!
//! A shader file names neither bindings nor the parameter block; both are declared here from the builder's calls, so
//! that the two sides cannot drift apart. Lines that start with `//:` are directives:
//!
//! ```text
//! //: for r in 0..ROWS        repeats the lines up to its `end`, with `$r` replaced by 0, 1, …
//! //: if FLAG / if !FLAG      keeps the lines up to `else` or `end` when FLAG is set (or not)
//! //: else
//! //: end
//! ```
//!
//! `$NAME` is replaced by a definition. Names are capital letters, loop variables one small letter, so `$ROWSu` and
//! `acc$r_$c` read as expected. Whatever is unknown stays in the text, where WGSL refuses it.

use crate::tensor::map::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;

use super::kernel::{Binding, Dispatch, GpuCaps, Shader};

/// The text of a shader file. Outside of tests, comments and indentation are left out when the crate is compiled.
macro_rules! shader_text {
    ($file:literal) => {{
        const FILE: &str = include_str!($file);
        const LENGTH: usize = $crate::gpu::wgsl::condense(FILE, &mut []);
        const BYTES: [u8; LENGTH] = {
            let mut bytes = [0; LENGTH];
            $crate::gpu::wgsl::condense(FILE, &mut bytes);
            bytes
        };
        const TEXT: &str = match std::str::from_utf8(&BYTES) {
            Ok(text) => text,
            Err(_) => panic!("a shader is not UTF-8"),
        };
        if cfg!(test) { FILE } else { TEXT }
    }};
}
pub(super) use shader_text;

/// Writes a shader's lines to `out` without indentation, comments and empty lines, and gives their length; an empty `out`
/// only counts. Directives, which look like comments, stay.
pub(super) const fn condense(file: &str, out: &mut [u8]) -> usize {
    let bytes = file.as_bytes();
    let (mut at, mut length) = (0, 0);
    while at < bytes.len() {
        while at < bytes.len() && matches!(bytes[at], b' ' | b'\t' | b'\r' | b'\n') {
            at += 1;
        }
        let start = length;
        while at < bytes.len() && bytes[at] != b'\n' {
            let comment = bytes[at] == b'/' && at + 1 < bytes.len() && bytes[at + 1] == b'/';
            let directive = comment && at + 2 < bytes.len() && bytes[at + 2] == b':';
            if comment && !directive {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                break;
            }
            let count = if directive { 3 } else { 1 };
            let mut copied = 0;
            while copied < count {
                if !out.is_empty() {
                    out[length] = bytes[at];
                }
                length += 1;
                at += 1;
                copied += 1;
            }
        }
        if length > start {
            if !out.is_empty() {
                out[length] = b'\n';
            }
            length += 1;
        }
    }
    length
}

/// Threads of a workgroup in kernels that give one thread one element (or vector) of a flat range.
pub const LINEAR_THREADS: u32 = 64;

/// Collects what one dispatch needs and turns it into a [`Dispatch`].
pub struct DispatchBuilder {
    label: &'static str,
    template: &'static str,
    defines: HashMap<String, String>,
    flags: HashSet<&'static str>,
    storages: Vec<(String, String, Binding)>,
    params: Vec<(String, &'static str, u32)>,
    functions: String,
}

impl DispatchBuilder {
    /// `label` names the kernel; `template` is the text of its file in `shaders/`.
    pub fn new(label: &'static str, template: &'static str) -> DispatchBuilder {
        DispatchBuilder {
            label,
            template,
            defines: HashMap::new(),
            flags: HashSet::new(),
            storages: Vec::new(),
            params: Vec::new(),
            functions: String::new(),
        }
    }

    /// Declares the next storage binding as `name: array<element>`.
    pub fn storage(mut self, name: impl Into<String>, element: impl Into<String>, binding: Binding) -> DispatchBuilder {
        self.storages.push((name.into(), element.into(), binding));
        self
    }

    /// Adds `params.name: u32`.
    pub fn param(mut self, name: impl Into<String>, value: u32) -> DispatchBuilder {
        self.params.push((name.into(), "u32", value));
        self
    }

    /// Adds `params.name: i32`.
    pub fn param_i32(mut self, name: impl Into<String>, value: i32) -> DispatchBuilder {
        self.params.push((name.into(), "i32", value as u32));
        self
    }

    /// Adds `params.name: f32`.
    pub fn param_f32(mut self, name: impl Into<String>, value: f32) -> DispatchBuilder {
        self.params.push((name.into(), "f32", value.to_bits()));
        self
    }

    /// Adds `params.name` of a WGSL scalar type, given by its bits.
    pub fn param_bits(mut self, name: impl Into<String>, ty: &'static str, bits: u32) -> DispatchBuilder {
        self.params.push((name.into(), ty, bits));
        self
    }

    /// Adds `params.name0`, `params.name1`, … of type `u32`.
    pub fn param_list(mut self, name: &str, values: impl IntoIterator<Item = u32>) -> DispatchBuilder {
        for (i, value) in values.into_iter().enumerate() {
            self.params.push((format!("{name}{i}"), "u32", value));
        }
        self
    }

    /// Adds `params.name0`, `params.name1`, … of type `i32`.
    pub fn param_list_i32(mut self, name: &str, values: impl IntoIterator<Item = i32>) -> DispatchBuilder {
        for (i, value) in values.into_iter().enumerate() {
            self.params.push((format!("{name}{i}"), "i32", value as u32));
        }
        self
    }

    /// Replaces `$name` by `value`. The name consists of capital letters.
    pub fn define(mut self, name: &str, value: impl ToString) -> DispatchBuilder {
        self.defines.insert(name.to_owned(), value.to_string());
        self
    }

    /// Sets a flag for `//: if`.
    pub fn flag(mut self, name: &'static str, set: bool) -> DispatchBuilder {
        if set {
            self.flags.insert(name);
        }
        self
    }

    /// Adds a template whose functions the shader calls; it sees the same definitions and flags.
    pub fn functions(mut self, template: &str) -> DispatchBuilder {
        self.functions.push_str(template);
        self.functions.push('\n');
        self
    }

    /// Number of storage bindings so far.
    pub fn storage_count(&self) -> usize {
        self.storages.len()
    }

    /// The finished dispatch.
    pub fn finish(self, workgroups: [u32; 3]) -> Dispatch {
        let mut text = String::new();
        if !self.params.is_empty() {
            text.push_str("struct Params {\n");
            for (name, ty, _) in &self.params {
                let _ = writeln!(text, "    {name}: {ty},");
            }
            text.push_str("}\n@group(0) @binding(0) var<uniform> params: Params;\n");
        }
        for (i, (name, element, binding)) in self.storages.iter().enumerate() {
            let access = binding.access().wgsl();
            let index = i + 1;
            let _ = writeln!(
                text,
                "@group(0) @binding({index}) var<storage, {access}> {name}: array<{element}>;"
            );
        }
        expand(&self.functions, &self.defines, &self.flags, &mut text);
        expand(self.template, &self.defines, &self.flags, &mut text);
        Dispatch {
            shader: Shader {
                label: self.label,
                wgsl: Arc::from(text),
                entry_point: "main",
            },
            bindings: self.storages.into_iter().map(|(_, _, binding)| binding).collect(),
            params: self.params.into_iter().map(|(_, _, value)| value).collect(),
            workgroups,
        }
    }
}

/// Workgroup counts for `threads` threads in workgroups of [`LINEAR_THREADS`], folded into two dimensions where one is
/// too short. Shaders with `LINEAR` functions recover the flat index; the caller's shader checks the upper bound.
pub fn linear_workgroups(threads: u64, caps: &GpuCaps) -> [u32; 3] {
    let groups = threads.div_ceil(u64::from(LINEAR_THREADS)).max(1);
    fold_workgroups(groups, caps)
}

/// Workgroup counts for `groups` workgroups, folded into two dimensions where one is too short.
pub fn fold_workgroups(groups: u64, caps: &GpuCaps) -> [u32; 3] {
    let max = u64::from(caps.max_workgroups.max(1));
    if groups <= max {
        return [groups as u32, 1, 1];
    }
    let rows = groups.div_ceil(max);
    let columns = groups.div_ceil(rows);
    [columns as u32, rows.min(max) as u32, 1]
}

/// `template` with these flags set and nothing defined.
pub(super) fn expand_flags(template: &str, flags: &HashSet<&'static str>) -> String {
    let mut out = String::new();
    expand(template, &HashMap::new(), flags, &mut out);
    out
}

/// Expands directives and definitions of `template` into `out`.
fn expand(template: &str, defines: &HashMap<String, String>, flags: &HashSet<&'static str>, out: &mut String) {
    let lines: Vec<&str> = template.lines().collect();
    expand_lines(&lines, defines, flags, out);
}

fn expand_lines(lines: &[&str], defines: &HashMap<String, String>, flags: &HashSet<&'static str>, out: &mut String) {
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let Some(directive) = line.trim_start().strip_prefix("//:") else {
            if !line.trim_start().starts_with("//") {
                substitute(line, defines, out);
                out.push('\n');
            }
            at += 1;
            continue;
        };
        let (otherwise, end) = block_end(lines, at);
        let words: Vec<&str> = directive.split_whitespace().collect();
        match words.as_slice() {
            ["if", name] => {
                let holds = match name.strip_prefix('!') {
                    Some(name) => !flags.contains(name),
                    None => flags.contains(name),
                };
                let body = match (holds, otherwise) {
                    (true, _) => &lines[at + 1..otherwise.unwrap_or(end)],
                    (false, Some(otherwise)) => &lines[otherwise + 1..end],
                    (false, None) => &[],
                };
                expand_lines(body, defines, flags, out);
            }
            ["for", name, "in", range] => {
                let (from, to) = range.split_once("..").unwrap_or(("0", range));
                let bound = |text: &str| -> usize {
                    let text = defines.get(text).map_or(text, String::as_str);
                    text.parse().unwrap_or(0)
                };
                let mut inner = defines.clone();
                for value in bound(from)..bound(to) {
                    inner.insert((*name).to_owned(), value.to_string());
                    expand_lines(&lines[at + 1..end], &inner, flags, out);
                }
            }
            // Left in the text, where a compiler's message will show it.
            _ => {
                out.push('$');
                out.push_str(line);
                out.push('\n');
            }
        }
        at = end + 1;
    }
}

/// The lines of the `else` (when there is one) and the `end` that belong to the directive at `start`.
fn block_end(lines: &[&str], start: usize) -> (Option<usize>, usize) {
    let mut depth = 0;
    let mut otherwise = None;
    for (i, line) in lines.iter().enumerate().skip(start) {
        let Some(directive) = line.trim_start().strip_prefix("//:") else {
            continue;
        };
        match directive.split_whitespace().next() {
            Some("if" | "for") => depth += 1,
            Some("else") if depth == 1 => otherwise = Some(i),
            Some("end") => {
                depth -= 1;
                if depth == 0 {
                    return (otherwise, i);
                }
            }
            _ => {}
        }
    }
    (otherwise, lines.len())
}

/// Appends `line` with `$name` replaced.
fn substitute(line: &str, defines: &HashMap<String, String>, out: &mut String) {
    let mut rest = line;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        let upper = after.bytes().take_while(u8::is_ascii_uppercase).count();
        let length = if upper == 0 {
            after.bytes().take(1).filter(u8::is_ascii_lowercase).count()
        } else {
            upper
        };
        match defines.get(&after[..length]) {
            Some(value) => out.push_str(value),
            None => out.push_str(&rest[dollar..dollar + 1 + length]),
        }
        rest = &after[length..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condensed_shader_expands_to_the_same_lines() {
        let file = "// About it.\n\nfn f() {  // what it does\n    //: for r in 0..2\n    a$r = 1 / 2;\n  //: end\n}";
        let mut condensed = vec![0; condense(file, &mut [])];
        condense(file, &mut condensed);
        let condensed = String::from_utf8(condensed).unwrap();
        assert_eq!(condensed, "fn f() {  \n//: for r in 0..2\na$r = 1 / 2;\n//: end\n}\n");
        let lines = |text: &str| -> Vec<String> {
            let text = expanded(text, &[], &[]);
            let code = text
                .lines()
                .map(|line| line.split("//").next().unwrap_or("").trim().to_owned());
            code.filter(|line| !line.is_empty()).collect()
        };
        assert_eq!(lines(&condensed), lines(file));
    }

    fn expanded(template: &str, defines: &[(&str, &str)], flags: &[&'static str]) -> String {
        let defines = defines
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let mut out = String::new();
        expand(template, &defines, &flags.iter().copied().collect(), &mut out);
        out
    }

    #[test]
    fn loops_nest_and_names_end_where_their_case_does() {
        let text = "//: for r in 0..ROWS\n//: for c in 1..3\nlet a$r_$c = $T($ru);\n//: end\n//: end\n";
        assert_eq!(
            expanded(text, &[("ROWS", "2"), ("T", "f32")], &[]),
            "let a0_1 = f32(0u);\nlet a0_2 = f32(0u);\nlet a1_1 = f32(1u);\nlet a1_2 = f32(1u);\n"
        );
    }

    #[test]
    fn conditions_take_else_and_negation() {
        let text = "//: if A\na\n//: if !B\nnot b\n//: end\n//: else\nelse\n//: end\n";
        assert_eq!(expanded(text, &[], &["A"]), "a\nnot b\n");
        assert_eq!(expanded(text, &[], &["A", "B"]), "a\n");
        assert_eq!(expanded(text, &[], &[]), "else\n");
    }

    #[test]
    fn unknown_names_and_directives_stay_visible() {
        assert_eq!(expanded("let x = $Y;", &[], &[]), "let x = $Y;\n");
        assert!(expanded("//: loop\n", &[], &[]).starts_with('$'));
    }

    #[test]
    fn large_counts_fold_into_two_dimensions() {
        let caps = GpuCaps::webgpu_default(super::super::kernel::AdapterKind::Software);
        assert_eq!(linear_workgroups(0, &caps), [1, 1, 1]);
        assert_eq!(linear_workgroups(65, &caps), [2, 1, 1]);
        let [x, y, z] = linear_workgroups(64 * 70_000, &caps);
        assert!(x <= 65535 && y <= 65535 && z == 1 && u64::from(x) * u64::from(y) >= 70_000);
    }
}
