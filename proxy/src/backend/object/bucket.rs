//! One bucket: each request with its meaning, its deadline and its fault.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload, multipart::PartId,
};

use tokio::sync::OnceCell;

use super::{
    ObjectSettingsError,
    client::Clients,
    fault::Fault,
    interface::Interface,
    location::Key,
    settings::{Credential, ObjectSettings},
    upload::hidden_beside,
    wire::{Listing, Over, Page, Version},
};

/// A bucket of a server.
pub(super) struct Bucket {
    clients: Clients,
    interface: Interface,
    /// As errors name it.
    name: String,
    timeout: Duration,
    /// Whether the server keeps conditions, once it was asked.
    conditions: OnceCell<bool>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.name)
    }
}

/// A file that is being fetched.
pub(super) struct Fetched {
    /// Of the whole file, and its tag.
    pub(super) meta: ObjectMeta,
    pub(super) content: BoxStream<'static, object_store::Result<Bytes>>,
}

impl Bucket {
    /// # Errors
    /// If the settings can't be used. Nothing is sent.
    pub(super) fn new(settings: &ObjectSettings) -> Result<Arc<Self>, ObjectSettingsError> {
        let (bucket, endpoint) = (&settings.bucket, settings.endpoint.trim_end_matches('/'));
        let name = match &settings.credential {
            Credential::S3 { .. } => format!("S3 bucket {bucket} at {endpoint}"),
            Credential::Azure { account, .. } => {
                format!("Azure container {bucket} of account {account} at {endpoint}")
            }
            Credential::Gcs { .. } => format!("Cloud Storage bucket {bucket} at {endpoint}"),
        };
        Ok(Arc::new(Self {
            clients: Clients::new(settings)?,
            interface: settings.credential.interface(),
            name,
            timeout: settings.timeout,
            conditions: OnceCell::new(),
        }))
    }

