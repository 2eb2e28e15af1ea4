//! Which of an account's factors a server elsewhere judges.

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};

use crate::accounts::{AccountName, Administration, remote::LOGIN_MAX};

#[derive(Debug, Args)]
pub(super) struct SecondFactorArgs {
    name: AccountName,
    #[arg(value_enum)]
    factor: SecondFactor,
    /// The user's name there, if it is not the account's
    #[arg(long = "as", value_name = "LOGIN", value_parser = login)]
    login: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct PasswordSourceArgs {
    name: AccountName,
    #[arg(value_enum)]
    source: PasswordSource,
    /// The user's name there, if it is not the account's
    #[arg(long = "as", value_name = "LOGIN", value_parser = login)]
    login: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SecondFactor {
    /// The authenticator that is enrolled here
    Totp,
    /// The servers of [auth.radius]
    Radius,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PasswordSource {
    /// The password that is set here
    Local,
    /// The directory of [auth.ldap]
    Ldap,
}

impl SecondFactorArgs {
    pub(super) fn run(self, administration: &Administration<'_>) -> anyhow::Result<()> {
        match (self.factor, self.login) {
            (SecondFactor::Radius, login) => {
                administration.set_radius(&self.name, login.as_deref())?;
            }
            (SecondFactor::Totp, None) => administration.unset_radius(&self.name)?,
            (SecondFactor::Totp, Some(_)) => bail!("--as goes with radius"),
        }
        Ok(())
    }
}

impl PasswordSourceArgs {
    pub(super) fn run(self, administration: &Administration<'_>) -> anyhow::Result<()> {
        match (self.source, self.login) {
            (PasswordSource::Ldap, login) => {
                administration.set_directory(&self.name, login.as_deref())?;
            }
            (PasswordSource::Local, None) => administration.unset_directory(&self.name)?,
            (PasswordSource::Local, Some(_)) => bail!("--as goes with ldap"),
        }
        Ok(())
    }
}

fn login(text: &str) -> anyhow::Result<String> {
    ensure!(
        !text.is_empty() && text.len() <= LOGIN_MAX && !text.chars().any(char::is_control),
        "expected 1 to {LOGIN_MAX} bytes without control characters"
    );
    Ok(text.to_owned())
}
