//! The one thing that a connection with an enrolment token may do: a terminal on which the new secret is shown, and two of
//! its codes are asked for.

use std::sync::Arc;

use russh::{Channel, ChannelId, ChannelMsg, server::Msg};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{CloseReason, FAREWELL, Notice};
use crate::{
    auth::{
        attempt::enrolment::{Enrolment, Next},
        enrolment::Shown,
    },
    qr,
    ssh::stream::Meter,
};

/// Longest line that is looked at, in bytes; a code has six digits.
const LINE_MAX: usize = 16;

/// How far the one channel of an enrolment is, as the callbacks see it. [`serve`] sees the same messages.
#[derive(Debug)]
pub(in crate::ssh) struct Terminal {
    /// Taken by the channel.
    enrolment: Option<Enrolment>,
    channel: Option<ChannelId>,
    has_pty: bool,
    is_started: bool,
}

impl Terminal {
    pub(super) fn new(enrolment: Enrolment) -> Self {
        Self {
            enrolment: Some(enrolment),
            channel: None,
            has_pty: false,
            is_started: false,
        }
    }

    /// The enrolment for the first channel that is opened; `None` for any other.
    pub(super) fn open(&mut self, channel: ChannelId) -> Option<Enrolment> {
        let enrolment = self.enrolment.take()?;
        self.channel = Some(channel);
        Some(enrolment)
    }

    /// True if the request for a terminal is granted.
    pub(super) fn pty(&mut self, channel: ChannelId) -> bool {
        let granted = self.channel == Some(channel) && !self.has_pty && !self.is_started;
        self.has_pty |= granted;
        granted
    }

    /// True if the request for a shell starts the dialogue.
    pub(super) fn shell(&mut self, channel: ChannelId) -> bool {
        let granted = self.channel == Some(channel) && self.has_pty && !self.is_started;
        self.is_started |= granted;
        granted
    }

    /// True if the terminal may say that its size changed.
    pub(super) fn window_change(&self, channel: ChannelId) -> bool {
        self.channel == Some(channel) && self.has_pty
    }
}

/// Waits for the terminal, leads the dialogue, and ends the connection.
pub(super) async fn serve(
    mut channel: Channel<Msg>,
    mut enrolment: Enrolment,
    meter: Arc<Meter>,
    notices: mpsc::Sender<Notice>,
    end: CancellationToken,
) {
    let dialogue = async {
        wait_for_shell(&mut channel).await?;
        meter.has_room().await;
        talk(&mut channel, &mut enrolment).await
    };
    let reason = match end.run_until_cancelled(dialogue).await {
        None => return,
        Some(Ok(reason)) => reason,
        Some(Err(Gone)) => CloseReason::Client,
    };
    // Not waited for: where they do not fit, the connection's task is ending the connection already.
    let _ = notices.try_send(Notice::Done(reason));
    let status = u32::from(reason != CloseReason::Enrolled);
    let farewell = async {
        channel.exit_status(status).await?;
        channel.eof().await?;
        channel.close().await?;
        // It shows the last line and leaves. A disconnection that comes before that would hide both.
        while !matches!(channel.wait().await, Some(ChannelMsg::Close) | None) {}
        Ok::<_, russh::Error>(())
    };
    let _ = end
        .run_until_cancelled(time::timeout(FAREWELL, farewell))
        .await;
    let _ = notices.try_send(Notice::End(reason));
}

/// The client closed the channel, or is gone.
#[derive(Debug)]
struct Gone;

impl From<russh::Error> for Gone {
    fn from(_: russh::Error) -> Self {
        Self
    }
}

async fn wait_for_shell(channel: &mut Channel<Msg>) -> Result<(), Gone> {
    let mut has_pty = false;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::RequestPty { .. }) => has_pty = true,
            Some(ChannelMsg::RequestShell { .. }) if has_pty => return Ok(()),
            Some(ChannelMsg::Close) | None => return Err(Gone),
            Some(_) => {}
        }
    }
}

async fn talk(channel: &mut Channel<Msg>, enrolment: &mut Enrolment) -> Result<CloseReason, Gone> {
    let Some(introduction) = introduction(enrolment) else {
        return Ok(CloseReason::EnrolmentFailed);
    };
    say(channel, &introduction).await?;
    let mut lines = Lines::default();
    let mut prompt = FIRST;
    loop {
        say(channel, prompt).await?;
        let Some(line) = lines.next(channel).await? else {
            return Ok(CloseReason::Client);
        };
        say(channel, "\n").await?;
        match enrolment.code(&line).await {
            Next::Ask(shown) => {
                say(channel, answer(shown)).await?;
                prompt = match shown {
                    Shown::First | Shown::Repeated | Shown::OutOfTurn => SECOND,
                    Shown::Wrong | Shown::Both { .. } | Shown::TooMany => AGAIN,
                };
            }
            Next::Done => {
                say(
                    channel,
                    "The authenticator is active. Log in again, with its codes.\n",
                )
                .await?;
                return Ok(CloseReason::Enrolled);
            }
            Next::Failed(_) => {
                say(
                    channel,
                    "Not enrolled: nothing was changed. Ask your administrator for a new token.\n",
                )
                .await?;
                return Ok(CloseReason::EnrolmentFailed);
            }
        }
    }
}

const FIRST: &str = "Code that the app shows: ";
const SECOND: &str = "Next code, once the app shows another: ";
const AGAIN: &str = "Code: ";

