//! `[auth.ldap]`

use std::{collections::BTreeMap, path::Path, time::Duration};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    accounts::AccountName,
    auth::ldap::{
        DnTemplate, Filter, GroupSource, Groups, LdapServer, LdapSettings, People, ServiceAccount,
    },
    config::{backends::parse_server_address, section::Section},
};

const LDAPS_PORT: u16 = 636;
const LDAP_PORT: u16 = 389;
const TIMEOUT_SECONDS: u64 = 5;
const RECHECK_SECONDS: u64 = 300;
/// What a login may have to wait for all servers, in seconds: less than the time that it has.
const TOTAL_MAX: u64 = 30;

pub(super) fn ldap(mut section: Section<'_>) -> Option<LdapSettings> {
    let servers = servers(&mut section);
    let authorities = authorities(&mut section);
    let people = people(&mut section);
    let source = group_source(&mut section);
    let names = group_names(&mut section);
    let timeout = section.number("timeout_seconds", 1..=30, TIMEOUT_SECONDS);
    if let Some(servers) = &servers {
        let total = u64::try_from(servers.len()).unwrap_or(u64::MAX) * timeout;
        if total > TOTAL_MAX {
            section.fault(
                "timeout_seconds",
                format!("a login could wait {total} s for all servers; {TOTAL_MAX} are the limit"),
            );
        }
    }
    let rest = super::rest(&mut section);
    let at_once = super::at_once(&mut section);
    let recheck = section.has("recheck_seconds").then(|| {
        Duration::from_secs(section.number("recheck_seconds", 1..=86_400, RECHECK_SECONDS))
    });
    if recheck.is_some() && matches!(people, Some(People::Template(_))) {
        section.fault(
            "recheck_seconds",
            "needs a search: give bind_dn, base and user_filter in place of user_dn",
        );
    }
    let groups = match (source, names) {
        (Some(source), Some(names)) => Some(Groups { source, names }),
        (None, None) => None,
        (Some(_), None) => {
            section.fault("groups", "missing; expected a table [auth.ldap.groups]");
            None
        }
        (None, Some(_)) => {
            section.fault(
                "group_attribute",
                "missing; say where groups are: group_attribute = \"memberOf\", or group_base and group_filter",
            );
            None
        }
    };
    section.finish();
    Some(LdapSettings {
        servers: servers?,
        authorities: authorities?,
        people: people?,
        groups,
        timeout: Duration::from_secs(timeout),
        rest,
        at_once,
        recheck,
    })
}

fn servers(section: &mut Section<'_>) -> Option<Vec<LdapServer>> {
    const EXPECTED: &str = "a list of addresses, such as [\"ldaps://dc1.example.org\"]";
    if !section.has("servers") {
        section.fault("servers", format!("missing; expected {EXPECTED}"));
    }
    let texts = section.texts("servers", EXPECTED);
    let start_tls = section.flag("start_tls", false);
    let texts = texts?;
    if texts.is_empty() {
        section.fault("servers", format!("expected {EXPECTED}"));
    }
    let mut servers = Vec::new();
    for (index, text) in texts {
        let key = format!("servers[{index}]");
        let (rest, is_clear) = if let Some(rest) = text.strip_prefix("ldaps://") {
            (rest, false)
        } else if let Some(rest) = text.strip_prefix("ldap://") {
            (rest, true)
        } else {
            section.fault(
                &key,
                format!("{text:?}: expected ldaps://HOST, or ldap://HOST with start_tls = true"),
            );
            return None;
        };
        if is_clear && !start_tls {
            section.fault(
                &key,
                "a password is never sent in clear: write ldaps://, or set start_tls = true",
            );
            return None;
        }
        let port = if is_clear { LDAP_PORT } else { LDAPS_PORT };
        let Some(address) = parse_server_address(rest.trim_end_matches('/'), port) else {
            section.fault(&key, format!("{text:?} has no host and port"));
            return None;
        };
        servers.push(LdapServer {
            host: address.host,
            port: address.port,
            start_tls: is_clear,
        });
    }
    (!servers.is_empty()).then_some(servers)
}

