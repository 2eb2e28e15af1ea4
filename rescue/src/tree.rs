//! From one directory to another: names stay below both, links are not followed, nothing is overwritten.

use std::{
    cell::OnceCell,
    collections::HashSet,
    ffi::{CStr, CString},
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::{Path, PathBuf},
};

use portcullis_at_rest::{
    Head,
    names::{FILE, Names},
};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps},
    io::Errno,
    rand::GetRandomFlags,
};

#[cfg(feature = "buckets")]
use crate::bucket::{Bucket, Part};
use crate::{
    journal::{Index, Lost, Said, Shredded},
    report::{Entry, Fate, Report},
    restore::{Fault, Keys, Written, restore},
};

/// Deeper trees are reported, not walked: each level holds two descriptors.
const DEEPEST: usize = 400;
/// Names of the gateway's own files.
const OWN: &[u8] = b".portcullis-";
/// What stood under a name before a server without an atomic rename replaced it: a whole file.
const REPLACED: &[u8] = b".old";

#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error("{} can't be opened", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[cfg(feature = "buckets")]
    #[error("the bucket can't be listed")]
    List(#[source] io::Error),
    #[error("{} can't be made", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("--only: nothing has that name; names begin at --from and are case-sensitive")]
    NothingThere,
    #[error("what was restored can't be synced to the disk")]
    Sync(#[source] io::Error),
    #[error("the report can't be written")]
    Report(#[source] io::Error),
}

pub(crate) struct Tree<'a> {
    from: Source<'a>,
    to: OwnedFd,
    only: Option<&'a [u8]>,
    names: Option<Names>,
}

impl<'a> Tree<'a> {
    /// `names` are those of the backend, if they are encrypted.
    pub(crate) fn open(
        from: &'a Opened,
        to: &Path,
        only: Option<&'a [u8]>,
        names: Option<Names>,
    ) -> Result<Self, TreeError> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(|source| TreeError::Open {
                path: path.to_owned(),
                source: source.into(),
            })
        };
        let from = match from {
            Opened::Directory(path) => Source::Disk(open(path)?),
            #[cfg(feature = "buckets")]
            Opened::Bucket(bucket) => Source::Bucket(Part::root(bucket).map_err(TreeError::List)?),
        };
        match rustix::fs::mkdir(to, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(source) => {
                return Err(TreeError::Make {
                    path: to.to_owned(),
                    source: source.into(),
                });
            }
        }
        let to = open(to)?;
        Ok(Self {
            from,
            to,
            only,
            names,
        })
    }

    /// All files, in the order of their names; errors of single ones are in the report.
    pub(crate) fn restore<W: Write>(
        self,
        keys: &Keys,
        index: Option<&Index>,
        report: &mut Report<W>,
    ) -> Result<(), TreeError> {
        let target = Target {
            above: None,
            directory: OnceCell::from(self.to),
        };
        let mut walk = Walk {
            keys,
            index,
            only: self.only,
            names: self.names.as_ref(),
            report,
            path: Vec::new(),
            found: self.only.is_none(),
            is_unnamed: false,
            buried: HashSet::new(),
            lost: HashSet::new(),
        };
        walk.directory(&self.from, &target, 0)
            .map_err(TreeError::Report)?;
        if walk.only.is_none() {
            walk.name_the_shredded().map_err(TreeError::Report)?;
        }
        if !walk.found {
            return Err(TreeError::NothingThere);
        }
        let to = target.open().map_err(TreeError::Sync)?;
        // Once for all: a file that is in the report survives a power cut.
        rustix::fs::syncfs(to).map_err(|error| TreeError::Sync(error.into()))
    }
}

/// A directory of plaintext, made when the first thing goes into it.
struct Target<'a> {
    above: Option<(&'a Self, &'a CStr)>,
    directory: OnceCell<OwnedFd>,
}

impl Target<'_> {
    fn open(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(directory) = self.directory.get() {
            return Ok(directory.as_fd());
        }
        let Some((above, name)) = self.above else {
            return Err(Errno::NOENT.into());
        };
        let above = above.open()?;
        match rustix::fs::mkdirat(above, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // One name, and no link: it can't lead out.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(above, name, flags, Mode::empty())?;
        Ok(self.directory.get_or_init(|| directory).as_fd())
    }
}

