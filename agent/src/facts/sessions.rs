//! Peers of SSH sessions that have logged in.
//!
//! A connection to the SSH port proves nothing: it is there before the password is asked for, and whoever holds one open would be
//! protected. The login records don't do either: `utmp` has only sessions with a terminal, is absent on newer systems, and can hold a
//! host name that the peer chose. So each connection is followed to the process that holds its socket. It is a session if
//! - that process has an audit session (`/proc/PID/sessionid`) which the one that listens has not: `pam_loginuid` opens
//!   one after the login, root alone can do so, and it is inherited, or
//! - a process below it was started with just this connection in its `SSH_CONNECTION`, which a server sets for the user's shell. Others can
//!   set that variable too, but not below a process that holds the socket.
//!
//! The second holds without PAM and without the kernel's audit, the first for SFTP and tunnels, which start no process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use super::{
    Fact, Origin, Settings,
    flows::{self, Connection},
};

/// What `/proc/PID/sessionid` says for no session.
const NO_SESSION: u32 = u32::MAX;
/// The part of a process's environment that is read.
const MAX_ENVIRONMENT: u64 = 128 * 1024;

/// The peers, or those of them within one network. All processes are looked through if it has a connection.
pub(super) fn peers(settings: &Settings, about: Option<&IpNet>) -> Result<Vec<Fact>, String> {
    let mut facts = Vec::new();
    for port in &settings.ssh_ports {
        let problem =
            |error| format!("the kernel does not tell the connections to port {port}: {error}");
        let mut established = flows::established(*port).map_err(problem)?;
        established.retain(|connection| {
            about.is_none_or(|network| network.contains(&connection.flow.remote.ip()))
        });
        if established.is_empty() {
            continue;
        }
        let listening = flows::listening(*port).map_err(problem)?;
        let sessions = logged_in(&settings.root.join("proc"), &established, &listening);
        facts.extend(sessions.into_iter().map(|flow| Fact {
            address: flow.ip(),
            origin: Origin::Ssh { port: *port },
        }));
    }
    Ok(facts)
}

/// The peers of those connections that belong to a session.
fn logged_in(
    proc: &Path,
    established: &[Connection],
    listening: &[Connection],
) -> BTreeSet<SocketAddr> {
    let inodes: BTreeSet<u32> = established
        .iter()
        .chain(listening)
        .map(|connection| connection.inode)
        .filter(|inode| *inode != 0)
        .collect();
    let processes = Processes::read(proc, &inodes);
    let listeners: BTreeSet<u32> = listening
        .iter()
        .flat_map(|socket| processes.holders(socket.inode))
        .filter_map(|process| processes.session(*process))
        .collect();
    established
        .iter()
        .filter(|connection| {
            processes.holders(connection.inode).iter().any(|holder| {
                let has_session = processes
                    .session(*holder)
                    .is_some_and(|session| session != NO_SESSION && !listeners.contains(&session));
                has_session || processes.has_shell(*holder, connection)
            })
        })
        .map(|connection| connection.flow.remote)
        .collect()
}

/// The processes of this machine, as far as they matter here.
struct Processes {
    proc: PathBuf,
    children: BTreeMap<u32, Vec<u32>>,
    /// Who has a socket open, by its number.
    holders: BTreeMap<u32, Vec<u32>>,
}

impl Processes {
    fn read(proc: &Path, inodes: &BTreeSet<u32>) -> Self {
        let mut processes = Self {
            proc: proc.to_owned(),
            children: BTreeMap::new(),
            holders: BTreeMap::new(),
        };
        let all = fs::read_dir(proc)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        for process in all {
            let directory = proc.join(process.to_string());
            if let Some(parent) = parent(&directory) {
                processes.children.entry(parent).or_default().push(process);
            }
            let files = fs::read_dir(directory.join("fd")).into_iter().flatten();
            for file in files.flatten() {
                let inode = fs::read_link(file.path())
                    .ok()
                    .and_then(|target| {
                        target
                            .to_str()?
                            .strip_prefix("socket:[")?
                            .strip_suffix(']')?
                            .parse::<u32>()
                            .ok()
                    })
                    .filter(|inode| inodes.contains(inode));
                if let Some(inode) = inode {
                    processes.holders.entry(inode).or_default().push(process);
                }
            }
        }
        processes
    }

    fn holders(&self, inode: u32) -> &[u32] {
        self.holders.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// The audit session; `None` if the kernel has none of them.
    fn session(&self, process: u32) -> Option<u32> {
        let text =
            fs::read_to_string(self.proc.join(process.to_string()).join("sessionid")).ok()?;
        text.trim().parse().ok()
    }

    /// Whether a process below `holder` was started for the connection.
    fn has_shell(&self, holder: u32, connection: &Connection) -> bool {
        let mut seen = BTreeSet::from([holder]);
        let mut below = vec![holder];
        while let Some(process) = below.pop() {
            for child in self.children.get(&process).into_iter().flatten() {
                // A listening server's other connections are below it too, and so would be their shells.
                if seen.insert(*child) {
                    if self.is_started_for(*child, connection) {
                        return true;
                    }
                    below.push(*child);
                }
            }
        }
        false
    }

    fn is_started_for(&self, process: u32, connection: &Connection) -> bool {
        let path = self.proc.join(process.to_string()).join("environ");
        let mut environment = Vec::new();
        let Ok(file) = fs::File::open(path) else {
            return false;
        };
        if file
            .take(MAX_ENVIRONMENT)
            .read_to_end(&mut environment)
            .is_err()
        {
            return false;
        }
        environment
            .split(|byte| *byte == 0)
            .filter_map(|variable| {
                std::str::from_utf8(variable.strip_prefix(b"SSH_CONNECTION=")?).ok()
            })
            .any(|value| {
                ssh_connection(value) == Some((connection.flow.remote, connection.flow.local))
            })
    }
}

/// `CLIENT CLIENT-PORT SERVER SERVER-PORT`, as ssh(1) has it.
fn ssh_connection(value: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut words = value.split(' ');
    let mut next = || -> Option<SocketAddr> {
        let address = words.next()?;
        let address: IpAddr = address.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(
            address.to_canonical(),
            words.next()?.parse().ok()?,
        ))
    };
    Some((next()?, next()?))
}

