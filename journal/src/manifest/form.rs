//! The text of a manifest. `sha256sum -c` takes its lines of digest and name, and passes over those that begin with `#`.
//!
//! ```text
//! # portcullis-manifest@v1
//! # log gw1/proxy
//! # records 5120 <root, base64>
//! # session 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
//! # user alice
//! # time 2026-11-22T01:02:03.000004Z 2026-11-22T01:05:03.000004Z
//! # scope /inbox
//! # below /inbox
//! # files 2
//! # 1048576 bytes, 2026-11-22T01:02:09.500000Z, records 4711 4720 4721
//! <sha256>  2026/a.csv
//! # size unknown, 2026-11-22T01:02:10.500000Z, records 4719
//! # no sha256 (not_sequential)  b.bin
//! ```
//!
//! A text is taken only if it is what [`Manifest::to_text`] makes of what it says, to the byte.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tlog_tiles::Hash;

use super::{Entry, Manifest};
use crate::token::is_token;
use crate::{
    proof::decimal,
    record::{untrusted, untrusted_bytes},
    tree::checkpoint::Head,
};

/// With its newline.
pub(super) const FIRST: &str = "# portcullis-manifest@v1\n";
const ENCODED: &str = "b64:";

impl Manifest {
    /// The text without a signature.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = FIRST.to_owned();
        let Head { size, root } = self.head;
        let header = format!(
            "# log {}\n# records {size} {}\n# session {}\n# user {}\n# time {} {}\n# scope {}\n# below {}\n# files {}\n",
            self.origin,
            BASE64.encode(root.0),
            self.session,
            shown(self.user.as_bytes()),
            self.begun,
            self.ended,
            path(&self.scope),
            path(&self.below),
            self.entries.len(),
        );
        out.push_str(&header);
        for entry in &self.entries {
            self.put(entry, &mut out);
        }
        out
    }

    fn put(&self, entry: &Entry, out: &mut String) {
        out.push_str("# ");
        // A String takes all that is written to it.
        let _ = match entry.size {
            Some(size) => write!(out, "{size} bytes"),
            None => write!(out, "size unknown"),
        };
        let records: Vec<String> = entry.records.iter().map(u64::to_string).collect();
        let _ = write!(out, ", {}, records {}", entry.time, records.join(" "));
        if let Some(recorded) = &entry.recorded {
            let _ = write!(out, ", recorded as {}", path(recorded));
        }
        let name = if is_token(&entry.path) {
            path(&entry.path)
        } else {
            shown(self.name(entry))
        };
        let _ = match &entry.sha256 {
            Ok(sha256) if is_plain(&name) => write!(out, "\n{}  {name}\n", hex::encode(sha256)),
            Ok(sha256) => write!(out, "\n# {}  {name}\n", hex::encode(sha256)),
            Err(because) => write!(out, "\n# no sha256 ({because})  {name}\n"),
        };
    }

    /// The way back; otherwise what is wrong with it.
    pub(super) fn of_text(text: &str) -> Result<Self, String> {
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        lines.next();
        let mut field = |name: &str| {
            lines
                .next()
                .and_then(|line| {
                    line.strip_prefix("# ")?
                        .strip_prefix(name)?
                        .strip_prefix(' ')
                })
                .ok_or_else(|| format!("the line `# {name}` is missing at its place"))
        };
        let wrong = |what: &'static str| move || format!("{what} is not written as it should be");
        let origin = field("log")?.to_owned();
        let (size, root) = field("records")?
            .split_once(' ')
            .and_then(|(size, root)| Some((decimal(size)?, Hash::parse_hash(root).ok()?)))
            .ok_or_else(wrong("the head of the log"))?;
        let session = field("session")?.to_owned();
        let user = bytes(field("user")?)
            .and_then(|user| String::from_utf8(user).ok())
            .ok_or_else(wrong("the user"))?;
        let (begun, ended) = field("time")?
            .split_once(' ')
            .ok_or_else(wrong("the time"))?;
        let scope = path_of(field("scope")?).ok_or_else(wrong("the scope"))?;
        let below = path_of(field("below")?).ok_or_else(wrong("the directory"))?;
        let files = decimal(field("files")?).ok_or_else(wrong("the number of files"))?;
        let mut manifest = Self {
            origin,
            head: Head { size, root },
            session,
            user,
            begun: begun.to_owned(),
            ended: ended.to_owned(),
            scope,
            below,
            entries: Vec::new(),
        };
        while let Some(facts) = lines.next() {
            let entry = lines
                .next()
                .and_then(|line| manifest.entry(facts, line))
                .ok_or_else(|| format!("this is not a file: {}", facts.escape_debug()))?;
            manifest.entries.push(entry);
        }
        if manifest.entries.len() as u64 != files {
            return Err(format!(
                "it has {} files and says {files}",
                manifest.entries.len()
            ));
        }
        if manifest.to_text() != text {
            return Err("a line is not written as it should be".to_owned());
        }
        Ok(manifest)
    }

    fn entry(&self, facts: &str, line: &str) -> Option<Entry> {
        let mut facts = facts.strip_prefix("# ")?.splitn(4, ", ");
        let size = match facts.next()? {
            "size unknown" => None,
            size => Some(decimal(size.strip_suffix(" bytes")?)?),
        };
        let time = facts.next()?.to_owned();
        let records = facts.next()?.strip_prefix("records ")?.split(' ');
        let records = records.map(decimal).collect::<Option<Vec<_>>>()?;
        let recorded = match facts.next() {
            Some(recorded) => Some(path_of(recorded.strip_prefix("recorded as ")?)?),
            None => None,
        };
        let (sha256, name) = match line.strip_prefix("# no sha256 (") {
            Some(rest) => {
                let (because, name) = rest.split_once(")  ")?;
                (Err(because.to_owned()), name)
            }
            None => {
                let (sha256, name) = line.strip_prefix("# ").unwrap_or(line).split_once("  ")?;
                let mut digest = [0; 32];
                hex::decode_to_slice(sha256, &mut digest).ok()?;
                (Ok(digest), name)
            }
        };
        let path = if is_token(name.as_bytes()) {
            name.as_bytes().to_vec()
        } else {
            let above = self.below.strip_suffix(b"/").unwrap_or(&self.below);
            [above, b"/", &bytes(name)?].concat()
        };
        Some(Entry {
            path,
            recorded,
            size,
            time,
            sha256,
            records,
        })
    }
}

/// An absolute path, or a token, which no such path can be taken for.
fn path(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if is_token(path) && path.iter().all(u8::is_ascii_graphic) => text.to_owned(),
        Ok(_) | Err(_) => shown(path),
    }
}

/// A name as one line has it: as records write it, and encoded as well where it would not stand in a line.
fn shown(name: &[u8]) -> String {
    match untrusted(name).as_str() {
        Some(text) if !text.is_empty() && !text.contains(char::is_control) => text.to_owned(),
        Some(_) | None => format!("{ENCODED}{}", BASE64.encode(name)),
    }
}

fn path_of(shown: &str) -> Option<Vec<u8>> {
    if is_token(shown.as_bytes()) {
        return Some(shown.as_bytes().to_vec());
    }
    bytes(shown).filter(|path| path.starts_with(b"/"))
}

fn bytes(shown: &str) -> Option<Vec<u8>> {
    untrusted_bytes(shown)
}

/// Names a file as it lies on a disk.
fn is_plain(shown: &str) -> bool {
    !shown.starts_with(ENCODED) && !is_token(shown.as_bytes())
}