impl Target<'_> {
    /// Something stands there under that name.
    fn has(&self, name: &CStr) -> bool {
        let found = self
            .open()
            .map(|directory| rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW));
        matches!(found, Ok(Ok(_)))
    }
}

struct Walk<'a, W> {
    keys: &'a Keys,
    index: Option<&'a Index>,
    only: Option<&'a [u8]>,
    names: Option<&'a Names>,
    report: &'a mut Report<W>,
    /// Where the walk is, from the backend's directory on, by the names that come back.
    path: Vec<u8>,
    /// Whether there was anything of what is wanted.
    found: bool,
    /// A name on the way is the stored one, since it is of none.
    is_unnamed: bool,
    /// Files that were destroyed by the journal, of which there is a copy.
    buried: HashSet<[u8; 16]>,
    /// Sets of keys that were, of which something was found.
    lost: HashSet<String>,
}

/// One name in a directory.
struct Name {
    stored: Found,
    /// That comes back.
    shown: CString,
}

#[derive(PartialEq)]
enum Wanted {
    Yes,
    /// On the way to what is.
    Way,
    No,
}

impl<W: Write> Walk<'_, W> {
    fn directory(
        &mut self,
        source: &Source<'_>,
        target: &Target<'_>,
        depth: usize,
    ) -> io::Result<()> {
        let names = match source.names() {
            Ok(names) => names,
            Err(error) => return self.say(Fate::Failed, Some(cause("it can't be listed", &error))),
        };
        let length = self.path.len();
        let is_unnamed = self.is_unnamed;
        let mut names: Vec<_> = names
            .into_iter()
            .filter(|found| self.names.is_none() || depth > 0 || found.name.to_bytes() != FILE)
            .map(|stored| self.shown(stored))
            .collect();
        names.sort_by(|(one, _), (other, _)| one.shown.cmp(&other.shown));
        for (name, is_own) in names {
            if length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.shown.to_bytes());
            self.is_unnamed = is_unnamed || !is_own;
            self.one(source, target, &name, depth)?;
            self.path.truncate(length);
        }
        self.is_unnamed = is_unnamed;
        Ok(())
    }

    /// The name that comes back, and whether it is the one that a client gave.
    fn shown(&self, stored: Found) -> (Name, bool) {
        let bytes = stored.name.to_bytes();
        let shown = match self.names {
            // The gateway's own files are not named by clients.
            Some(names) if !bytes.starts_with(OWN) => names
                .decrypt(bytes)
                .and_then(|name| CString::new(name).ok()),
            Some(_) | None => Some(stored.name.clone()),
        };
        let is_own = shown.is_some();
        let shown = shown.unwrap_or_else(|| stored.name.clone());
        (Name { stored, shown }, is_own)
    }

    fn one(
        &mut self,
        source: &Source<'_>,
        target: &Target<'_>,
        name: &Name,
        depth: usize,
    ) -> io::Result<()> {
        let wanted = self.wanted();
        match wanted {
            Wanted::Yes => self.found = true,
            Wanted::Way => {}
            Wanted::No => return Ok(()),
        }
        // Asked before it is opened: opening a device may do something.
        let kind = match source.kind(&name.stored) {
            Ok(kind) => kind,
            Err(error) => {
                return self.say(Fate::Failed, Some(cause("it can't be looked at", &error)));
            }
        };
        let bytes = name.stored.name.to_bytes();
        let is_own = bytes.starts_with(OWN) && !bytes.ends_with(REPLACED);
        match kind {
            FileType::Directory if depth >= DEEPEST => self.say(
                Fate::Failed,
                Some(format!(
                    "it lies more than {DEEPEST} directories deep; begin there with --from"
                )),
            ),
            FileType::Directory => {
                let directory = match source.below(&name.stored) {
                    Ok(directory) => directory,
                    Err(error) => {
                        return self.say(Fate::Failed, Some(cause("it can't be opened", &error)));
                    }
                };
                let below = Target {
                    above: Some((target, &name.shown)),
                    directory: OnceCell::new(),
                };
                if wanted == Wanted::Yes
                    && let Err(error) = below.open()
                {
                    let detail = cause("its directory can't be made", &error);
                    return self.say(Fate::Failed, Some(detail));
                }
                self.directory(&directory, &below, depth + 1)?;
                if let (Some(made), Some(times)) = (below.directory.get(), directory.times()) {
                    // A directory's times are worth no fault.
                    let _ = rustix::fs::futimens(made, &times);
                }
                Ok(())
            }
            _ if wanted == Wanted::Way => Ok(()),
            FileType::RegularFile if is_own => self.say(Fate::Unfinished, None),
            // Before the work, for a second run; the rename makes sure.
            FileType::RegularFile if target.has(&name.shown) => self.say(Fate::Exists, None),
            FileType::RegularFile => match source.file(&name.stored, target) {
                Ok(file) => self.file(&file, target, &name.shown),
                Err(error) => self.say(Fate::Failed, Some(cause("it can't be opened", &error))),
            },
            FileType::Symlink => self.say(Fate::NotAFile, Some("a symbolic link".to_owned())),
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => self.say(
                Fate::NotAFile,
                Some("neither file nor directory".to_owned()),
            ),
        }
    }

    fn file(&mut self, source: &File, target: &Target<'_>, name: &CStr) -> io::Result<()> {
        let stat = match rustix::fs::fstat(source) {
            Ok(stat) => stat,
            Err(error) => return self.failed("it can't be looked at", error),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let detail = "it was replaced while it was looked at".to_owned();
            return self.say(Fate::NotAFile, Some(detail));
        }
        let directory = match target.open() {
            Ok(directory) => directory,
            Err(error) => {
                let detail = cause("its directory can't be made", &error);
                return self.say(Fate::Failed, Some(detail));
            }
        };
        if let Some(detail) = self.shredded(source) {
            let detail = format!("{detail}; this copy is not given out");
            return self.say(Fate::Shredded, Some(detail));
        }
        let draft = match Draft::new(directory) {
            Ok(draft) => draft,
            Err(error) => {
                return self.say(
                    Fate::Failed,
                    Some(cause("its plaintext can't be made", &error)),
                );
            }
        };
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let progress = &mut |bytes| self.report.progress(bytes);
        let written = match restore(source, size, &draft.file, self.keys, progress) {
            Ok(written) => written,
            Err(fault) => {
                let fate = match &fault {
                    Fault::NotAuthentic(_) => Fate::NotAuthentic,
                    Fault::Newer => Fate::NewerFormat,
                    Fault::KeyMissing(_) => Fate::KeyMissing,
                    Fault::Read(_) | Fault::Write(_) => Fate::Failed,
                };
                let detail = match std::error::Error::source(&fault) {
                    Some(source) => format!("{fault}: {source}"),
                    None => fault.to_string(),
                };
                return self.say(fate, Some(detail));
            }
        };
        match draft.publish(name, &times(&stat)) {
            Ok(()) => self.written(&written),
            Err(Errno::EXIST) => self.say(Fate::Exists, None),
            Err(error) => self.failed("its plaintext can't be named", error),
        }
    }

    /// What the journal says, if it says that the file or its keys were destroyed.
    fn shredded(&mut self, source: &File) -> Option<String> {
        let index = self.index?;
        let mut beginning = [0; Head::LENGTH];
        source.read_exact_at(&mut beginning, 0).ok()?;
        let head = Head::parse(&beginning).ok()?;
        let object = head.object().0;
        if let Some(shredded) = index.shredded.get(&object) {
            self.buried.insert(object);
            return Some(of(shredded));
        }
        let lost = index.lost(&head)?;
        self.lost.insert(lost.set.clone());
        Some(of_keys(lost))
    }

    /// Those that are not there, as it should be.
    fn name_the_shredded(&mut self) -> io::Result<()> {
        let index = self.index;
        let all = index.into_iter().flat_map(|index| &index.shredded);
        let mut gone: Vec<_> = all
            .filter(|(object, _)| !self.buried.contains(*object))
            .map(|(_, shredded)| shredded)
            .collect();
        gone.sort_by(|one, other| one.time.cmp(&other.time));
        for shredded in gone {
            let path = shredded.path.as_deref().unwrap_or(b"(hidden)");
            self.report.entry(&Entry {
                path,
                fate: Fate::Shredded,
                detail: Some(of(shredded)),
                bytes: 0,
                sha256: None,
            })?;
        }
        let lost = index.into_iter().flat_map(|index| &index.lost);
        for lost in lost.filter(|lost| !self.lost.contains(&lost.set)) {
            let (files, backends) = (lost.files, lost.backends.join(", "));
            let detail = format!("{files} files of {backends}, {}", of_keys(lost));
            self.report.entry(&Entry {
                path: format!("(keys {})", lost.set).as_bytes(),
                fate: Fate::Shredded,
                detail: Some(detail),
                bytes: 0,
                sha256: None,
            })?;
        }
        Ok(())
    }

    fn written(&mut self, written: &Written) -> io::Result<()> {
        let said = self
            .index
            .map(|index| index.about(&self.path, &written.sha256));
        let (fate, detail) = match said {
            _ if self.is_unnamed => (
                Fate::Unnamed,
                Some("its name, or that of a directory above it, is not one that was given through the gateway".to_owned()),
            ),
            None => (Fate::Decrypted, None),
            Some(Said::Nothing) => (Fate::Decrypted, Some("not in the journal".to_owned())),
            Some(Said::Same { user, time }) => {
                (Fate::Verified, Some(format!("uploaded by {user}, {time}")))
            }
            Some(Said::Other { sha256, user, time }) => (
                Fate::Differs,
                Some(format!(
                    "{user} uploaded {} last, {time}",
                    hex::encode(sha256)
                )),
            ),
        };
        let fate = if written.is_encrypted {
            fate
        } else {
            Fate::NotEncrypted
        };
        self.report.entry(&Entry {
            path: &self.path,
            fate,
            detail,
            bytes: written.bytes,
            sha256: Some(written.sha256),
        })
    }

    fn failed(&mut self, what: &str, error: Errno) -> io::Result<()> {
        self.say(Fate::Failed, Some(cause(what, &error.into())))
    }

    fn say(&mut self, fate: Fate, detail: Option<String>) -> io::Result<()> {
        self.report.entry(&Entry {
            path: &self.path,
            fate,
            detail,
            bytes: 0,
            sha256: None,
        })
    }

    fn wanted(&self) -> Wanted {
        let Some(only) = self.only.filter(|only| !only.is_empty()) else {
            return Wanted::Yes;
        };
        let is_below = |above: &[u8], path: &[u8]| {
            path.strip_prefix(above)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        if is_below(only, &self.path) {
            Wanted::Yes
        } else if is_below(&self.path, only) {
            Wanted::Way
        } else {
            Wanted::No
        }
    }
}

