//! The commands, one exchange each.

use suppaftp::Status;

use super::{Connection, Transfer, from_octets, octets};
use crate::backend::ftp::{fault::Fault, location::Location};

impl Connection {
    /// The login directory.
    pub(in crate::backend::ftp) async fn login_directory(&mut self) -> Result<Vec<u8>, Fault> {
        let directory = ask!(self, "PWD", self.ftp.pwd())?;
        Ok(from_octets(&directory))
    }

    pub(in crate::backend::ftp) async fn change_directory(
        &mut self,
        path: &Location,
    ) -> Result<(), Fault> {
        ask!(self, "CWD", self.ftp.cwd(octets(path.as_bytes())))
    }

    pub(in crate::backend::ftp) async fn size(&mut self, path: &Location) -> Result<u64, Fault> {
        let size = ask!(self, "SIZE", self.ftp.size(octets(path.as_bytes())))?;
        Ok(size as u64)
    }

    /// Time of the last modification, seconds since 1970.
    pub(in crate::backend::ftp) async fn modified(
        &mut self,
        path: &Location,
    ) -> Result<u32, Fault> {
        let time = ask!(self, "MDTM", self.ftp.mdtm(octets(path.as_bytes())))?;
        u32::try_from(time.and_utc().timestamp()).map_err(|_| Fault::Garbled {
            command: "MDTM",
            answer: time.to_string(),
        })
    }

    /// False if the server does not undo the doubling of 0xFF that RFC 959 demands on the control connection: it would
    /// act on another name.
    pub(in crate::backend::ftp) fn takes_names_with_0xff(&self) -> bool {
        let greeting = self.ftp.get_welcome_msg().unwrap_or_default();
        !greeting.contains("vsFTPd")
    }

    /// True if listings come from MLSD, whose times are in UTC.
    pub(in crate::backend::ftp) fn lists_in_utc(&self) -> bool {
        self.announces("MLST") && !self.server.quirks.no_mlsd.is_known()
    }

    /// The line of facts that MLST answers.
    pub(in crate::backend::ftp) async fn facts(
        &mut self,
        path: &Location,
    ) -> Result<Vec<u8>, Fault> {
        let line = ask!(self, "MLST", self.ftp.mlst(Some(&octets(path.as_bytes()))))?;
        Ok(from_octets(&line))
    }

    pub(in crate::backend::ftp) async fn delete(&mut self, path: &Location) -> Result<(), Fault> {
        ask!(self, "DELE", self.ftp.rm(octets(path.as_bytes())))
    }

    pub(in crate::backend::ftp) async fn make_directory(
        &mut self,
        path: &Location,
    ) -> Result<(), Fault> {
        ask!(self, "MKD", self.ftp.mkdir(octets(path.as_bytes())))
    }

    pub(in crate::backend::ftp) async fn remove_directory(
        &mut self,
        path: &Location,
    ) -> Result<(), Fault> {
        ask!(self, "RMD", self.ftp.rmdir(octets(path.as_bytes())))
    }

    /// RNFR and RNTO. Whether an existing `to` is replaced is the server's choice.
    pub(in crate::backend::ftp) async fn rename(
        &mut self,
        from: &Location,
        to: &Location,
    ) -> Result<(), Fault> {
        let from = octets(from.as_bytes());
        ask!(
            self,
            "RNFR/RNTO",
            self.ftp.rename(from, octets(to.as_bytes()))
        )
    }

    /// `MFMT` (draft-somers-ftp-mfxx-04), or the `MDTM` with a time that vsftpd and others take.
    pub(in crate::backend::ftp) async fn set_modified(
        &mut self,
        path: &Location,
        time: u32,
    ) -> Result<(), Fault> {
        let time = chrono::DateTime::from_timestamp(i64::from(time), 0)
            .unwrap_or_default()
            .format("%Y%m%d%H%M%S");
        let path = octets(path.as_bytes());
        if self.announces("MFMT") {
            let command = format!("MFMT {time} {path}");
            ask!(
                self,
                "MFMT",
                self.ftp.custom_command(command, &[Status::File])
            )?;
        } else {
            let command = format!("MDTM {time} {path}");
            let taken = [
                Status::File,
                Status::RequestedFileActionOk,
                Status::CommandOk,
            ];
            ask!(
                self,
                "MDTM with a time",
                self.ftp.custom_command(command, &taken)
            )?;
        }
        Ok(())
    }

