//! `witness`: another node's logs, cosigned.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{print, run::log_to_stderr};
use crate::{
    cli::{LogArgs, WitnessArgs, WitnessCommand},
    config::WitnessConfig,
    metrics,
    witness::{
        server::{self, Server},
        store::{self, Store, Summary, origin_hash, summaries},
    },
};

pub(super) fn witness(arguments: &WitnessArgs) -> anyhow::Result<ExitCode> {
    let config = WitnessConfig::load(&arguments.config)?;
    match &arguments.command {
        WitnessCommand::Serve(log) => serve(config, log).map(|()| ExitCode::SUCCESS),
        WitnessCommand::Key => {
            let key = store::key(&config).context("open the witness's key")?;
            print(&key.public().to_string());
            Ok(ExitCode::SUCCESS)
        }
        WitnessCommand::Status { json } => status(&config, *json),
    }
}

fn serve(config: WitnessConfig, log: &LogArgs) -> anyhow::Result<()> {
    log_to_stderr(log)?;
    let store = Store::open(&config).context("open what was cosigned")?;
    print(&store.public().to_string());
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(until_a_signal(config, store))
        .context("run the witness")
}

async fn until_a_signal(config: WitnessConfig, store: Store) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for signals")?;
    let stop = CancellationToken::new();
    if let Some(endpoint) = &config.metrics {
        let handle = metrics::install().context("collect metrics")?;
        let listener = metrics::bind(endpoint.listen).await;
        let listener = listener.context("serve metrics")?;
        tokio::spawn(metrics::serve(listener, handle, stop.clone()));
    }
    for (origin, size) in store.sizes() {
        tracing::info!(log = origin, size, hash = origin_hash(origin), "witnessed");
        metrics::witnessed(origin, size);
    }
    let listener = server::bind(config.listen)
        .await
        .with_context(|| format!("listen on {}", config.listen))?;
    let server = Server {
        store: Arc::new(store),
        prefix: config.prefix,
        tls: config.tls.as_ref().map(server::tls).transpose()?,
        patience: server::PATIENCE,
    };
    tracing::info!(address = %config.listen, tls = server.tls.is_some(), "listening");
    let serving = tokio::spawn(server.run(listener, stop.clone()));
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
    serving.await.context("end the server")?;
    tracing::info!("stopped");
    Ok(())
}

fn status(config: &WitnessConfig, as_json: bool) -> anyhow::Result<ExitCode> {
    let summaries = summaries(config).context("read what was cosigned")?;
    if as_json {
        let logs: Vec<_> = summaries
            .iter()
            .map(|log| {
                json!({
                    "origin": log.origin,
                    "origin_hash": origin_hash(&log.origin),
                    "records": log.size,
                    "cosigned": log.time.and_then(when),
                    "contradictions": log.refused,
                    "evidence": (log.refused > 0).then(|| log.evidence.display().to_string()),
                })
            })
            .collect();
        print(&json!({ "logs": logs }).to_string());
    } else {
        summaries.iter().for_each(|log| print(&line(log)));
    }
    let is_sound = summaries.iter().all(|log| log.refused == 0);
    Ok(if is_sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn line(log: &Summary) -> String {
    let cosigned = match log.time.and_then(when) {
        Some(time) => format!("{} records, cosigned {time}", log.size),
        None => "nothing cosigned yet".to_owned(),
    };
    if log.refused == 0 {
        return format!("{}: {cosigned}", log.origin);
    }
    format!(
        "{}: CHANGED: its key signed {} head(s) that contradict what was cosigned, kept in {}; {cosigned}",
        log.origin,
        log.refused,
        log.evidence.display()
    )
}

fn when(time: u64) -> Option<String> {
    let time = DateTime::from_timestamp(i64::try_from(time).ok()?, 0)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Secs, true))
}
