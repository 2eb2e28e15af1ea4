//! Every metric: name, labels and help text. The endpoint is for Prometheus, on loopback.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, http::header, routing::get};
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use portcullis_audit::sink::Reading;
use portcullis_journal::Journal;
use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;

use crate::backend::BackendError;

const CONNECTIONS: &str = "portcullis_proxy_connections";
const CONNECTIONS_REFUSED: &str = "portcullis_proxy_connections_refused_total";
const CONNECTIONS_CLOSED: &str = "portcullis_proxy_connections_closed_total";
const AUTHENTICATION: &str = "portcullis_proxy_authentication_total";
const CHANNELS_REFUSED: &str = "portcullis_proxy_channels_refused_total";
const OPERATIONS: &str = "portcullis_proxy_operations_total";
const FAILURES: &str = "portcullis_proxy_failures_total";
const BACKEND_HEALTHY: &str = "portcullis_proxy_backend_healthy";
const JOURNAL_HEALTHY: &str = "portcullis_proxy_journal_healthy";
const JOURNAL_SOUND: &str = "portcullis_proxy_journal_sound";
const JOURNAL_DISK: &str = "portcullis_proxy_journal_disk_used_ratio";
const JOURNAL_RECORDS: &str = "portcullis_proxy_journal_records";
const JOURNAL_APPEND: &str = "portcullis_proxy_journal_append_seconds";
const MANIFESTS_WRITTEN: &str = "portcullis_proxy_manifests_written_total";
const MANIFESTS_FAILED: &str = "portcullis_proxy_manifests_failed_total";
const MANIFESTS_WAITING: &str = "portcullis_proxy_manifests_waiting";
const RELOADS: &str = "portcullis_proxy_reloads_total";
const BANS: &str = "portcullis_proxy_bans_total";
const ALLOWLIST_OFFERED: &str = "portcullis_proxy_allowlist_offered";
const THROTTLES_STORED: &str = "portcullis_proxy_throttles_stored";
const BREAK_GLASS: &str = "portcullis_proxy_break_glass_total";
const SINK_LAG_RECORDS: &str = "portcullis_proxy_sink_lag_records";
const SINK_LAG_SECONDS: &str = "portcullis_proxy_sink_lag_seconds";
const SINK_CONNECTED: &str = "portcullis_proxy_sink_connected";
const SINK_SENT: &str = "portcullis_proxy_sink_sent_total";
const SINK_LOST: &str = "portcullis_proxy_sink_lost_total";
const SINK_RECONNECTS: &str = "portcullis_proxy_sink_reconnects_total";
const WITNESS_RECORDS: &str = "portcullis_proxy_witness_records";
const WITNESS_LAG_RECORDS: &str = "portcullis_proxy_witness_lag_records";
const WITNESS_LAG_SECONDS: &str = "portcullis_proxy_witness_lag_seconds";
const WITNESS_HEALTHY: &str = "portcullis_proxy_witness_healthy";
const WITNESS_ALARM: &str = "portcullis_proxy_witness_alarm";
const COSIGNED: &str = "portcullis_witness_cosigned_total";
const COSIGNED_RECORDS: &str = "portcullis_witness_log_records";
const COSIGNING_REFUSED: &str = "portcullis_witness_refused_total";
const ALERTS: &str = "portcullis_proxy_alerts_total";
const AT_REST_FINDINGS: &str = "portcullis_proxy_at_rest_findings";
const AT_REST_SOUND: &str = "portcullis_proxy_at_rest_sound";
const AT_REST_FILES: &str = "portcullis_proxy_at_rest_files";
const AT_REST_VERIFIED: &str = "portcullis_proxy_at_rest_verified_bytes_total";
const AT_REST_ROTATION: &str = "portcullis_proxy_at_rest_rotation_files";
const FOREIGN_NAMES: &str = "portcullis_proxy_foreign_names_total";
const AT_REST_MIGRATION: &str = "portcullis_proxy_at_rest_migration_files";

/// Upper bounds of the buckets of an append, seconds: a group commit on an SSD is 1-5 ms, a disk that hangs 1 s.
const APPEND_BUCKETS: [f64; 9] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];
/// How often the journal's state is looked at.
const REFRESH: Duration = Duration::from_secs(5);

/// Where in its life a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Unauthenticated,
    Enrolling,
    Authenticated,
}

impl Stage {
    fn label(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Enrolling => "enrolling",
            Self::Authenticated => "authenticated",
        }
    }
}