    pub(super) fn interface(&self) -> Interface {
        self.interface
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn fault(&self, request: &'static str) -> impl Fn(object_store::Error) -> Fault {
        let timeout = self.timeout;
        move |error| Fault::of(request, timeout, &error)
    }

    /// Size, time and tag of a file; `None` if there is none.
    pub(super) async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>, Fault> {
        match self
            .clients
            .store
            .head(&key.path()?)
            .await
            .map_err(self.fault("HEAD"))
        {
            Ok(meta) => Ok(Some(meta)),
            Err(fault) if fault.is_not_found() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Fetches a range, of the version with the tag if one is given.
    pub(super) async fn get(
        &self,
        key: &Key,
        range: std::ops::Range<u64>,
        tag: Option<&str>,
    ) -> Result<Fetched, Fault> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: tag.map(str::to_owned),
            ..GetOptions::default()
        };
        let result = self
            .clients
            .store
            .get_opts(&key.path()?, options)
            .await
            .map_err(self.fault("GET"))?;
        // What a server answers that does not know the condition, or a cache before it.
        if let (Some(asked), Some(came)) = (tag, &result.meta.e_tag)
            && asked != came
        {
            return Err(Fault::refused("GET", 412, ""));
        }
        Ok(Fetched {
            meta: result.meta.clone(),
            content: result.into_stream(),
        })
    }

    /// The fault of a broken content stream.
    pub(super) fn content_fault(&self, error: &object_store::Error) -> Fault {
        Fault::of("GET", self.timeout, error)
    }

    /// Puts a whole file.
    pub(super) async fn put(
        &self,
        key: &Key,
        content: PutPayload,
        over: Over<'_>,
    ) -> Result<(), Fault> {
        let mode = match over {
            Over::Anything => PutMode::Overwrite,
            Over::Nothing => PutMode::Create,
            Over::Only(version) => PutMode::Update(version.to_update()),
        };
        self.clients
            .store
            .put_opts(&key.path()?, content, PutOptions::from(mode))
            .await
            .map_err(self.fault("PUT"))?;
        Ok(())
    }

    /// Begins an upload in parts and returns its name.
    pub(super) async fn begin(&self, key: &Key) -> Result<String, Fault> {
        self.clients
            .store
            .create_multipart(&key.path()?)
            .await
            .map_err(self.fault("CREATE"))
    }

    /// Uploads a part; `index` counts from zero.
    pub(super) async fn put_part(
        &self,
        key: &Key,
        upload: &str,
        index: usize,
        content: PutPayload,
    ) -> Result<PartId, Fault> {
        self.clients
            .store
            .put_part(&key.path()?, &upload.to_owned(), index, content)
            .await
            .map_err(self.fault("PUT part"))
    }

    /// Joins the parts to the file, and returns its tag if the server names it.
    pub(super) async fn complete(
        &self,
        key: &Key,
        upload: &str,
        parts: &[PartId],
        over: Over<'_>,
    ) -> Result<Option<String>, Fault> {
        self.clients.wire.complete(key, upload, parts, over).await
    }

    /// Copies a range of a version of a file into a part; `index` counts from zero. On S3 alone.
    pub(super) async fn copy_part(
        &self,
        upload: (&Key, &str),
        index: usize,
        from: (&Key, &Version),
        range: std::ops::Range<u64>,
    ) -> Result<PartId, Fault> {
        self.clients
            .wire
            .copy_part(upload, index, from, range)
            .await
    }

    /// True if the server publishes a file in the place of a version and of no other. Services do; of servers that speak like S3,
    /// one is asked once, by a hidden file beside `key`.
    pub(super) async fn keeps_conditions(&self, key: &Key) -> Result<bool, Fault> {
        match self.interface {
            Interface::Azure | Interface::Gcs => Ok(true),
            Interface::S3 => {
                let kept = self.conditions.get_or_try_init(|| self.try_conditions(key));
                kept.await.copied()
            }
        }
    }

    async fn try_conditions(&self, beside: &Key) -> Result<bool, Fault> {
        let key = hidden_beside(beside)?;
        let other = Version::new(
            Some("\"00000000000000000000000000000000\"".to_owned()),
            None,
        );
        let over = Over::Only(&other);
        self.put(&key, PutPayload::new(), Over::Anything).await?;
        let kept = async {
            if !is_kept(self.put(&key, PutPayload::new(), over).await)? {
                return Ok(false);
            }
            let id = self.begin(&key).await?;
            let content = PutPayload::from_static(b"x");
            let part = self.put_part(&key, &id, 0, content).await?;
            let completed = self.complete(&key, &id, &[part], over).await;
            if completed.is_err() {
                // What was joined is gone, what was not is dropped.
                let _ = self.abort(&key, &id).await;
            }
            is_kept(completed)
        };
        let kept = kept.await;
        self.delete(&key).await?;
        kept
    }

    /// Drops an upload and its parts.
    pub(super) async fn abort(&self, key: &Key, upload: &str) -> Result<(), Fault> {
        self.clients
            .store
            .abort_multipart(&key.path()?, &upload.to_owned())
            .await
            .map_err(self.fault("ABORT"))
    }

    /// Makes the empty object that stands for a directory, only if there is none.
    pub(super) async fn put_marker(&self, marker: &Key) -> Result<(), Fault> {
        match self.interface {
            Interface::S3 | Interface::Gcs => {
                self.put(marker, PutPayload::new(), Over::Nothing).await
            }
            Interface::Azure => self.clients.wire.put_empty_blob(marker).await,
        }
    }

    /// Copies a file within the bucket, only this version of it. If the answer is lost, a look says
    /// whether it was done; where that can't be told, the fault says that it is not known.
    pub(super) async fn copy(
        &self,
        from: &Key,
        version: &Version,
        to: &Key,
        over: Over<'_>,
    ) -> Result<(), Fault> {
        let wire = &self.clients.wire;
        match wire.copy(from, version, to, over).await {
            Err(fault) if fault.leaves_open() => match self.was_copied(from, to).await {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(fault),
            },
            copied => copied,
        }
    }

    /// True if what stands at `to` is known to be what stands at `from`.
    async fn was_copied(&self, from: &Key, to: &Key) -> Result<bool, Fault> {
        match self.interface {
            // The tags of two files are the same if their content is, unless one came in parts or is encrypted.
            Interface::S3 | Interface::Gcs => {
                let (original, copy) = futures_util::try_join!(self.head(from), self.head(to))?;
                Ok(match (original, copy) {
                    (Some(original), Some(copy)) => {
                        original.size == copy.size
                            && original.e_tag.is_some()
                            && original.e_tag == copy.e_tag
                    }
                    (None, _) | (_, None) => false,
                })
            }
            Interface::Azure => self.clients.wire.was_copied(from, to).await,
        }
    }

    /// Deletes an object. It is no fault if there is none.
    pub(super) async fn delete(&self, key: &Key) -> Result<(), Fault> {
        self.clients.wire.delete(key, &Version::default()).await
    }

    /// Deletes a file if it is still this version, as far as the server keeps such a condition.
    pub(super) async fn delete_version(&self, key: &Key, version: &Version) -> Result<(), Fault> {
        self.clients.wire.delete(key, version).await
    }

    pub(super) async fn list(&self, listing: &Listing<'_>) -> Result<Page, Fault> {
        self.clients.wire.list(listing).await
    }

    /// True if the key is a directory: its marker or anything below it is there.
    pub(super) async fn is_directory(&self, key: &Key) -> Result<bool, Fault> {
        let prefix = key.children();
        if prefix.is_empty() {
            return Ok(true);
        }
        let page = self
            .list(&Listing {
                prefix: &prefix,
                by_directory: false,
                count: 1,
                after: None,
            })
            .await?;
        Ok(!page.objects.is_empty())
    }
}

/// True if a condition that does not hold was kept.
fn is_kept<T>(done: Result<T, Fault>) -> Result<bool, Fault> {
    match done {
        Ok(_) => Ok(false),
        Err(fault) if fault.is_failed_precondition() => Ok(true),
        Err(fault) if fault.is_unknown_condition() => Ok(false),
        Err(fault) => Err(fault),
    }
}
