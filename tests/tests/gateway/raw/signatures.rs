//! Signatures over something else, by somebody else, or used before; and keys that are none.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_tests::files;
use portcullis_tests::process::succeed;
use portcullis_tests::raw_ssh::{
    Heard, Message, Transport, UserKey, is_failure, is_partial_success, number,
};

use super::{Story, Target};

const ED25519: &str = "ssh-ed25519";

/// The request is refused: by an answer, or by the end of the connection.
fn refused(target: &Target, request: impl FnOnce(&Transport) -> Result<Message>) -> Result<Story> {
    let mut transport = target.ready()?;
    let source = transport.local_address()?;
    let message = request(&transport)?;
    transport.send(&message)?;
    match transport.hear()? {
        Heard::Closed => {}
        Heard::Message(answer) => ensure!(
            is_failure(&answer) || answer.first() == Some(&number::DISCONNECT),
            "the server said {answer:?}"
        ),
    }
    drop(transport);
    target.nobody_got_in(source)
}

#[test]
fn a_signature_counts_in_its_own_session_only() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    let key = UserKey::read(&bob.key)?;
    let mut first = target.ready()?;
    let request = key.request(first.session_id()?, &bob.name);
    ensure!(is_partial_success(&first.ask(&request)?));
    refused(&target, |_| Ok(request.clone()))?;
    // In its own session it is the same factor again, not a second one.
    let source = first.local_address()?;
    for _ in 0..3 {
        ensure!(is_partial_success(&first.ask(&request)?));
    }
    drop(first);
    target.nobody_got_in(source)?;
    Ok(())
}

#[test]
fn a_signature_over_anything_else_is_none() -> Result<()> {
    let target = Target::shared()?;
    let (alice, bob) = (&target.alice, &target.bob);
    let key = UserKey::read(&bob.key)?;
    let request = key.unsigned(&bob.name);
    let other = |service: &str, algorithm: &str| {
        Message::request_for(&bob.name, service, "publickey")
            .byte(1)
            .string(algorithm)
            .string(key.blob())
    };
    let signed = |signature: Vec<u8>| request.clone().string(signature);

    refused(&target, |_| Ok(signed(key.signature(&[0; 32], &request)))).context("session")?;
    refused(&target, |_| Ok(signed(key.signature(&[], &request)))).context("no session")?;
    for (what, message) in [
        ("user", key.unsigned(&alice.name)),
        ("service", other("ssh-userauth", ED25519)),
        ("algorithm", other("ssh-connection", "rsa-sha2-512")),
        ("question", key.offer(&bob.name)),
        ("method", Message::none(&bob.name)),
    ] {
        refused(&target, |transport| {
            Ok(signed(key.signature(transport.session_id()?, &message)))
        })
        .context(what)?;
    }
    // The request names another algorithm than the key's, and the signature is over that very request.
    for algorithm in [
        "rsa-sha2-512",
        "ssh-rsa",
        "ssh-ed25519-cert-v01@openssh.com",
        "sk-ssh-ed25519@openssh.com",
        "none",
        "",
    ] {
        refused(&target, |transport| {
            let request = other("ssh-connection", algorithm);
            let signature = key.signature(transport.session_id()?, &request);
            Ok(request.string(signature))
        })
        .context(algorithm)?;
    }
    Ok(())
}