/// Required: public authorities vouch for anybody's directory.
fn authorities(section: &mut Section<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let path = section.required_text(
        "ca_file",
        "a PEM file with the authority of the servers' certificates",
    )?;
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(Path::new(path)).and_then(Iterator::collect);
    match read {
        Ok(authorities) if authorities.is_empty() => {
            section.fault("ca_file", format!("{path} has no certificate"));
            None
        }
        Ok(authorities) => Some(authorities),
        Err(error) => {
            section.fault("ca_file", format!("{path}: can't be read: {error}"));
            None
        }
    }
}

fn people(section: &mut Section<'_>) -> Option<People> {
    let template = section.text("user_dn", "a DN with {name}");
    if let Some(text) = template {
        const OF_SEARCH: [&str; 5] = [
            "bind_dn",
            "bind_password_file",
            "bind_password_credential",
            "base",
            "user_filter",
        ];
        for key in OF_SEARCH {
            if section.text(key, "nothing").is_some() {
                section.fault(key, "goes with a search, and user_dn makes none");
            }
        }
        let template = DnTemplate::parse(text);
        if template.is_none() {
            section.fault(
                "user_dn",
                format!(
                    "{text:?}: expected a DN such as \"uid={{name}},ou=people,dc=example,dc=org\""
                ),
            );
        }
        return template.map(People::Template);
    }
    let dn = section.required_text(
        "bind_dn",
        "the DN of an account that may search, or user_dn",
    );
    let password = super::secret(section, "bind_password_file", "bind_password_credential");
    let base = section.required_text("base", "the DN below which people are");
    let filter = section.required_text("user_filter", "a filter such as \"(uid={name})\"");
    let filter = filter.and_then(|text| parse_filter(section, "user_filter", text));
    let filter = filter.filter(|filter| {
        let fits = filter.has_name() && !filter.has_dn();
        if !fits {
            section.fault("user_filter", "expected {name} in it, and no {dn}");
        }
        fits
    });
    Some(People::Search {
        account: ServiceAccount {
            dn: dn?.to_owned(),
            password: password?,
        },
        base: base?.to_owned(),
        filter: filter?,
    })
}

fn group_source(section: &mut Section<'_>) -> Option<GroupSource> {
    let of_person = section.text("group_attribute", "an attribute such as \"memberOf\"");
    let base = section.text("group_base", "the DN below which groups are");
    let filter = section.text("group_filter", "a filter such as \"(member={dn})\"");
    let attribute = section
        .text("group_name_attribute", "an attribute of groups")
        .unwrap_or("cn");
    match (of_person, base, filter) {
        (None, None, None) => None,
        (Some(attribute), None, None) => Some(GroupSource::OfPerson {
            attribute: attribute.to_owned(),
        }),
        (None, Some(base), Some(filter)) => {
            let filter = parse_filter(section, "group_filter", filter)?;
            if !filter.has_dn() && !filter.has_name() {
                section.fault("group_filter", "expected {dn} or {name} in it");
            }
            Some(GroupSource::OfGroup {
                base: base.to_owned(),
                filter,
                attribute: attribute.to_owned(),
            })
        }
        _ => {
            section.fault(
                "group_attribute",
                "give either group_attribute, or both group_base and group_filter",
            );
            None
        }
    }
}

fn group_names(section: &mut Section<'_>) -> Option<BTreeMap<String, String>> {
    let texts = section.text_by_name("groups", "the gateway's name of the group")?;
    let mut names = BTreeMap::new();
    for (theirs, ours) in texts {
        let ours: AccountName = match ours.parse() {
            Ok(ours) => ours,
            Err(error) => {
                section.fault("groups", format!("{ours:?} is no name of a group: {error}"));
                continue;
            }
        };
        // Letters beyond ASCII have to be written as the directory writes them.
        let group = theirs.to_ascii_lowercase();
        if names.insert(group, ours.as_str().to_owned()).is_some() {
            section.fault(
                "groups",
                format!("{theirs:?} is there twice; upper and lower case do not differ"),
            );
        }
    }
    Some(names)
}

fn parse_filter(section: &Section<'_>, key: &str, text: &str) -> Option<Filter> {
    Filter::parse(text)
        .map_err(|error| section.fault(key, error.to_string()))
        .ok()
}
