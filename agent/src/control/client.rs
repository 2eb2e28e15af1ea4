//! The command line's side of the control interface.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{Failure, FailureReply};

/// A daemon to talk to.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer, or no good one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("connect to {}; is portcullis-agent running, and is this its socket (--socket)?", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("talk to the agent")]
    Http(#[from] hyper::Error),
    #[error("make the request")]
    Request(#[from] hyper::http::Error),
    #[error("read the agent's answer")]
    Answer(#[from] serde_json::Error),
    #[error(transparent)]
    Refused(#[from] Failure),
}

/// One request.
#[derive(Debug)]
pub struct Call<'a> {
    pub method: Method,
    /// With its query.
    pub path: &'a str,
    pub body: Bytes,
    /// The revision that the lists must be at.
    pub if_revision: Option<u64>,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, path: &'a str, body: Bytes) -> Self {
        Self {
            method,
            path,
            body,
            if_revision: None,
        }
    }
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Asks for a resource.
    ///
    /// # Errors
    /// If there is no answer, or it is an error.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Call::new(Method::GET, path, Bytes::new())).await
    }

    /// Sends `body` and gives the answer.
    ///
    /// # Errors
    /// If there is no answer, or it is an error.
    pub async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body)?.into();
        self.call(Call::new(method, path, body)).await
    }

    /// Makes a call with what else belongs to it.
    ///
    /// # Errors
    /// If there is no answer, or it is an error.
    pub async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ClientError> {
        let response = self.request(call).await?;
        let body = response.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice(&body)?)
    }

    /// Calls `line` with each line of a stream until it ends.
    ///
    /// # Errors
    /// If there is no stream, it breaks, or `line` gives an error.
    pub async fn lines<E>(
        &self,
        path: &str,
        mut line: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<Result<(), E>, ClientError> {
        let mut body = self
            .request(Call::new(Method::GET, path, Bytes::new()))
            .await?
            .into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let whole: Vec<u8> = rest.drain(..=end).collect();
                if let Err(error) = line(String::from_utf8_lossy(&whole).trim_end()) {
                    return Ok(Err(error));
                }
            }
        }
        Ok(Ok(()))
    }

    async fn request(&self, call: Call<'_>) -> Result<Response<Incoming>, ClientError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Connect {
                    socket: self.socket.clone(),
                    source,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; its errors reach the sender too.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::HOST, "portcullis-agent")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(revision) = call.if_revision {
            request = request.header(header::IF_MATCH, format!("\"{revision}\""));
        }
        let request = request.body(Full::new(call.body))?;
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let body = response.into_body().collect().await?.to_bytes();
        let FailureReply { error } = serde_json::from_slice(&body)?;
        Err(error.into())
    }
}
