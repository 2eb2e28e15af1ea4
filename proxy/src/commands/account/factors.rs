//! Passwords, authenticators and recovery codes.

use std::io::{Read, Write};

use anyhow::{Context as _, ensure};
use chrono::Utc;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::Streams;
use crate::{
    accounts::{AccountName, Accounts, Administration, RecoveryHash},
    auth::{
        Secret,
        password::{self, Cost, Hasher, PasswordPolicy},
        recovery,
        totp::{Algorithm, Authenticator, Code, Digits},
    },
};

pub(super) fn set_password(
    accounts: &Accounts,
    administration: &Administration<'_>,
    name: &AccountName,
    policy: &PasswordPolicy,
    from_stdin: bool,
    streams: &mut Streams<'_>,
) -> anyhow::Result<()> {
    let former = accounts.former_passwords(name)?;
    let password = if from_stdin {
        first_line(streams.input)?
    } else {
        ask_twice()?
    };
    let hasher = Hasher::with_cost(policy.cost)?;
    let phc = policy.hash(&hasher, name.as_str(), &password, &former)?;
    administration.set_password(name, &phc)?;
    Ok(())
}

pub(super) fn enroll_totp(
    administration: &Administration<'_>,
    name: &AccountName,
    algorithm: Algorithm,
    digits: u8,
    json: bool,
    streams: &mut Streams<'_>,
) -> anyhow::Result<()> {
    let digits =
        Digits::from_count(digits).with_context(|| format!("--digits {digits}: use 6 or 8"))?;
    let authenticator = Authenticator::generate(algorithm, digits)?;
    administration.enroll_totp(name, &authenticator)?;
    show_secret(name, &authenticator, json, streams.output)
}

pub(super) fn resync_totp(
    administration: &Administration<'_>,
    name: &AccountName,
    from_stdin: bool,
    streams: &mut Streams<'_>,
) -> anyhow::Result<()> {
    let codes = if from_stdin {
        two_lines(streams.input)?
    } else {
        ["First code: ", "Next code: "].map(|prompt| {
            rpassword::prompt_password(prompt)
                .map(Zeroizing::new)
                .context("read the code from the terminal; use --codes-stdin without one")
        })
    };
    let [first, second] = codes;
    let codes = [first?, second?].map(|code| Code::parse(code.trim_end().as_bytes()));
    let drift = administration.resync_totp(name, codes, Utc::now())?;
    let (seconds, direction) = match drift.seconds() {
        0 => {
            return Ok(writeln!(
                streams.output,
                "its clock agrees with the gateway's"
            )?);
        }
        ahead @ 1.. => (ahead, "ahead of"),
        behind => (-behind, "behind"),
    };
    writeln!(
        streams.output,
        "its clock is some {seconds} s {direction} the gateway's; codes are accepted accordingly"
    )?;
    Ok(())
}

pub(super) fn issue_recovery_codes(
    administration: &Administration<'_>,
    name: &AccountName,
    cost: Cost,
    json: bool,
    streams: &mut Streams<'_>,
) -> anyhow::Result<()> {
    let codes = recovery::generate()?;
    let hasher = Hasher::with_cost(cost)?;
    let hashes = codes
        .iter()
        .map(|code| {
            Ok(RecoveryHash {
                number: code.number(),
                phc: hasher.hash(&code.secret())?,
            })
        })
        .collect::<Result<Vec<_>, password::PasswordError>>()?;
    administration.set_recovery_codes(name, &hashes)?;
    let written: Vec<_> = codes.iter().map(|code| code.written()).collect();
    if json {
        let list: Vec<Value> = written.iter().map(|code| code.as_str().into()).collect();
        let line = Zeroizing::new(Value::from(list).to_string());
        writeln!(streams.output, "{}", *line)?;
        return Ok(());
    }
    for code in written {
        writeln!(streams.output, "{}", *code)?;
    }
    writeln!(
        streams.output,
        "Each is accepted once in place of a one-time password; they are not shown again."
    )?;
    Ok(())
}

pub(super) fn after_restore(
    administration: &Administration<'_>,
    streams: &mut Streams<'_>,
) -> anyhow::Result<()> {
    let without = administration.after_restore(Utc::now())?;
    writeln!(
        streams.output,
        "one-time codes are accepted again from the next one on; what was changed after the backup is undone: \
         look for admin.account records since then, above all of disabled accounts and removed keys"
    )?;
    if !without.is_empty() {
        let names: Vec<_> = without.iter().map(AccountName::as_str).collect();
        writeln!(
            streams.output,
            "issue recovery codes again to: {}",
            names.join(" ")
        )?;
    }
    Ok(())
}

pub(super) fn first_line(input: &mut dyn Read) -> anyhow::Result<Secret> {
    let limit = u64::try_from(password::MAX_BYTES)? + 2;
    let mut bytes = Zeroizing::new(Vec::with_capacity(password::MAX_BYTES + 2));
    input
        .take(limit)
        .read_to_end(&mut bytes)
        .context("read the password from standard input")?;
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or(&[]);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Secret::from(line.to_vec()))
}

fn two_lines(input: &mut dyn Read) -> anyhow::Result<[anyhow::Result<Zeroizing<String>>; 2]> {
    const LONGEST: u64 = 64;
    let mut text = Zeroizing::new(String::new());
    input
        .take(LONGEST)
        .read_to_string(&mut text)
        .context("read the codes from standard input")?;
    let mut lines = text.lines();
    let mut next = || {
        lines
            .next()
            .map(|line| Zeroizing::new(line.to_owned()))
            .context("standard input has to have two lines, a code in each")
    };
    Ok([next(), next()])
}

fn ask_twice() -> anyhow::Result<Secret> {
    let ask = |prompt| {
        rpassword::prompt_password(prompt)
            .map(Zeroizing::new)
            .context("read the password from the terminal; use --password-stdin without one")
    };
    let password = ask("New password: ")?;
    let again = ask("Again: ")?;
    ensure!(password == again, "the two passwords differ");
    Ok(Secret::from(password.as_str()))
}

fn show_secret(
    name: &AccountName,
    authenticator: &Authenticator,
    json: bool,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    let uri = authenticator.uri(name.as_str());
    let base32 = authenticator.base32();
    if json {
        let line = Zeroizing::new(json!({ "secret": *base32, "uri": *uri }).to_string());
        writeln!(output, "{}", *line)?;
        return Ok(());
    }
    let code = QrCode::with_error_correction_level(uri.as_bytes(), EcLevel::L)
        .context("draw the QR code")?;
    // Terminals are dark: the light modules are the ones to draw.
    let drawing = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    writeln!(output, "{drawing}\n\n{}\nsecret: {}", *uri, *base32)?;
    writeln!(
        output,
        "Scan it with an authenticator app; it is not shown again."
    )?;
    if (authenticator.algorithm, authenticator.digits) != (Algorithm::Sha1, Digits::Six) {
        writeln!(
            output,
            "Some apps ignore the algorithm or the length: `account resync-totp {name}` with the first two codes tells."
        )?;
    }
    Ok(())
}
