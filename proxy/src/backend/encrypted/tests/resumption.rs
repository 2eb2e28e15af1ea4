//! Interrupted uploads: what is kept of them, who goes on with it, and what is never published.

use std::{any::Any, collections::HashSet, fs, net::SocketAddr, path::PathBuf, time::Duration};

use portcullis_tests::{
    files::Certificate,
    place::Place,
    server::{
        PASSWORD, USER,
        inetutils_ftpd::InetutilsFtpd,
        proftpd::{Proftpd, Protocol},
        pure_ftpd::PureFtpd,
        vsftpd::{Tls, Vsftpd},
    },
};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    backend::{
        ErrorKind, Owner,
        conformance::{Client, REPLACE, WRITE},
        ftp::{FtpService, FtpSettings, FtpTls, Password, TlsTrust, settings::Charset},
        local::{LocalService, LocalSettings},
        staging::UploadSettings,
    },
    operation::{Access, Operation},
    path::VirtualPath,
};

const EXTENT: usize = 16 << 20;
const KEPT: usize = 2 * EXTENT;
const SEGMENT: usize = 64 << 10;

/// As OpenSSH's `reput` opens a file.
const APPEND: Access = Access {
    create: true,
    append: true,
    ..WRITE
};

/// A place to store in.
struct Lab {
    disk: PathBuf,
    below: Arc<dyn BackendService>,
    service: Arc<dyn BackendService>,
    /// It takes a WRITE anywhere.
    is_random: bool,
    content: Vec<u8>,
    _keep: Box<dyn Any>,
}

impl Lab {
    fn local() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let local = LocalService::new(LocalSettings {
            directory: directory.path().to_owned(),
            uploads: UploadSettings::default(),
            timeout: Duration::from_secs(30),
        })
        .unwrap();
        let disk = directory.path().to_owned();
        Self::over(Arc::new(local), disk, true, directory)
    }

    fn vsftpd() -> Self {
        let server = Vsftpd::start(Place::Loopback, Tls::ExplicitWithSessionReuse).unwrap();
        let tls = pinned(server.certificate.as_ref().unwrap());
        let (address, home) = (server.address, server.home.clone());
        Self::over(ftp(address, tls), home, false, server)
    }

    fn proftpd() -> Self {
        let server = Proftpd::start(Place::Loopback, Protocol::Ftp, None).unwrap();
        let (address, home) = (server.address, server.home.clone());
        Self::over(ftp(address, FtpTls::None), home, false, server)
    }

    fn pure_ftpd() -> Self {
        let server = PureFtpd::start(Place::Loopback, false).unwrap();
        let (address, home) = (server.address, server.home.clone());
        Self::over(ftp(address, FtpTls::None), home, false, server)
    }

    fn inetutils_ftpd() -> Self {
        let server = InetutilsFtpd::start(Place::Loopback).unwrap();
        let (address, home) = (server.address, server.home.clone());
        Self::over(ftp(address, FtpTls::None), home, false, server)
    }

    fn over(
        below: Arc<dyn BackendService>,
        disk: PathBuf,
        is_random: bool,
        keep: impl Any,
    ) -> Self {
        let mut random = fastrand::Rng::with_seed(3);
        Self {
            disk,
            service: encrypted(Arc::clone(&below), Foreign::Refuse),
            below,
            is_random,
            content: std::iter::repeat_with(|| random.u8(..))
                .take(KEPT + 10 * SEGMENT + 17)
                .collect(),
            _keep: Box::new(keep),
        }
    }

    /// A server takes longer.
    fn rounds(&self, all: usize) -> usize {
        if self.is_random { all } else { 1 }
    }

    fn client(&self) -> Client {
        Client::new(self.service.session(b"", &crate::testing::owner()))
    }

    async fn send(&self, client: &Client, access: Access, from: usize, until: usize) -> Sent {
        let handle = client.open("/a", access).await;
        let mut offset = from;
        for data in self.content[from..until].chunks(200_000) {
            client.write(handle, offset as u64, data.to_vec()).await;
            offset += data.len();
        }
        Sent { handle }
    }

    async fn interrupt(&self, until: usize) {
        let client = self.client();
        self.send(&client, REPLACE, 0, until).await;
        client.end().await;
    }

    async fn shown(&self) -> Option<u64> {
        let client = self.client();
        match client.stat("/a").await {
            Ok(attributes) => attributes.size,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::NotFound);
                None
            }
        }
    }

    fn stored(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.disk)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    fn partial(&self) -> PathBuf {
        let mut stored = self.stored();
        assert_eq!(stored.len(), 1, "{stored:?}");
        stored.remove(0)
    }

    fn digest(&self) -> Option<[u8; 32]> {
        Some(Sha256::digest(&self.content).into())
    }
}

