//! Listings: commands whose data connection carries lines.

use std::{io, time::Instant};

use suppaftp::Status;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{Connection, Transfer, lost, octets, within};
use crate::backend::{
    ErrorKind,
    ftp::{fault::Fault, location::Location},
};

/// Most bytes of one listing.
const LISTING_BYTES: usize = 64 * 1024 * 1024;
/// Longest line that is looked at. File systems end names at 255 bytes.
const LINE_BYTES: usize = 16 * 1024;
/// A listing may take so many times as long as one answer.
const LISTING_DEADLINES: u32 = 20;

/// Takes a listing line by line.
pub(in crate::backend::ftp) trait TakeLines: Send {
    /// Takes a line without its line break; `None` stands for one that is too long.
    ///
    /// # Errors
    /// What ends the listing.
    fn take(&mut self, line: Option<&[u8]>) -> Result<(), Fault>;
}

impl Connection {
    /// MLSD: one line of facts for each name.
    pub(in crate::backend::ftp) async fn machine_listing(
        &mut self,
        path: &Location,
        taker: &mut dyn TakeLines,
    ) -> Result<(), Fault> {
        let command = format!("MLSD {}", octets(path.as_bytes()));
        self.lines("MLSD", &command, taker).await
    }

    /// LIST of the current directory: a path as argument would be taken for a pattern or for options by some servers.
    pub(in crate::backend::ftp) async fn listing(
        &mut self,
        hidden_too: bool,
        taker: &mut dyn TakeLines,
    ) -> Result<(), Fault> {
        let command = if hidden_too { "LIST -a" } else { "LIST" };
        self.lines("LIST", command, taker).await
    }

    /// LIST of one file: a line, on most servers.
    pub(in crate::backend::ftp) async fn listing_of_file(
        &mut self,
        path: &Location,
        taker: &mut dyn TakeLines,
    ) -> Result<(), Fault> {
        let command = format!("LIST {}", octets(path.as_bytes()));
        self.lines("LIST", &command, taker).await
    }

    async fn lines(
        &mut self,
        name: &'static str,
        command: &str,
        taker: &mut dyn TakeLines,
    ) -> Result<(), Fault> {
        const OPENING: [Status; 2] = [Status::AboutToSend, Status::AlreadyOpen];
        let mut opened = self.data_command(name, command, &OPENING).await;
        if self.is_asked_again(&opened) {
            opened = self.data_command(name, command, &OPENING).await;
        }
        let mut reader = BufReader::with_capacity(64 * 1024, opened?);
        self.in_step = false;
        self.read_lines(name, &mut reader, taker).await?;
        self.finish(name, reader.into_inner()).await
    }

    async fn read_lines(
        &self,
        name: &'static str,
        reader: &mut BufReader<Transfer>,
        taker: &mut dyn TakeLines,
    ) -> Result<(), Fault> {
        let timeout = self.server.settings.timeout;
        let deadline = Instant::now() + timeout * LISTING_DEADLINES;
        let mut room = LISTING_BYTES;
        let mut line = Vec::new();
        let mut is_overlong = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::judged(
                    ErrorKind::TimedOut,
                    format!(
                        "the listing was not complete after {} s",
                        (timeout * LISTING_DEADLINES).as_secs()
                    ),
                ));
            }
            let available = match within(timeout.min(left), reader.fill_buf()).await {
                Ok(available) => available,
                // Several servers close the socket without TLS' farewell; the reply says whether the listing is whole.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => &[],
                Err(error) => return Err(lost(name, &error)),
            };
            if available.is_empty() {
                break;
            }
            let end = available.iter().position(|&byte| byte == b'\n');
            let count = end.map_or(available.len(), |end| end + 1);
            let Some(less) = room.checked_sub(count) else {
                return Err(too_long(name, format!("{LISTING_BYTES} bytes")));
            };
            room = less;
            is_overlong |= line.len() + count > LINE_BYTES;
            if is_overlong {
                line.clear();
            } else {
                line.extend_from_slice(available.get(..count).unwrap_or_default());
            }
            reader.consume(count);
            if end.is_some() {
                taker.take((!is_overlong).then(|| without_break(&line)))?;
                line.clear();
                is_overlong = false;
            }
        }
        if !line.is_empty() || is_overlong {
            taker.take((!is_overlong).then(|| without_break(&line)))?;
        }
        Ok(())
    }

    async fn data_command(
        &mut self,
        name: &'static str,
        command: &str,
        opening: &[Status],
    ) -> Result<Transfer, Fault> {
        ask!(self, name, self.ftp.custom_data_command(command, opening))
            .map(|(_, transfer)| transfer)
    }
}

/// The fault of a listing that goes beyond `limit`.
pub(in crate::backend::ftp) fn too_long(command: &'static str, limit: String) -> Fault {
    Fault::Garbled {
        command,
        answer: format!("a listing of more than {limit}"),
    }
}

fn without_break(line: &[u8]) -> &[u8] {
    let mut line = line;
    while let [shorter @ .., b'\r' | b'\n'] = line {
        line = shorter;
    }
    line
}
