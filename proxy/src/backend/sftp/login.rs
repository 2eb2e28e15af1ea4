//! From a TCP connection to SFTP channels: the pinned host key, closed algorithm lists, the gateway's own login.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use russh::{
    ChannelReadHalf, ChannelWriteHalf, Disconnect, Limits, Preferred, SshId, cipher,
    client::{self, AuthResult, Msg},
    compression, kex,
    keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate},
    mac,
};
use tokio::{net::TcpStream, runtime};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{SftpSettings, fault::Loss};
use crate::ssh::Stream;

/// What the gateway calls itself; the library's default would name its version.
const IDENTIFICATION: &str = "SSH-2.0-Portcullis";
/// Download window: what a round trip of 40 ms needs for 400 MiB/s.
const WINDOW: u32 = 16 * 1024 * 1024;
const PACKET: u32 = 32 * 1024;
/// Messages that wait for the reader: a whole window in packets of 32 KiB.
const CHANNEL_QUEUE: usize = 512;
/// Keepalives without an answer after which a connection is given up.
const UNANSWERED_KEEPALIVES: usize = 3;
const REKEY_BYTES: usize = 512 * 1024 * 1024;
const REKEY_TIME: Duration = Duration::from_secs(3600);

/// The edge's preset first, then what older servers need; nothing of the deny-list in `cipher_policy`.
const KEY_EXCHANGES: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::DH_G16_SHA512,
    kex::DH_G14_SHA256,
];
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
    cipher::AES_128_CTR,
];
const MACS: &[mac::Name] = &[
    mac::HMAC_SHA512_ETM,
    mac::HMAC_SHA256_ETM,
    mac::HMAC_SHA512,
    mac::HMAC_SHA256,
];

/// What the gateway proves itself with.
#[derive(Clone)]
pub enum Credential {
    Key(Arc<ssh_key::PrivateKey>),
    Password(Zeroizing<String>),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// An authenticated SSH connection. Ends when dropped.
pub(super) struct Login {
    handle: client::Handle<PinnedHost>,
    /// Cuts the socket.
    pub(super) cut: CancellationToken,
    /// Where its tasks run.
    runtime: runtime::Id,
}

/// Why a connection gives no channel.
#[derive(Debug)]
pub(super) enum NoChannel {
    /// The server takes no more on it.
    Refused(String),
    Broken(Loss),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    pub(super) fn is_open(&self) -> bool {
        !self.handle.is_closed() && !self.cut.is_cancelled()
    }

    /// True if its tasks run where the caller does. Packets pass from elsewhere by waking another thread.
    pub(super) fn is_near(&self) -> bool {
        runtime::Handle::try_current().is_ok_and(|current| current.id() == self.runtime)
    }

    /// Opens a channel and asks for SFTP on it; a refusal of that comes as the first message.
    pub(super) async fn open_channel(
        &self,
    ) -> Result<(ChannelReadHalf, ChannelWriteHalf<Msg>), NoChannel> {
        let broken = |error: russh::Error| {
            NoChannel::Broken(Loss::unavailable(format!(
                "opening the SFTP channel failed: {error}"
            )))
        };
        let opened = self.handle.channel_open_session().await;
        let channel = opened.map_err(|error| {
            if let russh::Error::ChannelOpenFailure(reason) = error {
                NoChannel::Refused(format!("{reason:?}"))
            } else {
                broken(error)
            }
        })?;
        let asked = channel.request_subsystem(true, "sftp").await;
        asked.map_err(broken)?;
        Ok(channel.split())
    }

    /// Waits for a sign of life.
    pub(super) async fn ping(&self) {
        // If the connection ends meanwhile, that shows elsewhere.
        let _ = self.handle.send_ping().await;
    }