fn ftp(address: SocketAddr, tls: FtpTls) -> Arc<dyn BackendService> {
    let settings = FtpSettings {
        address: address.to_string(),
        user: USER.to_owned(),
        password: Password::new(PASSWORD),
        tls,
        timeout: Duration::from_secs(15),
        keepalive: Duration::from_secs(60),
        charset: Charset::AsTheyAre,
        uploads: UploadSettings::default(),
        copy_limit: 0,
    };
    Arc::new(FtpService::new(settings).unwrap())
}

fn pinned(certificate: &Certificate) -> FtpTls {
    let fingerprint = hex::decode(certificate.sha256().unwrap()).unwrap();
    FtpTls::Explicit {
        server_name: "localhost".to_owned(),
        trust: TlsTrust::Pinned(fingerprint.try_into().unwrap()),
    }
}

struct Sent {
    handle: crate::operation::HandleId,
}

fn remove() -> Operation {
    Operation::Remove {
        path: VirtualPath::clean(b"/a").unwrap(),
    }
}

/// The IVs of a stored file's whole segments, and of its extents.
fn ivs(stored: &[u8]) -> HashSet<Vec<u8>> {
    let mut ivs = HashSet::new();
    for extent in stored[512..].chunks(74 + 256 * (SEGMENT + 32)) {
        ivs.insert(extent[10..42].to_vec());
        for segment in extent[74..].chunks_exact(SEGMENT + 32) {
            ivs.insert(segment[4..16].to_vec());
        }
    }
    ivs
}

macro_rules! rules {
    ($($rule:ident on $($lab:ident)*;)*) => {
        $(mod $rule {
            $(
                #[tokio::test]
                async fn $lab() {
                    super::$rule(super::Lab::$lab()).await;
                }
            )*
        })*
    };
}

rules! {
    an_interrupted_upload_goes_on_behind_its_whole_extents_and_no_nonce_is_used_again on local vsftpd proftpd pure_ftpd inetutils_ftpd;
    what_is_less_than_an_extent_is_begun_anew on local vsftpd;
    one_that_is_interrupted_twice_goes_on_twice on local vsftpd;
    a_client_may_begin_again_and_not_in_the_middle_where_nothing_can_be_cut on local vsftpd;
    a_client_may_go_back_within_what_is_kept on local;
    what_was_changed_is_found_when_a_client_goes_back_to_it on local;
    an_upload_that_failed_is_not_gone_on_with on local vsftpd;
    one_that_is_closed_unwritten_stays_what_it_was on local vsftpd;
    what_was_changed_meanwhile_is_found_and_not_published on local vsftpd;
    one_whose_second_part_was_shorter_goes_on_where_the_first_one_ended on local proftpd;
    one_that_becomes_shorter_than_it_was_is_sent_again_as_a_whole on vsftpd;
    one_that_was_begun_under_other_keys_gets_them_or_is_sent_again on local vsftpd;
}

