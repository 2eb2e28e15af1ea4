//! A file that is not encrypted is written anew, encrypted, and takes the place of the one that was read.

use portcullis_at_rest::{Head, HeadError, ObjectId, Sealer};
use sha2::{Digest as _, Sha256};

use super::{
    closing::{finish, start},
    fault::Fault,
    session::Session,
    steps::Steps,
    upload::Outlet,
};
use crate::{
    backend::{BackendError, FileVersion, Tending},
    operation::{Access, Attributes, HandleId, Operation, Outcome, Tended},
    path::VirtualPath,
};

impl Session {
    /// Encrypts a file that is not. It is published only if its content is the expected one, and nobody has changed it meanwhile.
    pub(super) async fn encrypt(
        self,
        steps: Steps,
        path: VirtualPath,
        expected: Option<[u8; 32]>,
    ) -> Result<Outcome, BackendError> {
        let Some(tending) = self.backend.tending() else {
            return Err(Fault::NotInPlace.into());
        };
        let version = steps.prove(steps.operation().clone())?;
        let version = tending.version(version).await?;
        let source = self.own_handle();
        steps.open(&path, source, Access::READ).await?;
        let encrypted = self
            .encrypt_open(&steps, (tending, version), &path, source, expected)
            .await;
        let closed = steps.close(source).await;
        let tended = encrypted?;
        closed?;
        Ok(Outcome::Tended(tended))
    }

    async fn encrypt_open(
        &self,
        steps: &Steps,
        (tending, version): (&dyn Tending, FileVersion),
        path: &VirtualPath,
        source: HandleId,
        expected: Option<[u8; 32]>,
    ) -> Result<Tended, BackendError> {
        let attributes = steps.attributes(source).await?;
        let beginning = steps.read(source, 0, Head::LENGTH).await?;
        match Head::parse(&beginning) {
            Ok(_) => return Ok(Tended::Current),
            Err(HeadError::Foreign | HeadError::Empty | HeadError::Short) => {}
            Err(error) => return Err(Fault::from(error).into()),
        }
        if Head::resembles_one(&beginning) {
            return Err(Fault::Damaged.into());
        }
        let target = self.own_handle();
        steps.open(path, target, Access::REPLACE).await?;
        keep_owner(steps, target, &attributes, &version).await?;
        let (object, sha256, bytes) = self.copy(steps, source, target).await?;
        if version.size().is_some_and(|size| size != bytes) {
            return Err(Fault::ChangedMeanwhile.into());
        }
        if expected.is_some_and(|expected| expected != sha256) {
            return Err(Fault::OtherContent(sha256).into());
        }
        publish(steps, tending, target, version).await?;
        Ok(Tended::Encrypted {
            sha256,
            bytes,
            object,
        })
    }

    /// Writes what is read, encrypted; gives what that is now, the SHA-256 of what was read, and how many bytes that are.
    async fn copy(
        &self,
        steps: &Steps,
        source: HandleId,
        target: HandleId,
    ) -> Result<(ObjectId, [u8; 32], u64), BackendError> {
        let vault = &self.vault;
        let (key, head) = match vault.mint().await? {
            Some(minted) => minted,
            None => vault.ring.create(&vault.realm).map_err(Fault::from)?,
        };
        let object = head.object();
        let mut sealer = Sealer::new(&key, head);
        let mut outlet = Outlet::default();
        let mut digest = Sha256::new();
        let head = sealer.head().as_bytes().to_vec();
        let mut sealed = vec![head];
        let mut bytes = 0;
        let piece = self.pace.piece();
        let mut reading = Box::pin(steps.read(source, 0, piece));
        loop {
            let data = reading.await?;
            if data.is_empty() {
                break;
            }
            self.pace.take(data.len() as u64).await;
            bytes += data.len() as u64;
            reading = Box::pin(steps.read(source, bytes, piece));
            digest.update(&data);
            sealer.write(&data, &mut sealed).map_err(Fault::from)?;
            let pieces = outlet.place_all(std::mem::take(&mut sealed));
            finish(start(steps, target, pieces)).await?;
        }
        sealer.finish(&mut sealed).map_err(Fault::from)?;
        let pieces = outlet.place_all(sealed);
        finish(start(steps, target, pieces)).await?;
        Ok((object, digest.finalize().into(), bytes))
    }
}

/// Gives the new file the owner of the old one.
async fn keep_owner(
    steps: &Steps,
    target: HandleId,
    attributes: &Attributes,
    version: &FileVersion,
) -> Result<(), BackendError> {
    let now = steps.attributes(target).await?;
    if now.owner.is_none() || now.owner == attributes.owner {
        return Ok(());
    }
    let set = steps.start(Operation::Fsetstat {
        handle: target,
        attributes: Attributes {
            owner: attributes.owner,
            ..Attributes::default()
        },
    });
    match (set.await, version) {
        (Err(error), FileVersion::Inode(_)) => Err(Fault::Owner(error).into()),
        // On a server it gets the account's, as with every upload.
        (Err(_), FileVersion::Object { .. } | FileVersion::Watched { .. }) | (Ok(_), _) => Ok(()),
    }
}

async fn publish(
    steps: &Steps,
    tending: &dyn Tending,
    target: HandleId,
    version: FileVersion,
) -> Result<(), BackendError> {
    let recorded = steps.prove(Operation::Close { handle: target })?;
    tending.close_over(recorded, version).await?;
    Ok(())
}
