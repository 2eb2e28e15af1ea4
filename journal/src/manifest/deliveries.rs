//! What each session delivered, beside a log that grows: told once the session is over and a signed head covers it.
//!
//! Each line is read once, whatever the number of sessions; what is told of a session is what [`of_session`](super::of_session)
//! says of it.

mod heads;
mod line;

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use signed_note::StandardVerifier;
use tlog_tiles::{Hash, record_hash};

use self::{heads::Heads, line::Field};
use super::{Manifest, ManifestError, delivery::Delivery, log::manifest_of};
use crate::{
    EventKind, checked,
    position::Position,
    proof::ProofError,
    read::{Lines, Part, Record, layout, lines},
    tree::{Tree, checkpoint::Head, key::origin},
};

/// Lines that are read at once.
const AT_ONCE: usize = 10_000;
/// Lines that are read ahead of a signed head: a working journal signs each 1000 records.
const MOST_AHEAD: usize = 1 << 16;
/// Files, names and operations under way that are remembered of all sessions together: some 40 MiB. Beyond it, the longest
/// session is read again at its end.
const MOST_REMEMBERED: usize = 100_000;

/// Follows a log.
#[derive(Debug)]
pub struct Deliveries {
    directory: PathBuf,
    origin: String,
    heads: Heads,
    lines: Option<Lines>,
    /// The log up to the last head that it was compared with,
    signed: Tree,
    /// the leaves behind it that were read,
    ahead: VecDeque<Hash>,
    /// and all of it that was read.
    front: Tree,
    /// Sessions that began before this record are not of interest.
    since: u64,
    /// What is before this record may have been told of by a run before.
    told: u64,
    pub(super) most: usize,
    /// By number; those that have not been told of.
    sessions: BTreeMap<String, Followed>,
    pub(super) remembered: usize,
    made: VecDeque<Manifest>,
    /// Told of, and not on record yet: the log before their first records.
    unrecorded: BTreeMap<String, Tree>,
}

#[derive(Debug)]
struct Followed {
    delivery: Delivery,
    /// The log before its first record.
    before: Tree,
    /// Only its end is followed.
    is_let_go: bool,
}

/// Where a log is gone on with: all that ended before is on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Records up to here.
    pub(super) records: u64,
    /// Right edge of the tree over them: base64, from left to right.
    pub(super) peaks: Vec<String>,
    /// Bytes of the checkpoints' file that need not be read.
    checkpoints: u64,
    since: u64,
}

impl Mark {
    /// As a file keeps it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Numbers and texts can be written.
        checked::seal(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// The way back; `None` if it is not whole.
    #[must_use]
    pub fn from_bytes(sealed: &[u8]) -> Option<Self> {
        serde_json::from_slice(checked::open(sealed)?).ok()
    }

    fn tree(&self) -> Option<Tree> {
        let peaks = self.peaks.iter().map(|peak| Hash::parse_hash(peak).ok());
        Tree::from_peaks(self.records, peaks.collect::<Option<_>>()?)
    }
}

impl Deliveries {
    /// Goes on at `mark` with the log in `directory`, which has `durable` records; without a mark it tells of sessions that begin
    /// from now on. So it does if the log is shorter than the mark says: then it is another one.
    ///
    /// # Errors
    /// If the log can't be listed, or `keys` are those of several.
    pub fn of(
        directory: &Path,
        keys: Vec<StandardVerifier>,
        mark: Option<&Mark>,
        durable: u64,
    ) -> Result<Self, ManifestError> {
        let origin = origin(&keys).ok_or_else(|| ManifestError::NotAManifest {
            why: "the keys have several names; give those of one log".to_owned(),
        })?;
        let origin = origin.to_owned();
        let known = mark
            .and_then(|mark| Some((mark.tree()?, mark)))
            // Of a log that was put aside.
            .filter(|(tree, _)| tree.size() <= durable);
        let (tree, since, checkpoints) = match known {
            Some((tree, mark)) => (tree, mark.since, mark.checkpoints),
            None => (nearest(directory)?, durable, 0),
        };
        Ok(Self {
            directory: directory.to_owned(),
            origin,
            heads: Heads::of(directory, keys, checkpoints),
            lines: None,
            signed: tree.clone(),
            ahead: VecDeque::new(),
            front: tree,
            since,
            told: durable,
            most: MOST_REMEMBERED,
            sessions: BTreeMap::new(),
            remembered: 0,
            made: VecDeque::new(),
            unrecorded: BTreeMap::new(),
        })
    }