    pub(in crate::backend::ftp) async fn change_mode(
        &mut self,
        path: &Location,
        mode: u32,
    ) -> Result<(), Fault> {
        let command = format!("SITE CHMOD {:o} {}", mode & 0o777, octets(path.as_bytes()));
        let taken = [Status::CommandOk, Status::RequestedFileActionOk];
        ask!(self, "SITE CHMOD", self.ftp.custom_command(command, &taken))?;
        Ok(())
    }

    /// Opens an upload that leaves the first `offset` bytes of the file as they are; with none, it replaces the file.
    pub(in crate::backend::ftp) async fn store(
        &mut self,
        path: &Location,
        offset: u64,
    ) -> Result<Transfer, Fault> {
        let path = octets(path.as_bytes());
        self.restart_at(offset).await?;
        let stored = ask!(self, "STOR", self.ftp.put_with_stream(&path));
        let stored = if self.is_asked_again(&stored) {
            self.restart_at(offset).await?;
            ask!(self, "STOR", self.ftp.put_with_stream(&path))
        } else {
            stored
        };
        self.has_transfer = stored.is_ok();
        stored
    }

    /// Opens an upload that goes on at the file's end.
    pub(in crate::backend::ftp) async fn append(
        &mut self,
        path: &Location,
    ) -> Result<Transfer, Fault> {
        let path = octets(path.as_bytes());
        let opened = ask!(self, "APPE", self.ftp.append_with_stream(&path));
        let opened = if self.is_asked_again(&opened) {
            ask!(self, "APPE", self.ftp.append_with_stream(&path))
        } else {
            opened
        };
        self.has_transfer = opened.is_ok();
        opened
    }

    /// Whether uploads can begin elsewhere than at a file's beginning, as far as the server tells without one. REST stands for
    /// the command after it (RFC 959 section 4.1.3), and is taken back.
    pub(in crate::backend::ftp) async fn restarts_uploads(&mut self) -> Result<bool, Fault> {
        if self.announces("REST") {
            return Ok(true);
        }
        let taken = [Status::RequestFilePending];
        match ask!(self, "REST", self.ftp.custom_command("REST 1", &taken)) {
            Ok(_) => {
                ask!(self, "REST", self.ftp.custom_command("REST 0", &taken))?;
                Ok(true)
            }
            Err(fault) if fault.is_refusal() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Whether uploads can go on at a file's end.
    pub(in crate::backend::ftp) async fn appends(&mut self) -> Result<bool, Fault> {
        // A file name is missing, and a server that knows the command says so.
        match ask!(self, "APPE", self.ftp.custom_command("APPE", &[])) {
            Ok(_) => Ok(true),
            Err(fault) if fault.is_refusal() => Ok(!fault.is_unknown_command()),
            Err(fault) => Err(fault),
        }
    }

    /// Opens a download that begins at `offset`.
    pub(in crate::backend::ftp) async fn retrieve(
        &mut self,
        path: &Location,
        offset: u64,
    ) -> Result<Transfer, Fault> {
        let path = octets(path.as_bytes());
        self.restart_at(offset).await?;
        let opened = ask!(self, "RETR", self.ftp.retr_as_stream(&path));
        let opened = if self.is_asked_again(&opened) {
            self.restart_at(offset).await?;
            ask!(self, "RETR", self.ftp.retr_as_stream(&path))
        } else {
            opened
        };
        self.has_transfer = opened.is_ok();
        opened
    }

    /// REST goes out with the command that it belongs to.
    async fn restart_at(&mut self, offset: u64) -> Result<(), Fault> {
        let offset = usize::try_from(offset).map_err(|_| Fault::Garbled {
            command: "REST",
            answer: "offset beyond this machine's address space".to_owned(),
        })?;
        ask!(self, "REST", self.ftp.resume_transfer(offset))
    }
}
