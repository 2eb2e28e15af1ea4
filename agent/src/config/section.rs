//! One table of a TOML file, read key by key; what is wrong or left over becomes a [`Fault`].

use std::path::PathBuf;

use toml::{Table, Value};

use super::Fault;

pub(crate) struct Section {
    /// The section's own key, empty for the root.
    name: String,
    table: Table,
    faults: Vec<Fault>,
}

impl Section {
    pub(crate) fn new(name: String, table: Table) -> Self {
        Self {
            name,
            table,
            faults: Vec::new(),
        }
    }

    /// The section below `key`; an absent one is empty.
    pub(crate) fn section(&mut self, key: &str) -> Self {
        let table = match self.table.remove(key) {
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.fault(key, "expected a section");
                Table::new()
            }
            None => Table::new(),
        };
        Self::new(self.path_of(key), table)
    }

    /// Whether the key is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the key holds a list.
    pub(crate) fn is_list(&self, key: &str) -> bool {
        matches!(self.table.get(key), Some(Value::Array(_)))
    }

    /// Ends a section below this one.
    pub(crate) fn close(&mut self, section: Self) {
        self.faults.extend(section.finish());
    }

    /// Ends the section: keys that nobody asked for are faults too.
    pub(crate) fn finish(mut self) -> Vec<Fault> {
        let unknown: Vec<String> = self.table.keys().cloned().collect();
        for key in unknown {
            self.fault(&key, "unknown key");
        }
        self.faults
    }

    pub(crate) fn fault(&mut self, key: &str, message: &str) {
        let key = self.path_of(key);
        self.faults.push(Fault {
            key,
            message: message.to_owned(),
        });
    }

    /// Whether `key` or an element of it has a fault.
    pub(crate) fn has_faults(&self, key: &str) -> bool {
        let path = self.path_of(key);
        self.faults
            .iter()
            .any(|fault| fault.key == path || fault.key.starts_with(&format!("{path}[")))
    }

    pub(crate) fn string(&mut self, key: &str) -> Option<String> {
        let value = self.table.remove(key)?;
        let text = value.as_str().map(str::to_owned);
        if text.is_none() {
            self.fault(key, &format!("expected a string, found {value}"));
        }
        text
    }

    pub(crate) fn boolean(&mut self, key: &str, default: bool) -> bool {
        match self.table.remove(key) {
            None => default,
            Some(Value::Boolean(value)) => value,
            Some(other) => {
                self.fault(key, &format!("expected true or false, found {other}"));
                default
            }
        }
    }

    pub(crate) fn integer(&mut self, key: &str, default: i64, min: i64, max: i64) -> i64 {
        match self.table.remove(key) {
            None => default,
            Some(Value::Integer(value)) if (min..=max).contains(&value) => value,
            Some(other) => {
                self.fault(
                    key,
                    &format!("expected a whole number, {min} to {max}, found {other}"),
                );
                default
            }
        }
    }

    /// An absolute path; an empty default stands for "not given".
    pub(crate) fn path(&mut self, key: &str, default: &str) -> PathBuf {
        let Some(text) = self.string(key) else {
            return PathBuf::from(default);
        };
        let path = PathBuf::from(&text);
        if !path.is_absolute() {
            self.fault(key, &format!("expected an absolute path, found \"{text}\""));
        }
        path
    }

    /// One of several words; the first is the default.
    pub(crate) fn choice<T: Copy + Default>(&mut self, key: &str, choices: &[(&str, T)]) -> T {
        let default = choices.first().map(|(_, value)| *value).unwrap_or_default();
        let Some(text) = self.string(key) else {
            return default;
        };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let words: Vec<String> = choices
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        let words = match words.as_slice() {
            [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
            _ => words.concat(),
        };
        self.fault(key, &format!("expected {words}, found \"{text}\""));
        default
    }

    pub(crate) fn array(&mut self, key: &str) -> Vec<Value> {
        match self.table.remove(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => values,
            Some(other) => {
                self.fault(key, &format!("expected a list, found {other}"));
                Vec::new()
            }
        }
    }

    /// A list of strings, each read by `read`; those that it refuses are faults.
    pub(crate) fn each_string<T>(
        &mut self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut good = Vec::new();
        for (index, value) in self.array(key).into_iter().enumerate() {
            let read = value
                .as_str()
                .ok_or_else(|| format!("expected a string, found {value}"))
                .and_then(&read);
            match read {
                Ok(value) => good.push(value),
                Err(message) => self.fault(&format!("{key}[{index}]"), &message),
            }
        }
        good
    }

    fn path_of(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }
}