    /// Reads on, some thousand records at most; true if there are more. The log has `durable` records.
    ///
    /// # Errors
    /// If the log can't be read on, or is not what was signed: then it has to be begun with anew.
    pub fn advance(&mut self, durable: u64) -> Result<bool, ManifestError> {
        self.heads.look(self.signed.size())?;
        let mut is_over = false;
        for _ in 0..AT_ONCE {
            is_over = self.front.size() >= durable || self.ahead.len() >= MOST_AHEAD;
            if is_over || !self.read()? {
                is_over = true;
                break;
            }
        }
        // What is not durable yet may be written otherwise.
        if let Some(lines) = &mut self.lines
            && lines.forget_ahead().is_err()
        {
            self.lines = None;
        }
        self.compare()?;
        Ok(!is_over)
    }

    /// What a session delivered, which is on record nowhere yet.
    pub fn pop(&mut self) -> Option<Manifest> {
        if self.front.size() < self.told {
            return None;
        }
        self.made.pop_front()
    }

    /// It is on record: nothing is left of the session.
    pub fn recorded(&mut self, session: &str) {
        self.unrecorded.remove(session);
    }

    /// Whether a session that is over waits for a signed head.
    pub fn wait_for_a_head(&self) -> bool {
        self.sessions
            .values()
            .any(|session| session.delivery.is_over() && session.delivery.has_entries())
    }

    /// Where a later run goes on.
    pub fn mark(&mut self) -> Mark {
        let befores = self.sessions.values().map(|session| &session.before);
        let befores = befores.chain(self.unrecorded.values());
        let tree = befores
            .chain([&self.signed])
            .min_by_key(|tree| tree.size())
            .unwrap_or(&self.signed);
        Mark {
            records: tree.size(),
            peaks: tree
                .peaks()
                .iter()
                .map(|peak| BASE64.encode(peak.0))
                .collect(),
            checkpoints: self.heads.behind(tree.size()),
            since: self.since,
        }
    }

    /// Takes the next line; false if there is none yet.
    fn read(&mut self) -> Result<bool, ManifestError> {
        let first = self.front.size();
        let mut reader = match self.lines.take() {
            Some(lines) => lines,
            None => lines_from(&self.directory, first)?,
        };
        let Some(line) = reader.next(&mut |_| true)? else {
            self.lines = Some(reader);
            return Ok(false);
        };
        let leaf = record_hash(line);
        if self.hear(line).is_none() {
            return Err(reader.not_a_record().into());
        }
        if reader.seq() != Some(first) {
            return Err(ManifestError::Deleted { record: first });
        }
        self.front.push_leaf(leaf);
        self.ahead.push_back(leaf);
        self.lines = Some(reader);
        Ok(true)
    }

    /// `None` if the line is not a record.
    fn hear(&mut self, line: &[u8]) -> Option<()> {
        let event = Field::EVENT.of(line).unwrap_or_default();
        let is = |kind: EventKind| event == kind.name().as_bytes();
        if is(EventKind::AppStart) {
            let record = parsed(line)?;
            self.remembered = 0;
            for session in self.sessions.values_mut() {
                session.delivery.hear(&record);
                self.remembered += session.delivery.remembers();
            }
            return Some(());
        }
        if is(EventKind::ManifestWritten) {
            let record = parsed(line)?;
            if record.outcome.as_deref() == Some("success")
                && let Some(session) = record.body.get("session").and_then(|value| value.as_str())
            {
                self.forget(session);
            }
            return Some(());
        }
        let Some(session) = Field::SESSION
            .of(line)
            .and_then(|session| std::str::from_utf8(session).ok())
        else {
            return Some(());
        };
        let begins = is(EventKind::ConnectionOpen) || is(EventKind::SessionMounts);
        if begins && self.front.size() >= self.since && !self.sessions.contains_key(session) {
            let followed = Followed {
                delivery: Delivery::of(session),
                before: self.front.clone(),
                is_let_go: false,
            };
            self.sessions.insert(session.to_owned(), followed);
        }
        let Some(followed) = self.sessions.get_mut(session) else {
            return Some(());
        };
        let matters = if followed.is_let_go {
            is(EventKind::ConnectionClose)
        } else {
            followed.delivery.matters(event, line)
        };
        if matters {
            let before = followed.delivery.remembers();
            followed.delivery.hear(&parsed(line)?);
            self.remembered += followed.delivery.remembers();
            self.remembered -= before;
            if self.remembered > self.most {
                self.let_go();
            }
        } else {
            followed.delivery.touch(self.front.size());
        }
        Some(())
    }

