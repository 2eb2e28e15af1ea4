//! The XDP program that is on an interface already: what it is called and where it is pinned.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramInfo,
    links::{FdLink, LinkType, PinnedLink},
    loaded_programs,
};

use super::host;
use crate::interface::{Attached, AttachedMode};

/// Files of BPF file systems that are looked at.
const MAX_PINS: usize = 2_000;
const MAX_DEPTH: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) id: u32,
    /// `None` without the right to ask.
    pub(super) name: Option<String>,
    pub(super) mode: AttachedMode,
    /// Pins of the program or of a link that holds it.
    pub(super) pins: Vec<PathBuf>,
}

pub(super) fn describe(attached: Attached) -> Program {
    let id = attached.program;
    let name = loaded_programs()
        .flatten()
        .find(|info| info.id() == id)
        .and_then(|info| info.name_as_str().map(str::to_owned));
    let mut pins = Vec::new();
    let mut left = MAX_PINS;
    let is_held = |pin: &Path| is_link_of(pin, id) || is_program(pin, id, name.as_deref());
    for mount in host::bpf_mounts() {
        find(&mount, &is_held, MAX_DEPTH, &mut left, &mut pins);
    }
    Program {
        id,
        name,
        mode: attached.mode,
        pins,
    }
}

fn find(
    directory: &Path,
    is_held: &impl Fn(&Path) -> bool,
    depth: usize,
    left: &mut usize,
    pins: &mut Vec<PathBuf>,
) {
    let Ok(files) = fs::read_dir(directory) else {
        return;
    };
    for file in files.flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let path = file.path();
        match file.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => find(&path, is_held, depth - 1, left, pins),
            Ok(kind) if kind.is_file() && is_held(&path) => pins.push(path),
            Ok(_) | Err(_) => {}
        }
    }
}

/// A pin may be of anything, and a map's description begins with a number too: only a program has the name where a program has it.
fn is_program(pin: &Path, id: u32, name: Option<&str>) -> bool {
    ProgramInfo::from_pin(pin)
        .is_ok_and(|info| info.id() == id && name.is_some() && info.name_as_str() == name)
}

fn is_link_of(pin: &Path, id: u32) -> bool {
    PinnedLink::from_pin(pin)
        .ok()
        .and_then(|link| FdLink::from(link).info().ok())
        .is_some_and(|info| {
            matches!(info.link_type(), Ok(LinkType::Xdp)) && info.program_id() == id
        })
}