/// Counts a connection at one stage of its life for as long as it lives.
#[derive(Debug)]
pub struct Present(Stage);

impl Present {
    pub fn at(stage: Stage) -> Self {
        gauge!(CONNECTIONS, "stage" => stage.label()).increment(1);
        Self(stage)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        gauge!(CONNECTIONS, "stage" => self.0.label()).decrement(1);
    }
}

/// A connection was turned away before the first byte.
pub fn connection_refused(reason: &'static str) {
    counter!(CONNECTIONS_REFUSED, "reason" => reason).increment(1);
}

/// A connection ended.
pub fn connection_closed(reason: &'static str) {
    counter!(CONNECTIONS_CLOSED, "reason" => reason).increment(1);
}

/// An authentication request was answered.
pub fn authentication(method: &'static str, result: &'static str) {
    counter!(AUTHENTICATION, "method" => method, "result" => result).increment(1);
}

/// A channel or a request on one was refused.
pub fn channel_refused(request: &'static str) {
    counter!(CHANNELS_REFUSED, "request" => request).increment(1);
}

/// An SFTP operation ended.
pub fn operation(kind: &'static str, outcome: &'static str) {
    counter!(OPERATIONS, "operation" => kind, "outcome" => outcome).increment(1);
}

/// A permitted operation failed.
pub fn failure(error: &BackendError) {
    let (_, retry) = error.kind.consequence();
    counter!(
        FAILURES,
        "kind" => error.kind.code(),
        "origin" => error.origin.code(),
        "retry" => retry.label()
    )
    .increment(1);
}

/// What the last probe of a member of a failover backend found.
pub fn backend_health(backend: &str, member: &str, is_healthy: bool) {
    let labels = [
        ("backend", backend.to_owned()),
        ("member", member.to_owned()),
    ];
    gauge!(BACKEND_HEALTHY, &labels).set(if is_healthy { 1.0 } else { 0.0 });
}

/// So much of the journal's disk is used.
pub fn journal_disk(used_percent: f64) {
    gauge!(JOURNAL_DISK).set(used_percent / 100.0);
}

/// What the last check of the whole journal found.
pub fn journal_sound(is_sound: bool) {
    gauge!(JOURNAL_SOUND).set(if is_sound { 1.0 } else { 0.0 });
}

/// Stored files that the last look found so.
#[expect(clippy::cast_precision_loss, reason = "a number of files")]
pub fn at_rest_findings(finding: &'static str, files: u64) {
    gauge!(AT_REST_FINDINGS, "finding" => finding).set(files as f64);
}

/// What the last look at stored files came to; `bytes` were read.
#[expect(clippy::cast_precision_loss, reason = "a number of files")]
pub fn at_rest_verified(is_sound: bool, files: u64, unverified: u64, bytes: u64) {
    gauge!(AT_REST_SOUND).set(if is_sound { 1.0 } else { 0.0 });
    gauge!(AT_REST_FILES, "result" => "verified").set(files.saturating_sub(unverified) as f64);
    gauge!(AT_REST_FILES, "result" => "unverified").set(unverified as f64);
    counter!(AT_REST_VERIFIED).increment(bytes);
}

