//! Regular expressions in the syntax of RE2, matched in time linear in the text: the pattern becomes a nondeterministic
//! automaton whose states are all followed at once (K. Thompson, "Regular expression search algorithm", CACM 11, 1968).
//! There are no captures: a match is where it begins and ends, and the longest counts.
//!
//! Not supported, with an error: `\C`, and Unicode classes other than `\pN` and `\p{Cc}`.

use super::super::lower::{invalid, unsupported};
use crate::error::{Error, ErrorCode, Result};

/// States that an automaton has at most.
const MAX_STATES: usize = 1 << 16;

/// Groups that a pattern nests at most, and the most that a counted repetition repeats; RE2's own limits are of the size.
const MAX_DEPTH: usize = 200;
const MAX_REPEAT: u32 = 1000;

/// A compiled pattern.
#[derive(Debug)]
pub struct Regex {
    states: Vec<State>,
}

#[derive(Debug)]
enum State {
    /// Takes one character, then goes to the next state.
    Take(Class),
    /// Goes on to the next state where this holds.
    Check(Assertion),
    /// Goes to each of two states.
    Split(usize, usize),
    Match,
}

#[derive(Clone, Debug)]
enum Node {
    Empty,
    Class(Class),
    Check(Assertion),
    Concat(Vec<Node>),
    Either(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
}

/// How often at least, and how often at most where there is a limit.
type Counts = (u32, Option<u32>);

/// A set of characters.
#[derive(Clone, Debug, Default)]
struct Class {
    ranges: Vec<(char, char)>,
    /// Sets within the set, with what says whether a character is in them.
    sets: Vec<(fn(char) -> bool, bool)>,
    negated: bool,
    any_case: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Assertion {
    TextStart,
    TextEnd,
    LineStart,
    LineEnd,
    WordEdge,
    NoWordEdge,
}

impl Class {
    fn contains(&self, c: char) -> bool {
        let has = |c: char| {
            self.ranges.iter().any(|&(low, high)| (low..=high).contains(&c))
                || self.sets.iter().any(|&(set, expected)| set(c) == expected)
        };
        let folded = || {
            let single = |mut mapped: Box<dyn Iterator<Item = char>>| mapped.next().filter(|_| mapped.next().is_none());
            let lower = single(Box::new(c.to_lowercase()));
            let upper = single(Box::new(c.to_uppercase()));
            [lower, upper].into_iter().flatten().any(has)
        };
        (has(c) || (self.any_case && folded())) != self.negated
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\x0c' | '\r' | ' ')
}

/// The classes between `[:` and `:]`.
fn posix(name: &str) -> Option<fn(char) -> bool> {
    Some(match name {
        "alnum" => |c| c.is_ascii_alphanumeric(),
        "alpha" => |c| c.is_ascii_alphabetic(),
        "ascii" => |c| c.is_ascii(),
        "blank" => |c| matches!(c, '\t' | ' '),
        "cntrl" => |c| c.is_ascii_control(),
        "digit" => |c| c.is_ascii_digit(),
        "graph" => |c| c.is_ascii_graphic(),
        "lower" => |c| c.is_ascii_lowercase(),
        "print" => |c| c.is_ascii_graphic() || c == ' ',
        "punct" => |c| c.is_ascii_punctuation(),
        "space" => |c| is_space(c) || c == '\x0b',
        "upper" => |c| c.is_ascii_uppercase(),
        "word" => is_word,
        "xdigit" => |c| c.is_ascii_hexdigit(),
        _ => return None,
    })
}

impl Regex {
    /// Compiles a pattern.
    pub fn new(pattern: &str) -> Result<Regex> {
        let mut parser = Parser {
            rest: pattern,
            flags: Flags::default(),
            depth: 0,
        };
        let node = parser.alternatives().map_err(|error| error.actual(pattern))?;
        if !parser.rest.is_empty() {
            return Err(invalid("a regular expression has a parenthesis too many").actual(pattern));
        }
        let mut regex = Regex { states: Vec::new() };
        regex.add(&node)?;
        regex.push(State::Match)?;
        Ok(regex)
    }

