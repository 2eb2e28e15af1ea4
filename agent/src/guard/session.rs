//! The session that a command was typed in, from what the kernel knows of its process.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// A remote session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub client: IpAddr,
    /// The TCP port on this host.
    pub port: u16,
}

/// Processes between a command and its session at most.
const DEPTH: usize = 32;

/// The SSH session of a process: what `SSH_CONNECTION` says in its environment, or in that of the nearest process above it,
/// since sudo and su drop it. `None` if there is none, as at the console or in a service.
pub fn of_process(proc: &Path, pid: i32) -> Option<Session> {
    let mut pid = pid;
    for _ in 0..DEPTH {
        if pid <= 1 {
            return None;
        }
        let directory: PathBuf = proc.join(pid.to_string());
        let session = fs::read(directory.join("environ"))
            .ok()
            .and_then(|environment| in_environment(&environment));
        if session.is_some() {
            return session;
        }
        pid = parent(&fs::read_to_string(directory.join("stat")).ok()?)?;
    }
    None
}

fn in_environment(environment: &[u8]) -> Option<Session> {
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|pair| pair.strip_prefix(b"SSH_CONNECTION="))?;
    let mut fields = std::str::from_utf8(value).ok()?.split(' ');
    let client = fields.next()?;
    // A link-local address has its zone behind it.
    let client = client
        .split_once('%')
        .map_or(client, |(address, _)| address);
    let client: IpAddr = client.parse().ok()?;
    let port = fields.nth(2)?.parse().ok()?;
    Some(Session {
        client: client.to_canonical(),
        port,
    })
}

/// The parent: the second field behind the name, which may have anything in it (proc_pid_stat(5)).
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: i32, parent: i32, environment: &str) {
        let directory = proc.join(pid.to_string());
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join("stat"),
            format!("{pid} (odd ) name) S {parent} 1 1"),
        )
        .unwrap();
        fs::write(directory.join("environ"), environment.replace('|', "\0")).unwrap();
    }

    #[test]
    fn a_session_is_found_behind_sudo_and_none_where_there_is_none() {
        let proc = tempfile::tempdir().unwrap();
        let ssh = "HOME=/|SSH_CONNECTION=192.0.2.10 50022 198.51.100.1 2222|TERM=x";
        process(proc.path(), 10, 1, ssh);
        process(proc.path(), 11, 10, "SUDO_USER=alice");
        process(proc.path(), 12, 11, "");
        process(
            proc.path(),
            20,
            1,
            "NOT_SSH_CONNECTION=192.0.2.10 1 192.0.2.1 22",
        );
        let wanted = Some(Session {
            client: IpAddr::from([192, 0, 2, 10]),
            port: 2222,
        });
        assert_eq!(of_process(proc.path(), 12), wanted);
        assert_eq!(of_process(proc.path(), 20), None);
        assert_eq!(of_process(proc.path(), 99), None);
    }

    #[test]
    fn zones_and_mapped_addresses_are_read_and_nonsense_is_not() {
        let client = |value: &str| {
            in_environment(format!("SSH_CONNECTION={value}").as_bytes())
                .map(|session| session.client.to_string())
        };
        assert_eq!(
            client("fe80::1%eth0 1 fe80::2 22").as_deref(),
            Some("fe80::1")
        );
        assert_eq!(
            client("::ffff:192.0.2.1 1 ::ffff:192.0.2.2 22").as_deref(),
            Some("192.0.2.1")
        );
        for nonsense in ["", "UNKNOWN 65535 UNKNOWN 65535", "192.0.2.1 1 192.0.2.2"] {
            assert_eq!(client(nonsense), None, "{nonsense}");
        }
    }
}
