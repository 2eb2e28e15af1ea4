//! A receiver of webhooks.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use portcullis_tests::process::PATIENCE;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs};
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// One `POST`.
#[derive(Debug)]
pub(super) struct Request {
    head: String,
    pub(super) body: String,
}

impl Request {
    /// Of a header, in lower case.
    pub(super) fn header(&self, name: &str) -> &str {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_default()
    }

    /// What the signature has to be with this secret.
    pub(super) fn signature(&self, secret: &str) -> Result<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
        mac.update(self.header("x-portcullis-timestamp").as_bytes());
        mac.update(b".");
        mac.update(self.body.as_bytes());
        Ok(format!("v1={}", hex::encode(mac.finalize().into_bytes())))
    }

    pub(super) fn record(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| self.body.clone())
    }
}

/// Listens until the process ends.
#[derive(Debug)]
pub(super) struct Webhook {
    url: String,
    pin: String,
    requests: Receiver<Request>,
}

impl Webhook {
    /// Answers with these codes, one after the other, and then with 204.
    pub(super) fn start(answers: &[u16]) -> Result<Self> {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der())
            .map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (tell, requests) = sync_channel(1000);
        let hook = Self {
            url: format!("https://{}/hook", listener.local_addr()?),
            pin: hex::encode(Sha256::digest(cert.der())),
            requests,
        };
        let mut answers: VecDeque<u16> = answers.iter().copied().collect();
        let config = Arc::new(config);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Ok(connection) = ServerConnection::new(Arc::clone(&config)) else {
                    return;
                };
                // A client that gives up is no failure of the receiver.
                let _ = serve(StreamOwned::new(connection, stream), &mut answers, &tell);
            }
        });
        Ok(hook)
    }

    /// A sink that posts to it.
    pub(super) fn sink(&self, name: &str, more: &str) -> String {
        format!(
            "[[sink]]\nname = \"{name}\"\nkind = \"https\"\nurl = \"{}\"\npinned_certificate_sha256 = \"{}\"\n\
             records = \"alerts\"\n{more}",
            self.url, self.pin
        )
    }

    /// The next request.
    pub(super) fn request(&self) -> Result<Request> {
        self.requests
            .recv_timeout(PATIENCE)
            .context("no request came")
    }

    /// Whether none is there.
    pub(super) fn is_quiet(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

/// Requests of one connection, until it ends.
fn serve<S: Read + Write>(
    mut stream: StreamOwned<ServerConnection, S>,
    answers: &mut VecDeque<u16>,
    tell: &SyncSender<Request>,
) -> Result<()> {
    loop {
        let mut head = Vec::new();
        let mut byte = [0_u8; 1];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend_from_slice(&byte);
        }
        let mut request = Request {
            head: String::from_utf8(head)?.to_lowercase(),
            body: String::new(),
        };
        let mut body = vec![0; request.header("content-length").parse()?];
        stream.read_exact(&mut body)?;
        request.body = String::from_utf8(body)?;
        tell.send(request)?;
        let answer = answers.pop_front().unwrap_or(204);
        write!(
            stream,
            "HTTP/1.1 {answer} Told\r\nContent-Length: 0\r\n\r\n"
        )?;
        stream.flush()?;
    }
}