async fn an_interrupted_upload_goes_on_behind_its_whole_extents_and_no_nonce_is_used_again(
    lab: Lab,
) {
    let accesses = [
        APPEND,
        WRITE,
        Access {
            exclusive: true,
            ..APPEND
        },
    ];
    for access in accesses.into_iter().take(lab.rounds(3)) {
        lab.interrupt(lab.content.len() - SEGMENT).await;
        assert_eq!(lab.shown().await, Some(KEPT as u64));
        let stranger = Client::new(lab.service.session(b"", &Owner::new(*b"mallory")));
        assert!(stranger.is_missing("/a").await);
        let before = fs::read(lab.partial()).unwrap();

        let client = lab.client();
        let sent = lab.send(&client, access, KEPT, lab.content.len()).await;
        assert_eq!(client.close_digested(sent.handle).await, lab.digest());
        assert!(client.get("/a").await == lab.content);

        let after = fs::read(lab.partial()).unwrap();
        let kept = 512 + 2 * (74 + 256 * (SEGMENT + 32));
        assert!(after[..kept] == before[..kept], "written once");
        let used_again: Vec<_> = ivs(&before)
            .intersection(&ivs(&after))
            .filter(|iv| !ivs(&before[..kept]).contains(*iv))
            .cloned()
            .collect();
        assert_eq!(used_again, Vec::<Vec<u8>>::new());
        client.done(remove()).await;
    }
}

async fn what_is_less_than_an_extent_is_begun_anew(lab: Lab) {
    for sent in [SEGMENT, EXTENT, EXTENT + SEGMENT] {
        lab.interrupt(sent).await;
        assert_eq!(lab.shown().await, None, "{sent}");
        let client = lab.client();
        let opened = client.open_operation("/a", WRITE);
        assert_eq!(client.refusal(opened).await, ErrorKind::NotFound);
        let handle = client.open("/a", APPEND).await;
        client.write(handle, 0, "anew").await;
        client.close(handle).await;
        assert_eq!(client.get("/a").await, b"anew");
        client.done(remove()).await;
    }
    lab.interrupt(EXTENT + 2 * SEGMENT).await;
    assert_eq!(lab.shown().await, Some(EXTENT as u64));
}

async fn one_that_is_interrupted_twice_goes_on_twice(lab: Lab) {
    goes_on_twice(lab, EXTENT, EXTENT + 3 * SEGMENT).await;
}

/// The first part ends at `until`, of which `shown` bytes are kept, and the second one behind [`KEPT`].
async fn goes_on_twice(lab: Lab, shown: usize, until: usize) {
    lab.interrupt(until).await;
    let client = lab.client();
    lab.send(&client, APPEND, shown, KEPT + 3 * SEGMENT).await;
    client.end().await;
    assert_eq!(lab.shown().await, Some(KEPT as u64));
    let client = lab.client();
    let sent = lab.send(&client, APPEND, KEPT, lab.content.len()).await;
    assert_eq!(client.close_digested(sent.handle).await, lab.digest());
    assert!(client.get("/a").await == lab.content);
}

async fn a_client_may_begin_again_and_not_in_the_middle_where_nothing_can_be_cut(lab: Lab) {
    lab.interrupt(lab.content.len()).await;
    let client = lab.client();
    let sent = lab.send(&client, WRITE, 0, SEGMENT * 20).await;
    let digest = Sha256::digest(&lab.content[..SEGMENT * 20]);
    let closed = client.close_digested(sent.handle).await;
    assert_eq!(closed, Some(digest.into()));
    assert!(client.get("/a").await == lab.content[..SEGMENT * 20]);
    client.done(remove()).await;

    if lab.is_random {
        return;
    }
    lab.interrupt(lab.content.len()).await;
    let handle = client.open("/a", WRITE).await;
    let elsewhere = Operation::Write {
        handle,
        offset: EXTENT as u64,
        data: b"elsewhere".as_slice().into(),
    };
    assert_eq!(client.refusal(elsewhere).await, ErrorKind::Unsupported);
    client.refusal(Operation::Close { handle }).await;
    client.end().await;
    assert_eq!(lab.shown().await, None, "nobody goes on with what failed");
    assert_eq!(lab.stored(), Vec::<PathBuf>::new());
}

