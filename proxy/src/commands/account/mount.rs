//! `account mount`: what the command line says of a mount.

use std::num::NonZeroU64;

use anyhow::ensure;
use clap::Args;

use super::place;
use crate::{
    accounts::mounts,
    allowance::Allowance,
    extensions::Extensions,
    policy::{Mount, PathRule, PathRules, Permissions},
};

#[derive(Debug, Args)]
pub(in crate::commands) struct MountArgs {
    /// Where the account sees it, such as /inbox
    at: String,
    /// Name of a [backends.NAME] section
    #[arg(long)]
    backend: String,
    /// Directory on the backend
    #[arg(long)]
    directory: String,
    /// Joined by commas: list read write overwrite append rename delete mkdir rmdir setattr symlink; or none
    #[arg(long)]
    permissions: String,
    /// What is permitted at single places instead; the first whose pattern matches decides. `/in/**=list,read` counts from
    /// the mount's directory, `*.tmp=delete` is compared with the last name
    #[arg(long = "rule", value_name = "PATTERN=PERMISSIONS")]
    rules: Vec<PathRule>,
    /// Bytes a second that all its sessions together may read, such as 20M
    #[arg(long, value_name = "SIZE", value_parser = mounts::parse_rate)]
    read_rate: Option<NonZeroU64>,
    /// Bytes a second that all its sessions together may write
    #[arg(long, value_name = "SIZE", value_parser = mounts::parse_rate)]
    write_rate: Option<NonZeroU64>,
    /// Bytes that may lie in the directory, such as 500G
    #[arg(long, value_name = "SIZE", value_parser = mounts::parse_size)]
    quota: Option<u64>,
    /// Extensions that are off by default and on here, joined by commas, or `none`; as the server has it if left out
    #[arg(long, value_name = "LIST", value_parser = mounts::parse_extensions)]
    extensions: Option<Extensions>,
    /// Whether interrupted uploads can be continued; as the backend has it if left out
    #[arg(long, value_name = "true|false")]
    resume: Option<bool>,
}

impl MountArgs {
    /// The mount, if its backend is one of `backends`.
    pub(in crate::commands) fn into_mount(self, backends: &[String]) -> anyhow::Result<Mount> {
        let Self {
            at,
            backend,
            directory,
            permissions,
            rules,
            read_rate,
            write_rate,
            quota,
            extensions,
            resume,
        } = self;
        ensure!(
            backends.contains(&backend),
            "the configuration has no [backends.{backend}]; it has: {}",
            backends.join(", ")
        );
        ensure!(
            !directory.is_empty() && !directory.contains('\0'),
            "--directory is empty or has a NUL byte"
        );
        Ok(Mount {
            at: place(&at)?,
            backend,
            directory: directory.into_bytes(),
            permissions: Permissions::parse(&permissions)?,
            rules: PathRules::new(rules)?,
            group: None,
            allowance: Allowance {
                read_rate,
                write_rate,
                quota,
            },
            extensions,
            resume,
        })
    }
}
