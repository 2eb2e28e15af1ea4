//! The library's client of each service, and what signs the requests that the library does not make.

use std::{sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AwsCredential},
    azure::MicrosoftAzureBuilder,
    client::HttpConnector as _,
    gcp::GoogleCloudStorageBuilder,
    multipart::MultipartStore,
};

use super::{
    ObjectSettingsError,
    settings::{AzureKey, Credential, ObjectSettings},
    transport::Transport,
    wire::{Signer, Wire},
};

/// How often the library sends a request that failed in passing.
const RETRIES: usize = 3;

/// What is used of the library's clients.
pub(super) trait Store: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Store for T {}

/// Two ways to one bucket, over the same connections.
pub(super) struct Clients {
    pub(super) store: Arc<dyn Store>,
    pub(super) wire: Wire,
}

impl Clients {
    /// # Errors
    /// If the settings can't be used. Nothing is sent.
    pub(super) fn new(settings: &ObjectSettings) -> Result<Self, ObjectSettingsError> {
        let endpoint = settings.endpoint.trim_end_matches('/');
        let transport = Transport::new(&settings.trust, settings.timeout)?;
        let http = transport
            .connect(&object_store::ClientOptions::new())
            .map_err(ObjectSettingsError::Library)?;
        let (store, signer) = build(settings, endpoint, transport)?;
        Ok(Self {
            store,
            wire: Wire {
                http,
                signer,
                url: format!("{endpoint}/{}", settings.bucket),
                timeout: settings.timeout,
            },
        })
    }
}

fn build(
    settings: &ObjectSettings,
    endpoint: &str,
    transport: Transport,
) -> Result<(Arc<dyn Store>, Signer), ObjectSettingsError> {
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: RETRIES,
        retry_timeout: settings.timeout,
    };
    match &settings.credential {
        Credential::S3 { region, key } => {
            let store = AmazonS3Builder::new()
                .with_endpoint(endpoint)
                .with_region(region)
                .with_bucket_name(&settings.bucket)
                .with_access_key_id(&key.id)
                .with_secret_access_key(key.secret.expose())
                .with_http_connector(transport)
                .with_retry(retry)
                .build()
                .map_err(ObjectSettingsError::Library)?;
            let signer = Signer::S3 {
                credential: AwsCredential {
                    key_id: key.id.clone(),
                    secret_key: key.secret.expose().to_owned(),
                    token: None,
                },
                region: region.clone(),
            };
            Ok((Arc::new(store), signer))
        }
        Credential::Azure { account, key } => {
            let builder = MicrosoftAzureBuilder::new()
                .with_account(account)
                .with_container_name(&settings.bucket)
                .with_endpoint(endpoint.to_owned())
                .with_http_connector(transport)
                .with_retry(retry);
            let store = match key {
                AzureKey::Shared(key) => builder.with_access_key(key.expose()),
                AzureKey::Signature(signature) => builder.with_sas_authorization(
                    object_store::azure::split_sas(signature.expose())
                        .map_err(ObjectSettingsError::Library)?,
                ),
            }
            .build()
            .map_err(ObjectSettingsError::Library)?;
            let signer = Signer::Azure {
                account: account.clone(),
                credentials: Arc::clone(store.credentials()),
            };
            Ok((Arc::new(store), signer))
        }
        Credential::Gcs { service_account } => {
            let store = GoogleCloudStorageBuilder::new()
                .with_base_url(endpoint)
                .with_bucket_name(&settings.bucket)
                .with_service_account_key(service_account.expose())
                .with_http_connector(transport)
                .with_retry(retry)
                .build()
                .map_err(ObjectSettingsError::Library)?;
            let signer = Signer::Gcs {
                credentials: Arc::clone(store.credentials()),
            };
            Ok((Arc::new(store), signer))
        }
    }
}