async fn an_upload_that_failed_is_not_gone_on_with(lab: Lab) {
    let client = lab.client();
    let sent = lab.send(&client, REPLACE, 0, KEPT + 3 * SEGMENT).await;
    let again = Operation::Write {
        handle: sent.handle,
        offset: 5,
        data: b"again".as_slice().into(),
    };
    assert_eq!(client.refusal(again).await, ErrorKind::Unsupported);
    client.end().await;
    assert_eq!(lab.shown().await, None);
    assert_eq!(lab.stored(), Vec::<PathBuf>::new());
}

async fn one_that_is_closed_unwritten_stays_what_it_was(lab: Lab) {
    lab.interrupt(lab.content.len()).await;
    let client = lab.client();
    let handle = client.open("/a", APPEND).await;
    client.refusal(Operation::Close { handle }).await;
    assert_eq!(lab.shown().await, Some(KEPT as u64));
}

async fn what_was_changed_meanwhile_is_found_and_not_published(lab: Lab) {
    // The object, the wrapped key, the authentication of the head: found at once.
    for at in [20, 100, 500].into_iter().take(lab.rounds(3)) {
        lab.interrupt(KEPT + 3 * SEGMENT).await;
        let partial = lab.partial();
        let mut stored = fs::read(&partial).unwrap();
        stored[at] ^= 1;
        fs::write(&partial, stored).unwrap();
        let client = lab.client();
        let open = client.open_operation("/a", APPEND);
        let refused = client.ask(open).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotAuthentic, "{at}");
        assert!(refused.message.contains("remove it"), "{refused}");
        client.end().await;
        lab.client().done(remove()).await;
    }
    // An extent's IV, a segment: found before it is published.
    for at in [512 + EXTENT, 530, 600].into_iter().take(lab.rounds(3)) {
        lab.interrupt(KEPT + 3 * SEGMENT).await;
        let partial = lab.partial();
        let mut stored = fs::read(&partial).unwrap();
        stored[at] ^= 1;
        fs::write(&partial, stored).unwrap();
        let client = lab.client();
        let sent = lab.send(&client, APPEND, KEPT, lab.content.len()).await;
        let close = Operation::Close {
            handle: sent.handle,
        };
        assert_eq!(client.refusal(close).await, ErrorKind::NotAuthentic, "{at}");
        client.end().await;
        assert_eq!(lab.shown().await, None);
        assert_eq!(lab.stored(), Vec::<PathBuf>::new());
    }
}

/// A server that can't cut keeps the old end behind the new one.
async fn one_whose_second_part_was_shorter_goes_on_where_the_first_one_ended(lab: Lab) {
    goes_on_twice(lab, KEPT, KEPT + 9 * SEGMENT).await;
}

async fn one_that_becomes_shorter_than_it_was_is_sent_again_as_a_whole(lab: Lab) {
    lab.interrupt(KEPT + 9 * SEGMENT).await;
    let client = lab.client();
    let sent = lab.send(&client, APPEND, KEPT, KEPT + SEGMENT).await;
    let close = Operation::Close {
        handle: sent.handle,
    };
    match client.ask(close).await {
        Ok(_) => assert!(client.get("/a").await == lab.content[..KEPT + SEGMENT]),
        Err(refused) => {
            assert!(
                refused.message.contains("send the file as a whole"),
                "{refused}"
            );
            client.end().await;
            assert_eq!(lab.shown().await, None);
            assert_eq!(lab.stored(), Vec::<PathBuf>::new());
            let client = lab.client();
            let sent = lab.send(&client, APPEND, 0, KEPT + SEGMENT).await;
            client.close(sent.handle).await;
            assert!(client.get("/a").await == lab.content[..KEPT + SEGMENT]);
        }
    }
}

