//! Requests that are carried out as several others: `check-file` as READs, `copy-data` as READs and WRITEs.
//!
//! A value: it says which part comes next and hears what the parts brought. The channel permits, records and runs each part
//! as if the client had sent it.

mod digests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use portcullis_audit::catalogue::OnRecord;

use self::digests::Digests;
use crate::{
    backend::{BackendError, ErrorKind, Origin},
    operation::{Access, Attributes, HandleId, MAX_DATA, Operation, Outcome},
    path::VirtualPath,
    policy::OpenHandle,
};

/// READs whose data is under way or not used yet. What they bring is all that is held in memory.
const WINDOW: usize = 4;

/// One such request. `C` is what holds the memory of a READ: it is dropped with the data.
#[derive(Debug)]
pub struct Compound<C> {
    goal: Goal,
    source: Source,
    /// The first byte that was not used yet.
    next: u64,
    /// The first byte that no READ was sent for.
    unasked: u64,
    /// Where the range ends, as far as is known: at the end of the file at the latest.
    end: u64,
    /// What READs that brought less than they could left out.
    gaps: VecDeque<(u64, u32)>,
    arrived: BTreeMap<u64, Piece<C>>,
    reading: usize,
    /// Set while a WRITE is under way.
    writing: Option<Option<C>>,
    moved: u64,
    /// What the journal says of the file was asked for.
    is_recalled: bool,
    told_by: Option<OnRecord>,
    failure: Option<BackendError>,
}

#[derive(Debug)]
enum Goal {
    Digests(Digests),
    Copy {
        target: Arc<OpenHandle>,
        /// Distance from a byte's place in the source to that in the target.
        shift: i128,
        /// Where the range must reach.
        wanted: Option<u64>,
    },
}

#[derive(Debug)]
enum Source {
    /// Opened for this request alone.
    Named {
        path: VirtualPath,
        handle: HandleId,
    },
    Opening,
    Own(Arc<OpenHandle>),
    Closing,
    Closed,
    /// The client's.
    Given(Arc<OpenHandle>),
}

#[derive(Debug)]
struct Piece<C> {
    asked: u32,
    data: Bytes,
    credit: Option<C>,
}

/// A part, as it is told back to [`Compound::ended`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Open,
    Read { offset: u64, length: u32 },
    Write,
    Close,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Run this operation on the open handle, if it needs one.
    Run(Part, Operation, Option<Arc<OpenHandle>>),
    /// Say by [`Compound::recalled`] what the journal knows of the file that is open under the handle.
    Recall(HandleId),
    /// Wait for a part to end.
    Wait,
    Finish(Result<Outcome, BackendError>),
}

impl<C> Compound<C> {
    /// `open` finds the handles that the operation names. `None` if the operation is done in one, or names a handle that is
    /// not there.
    pub fn of(
        operation: &Operation,
        open: impl Fn(HandleId) -> Option<Arc<OpenHandle>>,
    ) -> Option<Self> {
        if let Operation::CheckFile { handle, check } = operation {
            let goal = Goal::Digests(Digests::new(check));
            let source = Source::Given(open(*handle)?);
            Some(Self::new(goal, source, check.offset, check.length))
        } else if let Operation::CheckFileName {
            path,
            handle,
            check,
        } = operation
        {
            let goal = Goal::Digests(Digests::new(check));
            let source = Source::Named {
                path: path.clone(),
                handle: *handle,
            };
            Some(Self::new(goal, source, check.offset, check.length))
        } else if let Operation::CopyData {
            source,
            offset,
            length,
            target,
            target_offset,
        } = operation
        {
            let goal = Goal::Copy {
                target: open(*target)?,
                shift: i128::from(*target_offset) - i128::from(*offset),
                wanted: length.map(|length| offset.saturating_add(length)),
            };
            let source = Source::Given(open(*source)?);
            Some(Self::new(goal, source, *offset, *length))
        } else {
            None
        }
    }

    fn new(goal: Goal, source: Source, offset: u64, length: Option<u64>) -> Self {
        let failure = match &goal {
            Goal::Digests(digests) => length
                .and_then(|length| digests.admits(length).err())
                .map(refused),
            Goal::Copy { .. } => None,
        };
        Self {
            goal,
            source,
            next: offset,
            unasked: offset,
            end: length.map_or(i64::MAX as u64, |length| offset.saturating_add(length)),
            gaps: VecDeque::new(),
            arrived: BTreeMap::new(),
            reading: 0,
            writing: None,
            moved: 0,
            is_recalled: false,
            told_by: None,
            failure,
        }
    }

    /// True if its parts only fetch what nobody takes any more once the client is gone.
    pub fn only_reads(&self) -> bool {
        matches!(self.goal, Goal::Digests(_))
    }

    /// True if the file that the request names was never asked for.
    pub fn is_unopened(&self) -> bool {
        matches!(self.source, Source::Named { .. })
    }

    /// Bytes of the source that were used.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// What the answer is taken from, if it is none of the file's bytes.
    pub fn told_by(&self) -> Option<OnRecord> {
        self.told_by
    }

    /// What the journal knows of the whole file, if anything. It answers where the range is all of that.
    pub fn recalled(&mut self, on_record: Option<OnRecord>) {
        self.is_recalled = true;
        let Some(on_record) = on_record.filter(|known| known.size <= self.end) else {
            return;
        };
        if let Goal::Digests(digests) = &mut self.goal
            && digests.tell(&on_record)
        {
            self.told_by = Some(on_record);
            self.next = self.end;
        }
    }

    /// True if one SHA-256 from the first byte on can be the answer.
    fn may_recall(&self) -> bool {
        match &self.goal {
            Goal::Digests(digests) => !self.is_recalled && self.unasked == 0 && digests.is_sha256(),
            Goal::Copy { .. } => false,
        }
    }