/// What stored files come from.
pub(crate) enum Opened {
    Directory(PathBuf),
    #[cfg(feature = "buckets")]
    Bucket(Bucket),
}

/// A directory of stored files.
enum Source<'a> {
    Disk(OwnedFd),
    #[cfg(feature = "buckets")]
    Bucket(Part<'a>),
    #[cfg(not(feature = "buckets"))]
    #[expect(dead_code, reason = "has the lifetime that buckets need")]
    Nothing(std::convert::Infallible, &'a ()),
}

/// A name in a directory of stored files.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) name: CString,
    /// Where the listing says it.
    pub(crate) kind: Option<FileType>,
}

impl Source<'_> {
    fn names(&self) -> io::Result<Vec<Found>> {
        match self {
            Self::Disk(directory) => {
                let mut names = Vec::new();
                for entry in Dir::read_from(directory)? {
                    let name = entry?.file_name().to_owned();
                    if !matches!(name.to_bytes(), b"." | b"..") {
                        names.push(Found { name, kind: None });
                    }
                }
                Ok(names)
            }
            #[cfg(feature = "buckets")]
            Self::Bucket(part) => Ok(part.names()),
            #[cfg(not(feature = "buckets"))]
            Self::Nothing(never, _) => match *never {},
        }
    }

    fn kind(&self, found: &Found) -> io::Result<FileType> {
        match (self, found.kind) {
            (_, Some(kind)) => Ok(kind),
            (Self::Disk(directory), None) => {
                let stat = rustix::fs::statat(directory, &*found.name, AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(FileType::from_raw_mode(stat.st_mode))
            }
            #[cfg(feature = "buckets")]
            (Self::Bucket(_), None) => Ok(FileType::Unknown),
            #[cfg(not(feature = "buckets"))]
            (Self::Nothing(never, _), None) => match *never {},
        }
    }

    fn below(&self, found: &Found) -> io::Result<Self> {
        match self {
            Self::Disk(directory) => {
                let flags = OPENED | OFlags::DIRECTORY;
                let below = rustix::fs::openat(directory, &*found.name, flags, Mode::empty())?;
                Ok(Self::Disk(below))
            }
            #[cfg(feature = "buckets")]
            Self::Bucket(part) => part.below(&found.name).map(Self::Bucket),
            #[cfg(not(feature = "buckets"))]
            Self::Nothing(never, _) => match *never {},
        }
    }

    /// What comes over a network is put beside its plaintext first, encrypted as it is, under no name.
    #[cfg_attr(
        not(feature = "buckets"),
        expect(unused_variables, reason = "nothing comes over a network")
    )]
    fn file(&self, found: &Found, target: &Target<'_>) -> io::Result<File> {
        match self {
            Self::Disk(directory) => {
                let file = rustix::fs::openat(directory, &*found.name, OPENED, Mode::empty())?;
                Ok(File::from(file))
            }
            #[cfg(feature = "buckets")]
            Self::Bucket(part) => {
                let draft = Draft::new(target.open()?)?;
                let file = draft.file.try_clone()?;
                drop(draft);
                part.fetch(&found.name, &file)?;
                Ok(file)
            }
            #[cfg(not(feature = "buckets"))]
            Self::Nothing(never, _) => match *never {},
        }
    }

    fn times(&self) -> Option<Timestamps> {
        match self {
            Self::Disk(directory) => Some(times(&rustix::fs::fstat(directory).ok()?)),
            #[cfg(feature = "buckets")]
            Self::Bucket(_) => None,
            #[cfg(not(feature = "buckets"))]
            Self::Nothing(never, _) => match *never {},
        }
    }
}

