//! `portcullis-proxy group`: mounts that several accounts share.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::account::{actor, mount::MountArgs, place};
use crate::{
    accounts::{AccountName, Accounts, mounts},
    config::AccountCommandsConfig,
};

/// Manage groups of accounts and their mounts
#[derive(Debug, Args)]
pub struct GroupCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a group without members and mounts
    Add {
        /// 1 to 32 of a-z, 0-9, '.', '_', '-'
        name: AccountName,
    },
    /// Show all groups, their members and mounts
    List {
        #[arg(long)]
        json: bool,
    },
    /// Take a group and its mounts away; its members' sessions end
    Remove { name: AccountName },
    /// Put accounts into a group, or take them out, which ends their sessions
    #[command(arg_required_else_help = true)]
    Member {
        name: AccountName,
        #[arg(long, value_name = "ACCOUNT", num_args = 1.., required_unless_present = "remove")]
        add: Vec<AccountName>,
        #[arg(long, value_name = "ACCOUNT", num_args = 1..)]
        remove: Vec<AccountName>,
    },
    /// Show a backend's directory to all members, in place of what the group had at that path
    Mount {
        name: AccountName,
        #[command(flatten)]
        mount: MountArgs,
    },
    /// Take a mount away from all members and end their sessions
    Unmount { name: AccountName, at: String },
}

impl GroupCommand {
    /// Runs the command on the database that `config` names.
    ///
    /// # Errors
    /// If the database can't be used or the change is refused.
    pub fn run(self, config: &AccountCommandsConfig) -> anyhow::Result<()> {
        let accounts = Accounts::open(&config.accounts.database)?;
        self.action
            .run(&accounts, &config.backends, &mut io::stdout().lock())
    }
}

impl Action {
    fn run(
        self,
        accounts: &Accounts,
        backends: &[String],
        output: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let administration = accounts.administer(actor());
        match self {
            Self::Add { name } => administration.add_group(&name)?,
            Self::List { json } => print(accounts, json, output)?,
            Self::Remove { name } => administration.remove_group(&name)?,
            Self::Member { name, add, remove } => {
                for account in &add {
                    administration.add_member(&name, account)?;
                }
                for account in &remove {
                    administration.remove_member(&name, account)?;
                }
            }
            Self::Mount { name, mount } => {
                administration.mount_for_group(&name, &mount.into_mount(backends)?)?;
            }
            Self::Unmount { name, at } => {
                administration.unmount_for_group(&name, &place(&at)?)?;
            }
        }
        Ok(())
    }
}

fn print(accounts: &Accounts, json: bool, output: &mut dyn Write) -> anyhow::Result<()> {
    let groups = accounts.groups()?;
    if json {
        let all: Vec<Value> = groups
            .iter()
            .map(|group| {
                json!({
                    "name": group.name,
                    "members": group.members,
                    "mounts": group.mounts.iter().map(mounts::describe).collect::<Vec<_>>(),
                })
            })
            .collect();
        writeln!(output, "{}", Value::from(all))?;
        return Ok(());
    }
    writeln!(output, "{:<32} {:<40} MEMBERS", "NAME", "MOUNTS")?;
    for group in &groups {
        let places: Vec<_> = group
            .mounts
            .iter()
            .map(|mount| String::from_utf8_lossy(mount.at.as_bytes()))
            .collect();
        writeln!(
            output,
            "{:<32} {:<40} {}",
            group.name,
            places.join(" "),
            group.members.join(" ")
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct CommandLine {
        #[command(flatten)]
        group: GroupCommand,
    }

    fn run(accounts: &Accounts, line: &str) -> anyhow::Result<String> {
        let line = CommandLine::try_parse_from(["group"].into_iter().chain(line.split(' ')))?;
        let mut output = Vec::new();
        line.group
            .action
            .run(accounts, &["legacy".to_owned()], &mut output)?;
        Ok(String::from_utf8(output)?)
    }

    #[test]
    fn a_group_is_made_filled_shown_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&directory.path().join("accounts.db")).unwrap();
        let alice: AccountName = "alice".parse().unwrap();
        accounts
            .administer("test")
            .add(&alice, portcullis_journal::AccountKind::Human, None)
            .unwrap();
        run(&accounts, "add lab").unwrap();
        run(
            &accounts,
            "mount lab /in --backend legacy --directory /in --permissions list --rule *.csv=read",
        )
        .unwrap();
        run(&accounts, "member lab --add alice").unwrap();
        let shown: Value = serde_json::from_str(&run(&accounts, "list --json").unwrap()).unwrap();
        assert_eq!(shown[0]["members"], json!(["alice"]));
        assert_eq!(shown[0]["mounts"][0]["rules"], json!(["*.csv=read"]));
        assert!(run(&accounts, "list").unwrap().contains("/in"));
        for wrong in [
            "add lab",
            "member lab",
            "member lab --add nobody",
            "member none --add alice",
            "mount lab /in --backend other --directory /in --permissions list",
            "mount lab /in --backend legacy --directory /in --permissions list --rule csv",
            "unmount lab /out",
        ] {
            assert!(run(&accounts, wrong).is_err(), "{wrong}");
        }
        run(&accounts, "member lab --remove alice").unwrap();
        assert!(run(&accounts, "member lab --remove alice").is_err());
        run(&accounts, "remove lab").unwrap();
        assert!(run(&accounts, "remove lab").is_err());
    }
}
