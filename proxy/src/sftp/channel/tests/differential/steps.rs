//! What a client does in one go, and what it is answered.

use bytes::{Buf as _, Bytes};
use portcullis_tests::random::Rng;

use super::{super::Packet, peers::Peer};
use crate::operation::Attributes;

const READ: u32 = 0x01;
const WRITE: u32 = 0x02;
const APPEND: u32 = 0x04;
const CREATE: u32 = 0x08;
const TRUNCATE: u32 = 0x10;
const EXCLUSIVE: u32 = 0x20;

/// Few enough that steps meet.
const PATHS: [&str; 14] = [
    "a",
    "b",
    "c",
    "x",
    "y",
    "x/a",
    "x/b",
    "x/y",
    "x/y/a",
    "y/a",
    "y/b",
    "x/missing/a",
    "a/b",
    "x/c",
];
/// Of links; none leads out.
const TARGETS: [&str; 6] = ["a", "b", "x", "missing", "y/a", "x/y"];
const LONGEST: usize = 3000;

/// 2020 to 2023.
const TIMES: std::ops::Range<u32> = 1_580_000_000..1_680_000_000;

/// Whether symbolic links are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    Made,
    None,
}

#[derive(Debug)]
pub(super) enum Step {
    Upload {
        path: &'static str,
        flags: u32,
        writes: Vec<(u64, Vec<u8>)>,
        size: Option<u64>,
    },
    Download {
        path: &'static str,
        reads: Vec<(u64, u32)>,
    },
    Times(&'static str, (u32, u32)),
    /// A request of one path.
    One(u8, &'static str),
    /// RENAME, or `posix-rename@openssh.com`.
    Rename {
        replace: bool,
        from: &'static str,
        to: &'static str,
    },
    /// With modes that no umask narrows, here and in OPEN.
    Mkdir(&'static str),
    Permissions(&'static str, u32),
    Resize(&'static str, u64),
    Symlink {
        target: &'static str,
        link: &'static str,
    },
    List(&'static str),
}

const LSTAT: u8 = 7;
const REMOVE: u8 = 13;
const RMDIR: u8 = 15;
const STAT: u8 = 17;
const READLINK: u8 = 19;

/// What a request was answered, as far as two servers have to agree.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Status(u32),
    Opened,
    Data(Bytes),
    /// Type, permissions, and of a file the size.
    Attributes(Shape),
    Times(u32, u32),
    Target(Bytes),
    Names(Vec<(Bytes, Shape)>),
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    mode: u32,
    size: Option<u64>,
}

impl Step {
    pub(super) fn random(random: &mut Rng, links: Links) -> Self {
        let path = pick(random, &PATHS);
        match random.u32(..40) {
            0..8 => Self::upload(random, path),
            8..14 => Self::Download {
                path,
                reads: (0..random.usize(1..6))
                    .map(|_| (random.u64(..4000), random.u32(1..5000)))
                    .collect(),
            },
            14..17 => Self::One(STAT, path),
            17..19 => Self::One(LSTAT, path),
            19..22 => Self::One(REMOVE, path),
            22..24 => Self::One(RMDIR, path),
            24 => Self::One(READLINK, path),
            25..28 => Self::Mkdir(path),
            28..32 => Self::Rename {
                replace: random.bool(),
                from: path,
                to: pick(random, &PATHS),
            },
            32 => Self::Permissions(path, 0o600 | random.u32(..0o200)),
            33 => Self::Resize(path, random.u64(..4000)),
            34 => Self::Times(path, (random.u32(TIMES), random.u32(TIMES))),
            35 if links == Links::Made => Self::Symlink {
                target: pick(random, &TARGETS),
                link: path,
            },
            _ => Self::List(if random.bool() { "" } else { path }),
        }
    }

    pub(super) fn empty_file(path: &'static str) -> Self {
        Self::Upload {
            path,
            flags: WRITE | CREATE | TRUNCATE,
            writes: Vec::new(),
            size: None,
        }
    }

    fn upload(random: &mut Rng, path: &'static str) -> Self {
        let flags = WRITE
            | match random.u32(..8) {
                0..4 => CREATE | TRUNCATE,
                4 => CREATE | EXCLUSIVE,
                5 => CREATE,
                6 => CREATE | APPEND,
                _ => 0,
            };
        let mut writes = Vec::new();
        let mut end = 0;
        for _ in 0..random.usize(..5) {
            let data: Vec<u8> = (0..random.usize(1..LONGEST))
                .map(|_| random.u8(..))
                .collect();
            let offset = if random.u32(..4) == 0 {
                random.u64(..5000)
            } else {
                end
            };
            end = offset + data.len() as u64;
            writes.push((offset, data));
        }
        Self::Upload {
            path,
            flags,
            writes,
            size: (random.u32(..6) == 0).then(|| random.u64(..4000)),
        }
    }

    /// Whether OpenSSH takes a name for free that is not: it follows a link at the destination of a RENAME, and where that
    /// leads nowhere it renames a directory or another link over it.
    pub(super) async fn is_decided_by_chance(&self, openssh: &mut impl Peer) -> bool {
        let Self::Rename {
            replace: false, to, ..
        } = self
        else {
            return false;
        };
        let there = ask(openssh, one(openssh, LSTAT, to)).await;
        matches!(there, Answer::Attributes(shape) if shape.mode == Attributes::SYMLINK)
    }

    pub(super) async fn take(&self, peer: &mut impl Peer) -> Vec<Answer> {
        match self {
            Self::Upload {
                path,
                flags,
                writes,
                size,
            } => upload(peer, path, *flags, writes, *size).await,
            Self::Download { path, reads } => download(peer, path, reads).await,
            Self::Times(path, times) => {
                let set = Packet::new(9)
                    .string(&peer.path(path))
                    .number(8)
                    .number(times.0)
                    .number(times.1);
                let answer = ask(peer, set).await;
                if answer != Answer::Status(0) {
                    return vec![answer];
                }
                let (_, body) = peer.ask(one(peer, STAT, path)).await;
                let times = Parsed::from(&mut body.clone())
                    .times
                    .expect("STAT tells times");
                vec![answer, Answer::Times(times.0, times.1)]
            }
            Self::One(kind, path) => vec![ask(peer, one(peer, *kind, path)).await],
            Self::Rename { replace, from, to } => {
                let packet = if *replace {
                    Packet::extended("posix-rename@openssh.com")
                } else {
                    Packet::new(18)
                };
                let packet = packet.string(&peer.path(from)).string(&peer.path(to));
                vec![ask(peer, packet).await]
            }
            Self::Mkdir(path) => {
                let packet = Packet::new(14)
                    .string(&peer.path(path))
                    .number(4)
                    .number(0o700);
                vec![ask(peer, packet).await]
            }
            Self::Permissions(path, mode) => {
                let packet = Packet::new(9)
                    .string(&peer.path(path))
                    .number(4)
                    .number(*mode);
                vec![ask(peer, packet).await]
            }
            Self::Resize(path, size) => {
                let packet = Packet::new(9)
                    .string(&peer.path(path))
                    .number(1)
                    .long(*size);
                vec![ask(peer, packet).await]
            }
            Self::Symlink { target, link } => {
                // The target first, as OpenSSH has it.
                let packet = Packet::new(20)
                    .string(target.as_bytes())
                    .string(&peer.path(link));
                vec![ask(peer, packet).await]
            }
            Self::List(path) => list(peer, path).await,
        }
    }
}

async fn upload(
    peer: &mut impl Peer,
    path: &str,
    flags: u32,
    writes: &[(u64, Vec<u8>)],
    size: Option<u64>,
) -> Vec<Answer> {
    let open = Packet::new(3)
        .string(&peer.path(path))
        .number(flags)
        .number(4)
        .number(0o600);
    let handle = match open_handle(peer, open).await {
        Ok(handle) => handle,
        Err(answer) => return vec![answer],
    };
    let mut answers = vec![Answer::Opened];
    for (offset, data) in writes {
        let write = Packet::new(6).string(&handle).long(*offset).string(data);
        answers.push(ask(peer, write).await);
    }
    if let Some(size) = size {
        let resize = Packet::new(10).string(&handle).number(1).long(size);
        answers.push(ask(peer, resize).await);
    }
    answers.push(ask(peer, Packet::new(8).string(&handle)).await);
    answers.push(ask(peer, Packet::new(4).string(&handle)).await);
    answers
}

async fn download(peer: &mut impl Peer, path: &str, reads: &[(u64, u32)]) -> Vec<Answer> {
    let open = Packet::new(3)
        .string(&peer.path(path))
        .number(READ)
        .number(0);
    let handle = match open_handle(peer, open).await {
        Ok(handle) => handle,
        Err(answer) => return vec![answer],
    };
    let mut answers = vec![Answer::Opened];
    for (offset, length) in reads {
        let read = Packet::new(5).string(&handle).long(*offset).number(*length);
        answers.push(ask(peer, read).await);
    }
    if answers.get(1) == Some(&Answer::Status(4)) {
        // A directory: OpenSSH opens it and refuses each READ.
        answers = vec![Answer::Status(4)];
        ask(peer, Packet::new(4).string(&handle)).await;
        return answers;
    }
    answers.push(ask(peer, Packet::new(4).string(&handle)).await);
    answers
}

async fn list(peer: &mut impl Peer, path: &str) -> Vec<Answer> {
    let open = Packet::new(11).string(&peer.path(path));
    let handle = match open_handle(peer, open).await {
        Ok(handle) => handle,
        Err(answer) => return vec![answer],
    };
    let mut names = Vec::new();
    let last = loop {
        match ask(peer, Packet::new(12).string(&handle)).await {
            Answer::Names(more) => names.extend(more),
            other => break other,
        }
    };
    names.retain(|(name, _)| name != "." && name != "..");
    names.sort();
    let closed = ask(peer, Packet::new(4).string(&handle)).await;
    vec![Answer::Opened, Answer::Names(names), last, closed]
}

fn one(peer: &impl Peer, kind: u8, path: &str) -> Packet {
    Packet::new(kind).string(&peer.path(path))
}

async fn open_handle(peer: &mut impl Peer, open: Packet) -> Result<Bytes, Answer> {
    let (kind, mut body) = peer.ask(open).await;
    if kind == 102 {
        Ok(string(&mut body))
    } else {
        Err(answer(kind, body, false))
    }
}

async fn ask(peer: &mut impl Peer, request: Packet) -> Answer {
    let is_readlink = request.with_id(0).first() == Some(&READLINK);
    let (kind, body) = peer.ask(request).await;
    answer(kind, body, is_readlink)
}

fn answer(kind: u8, mut body: Bytes, is_target: bool) -> Answer {
    match kind {
        101 => Answer::Status(body.get_u32()),
        103 => Answer::Data(string(&mut body)),
        104 => {
            let names: Vec<_> = (0..body.get_u32())
                .map(|_| {
                    let name = string(&mut body);
                    string(&mut body);
                    (name, Parsed::from(&mut body))
                })
                .collect();
            match names.into_iter().collect::<Vec<_>>() {
                mut names if is_target => Answer::Target(names.remove(0).0),
                names => Answer::Names(
                    names
                        .into_iter()
                        .map(|(name, parsed)| (name, parsed.shape()))
                        .collect(),
                ),
            }
        }
        105 => Answer::Attributes(Parsed::from(&mut body).shape()),
        kind => panic!("reply of type {kind}"),
    }
}

fn string(body: &mut Bytes) -> Bytes {
    let length = body.get_u32() as usize;
    body.split_to(length)
}

/// ATTRS of version 3.
struct Parsed {
    size: Option<u64>,
    mode: Option<u32>,
    times: Option<(u32, u32)>,
}

impl Parsed {
    fn from(body: &mut Bytes) -> Self {
        let flags = body.get_u32();
        let size = (flags & 1 != 0).then(|| body.get_u64());
        if flags & 2 != 0 {
            body.advance(8);
        }
        Self {
            size,
            mode: (flags & 4 != 0).then(|| body.get_u32()),
            times: (flags & 8 != 0).then(|| (body.get_u32(), body.get_u32())),
        }
    }

    fn shape(self) -> Shape {
        let mode = self.mode.unwrap_or(0);
        let is_file = mode & Attributes::TYPE_MASK == Attributes::REGULAR;
        // What a link or directory takes on disk is nobody's promise, and a link's permissions mean nothing.
        let is_link = mode & Attributes::TYPE_MASK == Attributes::SYMLINK;
        Shape {
            mode: if is_link { Attributes::SYMLINK } else { mode },
            size: self.size.filter(|_| is_file),
        }
    }
}

fn pick(random: &mut Rng, from: &[&'static str]) -> &'static str {
    from.get(random.usize(..from.len()))
        .copied()
        .unwrap_or_default()
}
