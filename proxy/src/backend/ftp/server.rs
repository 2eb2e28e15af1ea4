//! One FTP server: how to reach it, and what was learned about it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    fault::Fault,
    listing::ListForm,
    location::Location,
    settings::{FtpSettings, FtpTls},
    tls::{TlsClient, TlsSettingsError},
};
use crate::backend::{ErrorKind, Shown, staging::StagingNames};

/// Files of this server that may be held in memory at a time, to be changed: each takes up to the copy limit.
const HELD_FILES: usize = 4;
/// Left-over staging files are looked for in a directory no more often than this.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Directories remembered as swept; beyond that they are forgotten and swept again.
const SWEPT_DIRECTORIES: usize = 4096;

/// An FTP server, for all sessions.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) settings: FtpSettings,
    pub(super) quirks: Quirks,
    pub(super) tls: Option<TlsClient>,
    held: Arc<Semaphore>,
    pub(super) names: StagingNames,
    /// Directories, and when left-over staging files were last looked for there.
    swept: Mutex<HashMap<Vec<u8>, Instant>>,
}

/// Commands that the server announced or seemed to know, and refused. Learned once, for all sessions.
#[derive(Debug, Default)]
pub(super) struct Quirks {
    pub(super) no_epsv: Quirk,
    pub(super) no_mlst: Quirk,
    pub(super) no_mlsd: Quirk,
    pub(super) no_size: Quirk,
    pub(super) no_mdtm: Quirk,
    pub(super) no_rest: Quirk,
    /// STOR begins at a file's beginning.
    pub(super) no_restore: Quirk,
    /// Uploads can't be continued, neither by REST and STOR nor by APPE.
    pub(super) no_resume: Quirk,
    /// LIST does not take the path of a file.
    pub(super) no_list_file: Quirk,
    /// `LIST -a` is not understood.
    pub(super) no_list_all: Quirk,
    pub(super) no_set_time: Quirk,
    pub(super) no_chmod: Quirk,
    /// LIST does not tell sizes.
    pub(super) no_listed_sizes: Quirk,
    /// LIST rounds times, and leaves out their zone.
    pub(super) rounded_times: Quirk,
    /// Neither facts nor listings have permission bits.
    pub(super) no_modes: Quirk,
}

#[derive(Debug, Default)]
pub(super) struct Quirk(AtomicBool);

impl Quirk {
    pub(super) fn learn(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Server {
    pub(super) fn new(settings: FtpSettings) -> Result<Self, TlsSettingsError> {
        let tls = match &settings.tls {
            FtpTls::None => None,
            FtpTls::Explicit { server_name, trust } | FtpTls::Implicit { server_name, trust } => {
                Some(TlsClient::new(server_name, trust)?)
            }
        };
        // What was staged stays on the server from one start to the next.
        let names = StagingNames::new(settings.uploads.clone(), b"");
        Ok(Self {
            settings,
            quirks: Quirks::default(),
            tls,
            held: Arc::new(Semaphore::new(HELD_FILES)),
            names,
            swept: Mutex::default(),
        })
    }

    /// What the server has shown, so far, that it tells of files.
    pub(super) fn shows(&self) -> Shown {
        let quirks = &self.quirks;
        Shown {
            sizes: !(quirks.no_size.is_known() && quirks.no_listed_sizes.is_known()),
            listed_sizes: !quirks.no_listed_sizes.is_known(),
            permissions: !quirks.no_modes.is_known(),
            exact_times: !(quirks.no_mdtm.is_known() && quirks.rounded_times.is_known()),
        }
    }

    /// Learns from the form of a listing what the server's listings leave out.
    pub(super) fn learn_form(&self, form: Option<ListForm>) {
        let quirks = &self.quirks;
        match form {
            None => {}
            Some(ListForm::Unix) => quirks.rounded_times.learn(),
            Some(ListForm::Dos) => {
                quirks.rounded_times.learn();
                quirks.no_modes.learn();
            }
            Some(ListForm::Eplf) => quirks.no_modes.learn(),
            // Its protection has other bits, and its sizes are in blocks.
            Some(ListForm::Vms) => {
                quirks.rounded_times.learn();
                quirks.no_modes.learn();
                quirks.no_listed_sizes.learn();
            }
        }
    }

    /// The right to hold one more file in memory.
    pub(super) fn hold_a_file(&self) -> Result<OwnedSemaphorePermit, Fault> {
        Arc::clone(&self.held).try_acquire_owned().map_err(|_| {
            Fault::judged(
                ErrorKind::Unavailable,
                format!(
                    "{HELD_FILES} files of this server are being changed already; close one first"
                ),
            )
        })
    }

    /// True if left-over staging files are to be looked for in the directory; it counts as done then.
    pub(super) fn begins_sweep(&self, directory: &Location) -> bool {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = swept
            .get(directory.as_bytes())
            .is_some_and(|last| last.elapsed() < SWEEP_INTERVAL);
        if recent {
            return false;
        }
        if swept.len() >= SWEPT_DIRECTORIES {
            swept.clear();
        }
        swept.insert(directory.as_bytes().to_vec(), Instant::now());
        true
    }
}
