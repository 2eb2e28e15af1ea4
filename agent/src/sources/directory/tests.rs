use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::{Arc, Mutex},
};

use tempfile::TempDir;

use super::*;

const QUIET: Duration = Duration::from_secs(1);

struct Stage {
    dir: TempDir,
    directory: Directory,
    now: Instant,
}

impl Stage {
    fn new(lists: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let settings = settings(dir.path());
        Self {
            directory: Directory::new(
                settings,
                lists.iter().map(|list| (*list).to_owned()).collect(),
            ),
            dir,
            now: Instant::now(),
        }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    }

    /// Looks until the directory was quiet for long enough.
    fn look(&mut self) -> Look {
        for _ in 0..3 {
            match self.directory.look(false, self.now) {
                Look::Wait(wait) => self.now += wait,
                look @ (Look::Unchanged | Look::Changed(_) | Look::Failed(_)) => return look,
            }
        }
        panic!("the directory is never quiet")
    }

    /// Looks, and takes what is there.
    fn take(&mut self) -> BTreeMap<String, Option<usize>> {
        match self.look() {
            Look::Changed(content) => {
                self.directory.take(content.stamps);
                content
                    .lists
                    .into_iter()
                    .map(|(name, entries)| (name, entries.map(|entries| entries.len())))
                    .collect()
            }
            look @ (Look::Unchanged | Look::Wait(_) | Look::Failed(_)) => panic!("{look:?}"),
        }
    }

    #[track_caller]
    fn fails(&mut self, source: &str, words: &str) {
        match self.look() {
            Look::Failed(faults) => {
                let fault = faults.get(source).unwrap_or_else(|| panic!("{faults:?}"));
                assert!(fault.contains(words), "`{words}` in {fault}");
            }
            look @ (Look::Unchanged | Look::Wait(_) | Look::Changed(_)) => panic!("{look:?}"),
        }
    }
}

fn settings(directory: &Path) -> Settings {
    Settings {
        directory: directory.to_owned(),
        owners: BTreeSet::from([rustix::process::geteuid().as_raw()]),
        quiet: QUIET,
        rescan: Duration::from_secs(60),
        limits: Limits::default(),
    }
}

fn list(name: &str, entries: usize) -> (String, Option<usize>) {
    (name.to_owned(), Some(entries))
}

#[test]
fn files_are_lists_and_only_what_changed_is_told() {
    let mut stage = Stage::new(&[]);
    assert_eq!(stage.look(), Look::Unchanged);
    stage.write("a.txt", "203.0.113.0/24\n");
    stage.write("b.csv", "prefix\n198.51.100.0/24\n192.0.2.0/24\n");
    assert_eq!(
        stage.take(),
        BTreeMap::from([list("file:a.txt", 1), list("file:b.csv", 2)])
    );
    assert_eq!(stage.look(), Look::Unchanged);
    stage.write("a.txt", "203.0.113.0/25\n203.0.113.128/25\n");
    assert_eq!(stage.take(), BTreeMap::from([list("file:a.txt", 2)]));
    fs::remove_file(stage.dir.path().join("b.csv")).unwrap();
    assert_eq!(
        stage.take(),
        BTreeMap::from([("file:b.csv".to_owned(), None)])
    );
    assert_eq!(stage.look(), Look::Unchanged);
}

#[test]
fn one_invalid_file_keeps_all_others_from_being_taken() {
    let mut stage = Stage::new(&[]);
    stage.write("a.txt", "203.0.113.0/24\n");
    stage.take();
    stage.write("a.txt", "198.51.100.0/24\n");
    stage.write("b.txt", "192.0.2.0/24\n  192.0.2.1/24\n");
    stage.fails("file:b.txt", "b.txt:2:3: `192.0.2.1/24` has bits set");
    stage.fails("file:b.txt", "did you mean 192.0.2.0/24?");
    stage.write("b.txt", "192.0.2.0/24\n");
    assert_eq!(
        stage.take(),
        BTreeMap::from([list("file:a.txt", 1), list("file:b.txt", 1)])
    );
}

