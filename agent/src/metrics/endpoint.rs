//! `GET /metrics` for Prometheus.

use std::net::SocketAddr;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use crate::engine::Request;

#[derive(Clone)]
struct Exporter {
    handle: PrometheusHandle,
    requests: mpsc::Sender<Request>,
}

/// Makes this process's metrics go to what is returned.
///
/// # Errors
/// If they go elsewhere already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    super::describe();
    Ok(handle)
}

/// Binds the endpoint.
///
/// # Errors
/// If the address can't be had.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop`.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    handle: PrometheusHandle,
    requests: mpsc::Sender<Request>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/metrics", get(render))
        .with_state(Exporter { handle, requests });
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// The counters are read from the kernel for each scrape.
async fn render(State(exporter): State<Exporter>) -> Result<String, StatusCode> {
    let (reply, answer) = oneshot::channel();
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    exporter
        .requests
        .send(Request::Status { reply })
        .await
        .map_err(|_| unavailable)?;
    match answer.await {
        Ok(Ok(_)) => Ok(exporter.handle.render()),
        Ok(Err(_)) | Err(_) => Err(unavailable),
    }
}
