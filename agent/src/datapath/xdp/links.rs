//! The links that hold the program on its interfaces.

use std::{error::Error, fmt::Write as _, fs, path::Path};

use aya::programs::{
    ProgramError, SchedClassifier, Xdp, XdpMode,
    links::{FdLink, LinkError, PinnedLink},
    loaded_programs,
    xdp::XdpLink,
};

use super::egress;
use crate::{
    datapath::{Egress, InterfaceState, InterfaceStatus, RunsAs, mode::AttachMode, pins::Pins},
    interface::{self, Attached, Interface},
};

/// The interfaces to hold.
pub(super) struct Links {
    interfaces: Vec<Held>,
    mode: AttachMode,
}

struct Held {
    name: String,
    /// Whether the link, which an earlier daemon may have left, runs the program that this one loaded.
    is_current: bool,
    egress: egress::Held,
}

/// Why an interface can't be held.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkFailure {
    #[error("attach")]
    Attach { source: ProgramError },
    #[error("swap the program on the link of an earlier run")]
    Update { source: ProgramError },
    #[error("read the pinned link")]
    Read { source: LinkError },
    #[error("the kernel has no XDP links here; only a link can be pinned and outlive the daemon")]
    NoLink,
    #[error("pin the link")]
    Pin { source: aya::pin::PinError },
    #[error("remove the pin of a link that is gone")]
    Unpin { source: std::io::Error },
    #[error(
        "it runs in the network stack since an earlier start, and mode = \"require-native\" is set; detach it with `portcullis-agent unload --force` first"
    )]
    NotNative,
    #[error("ask the kernel about it")]
    Query { source: std::io::Error },
}

impl Links {
    pub(super) fn new(interfaces: &[String], mode: AttachMode) -> Self {
        let interfaces = interfaces
            .iter()
            .map(|name| Held {
                name: name.clone(),
                is_current: false,
                egress: egress::Held::default(),
            })
            .collect();
        Self { interfaces, mode }
    }

    /// Puts the program on every interface that wants it, and `egress` on its way out, or takes that away where none is given.
    pub(super) fn tend(
        &mut self,
        program: &mut Xdp,
        mut egress: Option<&mut SchedClassifier>,
        pins: &Pins,
    ) -> Vec<InterfaceStatus> {
        let mode = self.mode;
        let configured: Vec<String> = self
            .interfaces
            .iter()
            .map(|held| held.name.clone())
            .collect();
        self.interfaces
            .iter_mut()
            .map(|held| {
                let (found, now_called) = match find(held, &configured, pins) {
                    Ok(found) => found,
                    Err(failure) => {
                        return InterfaceStatus {
                            name: held.name.clone(),
                            state: failed(0, &failure),
                            egress: Egress::Off,
                        };
                    }
                };
                // What goes out is learned before what comes in is dropped, so that no flow of before is cut.
                let egress = match &found {
                    Some(found) => held.egress.tend(
                        &now_called,
                        found.index,
                        egress.as_deref_mut(),
                        &pins.egress_link(&held.name),
                    ),
                    None => Egress::Off,
                };
                InterfaceStatus {
                    name: held.name.clone(),
                    state: tend_one(held, found, &now_called, mode, program, pins),
                    egress,
                }
            })
            .collect()
    }
}

/// The interface under its name, or under another that it was given since; and what it is called now.
fn find(
    held: &Held,
    configured: &[String],
    pins: &Pins,
) -> Result<(Option<Interface>, String), LinkFailure> {
    let query = |name: &str| interface::query(name).map_err(|source| LinkFailure::Query { source });
    if let Some(found) = query(&held.name)? {
        return Ok((Some(found), held.name.clone()));
    }
    if let Some(ours) = pinned_program(&pins.link(&held.name))? {
        let names = interface::names().map_err(|source| LinkFailure::Query { source })?;
        for name in names.iter().filter(|name| !configured.contains(name)) {
            if let Some(found) = query(name)?
                && found
                    .attached
                    .is_some_and(|attached| attached.program == ours)
            {
                return Ok((Some(found), name.clone()));
            }
        }
    }
    Ok((None, held.name.clone()))
}

