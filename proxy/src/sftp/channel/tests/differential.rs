//! The same random requests to this engine (on a local folder and in memory) and to OpenSSH's sftp-server: each reply alike,
//! and the same files at the end.
//!
//! What a client sees while an upload is under way differs by design (a name appears at CLOSE), so each upload is closed
//! before the next step looks.

mod peers;
mod steps;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use portcullis_tests::random::Rng;

use self::{
    peers::{Engine, SftpServer, engine_in_memory, engine_on},
    steps::{Links, Step},
};

/// Steps of one run, each of one to some twenty requests.
const STEPS: u64 = 1000;
/// Another number of steps, for a long run by hand.
const STEPS_VARIABLE: &str = "PORTCULLIS_DIFFERENTIAL_STEPS";
const SEED_VARIABLE: &str = "PORTCULLIS_DIFFERENTIAL_SEED";

#[tokio::test]
async fn a_local_folder_is_served_as_openssh_serves_it() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine_on(folder.path()).await;
    let theirs = compare(engine, Links::Made).await;
    assert_eq!(tree(folder.path()), tree(theirs.path()));
}

/// The backend in memory is the model that other tests judge by; it has no paths through links.
#[tokio::test]
async fn the_model_agrees_with_openssh() {
    compare(engine_in_memory().await, Links::None).await;
}

#[tokio::test]
async fn what_was_once_answered_otherwise_is_answered_as_openssh_does() {
    let rename = |from, to| Step::Rename {
        replace: false,
        from,
        to,
    };
    let steps = [
        Step::Mkdir("x"),
        Step::empty_file("c"),
        // Nothing to rename, onto something.
        rename("a", "c"),
        // A directory into itself.
        rename("x", "x/y"),
        rename("x", "y"),
        rename("y", "c"),
        // A link that leads round in circles.
        Step::Symlink {
            target: "a",
            link: "a",
        },
        Step::empty_file("a/b"),
        Step::List(""),
    ];
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut openssh = SftpServer::start(theirs.path()).await;
    let mut engine = engine_on(ours.path()).await;
    for step in steps {
        let expected = step.take(&mut openssh).await;
        assert_eq!(step.take(&mut engine).await, expected, "{step:?}");
    }
    engine.end().await;
}

/// Returns the directory of OpenSSH's server.
async fn compare(mut engine: Engine, links: Links) -> tempfile::TempDir {
    let number = |variable: &str| {
        std::env::var(variable)
            .ok()
            .map(|text| text.parse().unwrap())
    };
    let seed = number(SEED_VARIABLE).unwrap_or_else(|| Rng::new().get_seed());
    let steps = number(STEPS_VARIABLE).unwrap_or(STEPS);
    println!("{SEED_VARIABLE}={seed} {STEPS_VARIABLE}={steps}");
    let directory = tempfile::tempdir().unwrap();
    let mut openssh = SftpServer::start(directory.path()).await;
    let mut random = Rng::with_seed(seed);
    let mut requests = 0;
    for number in 0..steps {
        let step = Step::random(&mut random, links);
        if step.is_decided_by_chance(&mut openssh).await {
            continue;
        }
        let expected = step.take(&mut openssh).await;
        requests += expected.len();
        assert_eq!(
            step.take(&mut engine).await,
            expected,
            "seed {seed}, step {number}: {step:?}"
        );
    }
    println!("{requests} requests were answered alike");
    engine.end().await;
    directory
}

/// Every path below `root` with what it is.
fn tree(root: &Path) -> BTreeMap<PathBuf, Node> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let mode = about.permissions().mode();
            let node = if about.is_dir() {
                left.push(path.clone());
                Node::Directory(mode)
            } else if about.is_symlink() {
                Node::Link(fs::read_link(&path).unwrap())
            } else {
                Node::File(mode, fs::read(&path).unwrap())
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), node);
        }
    }
    found
}

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Directory(u32),
    Link(PathBuf),
    File(u32, Vec<u8>),
}