/// The library refuses these without asking the gateway.
#[test]
fn what_the_library_refuses_by_itself_is_on_record_with_its_reason() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    let key = UserKey::read(&bob.key)?;
    let name = bob.name.as_str();
    let unsigned = key.unsigned(name);
    let named = |algorithm: &str| {
        Message::request(name, "publickey")
            .byte(1)
            .string(algorithm)
            .string(key.blob())
    };
    let certificate = Message::request(name, "publickey")
        .byte(0)
        .string("ssh-ed25519-cert-v01@openssh.com")
        .string(forged_certificate(&target)?);
    let change = Message::request(name, "password")
        .byte(1)
        .string(&bob.password)
        .string("another-Secret-2026");
    let cases = [
        (
            "publickey",
            "bad_signature",
            unsigned.clone().string(key.signature(&[0; 32], &unsigned)),
        ),
        (
            "publickey",
            "signature_algorithm",
            named("rsa-sha2-512").string(key.signature(&[0; 32], &unsigned)),
        ),
        ("publickey", "certificate_bad_signature", certificate),
        ("password", "password_change", change),
        (
            "hostbased",
            "unknown_method",
            Message::request(name, "hostbased"),
        ),
    ];
    for (method, reason, message) in cases {
        let story = refused(&target, |_| Ok(message))?;
        let [step] = story.events("auth.step")[..] else {
            anyhow::bail!("{reason}: {:#?}", story.0);
        };
        ensure!(step["reason"] == reason, "{reason}: {step}");
        ensure!(step["outcome"] == "failure", "{step}");
        ensure!(step["user"]["name"] == name, "{step}");
        ensure!(step["body"]["method"] == method, "{step}");
        ensure!(step["body"]["refused_by"] == "library", "{step}");
        let [result] = story.events("auth.result")[..] else {
            anyhow::bail!("{reason}: {:#?}", story.0);
        };
        ensure!(result["body"]["fail_count"] == 1, "{result}");
    }
    // The nearest case that is allowed: the gateway judges it, and it is on record once.
    let mut transport = target.ready()?;
    let source = transport.local_address()?;
    let request = key.request(transport.session_id()?, name);
    ensure!(is_partial_success(&transport.ask(&request)?));
    drop(transport);
    let story = target.nobody_got_in(source)?;
    let [step] = story.events("auth.step")[..] else {
        anyhow::bail!("{:#?}", story.0);
    };
    ensure!(step["outcome"] == "success", "{step}");
    ensure!(step["body"]["refused_by"].is_null(), "{step}");
    Ok(())
}

/// A user certificate for Bob's key in which one bit of the authority's signature is wrong.
fn forged_certificate(target: &Target) -> Result<Vec<u8>> {
    let folder = files::folder("forged")?;
    let authority = files::ssh_key(folder.path(), "authority")?;
    let public = folder.path().join("bob.pub");
    fs::copy(target.bob.key.with_extension("pub"), &public)?;
    succeed(
        Command::new("ssh-keygen")
            .args(["-q", "-I", "bob", "-n", "bob", "-V", "+1h", "-s"])
            .args([&authority, &public]),
    )?;
    let text = fs::read_to_string(folder.path().join("bob-cert.pub"))?;
    let blob = text
        .split(' ')
        .nth(1)
        .context("a certificate is one line")?;
    let mut blob = STANDARD.decode(blob)?;
    *blob.last_mut().context("it is not empty")? ^= 1;
    Ok(blob)
}

/// More refusals than an account's connection may have failures end it.
#[test]
fn who_is_refused_by_the_library_again_and_again_is_cut() -> Result<()> {
    let target = Target::shared()?;
    let name = &target.bob.name;
    let mut transport = target.ready()?;
    let source = transport.local_address()?;
    for _ in 0..6 {
        let answer = transport.ask(&Message::request(name, "hostbased"))?;
        ensure!(is_failure(&answer), "{answer:?}");
    }
    transport.send(&Message::none(name))?;
    transport.hear_to_the_end()?;
    let story = target.nobody_got_in(source)?;
    ensure!(story.close_reason()? == "too_many_failures", "{story:?}");
    Ok(())
}

