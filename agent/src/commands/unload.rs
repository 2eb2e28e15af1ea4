//! `unload`: takes everything out of the kernel.

use anyhow::{Result, bail};
use serde_json::json;

use super::render;
use crate::{
    cli::UnloadArguments,
    config::Config,
    datapath::{pins::Pins, xdp},
};

pub(super) fn unload(arguments: &UnloadArguments, json: bool) -> Result<String> {
    let config = Config::load(&arguments.file.config)?;
    let directory = &config.pin_dir;
    if !arguments.force {
        bail!(
            "this ends enforcement: every packet on {} would reach the host, strangers' included. Stopping the daemon alone keeps it up. If it is to end, repeat with --force",
            config.interfaces.join(", ")
        );
    }
    if !directory.exists() {
        bail!("{} does not exist: nothing is loaded", directory.display());
    }
    let pins = Pins::lock(directory)?;
    let released = pins.linked();
    pins.remove_all()?;
    for interface in released.iter().chain(&config.interfaces) {
        // Not pinned, and so not gone with the pins.
        xdp::remove_filters(interface);
    }
    render(
        &json!({ "pin_dir": directory, "released": released }),
        json,
        |_| {
            format!(
                "{} removed; no longer enforcing on: {}\n",
                directory.display(),
                released.join(", ")
            )
        },
    )
}
