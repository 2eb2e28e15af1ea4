//! What the kernel tells of a directory (inotify).

use std::{collections::BTreeSet, ffi::CString, mem::MaybeUninit, os::fd::OwnedFd, path::Path};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Announcements of changes in one directory. Without them there is still the timer.
pub(super) struct Changes {
    socket: Option<AsyncFd<OwnedFd>>,
    /// The watch, renewed on each look: the path may lead to another directory by then.
    watch: Option<i32>,
    /// Files that were written and not yet closed.
    writing: BTreeSet<CString>,
}

const WATCHED: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

impl Changes {
    /// Begins without a directory. To be called within a runtime.
    pub(super) fn new() -> Self {
        let socket = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(std::io::Error::from)
            .and_then(|socket| {
                // SAFETY: the `AsyncFd` owns the descriptor, and nothing here takes it out or closes it before.
                unsafe { AsyncFd::register(socket) }.map_err(Into::into)
            });
        if let Err(error) = &socket {
            tracing::warn!(%error, "no inotify: changes of list files are found by the timer only");
        }
        Self {
            socket: socket.ok(),
            watch: None,
            writing: BTreeSet::new(),
        }
    }

    /// Watches what is at `path` from here on.
    pub(super) fn watch(&mut self, path: &Path) {
        let Some(socket) = &self.socket else { return };
        // The same directory again gives the same watch.
        let watch = inotify::add_watch(socket.get_ref(), path, WATCHED).ok();
        if watch != self.watch {
            if let Some(old) = self.watch {
                // It is gone already if its directory is.
                let _ = inotify::remove_watch(socket.get_ref(), old);
            }
            self.writing.clear();
            self.watch = watch;
        }
    }

    /// Whether a file was written and not closed since.
    pub(super) fn is_writing(&self) -> bool {
        !self.writing.is_empty()
    }

    /// Resolves when something changed.
    pub(super) async fn changed(&mut self) {
        let Some(socket) = &self.socket else {
            return std::future::pending().await;
        };
        match socket.readable().await {
            Ok(mut ready) => {
                note(socket.get_ref(), &mut self.writing);
                ready.clear_ready();
            }
            Err(_) => std::future::pending().await,
        }
    }
}

fn note(socket: &OwnedFd, writing: &mut BTreeSet<CString>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = Reader::new(socket, &mut buffer);
    while let Ok(event) = events.next() {
        let kind = event.events();
        match event.file_name() {
            Some(name) if kind.contains(ReadFlags::MODIFY) => {
                writing.insert(name.to_owned());
            }
            Some(name) => {
                let is_over = ReadFlags::CLOSE_WRITE
                    .union(ReadFlags::DELETE)
                    .union(ReadFlags::MOVED_FROM)
                    .union(ReadFlags::MOVED_TO);
                if kind.intersects(is_over) {
                    writing.remove(name);
                }
            }
            // Of the directory itself, or events were lost: nothing is known of the files then.
            None => writing.clear(),
        }
    }
}
