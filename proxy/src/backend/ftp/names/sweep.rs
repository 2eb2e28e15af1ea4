//! Staging files that a killed gateway, or a connection that broke for good, left on the server.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    backend::{
        ftp::{fault::Fault, location::Location, pool::Lease},
        staging::StagingName,
    },
    operation::Entry,
};

/// Removals for one listing, which waits for them.
const AT_ONCE: usize = 50;
/// A listing's times are in the server's zone, which is up to 14 hours from UTC, and nobody says which.
const ZONES: u64 = 14 * 60 * 60;

/// Removes the staging files among `entries` that nobody has written to for the time that interrupted uploads are kept, as
/// far as the server lets it, and logs what it does. Looks once an hour at each directory.
pub(super) async fn leftovers(lease: &mut Lease, directory: &Location, entries: &[Entry]) {
    let server = lease.server().clone();
    let suspects: Vec<&Entry> = entries
        .iter()
        .filter(|entry| {
            StagingName::parse(&entry.name).is_some_and(|name| !server.names.is_in_use(&name))
        })
        .take(AT_ONCE)
        .collect();
    if suspects.is_empty() || !server.begins_sweep(directory) {
        return;
    }
    for entry in suspects {
        let listed = entry.attributes.times.map(|(_, modified)| modified);
        let swept = remove_if_old(lease, directory, &entry.name, listed).await;
        match swept {
            Ok(true) => tracing::info!(
                %directory, name = ?entry.name,
                "removed the staging file of an upload that never finished"
            ),
            Ok(false) => {}
            Err(fault) => {
                tracing::warn!(
                    %directory, name = ?entry.name, %fault,
                    "the staging file of an upload that never finished can't be removed; remove it by hand"
                );
                if !fault.is_refusal() {
                    return;
                }
            }
        }
    }
}

async fn remove_if_old(
    lease: &mut Lease,
    directory: &Location,
    name: &[u8],
    listed: Option<u32>,
) -> Result<bool, Fault> {
    let file = directory.child(name)?;
    // MLSD's and MDTM's times are in UTC (RFC 3659 section 2.3).
    let (modified, doubt) = if lease.lists_in_utc() {
        (listed, 0)
    } else {
        match lease.modified(&file).await {
            Ok(modified) => (Some(modified), 0),
            Err(fault) if fault.is_refusal() => (listed, ZONES),
            Err(fault) => return Err(fault),
        }
    };
    let retention = lease.server().names.retention();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let horizon = now.saturating_sub(retention.as_secs() + doubt);
    if modified.is_none_or(|modified| u64::from(modified) >= horizon) {
        return Ok(false);
    }
    lease.delete(&file).await.map(|()| true)
}
