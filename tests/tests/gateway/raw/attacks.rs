//! Attacks on the order of things: users switched, services renamed, prompts answered twice, channels opened too early.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use portcullis_tests::process::PATIENCE;
use portcullis_tests::raw_ssh::{
    Heard, Message, Transport, UserKey, is_failure, is_partial_success, number,
};

use super::{Story, Target};

const SUCCESS: &[u8] = &[number::USERAUTH_SUCCESS];

/// Takes the steps where authentication begins, and leaves. They must not have led anywhere.
fn attack(target: &Target, steps: impl FnOnce(&mut Transport) -> Result<()>) -> Result<Story> {
    let mut transport = target.ready()?;
    let source = transport.local_address()?;
    steps(&mut transport)?;
    drop(transport);
    target.nobody_got_in(source)
}

/// Sends the message; the answer must be a failure without partial success, or the end of the connection.
fn fails(transport: &mut Transport, message: &Message) -> Result<()> {
    transport.send(message)?;
    match transport.hear()? {
        Heard::Closed => Ok(()),
        Heard::Message(answer) => {
            ensure!(
                is_failure(&answer) || answer.first() == Some(&number::DISCONNECT),
                "the server said {answer:?}"
            );
            Ok(())
        }
    }
}

/// Takes the steps where authentication begins, and sends messages that have no place there. The server says why it ends
/// the connection, and nothing else.
fn out_of_place(
    target: &Target,
    steps: impl FnOnce(&mut Transport) -> Result<()>,
    messages: &[Message],
) -> Result<()> {
    let mut transport = target.ready()?;
    let source = transport.local_address()?;
    steps(&mut transport)?;
    transport.send_together(messages)?;
    let heard = transport.hear_to_the_end()?;
    ensure!(
        heard
            .iter()
            .all(|heard| heard.first() == Some(&number::DISCONNECT)),
        "the server said {heard:?}"
    );
    let story = target.nobody_got_in(source)?;
    ensure!(story.close_reason()? == "unexpected_message", "{story:?}");
    Ok(())
}

#[test]
fn another_user_begins_anew() -> Result<()> {
    let target = Target::shared()?;
    let (alice, bob) = (&target.alice, &target.bob);
    attack(&target, |transport| {
        transport.show_key(alice)?;
        for user in [bob, alice, bob] {
            let answer = transport.ask(&Message::password(&user.name, &user.password))?;
            // A first factor of its own, never the second of another's.
            ensure!(is_partial_success(&answer), "{}: {answer:?}", user.name);
        }
        Ok(())
    })?;
    // The nearest case that is allowed: the same two factors of one user.
    let mut transport = target.ready()?;
    let password = Message::password(&bob.name, &bob.password);
    ensure!(is_partial_success(&transport.ask(&password)?));
    let key = UserKey::read(&bob.key)?.request(transport.session_id()?, &bob.name);
    let answer = transport.ask(&key)?;
    ensure!(answer == SUCCESS, "{answer:?}");
    Ok(())
}

