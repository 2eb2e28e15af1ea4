//! Connections that break in every phase of every command.

use std::{sync::Arc, time::Duration};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    FtpTls, TlsTrust, path,
    protection::certified,
    scripted::{Break, Script, Scripted},
};
use crate::{
    backend::{
        BackendService as _,
        conformance::{Client, READ, REPLACE},
        ftp::FtpService,
    },
    operation::{Attributes, HandleId, Operation},
};

const COMMANDS: [&str; 21] = [
    "USER", "PASS", "FEAT", "TYPE", "SIZE", "MDTM", "CWD", "EPSV", "LIST", "REST", "RETR", "STOR",
    "RNFR", "RNTO", "DELE", "MKD", "RMD", "SITE", "NOOP", "MLST", "MLSD",
];
const BREAKS: [Break; 6] = [
    Break::HangUp,
    Break::HalfAnswer,
    Break::Garbage,
    Break::Farewell,
    Break::Obey,
    Break::ResetData,
];
const OLD: &[u8] = b"the old content";
const NEW: &[u8] = b"the new content, which is longer";

/// Every kind of operation; each may fail. True if the replacement of `/a` was confirmed.
async fn everything(client: &Client) -> bool {
    let _ = client.stat("/a").await;
    let handle = HandleId(900);
    if client
        .ask(Operation::Opendir {
            path: path("/"),
            handle,
        })
        .await
        .is_ok()
    {
        let _ = client.ask(Operation::Readdir { handle }).await;
        client.close(handle).await;
    }
    for offset in [0, 5] {
        let open = client.open_operation("/a", READ);
        let handle = crate::backend::conformance::opened_handle(&open);
        if client.ask(open).await.is_ok() {
            let read = Operation::Read {
                handle,
                offset,
                length: 100,
            };
            let _ = client.ask(read).await;
            client.close(handle).await;
        }
    }
    let upload = client.open_operation("/a", REPLACE);
    let handle = crate::backend::conformance::opened_handle(&upload);
    let mut is_confirmed = false;
    if client.ask(upload).await.is_ok() {
        let write = Operation::Write {
            handle,
            offset: 0,
            data: NEW.into(),
        };
        let _ = client.ask(write).await;
        is_confirmed = client.ask(Operation::Close { handle }).await.is_ok();
    }
    for operation in [
        Operation::Mkdir {
            path: path("/d"),
            attributes: Attributes::default(),
        },
        Operation::Rmdir { path: path("/d") },
        Operation::Rename {
            from: path("/b"),
            to: path("/c"),
        },
        Operation::Setstat {
            path: path("/c"),
            attributes: Attributes {
                permissions: Some(0o600),
                ..Attributes::default()
            },
        },
        Operation::Remove { path: path("/c") },
    ] {
        let _ = client.ask(operation).await;
    }
    is_confirmed
}

#[tokio::test]
async fn whatever_breaks_files_stay_whole_and_the_next_operation_is_served() {
    for command in COMMANDS {
        for how in BREAKS {
            survives(command, how, None).await;
        }
    }
}

#[tokio::test]
async fn the_same_holds_over_tls_and_while_it_begins() {
    for command in ["AUTH", "PBSZ", "PROT", "PASS", "RETR", "STOR", "RNTO"] {
        for how in BREAKS {
            survives(command, how, Some(certified(&rustls::version::TLS12))).await;
        }
    }
}

/// Does everything while the server once breaks off so at the command; with a certificate, over TLS.
async fn survives(
    command: &'static str,
    how: Break,
    certificate: Option<(Vec<u8>, rustls::ServerConfig)>,
) {
    let has_data = ["EPSV", "LIST", "RETR", "STOR"].contains(&command);
    if how == Break::ResetData && !has_data {
        return;
    }
    let (anchor, tls) = certificate.unzip();
    let server = Scripted::start(Script {
        breaks: Some((command, how)),
        tls: tls.map(Arc::new),
        ..Script::default()
    })
    .await;
    server.has("/a", OLD);
    server.has("/b", b"b");
    server.has("/kept", b"kept");
    let client = match anchor {
        None => server.client(),
        Some(anchor) => protected(&server, &anchor),
    };
    let is_confirmed = tokio::time::timeout(Duration::from_secs(20), everything(&client))
        .await
        .unwrap_or_else(|_| panic!("{how:?} at {command} hangs"));
    let stands = server.file("/a");
    let stands = stands.as_deref();
    assert!(
        stands == Some(NEW) || !is_confirmed && stands == Some(OLD),
        "{how:?} at {command}: {stands:?}, confirmed {is_confirmed}"
    );
    assert_eq!(client.get("/kept").await, b"kept", "{how:?} at {command}");
    client.end().await;
    let left: Vec<_> = server
        .names()
        .into_iter()
        .filter(|name| name.contains(".portcullis"))
        .collect();
    assert!(left.is_empty(), "{how:?} at {command}: {left:?}");
}

/// A client that speaks TLS and trusts the authority.
fn protected(server: &Scripted, anchor: &[u8]) -> Client {
    let authority = CertificateDer::from_pem_slice(anchor).unwrap();
    let mut settings = super::settings(server.address, FtpTls::None);
    settings.uploads.resume = false;
    settings.tls = FtpTls::Explicit {
        server_name: "localhost".to_owned(),
        trust: TlsTrust::Authorities(vec![authority]),
    };
    let service = FtpService::new(settings).unwrap();
    Client::new(service.session(b"/", &crate::testing::owner()))
}
