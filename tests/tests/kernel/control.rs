//! Who may do what over the control socket, by the kernel's word.

use std::process::{Command, Output};

use portcullis_tests::{
    agent::Agent,
    locate,
    process::{PATIENCE, finish_within},
};
use serde_json::Value;

use crate::stage::{ADMIN, ADMIN_NEIGHBOUR, STRANGER, Wire};

const NOBODY: u32 = 65534;
const ADMINS: u32 = 41_001;
const BANNERS: u32 = 41_002;
const READERS: u32 = 41_003;

/// Sends a request as a user with these groups; gives status and body.
fn request(agent: &Agent, groups: [u32; 2], method: &str, path: &str, body: &str) -> (u16, Value) {
    let [primary, supplementary] = groups;
    let output: Output = finish_within(
        Command::new("setpriv")
            .args([
                &format!("--reuid={NOBODY}"),
                &format!("--regid={primary}"),
                &format!("--groups={supplementary}"),
            ])
            .args([
                "curl",
                "--silent",
                "--show-error",
                "--max-time",
                "10",
                "--write-out",
                "\n%{http_code}",
            ])
            .args(["--request", method, "--data", body, "--unix-socket"])
            .arg(&agent.socket)
            .arg(format!("http://agent{path}")),
        PATIENCE,
    )
    .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text
        .rsplit_once('\n')
        .unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (
        status.parse().unwrap(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

#[test]
fn each_role_may_do_its_part_and_not_its_neighbours() {
    let wire = Wire::new();
    let agent = wire.agent_with(&format!(
        "admin_groups = [{ADMINS}]\nban_groups = [{BANNERS}]\nread_groups = [{READERS}]\n"
    ));
    let ban = r#"{"source":"198.51.100.7/32","lifetime_seconds":600,"reason":"test"}"#;
    let list = r#"{"entries":[{"prefix":"198.51.100.0/24"}]}"#;
    for (who, groups, wanted) in [
        ("nobody", [NOBODY, NOBODY], [403, 403, 403, 403, 403]),
        ("a reader", [READERS, NOBODY], [200, 200, 403, 403, 403]),
        (
            "a reader by a supplementary group",
            [NOBODY, READERS],
            [200, 200, 403, 403, 403],
        ),
        ("the proxy", [BANNERS, NOBODY], [403, 200, 201, 403, 403]),
        (
            "the proxy by a supplementary group",
            [NOBODY, BANNERS],
            [403, 200, 201, 403, 403],
        ),
        (
            "an administrator",
            [NOBODY, ADMINS],
            [200, 200, 201, 200, 200],
        ),
    ] {
        let answers = [
            request(&agent, groups, "GET", "/v1/status", ""),
            request(&agent, groups, "GET", "/v1/bans", ""),
            request(&agent, groups, "POST", "/v1/bans", ban),
            request(&agent, groups, "DELETE", "/v1/bans/198.51.100.7%2F32", ""),
            request(&agent, groups, "POST", "/v1/allow", list),
        ];
        assert_eq!(
            answers.each_ref().map(|(status, _)| *status),
            wanted,
            "{who}: {answers:?}"
        );
        for (_, body) in answers.iter().filter(|(status, _)| *status == 403) {
            assert_eq!(body.pointer("/error/code"), Some(&Value::from("forbidden")));
        }
    }
}

#[test]
fn a_protected_address_can_not_be_banned_and_its_neighbour_can() {
    let wire = Wire::new();
    let agent = wire.agent_with(&format!("ban_groups = [{BANNERS}]\n"));
    let ban = |source: &str| {
        let body = format!(r#"{{"source":"{source}","lifetime_seconds":600,"reason":"test"}}"#);
        request(&agent, [BANNERS, BANNERS], "POST", "/v1/bans", &body)
    };
    for protected in [
        ADMIN,
        "192.0.2.0/24",
        "127.0.0.1",
        "::1",
        "::ffff:192.0.2.10",
    ] {
        let (status, body) = ban(protected);
        assert_eq!(
            (status, body.pointer("/error/code")),
            (409, Some(&Value::from("protected"))),
            "{protected}: {body}"
        );
    }
    let (status, body) = ban(ADMIN_NEIGHBOUR);
    assert_eq!(status, 201, "{body}");
    assert_eq!(body["source"], format!("{ADMIN_NEIGHBOUR}/32"));
    assert_eq!(body["by"], "nobody");
    assert!(
        body["expires"].is_string() && body["reason"] == "test",
        "{body}"
    );
}

#[test]
fn bad_requests_are_answered_with_what_is_wrong() {
    let wire = Wire::new();
    let agent = wire.agent_with(&format!("admin_groups = [{ADMINS}]\n"));
    for (method, path, body, wanted, words) in [
        (
            "POST",
            "/v1/bans",
            r#"{"source":"192.0.2.66/24","lifetime_seconds":60}"#,
            400,
            "did you mean 192.0.2.0/24?",
        ),
        (
            "POST",
            "/v1/bans",
            r#"{"source":"nobody","lifetime_seconds":60}"#,
            400,
            "neither an address",
        ),
        (
            "POST",
            "/v1/bans",
            r#"{"source":"192.0.2.66","lifetime_seconds":0}"#,
            400,
            "at least one second",
        ),
        (
            "POST",
            "/v1/bans",
            r#"{"source":"192.0.2.66","lifetime_seconds":18446744073709551615}"#,
            400,
            "max_lifetime",
        ),
        (
            "POST",
            "/v1/bans",
            r#"{"source":"0.0.0.0/1","lifetime_seconds":60}"#,
            409,
            "protected",
        ),
        (
            "POST",
            "/v1/bans",
            r#"{"source":"198.0.0.0/8","lifetime_seconds":60}"#,
            400,
            "widest",
        ),
        (
            "POST",
            "/v1/bans",
            r#"{"source":"192.0.2.66","lifetime_seconds":60,"extra":1}"#,
            400,
            "unknown field",
        ),
        ("POST", "/v1/bans", "not json", 400, "expected"),
        (
            "PUT",
            "/v1/allow",
            r#"{"entries":[{"prefix":"192.0.2.66"},{"prefix":"192.0.2.66/8"}]}"#,
            400,
            "192.0.0.0/8",
        ),
        (
            "DELETE",
            "/v1/allow",
            r#"{"prefixes":["203.0.113.0/24"]}"#,
            404,
            "not on the allowlist",
        ),
        ("DELETE", "/v1/bans/192.0.2.66", "", 404, "not banned"),
        ("GET", "/v2/status", "", 404, "no such resource"),
    ] {
        let (status, answer) = request(&agent, [ADMINS, ADMINS], method, path, body);
        let message = answer
            .pointer("/error/message")
            .and_then(Value::as_str)
            .unwrap_or_default();
        assert!(
            status == wanted && message.contains(words),
            "{method} {path} {body}: {status} {answer}"
        );
    }
    let list = agent.command(&["allow", "list"]).unwrap();
    assert!(!list.contains(STRANGER), "nothing was changed: {list}");
}

#[test]
fn changes_are_in_the_journal_and_the_verifier_accepts_it() {
    let wire = Wire::new();
    let mut agent = wire.agent();
    agent
        .command(&["ban", STRANGER, "--for", "10m", "--reason", "test"])
        .unwrap();
    agent.command(&["unban", STRANGER]).unwrap();
    assert!(agent.process.terminate().unwrap().success());
    let mut lines = String::new();
    for entry in std::fs::read_dir(&agent.journal).unwrap().flatten() {
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            lines.push_str(&std::fs::read_to_string(entry.path()).unwrap());
        }
    }
    for kind in ["app.start", "allow.change", "ban.change", "app.stop"] {
        assert!(lines.contains(&format!("\"{kind}\"")), "{kind} in {lines}");
    }
    assert_eq!(lines.matches("\"ban.change\"").count(), 2);
    let verdict = finish_within(
        Command::new(locate::binary("portcullis-verify").unwrap())
            .arg(&agent.journal)
            .arg("--key")
            .arg(agent.folder().join("journal.key.pub")),
        PATIENCE,
    )
    .unwrap();
    assert!(
        verdict.status.success(),
        "{}",
        String::from_utf8_lossy(&verdict.stdout)
    );
}