#[test]
fn another_user_has_no_part_in_an_open_prompt() -> Result<()> {
    let target = Target::shared()?;
    let (alice, bob) = (&target.alice, &target.bob);
    attack(&target, |transport| {
        transport.send_together(&[
            Message::keyboard_interactive(&alice.name),
            Message::none(&bob.name),
            Message::answers(&[&alice.password]),
        ])?;
        transport.expect(number::USERAUTH_INFO_REQUEST)?;
        let answer = transport.expect(number::USERAUTH_FAILURE)?;
        ensure!(is_failure(&answer), "{answer:?}");
        let heard = transport.hear_to_the_end()?;
        let accepted = heard.iter().any(|heard| heard == SUCCESS);
        ensure!(!accepted, "{heard:?}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn only_the_connection_service_is_served() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    for service in [
        "",
        "ssh-userauth",
        "ssh-connection\0",
        "SSH-CONNECTION",
        "sftp",
    ] {
        for (method, field) in [("password", bob.password.as_str()), ("none", "")] {
            let mut request = Message::request_for(&bob.name, service, method);
            if method == "password" {
                request = request.byte(0).string(field);
            }
            attack(&target, |transport| {
                transport.show_key(bob)?;
                fails(transport, &request)
            })
            .with_context(|| format!("{method} for {service:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_service_of_another_name_is_not_started() -> Result<()> {
    let target = Target::shared()?;
    for service in ["", "ssh-connection", "ssh-userauth\0", "ssh-userauth "] {
        let mut transport = Transport::connect(target.address())?;
        transport.identify()?;
        transport.exchange_keys()?;
        transport.send_together(&[
            Message::service_request(service),
            Message::password(&target.bob.name, &target.bob.password),
            Message::open_session(),
        ])?;
        transport.finish()?;
        let heard = transport.hear_to_the_end()?;
        ensure!(
            heard
                .iter()
                .all(|heard| heard.first() == Some(&number::DISCONNECT)),
            "{service:?}: {heard:?}"
        );
        target.nobody_got_in(transport.local_address()?)?;
    }
    Ok(())
}

#[test]
fn a_prompt_has_exactly_one_answer() -> Result<()> {
    let target = Target::shared()?;
    let password = target.bob.password.as_str();
    let answer = |count: u32, answers: &[&str]| {
        let message = Message::new(number::USERAUTH_INFO_RESPONSE).u32(count);
        answers
            .iter()
            .fold(message, |message, answer| message.string(answer))
    };
    for (what, message) in [
        ("no answer", answer(0, &[])),
        ("two answers", answer(2, &[password, password])),
        ("one, and a wrong one", answer(2, &[password, "wrong"])),
        ("many", answer(1000, &vec![password; 1000])),
        ("none where one is announced", answer(1, &[])),
        (
            "two where one is announced",
            answer(1, &[password, password]),
        ),
        ("one where none is announced", answer(0, &[password])),
        ("a trailing byte", answer(1, &[password]).byte(0)),
    ] {
        attack(&target, |transport| {
            transport.show_key(&target.bob)?;
            transport.send(&Message::keyboard_interactive(&target.bob.name))?;
            transport.expect(number::USERAUTH_INFO_REQUEST)?;
            fails(transport, &message)
        })
        .context(what)?;
    }
    // The nearest case that is allowed.
    let mut transport = target.ready()?;
    transport.show_key(&target.bob)?;
    transport.send(&Message::keyboard_interactive(&target.bob.name))?;
    transport.expect(number::USERAUTH_INFO_REQUEST)?;
    let answer = transport.ask(&answer(1, &[password]))?;
    ensure!(answer == SUCCESS, "{answer:?}");
    Ok(())
}

#[test]
fn an_answer_without_a_prompt_is_none() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    attack(&target, |transport| {
        fails(transport, &Message::answers(&[&bob.password]))
    })?;
    attack(&target, |transport| {
        transport.show_key(bob)?;
        // The library repeats the flag of the answer before, which was partial success.
        transport.send(&Message::answers(&[&bob.password]))?;
        let heard = transport.hear_to_the_end()?;
        ensure!(!heard.iter().any(|heard| heard == SUCCESS), "{heard:?}");
        Ok(())
    })?;
    // Another method takes the prompt back (RFC 4256 section 3.4).
    attack(&target, |transport| {
        transport.show_key(bob)?;
        transport.send(&Message::keyboard_interactive(&bob.name))?;
        transport.expect(number::USERAUTH_INFO_REQUEST)?;
        fails(transport, &Message::none(&bob.name))?;
        fails(transport, &Message::answers(&[&bob.password]))
    })?;
    Ok(())
}

#[test]
fn nothing_of_the_connection_protocol_is_served_before_success() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    let early = [
        Message::open_session(),
        Message::forward_request(),
        Message::new(number::CHANNEL_REQUEST)
            .u32(0)
            .string("subsystem")
            .byte(1)
            .string("sftp"),
        Message::new(number::CHANNEL_REQUEST)
            .u32(0)
            .string("exec")
            .byte(1)
            .string("id"),
        // SFTP's INIT.
        Message::new(94).u32(0).string([0, 0, 0, 5, 1, 0, 0, 0, 3]),
    ];
    for message in &early {
        let alone = std::slice::from_ref(message);
        out_of_place(&target, |_| Ok(()), alone)?;
        out_of_place(&target, |transport| transport.show_key(bob), alone)?;
    }
    // After the login they are served, and a request to a channel that nobody opened is not.
    let mut transport = target.ready()?;
    transport.log_in(bob)?;
    transport.send(&early[2])?;
    transport.send(&Message::open_session())?;
    transport.expect(number::CHANNEL_OPEN_CONFIRMATION)?;
    Ok(())
}

#[test]
fn the_client_does_not_say_who_is_authenticated() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    for message in [
        Message::new(number::USERAUTH_SUCCESS),
        Message::new(number::USERAUTH_PK_OK),
        Message::new(number::SERVICE_ACCEPT).string("ssh-connection"),
    ] {
        let messages = [message, Message::open_session()];
        out_of_place(&target, |_| Ok(()), &messages)?;
        out_of_place(&target, |transport| transport.show_key(bob), &messages)?;
    }
    Ok(())
}

#[test]
fn requests_that_do_not_wait_for_each_other_are_judged_one_by_one() -> Result<()> {
    let target = Target::shared()?;
    let (alice, bob) = (&target.alice, &target.bob);
    attack(&target, |transport| {
        transport.send_together(&[
            Message::password(&alice.name, &alice.password),
            Message::password(&bob.name, &bob.password),
            Message::password(&alice.name, &alice.password),
        ])?;
        for _ in 0..3 {
            let answer = transport.expect(number::USERAUTH_FAILURE)?;
            ensure!(is_partial_success(&answer), "{answer:?}");
        }
        Ok(())
    })?;
    Ok(())
}

#[test]
fn nobody_changes_a_password_here() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    let change = Message::request(&bob.name, "password")
        .byte(1)
        .string(&bob.password)
        .string("another-Secret-2026");
    attack(&target, |transport| {
        fails(transport, &change)?;
        transport.show_key(bob)?;
        fails(transport, &change)
    })?;
    target.is_well()
}

#[test]
fn the_method_none_completes_nothing() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    attack(&target, |transport| {
        fails(transport, &Message::none(&bob.name))?;
        transport.show_key(bob)?;
        fails(transport, &Message::none(&bob.name))?;
        fails(transport, &Message::request(&bob.name, ""))?;
        fails(transport, &Message::request(&bob.name, "hostbased"))?;
        fails(transport, &Message::request(&bob.name, "gssapi-with-mic"))
    })?;
    Ok(())
}

#[test]
fn names_of_any_length_and_content_are_nobody() -> Result<()> {
    let target = Target::shared()?;
    let long = "a".repeat(64 << 10);
    let names: [&[u8]; 9] = [
        b"",
        long.as_bytes(),
        b"bob\0",
        b"bob\n{\"event\":\"auth.result\",\"outcome\":\"success\"}",
        b"\x1b[2J\x1b]0;owned\x07",
        b"\xff\xfe bob",
        "b\u{2060}ob".as_bytes(),
        b"BOB",
        b"../bob' OR '1'='1",
    ];
    for name in names {
        let story = attack(&target, |transport| {
            fails(transport, &Message::password(name, &target.bob.password))
        })
        .with_context(|| format!("{:?}", String::from_utf8_lossy(&name[..name.len().min(40)])))?;
        for step in story.events("auth.step") {
            let recorded = step.pointer("/user/name").and_then(|name| name.as_str());
            // Cut after 128 bytes, and in base64 if they could deceive a reader.
            ensure!(recorded.is_some_and(|name| name.len() < 256), "{step}");
        }
    }
    target.proxy.journal_is_sound()
}

#[test]
fn methods_of_any_name_lead_nowhere() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    let long = "m".repeat(64 << 10);
    for method in [
        long.as_bytes(),
        b"",
        b"password,publickey",
        b"Password",
        b"none\0",
        b"\xff\xff",
    ] {
        attack(&target, |transport| {
            transport.show_key(bob)?;
            fails(
                transport,
                &Message::request(&bob.name, method)
                    .byte(0)
                    .string(&bob.password),
            )
        })
        .with_context(|| {
            format!(
                "{:?}",
                String::from_utf8_lossy(&method[..method.len().min(20)])
            )
        })?;
    }
    Ok(())
}

