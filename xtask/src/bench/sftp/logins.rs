//! New connections a second up to the login, and what each costs the server, beside sshd.
//!
//! sshd takes the key alone. The proxy wants two classes of factors from a person: key and password, and Argon2id then
//! costs more than all else. So the figures stand side by side without a bar.

use anyhow::Result;
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::openssh::{Openssh, Subsystem};

use super::client;
use super::figures::over;
use super::lab::Lab;
use super::side::{self, Gateway, Side};

const ONE_BY_ONE: u32 = 60;
const TOGETHER: u32 = 120;
const AT_ONCE: u32 = 8;

/// Logins a second, and milliseconds of the server's processor time for each.
struct Rates {
    one_by_one: f64,
    together: f64,
    processor: f64,
}

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let (gateway, storage) = Gateway::local(lab)?;
    let openssh = Openssh::start(lab.place(), Subsystem::External, lab.key())?;
    let rounds = lab.turns(
        &[
            gateway.side(storage.path()),
            side::sshd(&openssh, lab.key()),
        ],
        |side| rates(lab, side),
        |[ours, peer]| {
            format!(
                "one by one {:.0} against {:.0}/s, {AT_ONCE} at once {:.0} against {:.0}/s",
                ours.one_by_one, peer.one_by_one, ours.together, peer.together
            )
        },
    )?;
    gateway.verify()?;

    report.condition(
        "logins",
        format!(
            "russh client on the same processors; {ONE_BY_ONE} one by one, {TOGETHER} with {AT_ONCE} at once; sshd: key; proxy: key and password (Argon2id)"
        ),
    );
    for (position, name) in ["proxy", "openssh"].into_iter().enumerate() {
        let middle = |pick: fn(&Rates) -> f64| {
            over(&rounds, |round| round.get(position).map_or(f64::NAN, pick))
        };
        report.results.extend([
            Measure::plain(
                format!("sftp.logins.{name}"),
                middle(|rates| rates.one_by_one),
                "1/s",
            ),
            Measure::plain(
                format!("sftp.logins.{name}.{AT_ONCE}_at_once"),
                middle(|rates| rates.together),
                "1/s",
            ),
            Measure::plain(
                format!("sftp.logins.{name}.cpu"),
                middle(|rates| rates.processor),
                "ms",
            ),
        ]);
    }
    Ok(())
}

fn rates(lab: &Lab, side: &Side<'_>) -> Result<Rates> {
    let before = side.processor()?;
    let run = |count: u32, at_once: u32| -> Result<f64> {
        let seconds = client::seconds(
            lab,
            side,
            &[
                "logins",
                "--count",
                &count.to_string(),
                "--at-once",
                &at_once.to_string(),
            ],
        )?;
        Ok(f64::from(count) / seconds)
    };
    let (one_by_one, together) = (run(ONE_BY_ONE, 1)?, run(TOGETHER, AT_ONCE)?);
    Ok(Rates {
        one_by_one,
        together,
        processor: (side.processor()? - before) * 1000.0 / f64::from(ONE_BY_ONE + TOGETHER),
    })
}
