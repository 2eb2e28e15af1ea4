//! An SSH agent (draft-ietf-sshm-ssh-agent) with one `sk-ssh-ed25519@openssh.com` key in software, which signs without
//! touch and without PIN, and says so in the signature's flags (OpenSSH's PROTOCOL.u2f).

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};

const KIND: &str = "sk-ssh-ed25519@openssh.com";
const APPLICATION: &str = "ssh:";
/// Neither "user present" (1) nor "user verified" (4).
const FLAGS: u8 = 0;
const COUNTER: u32 = 0;
const LONGEST_MESSAGE: usize = 256 * 1024;

pub(super) struct SecurityKey {
    key: SigningKey,
}

impl SecurityKey {
    /// Serves the key at `socket` for as long as the process lives.
    pub(super) fn start(socket: &Path) -> Result<Self> {
        let key = SigningKey::from_bytes(&[5; 32]);
        let listener = UnixListener::bind(socket).context("listen as an agent")?;
        let signer = Self { key: key.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client that leaves in the middle is its own business.
                let _ = signer.serve(client);
            }
        });
        Ok(Self { key })
    }

    /// As in a `.pub` file.
    pub(super) fn public_line(&self) -> String {
        line(&self.blob(APPLICATION))
    }

    /// The same key, as if it was made for something else.
    pub(super) fn public_line_for(&self, application: &str) -> String {
        line(&self.blob(application))
    }

    fn blob(&self, application: &str) -> Vec<u8> {
        [
            string(KIND.as_bytes()),
            string(self.key.verifying_key().as_bytes()),
            string(application.as_bytes()),
        ]
        .concat()
    }

    fn serve(&self, mut client: UnixStream) -> Result<()> {
        loop {
            let mut length = [0; 4];
            client.read_exact(&mut length)?;
            let length = usize::try_from(u32::from_be_bytes(length))?;
            anyhow::ensure!(length <= LONGEST_MESSAGE, "a message of {length} bytes");
            let mut message = vec![0; length];
            client.read_exact(&mut message)?;
            client.write_all(&string(&self.answer(&message)?))?;
        }
    }

    fn answer(&self, message: &[u8]) -> Result<Vec<u8>> {
        const FAILURE: u8 = 5;
        const REQUEST_IDENTITIES: u8 = 11;
        const IDENTITIES_ANSWER: u8 = 12;
        const SIGN_REQUEST: u8 = 13;
        const SIGN_RESPONSE: u8 = 14;
        let (kind, rest) = message.split_first().context("an empty message")?;
        Ok(match *kind {
            REQUEST_IDENTITIES => [
                vec![IDENTITIES_ANSWER],
                1_u32.to_be_bytes().to_vec(),
                string(&self.blob(APPLICATION)),
                string(b"token"),
            ]
            .concat(),
            SIGN_REQUEST => {
                let (_key, rest) = take_string(rest)?;
                let (data, _flags) = take_string(rest)?;
                [vec![SIGN_RESPONSE], string(&self.sign(data))].concat()
            }
            _ => vec![FAILURE],
        })
    }

    fn sign(&self, data: &[u8]) -> Vec<u8> {
        let trailer = [vec![FLAGS], COUNTER.to_be_bytes().to_vec()].concat();
        let signed = [
            Sha256::digest(APPLICATION).to_vec(),
            trailer.clone(),
            Sha256::digest(data).to_vec(),
        ]
        .concat();
        let signature = self.key.sign(&signed).to_bytes();
        [string(KIND.as_bytes()), string(&signature), trailer].concat()
    }
}

fn line(blob: &[u8]) -> String {
    format!("{KIND} {}", STANDARD.encode(blob))
}

fn string(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), content].concat()
}

fn take_string(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk().context("a length")?;
    let length = usize::try_from(u32::from_be_bytes(*length))?;
    rest.split_at_checked(length).context("a whole string")
}
