//! A mail for each alert, over a connection of its own.
//!
//! TLS is made here, as for the other sinks; what is said over it is lettre's.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use lettre::transport::smtp::{
    Error,
    authentication::{Credentials, Mechanism},
    client::{AsyncSmtpConnection, AsyncTokioStream},
    commands::{Data, Mail as MailFrom, Rcpt},
    extension::ClientId,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Receipt, SendError,
    syslog::{connect, judged},
};
use crate::sink::{Mail, Security, Tls};

/// Longest line of a server, and most lines of an answer, before TLS.
const LINE_BYTES: usize = 4096;
const LINES: usize = 100;

pub(in crate::sink) struct Mailer {
    mail: Mail,
    limit: Duration,
}

impl Mailer {
    pub(super) fn new(mail: Mail, limit: Duration) -> Self {
        Self { mail, limit }
    }

    /// Sends it to all whom the server takes it for; one of them is enough.
    pub(super) async fn send(&self, message: &[u8]) -> Result<Receipt, SendError> {
        let hello = ClientId::Domain(self.mail.from.domain().to_owned());
        let stream = self.stream(&hello).await?;
        let opening = AsyncSmtpConnection::connect_with_transport(stream, &hello);
        let mut smtp = self.within(opening).await?;
        if let Some(login) = &self.mail.login {
            let credentials = Credentials::new(login.user.clone(), login.password.clone());
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            self.within(smtp.auth(&mechanisms, &credentials)).await?;
        }
        let from = self.mail.from.0.email.clone();
        self.within(smtp.command(MailFrom::new(Some(from), Vec::new())))
            .await?;
        let mut is_taken = false;
        let mut refusal = None;
        for to in &self.mail.to {
            let address = to.0.email.clone();
            match self
                .within(smtp.command(Rcpt::new(address.clone(), Vec::new())))
                .await
            {
                Ok(_) => is_taken = true,
                Err(SendError::Smtp { source, .. }) if source.status().is_some() => {
                    tracing::warn!(server = self.address(), to = %address, error = %source, "no mail for one of several");
                    refusal = Some(source);
                }
                Err(error) => return Err(error),
            }
        }
        if let (false, Some(refusal)) = (is_taken, refusal) {
            return Err(self.failed(refusal));
        }
        self.within(smtp.command(Data)).await?;
        self.within(smtp.message(message)).await?;
        // It has the mail, whatever it says to this.
        let _ = timeout(self.limit, smtp.quit()).await;
        Ok(Receipt::CERTAIN)
    }

    /// A connection on which everything may be said.
    async fn stream(&self, hello: &ClientId) -> Result<Box<dyn AsyncTokioStream>, SendError> {
        let address = self.address();
        let connecting = connect(&self.mail.host, self.mail.port, &address);
        let mut tcp = timeout(self.limit, connecting)
            .await
            .map_err(|_| self.silent())??;
        match &self.mail.security {
            Security::None => Ok(Box::new(tcp)),
            Security::Implicit(tls) => self.encrypt(tcp, tls, b"").await,
            Security::StartTls(tls) => {
                timeout(self.limit, self.ask_for_tls(&mut tcp, hello))
                    .await
                    .map_err(|_| self.silent())??;
                // The server has greeted, and lettre waits for it.
                self.encrypt(tcp, tls, b"220 greeted before STARTTLS\r\n")
                    .await
            }
        }
    }

    /// Says nothing but the name, and nothing more to a server that can't protect it. What somebody slips in before TLS is never
    /// taken for what comes after: nothing is read ahead.
    async fn ask_for_tls(&self, tcp: &mut TcpStream, hello: &ClientId) -> Result<(), SendError> {
        self.answer(tcp, "220").await?;
        self.say(tcp, &format!("EHLO {hello}\r\n")).await?;
        let offers = self.answer(tcp, "250").await?;
        if !offers
            .iter()
            .any(|offer| offer.trim().eq_ignore_ascii_case("STARTTLS"))
        {
            return Err(SendError::NoStartTls {
                address: self.address(),
            });
        }
        self.say(tcp, "STARTTLS\r\n").await?;
        self.answer(tcp, "220").await?;
        Ok(())
    }

    async fn encrypt(
        &self,
        tcp: TcpStream,
        tls: &Tls,
        greeting: &'static [u8],
    ) -> Result<Box<dyn AsyncTokioStream>, SendError> {
        let connector = TlsConnector::from(tls.config.clone());
        let stream = timeout(self.limit, connector.connect(tls.server_name.clone(), tcp))
            .await
            .map_err(|_| self.silent())?
            .map_err(|error| judged(&self.address(), error, true))?;
        Ok(Box::new(Encrypted { greeting, stream }))
    }

    async fn say(&self, tcp: &mut TcpStream, line: &str) -> Result<(), SendError> {
        tcp.write_all(line.as_bytes())
            .await
            .map_err(|source| self.broken(source))
    }

    /// The texts of an answer with this code.
    async fn answer(&self, tcp: &mut TcpStream, code: &str) -> Result<Vec<String>, SendError> {
        let mut texts = Vec::new();
        while texts.len() < LINES {
            let mut line = Vec::new();
            while !line.ends_with(b"\n") && line.len() < LINE_BYTES {
                line.push(tcp.read_u8().await.map_err(|source| self.broken(source))?);
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            let Some(text) = line.strip_prefix(code) else {
                return Err(SendError::NotReady {
                    address: self.address(),
                    answer: line.chars().take(LINES).collect(),
                });
            };
            let is_last = !text.starts_with('-');
            texts.push(text.get(1..).unwrap_or_default().to_owned());
            if is_last {
                return Ok(texts);
            }
        }
        Err(SendError::NotReady {
            address: self.address(),
            answer: "an answer without end".to_owned(),
        })
    }

    async fn within<T>(
        &self,
        step: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, SendError> {
        timeout(self.limit, step)
            .await
            .map_err(|_| self.silent())?
            .map_err(|source| self.failed(source))
    }

    fn failed(&self, source: Error) -> SendError {
        SendError::Smtp {
            address: self.address(),
            source,
        }
    }

    fn broken(&self, source: io::Error) -> SendError {
        judged(&self.address(), source, false)
    }

    fn silent(&self) -> SendError {
        SendError::Silent {
            address: self.address(),
            limit: self.limit,
        }
    }

    fn address(&self) -> String {
        if self.mail.host.contains(':') {
            format!("[{}]:{}", self.mail.host, self.mail.port)
        } else {
            format!("{}:{}", self.mail.host, self.mail.port)
        }
    }
}

/// A TLS stream before which a text is read.
#[derive(Debug)]
struct Encrypted {
    greeting: &'static [u8],
    stream: TlsStream<TcpStream>,
}

impl AsyncTokioStream for Encrypted {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().0.peer_addr()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.greeting.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let (now, later) = self
            .greeting
            .split_at(self.greeting.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.greeting = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
