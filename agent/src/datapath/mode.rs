//! How the program is to be attached.

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