fn introduction(enrolment: &Enrolment) -> Option<Zeroizing<String>> {
    let uri = enrolment.uri();
    let drawing = match qr::draw(&uri) {
        Ok(drawing) => drawing,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an enrolment ends"
            );
            return None;
        }
    };
    Some(Zeroizing::new(format!(
        "\nNew authenticator of {}: scan this, or type the secret into an app.\n\n{}\n\n{}\nsecret: {}\n\n\
         It is not shown again. Two codes, one after the other, make it active.\n\n",
        enrolment.user().name(),
        *drawing,
        *uri,
        *enrolment.base32(),
    )))
}

fn answer(shown: Shown) -> &'static str {
    match shown {
        Shown::First | Shown::Both { .. } => "",
        Shown::Repeated => "That is the same code again.\n",
        Shown::OutOfTurn => {
            "That code does not follow the one before; the next one has to follow it.\n"
        }
        Shown::Wrong | Shown::TooMany => {
            "That is not a code of this authenticator. Is the clock of the device right?\n"
        }
    }
}

/// The terminal is raw: the client's line endings, echo and editing are ours.
async fn say(channel: &Channel<Msg>, text: &str) -> Result<(), Gone> {
    let raw = text.replace('\n', "\r\n").into_bytes();
    Ok(channel.data_bytes(raw).await?)
}

/// Lines as they are typed.
#[derive(Debug, Default)]
struct Lines {
    /// Bytes that came after the last line.
    ahead: Zeroizing<Vec<u8>>,
    /// The last line ended with CR: an LF that follows belongs to it.
    after_return: bool,
}

impl Lines {
    /// The next line; `None` when the user gives up with Ctrl-C or Ctrl-D, or the input ends.
    async fn next(
        &mut self,
        channel: &mut Channel<Msg>,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Gone> {
        let mut line = Zeroizing::new(Vec::with_capacity(LINE_MAX));
        loop {
            while let Some(byte) = self.take() {
                match typed(byte, &mut line) {
                    Typed::End => return Ok(Some(line)),
                    Typed::GiveUp => return Ok(None),
                    Typed::Echo(echo) => say(channel, echo).await?,
                    Typed::Nothing => {}
                }
            }
            match channel.wait().await {
                Some(ChannelMsg::Data { data }) => self.ahead.extend(data.iter().rev()),
                Some(ChannelMsg::Eof) => return Ok(None),
                Some(ChannelMsg::Close) | None => return Err(Gone),
                Some(_) => {}
            }
        }
    }

    /// The next byte that was typed, without the LF of a CR LF. The bytes are kept in reverse.
    fn take(&mut self) -> Option<u8> {
        loop {
            let byte = self.ahead.pop()?;
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            if !(after_return && byte == b'\n') {
                return Some(byte);
            }
        }
    }
}

/// What a byte does to the line.
#[derive(Debug, PartialEq, Eq)]
enum Typed {
    End,
    GiveUp,
    Echo(&'static str),
    Nothing,
}

fn typed(byte: u8, line: &mut Zeroizing<Vec<u8>>) -> Typed {
    match byte {
        b'\r' | b'\n' => Typed::End,
        0x03 | 0x04 => Typed::GiveUp,
        0x08 | 0x7f => match line.pop() {
            Some(_) => Typed::Echo("\u{8} \u{8}"),
            None => Typed::Nothing,
        },
        b' '..=b'~' if line.len() < LINE_MAX => {
            line.push(byte);
            // A code is good for a minute, and others may look on.
            Typed::Echo("*")
        }
        _ => Typed::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that come out of what is typed, and what is echoed.
    fn type_all(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, String) {
        let (mut lines, mut echoed) = (Lines::default(), String::new());
        let (mut ended, mut line) = (Vec::new(), Zeroizing::new(Vec::new()));
        for piece in pieces {
            lines.ahead.extend(piece.iter().rev());
            while let Some(byte) = lines.take() {
                match typed(byte, &mut line) {
                    Typed::End => ended.push(std::mem::take(&mut *line)),
                    Typed::GiveUp => ended.push(b"given up".to_vec()),
                    Typed::Echo(echo) => echoed.push_str(echo),
                    Typed::Nothing => {}
                }
            }
        }
        (ended, echoed)
    }

    #[test]
    fn a_line_ends_with_return_line_feed_or_both_and_shows_no_digit() {
        for input in ["123456\r", "123456\n", "123456\r\n"] {
            let (lines, echoed) = type_all(&[input.as_bytes(), b"7\r"]);
            assert_eq!(lines, [b"123456".to_vec(), b"7".to_vec()], "{input:?}");
            assert_eq!(echoed, "*******");
        }
        let (lines, _) = type_all(&[b"1\r", b"\n2\n", b"\n"]);
        assert_eq!(lines, [b"1".to_vec(), b"2".to_vec(), b"".to_vec()]);
    }

    #[test]
    fn what_is_erased_or_too_long_or_no_text_does_not_count() {
        let (lines, echoed) = type_all(&[b"\x7f12\x083\x1b\xff\r"]);
        assert_eq!(lines, [b"13".to_vec()]);
        assert_eq!(echoed, "**\u{8} \u{8}*");
        let (lines, _) = type_all(&[&[b'1'; 1000], b"\r"]);
        assert_eq!(lines, [vec![b'1'; LINE_MAX]]);
    }

    #[test]
    fn ctrl_c_and_ctrl_d_give_up() {
        assert_eq!(typed(0x03, &mut Zeroizing::default()), Typed::GiveUp);
        assert_eq!(typed(0x04, &mut Zeroizing::default()), Typed::GiveUp);
    }
}
