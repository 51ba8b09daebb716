//! The list of cases, and the list of those that are known to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::compare::Tolerance;

/// A model with its test data.
#[derive(Clone, Debug)]
pub struct Case {
    /// `<kind>/<name>`, which is also its folder below the folder of cases.
    pub id: String,
    pub folder: PathBuf,
    pub tolerance: Tolerance,
}

impl Case {
    /// Every case of the table in `folder`, in its order.
    pub fn all(folder: &Path) -> Vec<Case> {
        let table = read(&folder.join("cases.tsv"));
        let cases: Vec<Case> = table.lines().skip(1).map(|line| Case::parse(folder, line)).collect();
        assert!(!cases.is_empty(), "{} holds no cases", folder.display());
        cases
    }

    fn parse(folder: &Path, line: &str) -> Case {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or_else(|| panic!("too few columns: {line}"));
        let id = next().to_string();
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is no number: {line}"));
        let tolerance = Tolerance {
            relative: number(next()),
            absolute: number(next()),
        };
        Case {
            folder: folder.join(&id),
            id,
            tolerance,
        }
    }

    /// The folders of its test data, in order.
    pub fn sets(&self) -> Vec<PathBuf> {
        let set = |index| self.folder.join(format!("test_data_set_{index}"));
        (0..).map(set).take_while(|path| path.exists()).collect()
    }

    /// The files `<prefix>_<index>.pb` of a set, in order.
    pub fn files(set: &Path, prefix: &str) -> Vec<Vec<u8>> {
        let path = |index| set.join(format!("{prefix}_{index}.pb"));
        (0..).map_while(|index| fs::read(path(index)).ok()).collect()
    }
}

/// The cases that do not give the expected outputs, each with the reason.
pub struct Exceptions(BTreeMap<String, String>);

impl Exceptions {
    /// The list that lies beside the cases, if there is one, else the committed one.
    pub fn read(cases: &Path) -> Exceptions {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/expected_failures.tsv");
        let own = cases.join("expected_failures.tsv");
        let path = if own.exists() { own } else { committed };
        let entry = |line: &str| match line.split_once('\t') {
            Some((case, reason)) if !reason.trim().is_empty() => (case.to_string(), reason.to_string()),
            _ => panic!("a line of {} gives no reason: {line}", path.display()),
        };
        let text = read(&path);
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Exceptions(lines.map(entry).collect())
    }

    /// Whether the case has to fail.
    pub fn expect_failure(&self, case: &str) -> bool {
        self.0.contains_key(case) && !self.is_random(case)
    }

    /// Whether the case makes random numbers: only their type and shape can be compared.
    pub fn is_random(&self, case: &str) -> bool {
        self.0.get(case).is_some_and(|reason| reason.starts_with("random"))
    }

    /// What is listed and is none of the cases.
    pub fn unknown(&self, cases: &[Case]) -> Vec<&str> {
        let known: BTreeSet<&str> = cases.iter().map(|case| case.id.as_str()).collect();
        self.0
            .keys()
            .map(String::as_str)
            .filter(|case| !known.contains(case))
            .collect()
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}
