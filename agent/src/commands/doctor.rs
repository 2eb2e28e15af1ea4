use anyhow::Result;

use super::render;
use crate::{cli::DoctorArguments, doctor};

pub(super) fn doctor(arguments: &DoctorArguments, json: bool) -> Result<String> {
    let report = doctor::examine(&arguments.interface, arguments.mode)?;
    render(&report, json, ToString::to_string)
}
