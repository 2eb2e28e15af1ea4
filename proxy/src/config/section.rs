//! Reads a TOML table key by key and notes every fault, where a derived deserialiser would stop at the first.

use std::{cell::RefCell, collections::BTreeSet, fmt, ops::RangeInclusive};

use toml::{Table, Value};

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Path of the key, such as `server.listen[1]`; empty for the file as a whole.
    pub key: String,
    /// What was found and what was expected.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "{}: {}", self.key, self.problem)
        }
    }
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    pub(super) fn note(&self, key: impl Into<String>, problem: impl Into<String>) {
        self.0.borrow_mut().push(Fault {
            key: key.into(),
            problem: problem.into(),
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<Fault> {
        self.0.into_inner()
    }
}

/// A table of the file. Keys that nobody asked for are faults once it is [finished](Section::finish).
#[derive(Debug)]
pub(super) struct Section<'a> {
    path: String,
    table: &'a Table,
    faults: &'a Faults,
    known: BTreeSet<&'static str>,
    /// Tables under other keys were asked for.
    has_others: bool,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a Table, faults: &'a Faults) -> Self {
        Self {
            path: String::new(),
            table,
            faults,
            known: BTreeSet::new(),
            has_others: false,
        }
    }

    /// The full path of a key of this section.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn fault(&self, key: &str, problem: impl Into<String>) {
        self.faults.note(self.path_of(key), problem);
    }

    /// Takes these keys for known, whatever they say.
    pub(super) fn know(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.insert(key);
        self.table.get(key)
    }

    fn wrong_type(&self, key: &str, expected: &str, found: &Value) {
        self.fault(
            key,
            format!("expected {expected}, found {}", described(found)),
        );
    }

    /// A table below this one.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Self> {
        let value = self.value(key)?;
        self.below(self.path_of(key), value)
    }

    fn below(&self, path: String, value: &'a Value) -> Option<Self> {
        let Some(table) = value.as_table() else {
            self.faults.note(
                path,
                format!("expected a table, found {}", described(value)),
            );
            return None;
        };
        Some(Self {
            path,
            table,
            faults: self.faults,
            known: BTreeSet::new(),
            has_others: false,
        })
    }

    /// As [`section`](Self::section), but its absence is a fault.
    pub(super) fn required_section(&mut self, key: &'static str) -> Option<Self> {
        if !self.has(key) {
            self.known.insert(key);
            self.fault(key, format!("missing; expected a table [{key}]"));
        }
        self.section(key)
    }

    /// The tables below a table whose keys are free names.
    pub(super) fn named_sections(&mut self, key: &'static str) -> Vec<(&'a str, Self)> {
        let Some(Self { path, table, .. }) = self.section(key) else {
            return Vec::new();
        };
        table
            .iter()
            .filter_map(|(name, value)| {
                let section = self.below(format!("{path}.{name}"), value)?;
                Some((name.as_str(), section))
            })
            .collect()
    }

    /// The tables under keys that nobody has asked for so far: their names are free.
    pub(super) fn other_sections(&mut self) -> Vec<(&'a str, Self)> {
        self.has_others = true;
        self.table
            .iter()
            .filter(|(key, value)| value.is_table() && !self.known.contains(key.as_str()))
            .filter_map(|(key, value)| Some((key.as_str(), self.below(self.path_of(key), value)?)))
            .collect()
    }

    /// The tables of a list, as `[[key]]` writes it.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(values) = value.as_array() else {
            self.wrong_type(
                key,
                &format!("a list of tables, [[{}]]", self.path_of(key)),
                value,
            );
            return Vec::new();
        };
        values
            .iter()
            .enumerate()
            .filter_map(|(index, value)| {
                self.below(self.path_of(&format!("{key}[{index}]")), value)
            })
            .collect()
    }

    pub(super) fn text(&mut self, key: &'static str, expected: &str) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = value.as_str().filter(|text| !text.is_empty());
        if text.is_none() {
            self.wrong_type(key, expected, value);
        }
        text
    }

    /// As [`text`](Self::text), but its absence is a fault.
    pub(super) fn required_text(&mut self, key: &'static str, expected: &str) -> Option<&'a str> {
        if !self.has(key) {
            self.known.insert(key);
            self.fault(key, format!("missing; expected {expected}"));
        }
        self.text(key, expected)
    }

    /// A list of texts; elements of another type are faults and left out. The index goes into fault paths.
    pub(super) fn texts(
        &mut self,
        key: &'static str,
        expected: &str,
    ) -> Option<Vec<(usize, &'a str)>> {
        let value = self.value(key)?;
        let Some(values) = value.as_array() else {
            self.wrong_type(key, expected, value);
            return None;
        };
        let texts = values.iter().enumerate().filter_map(|(index, value)| {
            let text = value.as_str();
            if text.is_none() {
                self.wrong_type(&format!("{key}[{index}]"), "text", value);
            }
            Some((index, text?))
        });
        Some(texts.collect())
    }

    /// A table whose keys are free names and whose values are texts; others are faults and left out.
    pub(super) fn text_by_name(
        &mut self,
        key: &'static str,
        expected: &str,
    ) -> Option<Vec<(&'a str, &'a str)>> {
        let below = self.section(key)?;
        let texts = below.table.iter().filter_map(|(name, value)| {
            let text = value.as_str().filter(|text| !text.is_empty());
            if text.is_none() {
                below.wrong_type(&format!("{name:?}"), expected, value);
            }
            Some((name.as_str(), text?))
        });
        Some(texts.collect())
    }

    /// A whole number in `range`, or `default`.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let Some(value) = self.value(key) else {
            return default;
        };
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let number = value
            .as_integer()
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| range.contains(number));
        number.unwrap_or_else(|| {
            self.wrong_type(key, &expected, value);
            default
        })
    }

    /// `true`, `false`, or `default`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.value(key) else {
            return default;
        };
        value.as_bool().unwrap_or_else(|| {
            self.wrong_type(key, "true or false", value);
            default
        })
    }

    /// Notes a fault for each key that is not among those asked for.
    pub(super) fn finish(self) {
        let known: Vec<_> = self.known.iter().copied().collect();
        for (key, value) in self.table {
            let is_other = self.has_others && value.is_table();
            if !is_other && !self.known.contains(key.as_str()) {
                self.fault(
                    key,
                    format!("unknown key; known here: {}", known.join(", ")),
                );
            }
        }
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "an empty text".to_owned(),
        Value::String(text) => format!("the text {text:?}"),
        Value::Integer(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(value) => format!("{value}"),
        Value::Datetime(value) => format!("the date {value}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}
