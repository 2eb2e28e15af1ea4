//! A text with one place for an account's name, as configurations write it: `{name}@example.org`.

/// Where the name goes.
const PLACE: &str = "{name}";

/// A text with exactly one `{name}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameTemplate {
    before: String,
    after: String,
}

impl NameTemplate {
    /// `None` unless the text has exactly one `{name}` and no other brace.
    pub fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.split_once(PLACE)?;
        let has_brace = [before, after].iter().any(|part| part.contains(['{', '}']));
        (!has_brace).then(|| Self {
            before: before.to_owned(),
            after: after.to_owned(),
        })
    }

    pub fn fill(&self, name: &str) -> String {
        [&self.before, name, &self.after].concat()
    }
}

impl Default for NameTemplate {
    /// The name alone.
    fn default() -> Self {
        Self {
            before: String::new(),
            after: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_one_place_for_the_name() {
        let template = NameTemplate::parse("{name}@example.org").unwrap();
        assert_eq!(template.fill("alice"), "alice@example.org");
        for text in ["", "alice", "{name}{name}", "{user}", "{name}}", "{{name}"] {
            assert_eq!(NameTemplate::parse(text), None, "{text}");
        }
    }
}
