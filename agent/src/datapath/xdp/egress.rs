//! The program that learns flows, on an interface's way out.

use std::{mem, path::Path};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{
        NlOptions, SchedClassifierLink, TcAttachOptions, TcError, qdisc_add_clsact,
        qdisc_detach_program,
    },
};

use super::links::{LinkFailure, chain, pinned_program, unpin};
use crate::datapath::Egress;

/// The program's name is what a filter of an earlier daemon is known by: the kernel has no pins for those.
const FILTERS: [&str; 2] = [
    agent_ebpf::layout::EGRESS_PROGRAM,
    agent_ebpf::layout::LPM_EGRESS_PROGRAM,
];

/// What this daemon has put on one interface.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The index of the interface that has a filter of this daemon's.
    filtered: Option<u32>,
    /// The index of the interface that has no filter of an earlier daemon's.
    cleared: Option<u32>,
}

/// Why nothing is learned.
#[derive(Debug, thiserror::Error)]
enum EgressFailure {
    #[error("attach the program that learns flows")]
    Attach { source: ProgramError },
    #[error("add the clsact queueing discipline")]
    Clsact { source: TcError },
    #[error(transparent)]
    Link(#[from] LinkFailure),
}

impl Held {
    /// Puts `program` on the egress of the interface, or takes away what is there when none is given.
    pub(super) fn tend(
        &mut self,
        interface: &str,
        index: u32,
        program: Option<&mut SchedClassifier>,
        pin: &Path,
    ) -> Egress {
        let result = match program {
            Some(program) => self.hold(interface, index, program, pin),
            None => self.release(interface, index, pin).map(|()| Egress::Off),
        };
        result.unwrap_or_else(|failure| Egress::Failed {
            error: chain(&failure),
        })
    }

    fn hold(
        &mut self,
        interface: &str,
        index: u32,
        program: &mut SchedClassifier,
        pin: &Path,
    ) -> Result<Egress, EgressFailure> {
        let own = program.info().ok().map(|info| info.id());
        if let Some(pinned) = pinned_program(pin)? {
            if is_on(interface, pinned) {
                if Some(pinned) != own {
                    update(program, pin)?;
                }
                self.clear(interface, index);
                return Ok(Egress::Tcx);
            }
            // The interface was replaced by another of the same name.
            unpin(pin)?;
        }
        // A filter goes with its interface.
        if self.filtered == Some(index) {
            return Ok(Egress::Clsact);
        }
        match attach_link(interface, program, pin) {
            Ok(()) => {
                self.clear(interface, index);
                Ok(Egress::Tcx)
            }
            Err(error) => {
                tracing::debug!(
                    interface,
                    reason = chain(&error),
                    "no TCX link: taking a filter of clsact"
                );
                attach_filter(interface, program)?;
                self.filtered = Some(index);
                Ok(Egress::Clsact)
            }
        }
    }

    fn release(&mut self, interface: &str, index: u32, pin: &Path) -> Result<(), EgressFailure> {
        unpin(pin)?;
        if self.filtered.take().is_some() {
            self.cleared = None;
        }
        self.clear(interface, index);
        Ok(())
    }

    /// Removes what an earlier daemon left, which had no links. Asked of the kernel once for each interface.
    fn clear(&mut self, interface: &str, index: u32) {
        if self.cleared != Some(index) {
            remove_filters(interface);
            self.cleared = Some(index);
        }
    }
}

/// Whether the program with this id is on the interface's way out.
fn is_on(interface: &str, program: u32) -> bool {
    SchedClassifier::query_tcx(interface, TcAttachType::Egress)
        .is_ok_and(|(_, programs)| programs.iter().any(|info| info.id() == program))
}

/// Makes the link of an earlier run carry this program.
fn update(program: &mut SchedClassifier, pin: &Path) -> Result<(), EgressFailure> {
    let read = |source| LinkFailure::Read { source };
    let link: FdLink = PinnedLink::from_pin(pin).map_err(read)?.into();
    let link = SchedClassifierLink::try_from(link).map_err(read)?;
    let refused = |source| EgressFailure::Attach { source };
    let id = program.attach_to_link(link).map_err(refused)?;
    // The pin holds the link; this handle must not detach anything when the daemon ends.
    drop(program.take_link(id).map_err(refused)?);
    Ok(())
}

fn attach_link(
    interface: &str,
    program: &mut SchedClassifier,
    pin: &Path,
) -> Result<(), EgressFailure> {
    let refused = |source| EgressFailure::Attach { source };
    let id = program
        .attach_with_options(
            interface,
            TcAttachType::Egress,
            TcAttachOptions::TcxOrder(LinkOrder::default()),
        )
        .map_err(refused)?;
    let link = program.take_link(id).map_err(refused)?;
    let link = FdLink::try_from(link).map_err(|_| LinkFailure::NoLink)?;
    link.pin(pin)
        .map(drop)
        .map_err(|source| LinkFailure::Pin { source }.into())
}

/// Puts a filter there that stays when the daemon ends.
fn attach_filter(interface: &str, program: &mut SchedClassifier) -> Result<(), EgressFailure> {
    let refused = |source| EgressFailure::Attach { source };
    if let Err(source) = qdisc_add_clsact(interface)
        && !is_there_already(&source)
    {
        return Err(EgressFailure::Clsact { source });
    }
    remove_filters(interface);
    let id = program
        .attach_with_options(
            interface,
            TcAttachType::Egress,
            TcAttachOptions::Netlink(NlOptions::default()),
        )
        .map_err(refused)?;
    // Dropped, it would detach.
    mem::forget(program.take_link(id).map_err(refused)?);
    Ok(())
}

/// Takes away the filters of this program's name. There may be none.
pub(crate) fn remove_filters(interface: &str) {
    for name in FILTERS {
        if let Err(error) = qdisc_detach_program(interface, TcAttachType::Egress, name) {
            tracing::debug!(interface, %error, "no filter of an earlier run");
        }
    }
}

fn is_there_already(error: &TcError) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::AlreadyExists;
        }
        source = error.source();
    }
    false
}
