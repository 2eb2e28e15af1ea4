//! The rules of all backends on a server that knows less than others, or lists in old forms.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use portcullis_tests::{place::Place, server::pyftpdlib::Pyftpdlib};

use super::{Charset, FtpTls, pinned, settings};
use crate::backend::{conformance::Subject, ftp::FtpService};

/// The servers that run, by their modes. One is shared by the rules that are checked at the same time, each in a directory of
/// its own: Python takes longer to start than most rules to be checked.
static RUNNING: Mutex<BTreeMap<String, Weak<Pyftpdlib>>> = Mutex::new(BTreeMap::new());

static DIRECTORIES: AtomicU32 = AtomicU32::new(0);

/// `modes` are words of the server's script; `charset=...` is the gateway's setting.
fn subject(modes: &str) -> Subject {
    let server = running(modes);
    let name = format!("subject-{}", DIRECTORIES.fetch_add(1, Ordering::Relaxed));
    let home = server.home.join(&name);
    fs::create_dir(&home).unwrap();
    let tls = server.certificate.as_ref().map_or(FtpTls::None, pinned);
    let mut settings = settings(server.address, tls);
    settings.charset = if modes.contains("charset=latin1") {
        Charset::Latin1
    } else if modes.contains("charset=bytes") {
        Charset::AsTheyAre
    } else {
        Charset::Utf8
    };
    Subject {
        service: Arc::new(FtpService::new(settings).unwrap()),
        directory: name.into_bytes(),
        disk: Some(home),
        keep: Box::new(server),
    }
}

fn running(modes: &str) -> Arc<Pyftpdlib> {
    // A server that didn't start fails its own test only.
    let mut servers = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = servers.get(modes).and_then(Weak::upgrade) {
        return server;
    }
    let words: Vec<&str> = modes
        .split_whitespace()
        .filter(|word| !word.starts_with("charset="))
        .collect();
    let server = Arc::new(Pyftpdlib::start(Place::Loopback, &words).unwrap());
    servers.insert(modes.to_owned(), Arc::downgrade(&server));
    server
}

macro_rules! conforms_with {
    ($($name:ident: $modes:literal;)*) => {
        $(
            mod $name {
                async fn start() -> crate::backend::conformance::Subject {
                    super::subject($modes)
                }

                crate::backend::conformance::suite!(super::start);
            }
        )*
    };
}

// pyftpdlib changes names that are not in its charset, so its mount says `utf-8-only` unless it is to speak Latin-1.
conforms_with! {
    all_that_it_knows: "";
    no_mlsd: "no-mlsd";
    no_mlsd_over_tls: "no-mlsd tls";
    no_size: "no-mlsd no-size";
    no_mdtm: "no-mlsd no-mdtm";
    no_size_and_no_mdtm: "no-mlsd no-size no-mdtm";
    no_mfmt_and_no_chmod: "no-mfmt no-chmod";
    no_rest: "no-rest";
    no_rest_and_no_appe: "no-rest no-appe";
    no_epsv: "no-epsv";
    no_feat: "no-feat";
    nothing_but_rfc_959: "no-feat no-mlsd no-size no-mdtm no-mfmt no-rest no-appe no-epsv no-chmod";
    names_in_latin1: "latin1 charset=latin1";
    names_of_any_bytes: "latin1 charset=bytes";
    listings_of_dos: "no-mlsd dos";
    listings_of_dos_and_no_size: "no-mlsd no-size no-mdtm dos";
    listings_in_eplf: "no-mlsd eplf";
    listings_in_eplf_and_no_size: "no-mlsd no-size no-mdtm eplf";
    listings_of_vms: "no-mlsd vms";
    listings_of_vms_and_no_size: "no-mlsd no-size no-mdtm vms";
}