/// The parent of a process: the second word behind the name, which may have anything in it (proc_pid_stat(5)).
fn parent(directory: &Path) -> Option<u32> {
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::facts::Flow;

    const LISTENER: u32 = 100;
    const PEER: &str = "203.0.113.7:50000";

    /// A `/proc` with a listening server that has process 100 and socket 1, and a connection of `PEER` with socket 2.
    struct Machine(TempDir);

    impl Machine {
        fn new(listener_session: u32) -> Self {
            let machine = Self(TempDir::new().unwrap());
            machine.process(LISTENER, 1, listener_session, &[1], "");
            machine
        }

        fn process(&self, id: u32, parent: u32, session: u32, sockets: &[u32], environment: &str) {
            let directory = self.0.path().join(id.to_string());
            fs::create_dir_all(directory.join("fd")).unwrap();
            fs::write(
                directory.join("stat"),
                format!("{id} (a) b) S {parent} 0 0\n"),
            )
            .unwrap();
            fs::write(directory.join("sessionid"), session.to_string()).unwrap();
            fs::write(directory.join("environ"), environment.replace(';', "\0")).unwrap();
            for socket in sockets {
                symlink(
                    format!("socket:[{socket}]"),
                    directory.join("fd").join(socket.to_string()),
                )
                .unwrap();
            }
        }

        fn peers(&self) -> Vec<String> {
            let connection = |remote: &str, inode| Connection {
                flow: Flow {
                    protocol: 6,
                    local: "192.0.2.1:22".parse().unwrap(),
                    remote: remote.parse().unwrap(),
                },
                inode,
            };
            let established = [connection(PEER, 2), connection("198.51.100.9:50000", 3)];
            let listening = [connection("0.0.0.0:0", 1)];
            logged_in(self.0.path(), &established, &listening)
                .iter()
                .map(ToString::to_string)
                .collect()
        }
    }

    #[test]
    fn a_connection_whose_holder_has_an_audit_session_is_one() {
        let machine = Machine::new(NO_SESSION);
        machine.process(200, LISTENER, 5, &[2], "");
        machine.process(300, LISTENER, NO_SESSION, &[3], "");
        assert_eq!(machine.peers(), [PEER]);
    }

    #[test]
    fn a_connection_that_has_not_logged_in_is_none() {
        let machine = Machine::new(NO_SESSION);
        machine.process(200, LISTENER, NO_SESSION, &[2], "");
        assert!(machine.peers().is_empty());
    }

    #[test]
    fn a_session_that_the_server_was_started_from_is_nobodys_login() {
        let machine = Machine::new(5);
        machine.process(200, LISTENER, 5, &[2], "");
        assert!(machine.peers().is_empty());
        machine.process(300, LISTENER, 6, &[3], "");
        assert_eq!(machine.peers(), ["198.51.100.9:50000"]);
    }

    #[test]
    fn a_shell_below_the_connection_is_a_session_and_one_elsewhere_is_not() {
        let variable = "A=b;SSH_CONNECTION=203.0.113.7 50000 192.0.2.1 22;";
        let machine = Machine::new(NO_SESSION);
        machine.process(200, LISTENER, NO_SESSION, &[2], "");
        machine.process(500, 1, NO_SESSION, &[], variable);
        assert!(machine.peers().is_empty(), "anybody can set the variable");
        machine.process(201, 200, NO_SESSION, &[], "A=b");
        machine.process(202, 201, NO_SESSION, &[], variable);
        assert_eq!(machine.peers(), [PEER]);
    }

    #[test]
    fn a_shell_for_another_connection_makes_none() {
        let machine = Machine::new(NO_SESSION);
        machine.process(200, LISTENER, NO_SESSION, &[2], "");
        for (id, variable) in [
            (201, "SSH_CONNECTION=203.0.113.7 50001 192.0.2.1 22"),
            (202, "SSH_CONNECTION=203.0.113.7 50000 192.0.2.1"),
            (203, "XSSH_CONNECTION=203.0.113.7 50000 192.0.2.1 22"),
        ] {
            machine.process(id, 200, NO_SESSION, &[], variable);
        }
        assert!(machine.peers().is_empty());
    }

    #[test]
    fn addresses_are_compared_in_one_form() {
        assert_eq!(
            ssh_connection("::ffff:203.0.113.7 1 fe80::1%eth0 22"),
            Some((
                "203.0.113.7:1".parse().unwrap(),
                "[fe80::1]:22".parse().unwrap()
            ))
        );
    }
}
