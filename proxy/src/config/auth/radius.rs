//! `[auth.radius]`

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    accounts::NAME_MAX,
    auth::{
        radius::{RadiusServer, RadiusSettings, VALUE_MAX},
        template::NameTemplate,
    },
    config::section::Section,
};

/// Registered for RADIUS.
const PORT: u16 = 1812;
/// Shortest shared secret, in bytes: it is all that hides codes and proves answers, and can be guessed at offline.
const SECRET_MIN: usize = 16;
const TIMEOUT_MILLISECONDS: u64 = 2000;
const TRANSMISSIONS: u64 = 3;
/// What a login may have to wait for all servers, in seconds: less than the time that it has.
const TOTAL_MAX: Duration = Duration::from_secs(30);

pub(super) fn radius(mut section: Section<'_>) -> Option<RadiusSettings> {
    let nas_identifier = section
        .text(
            "nas_identifier",
            "the name by which servers know the gateway",
        )
        .unwrap_or("portcullis");
    if nas_identifier.len() > VALUE_MAX {
        section.fault("nas_identifier", format!("more than {VALUE_MAX} bytes"));
    }
    let user_name = match section.text("user_name", "a text with {name}") {
        None => Some(NameTemplate::default()),
        Some(text) => {
            let template = NameTemplate::parse(text);
            // The attribute has to hold the longest name too.
            let fits =
                |template: &NameTemplate| template.fill(&"x".repeat(NAME_MAX)).len() <= VALUE_MAX;
            let template = template.filter(fits);
            if template.is_none() {
                section.fault(
                    "user_name",
                    format!("{text:?}: expected a text with one {{name}}, such as \"{{name}}@example.org\""),
                );
            }
            template
        }
    };
    let timeout = Duration::from_millis(section.number(
        "timeout_milliseconds",
        100..=10_000,
        TIMEOUT_MILLISECONDS,
    ));
    let transmissions =
        u32::try_from(section.number("transmissions", 1..=10, TRANSMISSIONS)).unwrap_or(1);
    let rest = super::rest(&mut section);
    let at_once = super::at_once(&mut section);
    let order = order(&mut section);
    let servers: BTreeMap<_, _> = section
        .named_sections("servers")
        .into_iter()
        .map(|(name, section)| (name, server(name, section)))
        .collect();
    let servers = in_order(&section, order, servers);
    if let Some(servers) = &servers {
        let count = u32::try_from(servers.len()).unwrap_or(u32::MAX);
        let total = timeout.saturating_mul(transmissions).saturating_mul(count);
        if total > TOTAL_MAX {
            section.fault(
                "timeout_milliseconds",
                format!(
                    "with {transmissions} transmission(s) to each of {count} server(s) a login could wait {} s; {} are the limit",
                    total.as_secs(),
                    TOTAL_MAX.as_secs()
                ),
            );
        }
    }
    section.finish();
    Some(RadiusSettings {
        servers: servers?,
        nas_identifier: nas_identifier.to_owned(),
        user_name: user_name?,
        timeout,
        transmissions,
        rest,
        at_once,
    })
}

fn order<'a>(section: &mut Section<'a>) -> Option<Vec<&'a str>> {
    let names = section.texts("order", "a list of names of servers")?;
    Some(names.into_iter().map(|(_, name)| name).collect())
}

/// The servers as `order` has them; it names each once, and may be left out for one.
fn in_order(
    section: &Section<'_>,
    order: Option<Vec<&str>>,
    mut servers: BTreeMap<&str, Option<RadiusServer>>,
) -> Option<Vec<RadiusServer>> {
    if servers.is_empty() {
        section.fault(
            "servers",
            "missing; expected a table [auth.radius.servers.NAME]",
        );
        return None;
    }
    let order = match order {
        None if servers.len() == 1 => servers.keys().copied().collect(),
        None => {
            section.fault("order", "missing; several servers are asked in some order");
            return None;
        }
        Some(order) => order,
    };
    let mut ordered = Vec::new();
    for name in order {
        let Some(server) = servers.remove(name) else {
            section.fault(
                "order",
                format!("{name:?} is named twice, or there is no [auth.radius.servers.{name}]"),
            );
            return None;
        };
        ordered.push(server);
    }
    if let Some((name, _)) = servers.first_key_value() {
        section.fault("order", format!("does not name the server {name:?}"));
        return None;
    }
    ordered.into_iter().collect()
}

fn server(name: &str, mut section: Section<'_>) -> Option<RadiusServer> {
    const EXPECTED: &str = "an address, such as \"192.0.2.10:1812\"";
    let address = section.required_text("address", EXPECTED).and_then(|text| {
        // A name would make whoever answers for it in the DNS the one who is asked.
        let address = text
            .parse::<SocketAddr>()
            .ok()
            .or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, PORT)));
        if address.is_none() {
            section.fault("address", format!("{text:?}: expected {EXPECTED}"));
        }
        address
    });
    let secret = super::secret(&mut section, "secret_file", "secret_credential");
    let secret = secret.filter(|secret| {
        let length = secret.expose().len();
        if length < SECRET_MIN {
            section.fault(
                "secret_file",
                format!(
                    "the shared secret has {length} bytes; it needs {SECRET_MIN}: `openssl rand -hex 16` makes a good one"
                ),
            );
        }
        length >= SECRET_MIN
    });
    section.finish();
    Some(RadiusServer {
        name: name.to_owned(),
        address: address?,
        secret: secret?,
    })
}
