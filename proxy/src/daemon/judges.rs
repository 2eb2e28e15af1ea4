//! The servers that judge factors, as the configuration has them.

use std::sync::Arc;

use crate::{
    auth::{
        Judges,
        ldap::{Directory, DirectoryError},
        radius::Radius,
    },
    config::AuthConfig,
};

/// Those of `config`. What is in `before` and has not changed stays the same value, which knows who is silent.
pub(super) fn build(
    config: &AuthConfig,
    before: Option<(&AuthConfig, &Judges)>,
) -> Result<Judges, DirectoryError> {
    let unchanged_radius = before.filter(|(before, _)| before.radius == config.radius);
    let unchanged_directory = before.filter(|(before, _)| before.ldap == config.ldap);
    let radius = match unchanged_radius {
        Some((_, judges)) => judges.radius.clone(),
        None => config
            .radius
            .clone()
            .map(|settings| Arc::new(Radius::new(settings))),
    };
    let directory = match unchanged_directory {
        Some((_, judges)) => judges.directory.clone(),
        None => config
            .ldap
            .clone()
            .map(Directory::new)
            .transpose()?
            .map(Arc::new),
    };
    Ok(Judges { radius, directory })
}
