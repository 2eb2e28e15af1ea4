//! Length fields that lie, at each state where one is read.

use anyhow::{Context, Result, ensure};
use portcullis_tests::raw_ssh::{Message, Transport, number};

use super::Target;

/// Where the next thing on the wire is a packet's length.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Identified,
    Exchanging,
    Encrypted,
    Authenticating,
    FirstFactor,
    LoggedIn,
}

fn bring(stage: Stage, target: &Target) -> Result<Transport> {
    let mut transport = Transport::connect(target.address())?;
    transport.identify()?;
    match stage {
        Stage::Identified => {}
        Stage::Exchanging => {
            transport.send_key_exchange_init()?;
            transport.receive_key_exchange_init()?;
        }
        Stage::Encrypted | Stage::Authenticating | Stage::FirstFactor | Stage::LoggedIn => {
            transport.exchange_keys()?;
        }
    }
    match stage {
        Stage::Identified | Stage::Exchanging | Stage::Encrypted => {}
        Stage::Authenticating => transport.request_service()?,
        Stage::FirstFactor => {
            transport.request_service()?;
            transport.show_key(&target.alice)?;
        }
        Stage::LoggedIn => {
            transport.request_service()?;
            transport.log_in(&target.alice)?;
        }
    }
    Ok(transport)
}

#[test]
fn a_length_that_lies_ends_its_connection_at_every_state() -> Result<()> {
    let target = Target::shared()?;
    for stage in [
        Stage::Identified,
        Stage::Exchanging,
        Stage::Encrypted,
        Stage::Authenticating,
        Stage::FirstFactor,
        Stage::LoggedIn,
    ] {
        for length in [0, 1, 4, 15, 256 << 10, (256 << 10) + 1, 1 << 31, u32::MAX] {
            let mut transport = bring(stage, &target)?;
            let source = transport.local_address()?;
            // Enough for the packets that are short, and for a block of the others.
            let lie = [&length.to_be_bytes()[..], &[0x5a; 64]].concat();
            transport.send_bytes(&lie)?;
            transport.finish().ok();
            transport
                .hear_to_the_end()
                .with_context(|| format!("{length} bytes at {stage:?}"))?;
            let story = target.story(source)?;
            story.is_one_connection()?;
            ensure!(
                story.got_in() == matches!(stage, Stage::LoggedIn),
                "{story:?}"
            );
        }
    }
    target.is_well()
}

#[test]
fn strings_that_are_longer_than_their_packet_are_refused() -> Result<()> {
    let target = Target::shared()?;
    let bob = &target.bob;
    for length in [u32::MAX, 1 << 31, 1 << 18, 64] {
        for message in [
            Message::new(number::USERAUTH_REQUEST)
                .u32(length)
                .raw(b"bob"),
            Message::request(&bob.name, "password").byte(0).u32(length),
            Message::request(&bob.name, "publickey")
                .byte(1)
                .string("ssh-ed25519")
                .u32(length)
                .raw(&[0; 32]),
            Message::request(&bob.name, "keyboard-interactive").u32(length),
            Message::new(number::USERAUTH_INFO_RESPONSE).u32(length),
            Message::new(number::SERVICE_REQUEST).u32(length),
        ] {
            let mut transport = target.ready()?;
            let source = transport.local_address()?;
            transport.show_key(bob)?;
            transport.send(&Message::keyboard_interactive(&bob.name))?;
            transport.expect(number::USERAUTH_INFO_REQUEST)?;
            transport.send(&message)?;
            transport.finish()?;
            transport.hear_to_the_end()?;
            target.story(source)?.is_one_connection()?;
            ensure!(!target.story(source)?.got_in(), "{message:?}");
        }
    }
    target.is_well()
}
