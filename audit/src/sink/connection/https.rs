//! `POST` of lines to a collector that answers when it has them.

use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::{Receipt, SendError, syslog::objection};
use crate::sink::{Signing, Token, Url};

/// An idle connection is closed before the collector does it.
const IDLE: Duration = Duration::from_secs(15);
/// Longest answer that is read.
const ANSWER_MAX: usize = 64 * 1024;
/// Longest part of it that an error repeats.
const SHOWN: usize = 200;

pub(in crate::sink) struct Poster {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: hyper::Uri,
    token: Option<HeaderValue>,
    content_type: HeaderValue,
    signing: Option<Signing>,
    limit: Duration,
}

impl Poster {
    pub(super) fn new(
        url: &Url,
        tls: &Arc<ClientConfig>,
        token: Option<&Token>,
        signing: Option<Signing>,
        content_type: &'static str,
        limit: Duration,
    ) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(limit));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(ClientConfig::clone(tls))
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(https);
        Self {
            client,
            uri: url.0.clone(),
            token: token.map(|token| token.0.clone()),
            content_type: HeaderValue::from_static(content_type),
            signing,
            limit,
        }
    }

    pub(super) async fn post(&self, body: &[u8]) -> Result<Receipt, SendError> {
        let address = || self.uri.to_string();
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        if let Some(signing) = &self.signing {
            let timestamp = chrono::Utc::now().timestamp().to_string();
            let signature = signing.sign(&timestamp, body);
            let signature = signature.and_then(|text| HeaderValue::from_str(&text).ok());
            if let (Some(signature), Ok(time)) = (signature, HeaderValue::from_str(&timestamp)) {
                headers.insert("x-portcullis-timestamp", time);
                headers.insert("x-portcullis-signature", signature);
            }
        }
        let exchange = async {
            let answer = self.client.request(request).await?;
            let status = answer.status();
            // Read to its end, so that the connection can be used again.
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            Ok::<_, hyper_util::client::legacy::Error>((status, body))
        };
        let (status, answer) = timeout(self.limit, exchange)
            .await
            .map_err(|_| SendError::Silent {
                address: address(),
                limit: self.limit,
            })?
            .map_err(|source| match certificate_error(&source) {
                Some(reason) => SendError::Certificate {
                    address: address(),
                    reason,
                },
                None => SendError::Post {
                    address: address(),
                    source,
                },
            })?;
        if status.is_success() {
            return Ok(Receipt::CERTAIN);
        }
        Err(refused(address(), status, &answer))
    }
}

fn refused(address: String, status: StatusCode, answer: &[u8]) -> SendError {
    let answer = String::from_utf8_lossy(answer);
    let end = answer.floor_char_boundary(SHOWN);
    SendError::Refused {
        address,
        status: status.as_u16(),
        answer: answer.get(..end).unwrap_or_default().to_owned(),
    }
}

/// Why the collector's certificate was not accepted, if that is what went wrong.
fn certificate_error(error: &hyper_util::client::legacy::Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(error) = cause {
        let tls = error.downcast_ref::<rustls::Error>().or_else(|| {
            error
                .downcast_ref::<std::io::Error>()?
                .get_ref()?
                .downcast_ref::<rustls::Error>()
        });
        if let Some(rustls::Error::InvalidCertificate(found)) = tls {
            return Some(objection(found));
        }
        cause = error.source();
    }
    None
}
