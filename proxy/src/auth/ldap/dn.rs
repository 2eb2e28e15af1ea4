//! Distinguished names from a template (RFC 4514).

use crate::auth::template::NameTemplate;

/// The name of a person's entry, such as `uid={name},ou=people,dc=example,dc=org`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnTemplate(NameTemplate);

impl DnTemplate {
    /// `None` unless the text has exactly one `{name}`, as a whole value.
    pub fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.split_once("{name}")?;
        let is_whole = before.ends_with('=') && (after.is_empty() || after.starts_with([',', '+']));
        NameTemplate::parse(text).filter(|_| is_whole).map(Self)
    }

    pub(super) fn fill(&self, name: &str) -> String {
        self.0.fill(&escape(name))
    }
}

/// A value as RFC 4514 section 2.4 writes it: whatever it holds, it ends where it ended.
fn escape(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut escaped = String::with_capacity(value.len());
    for (index, letter) in value.chars().enumerate() {
        match letter {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            '#' | ' ' if index == 0 => {
                escaped.push('\\');
                escaped.push(letter);
            }
            ' ' if index == last => escaped.push_str("\\ "),
            '\0' => escaped.push_str("\\00"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_value_of_the_dn() {
        let template = DnTemplate::parse("uid={name},ou=people,dc=example").unwrap();
        for (name, dn) in [
            ("alice", "uid=alice,ou=people,dc=example"),
            (
                "alice,ou=admins",
                "uid=alice\\,ou\\=admins,ou=people,dc=example",
            ),
            ("a+cn=x", "uid=a\\+cn\\=x,ou=people,dc=example"),
            ("#61", "uid=\\#61,ou=people,dc=example"),
            (" x ", "uid=\\ x\\ ,ou=people,dc=example"),
            ("x\\", "uid=x\\\\,ou=people,dc=example"),
            ("x\0", "uid=x\\00,ou=people,dc=example"),
        ] {
            assert_eq!(template.fill(name), dn);
        }
    }

    #[test]
    fn a_template_that_would_mix_the_name_with_other_text_is_refused() {
        for text in [
            "uid=alice,dc=example",
            "uid=x{name},dc=example",
            "uid={name}x,dc=example",
            "{name}",
            "uid={name},cn={name}",
        ] {
            assert_eq!(DnTemplate::parse(text), None, "{text}");
        }
    }
}
