//! A client that goes on with an interrupted upload within an extent that is kept. The upload goes back to the beginning of that extent:
//! what lies before the client's bytes is decrypted, and encrypted again under another header and other IVs.

use std::sync::{Arc, Mutex};

use portcullis_at_rest::Spool;
use tokio::sync::Semaphore;

use super::{
    closing::{finish, start},
    download::Download,
    fault::Fault,
    lock,
    session::Session,
    steps::Steps,
    upload::{CHUNK, Rewind, Upload},
};
use crate::{
    backend::BackendError,
    operation::{HandleId, Outcome},
};

/// A WRITE that came while the upload went back.
pub(super) async fn wait(
    upload: Arc<Mutex<Upload>>,
    rewound: Arc<Semaphore>,
) -> Result<Outcome, BackendError> {
    // It ends by being closed.
    let _ = rewound.acquire().await;
    if lock(&upload).is_spoiled {
        return Err(Fault::Spoiled.into());
    }
    Ok(Outcome::Done)
}

impl Session {
    /// The WRITE that went back; those that come meanwhile wait as bytes before their turn do.
    pub(super) async fn rewind(
        self,
        steps: Steps,
        handle: HandleId,
        upload: Arc<Mutex<Upload>>,
        rewind: Rewind,
    ) -> Result<Outcome, BackendError> {
        let (offset, nothing) = rewind.withdrawal.clone();
        let sealed = self.seal_again(&steps, handle, &upload, rewind).await;
        let rewound = {
            let mut upload = lock(&upload);
            upload.is_spoiled |= sealed.is_err();
            upload.rewound.take()
        };
        if let Some(rewound) = rewound {
            rewound.close();
        }
        if sealed.is_err() {
            // A backend that refuses it has lost the upload as well.
            let _ = steps.write(handle, offset, nothing).await;
        }
        sealed
    }

    async fn seal_again(
        &self,
        steps: &Steps,
        handle: HandleId,
        upload: &Mutex<Upload>,
        rewind: Rewind,
    ) -> Result<Outcome, BackendError> {
        let Rewind {
            readers,
            from,
            until,
            withdrawal: _,
        } = rewind;
        let mut spool = Spool::new(&self.vault.spool_directory).map_err(Fault::from)?;
        let download = Download::new(handle, readers, &self.buffers);
        // All of it comes first: the next WRITE cuts the file here.
        while from + spool.length() < until {
            let at = from + spool.length();
            let left = (until - at).min(CHUNK as u64);
            let wanted = u32::try_from(left).unwrap_or(u32::MAX);
            let Outcome::Data(data) = download.read(steps, at, wanted).await? else {
                return Err(Fault::Gap(at).into());
            };
            spool.write(spool.length(), &data).map_err(Fault::from)?;
        }
        let mut sealed = 0;
        while sealed < spool.length() {
            let data = spool.read(sealed, CHUNK).map_err(Fault::from)?;
            sealed += data.len() as u64;
            let started = {
                let mut upload = lock(upload);
                let pieces = upload.seal_again(data)?;
                // Before another WRITE can start its own.
                start(steps, handle, pieces)
            };
            finish(started).await?;
        }
        Ok(Outcome::Done)
    }
}