fn tend_one(
    held: &mut Held,
    found: Option<Interface>,
    now_called: &str,
    mode: AttachMode,
    program: &mut Xdp,
    pins: &Pins,
) -> InterfaceState {
    let pin = pins.link(&held.name);
    // The pin stays. Moved to another namespace, an interface loses its program (Linux 6.18), and gets it again on its return.
    let Some(Interface { index, attached }) = found else {
        held.is_current = false;
        return InterfaceState::Gone;
    };
    let result = match (attached, pinned_program(&pin)) {
        (Some(attached), Ok(Some(ours))) if attached.program == ours => {
            keep(held, mode, program, &pin, attached)
        }
        (_, Err(failure)) => Err(failure),
        (Some(other), Ok(_)) => return occupied(index, other),
        (None, Ok(stale)) => {
            if stale.is_some() {
                tracing::warn!(
                    interface = held.name,
                    "the program was no longer attached: attaching it again"
                );
            }
            unpin(&pin)
                .and_then(|()| attach(program, index, mode, &pin))
                .inspect(|()| held.is_current = true)
        }
    };
    if let Err(failure) = result {
        // Someone may have been faster.
        return match interface::query(now_called) {
            Ok(Some(Interface {
                index,
                attached: Some(other),
            })) if !held.is_current && Some(other.program) != own_id(program) => {
                match pinned_program(&pin) {
                    Ok(Some(ours)) if ours == other.program => failed(index, &failure),
                    Ok(_) | Err(_) => occupied(index, other),
                }
            }
            Ok(_) | Err(_) => failed(index, &failure),
        };
    }
    match interface::query(now_called) {
        Ok(Some(Interface {
            index,
            attached: Some(attached),
        })) => InterfaceState::Enforcing {
            index,
            mode: RunsAs::from(attached.mode),
            program: attached.program,
            renamed_to: (now_called != held.name).then(|| now_called.to_owned()),
        },
        Ok(Some(_) | None) => InterfaceState::Gone,
        Err(source) => failed(index, &LinkFailure::Query { source }),
    }
}

/// Makes the link of an earlier run carry this program. Packets meet either the old or the new one, both with the same maps.
fn keep(
    held: &mut Held,
    mode: AttachMode,
    program: &mut Xdp,
    pin: &Path,
    attached: Attached,
) -> Result<(), LinkFailure> {
    if mode == AttachMode::RequireNative && RunsAs::from(attached.mode) == RunsAs::Generic {
        return Err(LinkFailure::NotNative);
    }
    if held.is_current {
        return Ok(());
    }
    let link: FdLink = PinnedLink::from_pin(pin)
        .map_err(|source| LinkFailure::Read { source })?
        .into();
    let link = XdpLink::try_from(link).map_err(|source| LinkFailure::Read { source })?;
    let id = program
        .attach_to_link(link)
        .map_err(|source| LinkFailure::Update { source })?;
    // The pin holds the link; this handle is not needed, and must not detach anything when the daemon ends.
    drop(program.take_link(id));
    held.is_current = true;
    Ok(())
}

fn attach(program: &mut Xdp, index: u32, mode: AttachMode, pin: &Path) -> Result<(), LinkFailure> {
    match mode {
        AttachMode::RequireNative => attach_as(program, index, XdpMode::Driver, pin),
        AttachMode::Generic => attach_as(program, index, XdpMode::Skb, pin),
        AttachMode::Native => attach_as(program, index, XdpMode::Driver, pin).or_else(|failure| {
            tracing::warn!(
                index,
                reason = chain(&failure),
                "the driver does not take the program: falling back to generic mode"
            );
            attach_as(program, index, XdpMode::Skb, pin)
        }),
    }
}

fn attach_as(program: &mut Xdp, index: u32, mode: XdpMode, pin: &Path) -> Result<(), LinkFailure> {
    let refused = |source| LinkFailure::Attach { source };
    let id = program.attach_to_if_index(index, mode).map_err(refused)?;
    let link = program.take_link(id).map_err(refused)?;
    // aya falls back to netlink without a word. Such an attachment ends with the daemon, so it is undone here, by dropping it.
    let link = FdLink::try_from(link).map_err(|_| LinkFailure::NoLink)?;
    link.pin(pin)
        .map(drop)
        .map_err(|source| LinkFailure::Pin { source })
}

/// The program on a pinned link, if there is such a pin.
pub(super) fn pinned_program(pin: &Path) -> Result<Option<u32>, LinkFailure> {
    if !pin.exists() {
        return Ok(None);
    }
    let read = |source| LinkFailure::Read { source };
    let link: FdLink = PinnedLink::from_pin(pin).map_err(read)?.into();
    Ok(Some(link.info().map_err(read)?.program_id()))
}

pub(super) fn unpin(pin: &Path) -> Result<(), LinkFailure> {
    match fs::remove_file(pin) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(LinkFailure::Unpin { source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn own_id(program: &Xdp) -> Option<u32> {
    program.info().ok().map(|info| info.id())
}

fn occupied(index: u32, other: Attached) -> InterfaceState {
    let program_name = loaded_programs()
        .flatten()
        .find(|info| info.id() == other.program)
        .and_then(|info| info.name_as_str().map(str::to_owned))
        .unwrap_or_default();
    InterfaceState::Occupied {
        index,
        program: other.program,
        program_name,
    }
}

fn failed(index: u32, failure: &LinkFailure) -> InterfaceState {
    InterfaceState::Failed {
        index,
        error: chain(failure),
    }
}

pub(super) fn chain(failure: &dyn Error) -> String {
    let mut text = failure.to_string();
    let mut source = failure.source();
    while let Some(error) = source {
        // Writing to a string does not fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
