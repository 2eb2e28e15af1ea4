//! Compiles `agent-xdp` for the BPF target.
//!
//! Shared by `agent/build.rs` and by `cargo xtask build-xdp`, hence nothing but the standard library.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The LLVM that bpf-linker and the compiler share on the Debian route.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const TARGET: &str = "bpfel-unknown-none";
/// The binary that the daemon loads.
pub const PROGRAM: &str = "agent-xdp";
/// `--btf` and full debug information: without them the object has no BTF, and maps of maps can't be loaded.
const RUSTFLAGS: &[&str] = &["-Clink-arg=--btf", "-Cdebuginfo=2", "-Cpanic=abort"];
/// What an outer cargo sets for the host build, and the BPF build must not inherit.
const HOST_BUILD_VARIABLES: &[&str] = &[
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MAKEFLAGS",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "CLIPPY_CONF_DIR",
    "MAKEFLAGS",
    "MFLAGS",
    "RUSTC",
    "RUSTC_LINKER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "TARGET",
];

/// A way to compile for the BPF target that was found on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// Where the compiler comes from.
    pub route: Route,
    /// The directory of `bpf-linker`.
    pub linker_directory: PathBuf,
}

/// Where a compiler for the BPF target can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Debian's `rustc-web` with a prebuilt `core` from `libstd-rust-web-dev-bpf`.
    Debian {
        /// The compiler.
        rustc: PathBuf,
    },
    /// A rustup nightly with `rust-src`: `core` is built from source.
    Rustup,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.route {
            Route::Debian { rustc } => {
                write!(f, "Debian's {} with a prebuilt core", rustc.display())?
            }
            Route::Rustup => write!(f, "rustup's nightly with rust-src")?,
        }
        write!(f, ", bpf-linker in {}", self.linker_directory.display())
    }
}

/// Looks for a toolchain; Debian's is preferred, since its versions belong together.
///
/// # Errors
/// What is missing, and how to get it.
pub fn find_toolchain() -> Result<Toolchain, String> {
    let linker_directory =
        linker_directory().ok_or_else(|| missing("bpf-linker is not in PATH or ~/.cargo/bin"))?;
    let rustc = PathBuf::from("/usr/bin/rustc");
    let route = if has_prebuilt_core(&rustc) {
        Route::Debian { rustc }
    } else if has_nightly_with_source() {
        Route::Rustup
    } else {
        return Err(missing(
            "no compiler for the BPF target: neither Debian's rustc-web with libstd-rust-web-dev-bpf nor a rustup nightly with rust-src",
        ));
    };
    Ok(Toolchain {
        route,
        linker_directory,
    })
}

/// Compiles the XDP program of the workspace at `workspace_root` and gives the path of the object, which lies under `out_dir`.
///
/// # Errors
/// When there is no toolchain, or the compiler's own words when it fails.
pub fn compile(workspace_root: &Path, out_dir: &Path) -> Result<PathBuf, String> {
    compile_with(&find_toolchain()?, workspace_root, PROGRAM, out_dir)
}

/// Compiles another `binary` of the same package, with a toolchain found before.
///
/// # Errors
/// The compiler's own words when it fails.
pub fn compile_with(
    toolchain: &Toolchain,
    workspace_root: &Path,
    binary: &str,
    out_dir: &Path,
) -> Result<PathBuf, String> {
    let target_dir = out_dir.join("xdp");
    let output = cargo(toolchain, workspace_root, binary, &target_dir)?
        .output()
        .map_err(|error| format!("start cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "compile {binary} with {toolchain}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let built = target_dir.join(TARGET).join("release").join(binary);
    let object = out_dir.join(format!("{binary}.o"));
    fs::copy(&built, &object)
        .map_err(|error| format!("copy {} to {}: {error}", built.display(), object.display()))?;
    Ok(object)
}

fn cargo(
    toolchain: &Toolchain,
    workspace_root: &Path,
    binary: &str,
    target_dir: &Path,
) -> Result<Command, String> {
    let mut cargo = match &toolchain.route {
        Route::Debian { rustc } => {
            let mut cargo =
                Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
            without_host_build(&mut cargo);
            cargo
                .env("RUSTC", rustc)
                .env("RUSTC_BOOTSTRAP", "1")
                .arg("build");
            cargo
        }
        Route::Rustup => {
            let mut cargo = Command::new("rustup");
            without_host_build(&mut cargo);
            cargo.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
            cargo
        }
    };
    let mut path = vec![toolchain.linker_directory.clone()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(path).map_err(|error| format!("PATH: {error}"))?;
    cargo
        .args([
            "--release",
            "--package",
            "portcullis-agent-ebpf",
            "--bin",
            binary,
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(target_dir)
        .current_dir(workspace_root)
        .env("PATH", path)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"))
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    if Path::new(LLVM_PREFIX).is_dir() {
        cargo.env("LLVM_PREFIX", LLVM_PREFIX);
    }
    Ok(cargo)
}

fn without_host_build(command: &mut Command) {
    for variable in HOST_BUILD_VARIABLES {
        command.env_remove(variable);
    }
}

fn linker_directory() -> Option<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_home)
        .find(|directory| directory.join("bpf-linker").is_file())
}

fn has_prebuilt_core(rustc: &Path) -> bool {
    let Some(sysroot) = said(Command::new(rustc).args(["--print", "sysroot"])) else {
        return false;
    };
    Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(TARGET)
        .join("lib")
        .is_dir()
}

fn has_nightly_with_source() -> bool {
    let Some(sysroot) =
        said(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
    else {
        return false;
    };
    Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
}

/// Standard output of a command that succeeds.
fn said(command: &mut Command) -> Option<String> {
    without_host_build(command);
    let output = command.output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn missing(what: &str) -> String {
    format!("{what}; run `cargo xtask setup`, or set PORTCULLIS_XDP_OBJECT to a prebuilt object")
}
