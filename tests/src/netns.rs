//! Network namespaces that a test owns.
//!
//! Everything that a test sends, attaches or addresses stays in namespaces made here; dropping the value removes
//! them, a panic included. Making one needs root: without it a test fails, it is never skipped.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsFd as _,
    panic::resume_unwind,
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with its loopback up, deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace whose name contains `role`, the process id and a counter.
    ///
    /// # Errors
    /// Without root, or without iproute2.
    pub fn new(role: &str) -> Result<Self> {
        let name = format!(
            "pt-{role}-{}-{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        ip(&["netns", "add", &name]).context("make a network namespace (this needs root)")?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs inside the namespace.
    ///
    /// Only the network is the namespace's: unlike `ip netns exec` it keeps the caller's mounts, so that what is
    /// pinned on a BPF file system outlives the process.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs `work` on a thread inside the namespace. A socket that it makes stays there, whichever thread uses it.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(format!("/run/netns/{}", self.name)).context("open the namespace")?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || -> Result<T> {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("enter the namespace")?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs `ip ARGUMENTS` inside the namespace.
    ///
    /// # Errors
    /// What `ip` wrote, when it fails.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend_from_slice(arguments);
        ip(&all)
    }

    /// Gives an interface of the namespace another address.
    ///
    /// # Errors
    /// What `ip` wrote, when it fails.
    pub fn add_address(&self, interface: &str, address: IpAddr, prefix_length: u8) -> Result<()> {
        let address = format!("{address}/{prefix_length}");
        let mut arguments = vec!["address", "add", address.as_str(), "dev", interface];
        if address.contains(':') {
            // Duplicate address detection would keep the address unusable for a second.
            arguments.push("nodad");
        }
        self.ip(&arguments)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .stderr(Stdio::null())
            .status();
    }
}

/// One end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Where the interface lives.
    pub namespace: &'a Namespace,
    /// Its name there.
    pub interface: &'a str,
    /// Its addresses, each with a prefix length. Use documentation addresses (RFC 5737, RFC 3849).
    pub addresses: &'a [(IpAddr, u8)],
}

/// Joins two namespaces by a veth pair, gives both ends their addresses and sets them up.
///
/// # Errors
/// What `ip` wrote, when it fails.
pub fn veth_pair(a: End<'_>, b: End<'_>) -> Result<()> {
    ip(&[
        "link",
        "add",
        a.interface,
        "netns",
        a.namespace.name(),
        "type",
        "veth",
        "peer",
        "name",
        b.interface,
        "netns",
        b.namespace.name(),
    ])?;
    for end in [a, b] {
        for (address, prefix_length) in end.addresses {
            end.namespace
                .add_address(end.interface, *address, *prefix_length)?;
        }
        end.namespace.ip(&["link", "set", end.interface, "up"])?;
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("start ip (package iproute2)")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_removed_even_when_its_test_panics() {
        let name = thread::spawn(|| {
            let namespace = Namespace::new("panic").expect("root");
            let name = namespace.name().to_owned();
            let _keeps = namespace;
            std::panic::panic_any(name);
        })
        .join()
        .expect_err("the thread panics")
        .downcast::<String>()
        .expect("the panic carries the name");
        let listed = Command::new("ip")
            .args(["netns", "list"])
            .output()
            .expect("ip")
            .stdout;
        assert!(!String::from_utf8_lossy(&listed).contains(name.as_str()));
    }
}