    /// Gives up: what is under way is waited for.
    pub fn fail(&mut self, failure: BackendError) {
        self.failure.get_or_insert(failure);
    }

    /// What comes next; asked again until it is to wait or has finished.
    pub fn step(&mut self) -> Step {
        if self.failure.is_some() || (self.next >= self.end && self.writing.is_none()) {
            return self.wind_up();
        }
        let source = match &self.source {
            Source::Given(source) | Source::Own(source) => Arc::clone(source),
            Source::Named { path, handle } => {
                let open = Operation::Open {
                    path: path.clone(),
                    handle: *handle,
                    access: Access {
                        read: true,
                        ..Access::default()
                    },
                    attributes: Attributes::default(),
                };
                self.source = Source::Opening;
                return Step::Run(Part::Open, open, None);
            }
            Source::Opening | Source::Closing | Source::Closed => return Step::Wait,
        };
        if self.may_recall() {
            return Step::Recall(source.id());
        }
        if self.writing.is_none()
            && let Some(write) = self.write()
        {
            return write;
        }
        if self.reading + self.arrived.len() >= WINDOW {
            return Step::Wait;
        }
        let (offset, length) = match self.gaps.pop_front() {
            Some(gap) => gap,
            None => {
                let left = self.end.saturating_sub(self.unasked);
                let length = u32::try_from(left).unwrap_or(u32::MAX).min(MAX_DATA);
                if length == 0 {
                    return Step::Wait;
                }
                self.unasked += u64::from(length);
                (self.unasked - u64::from(length), length)
            }
        };
        self.reading += 1;
        let read = Operation::Read {
            handle: source.id(),
            offset,
            length,
        };
        Step::Run(Part::Read { offset, length }, read, Some(source))
    }

    /// A part has ended. `opened` is what stands in the handle table after an OPEN, `credit` what holds a READ's memory.
    pub fn ended(
        &mut self,
        part: Part,
        result: Result<Outcome, BackendError>,
        opened: Option<Arc<OpenHandle>>,
        credit: Option<C>,
    ) {
        match part {
            Part::Open => self.source = opened.map_or(Source::Closed, Source::Own),
            Part::Close => self.source = Source::Closed,
            Part::Write => self.writing = None,
            Part::Read { .. } => self.reading -= 1,
        }
        match (part, result) {
            (_, Err(failure)) => self.fail(failure),
            (Part::Read { offset, length }, Ok(Outcome::Data(mut data))) => {
                data.truncate(length as usize);
                let piece = Piece {
                    asked: length,
                    data,
                    credit,
                };
                self.arrived.insert(offset, piece);
                self.digest();
            }
            (Part::Read { offset, .. }, Ok(_)) => {
                self.end = self.end.min(offset);
                self.gaps.retain(|(gap, _)| *gap < offset);
            }
            (Part::Open | Part::Write | Part::Close, Ok(_)) => {}
        }
    }

    /// The next bytes in order, if they are there.
    fn take_next(&mut self) -> Option<(u64, Piece<C>)> {
        let offset = self.next;
        let piece = self.arrived.remove(&offset)?;
        let length = piece.data.len() as u64;
        self.next += length;
        self.moved += length;
        let missing = u64::from(piece.asked).saturating_sub(length);
        if let Ok(missing @ 1..) = u32::try_from(missing) {
            self.gaps.push_front((self.next, missing));
        }
        Some((offset, piece))
    }

    fn digest(&mut self) {
        while let Goal::Digests(_) = self.goal {
            let Some((_, piece)) = self.take_next() else {
                return;
            };
            if let Goal::Digests(digests) = &mut self.goal
                && let Err(too_many) = digests.add(&piece.data)
            {
                self.fail(refused(too_many));
            }
        }
    }

    fn write(&mut self) -> Option<Step> {
        let Goal::Copy { target, shift, .. } = &self.goal else {
            return None;
        };
        let (target, shift) = (Arc::clone(target), *shift);
        let (offset, piece) = self.take_next()?;
        let Ok(offset) = u64::try_from(i128::from(offset) + shift) else {
            self.fail(BackendError::new(
                ErrorKind::InvalidArgument,
                Origin::Client,
                "the copy would end beyond 2^63 bytes",
            ));
            return Some(self.wind_up());
        };
        self.writing = Some(piece.credit);
        let write = Operation::Write {
            handle: target.id(),
            offset,
            data: piece.data,
        };
        Some(Step::Run(Part::Write, write, Some(target)))
    }

    fn wind_up(&mut self) -> Step {
        if self.reading > 0 || self.writing.is_some() {
            return Step::Wait;
        }
        if let Source::Own(handle) = &self.source {
            let handle = Arc::clone(handle);
            self.source = Source::Closing;
            let close = Operation::Close {
                handle: handle.id(),
            };
            return Step::Run(Part::Close, close, Some(handle));
        }
        if matches!(self.source, Source::Opening | Source::Closing) {
            return Step::Wait;
        }
        if let Some(failure) = self.failure.take() {
            return Step::Finish(Err(failure));
        }
        Step::Finish(match &mut self.goal {
            Goal::Digests(digests) => digests.finish().map_err(refused),
            // As in OpenSSH: a range that the source does not have is its end, not a success.
            Goal::Copy {
                wanted: Some(wanted),
                ..
            } if *wanted > self.next => Ok(Outcome::End),
            Goal::Copy { .. } => Ok(Outcome::Done),
        })
    }
}

fn refused(too_many: digests::TooMany) -> BackendError {
    BackendError::new(ErrorKind::Failure, Origin::Client, too_many.to_string())
}