    /// Remembers nothing more of the session that is the longest.
    fn let_go(&mut self) {
        let longest = self
            .sessions
            .values_mut()
            .max_by_key(|session| session.delivery.remembers());
        if let Some(longest) = longest {
            self.remembered -= longest.delivery.remembers();
            longest.is_let_go = true;
            longest.delivery.let_go();
            self.remembered += longest.delivery.remembers();
        }
    }

    fn forget(&mut self, session: &str) {
        if let Some(session) = self.sessions.remove(session) {
            self.remembered -= session.delivery.remembers();
        }
        self.unrecorded.remove(session);
        self.made.retain(|manifest| manifest.session != session);
    }

    /// Compares what was read with what was signed, and tells of sessions that are over.
    fn compare(&mut self) -> Result<(), ManifestError> {
        while let Some(head) = self.heads.next(self.front.size()) {
            if head.size < self.signed.size() {
                continue;
            }
            while self.signed.size() < head.size
                && let Some(leaf) = self.ahead.pop_front()
            {
                self.signed.push_leaf(leaf);
            }
            if self.signed.root() != head.root {
                return Err(ProofError::Altered { size: head.size }.into());
            }
            let is_over = |session: &Followed| {
                session.delivery.is_over() && session.delivery.last() < head.size
            };
            let over = self.sessions.extract_if(.., |_, session| is_over(session));
            let over: Vec<_> = over.collect();
            for (number, session) in over {
                self.remembered -= session.delivery.remembers();
                self.tell(&number, session, head)?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, number: &str, session: Followed, head: Head) -> Result<(), ManifestError> {
        let delivery = if session.is_let_go {
            self.read_again(number, session.before.clone(), head)?
        } else {
            session.delivery
        };
        if !delivery.has_mounts() || !delivery.has_entries() {
            return Ok(());
        }
        let manifest = manifest_of(&self.origin, head, number, delivery)?;
        self.made.push_back(manifest);
        self.unrecorded.insert(number.to_owned(), session.before);
        Ok(())
    }

    /// One session of which too much was to be remembered.
    fn read_again(
        &self,
        number: &str,
        mut tree: Tree,
        head: Head,
    ) -> Result<Delivery, ManifestError> {
        let mut delivery = Delivery::of(number);
        let mut reader = lines_from(&self.directory, tree.size())?;
        while tree.size() < head.size {
            let Some(line) = reader.next(&mut |_| true)? else {
                break;
            };
            tree.push(line);
            let event = Field::EVENT.of(line).unwrap_or_default();
            let is_own = Field::SESSION.of(line) == Some(number.as_bytes());
            if event != EventKind::AppStart.name().as_bytes() && !is_own {
                continue;
            }
            match parsed(line) {
                Some(record) => delivery.hear(&record),
                None => return Err(reader.not_a_record().into()),
            }
        }
        if tree.root() != head.root {
            return Err(ProofError::Altered { size: head.size }.into());
        }
        Ok(delivery)
    }
}

fn parsed(line: &[u8]) -> Option<Record> {
    serde_json::from_slice(line).ok()
}

fn lines_from(directory: &Path, first: u64) -> Result<Lines, ManifestError> {
    let part = Part {
        first,
        ..Part::default()
    };
    Ok(lines(directory, part)?)
}

/// The log up to a record near its end, as far as that is known without reading it. What is wrong with it shows at the next head.
fn nearest(directory: &Path) -> Result<Tree, ManifestError> {
    let position = std::fs::read(directory.join(Position::NAME)).ok();
    let position = position.and_then(|text| Position::parse(&text)?.end.tree());
    if let Some(tree) = position {
        return Ok(tree);
    }
    let layout = layout(directory)?;
    let first = layout.segments.first().map_or(0, |segment| segment.first);
    let edge = layout.tombstones.iter().find_map(|gone| {
        let is_edge = gone.first == 0 && gone.end.records == first;
        is_edge.then(|| gone.end.tree())?
    });
    Ok(edge.unwrap_or_default())
}
