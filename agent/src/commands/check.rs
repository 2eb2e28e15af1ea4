//! `check`: is this configuration good?

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::render;
use crate::config::Config;

pub(super) fn check(path: &Path, json: bool) -> Result<String> {
    let config = Config::load(path)?;
    let found = json!({ "config": path, "ok": true, "interfaces": config.interfaces });
    render(&found, json, |_| format!("{}: good\n", path.display()))
}