const OPENED: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// Plaintext that is not known to be authentic; gone unless it is published.
struct Draft<'a> {
    directory: BorrowedFd<'a>,
    name: String,
    file: File,
    is_published: bool,
}

impl<'a> Draft<'a> {
    fn new(directory: BorrowedFd<'a>) -> io::Result<Self> {
        // The system call itself: a statically linked program in an empty root has no /dev/urandom to fall back to.
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
        let name = format!(".portcullis-rescue-{}.part", hex::encode(random));
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, &name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Self {
            directory,
            name,
            file: File::from(file),
            is_published: false,
        })
    }

    fn publish(mut self, name: &CStr, times: &Timestamps) -> Result<(), Errno> {
        rustix::fs::futimens(&self.file, times)?;
        let (at, draft) = (self.directory, self.name.as_str());
        match rustix::fs::renameat_with(at, draft, at, name, RenameFlags::NOREPLACE) {
            Ok(()) => self.is_published = true,
            // File systems that can't: a second name, which is never taken twice either. The first goes with the draft.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(at, draft, at, name, AtFlags::empty())?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.is_published {
            // What is left has a name that says what it is.
            let _ = rustix::fs::unlinkat(self.directory, self.name.as_str(), AtFlags::empty());
        }
    }
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

/// By whose word, and when.
fn of(shredded: &Shredded) -> String {
    format!(
        "destroyed by the word of {}, {}",
        shredded.approver, shredded.time
    )
}

/// Likewise, with which keys.
pub(crate) fn of_keys(lost: &Lost) -> String {
    format!(
        "destroyed with keys {} by the word of {}, {}",
        lost.set, lost.approver, lost.time
    )
}

fn cause(what: &str, error: &io::Error) -> String {
    format!("{what}: {error}")
}
