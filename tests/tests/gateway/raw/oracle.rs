//! What a stranger hears: the same bytes, whatever is wrong.
//!
//! `cargo xtask bench auth --only oracle` measures the time, with samples enough for a judgement.

use anyhow::{Result, ensure};
use portcullis_tests::raw_ssh::{Message, Transport, UserKey};

use super::Target;

/// What is wrong.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    User,
    Password,
    Code,
}

/// All that the server says to key, password and code of which one is wrong, from the first request on.
fn transcript(target: &Target, wrong: Wrong) -> Result<Vec<Vec<u8>>> {
    let alice = &target.alice;
    let user = match wrong {
        Wrong::User => "nobody.at.all",
        Wrong::Password | Wrong::Code => &alice.name,
    };
    let password = match wrong {
        Wrong::User | Wrong::Password => "not-her-Password-26",
        Wrong::Code => &alice.password,
    };
    let mut transport = target.ready()?;
    [
        Message::none(user),
        Message::keyboard_interactive(user),
        Message::answers(&[password]),
        Message::answers(&[alice.phone.wrong_code()]),
        // The prompts of an exchange that was judged are closed.
        Message::answers(&[password]),
    ]
    .iter()
    .map(|message| transport.ask(message))
    .collect()
}

/// The same for a key that nobody has.
fn key_transcript(transport: &mut Transport, user: &str) -> Result<Vec<Vec<u8>>> {
    let key = UserKey::unknown();
    let signed = key.request(transport.session_id()?, user);
    let mut heard = Vec::new();
    for message in [Message::none(user), key.offer(user), signed] {
        let mut answer = transport.ask(&message)?;
        // PK_OK repeats the key, which is another one each time.
        if answer.ends_with(&key.blob()) {
            answer.truncate(answer.len() - key.blob().len());
        }
        heard.push(answer);
    }
    Ok(heard)
}

#[test]
fn unknown_user_wrong_password_and_wrong_code_hear_the_same_bytes() -> Result<()> {
    let target = Target::start(&[])?;
    let unknown = transcript(&target, Wrong::User)?;
    for wrong in [Wrong::Password, Wrong::Code] {
        let heard = transcript(&target, wrong)?;
        ensure!(
            heard == unknown,
            "{wrong:?}: {heard:?} instead of {unknown:?}"
        );
    }
    Ok(())
}

#[test]
fn a_wrong_key_and_an_unknown_user_hear_the_same_bytes() -> Result<()> {
    let target = Target::shared()?;
    let of_nobody = key_transcript(&mut target.ready()?, "nobody.at.all")?;
    let of_alice = key_transcript(&mut target.ready()?, &target.alice.name)?;
    ensure!(
        of_alice == of_nobody,
        "{of_alice:?} instead of {of_nobody:?}"
    );
    Ok(())
}
