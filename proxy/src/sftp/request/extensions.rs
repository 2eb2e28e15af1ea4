//! The extensions that the gateway serves: OpenSSH's (its PROTOCOL, section 4), `home-directory` and `copy-data`
//! (filexfer-extensions-00), and `check-file` (its section 3).

use super::{Body, Reason, fields::within_range};
use crate::{
    operation::{Check, DigestAlgorithm, HandleId, Operation},
    path::VirtualPath,
};

/// The smallest block of `check-file`, in bytes.
const MIN_BLOCK: u32 = 256;

impl Body {
    pub(super) fn extended(&mut self, new_handle: HandleId) -> Result<Operation, Reason> {
        self.name = "extended";
        let extension = self.fields.string()?;
        self.evidence = Some(extension.clone());
        Ok(match &extension[..] {
            b"posix-rename@openssh.com" => {
                self.name = "posix_rename";
                Operation::PosixRename {
                    from: self.path()?,
                    to: self.path()?,
                }
            }
            b"statvfs@openssh.com" => {
                self.name = "statvfs";
                Operation::Statvfs { path: self.path()? }
            }
            b"fstatvfs@openssh.com" => {
                self.name = "fstatvfs";
                Operation::Fstatvfs {
                    handle: self.handle()?,
                }
            }
            b"fsync@openssh.com" => {
                self.name = "fsync";
                Operation::Fsync {
                    handle: self.handle()?,
                }
            }
            b"lsetstat@openssh.com" => {
                self.name = "lsetstat";
                Operation::Lsetstat {
                    path: self.path()?,
                    attributes: self.attributes()?,
                }
            }
            b"limits@openssh.com" => {
                self.name = "limits";
                Operation::Limits
            }
            b"expand-path@openssh.com" => {
                self.name = "expand_path";
                let raw = self.fields.string()?;
                self.evidence = Some(raw.clone());
                let below_home = match raw.strip_prefix(b"~") {
                    None => &raw,
                    Some(rest) if rest.is_empty() || rest.starts_with(b"/") => rest,
                    Some(_) => return Err(Reason::ForeignHome),
                };
                Operation::Realpath {
                    path: VirtualPath::clean(below_home)?,
                }
            }
            b"home-directory" => {
                self.name = "home_directory";
                // Everyone's home is the root of what they see, whatever name they ask for.
                let _user = self.fields.string()?;
                Operation::HomeDirectory
            }
            b"users-groups-by-id@openssh.com" => {
                self.name = "users_groups_by_id";
                Operation::UsersGroupsById {
                    users: self.numbers()?,
                    groups: self.numbers()?,
                }
            }
            // The second is what paramiko sends: the draft's name of the reply.
            b"check-file-handle" | b"check-file" => {
                self.name = "check_file";
                Operation::CheckFile {
                    handle: self.handle()?,
                    check: self.check()?,
                }
            }
            b"check-file-name" => {
                self.name = "check_file_name";
                Operation::CheckFileName {
                    path: self.path()?,
                    handle: new_handle,
                    check: self.check()?,
                }
            }
            b"hardlink@openssh.com" => {
                self.name = "hardlink";
                if !self.extensions.hardlink {
                    return Err(Reason::DisabledExtension);
                }
                Operation::Hardlink {
                    from: self.path()?,
                    to: self.path()?,
                }
            }
            b"copy-data" => {
                self.name = "copy_data";
                if !self.extensions.copy_data {
                    return Err(Reason::DisabledExtension);
                }
                self.copy_data()?
            }
            _ => return Err(Reason::UnknownExtension),
        })
    }

    fn check(&mut self) -> Result<Check, Reason> {
        let list = self.fields.string()?;
        // The first that we compute, in the client's order.
        let algorithm = list
            .split(|&byte| byte == b',')
            .find_map(|wanted| {
                DigestAlgorithm::ALL
                    .into_iter()
                    .find(|algorithm| algorithm.name().as_bytes() == wanted)
            })
            .ok_or_else(|| {
                self.evidence = Some(list);
                Reason::DigestAlgorithm
            })?;
        let offset = self.fields.long()?;
        let length = self.length(offset)?;
        let block_size = match self.fields.number()? {
            0 => None,
            size if size < MIN_BLOCK => return Err(Reason::BlockSize { size }),
            size => Some(size),
        };
        Ok(Check {
            algorithm,
            offset,
            length,
            block_size,
        })
    }

    fn copy_data(&mut self) -> Result<Operation, Reason> {
        let source = self.handle()?;
        let offset = self.fields.long()?;
        let length = self.length(offset)?;
        let target = self.handle()?;
        let target_offset = self.fields.long()?;
        within_range(target_offset, length.unwrap_or(0))?;
        Ok(Operation::CopyData {
            source,
            offset,
            length,
            target,
            target_offset,
        })
    }

    /// A length of which 0 means all up to the end.
    fn length(&mut self, offset: u64) -> Result<Option<u64>, Reason> {
        let length = self.fields.long()?;
        within_range(offset, length)?;
        Ok((length > 0).then_some(length))
    }
}
