//! A cipher policy and the daemon's limits as the SSH library takes them.

use std::{borrow::Cow, time::Duration};

use russh::{
    Limits, MethodKind, MethodSet, Preferred, SshId, cipher,
    client::GexParams,
    compression,
    kex::{
        self, EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER, EXTENSION_SUPPORT_AS_SERVER,
        dh::groups::{DH_GROUP15, DH_GROUP16, DhGroup},
    },
    keys::Algorithm,
    mac, server,
};

use crate::{cipher_policy::CipherPolicy, config::ServerConfig};

/// What the gateway calls itself; the library's default would name its version.
const IDENTIFICATION: &str = "SSH-2.0-Portcullis";
/// Upload window: at a round trip of 40 ms 2 MiB allow 23 MiB/s and 8 MiB 90 MiB/s.
const WINDOW: u32 = 8 * 1024 * 1024;
/// What every SSH implementation must take (RFC 4253 section 6.1); larger packets brought no speed.
const PACKET: u32 = 32 * 1024;
/// Messages that wait for a channel's reader: a whole window in packets of 32 KiB.
const CHANNEL_QUEUE: usize = 256;
/// A dead peer is noticed after four of these. Longer than the login grace, because some clients take no global
/// request before they are authenticated.
const KEEPALIVE: Duration = Duration::from_secs(75);
/// A backstop far above what the authentication flow allows.
const LIBRARY_MAX_ATTEMPTS: usize = 200;

/// A policy names an algorithm that the library does not have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the SSH library has no {name:?}")]
pub struct UnknownAlgorithm {
    name: String,
}

/// The library's settings for one gateway under a policy, which may be another one than the configuration's.
///
/// # Errors
/// If the policy names an algorithm that the library does not have.
pub(super) fn library_config(
    config: &ServerConfig,
    policy: &CipherPolicy,
) -> Result<server::Config, UnknownAlgorithm> {
    Ok(server::Config {
        server_id: SshId::Standard(Cow::Borrowed(IDENTIFICATION)),
        methods: MethodSet::from(&[MethodKind::PublicKey, MethodKind::KeyboardInteractive][..]),
        // Partial successes would wait too: the handler delays real failures itself.
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: None,
        keys: config
            .host_keys
            .iter()
            .filter(|host_key| host_key.is_one_of(policy.host_keys()))
            .map(|host_key| host_key.key.clone())
            .collect(),
        certificates: Vec::new(),
        limits: Limits::new(
            policy.rekey_bytes(),
            policy.rekey_bytes(),
            policy.rekey_time(),
        ),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: CHANNEL_QUEUE,
        event_buffer_size: 10,
        preferred: preferred(policy)?,
        max_auth_attempts: LIBRARY_MAX_ATTEMPTS,
        // Any packet resets it, a keepalive's answer too. The connection has its own timers.
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE.max(config.login_grace + KEEPALIVE / 5)),
        keepalive_max: 3,
        nodelay: true,
    })
}

fn preferred(policy: &CipherPolicy) -> Result<Preferred, UnknownAlgorithm> {
    let unknown = |name: &str| UnknownAlgorithm {
        name: name.to_owned(),
    };
    let mut key_exchanges = named(policy.key_exchanges(), |name| {
        kex::Name::try_from(name).map_err(|()| unknown(name))
    })?;
    key_exchanges.extend([
        EXTENSION_SUPPORT_AS_SERVER,
        EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
    ]);
    Ok(Preferred {
        kex: Cow::Owned(key_exchanges),
        // Two things in the library: what of it the gateway has a host key for is offered as host key algorithm, and
        // the whole list is announced as `server-sig-algs`, without which clients do not try RSA keys with SHA-2.
        key: Cow::Owned(named(policy.user_keys(), |name| {
            Algorithm::new(name).map_err(|_| unknown(name))
        })?),
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: Cow::Owned(named(policy.ciphers(), |name| {
            cipher::Name::try_from(name).map_err(|()| unknown(name))
        })?),
        mac: Cow::Owned(named(policy.macs(), |name| {
            mac::Name::try_from(name).map_err(|()| unknown(name))
        })?),
        compression: Cow::Borrowed(&[compression::NONE]),
    })
}

/// The group for a group exchange (RFC 4419): the smallest that is as large as the client prefers, or else the largest, among
/// those within its limits and ours. Less than 3072 bits are below the strength of the rest (RFC 8270), more than 4096 would
/// let a client that has shown nothing take too much of the processor.
pub(super) fn group(wanted: &GexParams) -> Option<DhGroup> {
    let limits = wanted.min_group_size()..=wanted.max_group_size();
    let fitting: Vec<_> = [DH_GROUP15, DH_GROUP16]
        .into_iter()
        .filter(|group| limits.contains(&group.bit_size()))
        .collect();
    let preferred = |group: &&DhGroup| group.bit_size() >= wanted.preferred_group_size();
    fitting
        .iter()
        .find(preferred)
        .or_else(|| fitting.last())
        .cloned()
}

fn named<T>(
    names: &[&str],
    find: impl Fn(&str) -> Result<T, UnknownAlgorithm>,
) -> Result<Vec<T>, UnknownAlgorithm> {
    names.iter().map(|name| find(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher_policy::PRESETS;

    #[test]
    fn a_group_has_3072_or_4096_bits_or_there_is_none() {
        for ((least, preferred, most), bits) in [
            ((2048, 3072, 8192), Some(3072)),
            ((3072, 3072, 8192), Some(3072)),
            ((2048, 4096, 8192), Some(4096)),
            ((2048, 8192, 8192), Some(4096)),
            ((2048, 2048, 3072), Some(3072)),
            ((3073, 8192, 8192), Some(4096)),
            // Only what is too small, or too large.
            ((2048, 2048, 3071), None),
            ((4097, 8192, 8192), None),
        ] {
            let wanted = GexParams::new(least, preferred, most).unwrap();
            let group = group(&wanted).map(|group| group.bit_size());
            assert_eq!(group, bits, "{least} to {most}, {preferred} preferred");
        }
    }

    #[test]
    fn the_library_has_every_algorithm_of_every_preset_under_the_same_name() {
        for preset in PRESETS {
            let policy = CipherPolicy::preset(preset.name).unwrap();
            let preferred = preferred(&policy).unwrap();
            let ciphers: Vec<_> = preferred.cipher.iter().map(AsRef::as_ref).collect();
            assert_eq!(ciphers, preset.ciphers);
            let macs: Vec<_> = preferred.mac.iter().map(AsRef::as_ref).collect();
            assert_eq!(macs, preset.macs);
            let keys: Vec<_> = preferred.key.iter().map(ToString::to_string).collect();
            assert_eq!(keys, preset.user_keys);
            assert!(
                preset
                    .host_keys
                    .iter()
                    .all(|name| preset.user_keys.contains(name))
            );
        }
    }
}
