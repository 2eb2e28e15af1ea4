//! `ban`, `unban`, `bans`.

use anyhow::Result;
use hyper::Method;
use serde::{Deserialize, Serialize};

use super::render;
use crate::{
    bans::Ban,
    cli::BanArguments,
    control::{BanRequest, UnbanRequest, client::Client},
    record,
};

#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    bans: Vec<Ban>,
}

pub(super) async fn ban(client: &Client, arguments: BanArguments, json: bool) -> Result<String> {
    let BanArguments {
        source,
        lifetime,
        reason,
    } = arguments;
    let request = BanRequest {
        source,
        lifetime_seconds: lifetime.as_secs(),
        reason,
    };
    let ban: Ban = client.send(Method::POST, "/v1/bans", &request).await?;
    render(&ban, json, |ban| {
        format!(
            "{} is banned until {}\n",
            ban.source,
            record::time(ban.expires)
        )
    })
}

pub(super) async fn unban(client: &Client, source: String, json: bool) -> Result<String> {
    let ban: Ban = client
        .send(Method::DELETE, "/v1/bans", &UnbanRequest { source })
        .await?;
    render(&ban, json, |ban| {
        format!("{} is no longer banned\n", ban.source)
    })
}

pub(super) async fn bans(client: &Client, json: bool) -> Result<String> {
    let listing: Listing = client.get("/v1/bans").await?;
    render(&listing, json, |listing| {
        listing
            .bans
            .iter()
            .map(|ban| {
                format!(
                    "{:<43} until {}  by {}  {}\n",
                    ban.source.to_string(),
                    record::time(ban.expires),
                    ban.by,
                    ban.reason
                )
            })
            .collect()
    })
}
