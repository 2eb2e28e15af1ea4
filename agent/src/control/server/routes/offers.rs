//! Lists that another daemon of this machine keeps true, each under a name of its own.

use std::collections::BTreeMap;

use axum::{
    extract::{Path as UrlPath, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};
use ipnet::IpNet;

use super::{check_grounds, lists, tagged};
use crate::{
    config::Offers,
    control::{
        AllowEntry, Code, Failure, OfferRequest,
        peer::Right,
        server::{
            Service,
            caller::{Caller, JsonBody},
        },
    },
    engine::{Change, Request, Terms},
    entry::Entry,
    lists::{List, ListName},
};

/// Characters of a list's name.
const MAX_NAME: usize = 32;

/// Puts the whole list in force. It is judged as every change: one that cuts too many live connections is refused.
pub(super) async fn offer(
    State(service): State<Service>,
    caller: Caller,
    name: Result<UrlPath<String>, PathRejection>,
    body: JsonBody,
) -> Result<Response, Failure> {
    let by = caller.must(Right::Offer)?;
    let UrlPath(name) = name.map_err(|error| Failure::invalid(error.body_text()))?;
    let list = list_name(&name)?;
    let OfferRequest { entries, reason } = body.read()?;
    check_grounds(reason.as_deref(), None)?;
    let entries = within(&service.control.offers, entries)?;
    let change = Change::Sync(BTreeMap::from([(
        list,
        entries.into_iter().collect::<List>(),
    )]));
    let terms = Terms {
        reason,
        ..Terms::default()
    };
    service.refresh.done().await;
    let done = service
        .ask(|reply| Request::Change {
            change,
            terms,
            by,
            reply,
        })
        .await?;
    Ok(tagged(StatusCode::OK, done.revision, &done))
}

fn list_name(name: &str) -> Result<ListName, Failure> {
    let is_plain = !name.is_empty()
        && name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    is_plain
        .then(|| format!("offer:{name}").parse().ok())
        .flatten()
        .ok_or_else(|| {
            Failure::invalid(format!(
                "`{name}` can't be the name of an offered list: 1 to {MAX_NAME} of a-z, 0-9 and `-`"
            ))
        })
}

/// The entries as they may be, or why not.
fn within(offers: &Offers, entries: Vec<AllowEntry>) -> Result<Vec<Entry>, Failure> {
    if entries.len() > offers.max_entries {
        return Err(Failure::new(
            Code::Limit,
            format!(
                "{} entries are more than the {} of control.offers.max_entries",
                entries.len(),
                offers.max_entries
            ),
        ));
    }
    let mut entries = lists::entries(entries, false)?;
    for entry in &mut entries {
        if entry.deny || entry.scope.is_some() {
            return Err(Failure::invalid(format!(
                "{}: an offered entry has neither deny nor scope; control.offers.scope says what it lets in",
                entry.prefix
            )));
        }
        let widest = match entry.prefix {
            IpNet::V4(_) => offers.widest_ipv4,
            IpNet::V6(_) => offers.widest_ipv6,
        };
        if entry.prefix.prefix_len() < widest {
            return Err(Failure::new(
                Code::Limit,
                format!(
                    "{} is wider than the /{widest} of control.offers",
                    entry.prefix
                ),
            ));
        }
        entry.scope.clone_from(&offers.scope);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers() -> Offers {
        Offers {
            scope: Some("tcp/22".parse().unwrap()),
            max_entries: 2,
            widest_ipv4: 16,
            widest_ipv6: 32,
        }
    }

    fn entry(prefix: &str) -> AllowEntry {
        AllowEntry {
            prefix: prefix.to_owned(),
            ..AllowEntry::default()
        }
    }

    #[test]
    fn an_entry_gets_the_scope_of_the_configuration() {
        let entries = within(
            &offers(),
            vec![entry("192.0.2.0/24"), entry("2001:db8::/32")],
        );
        let scopes = entries.unwrap().into_iter().map(|entry| entry.scope);
        assert!(scopes.into_iter().all(|scope| scope == offers().scope));
    }

    #[test]
    fn what_goes_beyond_the_configuration_is_refused_whole() {
        let scoped = AllowEntry {
            scope: Some("tcp/1-65535".to_owned()),
            ..entry("192.0.2.1")
        };
        let denied = AllowEntry {
            deny: true,
            ..entry("192.0.2.1")
        };
        for (entries, code) in [
            (vec![entry("192.0.0.0/15")], Code::Limit),
            (vec![entry("2001::/31")], Code::Limit),
            (vec![entry("0.0.0.0/0")], Code::Invalid),
            (vec![entry("192.0.2.1"), scoped], Code::Invalid),
            (vec![denied], Code::Invalid),
            (vec![entry("192.0.2.1"); 3], Code::Limit),
        ] {
            assert_eq!(within(&offers(), entries).unwrap_err().code, code);
        }
    }

    #[test]
    fn only_an_offered_list_can_be_named() {
        assert_eq!(list_name("accounts").unwrap().as_str(), "offer:accounts");
        for name in ["", "manual/x", "Accounts", "a:b", &"a".repeat(33)] {
            assert!(list_name(name).is_err(), "{name}");
        }
    }
}
