//! A gateway with an agent on its interface `gw0`, and the outside at the other end of the wire.

use std::net::IpAddr;

use portcullis_tests::{
    agent::Agent,
    netns::{End, Namespace, veth_pair},
    place::Place,
};

pub(crate) const GATEWAY: &str = "192.0.2.1";
pub(crate) const GATEWAY6: &str = "2001:db8::1";
/// Protected by the configuration.
pub(crate) const ADMIN: &str = "192.0.2.10";
/// Next to the protected address.
pub(crate) const ADMIN_NEIGHBOUR: &str = "192.0.2.11";
pub(crate) const PARTNER: &str = "192.0.2.20";
pub(crate) const PARTNER6: &str = "2001:db8::20";
pub(crate) const STRANGER: &str = "192.0.2.66";
pub(crate) const STRANGER6: &str = "2001:db8::66";

/// Two namespaces and a wire.
pub(crate) struct Wire {
    pub(crate) gateway: Namespace,
    pub(crate) outside: Namespace,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let wire = Self {
            gateway: Namespace::new("gateway").expect("these tests need root"),
            outside: Namespace::new("outside").unwrap(),
        };
        wire.connect();
        wire
    }

    /// Makes the veth pair, again if it was deleted.
    pub(crate) fn connect(&self) {
        let gateway = [(address(GATEWAY), 24), (address(GATEWAY6), 64)];
        let outside = [
            (address(ADMIN), 24),
            (address(ADMIN_NEIGHBOUR), 24),
            (address(PARTNER), 24),
            (address(STRANGER), 24),
            (address(PARTNER6), 64),
            (address(STRANGER6), 64),
        ];
        veth_pair(
            End {
                namespace: &self.gateway,
                interface: "gw0",
                addresses: &gateway,
            },
            End {
                namespace: &self.outside,
                interface: "out0",
                addresses: &outside,
            },
        )
        .unwrap();
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place::Namespace(&self.gateway, address(GATEWAY))
    }

    /// An agent with the partner's addresses on its list.
    pub(crate) fn agent(&self) -> Agent {
        self.agent_with("")
    }

    pub(crate) fn agent_with(&self, more: &str) -> Agent {
        let agent = Agent::start_with(self.place(), &["gw0"], &[address(ADMIN)], more).unwrap();
        agent.command(&["allow", "add", PARTNER, PARTNER6]).unwrap();
        agent
    }

    /// The XDP program on the gateway's interface, by the kernel's word.
    pub(crate) fn attached(&self) -> Option<portcullis_agent::interface::Attached> {
        let found = self
            .gateway
            .inside(|| portcullis_agent::interface::query("gw0"))
            .unwrap()
            .unwrap();
        found.and_then(|interface| interface.attached)
    }
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
