//! `ban`, `unban`, `bans`.

use anyhow::Result;
use hyper::Method;

use super::render;
use crate::{
    bans::Ban,
    cli::{BanArguments, Grounds},
    control::{BanRequest, BansReply, UnbanRequest, client::Client},
    record,
};

pub(super) async fn ban(client: &Client, arguments: BanArguments, json: bool) -> Result<String> {
    let BanArguments {
        source,
        lifetime,
        reason,
        ticket,
        force,
    } = arguments;
    let request = BanRequest {
        source,
        lifetime_seconds: lifetime.as_secs(),
        reason,
        ticket,
        force,
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

pub(super) async fn unban(
    client: &Client,
    source: String,
    grounds: Grounds,
    json: bool,
) -> Result<String> {
    let request = UnbanRequest {
        source,
        reason: grounds.reason,
        ticket: grounds.ticket,
    };
    let ban: Ban = client.send(Method::DELETE, "/v1/bans", &request).await?;
    render(&ban, json, |ban| {
        format!("{} is no longer banned\n", ban.source)
    })
}

pub(super) async fn bans(client: &Client, json: bool) -> Result<String> {
    let listing: BansReply = client.get("/v1/bans").await?;
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