    fn push(&mut self, state: State) -> Result<usize> {
        if self.states.len() == MAX_STATES {
            return Err(
                Error::new(ErrorCode::LimitExceeded, "a regular expression is too large")
                    .expected(format!("at most {MAX_STATES} states")),
            );
        }
        self.states.push(state);
        Ok(self.states.len() - 1)
    }

    /// Adds states that go to the state after them where the node has matched.
    fn add(&mut self, node: &Node) -> Result<()> {
        match node {
            Node::Empty => {}
            Node::Class(class) => {
                self.push(State::Take(class.clone()))?;
            }
            Node::Check(assertion) => {
                self.push(State::Check(*assertion))?;
            }
            Node::Concat(nodes) => nodes.iter().try_for_each(|node| self.add(node))?,
            Node::Either(nodes) => {
                let mut jumps = Vec::new();
                for (index, node) in nodes.iter().enumerate() {
                    let last = index + 1 == nodes.len();
                    let split = if last {
                        None
                    } else {
                        Some(self.push(State::Split(0, 0))?)
                    };
                    self.add(node)?;
                    if let Some(split) = split {
                        jumps.push(self.push(State::Split(0, 0))?);
                        self.states[split] = State::Split(split + 1, self.states.len());
                    }
                }
                let end = self.states.len();
                jumps
                    .into_iter()
                    .for_each(|jump| self.states[jump] = State::Split(end, end));
            }
            Node::Repeat(node, min, max) => {
                for _ in 0..*min {
                    self.add(node)?;
                }
                match max {
                    None => {
                        let split = self.push(State::Split(0, 0))?;
                        self.add(node)?;
                        self.push(State::Split(split, split))?;
                        self.states[split] = State::Split(split + 1, self.states.len());
                    }
                    Some(max) => {
                        let mut splits = Vec::new();
                        for _ in *min..*max {
                            splits.push(self.push(State::Split(0, 0))?);
                            self.add(node)?;
                        }
                        let end = self.states.len();
                        splits
                            .into_iter()
                            .for_each(|split| self.states[split] = State::Split(split + 1, end));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        let found = self.run(text, 0, true);
        found.is_some_and(|(_, end)| end == text.len())
    }

    /// Where the first match from byte `from` on begins and ends; of those that begin there, the longest.
    pub fn find(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        self.run(text, from, false)
    }

    fn run(&self, text: &str, from: usize, anchored: bool) -> Option<(usize, usize)> {
        let mut found: Option<(usize, usize)> = None;
        let (mut now, mut next) = (Threads::new(self.states.len()), Threads::new(self.states.len()));
        let mut previous = text[..from].chars().next_back();
        let mut characters = text[from..].char_indices();
        loop {
            let (at, current) = match characters.next() {
                Some((offset, c)) => (from + offset, Some(c)),
                None => (text.len(), None),
            };
            // Threads are in the order in which they began, so the first to reach a state began first.
            if found.is_none() && (!anchored || at == from) {
                self.follow(&mut now, 0, at, previous, current);
            }
            for &(state, start) in &now.list {
                if matches!(self.states[state], State::Match) && found.is_none_or(|(first, _)| start <= first) {
                    found = Some((start, at));
                }
            }
            let Some(c) = current else { break };
            if now.list.is_empty() && (anchored || found.is_some()) {
                break;
            }
            let after = characters.clone().next().map(|(_, c)| c);
            for &(state, start) in &now.list {
                let takes = matches!(&self.states[state], State::Take(class) if class.contains(c));
                if takes && found.is_none_or(|(first, _)| start <= first) {
                    self.follow(&mut next, state + 1, start, Some(c), after);
                }
            }
            std::mem::swap(&mut now, &mut next);
            next.clear();
            previous = Some(c);
        }
        found
    }

    /// Adds a thread at `state` and wherever that leads without taking a character.
    fn follow(&self, threads: &mut Threads, state: usize, start: usize, before: Option<char>, after: Option<char>) {
        let mut stack = vec![state];
        while let Some(state) = stack.pop() {
            if std::mem::replace(&mut threads.seen[state], true) {
                continue;
            }
            threads.touched.push(state);
            match &self.states[state] {
                State::Split(a, b) => stack.extend([*b, *a]),
                State::Check(assertion) if assertion.holds(before, after) => stack.push(state + 1),
                State::Check(_) => {}
                State::Take(_) | State::Match => threads.list.push((state, start)),
            }
        }
    }
}

impl Assertion {
    fn holds(self, before: Option<char>, after: Option<char>) -> bool {
        let edge = before.is_some_and(is_word) != after.is_some_and(is_word);
        match self {
            Assertion::TextStart => before.is_none(),
            Assertion::TextEnd => after.is_none(),
            Assertion::LineStart => before.is_none_or(|c| c == '\n'),
            Assertion::LineEnd => after.is_none_or(|c| c == '\n'),
            Assertion::WordEdge => edge,
            Assertion::NoWordEdge => !edge,
        }
    }
}

/// States at one place of the text, each with where its match began.
struct Threads {
    list: Vec<(usize, usize)>,
    seen: Vec<bool>,
    touched: Vec<usize>,
}

impl Threads {
    fn new(states: usize) -> Threads {
        Threads {
            list: Vec::new(),
            seen: vec![false; states],
            touched: Vec::new(),
        }
    }

    fn clear(&mut self) {
        self.list.clear();
        self.touched.drain(..).for_each(|state| self.seen[state] = false);
    }
}

#[derive(Clone, Copy, Default)]
struct Flags {
    any_case: bool,
    lines: bool,
    dot_takes_newline: bool,
}

struct Parser<'p> {
    rest: &'p str,
    flags: Flags,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn takes(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// What stands before a closing parenthesis or the end.
    fn alternatives(&mut self) -> Result<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorCode::LimitExceeded,
                "a regular expression nests too deeply",
            ));
        }
        let flags = self.flags;
        let mut either = vec![self.sequence()?];
        while self.takes("|") {
            either.push(self.sequence()?);
        }
        self.flags = flags;
        self.depth -= 1;
        Ok(if either.len() == 1 {
            either.remove(0)
        } else {
            Node::Either(either)
        })
    }