#[test]
fn nothing_is_read_before_it_was_quiet_for_long_enough() {
    let mut stage = Stage::new(&[]);
    stage.write("a.txt", "203.0.113.0/24\n");
    assert_eq!(stage.directory.look(false, stage.now), Look::Wait(QUIET));
    stage.now += QUIET / 2;
    assert_eq!(
        stage.directory.look(false, stage.now),
        Look::Wait(QUIET / 2)
    );
    stage.write("a.txt", "203.0.113.0/24\n198.51.100.0/24\n");
    assert_eq!(
        stage.directory.look(false, stage.now),
        Look::Wait(QUIET),
        "it changed again"
    );
    stage.now += QUIET;
    assert_eq!(
        stage.directory.look(true, stage.now),
        Look::Wait(QUIET),
        "it is open for writing"
    );
    assert!(matches!(
        stage.directory.look(false, stage.now),
        Look::Changed(_)
    ));
}

#[test]
fn a_file_left_open_is_waited_for_only_so_long() {
    let mut stage = Stage::new(&[]);
    stage.write("a.txt", "203.0.113.0/24\n");
    assert_eq!(stage.directory.look(true, stage.now), Look::Wait(QUIET));
    stage.now += MAX_WRITING.saturating_sub(QUIET);
    assert_eq!(stage.directory.look(true, stage.now), Look::Wait(QUIET));
    stage.now += QUIET;
    assert!(matches!(
        stage.directory.look(true, stage.now),
        Look::Changed(_)
    ));
}

#[test]
fn lists_from_before_a_restart_end_with_their_files() {
    let mut stage = Stage::new(&["file:a.txt", "file:gone.txt"]);
    stage.write("a.txt", "203.0.113.0/24\n");
    assert_eq!(
        stage.take(),
        BTreeMap::from([list("file:a.txt", 1), ("file:gone.txt".to_owned(), None)])
    );
}

#[test]
fn an_emptied_or_vanished_directory_keeps_the_last_good_lists() {
    let mut stage = Stage::new(&["file:a.txt"]);
    stage.fails(NAME, "has no list file; the last good lists stay");
    stage.write("a.txt", "203.0.113.0/24\n");
    stage.take();
    fs::remove_file(stage.dir.path().join("a.txt")).unwrap();
    stage.fails(NAME, "has no list file");
    fs::remove_dir(stage.dir.path()).unwrap();
    stage.fails(NAME, "can't be opened");
    fs::create_dir(stage.dir.path()).unwrap();
    stage.write("a.txt", "");
    stage.fails("file:a.txt", "a.txt:1:1: there is no entry in it");
}

#[test]
fn a_file_that_others_can_write_is_refused_and_one_that_they_can_read_is_not() {
    let mut stage = Stage::new(&[]);
    for (mode, is_good) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
        stage.write("a.txt", &format!("203.0.113.0/24 # {mode:o}\n"));
        let path = stage.dir.path().join("a.txt");
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        if is_good {
            stage.take();
        } else {
            stage.fails("file:a.txt", "can be written by others");
        }
    }
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let mut stage = Stage::new(&[]);
    stage.write("a.txt", "203.0.113.0/24\n");
    let mode =
        |mode| fs::set_permissions(stage.dir.path(), PermissionsExt::from_mode(mode)).unwrap();
    mode(0o775);
    stage.fails(NAME, "can be written by others");
    fs::set_permissions(stage.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    stage.take();
}

#[test]
fn files_of_the_owner_are_taken_and_those_of_another_user_are_not() {
    let mut stage = Stage::new(&[]);
    stage.write("a.txt", "203.0.113.0/24\n");
    let me = rustix::process::geteuid().as_raw();
    stage.directory.settings.owners = BTreeSet::from([me + 1]);
    stage.fails(NAME, &format!("belongs to user {me}"));
    stage.directory.settings.owners = BTreeSet::from([me + 1, me]);
    stage.take();
}

#[test]
fn links_and_pipes_are_refused_and_a_link_to_the_whole_directory_is_not() {
    let mut stage = Stage::new(&[]);
    stage.write("a.txt", "203.0.113.0/24\n");
    symlink("a.txt", stage.dir.path().join("b.txt")).unwrap();
    stage.fails("file:b.txt", "is a symbolic link");
    fs::remove_file(stage.dir.path().join("b.txt")).unwrap();
    let pipe = stage.dir.path().join("c.txt");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    stage.fails("file:c.txt", "is not a regular file");
    fs::remove_file(pipe).unwrap();
    let outside = TempDir::new().unwrap();
    let link = outside.path().join("current");
    symlink(stage.dir.path(), &link).unwrap();
    stage.directory.settings.directory = link;
    stage.take();
}

