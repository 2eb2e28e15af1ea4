//! What is known of drivers and can't be asked: native XDP by kernel version, how large frames may be, what attaching does to the link.
//!
//! From the kernel's sources: each driver's `ndo_bpf`, its check of the MTU, and whether it rebuilds its rings.

use std::fs;

use super::link::Device;

/// A driver with native XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) name: &'static str,
    /// The kernel that brought native XDP, as in `(5, 6)`.
    pub(super) since: (u32, u32),
    /// The largest MTU in native mode with one buffer a frame and pages of 4 KiB.
    pub(super) mtu: u32,
    /// What attaching and detaching do to the link.
    pub(super) attach: Attach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attach {
    /// Traffic goes on.
    Smooth,
    /// Rings are rebuilt: packets are lost for a moment.
    Rings,
    /// The device is reset: the link is down for seconds, LACP and spanning tree may take longer.
    Reset,
}

/// Headroom of 256 bytes, Ethernet header with a tag, and `skb_shared_info` leave so much of a page.
const ONE_PAGE: u32 = 3498;
/// Drivers that split a page in two, or keep to buffers of 3 KiB.
const THREE_KIB: u32 = 3046;

const KNOWN: [Known; 27] = [
    known("ixgbe", (4, 12), THREE_KIB, Attach::Reset),
    known("ixgbevf", (4, 17), THREE_KIB, Attach::Reset),
    known("i40e", (4, 13), THREE_KIB, Attach::Reset),
    known("ice", (5, 5), THREE_KIB, Attach::Reset),
    known("igb", (5, 10), THREE_KIB, Attach::Reset),
    known("igc", (5, 13), THREE_KIB, Attach::Reset),
    known("mlx4_en", (4, 8), ONE_PAGE, Attach::Reset),
    known("mlx5_core", (4, 9), ONE_PAGE, Attach::Reset),
    known("bnxt_en", (4, 11), 3500, Attach::Reset),
    known("nfp", (4, 10), ONE_PAGE, Attach::Rings),
    known("qede", (4, 10), ONE_PAGE, Attach::Reset),
    known("ena", (5, 6), ONE_PAGE, Attach::Reset),
    known("gve", (6, 4), 2032, Attach::Reset),
    known("mana", (5, 17), 3506, Attach::Reset),
    known("hv_netvsc", (5, 6), ONE_PAGE, Attach::Reset),
    known("virtio_net", (4, 10), 3506, Attach::Rings),
    known("vmxnet3", (6, 6), ONE_PAGE, Attach::Reset),
    known("xen-netfront", (5, 9), 3520, Attach::Rings),
    known("thunder-nic", (4, 13), 1500, Attach::Reset),
    known("rvu_nicpf", (5, 16), 1500, Attach::Reset),
    known("mvneta", (5, 5), 3520, Attach::Reset),
    known("mvpp2", (5, 9), 3520, Attach::Reset),
    known("fsl_dpaa2_eth", (5, 0), ONE_PAGE, Attach::Reset),
    known("stmmac", (5, 13), 1500, Attach::Reset),
    known("veth", (4, 19), 3504, Attach::Smooth),
    known("tun", (4, 15), ONE_PAGE, Attach::Smooth),
    known("bond", (5, 15), ONE_PAGE, Attach::Smooth),
];

const fn known(name: &'static str, since: (u32, u32), mtu: u32, attach: Attach) -> Known {
    Known {
        name,
        since,
        mtu,
        attach,
    }
}

/// What is known of a driver, or of a kind of virtual interface.
pub(super) fn find(name: &str) -> Option<Known> {
    KNOWN.into_iter().find(|known| known.name == name)
}

/// The driver of a device. Looked up by bus: the interfaces in sysfs are those of the namespace that mounted it.
pub(super) fn name(device: &Device) -> Option<String> {
    let Device { bus, name } = device;
    let is_plain = |part: &str| !part.contains('/') && part != "..";
    if !is_plain(bus) || !is_plain(name) {
        return None;
    }
    let driver = fs::read_link(format!("/sys/bus/{bus}/devices/{name}/driver")).ok()?;
    Some(driver.file_name()?.to_str()?.to_owned())
}
