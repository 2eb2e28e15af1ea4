//! The allowlist: entries in normal form, the difference of two lists, and list files.

use std::{collections::BTreeMap, fmt::Write as _};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::prefix::{self, PrefixError};

/// One allowed prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub prefix: IpNet,
    /// What a person wrote beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// A list in normal form: each prefix once, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowlist {
    entries: BTreeMap<IpNet, Option<String>>,
}

/// What makes one list into another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Prefixes to put in; one that is there already gets another comment.
    pub put: Vec<Entry>,
    /// Prefixes to take out.
    pub removed: Vec<IpNet>,
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.removed.is_empty()
    }
}

impl Allowlist {
    /// Puts an entry in; gives whether the list changed.
    pub fn insert(&mut self, entry: Entry) -> bool {
        let Entry { prefix, comment } = entry;
        self.entries.insert(prefix, comment.clone()) != Some(comment)
    }

    /// Takes a prefix out; gives whether it was there.
    pub fn remove(&mut self, prefix: &IpNet) -> bool {
        self.entries.remove(prefix).is_some()
    }

    /// Whether this very prefix is an entry.
    pub fn has(&self, prefix: &IpNet) -> bool {
        self.entries.contains_key(prefix)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The prefixes, in order.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.entries.keys().copied()
    }

    /// The entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.entries.iter().map(|(prefix, comment)| Entry {
            prefix: *prefix,
            comment: comment.clone(),
        })
    }

    /// Carries `changes` out.
    pub fn apply(&mut self, changes: &Changes) {
        for prefix in &changes.removed {
            self.remove(prefix);
        }
        for entry in &changes.put {
            self.insert(entry.clone());
        }
    }

    /// The list as a list file, one entry a line.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (prefix, comment) in &self.entries {
            // Writing to a string does not fail.
            let _ = match comment {
                Some(comment) => writeln!(text, "{prefix} # {comment}"),
                None => writeln!(text, "{prefix}"),
            };
        }
        text
    }
}

impl FromIterator<Entry> for Allowlist {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut list = Self::default();
        for entry in entries {
            list.insert(entry);
        }
        list
    }
}

/// What has to change for `old` to become `new`.
pub fn diff(old: &Allowlist, new: &Allowlist) -> Changes {
    Changes {
        put: new
            .entries()
            .filter(|entry| old.entries.get(&entry.prefix) != Some(&entry.comment))
            .collect(),
        removed: old.prefixes().filter(|prefix| !new.has(prefix)).collect(),
    }
}

/// A line of a list file that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {error}")]
pub struct LineError {
    /// From 1.
    pub line: usize,
    #[source]
    pub error: PrefixError,
}

/// Reads a list file: an address or prefix a line, `#` begins a comment.
///
/// # Errors
/// Every line that can't be used.
pub fn parse_file(text: &str) -> Result<Allowlist, Vec<LineError>> {
    let mut list = Allowlist::default();
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (prefix, comment) = match line.split_once('#') {
            Some((prefix, comment)) => (
                prefix.trim(),
                Some(comment.trim()).filter(|comment| !comment.is_empty()),
            ),
            None => (line.trim(), None),
        };
        if prefix.is_empty() {
            continue;
        }
        match prefix::parse(prefix) {
            Ok(prefix) => drop(list.insert(Entry {
                prefix,
                comment: comment.map(str::to_owned),
            })),
            Err(error) => faults.push(LineError {
                line: index + 1,
                error,
            }),
        }
    }
    if faults.is_empty() {
        Ok(list)
    } else {
        Err(faults)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn some_prefix() -> impl Strategy<Value = IpNet> {
        // Few addresses, so that two lists often have a prefix in common.
        prop_oneof![
            (0_u32..16, 24_u8..=32).prop_map(|(host, length)| {
                Ipv4Net::new_assert(Ipv4Addr::from(0xcb00_7100 | host), length)
                    .trunc()
                    .into()
            }),
            (0_u128..16, 120_u8..=128).prop_map(|(host, length)| {
                Ipv6Net::new_assert(Ipv6Addr::from((0x2001_0db8_u128 << 96) | host), length)
                    .trunc()
                    .into()
            }),
        ]
    }

    fn some_list() -> impl Strategy<Value = Allowlist> {
        vec((some_prefix(), option::of("[a-z]{1,3}")), 0..40).prop_map(|entries| {
            entries
                .into_iter()
                .map(|(prefix, comment)| Entry { prefix, comment })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_wanted_list(old in some_list(), new in some_list()) {
            let mut list = old.clone();
            list.apply(&diff(&old, &new));
            prop_assert_eq!(list, new);
        }

        #[test]
        fn there_is_no_difference_to_oneself(list in some_list()) {
            prop_assert!(diff(&list, &list).is_empty());
        }

        #[test]
        fn a_list_survives_being_written_and_read(list in some_list()) {
            prop_assert_eq!(parse_file(&list.to_text()), Ok(list));
        }

        #[test]
        fn any_text_is_a_list_or_a_set_of_faults(text in "\\PC{0,200}") {
            let _ = parse_file(&text);
        }
    }

    #[test]
    fn every_bad_line_is_named_with_its_number() {
        let text = "# partners\n203.0.113.0/24 # lab\n\n203.0.113.7/24\nnonsense\n2001:db8::/32\n";
        let faults = parse_file(text).unwrap_err();
        assert_eq!(
            faults.iter().map(|fault| fault.line).collect::<Vec<_>>(),
            [4, 5]
        );
    }

    #[test]
    fn the_same_prefix_twice_is_one_entry() {
        let list = parse_file("203.0.113.7 # first\n203.0.113.7/32 # second\n").unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(list.to_text(), "203.0.113.7/32 # second\n");
    }
}
