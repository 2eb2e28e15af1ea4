//! Critical options: what is not understood, or can't be enforced, makes the certificate worthless.

use std::net::IpAddr;

use ipnet::IpNet;
use ssh_key::certificate::OptionsMap;

use super::CertificateError;

/// `source-address` alone is enforced. `verify-required` asks for flags that the SSH library does not show, and
/// `force-command` for a program, where the gateway runs none: both are refused like an unknown one.
pub(super) fn check(options: &OptionsMap, source: IpAddr) -> Result<(), CertificateError> {
    for (name, value) in options.iter() {
        match name.as_str() {
            "source-address" => {
                let networks = networks(value).ok_or(CertificateError::CriticalOption)?;
                if !networks.iter().any(|network| network.contains(&source)) {
                    return Err(CertificateError::SourceAddress);
                }
            }
            _ => return Err(CertificateError::CriticalOption),
        }
    }
    Ok(())
}

/// Addresses and networks joined by commas; `None` if one of them is neither, or has bits set behind its prefix.
fn networks(list: &str) -> Option<Vec<IpNet>> {
    list.split(',')
        .map(|text| {
            let address = text.parse::<IpAddr>().map(IpNet::from);
            let network = address.or_else(|_| text.parse::<IpNet>()).ok()?;
            (network.addr() == network.network()).then_some(network)
        })
        .collect()
}