    fn sequence(&mut self) -> Result<Node> {
        let mut nodes = Vec::new();
        while self.peek().is_some_and(|c| c != '|' && c != ')') {
            if self.takes("\\Q") {
                let (quoted, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
                nodes.extend(quoted.chars().map(|c| self.literal(c)));
                self.rest = rest;
                // What follows repeats the last character.
                if let Some(last) = nodes.pop() {
                    let last = self.repeated(last)?;
                    nodes.push(last);
                }
                continue;
            }
            let node = self.atom()?;
            let node = self.repeated(node)?;
            nodes.push(node);
        }
        Ok(Node::Concat(nodes))
    }

    /// The node as often as the operators behind it say. What asks for fewer repetitions finds the same matches when the
    /// longest counts, so it is read over.
    fn repeated(&mut self, mut node: Node) -> Result<Node> {
        let mut repeats = 0;
        loop {
            let counts = match self.peek() {
                Some('*') => self.operator((0, None)),
                Some('+') => self.operator((1, None)),
                Some('?') => self.operator((0, Some(1))),
                Some('{') => self.counts()?,
                _ => None,
            };
            let Some((min, max)) = counts else {
                return Ok(node);
            };
            self.takes("?");
            repeats += 1;
            if repeats > MAX_DEPTH {
                return Err(Error::new(
                    ErrorCode::LimitExceeded,
                    "a regular expression nests too deeply",
                ));
            }
            node = Node::Repeat(Box::new(node), min, max);
        }
    }

    /// Reads over an operator of one character.
    fn operator(&mut self, counts: Counts) -> Option<Counts> {
        self.next();
        Some(counts)
    }

    /// The counts of `{n}`, `{n,}` or `{n,m}`; nothing, and nothing is read, when this is a brace that
    /// stands for itself.
    fn counts(&mut self) -> Result<Option<Counts>> {
        let Some((inside, _)) = self.rest[1..].split_once('}') else {
            return Ok(None);
        };
        let length = inside.len();
        let (low, high) = inside
            .split_once(',')
            .map_or((inside, None), |(low, high)| (low, Some(high)));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(low) || high.is_some_and(|high| !high.is_empty() && !digits(high)) {
            return Ok(None);
        }
        let number = |text: &str| text.parse::<u32>().ok().filter(|&count| count <= MAX_REPEAT);
        let too_large = || invalid(format!("a regular expression repeats more than {MAX_REPEAT} times"));
        let min = number(low).ok_or_else(too_large)?;
        let max = match high {
            None => Some(min),
            Some("") => None,
            Some(high) => Some(number(high).ok_or_else(too_large)?),
        };
        if max.is_some_and(|max| max < min) {
            return Err(invalid("a regular expression repeats at least more often than at most"));
        }
        self.rest = &self.rest[length + 2..];
        Ok(Some((min, max)))
    }

    fn literal(&self, c: char) -> Node {
        Node::Class(Class {
            ranges: vec![(c, c)],
            any_case: self.flags.any_case,
            ..Class::default()
        })
    }

    fn atom(&mut self) -> Result<Node> {
        let check = |assertion| Ok(Node::Check(assertion));
        match self.next() {
            None => Ok(Node::Empty),
            Some('(') => self.group(),
            Some('[') => self.class(),
            Some('.') => Ok(Node::Class(Class {
                ranges: if self.flags.dot_takes_newline {
                    Vec::new()
                } else {
                    vec![('\n', '\n')]
                },
                negated: true,
                ..Class::default()
            })),
            Some('^') if self.flags.lines => check(Assertion::LineStart),
            Some('^') => check(Assertion::TextStart),
            Some('$') if self.flags.lines => check(Assertion::LineEnd),
            Some('$') => check(Assertion::TextEnd),
            Some('\\') => match self.peek() {
                Some('A') => self.assertion(Assertion::TextStart),
                Some('z') => self.assertion(Assertion::TextEnd),
                Some('b') => self.assertion(Assertion::WordEdge),
                Some('B') => self.assertion(Assertion::NoWordEdge),
                _ => {
                    let mut class = Class {
                        any_case: self.flags.any_case,
                        ..Class::default()
                    };
                    if let Some(c) = self.escape(&mut class)? {
                        class.ranges.push((c, c));
                    }
                    Ok(Node::Class(class))
                }
            },
            Some('*' | '+' | '?') => Err(invalid("a regular expression repeats nothing")),
            Some(c) => Ok(self.literal(c)),
        }
    }

    fn assertion(&mut self, assertion: Assertion) -> Result<Node> {
        self.next();
        Ok(Node::Check(assertion))
    }

    /// What is behind an opening parenthesis.
    fn group(&mut self) -> Result<Node> {
        let outer = self.flags;
        let mut close = true;
        if self.takes("?P<")
            || (self.rest.starts_with("?<") && !self.rest.starts_with("?<=") && !self.rest.starts_with("?<!"))
        {
            self.takes("?<");
            let Some((name, rest)) = self.rest.split_once('>') else {
                return Err(invalid("a regular expression has a group whose name does not end"));
            };
            if name.is_empty() || !name.chars().all(is_word) {
                return Err(invalid("a regular expression has a group without a proper name"));
            }
            self.rest = rest;
        } else if self.takes("?") {
            let mut value = true;
            loop {
                match self.next() {
                    Some('i') => self.flags.any_case = value,
                    Some('m') => self.flags.lines = value,
                    Some('s') => self.flags.dot_takes_newline = value,
                    Some('U') => {}
                    Some('-') if value => value = false,
                    Some(':') => break,
                    // Flags alone hold to the end of the group around.
                    Some(')') => {
                        close = false;
                        break;
                    }
                    _ => return Err(invalid("a regular expression has a group of an unknown kind")),
                }
            }
        }
        if !close {
            return Ok(Node::Empty);
        }
        let node = self.alternatives()?;
        if !self.takes(")") {
            return Err(invalid("a regular expression has a parenthesis that is not closed"));
        }
        self.flags = outer;
        Ok(node)
    }

    /// What is behind a backslash: one character, or classes, which are added.
    fn escape(&mut self, class: &mut Class) -> Result<Option<char>> {
        let bad = || invalid("a regular expression has an unknown escape");
        let c = self
            .next()
            .ok_or_else(|| invalid("a regular expression ends with a backslash"))?;
        let mut set = |set: fn(char) -> bool, expected: bool| {
            class.sets.push((set, expected));
            Ok(None)
        };
        match c {
            'd' | 'D' => set(|c| c.is_ascii_digit(), c == 'd'),
            's' | 'S' => set(is_space, c == 's'),
            'w' | 'W' => set(is_word, c == 'w'),
            'p' | 'P' => {
                let braced = self.takes("{");
                let (name, rest) = match braced {
                    true => self.rest.split_once('}').ok_or_else(bad)?,
                    false => self.rest.split_at(self.peek().ok_or_else(bad)?.len_utf8()),
                };
                self.rest = rest;
                let (name, negated) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
                match name {
                    "N" => set(char::is_numeric, (c == 'p') != negated),
                    "Cc" => set(char::is_control, (c == 'p') != negated),
                    _ => Err(unsupported("regular expressions with this Unicode class are not supported").actual(name)),
                }
            }
            'a' => Ok(Some('\x07')),
            'f' => Ok(Some('\x0c')),
            'n' => Ok(Some('\n')),
            'r' => Ok(Some('\r')),
            't' => Ok(Some('\t')),
            'v' => Ok(Some('\x0b')),
            'x' => {
                let digits = if self.takes("{") {
                    let (digits, rest) = self.rest.split_once('}').ok_or_else(bad)?;
                    self.rest = rest;
                    digits
                } else {
                    let (digits, rest) = self.rest.split_at_checked(2).ok_or_else(bad)?;
                    self.rest = rest;
                    digits
                };
                let code = u32::from_str_radix(digits, 16)
                    .ok()
                    .filter(|_| !digits.starts_with('+'));
                code.and_then(char::from_u32).map(Some).ok_or_else(bad)
            }
            '0'..='7' => {
                // As RE2, a digit other than 0 alone would be a reference back, which there is not.
                let mut code = c.to_digit(8).unwrap_or(0);
                let mut count = 1;
                while let Some(digit) = self.peek().and_then(|c| c.to_digit(8)).filter(|_| count < 3) {
                    code = code * 8 + digit;
                    count += 1;
                    self.next();
                }
                let code = Some(code).filter(|_| c == '0' || count > 1);
                code.and_then(char::from_u32).map(Some).ok_or_else(bad)
            }
            c if c.is_ascii_alphanumeric() => Err(bad().expected("an escape of RE2, without references back and \\C")),
            c => Ok(Some(c)),
        }
    }

    /// What is behind an opening bracket.
    fn class(&mut self) -> Result<Node> {
        let open = || invalid("a regular expression has a bracket that is not closed");
        let mut class = Class {
            negated: self.takes("^"),
            any_case: self.flags.any_case,
            ..Class::default()
        };
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            first = false;
            if self.takes("[:") {
                let (name, rest) = self.rest.split_once(":]").ok_or_else(open)?;
                let (name, negated) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
                let set = posix(name).ok_or_else(|| invalid("a regular expression names an unknown class"))?;
                class.sets.push((set, !negated));
                self.rest = rest;
                continue;
            }
            let Some(low) = self.class_character(&mut class)? else {
                continue;
            };
            let mut high = low;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.next();
                high = self.class_character(&mut class)?.unwrap_or('\0');
                if high < low {
                    return Err(invalid("a regular expression has a range that ends before it begins"));
                }
            }
            class.ranges.push((low, high));
        }
        self.next();
        Ok(Node::Class(class))
    }

