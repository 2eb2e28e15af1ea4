//! Who is at the other end of the socket, by the kernel's word, and what that allows.

use std::{io, mem::size_of, net::SocketAddr, os::fd::AsRawFd as _, path::Path};

use tokio::net::UnixStream;

use crate::{
    config,
    guard::session::{self, Session},
    record,
};

/// Who connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub identity: Identity,
    pub name: String,
    pub roles: Roles,
    /// Numbers the connections of this daemon: a confirmation must not come over the one that asked.
    pub connection: u64,
}

/// How it is known who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The kernel says so, of a Unix socket.
    Process { uid: u32, pid: Option<i32> },
    /// A certificate says so, over TLS.
    Certificate { address: SocketAddr, port: u16 },
    /// It is a part of the agent itself.
    Agent,
}

/// What someone may do. Root may do everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles {
    pub admin: bool,
    pub ban: bool,
    pub read: bool,
    /// Over a local socket only.
    pub offer: bool,
}

/// One thing that a role may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// See status, lists, bans and events.
    Read,
    /// See the bans.
    ReadBans,
    /// Ban a source.
    Ban,
    /// Put a list of its own in force, within `[offers]`.
    Offer,
    /// Lift bans, change the allowlist.
    Administer,
}

impl Roles {
    /// The roles of a user in these groups.
    pub fn of(uid: u32, groups: &[u32], control: &config::Control) -> Self {
        let in_any = |granted: &std::collections::BTreeSet<u32>| {
            groups.iter().any(|group| granted.contains(group))
        };
        Self {
            admin: uid == 0 || in_any(&control.admin_groups),
            ban: in_any(&control.ban_groups),
            read: in_any(&control.read_groups),
            offer: in_any(&control.offer_groups),
        }
    }

    /// Whether the roles allow it.
    pub fn allow(self, right: Right) -> bool {
        match right {
            Right::Read => self.admin || self.read,
            Right::ReadBans => self.admin || self.read || self.ban,
            Right::Ban => self.admin || self.ban,
            Right::Offer => self.admin || self.offer,
            Right::Administer => self.admin,
        }
    }
}

impl Right {
    /// The setting that grants it, for the one who lacks it.
    pub fn granted_by(self) -> &'static str {
        match self {
            Self::Read => "control.read_groups or control.admin_groups",
            Self::ReadBans => "control.read_groups, control.ban_groups or control.admin_groups",
            Self::Ban => "control.ban_groups or control.admin_groups",
            Self::Offer => "control.offer_groups or control.admin_groups",
            Self::Administer => "control.admin_groups",
        }
    }
}

impl Peer {
    /// The agent itself, under the name of the part that acts.
    pub fn agent(part: &str) -> Self {
        Self {
            identity: Identity::Agent,
            name: part.to_owned(),
            roles: Roles {
                admin: true,
                ..Roles::default()
            },
            connection: 0,
        }
    }

    /// The remote session that the request comes from, if it comes from one.
    pub fn session(&self) -> Option<Session> {
        match self.identity {
            Identity::Process { pid: Some(pid), .. } => {
                session::of_process(Path::new("/proc"), pid)
            }
            Identity::Certificate { address, port } => Some(Session {
                client: address.ip().to_canonical(),
                port,
            }),
            Identity::Process { pid: None, .. } | Identity::Agent => None,
        }
    }

    /// The peer of `stream`, as it was when it connected.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn of(stream: &UnixStream, connection: u64, control: &config::Control) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let uid = credentials.uid();
        let mut groups = supplementary_groups(stream)?;
        groups.push(credentials.gid());
        Ok(Self {
            identity: Identity::Process {
                uid,
                pid: credentials.pid(),
            },
            name: record::user_name(uid),
            roles: Roles::of(uid, &groups, control),
            connection,
        })
    }
}

/// The peer's supplementary groups (`SO_PEERGROUPS`, Linux 4.13); its credentials hold only the primary one.
fn supplementary_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length =
            libc::socklen_t::try_from(groups.len() * size_of::<u32>()).map_err(io::Error::other)?;
        // SAFETY: the buffer is `length` bytes long and outlives the call; the kernel writes no more than that.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let needed = usize::try_from(length).map_err(io::Error::other)? / size_of::<u32>();
        if result == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn control() -> config::Control {
        config::Control {
            admin_groups: BTreeSet::from([10]),
            ban_groups: BTreeSet::from([20]),
            read_groups: BTreeSet::from([30]),
            offer_groups: BTreeSet::from([40]),
            ..config::Config::parse("interfaces = [\"eth0\"]")
                .unwrap()
                .control
        }
    }

    #[test]
    fn each_role_has_its_rights_and_not_its_neighbours() {
        let rights = [
            Right::Read,
            Right::ReadBans,
            Right::Ban,
            Right::Offer,
            Right::Administer,
        ];
        for (uid, groups, allowed) in [
            (0, vec![0], [true, true, true, true, true]),
            (1000, vec![1000, 10], [true, true, true, true, true]),
            (1000, vec![1000, 20], [false, true, true, false, false]),
            (1000, vec![1000, 30], [true, true, false, false, false]),
            (1000, vec![1000, 40], [false, false, false, true, false]),
            (1000, vec![1000, 20, 30], [true, true, true, false, false]),
            (1000, vec![1000], [false, false, false, false, false]),
            (1000, vec![0], [false, false, false, false, false]),
        ] {
            let roles = Roles::of(uid, &groups, &control());
            assert_eq!(
                rights.map(|right| roles.allow(right)),
                allowed,
                "uid {uid}, groups {groups:?}"
            );
        }
    }
}
