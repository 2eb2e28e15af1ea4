//! Search filters (RFC 4515) with places for values, read once from the configuration.
//!
//! A value is put into the filter that was read, never into its text: no character of a name can change what is searched.

use super::ber::{self, Writer};

/// How deep a filter may be nested.
const DEPTH_MAX: usize = 16;

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Node);

/// What the places of a filter stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) name: &'a str,
    pub(super) dn: &'a str,
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a search filter (RFC 4515) at {at:?}: {problem}")]
pub struct FilterError {
    at: String,
    problem: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    Present(String),
    /// Equality, greater or equal, less or equal, approximate: the tag says which.
    Compare {
        tag: u8,
        attribute: String,
        value: Value,
    },
    Substrings {
        attribute: String,
        first: Option<Value>,
        middle: Vec<Value>,
        last: Option<Value>,
    },
    Extensible {
        rule: Option<String>,
        attribute: Option<String>,
        value: Value,
        in_dn: bool,
    },
}

/// Bytes and places, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Value(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Bytes(Vec<u8>),
    Name,
    Dn,
}

const EQUAL: u8 = ber::context(3);
const AT_LEAST: u8 = ber::context(5);
const AT_MOST: u8 = ber::context(6);
const ABOUT: u8 = ber::context(8);

impl Filter {
    /// Reads a filter. `{name}` and `{dn}` are places.
    ///
    /// # Errors
    /// If the text is no filter.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut parser = Parser { rest: text };
        let node = parser.filter(0)?;
        if parser.rest.is_empty() {
            Ok(Self(node))
        } else {
            Err(parser.error("nothing may follow the filter"))
        }
    }

    /// What every entry fits.
    pub(super) fn anything() -> Self {
        Self(Node::Present("objectClass".to_owned()))
    }

    /// True if the filter depends on the name.
    pub fn has_name(&self) -> bool {
        self.0.has(&Piece::Name)
    }

    /// True if the filter depends on the entry's distinguished name.
    pub fn has_dn(&self) -> bool {
        self.0.has(&Piece::Dn)
    }

    pub(super) fn write(&self, writer: &mut Writer, values: Values<'_>) {
        self.0.write(writer, values);
    }
}

impl Node {
    fn has(&self, piece: &Piece) -> bool {
        match self {
            Self::And(nodes) | Self::Or(nodes) => nodes.iter().any(|node| node.has(piece)),
            Self::Not(node) => node.has(piece),
            Self::Present(_) => false,
            Self::Compare { value, .. } | Self::Extensible { value, .. } => value.0.contains(piece),
            Self::Substrings {
                first,
                middle,
                last,
                ..
            } => first
                .iter()
                .chain(middle)
                .chain(last)
                .any(|value| value.0.contains(piece)),
        }
    }

    /// RFC 4511 section 4.5.1, `Filter`.
    fn write(&self, writer: &mut Writer, values: Values<'_>) {
        let all = |writer: &mut Writer, nodes: &[Self]| {
            for node in nodes {
                node.write(writer, values);
            }
        };
        match self {
            Self::And(nodes) => writer.structure(ber::context(0), |writer| all(writer, nodes)),
            Self::Or(nodes) => writer.structure(ber::context(1), |writer| all(writer, nodes)),
            Self::Not(node) => {
                writer.structure(ber::context(2), |writer| node.write(writer, values));
            }
            Self::Present(attribute) => {
                writer.bytes(ber::context_primitive(7), attribute.as_bytes());
            }
            Self::Compare {
                tag,
                attribute,
                value,
            } => writer.structure(*tag, |writer| {
                writer.text(attribute);
                writer.bytes(ber::OCTET_STRING, &value.filled(values));
            }),
            Self::Substrings {
                attribute,
                first,
                middle,
                last,
            } => writer.structure(ber::context(4), |writer| {
                writer.text(attribute);
                writer.structure(ber::SEQUENCE, |writer| {
                    let parts = [(0, first.as_slice()), (1, middle), (2, last.as_slice())];
                    for (number, part) in parts {
                        for value in part {
                            let tag = ber::context_primitive(number);
                            writer.bytes(tag, &value.filled(values));
                        }
                    }
                });
            }),
            Self::Extensible {
                rule,
                attribute,
                value,
                in_dn,
            } => writer.structure(ber::context(9), |writer| {
                if let Some(rule) = rule {
                    writer.bytes(ber::context_primitive(1), rule.as_bytes());
                }
                if let Some(attribute) = attribute {
                    writer.bytes(ber::context_primitive(2), attribute.as_bytes());
                }
                writer.bytes(ber::context_primitive(3), &value.filled(values));
                if *in_dn {
                    writer.bytes(ber::context_primitive(4), &[0xff]);
                }
            }),
        }
    }
}

