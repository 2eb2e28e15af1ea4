//! The FTP backend, in clear and with TLS: OpenSSH's sftp through the proxy against lftp that goes to the same vsftpd
//! directly.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use portcullis_tests::process::{PATIENCE, succeed_within};
use portcullis_tests::proxy::Backend;
use portcullis_tests::report::{Measure, Report};
use portcullis_tests::server::vsftpd::{Tls, Vsftpd};
use portcullis_tests::server::{PASSWORD, USER};

use super::figures::{over, plain, speed};
use super::lab::{Cost, Lab, Transfers, between, mark, same};
use super::side::{Gateway, Side};

const MEBIBYTES: u64 = 256;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    report.condition(
        "ftp",
        format!("one file of {MEBIBYTES} MiB; vsftpd; lftp get and put, one connection; ftps is explicit TLS with session reuse"),
    );
    for (row, tls) in [("ftp", Tls::None), ("ftps", Tls::ExplicitWithSessionReuse)] {
        println!("  {row}");
        let server = Vsftpd::start(lab.place(), tls)?;
        let gateway = Gateway::start(lab, Backend::vsftpd(&server), "/")?;
        let file = lab.random_file(MEBIBYTES)?;
        let rounds = lab.turns(
            &[Way::Proxy(gateway.side(&server.home)), Way::Lftp(&server)],
            |way| match way {
                Way::Proxy(side) => lab.transfer(side, &file),
                Way::Lftp(server) => transfer_with_lftp(lab, server, &file),
            },
            |[ours, lftp]| {
                format!(
                    "get {:.0} against {:.0} MiB/s, put {:.0} against {:.0} MiB/s",
                    speed(MEBIBYTES, ours.get),
                    speed(MEBIBYTES, lftp.get),
                    speed(MEBIBYTES, ours.put),
                    speed(MEBIBYTES, lftp.put)
                )
            },
        )?;
        gateway.verify()?;
        report.results.extend([
            Measure::ratio(
                format!("sftp.{row}.get.speed"),
                over(&rounds, |[ours, lftp]| lftp.get.seconds / ours.get.seconds),
                0.75,
                0.95,
            ),
            Measure::ratio(
                format!("sftp.{row}.put.speed"),
                over(&rounds, |[ours, lftp]| lftp.put.seconds / ours.put.seconds),
                0.75,
                0.95,
            ),
        ]);
        plain(report, row, ["proxy", "lftp"], MEBIBYTES, &rounds);
    }
    Ok(())
}

enum Way<'a> {
    Proxy(Side<'a>),
    Lftp(&'a Vsftpd),
}

fn transfer_with_lftp(lab: &Lab, server: &Vsftpd, file: &Path) -> Result<Transfers> {
    let stored = server.home.join("copy.bin");
    let copy = lab.folder("lftp")?.join("copy.bin");
    let put = lftp(lab, server, &format!("put {} -o copy.bin", file.display()))?;
    same(file, &stored)?;
    let get = lftp(lab, server, &format!("get copy.bin -o {}", copy.display()))?;
    same(file, &copy)?;
    fs::remove_file(stored)?;
    fs::remove_file(copy)?;
    Ok(Transfers { put, get })
}

/// Runs a command of lftp in a session that has listed the folder before, so that it is logged in.
fn lftp(lab: &Lab, server: &Vsftpd, command: &str) -> Result<Cost> {
    let home = lab.folder("marks")?;
    let marks = home.join("times");
    let mark = mark(&marks);
    let protection = match &server.certificate {
        None => "set ftp:ssl-allow no".to_owned(),
        Some(made) => format!(
            "set ftp:ssl-force yes\nset ftp:ssl-protect-data yes\nset ssl:ca-file {}",
            made.certificate.display()
        ),
    };
    succeed_within(
        Command::new("lftp")
            .env("HOME", &home)
            .arg("--norc")
            .arg("-c")
            .arg(format!(
                "set cmd:fail-exit yes\nset net:max-retries 1\nset net:timeout 20\nset xfer:clobber yes\n\
                 {protection}\nopen -u {USER},'{PASSWORD}' -p {} ftp://{}\nls\n{mark}\n{command}\n{mark}\n",
                server.address.port(),
                server.address.ip()
            )),
        10 * PATIENCE,
    )?;
    Ok(Cost {
        seconds: between(&marks)?,
        // vsftpd's own time is no part of the comparison.
        processor: f64::NAN,
    })
}