#[test]
fn a_signature_has_its_own_form() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    let key = UserKey::read(&bob.key)?;
    let request = key.unsigned(&bob.name);
    let field = |algorithm: &str, bytes: &[u8]| {
        let fields = Message::new(0).string(algorithm).string(bytes);
        fields.bytes()[1..].to_vec()
    };
    for (what, signature) in [
        ("empty", Vec::new()),
        ("no bytes", field(ED25519, &[])),
        ("zeros", field(ED25519, &[0; 64])),
        ("short", field(ED25519, &[1; 63])),
        ("long", field(ED25519, &[1; 65])),
        ("another algorithm", field("ssh-rsa", &[1; 64])),
        ("huge", field(ED25519, &vec![1; 100_000])),
    ] {
        refused(&target, |_| Ok(request.clone().string(signature))).context(what)?;
    }
    // The flag says that there is a signature, and there is none.
    refused(&target, |_| Ok(request.clone()))?;
    Ok(())
}

#[test]
fn a_key_that_is_only_offered_opens_nothing() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    let key = UserKey::read(&bob.key)?;
    let mut transport = target.ready()?;
    let source = transport.local_address()?;
    let answer = transport.ask(&key.offer(&bob.name))?;
    ensure!(
        answer.first() == Some(&number::USERAUTH_PK_OK),
        "{answer:?}"
    );
    // The password is a first factor as if no key had been offered.
    let answer = transport.ask(&Message::password(&bob.name, &bob.password))?;
    ensure!(is_partial_success(&answer), "{answer:?}");
    drop(transport);
    target.nobody_got_in(source)?;
    Ok(())
}

#[test]
fn who_offers_one_key_and_signs_with_another_is_who_signed() -> Result<()> {
    let target = Target::shared()?;
    let (alice, bob) = (&target.alice, &target.bob);
    let (of_alice, of_bob) = (UserKey::read(&alice.key)?, UserKey::read(&bob.key)?);
    // Alice's key in the request, Bob's signature.
    refused(&target, |transport| {
        let request = of_alice.unsigned(&alice.name);
        let signature = of_bob.signature(transport.session_id()?, &request);
        Ok(request.string(signature))
    })?;
    // Alice's key offered first, then Bob's signature with Bob's key for Alice.
    for key in [of_bob, UserKey::unknown()] {
        let mut transport = target.ready()?;
        let source = transport.local_address()?;
        let answer = transport.ask(&of_alice.offer(&alice.name))?;
        ensure!(answer.first() == Some(&number::USERAUTH_PK_OK));
        let request = key.request(transport.session_id()?, &alice.name);
        ensure!(is_failure(&transport.ask(&request)?));
        let password = Message::password(&alice.name, &alice.password);
        ensure!(is_partial_success(&transport.ask(&password)?));
        drop(transport);
        target.nobody_got_in(source)?;
    }
    Ok(())
}

/// CVE-2024-5806 took the bytes of a key for the name of a file.
#[test]
fn what_is_no_key_is_not_looked_for_elsewhere() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    let key = UserKey::read(&bob.key)?;
    let own = bob.key.with_extension("pub").display().to_string();
    let truncated = key.blob()[..20].to_vec();
    // The library looks at the beginning of a key that is too long; whose it is shows at the signature.
    let huge = Message::new(0).string(ED25519).string(vec![0; 60_000]);
    let blobs: [&[u8]; 8] = [
        b"",
        own.as_bytes(),
        b"/etc/passwd",
        b"\\\\192.0.2.1\\share\\key",
        b"file:///etc/ssh/ssh_host_ed25519_key.pub",
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
        &[0xff; 51],
        &truncated,
    ];
    let long = &huge.bytes()[1..];
    let tries = blobs
        .into_iter()
        .flat_map(|blob| [(blob, false), (blob, true)])
        .chain([(long, true)]);
    for (blob, is_signed) in tries {
        refused(&target, |transport| {
            let request = Message::request(&bob.name, "publickey")
                .byte(u8::from(is_signed))
                .string(ED25519)
                .string(blob);
            Ok(if is_signed {
                let signature = key.signature(transport.session_id()?, &request);
                request.string(signature)
            } else {
                request
            })
        })
        .with_context(|| String::from_utf8_lossy(&blob[..blob.len().min(40)]).into_owned())?;
    }
    Ok(())
}
