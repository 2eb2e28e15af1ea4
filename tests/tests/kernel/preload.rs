//! Libraries that are put between a daemon and libc, so that it meets what this machine doesn't have.

use std::{fs, process::Command};

use portcullis_tests::{agent::Agent, process::succeed};

/// Compiles a library from C; gives the setting of the environment that puts it before libc.
pub(crate) fn library(agent: &Agent, name: &str, source: &str) -> String {
    let [from, to] = ["c", "so"].map(|ending| agent.folder().join(format!("{name}.{ending}")));
    fs::write(&from, source).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&to);
    succeed(compile.arg(from).arg("-ldl")).unwrap();
    format!("LD_PRELOAD={}", to.display())
}
