//! One bucket: each request with its meaning, its deadline and its fault.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::{
    BackoffConfig, CopyMode, CopyOptions, GetOptions, GetRange, ObjectMeta, ObjectStore as _,
    ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AwsCredential, S3CopyIfNotExists},
    client::HttpConnector as _,
    multipart::{MultipartStore as _, PartId},
};

use super::{
    S3SettingsError,
    fault::Fault,
    location::Key,
    settings::S3Settings,
    transport::Transport,
    wire::{Listing, Page, Wire},
};

/// How often the library sends a request that failed in passing.
const RETRIES: usize = 3;

/// A bucket of a server.
#[derive(Debug)]
pub(super) struct Bucket {
    store: AmazonS3,
    wire: Wire,
    /// As errors name it.
    name: String,
    timeout: Duration,
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
    pub(super) fn new(settings: &S3Settings) -> Result<Arc<Self>, S3SettingsError> {
        let endpoint = settings.endpoint.trim_end_matches('/');
        let transport = Transport::new(&settings.trust, settings.timeout)?;
        let http = transport
            .connect(&object_store::ClientOptions::new())
            .map_err(S3SettingsError::Library)?;
        let credential = AwsCredential {
            key_id: settings.access_key.id.clone(),
            secret_key: settings.access_key.secret.to_string(),
            token: None,
        };
        let store = AmazonS3Builder::new()
            .with_endpoint(endpoint)
            .with_region(&settings.region)
            .with_bucket_name(&settings.bucket)
            .with_access_key_id(&credential.key_id)
            .with_secret_access_key(&credential.secret_key)
            .with_http_connector(transport)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(100),
                    max_backoff: Duration::from_secs(2),
                    base: 2.0,
                },
                max_retries: RETRIES,
                retry_timeout: settings.timeout,
            })
            .with_copy_if_not_exists(S3CopyIfNotExists::Header(
                "if-none-match".to_owned(),
                "*".to_owned(),
            ))
            .with_disable_bulk_delete(true)
            .build()
            .map_err(S3SettingsError::Library)?;
        Ok(Arc::new(Self {
            store,
            wire: Wire {
                http,
                credential,
                region: settings.region.clone(),
                url: format!("{endpoint}/{}", settings.bucket),
                timeout: settings.timeout,
            },
            name: format!("S3 bucket {} at {endpoint}", settings.bucket),
            timeout: settings.timeout,
        }))
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
            .store
            .get_opts(&key.path()?, options)
            .await
            .map_err(self.fault("GET"))?;
        Ok(Fetched {
            meta: result.meta.clone(),
            content: result.into_stream(),
        })
    }

    /// The fault of a broken content stream.
    pub(super) fn content_fault(&self, error: &object_store::Error) -> Fault {
        Fault::of("GET", self.timeout, error)
    }

    /// Puts a whole file, only if there is none if so wished.
    pub(super) async fn put(
        &self,
        key: &Key,
        content: PutPayload,
        only_if_absent: bool,
    ) -> Result<(), Fault> {
        let mode = if only_if_absent {
            PutMode::Create
        } else {
            PutMode::Overwrite
        };
        self.store
            .put_opts(&key.path()?, content, PutOptions::from(mode))
            .await
            .map_err(self.fault("PUT"))?;
        Ok(())
    }

    /// Begins an upload in parts and returns its name.
    pub(super) async fn begin(&self, key: &Key) -> Result<String, Fault> {
        self.store
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
        self.store
            .put_part(&key.path()?, &upload.to_owned(), index, content)
            .await
            .map_err(self.fault("PUT part"))
    }

    /// Joins the parts to the file.
    pub(super) async fn complete(
        &self,
        key: &Key,
        upload: &str,
        parts: &[PartId],
        only_if_absent: bool,
    ) -> Result<(), Fault> {
        self.wire.complete(key, upload, parts, only_if_absent).await
    }

    /// Drops an upload and its parts.
    pub(super) async fn abort(&self, key: &Key, upload: &str) -> Result<(), Fault> {
        self.store
            .abort_multipart(&key.path()?, &upload.to_owned())
            .await
            .map_err(self.fault("ABORT"))
    }

    /// Copies a file within the bucket, only if nothing stands there if so wished.
    pub(super) async fn copy(
        &self,
        from: &Key,
        to: &Key,
        only_if_absent: bool,
    ) -> Result<(), Fault> {
        let mode = if only_if_absent {
            CopyMode::Create
        } else {
            CopyMode::Overwrite
        };
        self.store
            .copy_opts(
                &from.path()?,
                &to.path()?,
                CopyOptions::new().with_mode(mode),
            )
            .await
            .map_err(self.fault("COPY"))
    }

    /// Deletes an object. It is no fault if there is none.
    pub(super) async fn delete(&self, key: &Key) -> Result<(), Fault> {
        self.store
            .delete(&key.path()?)
            .await
            .map_err(self.fault("DELETE"))
    }

    pub(super) async fn list(&self, listing: &Listing<'_>) -> Result<Page, Fault> {
        self.wire.list(listing).await
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