    fn class_character(&mut self, class: &mut Class) -> Result<Option<char>> {
        match self.next() {
            None => Err(invalid("a regular expression has a bracket that is not closed")),
            Some('\\') => self.escape(class),
            Some(c) => Ok(Some(c)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_say() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("", &[""], &["a"]),
            ("abc", &["abc"], &["ab", "abcd"]),
            ("a.c", &["abc", "aüc"], &["a\nc", "ac"]),
            ("(?s)a.c", &["a\nc"], &[]),
            ("a*b+c?", &["b", "aabbc"], &["a", "bcc"]),
            ("(a|bc|)d", &["ad", "bcd", "d"], &["bd", "abcd"]),
            ("[a-cx-]+", &["abcx-"], &["d"]),
            ("[^\\d\\s]+", &["ab!"], &["a1", "a b"]),
            ("[]a]+", &["]a"], &["b"]),
            (
                "\\w+@[\\w.]+\\.[a-z]{2,3}",
                &["me_1@some.host.org"],
                &["me@host", "@a.com"],
            ),
            ("(?:ab){2}", &["abab"], &["ab", "ababab"]),
            ("a{2,}", &["aa", "aaaa"], &["a"]),
            ("a{,2}", &["a{,2}"], &["aa"]),
            ("x{1", &["x{1"], &["x"]),
            ("(?i)straße", &["STRAßE", "straße"], &["strasse"]),
            ("(?i:A)b", &["ab", "Ab"], &["aB"]),
            ("a(?i)b|c", &["aB", "C"], &["AB"]),
            ("[[:alpha:]_][[:^alpha:]]", &["a1", "_-"], &["1a", "aa"]),
            ("\\Qa.b\\E+", &["a.b", "a.bb"], &["axb", "a.ba.b"]),
            ("\\x41\\x{1F600}\\101\\n", &["A😀A\n"], &[]),
            ("^\\Aab$\\z", &["ab"], &["ab\n"]),
            ("(?m)a$\n^b", &["a\nb"], &[]),
            ("\\bfoo\\b.*\\Bx", &["foo axx", "foo ax"], &["foo x"]),
            ("(?P<year>\\d{4})-(?<month>\\d\\d)", &["2024-05"], &["24-05"]),
            ("(a*)*(b|a+?)??", &["", "aaa", "aab"], &["ba"]),
            ("\\pN\\PN", &["½a"], &["aa"]),
        ];
        for (pattern, yes, no) in cases {
            let regex = Regex::new(pattern).unwrap();
            yes.iter()
                .for_each(|text| assert!(regex.matches(text), "{pattern} and {text:?}"));
            no.iter()
                .for_each(|text| assert!(!regex.matches(text), "{pattern} and {text:?}"));
        }
    }

    #[test]
    fn the_first_match_is_found_and_is_the_longest() {
        let find = |pattern: &str, text: &str, from| Regex::new(pattern).unwrap().find(text, from);
        assert_eq!(find("a|ab|abc", "xxabcabc", 0), Some((2, 5)));
        assert_eq!(find("a|ab|abc", "xxabcab", 3), Some((5, 7)));
        assert_eq!(find("bcd|ab", "abcd", 0), Some((0, 2)));
        assert_eq!(find("b*", "abb", 0), Some((0, 0)));
        assert_eq!(find("b+", "aüb", 0), Some((3, 4)));
        assert_eq!(find("\\bb", "ab b", 1), Some((3, 4)));
        assert_eq!(find("z", "abc", 0), None);
        let text = "a".repeat(2000);
        assert_eq!(find("(a*)*b", &text, 0), None);
    }

    #[test]
    fn wrong_and_too_large_patterns_are_errors() {
        for pattern in [
            "(",
            ")",
            "a)",
            "[a",
            "[z-a]",
            "*a",
            "a{2,1}",
            "a{1001}",
            "\\1",
            "\\C",
            "\\p{Greek}",
            "(?=a)",
            "(?<=a)",
            "\\",
            "[[:no:]]",
            "(?P<a b>c)",
            "\\x4",
        ] {
            assert!(Regex::new(pattern).is_err(), "{pattern}");
        }
        assert_eq!(
            Regex::new("((a{1000}){1000}){1000}").unwrap_err().code(),
            ErrorCode::LimitExceeded
        );
        assert!(Regex::new(&"(".repeat(100_000)).is_err());
        assert!(Regex::new(&format!("a{}", "*".repeat(100_000))).is_err());
    }
}