/// What the last rotation of keys came to, in files by result.
pub fn at_rest_rotation(files: impl IntoIterator<Item = (&'static str, u64)>) {
    at_rest_work(AT_REST_ROTATION, files);
}

/// What the last encryption of files that were not came to, likewise.
pub fn at_rest_migration(files: impl IntoIterator<Item = (&'static str, u64)>) {
    at_rest_work(AT_REST_MIGRATION, files);
}

#[expect(clippy::cast_precision_loss, reason = "a number of files")]
fn at_rest_work(name: &'static str, files: impl IntoIterator<Item = (&'static str, u64)>) {
    for (result, files) in files {
        gauge!(name, "result" => result).set(files as f64);
    }
}

/// Listings of a backend with encrypted names had so many that are none.
pub fn foreign_names(backend: &str, names: usize) {
    counter!(FOREIGN_NAMES, "backend" => backend.to_owned()).increment(names as u64);
}

/// A manifest was written, or could not be.
pub fn manifest(is_written: bool) {
    let name = if is_written {
        MANIFESTS_WRITTEN
    } else {
        MANIFESTS_FAILED
    };
    counter!(name).increment(1);
}

/// Manifests that could not be written so far.
pub fn manifests_waiting(manifests: f64) {
    gauge!(MANIFESTS_WAITING).set(manifests);
}

/// A record became durable after so long.
pub fn journal_append(waited: Duration) {
    histogram!(JOURNAL_APPEND).record(waited.as_secs_f64());
}

/// A break-glass account was opened, closed, reviewed or sealed at its end, or someone was refused as its custodian.
pub fn break_glass(action: &str) {
    counter!(BREAK_GLASS, "action" => action.to_owned()).increment(1);
}

/// The agent was asked for a ban.
pub fn ban_asked(outcome: &'static str) {
    counter!(BANS, "outcome" => outcome).increment(1);
}

/// The agent took the networks of the accounts, or did not.
pub fn allowlist_offered(is_taken: bool) {
    gauge!(ALLOWLIST_OFFERED).set(if is_taken { 1.0 } else { 0.0 });
}

/// How far a sink is.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53 records, which no disk holds"
)]
pub fn sink(name: &str, reading: Reading) {
    let labels = [("sink", name.to_owned())];
    gauge!(SINK_LAG_RECORDS, &labels).set(reading.lag_records as f64);
    gauge!(SINK_LAG_SECONDS, &labels).set(reading.lag_seconds as f64);
    gauge!(SINK_CONNECTED, &labels).set(if reading.is_connected { 1.0 } else { 0.0 });
    counter!(SINK_SENT, &labels).absolute(reading.sent);
    counter!(SINK_LOST, &labels).absolute(reading.lost);
    counter!(SINK_RECONNECTS, &labels).absolute(reading.reconnects);
}

/// How far a witness of the journal is.
#[derive(Debug, Clone, Copy)]
pub struct WitnessReading {
    /// Records that it has cosigned.
    pub records: u64,
    /// Durable records beyond.
    pub lag_records: u64,
    /// For how long a signed head has waited for it.
    pub lag: Duration,
    pub is_healthy: bool,
    /// It says that the log was cut or rewritten.
    pub is_alarm: bool,
}

/// How far a witness of the journal is.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53 records, which no disk holds"
)]
pub fn witness(name: &str, reading: WitnessReading) {
    let labels = [("witness", name.to_owned())];
    gauge!(WITNESS_RECORDS, &labels).set(reading.records as f64);
    gauge!(WITNESS_LAG_RECORDS, &labels).set(reading.lag_records as f64);
    gauge!(WITNESS_LAG_SECONDS, &labels).set(reading.lag.as_secs_f64());
    gauge!(WITNESS_HEALTHY, &labels).set(if reading.is_healthy { 1.0 } else { 0.0 });
    gauge!(WITNESS_ALARM, &labels).set(if reading.is_alarm { 1.0 } else { 0.0 });
}

/// A witness cosigned a head.
pub fn cosigned() {
    counter!(COSIGNED).increment(1);
}

/// So many records of a log are cosigned.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53 records, which no disk holds"
)]
pub fn witnessed(origin: &str, records: u64) {
    gauge!(COSIGNED_RECORDS, "log" => origin.to_owned()).set(records as f64);
}

/// A witness did not cosign.
pub fn cosigning_refused(reason: &'static str) {
    counter!(COSIGNING_REFUSED, "reason" => reason).increment(1);
}

/// An alert of this kind was put on record.
pub fn alert(kind: &'static str) {
    counter!(ALERTS, "kind" => kind).increment(1);
}

/// Counts of failures were written, or could not be.
pub fn throttles_stored(is_stored: bool) {
    gauge!(THROTTLES_STORED).set(if is_stored { 1.0 } else { 0.0 });
}

/// The configuration was read again.
pub fn reload(outcome: &'static str) {
    counter!(RELOADS, "outcome" => outcome).increment(1);
}

