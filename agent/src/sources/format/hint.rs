//! What was probably meant.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};

use crate::prefix;

/// Characters of a file that a message repeats.
const SHOWN: usize = 60;

/// The text as a message shows it: bounded, in backquotes, and without anything that could draw on a terminal.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// A message that may repeat something of a file.
pub(super) fn bounded(message: &str) -> String {
    message
        .chars()
        .take(4 * SHOWN)
        .filter(|c| !c.is_control())
        .collect()
}

/// Of `words` the one that is spelled almost like `word`.
pub(super) fn similar<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: String = word
        .chars()
        .take(SHOWN)
        .collect::<String>()
        .to_ascii_lowercase();
    words
        .into_iter()
        .map(|known| (distance(&word, known), known))
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
        .min()
        .map(|(_, known)| known)
}

/// Edits that make one word into the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let best = (diagonal + usize::from(x != y))
                .min(left + 1)
                .min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Says that `text` is no prefix, and what to write instead.
pub(super) fn no_prefix(text: &str) -> String {
    let problem = format!("{} is neither an address nor ADDRESS/LENGTH", quoted(text));
    match way_out(text) {
        Some(way_out) => format!("{problem}; {way_out}"),
        None => problem,
    }
}

fn way_out(text: &str) -> Option<String> {
    if text.chars().nth(SHOWN).is_some() {
        return None;
    }
    if text.contains('%') {
        let (address, rest) = text.split_once('%')?;
        let length = rest
            .split_once('/')
            .map_or(String::new(), |(_, length)| format!("/{length}"));
        return Some(format!(
            "the zone behind `%` names an interface of one host only; leave it out: {address}{length}"
        ));
    }
    let meant = |meant: IpNet| Some(format!("did you mean {}?", short(meant)));
    if let Some(net) = stripped(text).or_else(|| without_zeros(text)) {
        return meant(net);
    }
    if let Some(net) = octets(text).or_else(|| masked(text)) {
        return meant(net);
    }
    if let Some(range) = range(text) {
        return Some(range);
    }
    if let Some((address, length)) = text.split_once('/') {
        match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => {
                return Some(format!("an IPv4 length is 0 to 32, not {}", quoted(length)));
            }
            Ok(IpAddr::V6(_)) => {
                return Some(format!(
                    "an IPv6 length is 0 to 128, not {}",
                    quoted(length)
                ));
            }
            Err(_) => {}
        }
    }
    if let Some((address, port)) = text.rsplit_once(':')
        && let Ok(address) = address.trim_matches(['[', ']']).parse::<IpAddr>()
        && port.parse::<u16>().is_ok()
    {
        return Some(format!(
            "a port is a field of its own: {address} scope=tcp/{port}"
        ));
    }
    if text.contains([',', ';']) {
        return Some(
            "a file of several columns is named .csv and begins with a row such as prefix,owner"
                .to_owned(),
        );
    }
    let is_name = text.contains('.')
        && text.chars().any(|c| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    is_name.then(|| "host names go into the configuration, as [[names]]".to_owned())
}

fn short(net: IpNet) -> String {
    if prefix::is_host(&net) {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

/// The prefix in quotes, brackets or before a stray separator.
fn stripped(text: &str) -> Option<IpNet> {
    let inner = text.trim_matches(|c: char| {
        c.is_whitespace()
            || matches!(
                c,
                '"' | '\'' | '[' | ']' | '(' | ')' | ',' | ';' | '<' | '>' | '.'
            )
    });
    let inner = inner.replacen("]/", "/", 1);
    (inner != text).then(|| lenient(&inner)).flatten()
}

fn lenient(text: &str) -> Option<IpNet> {
    match prefix::parse(text) {
        Ok(net) => Some(net),
        Err(prefix::PrefixError::HostBits { corrected, .. }) => Some(corrected),
        Err(_) => None,
    }
}

/// `010.001.002.003`: elsewhere such numbers are octal, so nobody should guess.
fn without_zeros(text: &str) -> Option<IpNet> {
    let (address, length) = text
        .split_once('/')
        .map_or((text, None), |(a, l)| (a, Some(l)));
    let plain = |number: &str| -> Option<String> {
        (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| number.trim_start_matches('0'))
            .map(|number| if number.is_empty() { "0" } else { number }.to_owned())
    };
    let address: Vec<String> = address.split('.').map(plain).collect::<Option<_>>()?;
    let mut joined = address.join(".");
    if let Some(length) = length {
        joined.push('/');
        joined.push_str(&plain(length)?);
    }
    (joined != text).then(|| lenient(&joined)).flatten()
}

/// `203.0.113`, `203.0.113.`, `203.0.113.*`: whole octets.
fn octets(text: &str) -> Option<IpNet> {
    let parts: Vec<&str> = text
        .split('.')
        .filter(|part| !matches!(*part, "*" | "x" | ""))
        .collect();
    if parts.is_empty() || parts.len() > 3 || !text.contains('.') {
        return None;
    }
    let mut address = [0_u8; 4];
    for (octet, part) in address.iter_mut().zip(&parts) {
        *octet = part.parse().ok()?;
    }
    let length = u8::try_from(parts.len() * 8).ok()?;
    Ipv4Net::new(address.into(), length).ok().map(IpNet::from)
}

/// `203.0.113.0/255.255.255.0`, also the inverted mask of routers' access lists.
fn masked(text: &str) -> Option<IpNet> {
    let (address, mask) = text.split_once('/')?;
    let (address, mask): (Ipv4Addr, Ipv4Addr) = (address.parse().ok()?, mask.parse().ok()?);
    let inverted = Ipv4Addr::from(!u32::from(mask));
    let net = Ipv4Net::with_netmask(address, mask)
        .or_else(|_| Ipv4Net::with_netmask(address, inverted))
        .ok()?;
    Some(net.trunc().into())
}

/// `203.0.113.0-203.0.113.255`.
fn range(text: &str) -> Option<String> {
    const MOST: usize = 4;
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    let subnets: Vec<String> =
        if let (Ok(first), Ok(last)) = (first.parse::<Ipv4Addr>(), last.parse::<Ipv4Addr>()) {
            Ipv4Subnets::new(first, last, 0)
                .take(MOST + 1)
                .map(|net| net.to_string())
                .collect()
        } else {
            let (first, last) = (
                first.parse::<Ipv6Addr>().ok()?,
                last.parse::<Ipv6Addr>().ok()?,
            );
            ipnet::Ipv6Subnets::new(first, last, 0)
                .take(MOST + 1)
                .map(|net| net.to_string())
                .collect()
        };
    match subnets.len() {
        0 => Some("the range ends before it begins".to_owned()),
        1..=MOST => Some(format!(
            "a range is written as prefixes: {}",
            subnets.join(", ")
        )),
        _ => Some(format!(
            "a range is written as prefixes, here more than {MOST}"
        )),
    }
}