#[test]
fn answers_of_any_size_are_wrong_answers() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    for (what, code) in [
        ("1 MB", vec![b'1'; 1_000_000]),
        ("200 KiB", vec![b'1'; 200 << 10]),
        ("control characters", b"\0\0\0\0\0\0".to_vec()),
        ("not UTF-8", vec![0xff; 6]),
    ] {
        attack(&target, |transport| {
            // A first factor that is wrong: the account's own count is not touched.
            transport.send(&Message::keyboard_interactive(&bob.name))?;
            transport.expect(number::USERAUTH_INFO_REQUEST)?;
            transport.send(&Message::answers(&["wrong"]))?;
            transport.expect(number::USERAUTH_INFO_REQUEST)?;
            // More than a packet may have is not read to its end.
            if transport.send(&Message::answers(&[code])).is_err() {
                return Ok(());
            }
            match transport.hear()? {
                Heard::Closed => Ok(()),
                Heard::Message(answer) if is_failure(&answer) => Ok(()),
                Heard::Message(answer) => bail!("the server said {answer:?}"),
            }
        })
        .context(what)?;
    }
    Ok(())
}

#[test]
fn who_does_not_begin_with_an_identification_is_cut_off() -> Result<()> {
    let target = Target::shared()?;
    let long = vec![b'A'; 64 << 10];
    let identification = [b"SSH-2.0-".as_slice(), &long, b"\r\n"].concat();
    let lines = b"\r\n".repeat(4096);
    let beginnings: [&[u8]; 7] = [
        &long,
        &identification,
        &lines,
        b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
        b"SSH-1.5-old\r\n",
        b"\0\0\0\x0c\x0a\x14\r\n",
    ];
    for beginning in beginnings {
        let mut transport = Transport::connect(target.address())?;
        let source = transport.local_address()?;
        // The server may have gone before all is sent.
        let _ = transport.send_bytes(beginning);
        let _ = transport.receive_identification();
        let heard = transport.hear_to_the_end().unwrap_or_default();
        ensure!(heard.len() <= 1, "{heard:?}");
        let story = target.nobody_got_in(source)?;
        ensure!(story.close_reason()? == "broken", "{story:?}");
    }
    Ok(())
}