impl Value {
    fn filled(&self, values: Values<'_>) -> Vec<u8> {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => bytes.as_slice(),
            Piece::Name => values.name.as_bytes(),
            Piece::Dn => values.dn.as_bytes(),
        });
        pieces.collect::<Vec<_>>().concat()
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn error(&self, problem: &'static str) -> FilterError {
        FilterError {
            at: self.rest.chars().take(24).collect(),
            problem,
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, text: &str, problem: &'static str) -> Result<(), FilterError> {
        if self.take(text) {
            Ok(())
        } else {
            Err(self.error(problem))
        }
    }

    fn filter(&mut self, depth: usize) -> Result<Node, FilterError> {
        if depth >= DEPTH_MAX {
            return Err(self.error("nested too deeply"));
        }
        self.expect("(", "expected \"(\"")?;
        let node = if self.take("&") {
            Node::And(self.list(depth)?)
        } else if self.take("|") {
            Node::Or(self.list(depth)?)
        } else if self.take("!") {
            Node::Not(Box::new(self.filter(depth + 1)?))
        } else {
            self.item()?
        };
        self.expect(")", "expected \")\"")?;
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, FilterError> {
        let mut nodes = Vec::new();
        while self.rest.starts_with('(') {
            nodes.push(self.filter(depth + 1)?);
        }
        if nodes.is_empty() {
            return Err(self.error("expected a filter"));
        }
        Ok(nodes)
    }

    fn item(&mut self) -> Result<Node, FilterError> {
        let (end, _) = self
            .rest
            .char_indices()
            .find(|(_, letter)| "=<>~()".contains(*letter))
            .ok_or_else(|| self.error("expected a comparison"))?;
        let (left, rest) = self.rest.split_at(end);
        if !left
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-;.:".contains(&byte))
        {
            return Err(self.error("not a name of an attribute"));
        }
        self.rest = rest;
        if let Some(left) = left.strip_suffix(':') {
            self.expect("=", "expected \":=\"")?;
            return self.extensible(left);
        }
        if left.is_empty() || left.contains(':') {
            return Err(self.error("expected an attribute before this"));
        }
        let attribute = left.to_owned();
        for (text, tag) in [(">=", AT_LEAST), ("<=", AT_MOST), ("~=", ABOUT)] {
            if self.take(text) {
                let value = self.value()?;
                return Ok(Node::Compare {
                    tag,
                    attribute,
                    value,
                });
            }
        }
        self.expect("=", "expected \"=\", \">=\", \"<=\", \"~=\" or \":=\"")?;
        if self.rest.starts_with("*)") {
            self.take("*");
            return Ok(Node::Present(attribute));
        }
        let first = self.value()?;
        if !self.rest.starts_with('*') {
            return Ok(Node::Compare {
                tag: EQUAL,
                attribute,
                value: first,
            });
        }
        let mut parts = Vec::new();
        while self.take("*") {
            parts.push(self.value()?);
        }
        let last = parts.pop().filter(|value| !value.0.is_empty());
        if parts.iter().any(|value| value.0.is_empty()) {
            return Err(self.error("two \"*\" with nothing between them"));
        }
        Ok(Node::Substrings {
            attribute,
            first: Some(first).filter(|value| !value.0.is_empty()),
            middle: parts,
            last,
        })
    }

    /// `attribute[:dn][:rule]:=value`; the text before the last colon.
    fn extensible(&mut self, left: &'a str) -> Result<Node, FilterError> {
        let mut parts = left.split(':');
        let attribute = parts.next().filter(|part| !part.is_empty());
        let mut parts = parts.peekable();
        let in_dn = parts
            .next_if(|part| part.eq_ignore_ascii_case("dn"))
            .is_some();
        let rule = parts.next();
        if parts.next().is_some()
            || rule.is_some_and(str::is_empty)
            || (attribute, rule) == (None, None)
        {
            return Err(self.error("expected attribute:rule:=value before this"));
        }
        Ok(Node::Extensible {
            rule: rule.map(str::to_owned),
            attribute: attribute.map(str::to_owned),
            value: self.value()?,
            in_dn,
        })
    }

    /// Up to the next `*` or `)`.
    fn value(&mut self) -> Result<Value, FilterError> {
        let mut pieces = Vec::new();
        let mut bytes = Vec::new();
        loop {
            let place = if self.take("{name}") {
                Some(Piece::Name)
            } else if self.take("{dn}") {
                Some(Piece::Dn)
            } else {
                None
            };
            if let Some(place) = place {
                if !bytes.is_empty() {
                    pieces.push(Piece::Bytes(std::mem::take(&mut bytes)));
                }
                pieces.push(place);
                continue;
            }
            let Some(letter) = self.rest.chars().next() else {
                return Err(self.error("the filter ends too early"));
            };
            match letter {
                '*' | ')' => break,
                '(' | '\0' => return Err(self.error("has to be written as \\28 or \\00")),
                '{' | '}' => {
                    return Err(
                        self.error("expected {name} or {dn}; a brace itself is \\7b or \\7d")
                    );
                }
                '\\' => {
                    let digits = self.rest.get(1..3).unwrap_or_default();
                    let mut byte = [0];
                    hex::decode_to_slice(digits, &mut byte)
                        .map_err(|_| self.error("expected two hexadecimal digits after \"\\\""))?;
                    bytes.extend(byte);
                    self.rest = self.rest.get(3..).unwrap_or_default();
                }
                _ => {
                    let (letter, rest) = self.rest.split_at(letter.len_utf8());
                    bytes.extend(letter.as_bytes());
                    self.rest = rest;
                }
            }
        }
        if !bytes.is_empty() {
            pieces.push(Piece::Bytes(bytes));
        }
        Ok(Value(pieces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, name: &str) -> Vec<u8> {
        let mut writer = Writer::default();
        let values = Values {
            name,
            dn: "uid=alice,dc=example",
        };
        Filter::parse(text).unwrap().write(&mut writer, values);
        writer.into_bytes().to_vec()
    }

    #[test]
    fn filters_are_encoded_as_rfc_4511_section_4_5_1_says() {
        for (text, expected) in [
            ("(uid=bob)", "a30a04037569640403626f62"),
            ("(objectClass=*)", "870b6f626a656374436c617373"),
            (
                "(&(uid=bob)(!(ou>=5)))",
                "a017a30a04037569640403626f62a209a50704026f75040135",
            ),
            ("(cn=a*b*c)", "a40f0402636e3009800161810162820163"),
            ("(m:1.2.3:=5)", "a90d8105312e322e3382016d830135"),
            ("(cn=\\2a\\29)", "a3080402636e04022a29"),
        ] {
            assert_eq!(hex::encode(written(text, "")), expected, "{text}");
        }
    }

    #[test]
    fn a_name_is_a_value_whatever_it_holds() {
        for name in ["*)(uid=*", "*", "a)(|(cn=*", "\\2a", "\0", "{dn}"] {
            let mut expected = Writer::default();
            expected.structure(EQUAL, |writer| {
                writer.text("uid");
                writer.text(name);
            });
            assert_eq!(written("(uid={name})", name), **expected.into_bytes());
        }
    }

    #[test]
    fn places_are_known_wherever_they_are() {
        let filter = Filter::parse("(|(cn=x)(member=pre{dn}*{name}))").unwrap();
        assert!(filter.has_dn() && filter.has_name());
        assert!(!Filter::parse("(cn=x)").unwrap().has_name());
    }

    #[test]
    fn what_is_no_filter_is_refused_with_the_place() {
        for text in [
            "",
            "uid=bob",
            "(uid=bob",
            "(uid=bob))",
            "(&)",
            "(=bob)",
            "(uid)",
            "(uid=(x))",
            "(uid={user})",
            "(uid=\\zz)",
            "(uid=\\2)",
            "(cn=a**b)",
            "(u d=x)",
            "(:=x)",
            "(a:b:c:d:=x)",
            &format!("{}(a=b){}", "(!".repeat(40), ")".repeat(40)),
        ] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
