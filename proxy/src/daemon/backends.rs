//! From `[backends.NAME]` to services.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    backend::{
        BackendService,
        local::{LocalService, LocalSettings},
    },
    config::BackendConfig,
};

/// Why a backend can't be used.
#[derive(Debug, thiserror::Error)]
#[error("prepare backend {name}")]
pub struct BuildError {
    name: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Makes a service for each section. No server is reached yet.
pub(super) fn build(
    configs: &BTreeMap<String, BackendConfig>,
) -> Result<HashMap<String, Arc<dyn BackendService>>, BuildError> {
    configs
        .iter()
        .map(|(name, config)| {
            let service = service(config).map_err(|source| BuildError {
                name: name.clone(),
                source,
            })?;
            Ok((name.clone(), service))
        })
        .collect()
}

fn service(
    config: &BackendConfig,
) -> Result<Arc<dyn BackendService>, Box<dyn std::error::Error + Send + Sync>> {
    match config {
        BackendConfig::Local { directory } => Ok(Arc::new(LocalService::new(LocalSettings {
            directory: directory.clone(),
        })?)),
        BackendConfig::Ftp { .. } | BackendConfig::Sftp { .. } => {
            Err("this kind of backend is not built yet".into())
        }
    }
}