async fn one_that_was_begun_under_other_keys_gets_them_or_is_sent_again(mut lab: Lab) {
    let old = Arc::new(SoftwareKek::new(&DataKey::random().unwrap()));
    let new = Arc::new(SoftwareKek::new(&DataKey::random().unwrap()));
    let with = |lab: &Lab, current: &Arc<SoftwareKek>, retired: Vec<Arc<SoftwareKek>>| {
        let retired = retired.into_iter().map(|kek| kek as _).collect();
        let ring = Keyring::new(Arc::clone(current) as _, retired, None);
        let vault = Vault {
            ring,
            ..vault(Foreign::Refuse)
        };
        Arc::new(EncryptedService::new(Arc::clone(&lab.below), vault))
    };
    lab.service = with(&lab, &old, Vec::new());
    lab.interrupt(KEPT + 3 * SEGMENT).await;
    lab.service = with(&lab, &new, vec![old]);
    assert_eq!(lab.shown().await, Some(KEPT as u64));
    let client = lab.client();
    let mut from = KEPT;
    if !lab.is_random {
        let refused = client.ask(client.open_operation("/a", APPEND)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unsupported);
        assert!(
            refused
                .message
                .contains("upload the file from its beginning"),
            "{refused}"
        );
        client.end().await;
        from = 0;
    }
    let client = lab.client();
    let access = if from == 0 { REPLACE } else { APPEND };
    let sent = lab.send(&client, access, from, lab.content.len()).await;
    client.close(sent.handle).await;
    // Without the old key.
    lab.service = with(&lab, &new, Vec::new());
    assert!(lab.client().get("/a").await == lab.content);
}

async fn a_client_may_go_back_within_what_is_kept(lab: Lab) {
    for back in [KEPT - 1, EXTENT, EXTENT + 4 * SEGMENT + 5, 7] {
        lab.interrupt(lab.content.len() - SEGMENT).await;
        let before = fs::read(lab.partial()).unwrap();
        let client = lab.client();
        let handle = client.open("/a", WRITE).await;
        // As clients send: the next ones come before the first one is answered.
        let mut started = Vec::new();
        let mut offset = back;
        for data in lab.content[back..].chunks(SEGMENT).take(20) {
            let write = Operation::Write {
                handle,
                offset: offset as u64,
                data: data.to_vec().into(),
            };
            started.push(client.start(write).await);
            offset += data.len();
        }
        for outcome in futures_util::future::join_all(started).await {
            outcome.unwrap();
        }
        for data in lab.content[offset..].chunks(200_000) {
            client.write(handle, offset as u64, data.to_vec()).await;
            offset += data.len();
        }
        assert_eq!(client.close_digested(handle).await, lab.digest(), "{back}");
        assert!(client.get("/a").await == lab.content, "{back}");

        let after = fs::read(lab.partial()).unwrap();
        let kept = 512 + back / EXTENT * (74 + 256 * (SEGMENT + 32));
        assert!(after[..kept] == before[..kept], "{back}: written once");
        let (still, new) = (ivs(&before[..kept]), ivs(&after));
        let mut used_again = ivs(&before);
        used_again.retain(|iv| new.contains(iv) && !still.contains(iv));
        assert!(used_again.is_empty(), "{back}: {}", used_again.len());
        client.done(remove()).await;
    }
}

async fn what_was_changed_is_found_when_a_client_goes_back_to_it(lab: Lab) {
    lab.interrupt(KEPT + 3 * SEGMENT).await;
    let partial = lab.partial();
    let mut stored = fs::read(&partial).unwrap();
    stored[512 + 2 * 74 + EXTENT + 256 * 32 + SEGMENT] ^= 1;
    fs::write(&partial, stored).unwrap();
    let client = lab.client();
    let handle = client.open("/a", WRITE).await;
    let write = Operation::Write {
        handle,
        offset: (EXTENT + 5 * SEGMENT) as u64,
        data: b"within".as_slice().into(),
    };
    assert_eq!(client.refusal(write).await, ErrorKind::NotAuthentic);
    client.refusal(Operation::Close { handle }).await;
    client.end().await;
    assert_eq!(lab.shown().await, None);
    assert_eq!(lab.stored(), Vec::<PathBuf>::new());
}
