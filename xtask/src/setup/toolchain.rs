//! The toolchain of the XDP program.
//!
//! Two routes, the first preferred where Debian carries it: Debian's own Rust with a prebuilt
//! `core` for BPF, or rustup's nightly, which compiles `core` from `rust-src`. Both link with
//! bpf-linker.

use std::process::Command;

use anyhow::Result;

use super::{Requirement, apt};
use crate::build_xdp::xdp_object;
use crate::process;

const COMPILER: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];
/// The compiler's LLVM for bpf-linker, and what it links against.
const LLVM: &[&str] = &[
    "llvm-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
    "gcc",
    "g++",
    "libc6-dev",
];
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LINKER_VERSION: &str = "0.13.0";

/// What is needed to compile the XDP program here; nothing when a prebuilt object is given.
pub(super) fn requirements() -> Vec<Box<dyn Requirement>> {
    if std::env::var_os("PORTCULLIS_XDP_OBJECT").is_some() {
        return Vec::new();
    }
    let mut list: Vec<Box<dyn Requirement>> = vec![Box::new(NativeBuild)];
    match route() {
        Route::Debian => {
            list.push(Box::new(DebianCompiler));
            list.push(Box::new(Linker {
                llvm: Some(LLVM_PREFIX),
            }));
        }
        Route::Rustup => {
            list.push(Box::new(Nightly));
            list.push(Box::new(Linker { llvm: None }));
        }
    }
    list
}

enum Route {
    Debian,
    Rustup,
}

fn route() -> Route {
    if let Ok(found) = xdp_object::find_toolchain() {
        return match found.route {
            xdp_object::Route::Debian { .. } => Route::Debian,
            xdp_object::Route::Rustup => Route::Rustup,
        };
    }
    let debian = apt::missing(COMPILER).is_empty();
    let nightly = Nightly.missing().is_empty();
    if debian || (!nightly && apt::usable().is_ok() && debian_has_the_compiler()) {
        Route::Debian
    } else {
        Route::Rustup
    }
}

fn debian_has_the_compiler() -> bool {
    // A new machine may have no package lists yet: then Debian 12 and newer are trusted to have it.
    match process::ask("apt-cache", &["policy", "rustc-web"]) {
        Some(policy) if policy.contains("Candidate:") => !policy.contains("Candidate: (none)"),
        _ => std::fs::read_to_string("/etc/debian_version").is_ok(),
    }
}

/// A C compiler for the host crates that bring C code (SQLite, aws-lc).
struct NativeBuild;

const NATIVE: &[&str] = &["gcc", "libc6-dev", "pkg-config"];

impl Requirement for NativeBuild {
    fn name(&self) -> String {
        "C compiler".to_owned()
    }

    fn why(&self) -> &'static str {
        "SQLite and aws-lc are compiled into the proxy"
    }

    fn missing(&self) -> Vec<String> {
        if process::ask("cc", &["--version"]).is_some() {
            return Vec::new();
        }
        apt::missing(NATIVE)
    }

    fn install(&self) -> Result<()> {
        apt::install(NATIVE)
    }

    fn commands(&self) -> Vec<String> {
        vec![apt::install_command(NATIVE)]
    }
}

struct DebianCompiler;

impl Requirement for DebianCompiler {
    fn name(&self) -> String {
        "Debian's Rust compiler with core for BPF".to_owned()
    }

    fn why(&self) -> &'static str {
        "the XDP program is compiled for bpfel-unknown-none, which the stable toolchain has no core for"
    }

    fn missing(&self) -> Vec<String> {
        apt::missing(COMPILER)
    }

    fn install(&self) -> Result<()> {
        apt::install(COMPILER)
    }

    fn commands(&self) -> Vec<String> {
        vec![apt::install_command(COMPILER)]
    }
}

struct Nightly;

impl Requirement for Nightly {
    fn name(&self) -> String {
        "rustup nightly with rust-src".to_owned()
    }

    fn why(&self) -> &'static str {
        "the XDP program needs core for bpfel-unknown-none, built with -Z build-std"
    }

    fn missing(&self) -> Vec<String> {
        match process::ask(
            "rustup",
            &["component", "list", "--installed", "--toolchain", "nightly"],
        ) {
            None => vec!["toolchain nightly".to_owned()],
            Some(components) if components.lines().any(|line| line.trim() == "rust-src") => {
                Vec::new()
            }
            Some(_) => vec!["component rust-src".to_owned()],
        }
    }

    fn install(&self) -> Result<()> {
        process::run(Command::new("rustup").args(NIGHTLY_INSTALL))
    }

    fn commands(&self) -> Vec<String> {
        vec![format!("rustup {}", NIGHTLY_INSTALL.join(" "))]
    }
}

const NIGHTLY_INSTALL: &[&str] = &[
    "toolchain",
    "install",
    "nightly",
    "--profile",
    "minimal",
    "--component",
    "rust-src",
];

/// bpf-linker, on Debian's route built against the LLVM of the compiler that feeds it.
struct Linker {
    llvm: Option<&'static str>,
}

impl Linker {
    fn install_arguments(&self) -> Vec<&'static str> {
        let mut arguments = vec![
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
        ];
        if self.llvm.is_some() {
            arguments.extend(["--no-default-features", "--features", "llvm-22"]);
        }
        arguments
    }
}

impl Requirement for Linker {
    fn name(&self) -> String {
        format!("bpf-linker {LINKER_VERSION}")
    }

    fn why(&self) -> &'static str {
        "it turns the compiler's bitcode into one BPF object with BTF"
    }

    fn missing(&self) -> Vec<String> {
        let found = ["bpf-linker".to_owned(), in_cargo_home("bpf-linker")]
            .iter()
            .filter_map(|program| process::ask(program, &["--version"]))
            .any(|version| version.contains(LINKER_VERSION));
        if found {
            Vec::new()
        } else {
            vec![format!("bpf-linker {LINKER_VERSION}")]
        }
    }

    fn install(&self) -> Result<()> {
        println!("         compiling it takes about three minutes");
        let mut cargo = process::cargo();
        if let Some(prefix) = self.llvm {
            if !apt::missing(LLVM).is_empty() {
                apt::install(LLVM)?;
            }
            cargo.env("LLVM_PREFIX", prefix);
        }
        process::run_quietly(
            cargo
                .args(self.install_arguments())
                .env_remove("CARGO_TARGET_DIR"),
        )?;
        Ok(())
    }

    fn commands(&self) -> Vec<String> {
        let cargo = format!("cargo {}", self.install_arguments().join(" "));
        match self.llvm {
            Some(prefix) => vec![
                apt::install_command(LLVM),
                format!("LLVM_PREFIX={prefix} {cargo}"),
            ],
            None => vec![cargo],
        }
    }
}

fn in_cargo_home(program: &str) -> String {
    let home = std::env::var("CARGO_HOME")
        .unwrap_or_else(|_| format!("{}/.cargo", std::env::var("HOME").unwrap_or_default()));
    format!("{home}/bin/{program}")
}