#[test]
fn hidden_files_backups_and_files_under_way_are_left_alone() {
    let mut stage = Stage::new(&[]);
    for name in [
        ".a.txt",
        "a.txt~",
        "a.txt.tmp",
        "a.tmp",
        "#a.txt#",
        "a.txt.bak",
        "README.md",
        ".git",
        "a.txt.rpmnew",
    ] {
        stage.write(name, "nonsense\n");
    }
    fs::create_dir(stage.dir.path().join("old.txt")).unwrap();
    assert_eq!(stage.look(), Look::Unchanged);
    stage.write("a.LIST", "203.0.113.0/24\n");
    assert_eq!(stage.take(), BTreeMap::from([list("file:a.LIST", 1)]));
}

#[test]
fn a_name_that_could_deceive_is_refused() {
    let mut stage = Stage::new(&[]);
    stage.write("a\u{1b}[2J.txt", "203.0.113.0/24\n");
    assert!(matches!(stage.look(), Look::Failed(_)));
}

/// Takes updates down; refuses those of which `refusal` is set.
#[derive(Clone, Default)]
struct Taker {
    updates: Arc<Mutex<Vec<SourceUpdate>>>,
    refusal: Arc<Mutex<Option<String>>>,
}

impl Sink for Taker {
    async fn apply(&self, update: SourceUpdate) -> Result<(), String> {
        if let Some(refusal) = self.refusal.lock().unwrap().clone() {
            return Err(refusal);
        }
        self.updates.lock().unwrap().push(update);
        Ok(())
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_running_daemon_takes_changes_and_tells_what_is_wrong() {
    let stage = Stage::new(&[]);
    let mut settings = settings(stage.dir.path());
    settings.quiet = Duration::from_millis(100);
    // What is found, is found by announcements.
    settings.rescan = Duration::from_secs(3600);
    let (taker, board, stop) = (Taker::default(), Board::default(), CancellationToken::new());
    let task = tokio::spawn(run(
        settings,
        BTreeMap::new(),
        taker.clone(),
        board.clone(),
        stop.clone(),
    ));
    let state = |name: &str| board.all().into_iter().find(|status| status.name == name);

    until("an empty directory is good", || {
        state(NAME).is_some_and(|status| status.state == SourceState::Good)
    })
    .await;
    stage.write("a.txt", "203.0.113.0/24\n");
    until("the list is taken", || {
        state("file:a.txt").is_some_and(|status| status.entries == 1)
    })
    .await;
    assert!(
        taker.updates.lock().unwrap()[0]
            .reason
            .contains("file:a.txt is new, 1 entries")
    );

    stage.write("b.txt", "x\n");
    until("the fault is told", || {
        state("file:b.txt").is_some_and(|status| {
            status
                .last_error
                .is_some_and(|error| error.starts_with("b.txt:1:1: "))
        })
    })
    .await;
    assert_eq!(state(NAME).unwrap().state, SourceState::Failing);
    assert_eq!(state("file:a.txt").unwrap().state, SourceState::Good);

    *taker.refusal.lock().unwrap() = Some("it would cut 5 live flows".to_owned());
    stage.write("b.txt", "198.51.100.0/24\n");
    until("the refusal is told", || {
        state(NAME)
            .is_some_and(|status| status.last_error.as_deref() == Some("it would cut 5 live flows"))
    })
    .await;
    *taker.refusal.lock().unwrap() = None;
    stage.write("b.txt", "198.51.100.0/25\n");
    until("all is good again", || {
        state("file:b.txt")
            .is_some_and(|status| status.state == SourceState::Good && status.entries == 1)
    })
    .await;
    fs::remove_file(stage.dir.path().join("b.txt")).unwrap();
    until("the list is gone", || state("file:b.txt").is_none()).await;
    assert_eq!(taker.updates.lock().unwrap().len(), 3);
    stop.cancel();
    task.await.unwrap();
}
