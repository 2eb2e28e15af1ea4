//! Where in the configuration file a key stands.

use std::path::Path;

use toml::de::{DeTable, DeValue};

/// The keys of a file with their lines.
#[derive(Debug)]
pub struct Lines<'a> {
    file: String,
    text: &'a str,
    root: Option<DeTable<'a>>,
}

impl<'a> Lines<'a> {
    /// Of the file at `path`, whose content is `text`.
    pub fn new(path: &Path, text: &'a str) -> Self {
        Self {
            file: path.display().to_string(),
            text,
            root: DeTable::parse(text).ok().map(toml::Spanned::into_inner),
        }
    }

    /// `FILE:LINE (KEY)`, or that the key is not there and its default holds.
    pub fn of(&self, key: &str) -> String {
        match self.line(key) {
            Some(line) => format!("{}:{line} ({key})", self.file),
            None => format!("the default of {key} ({})", self.file),
        }
    }

    /// From 1.
    fn line(&self, key: &str) -> Option<usize> {
        let mut table = self.root.as_ref()?;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            let (name, value) = table
                .iter()
                .find(|(name, _)| name.get_ref().as_ref() == part)?;
            if parts.peek().is_none() {
                let before = self.text.get(..name.span().start)?;
                return Some(1 + before.matches('\n').count());
            }
            let DeValue::Table(below) = value.get_ref() else {
                return None;
            };
            table = below;
        }
        None
    }
}