#[test]
fn who_leaves_during_the_key_exchange_leaves_one_record() -> Result<()> {
    let target = Target::shared()?;
    let bye = Message::new(number::DISCONNECT)
        .u32(11)
        .string("bye")
        .string("");
    for steps in 0..3 {
        for says_so in [true, false] {
            let mut transport = Transport::connect(target.address())?;
            let source = transport.local_address()?;
            transport.identify()?;
            if steps > 0 {
                transport.send_key_exchange_init()?;
                transport.receive_key_exchange_init()?;
            }
            if steps > 1 {
                transport.send_ephemeral_key()?;
            }
            if says_so {
                transport.send(&bye)?;
            }
            drop(transport);
            let story = target.nobody_got_in(source)?;
            ensure!(story.close_reason()? == "client", "{steps}: {story:?}");
        }
    }
    Ok(())
}

/// Sends the bytes that `next` gives until the server has gone. Returns how long that took.
fn drip(
    transport: &mut Transport,
    mut next: impl FnMut(&mut Transport) -> Result<()>,
) -> Result<Duration> {
    let begun = Instant::now();
    transport.set_patience(Duration::from_millis(50))?;
    while begun.elapsed() < PATIENCE {
        if next(transport).is_err() || matches!(transport.hear(), Ok(Heard::Closed)) {
            return Ok(begun.elapsed());
        }
    }
    bail!("the connection is still open after {PATIENCE:?}");
}

#[test]
fn who_only_keeps_busy_is_cut_at_the_login_grace() -> Result<()> {
    let target = Target::start(&[("login_grace_seconds", "3")])?;
    let ignore = Message::new(number::IGNORE).string("");
    let mut sources: Vec<SocketAddr> = Vec::new();

    let mut silent = Transport::connect(target.address())?;
    sources.push(silent.local_address()?);
    silent.receive_identification()?;
    drip(&mut silent, |silent| silent.send_bytes(b"S"))?;

    let mut busy = target.ready()?;
    sources.push(busy.local_address()?);
    let took = drip(&mut busy, |busy| busy.send(&ignore))?;
    ensure!(took > Duration::from_secs(1), "cut after {took:?}");

    let mut offering = target.ready()?;
    sources.push(offering.local_address()?);
    offering.show_key(&target.bob)?;
    drip(&mut offering, |offering| offering.send(&ignore))?;

    for (source, reasons) in sources.into_iter().zip([
        // It may have sent more than an identification has by then.
        &["login_grace", "broken"][..],
        &["login_grace"],
        &["login_grace"],
    ]) {
        let story = target.nobody_got_in(source)?;
        ensure!(reasons.contains(&story.close_reason()?), "{story:?}");
    }
    Ok(())
}