/// Makes the process's recorder.
///
/// # Errors
/// If another recorder is installed.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(JOURNAL_APPEND.to_owned()), &APPEND_BUCKETS)?
        .install_recorder()?;
    describe_gauge!(CONNECTIONS, "Connections by stage.");
    describe_counter!(
        CONNECTIONS_REFUSED,
        "Connections turned away before the first byte, by limit."
    );
    describe_counter!(CONNECTIONS_CLOSED, "Connections that ended, by reason.");
    describe_counter!(
        AUTHENTICATION,
        "Answers to authentication requests, by method and result."
    );
    describe_counter!(
        CHANNELS_REFUSED,
        "Channels and channel requests other than the SFTP subsystem."
    );
    describe_counter!(OPERATIONS, "SFTP operations by kind and outcome.");
    describe_counter!(
        FAILURES,
        "Permitted operations that failed, by kind and by whose fault it was."
    );
    describe_gauge!(
        BACKEND_HEALTHY,
        "1 if the last probe of a member of a failover backend succeeded."
    );
    describe_gauge!(
        JOURNAL_HEALTHY,
        "1 while the journal can be written; at 0 nothing is served."
    );
    describe_gauge!(JOURNAL_RECORDS, "Durable records in the journal.");
    describe_histogram!(
        JOURNAL_APPEND,
        Unit::Seconds,
        "Time until a record is durable."
    );
    describe_counter!(
        RELOADS,
        "Times that the configuration was read again, by outcome."
    );
    describe_gauge!(
        JOURNAL_SOUND,
        "0 since the last check of the whole journal found something."
    );
    describe_gauge!(
        AT_REST_MIGRATION,
        "Files that the last encryption of those that were not looked at, by result."
    );
    describe_gauge!(
        AT_REST_ROTATION,
        "Files that the last rotation of keys looked at, by result."
    );
    describe_gauge!(
        JOURNAL_DISK,
        "Share of the journal's disk that is used, from 0 to 1."
    );
    describe_counter!(BANS, "Bans asked of the agent, by outcome.");
    describe_gauge!(
        ALLOWLIST_OFFERED,
        "0 while the agent does not have the networks of the accounts."
    );
    describe_gauge!(
        THROTTLES_STORED,
        "0 while counts of failures are in memory only, because they can't be written."
    );
    describe_gauge!(
        SINK_LAG_RECORDS,
        "Durable records that a sink's collector has not."
    );
    describe_gauge!(
        SINK_LAG_SECONDS,
        Unit::Seconds,
        "Age of the oldest of them."
    );
    describe_gauge!(SINK_CONNECTED, "1 while a sink has a way to its collector.");
    describe_counter!(SINK_SENT, "Records that a sink's collector took.");
    describe_counter!(
        SINK_LOST,
        "Records that were removed from the log before they were sent."
    );
    describe_counter!(
        SINK_RECONNECTS,
        "Connections of a sink that broke or could not be made."
    );
    describe_gauge!(
        WITNESS_RECORDS,
        "Records of the journal that a witness has cosigned."
    );
    describe_gauge!(
        WITNESS_LAG_RECORDS,
        "Durable records that a witness has not cosigned."
    );
    describe_gauge!(
        WITNESS_LAG_SECONDS,
        Unit::Seconds,
        "For how long a signed head of the journal has waited for a witness."
    );
    describe_gauge!(
        WITNESS_HEALTHY,
        "0 while a witness does not cosign the journal."
    );
    describe_gauge!(
        WITNESS_ALARM,
        "1 while a witness, or the log itself, says that the journal was cut or rewritten."
    );
    describe_counter!(
        MANIFESTS_WRITTEN,
        "Manifests of deliveries that were written and are on record."
    );
    describe_counter!(
        MANIFESTS_FAILED,
        "Times that a manifest could not be made or written; it is tried again."
    );
    describe_gauge!(
        MANIFESTS_WAITING,
        "Manifests that could not be written so far."
    );
    describe_counter!(COSIGNED, "Heads of logs that this witness cosigned.");
    describe_gauge!(
        COSIGNED_RECORDS,
        "Records of a log that this witness has cosigned."
    );
    describe_counter!(
        COSIGNING_REFUSED,
        "Heads that this witness did not cosign; inconsistent is a log that was changed."
    );
    describe_counter!(ALERTS, "Alerts that were put on record, by kind.");
    Ok(handle)
}

/// Keeps the journal's gauges true and old samples few until `stop`.
pub async fn refresh(handle: PrometheusHandle, journal: Journal, stop: CancellationToken) {
    let mut interval = time::interval(REFRESH);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        let status = journal.status();
        gauge!(JOURNAL_HEALTHY).set(if status.healthy { 1.0 } else { 0.0 });
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact up to 2^53 records, which no disk holds"
        )]
        gauge!(JOURNAL_RECORDS).set(status.durable as f64);
        handle.run_upkeep();
    }
}

/// A socket for the endpoint.
///
/// # Errors
/// If the address can't be had.
pub async fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

/// Answers `GET /metrics` until `stop`.
///
/// # Errors
/// If the socket fails.
pub async fn serve(
    listener: TcpListener,
    handle: PrometheusHandle,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let page = get(move || {
        let text = handle.render();
        async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    });
    axum::serve(listener, Router::new().route("/metrics", page))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}
