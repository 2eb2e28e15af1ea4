//! Readers of outside bytes as the fuzzer calls them (`cargo xtask fuzz`). Each panics if a promise of the reader is broken.

use bytes::Bytes;
use portcullis_journal::{
    manifest::{Entry, Manifest},
    witness::Request as AddCheckpoint,
};
use ssh_key::public::{Ed25519PublicKey, KeyData};

use crate::{
    auth::{
        krl::{Certified, RevokedKeys},
        ldap::message::fuzz_message,
        radius::packet::fuzz_reply,
    },
    backend::{ftp::fuzz_listing, sftp::wire},
    operation::HandleId,
    path::{RESERVED_PREFIX, VirtualPath},
    proxy_protocol::{self, Parsed},
    scp::{command, fuzz_record},
    sftp::{
        framing::Framer,
        request::{self, Extensions, Request},
    },
};

/// A reader of outside bytes.
pub type Target = fn(&[u8]);

/// Each by its name, which is also its corpus: `fuzz/corpus/NAME`.
pub const TARGETS: [(&str, Target); 11] = [
    ("packets", packets),
    ("replies", replies),
    ("listings", listings),
    ("paths", paths),
    ("scp", scp),
    ("revoked_keys", revoked_keys),
    ("headers", headers),
    ("radius", radius),
    ("ldap", ldap),
    ("witness", witness),
    ("manifests", manifests),
];

/// What a client sends on a channel; the first byte says how the stream is cut.
pub fn packets(stream: &[u8]) {
    let Some((&cut, stream)) = stream.split_first() else {
        return;
    };
    let mut framer = Framer::default();
    for chunk in stream.chunks(usize::from(cut).max(1)) {
        framer.push(Bytes::copy_from_slice(chunk));
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => packet(frame),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn packet(frame: Bytes) {
    let length = frame.len();
    match request::parse(frame, HandleId(1), Extensions::default()) {
        Ok(Request::Operation { operation, .. }) => {
            let mut described = serde_json::Map::new();
            crate::policy::describe(&operation, &mut described);
            assert!(!described.is_empty() || operation.handle().is_none());
        }
        Ok(Request::Init { .. }) => {}
        Err(refused) => assert!(refused.evidence.len() <= length),
    }
}

/// What an SFTP server answers.
pub fn replies(frame: &[u8]) {
    let frame = Bytes::copy_from_slice(frame);
    // Whatever comes out is bounded by what went in: no count is believed before its items are there.
    if let Ok((_, wire::Reply::Names(names))) = wire::parse(frame.clone()) {
        assert!(
            names.len() <= frame.len() / 12,
            "each takes 12 bytes or more"
        );
    }
    let _ = wire::parse_version(frame.clone());
    let _ = wire::filesystem_status(frame.clone());
    let _ = wire::limits(frame);
}

/// What an FTP server lists, a line each.
pub fn listings(text: &[u8]) {
    for line in text.split(|&byte| byte == b'\n') {
        for name in fuzz_listing(line) {
            assert!(!name.is_empty() && name[..] != b"."[..] && name[..] != b".."[..]);
            assert!(!name.contains(&b'/') && !name.contains(&0));
        }
    }
}

/// A path of a client.
pub fn paths(raw: &[u8]) {
    let Ok(path) = VirtualPath::clean(raw) else {
        return;
    };
    assert_eq!(VirtualPath::clean(path.as_bytes()).as_ref(), Ok(&path));
    for name in path.components() {
        assert!(!name.is_empty() && name != b"." && name != b"..");
        assert!(!name.contains(&b'/') && !name.contains(&0));
        assert!(!name.starts_with(RESERVED_PREFIX));
    }
}

/// A line of the scp protocol, and the command that begins it.
pub fn scp(line: &[u8]) {
    let _ = command::parse(line);
    if let Some(name) = fuzz_record(&Bytes::copy_from_slice(line)) {
        assert!(!name.is_empty() && name[..] != b"."[..] && name[..] != b".."[..]);
        assert!(!name.contains(&b'/') && !name.contains(&0));
    }
}

/// A list of revoked keys.
pub fn revoked_keys(list: &[u8]) {
    let Ok(keys) = RevokedKeys::parse(list) else {
        return;
    };
    // Each takes four bytes or more: no count is believed before its items are there.
    assert!(keys.entries() <= list.len() / 4);
    let key = KeyData::from(Ed25519PublicKey([7; 32]));
    let certified = |serial| Certified {
        key: &key,
        authority: &key,
        serial,
        key_id: "alice",
    };
    let _ = keys.revokes_certificate(certified(u64::MAX));
    if keys.revokes_key(&key) {
        assert!(
            keys.revokes_certificate(certified(0)),
            "a certificate outlives its key"
        );
    }
}

/// What comes first from a load balancer.
pub fn headers(stream: &[u8]) {
    let mut taken = 0;
    loop {
        let bytes = stream.get(..taken).unwrap_or_default();
        match proxy_protocol::parse(bytes) {
            Ok(Parsed::Needs(more)) => {
                assert!(more > 0 && taken + more <= 16 + proxy_protocol::BODY_MAX);
                taken += more;
                if taken > stream.len() {
                    return;
                }
            }
            Ok(Parsed::Complete(_)) | Err(_) => return,
        }
    }
}

/// What a RADIUS server answers.
pub fn radius(packet: &[u8]) {
    fuzz_reply(packet);
}

/// What a directory answers.
pub fn ldap(message: &[u8]) {
    fuzz_message(message);
}

/// What anybody sends to a witness.
pub fn witness(body: &[u8]) {
    let Ok(request) = AddCheckpoint::parse(body) else {
        return;
    };
    let written = request.to_bytes();
    assert_eq!(AddCheckpoint::parse(&written).as_ref(), Ok(&request));
    if let Ok(origin) = request.origin() {
        assert!(!origin.contains('\n'), "{origin:?}");
    }
}

/// A manifest that a partner or an auditor was given.
pub fn manifests(note: &[u8]) {
    assert!(Manifest::check(note, &[]).is_err(), "nobody vouches for it");
    let Ok(text) = str::from_utf8(note) else {
        return;
    };
    let Ok(manifest) = Manifest::unsigned(text) else {
        return;
    };
    assert_eq!(manifest.to_text(), text);
    // What `sha256sum` takes for a file is one, and has that digest and name.
    let mut entries = manifest.entries.iter();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let is_it = |sha256: &[u8; 32], name: &[u8]| {
            line == format!("{}  {}", hex::encode(sha256), String::from_utf8_lossy(name))
        };
        let said = |entry: &Entry| {
            let sha256 = entry.sha256.as_ref();
            sha256.is_ok_and(|sha256| is_it(sha256, manifest.name(entry)))
        };
        assert!(entries.any(said), "{line:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_input_that_the_fuzzer_kept_is_read() {
        for (name, target) in TARGETS {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../fuzz/corpus")
                .join(name);
            let mut inputs = 0;
            for entry in fs::read_dir(&corpus).unwrap() {
                target(&fs::read(entry.unwrap().path()).unwrap());
                inputs += 1;
            }
            assert!(inputs > 0, "{} is empty", corpus.display());
        }
    }

    #[test]
    fn the_manifests_to_begin_with_are_some() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/manifests");
        let read = fs::read_dir(corpus)
            .unwrap()
            .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
        let taken = read.filter(|text| Manifest::unsigned(text).is_ok()).count();
        assert!(taken > 0, "none says anything");
    }
}
