//! The extensions of SFTP that are off unless the configuration or a mount says otherwise.

/// Why a name can't be switched on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} can't be switched on; \"hardlink@openssh.com\" and \"copy-data\" can, and all others that are served are on"
)]
pub struct UnknownExtension {
    name: String,
}

/// Those that are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions {
    /// `hardlink@openssh.com`
    pub hardlink: bool,
    /// `copy-data`
    pub copy_data: bool,
}

impl Extensions {
    /// Switches one on.
    ///
    /// # Errors
    /// For the name of any other.
    pub fn switch_on(&mut self, name: &str) -> Result<(), UnknownExtension> {
        match name {
            "hardlink@openssh.com" => self.hardlink = true,
            "copy-data" => self.copy_data = true,
            other => {
                return Err(UnknownExtension {
                    name: other.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Those that are on here or there.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            hardlink: self.hardlink || other.hardlink,
            copy_data: self.copy_data || other.copy_data,
        }
    }

    /// Those that are on, with the version that is announced.
    pub fn announced(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        [
            (self.hardlink, ("hardlink@openssh.com", "1")),
            (self.copy_data, ("copy-data", "1")),
        ]
        .into_iter()
        .filter_map(|(on, extension)| on.then_some(extension))
    }

    /// The names of those that are on.
    pub fn names(self) -> Vec<&'static str> {
        self.announced().map(|(name, _)| name).collect()
    }
}
