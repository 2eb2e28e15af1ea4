//! Where accounts may be used from.

use chrono::NaiveDate;
use ipnet::IpNet;

use super::{Accounts, AccountsError, damaged};

/// A network from which an account may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSource {
    pub network: IpNet,
    pub account: String,
    /// The account's last day, UTC.
    pub expires: Option<NaiveDate>,
}

impl Accounts {
    /// The networks of all accounts that are enabled and not past their last day, by network and account. An account
    /// without networks is not among them.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn sources(&self, today: NaiveDate) -> Result<Vec<AccountSource>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT network, name, expires FROM account_source
             JOIN account ON account.id = account_source.account
             WHERE disabled = 0 AND (expires IS NULL OR expires >= ?1)
             ORDER BY network, name",
        )?;
        let rows = statement.query_map([today.to_string()], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, Option<String>>(2)?,
            ))
        })?;
        rows.map(|row| {
            let (network, account, expires) = row?;
            Ok(AccountSource {
                network: network
                    .parse()
                    .map_err(|_| damaged("account_source.network", &network))?,
                account,
                expires: expires
                    .map(|text| text.parse().map_err(|_| damaged("account.expires", &text)))
                    .transpose()?,
            })
        })
        .collect()
    }
}
