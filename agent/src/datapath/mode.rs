//! How the program is to be attached, and to ask for sources.

use serde::{Deserialize, Serialize};

/// What an operator asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachMode {
    /// In the driver; where the driver can't, in the network stack, which `status` and the log then say.
    #[default]
    Native,
    /// In the driver or not at all.
    RequireNative,
    /// In the network stack.
    Generic,
}

impl AttachMode {
    /// Reads a mode as the configuration has it.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "native" => Ok(Self::Native),
            "require-native" => Ok(Self::RequireNative),
            "generic" => Ok(Self::Generic),
            _ => Err("expected native, require-native or generic".to_owned()),
        }
    }
}

/// The kind of table that an operator asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableChoice {
    /// Compiled; where the kernel refuses that, its own LPM tries, which `status` and the log then say.
    #[default]
    Compiled,
    /// The kernel's LPM tries.
    Lpm,
}