    /// Says goodbye to the server.
    pub(super) async fn farewell(&self) {
        // The connection may be gone already.
        let _ = self
            .handle
            .disconnect(Disconnect::ByApplication, "session ended", "en")
            .await;
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

/// Accepts one key and no other.
struct PinnedHost {
    expected: PublicKey,
    seen: Arc<OnceLock<PublicKey>>,
}

impl client::Handler for PinnedHost {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        offered: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = offered else {
            return Ok(false);
        };
        // Read for the message only, once: a later key exchange can't change it.
        let _ = self.seen.set(key.clone());
        Ok(key.key_data() == self.expected.key_data())
    }
}

/// Connects and logs in. Dropped meanwhile, it cuts the socket.
pub(super) async fn connect(settings: &SftpSettings) -> Result<Login, Loss> {
    let cut = CancellationToken::new();
    let guard = cut.clone().drop_guard();
    let socket = TcpStream::connect((settings.host.as_str(), settings.port))
        .await
        .map_err(|error| Loss::unavailable(format!("it can't be reached: {error}")))?;
    // Without it small requests wait for the answer to the ones before.
    socket
        .set_nodelay(true)
        .map_err(|error| Loss::unavailable(format!("setting up the socket failed: {error}")))?;
    let seen = Arc::new(OnceLock::new());
    let host = PinnedHost {
        expected: settings.host_key.clone(),
        seen: seen.clone(),
    };
    let stream = Stream::to_server(socket, cut.clone());
    let mut handle = client::connect_stream(Arc::new(library_config(settings)), stream, host)
        .await
        .map_err(|error| not_connected(&error, settings, seen.get()))?;
    authenticate(&mut handle, settings).await?;
    guard.disarm();
    Ok(Login {
        handle,
        cut,
        runtime: runtime::Handle::current().id(),
    })
}

impl From<NoChannel> for Loss {
    fn from(reason: NoChannel) -> Self {
        match reason {
            NoChannel::Refused(reason) => {
                Self::unavailable(format!("it refused the SFTP channel ({reason})"))
            }
            NoChannel::Broken(loss) => loss,
        }
    }
}

fn not_connected(error: &russh::Error, settings: &SftpSettings, seen: Option<&PublicKey>) -> Loss {
    let expected = &settings.host_key;
    match seen {
        Some(seen) if seen.key_data() != expected.key_data() => Loss::unavailable(format!(
            "its host key is {} and not the configured {}; if the server's key was changed on purpose, configure the new one",
            fingerprint(seen),
            fingerprint(expected),
        )),
        Some(_) | None => Loss::unavailable(format!(
            "the SSH connection failed ({error}); its host key must be of type {} and one of the offered algorithms be known to it",
            expected.algorithm()
        )),
    }
}

fn fingerprint(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

async fn authenticate(
    handle: &mut client::Handle<PinnedHost>,
    settings: &SftpSettings,
) -> Result<(), Loss> {
    let broken = |error: russh::Error| Loss::unavailable(format!("the login broke off: {error}"));
    let (method, result) = match &settings.credential {
        Credential::Key(key) => {
            let hash = if key.algorithm().is_rsa() {
                Some(rsa_hash(handle).await.map_err(broken)?)
            } else {
                None
            };
            let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
            (
                "public key",
                handle.authenticate_publickey(&settings.user, key).await,
            )
        }
        Credential::Password(password) => (
            "password",
            handle
                .authenticate_password(&settings.user, password.as_str())
                .await,
        ),
    };
    match result.map_err(broken)? {
        AuthResult::Success => Ok(()),
        AuthResult::Failure {
            remaining_methods, ..
        } => Err(Loss::unavailable(format!(
            "it refused the login of user {:?} by {method}; it would take {remaining_methods:?}",
            settings.user
        ))),
    }
}

/// Never SHA-1: a server that announces nothing is tried with SHA-256, which all since 2016 take.
async fn rsa_hash(handle: &client::Handle<PinnedHost>) -> Result<HashAlg, russh::Error> {
    Ok(handle
        .best_supported_rsa_hash()
        .await?
        .flatten()
        .unwrap_or(HashAlg::Sha256))
}

fn library_config(settings: &SftpSettings) -> client::Config {
    let mut key_exchanges = KEY_EXCHANGES.to_vec();
    key_exchanges.extend([
        kex::EXTENSION_SUPPORT_AS_CLIENT,
        kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    ]);
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed(IDENTIFICATION)),
        limits: Limits::new(REKEY_BYTES, REKEY_BYTES, REKEY_TIME),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: CHANNEL_QUEUE,
        preferred: Preferred {
            kex: Cow::Owned(key_exchanges),
            key: Cow::Owned(host_key_algorithms(&settings.host_key)),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(&[compression::NONE]),
        },
        inactivity_timeout: None,
        keepalive_interval: Some(settings.keepalive),
        keepalive_max: UNANSWERED_KEEPALIVES,
        nodelay: true,
        ..client::Config::default()
    }
}

/// Only the pinned key's own type, so that a server with several keys shows that one.
fn host_key_algorithms(pinned: &PublicKey) -> Vec<Algorithm> {
    if pinned.algorithm().is_rsa() {
        [HashAlg::Sha512, HashAlg::Sha256]
            .map(|hash| Algorithm::Rsa { hash: Some(hash) })
            .to_vec()
    } else {
        vec![pinned.algorithm()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher_policy::denied;

    #[test]
    fn nothing_that_the_deny_list_names_is_offered_to_a_server() {
        let names = KEY_EXCHANGES
            .iter()
            .map(AsRef::<str>::as_ref)
            .chain(CIPHERS.iter().map(AsRef::as_ref))
            .chain(MACS.iter().map(AsRef::as_ref));
        for name in names {
            assert_eq!(denied(name), None, "{name}");
        }
        assert!(denied("ssh-rsa").is_some());
    }

    #[test]
    fn a_pinned_rsa_key_is_proved_with_sha2_only() {
        let key = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC4FGzh4bdF0VSMrBSCg2ZPzZzlqm9MKQyY6pRhHs7TnSGjHCEkqSsTUxDg7AkJq4oYKYw7mX0yb3PNfXwZbaWfwKLJBPoqCZ3HJ2WOiPpJpWcBxn1ncOjV8WdUZ5Nn0pxBYmYuHR3y0yJYpDKKZcC9ldvZKHPZGcVmj3A7CwLZsQ==";
        let names: Vec<String> = host_key_algorithms(&PublicKey::from_openssh(key).unwrap())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names, ["rsa-sha2-512", "rsa-sha2-256"]);
    }
}
