//! Every message number at every state, against the table of what may follow.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, ensure};
use portcullis_tests::process::wait_for;
use portcullis_tests::raw_ssh::{Heard, Message, Transport, UserKey, number};

use super::{Story, Target, source_of};

/// How many connections are open at once.
const WORKERS: usize = 12;

/// How far the client got when it sends the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// TCP alone; the packet is in clear and a line of its own.
    Connected,
    /// Identifications were exchanged.
    Identified,
    /// Both KEXINITs were sent, with and without the marker of the strict key exchange.
    Exchanging { strict: bool },
    /// The keys are there, NEWKEYS was not sent.
    BeforeNewKeys { strict: bool },
    /// Under the new keys.
    Encrypted,
    /// The service was accepted.
    Authenticating,
    /// The key was acknowledged.
    FirstFactor,
    /// The prompt for the password is open.
    Prompted,
    /// Authenticated.
    LoggedIn,
    /// The first factor was shown, and both KEXINITs of new keys were sent.
    Rekeying,
}

impl State {
    const ALL: [Self; 12] = [
        Self::Connected,
        Self::Identified,
        Self::Exchanging { strict: true },
        Self::Exchanging { strict: false },
        Self::BeforeNewKeys { strict: true },
        Self::BeforeNewKeys { strict: false },
        Self::Encrypted,
        Self::Authenticating,
        Self::FirstFactor,
        Self::Prompted,
        Self::LoggedIn,
        Self::Rekeying,
    ];
}

/// What the server may do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaction {
    /// It ends the connection.
    Ends,
    /// It says nothing, and the login goes on as if nothing had come.
    Nothing,
    /// It answers with this message.
    Says(u8),
}

/// The table: what is allowed to each message at each state. All that it does not name ends the connection.
fn reaction(state: State, message: u8) -> Reaction {
    use Reaction::{Ends, Nothing, Says};
    use State::{
        Authenticating, BeforeNewKeys, Connected, Encrypted, Exchanging, FirstFactor, Identified,
        LoggedIn, Prompted, Rekeying,
    };

    if message == number::DISCONNECT {
        return Ends;
    }
    let says_nothing = matches!(
        message,
        number::IGNORE | number::UNIMPLEMENTED | number::DEBUG
    );
    match state {
        Connected | Exchanging { strict: true } | BeforeNewKeys { strict: true } => Ends,
        Identified | Exchanging { strict: false } | BeforeNewKeys { strict: false } => {
            if says_nothing {
                Nothing
            } else {
                Ends
            }
        }
        // New keys are in the making: transport messages may come, no others (RFC 4253 section 7.1).
        Rekeying => {
            if says_nothing {
                Nothing
            } else {
                Ends
            }
        }
        Encrypted | Authenticating | FirstFactor | Prompted | LoggedIn => {
            match (state, message) {
                (_, number::KEXINIT) => Says(number::KEXINIT),
                (Encrypted, number::SERVICE_REQUEST) => Says(number::SERVICE_ACCEPT),
                // The method `none`.
                (Authenticating | FirstFactor | Prompted, number::USERAUTH_REQUEST) => {
                    Says(number::USERAUTH_FAILURE)
                }
                // A wrong password is told after the code.
                (Prompted, number::USERAUTH_INFO_RESPONSE) => Says(number::USERAUTH_INFO_REQUEST),
                // Of a channel that the server never asked for.
                (LoggedIn, number::CHANNEL_OPEN_CONFIRMATION) => Ends,
                (LoggedIn, number::GLOBAL_REQUEST) => Says(number::REQUEST_FAILURE),
                (LoggedIn, number::CHANNEL_OPEN) => Says(number::CHANNEL_OPEN_CONFIRMATION),
                (Encrypted, number::EXT_INFO) => Nothing,
                // Requests that come too late, and messages about channels that are not there.
                (
                    LoggedIn,
                    number::EXT_INFO
                    | number::USERAUTH_REQUEST
                    | number::REQUEST_SUCCESS
                    | number::REQUEST_FAILURE
                    | 92..=100,
                ) => Nothing,
                _ if says_nothing => Nothing,
                _ => Ends,
            }
        }
    }
}

/// What belongs to the state: the login itself.
fn is_next_step(state: State, message: u8) -> bool {
    matches!(
        (state, message),
        (State::Identified, number::KEXINIT)
            | (
                State::Exchanging { .. } | State::Rekeying,
                number::KEX_ECDH_INIT
            )
            | (State::BeforeNewKeys { .. }, number::NEWKEYS)
    )
}

/// A message with this number that a server could obey.
fn message(number: u8, target: &Target) -> Message {
    let message = Message::new(number);
    match number {
        number::DISCONNECT => message.u32(11).string("bye").string(""),
        number::IGNORE => message.string("nothing"),
        number::UNIMPLEMENTED => message.u32(0),
        number::DEBUG => message.byte(1).string("text").string(""),
        number::SERVICE_REQUEST | number::SERVICE_ACCEPT => message.string("ssh-userauth"),
        number::EXT_INFO => message.u32(1).string("no-flow-control").string("p"),
        number::KEXINIT => ["curve25519-sha256", "ssh-ed25519"]
            .into_iter()
            .chain(["aes256-gcm@openssh.com"; 2])
            .chain(["hmac-sha2-256-etm@openssh.com"; 2])
            .chain(["none", "none", "", ""])
            .fold(message.raw(&[7; 16]), Message::string)
            .byte(0)
            .u32(0),
        number::KEX_ECDH_INIT => message.string([9; 32]),
        number::USERAUTH_REQUEST => Message::none(&target.alice.name),
        number::USERAUTH_FAILURE => message.string("password").byte(1),
        number::USERAUTH_BANNER => message.string("welcome").string(""),
        number::USERAUTH_PK_OK => message
            .string("ssh-ed25519")
            .string(UserKey::unknown().blob()),
        number::USERAUTH_INFO_RESPONSE => Message::answers(&["wrong"]),
        number::GLOBAL_REQUEST => Message::forward_request(),
        number::CHANNEL_OPEN => Message::open_session(),
        number::CHANNEL_OPEN_CONFIRMATION => message.u32(0).u32(0).u32(1 << 20).u32(1 << 15),
        92 => message.u32(0).u32(1).string("no").string(""),
        93 => message.u32(0).u32(1 << 20),
        94 => message.u32(0).string("data"),
        95 => message.u32(0).u32(1).string("data"),
        96 | 97 | 99 | 100 => message.u32(0),
        number::CHANNEL_REQUEST => message.u32(0).string("subsystem").byte(1).string("sftp"),
        number::NEWKEYS
        | number::USERAUTH_SUCCESS
        | number::REQUEST_SUCCESS
        | number::REQUEST_FAILURE => message,
        _ => message.raw(&[0; 8]),
    }
}

/// Takes a new connection to the state.
fn bring(state: State, target: &Target) -> Result<Transport> {
    let mut transport = Transport::connect(target.address())?;
    if matches!(
        state,
        State::Identified
            | State::Exchanging { strict: false }
            | State::BeforeNewKeys { strict: false }
    ) {
        transport = transport.without_strict_exchange();
    }
    if state == State::Connected {
        return Ok(transport);
    }
    transport.identify()?;
    if state == State::Identified {
        return Ok(transport);
    }
    transport.send_key_exchange_init()?;
    transport.receive_key_exchange_init()?;
    if matches!(state, State::Exchanging { .. }) {
        return Ok(transport);
    }
    transport.send_ephemeral_key()?;
    transport.receive_exchange_reply()?;
    transport.receive_new_keys()?;
    if matches!(state, State::BeforeNewKeys { .. }) {
        return Ok(transport);
    }
    transport.send_new_keys()?;
    if state == State::Encrypted {
        return Ok(transport);
    }
    transport.request_service()?;
    match state {
        State::FirstFactor => transport.show_key(&target.alice)?,
        State::Prompted => {
            transport.send(&Message::keyboard_interactive(&target.alice.name))?;
            transport.expect(number::USERAUTH_INFO_REQUEST)?;
        }
        State::LoggedIn => transport.log_in(&target.alice)?,
        State::Rekeying => {
            transport.show_key(&target.alice)?;
            transport.send_key_exchange_init()?;
            transport.receive_key_exchange_init()?;
        }
        State::Connected
        | State::Identified
        | State::Exchanging { .. }
        | State::BeforeNewKeys { .. }
        | State::Encrypted
        | State::Authenticating => {}
    }
    Ok(transport)
}

/// Goes on from the state to the end of the login, where each message must be the one that the protocol has next.
fn go_on(state: State, transport: &mut Transport, target: &Target) -> Result<()> {
    let alice = &target.alice;
    match state {
        State::Connected => transport.identify()?,
        State::Identified => transport.exchange_keys()?,
        State::Exchanging { .. } | State::Rekeying => {
            transport.send_ephemeral_key()?;
            transport.receive_exchange_reply()?;
            transport.receive_new_keys()?;
            transport.send_new_keys()?;
        }
        State::BeforeNewKeys { .. } => transport.send_new_keys()?,
        State::Encrypted
        | State::Authenticating
        | State::FirstFactor
        | State::Prompted
        | State::LoggedIn => {}
    }
    match state {
        State::Connected
        | State::Identified
        | State::Exchanging { .. }
        | State::BeforeNewKeys { .. }
        | State::Encrypted => {
            transport.request_service()?;
            transport.log_in(alice)?;
        }
        State::Authenticating => transport.log_in(alice)?,
        State::FirstFactor | State::Rekeying => {
            let answer = transport.ask(&Message::password(&alice.name, &alice.password))?;
            ensure!(answer == [number::USERAUTH_SUCCESS], "{answer:?}");
        }
        State::Prompted => {
            // The prompt is still open: the password is not judged before the code.
            transport.send(&Message::answers(&[&alice.password]))?;
            transport.expect(number::USERAUTH_INFO_REQUEST)?;
        }
        State::LoggedIn => {
            transport.send(&Message::open_session())?;
            transport.expect(number::CHANNEL_OPEN_CONFIRMATION)?;
        }
    }
    Ok(())
}

/// One connection of the suite.
#[derive(Debug, Clone)]
struct Case {
    state: State,
    /// All that get the same reaction; more than one only if that is nothing.
    messages: Vec<u8>,
    reaction: Reaction,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for state in State::ALL {
        let mut unheard = Vec::new();
        for number in (0..=u8::MAX).filter(|&number| !is_next_step(state, number)) {
            let reaction = reaction(state, number);
            if reaction == Reaction::Nothing {
                unheard.push(number);
            } else {
                cases.push(Case {
                    state,
                    messages: vec![number],
                    reaction,
                });
            }
        }
        if !unheard.is_empty() {
            cases.push(Case {
                state,
                messages: unheard,
                reaction: Reaction::Nothing,
            });
        }
    }
    cases
}

impl Case {
    /// Sends the messages and holds what is heard against the table. Returns this end's address.
    fn run(&self, target: &Target) -> Result<SocketAddr> {
        let mut transport = bring(self.state, target)?;
        let source = transport.local_address()?;
        let messages: Vec<Message> = self
            .messages
            .iter()
            .map(|&number| message(number, target))
            .collect();
        transport.send_together(&messages)?;
        match self.reaction {
            Reaction::Ends => {
                if self.state == State::Connected {
                    transport.send_bytes(b"\r\n").ok();
                    transport.receive_identification().ok();
                }
                let heard = transport.hear_to_the_end()?;
                let others: Vec<_> = heard
                    .iter()
                    .filter(|heard| match heard.first() {
                        Some(&(number::DISCONNECT | number::KEXINIT)) => false,
                        // The library's answer to an answer that nobody asked for.
                        Some(&number::USERAUTH_FAILURE) => {
                            self.messages != [number::USERAUTH_INFO_RESPONSE]
                        }
                        _ => true,
                    })
                    .collect();
                ensure!(others.is_empty(), "the server said {others:?}");
            }
            Reaction::Says(expected) => {
                let heard = transport.hear()?;
                ensure!(
                    matches!(&heard, Heard::Message(heard) if heard.first() == Some(&expected)),
                    "the server said {heard:?} instead of {expected}"
                );
            }
            Reaction::Nothing => go_on(self.state, &mut transport, target)?,
        }
        Ok(source)
    }

    /// Whether the gateway, and not the library or the client, ends the connection.
    fn is_out_of_place(&self) -> bool {
        let is_under_keys = matches!(
            self.state,
            State::Encrypted
                | State::Authenticating
                | State::FirstFactor
                | State::Prompted
                | State::LoggedIn
        );
        let ended_by_others = [number::DISCONNECT, number::CHANNEL_OPEN_CONFIRMATION];
        self.reaction == Reaction::Ends
            && is_under_keys
            && !self
                .messages
                .iter()
                .any(|message| ended_by_others.contains(message))
    }

    /// Whether somebody is logged in at the end of it.
    fn gets_in(&self) -> bool {
        match self.reaction {
            Reaction::Nothing => self.state != State::Prompted,
            Reaction::Ends | Reaction::Says(_) => self.state == State::LoggedIn,
        }
    }
}

#[test]
fn every_message_at_every_state_does_what_the_table_allows_and_nothing_else() -> Result<()> {
    let target = Target::start(&[])?;
    let cases = cases();
    let open = Mutex::new(cases.iter());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some(case) = open.lock().expect("no worker panics").next() else {
                        break;
                    };
                    let result = case.run(&target);
                    done.lock().expect("no worker panics").push((case, result));
                }
            });
        }
    });

    let mut sources = Vec::new();
    let mut wrong = Vec::new();
    for (case, result) in done.into_inner().expect("no worker panics") {
        match result {
            Ok(source) => sources.push((case, source)),
            Err(error) => wrong.push(format!("{case:?}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{} cases: {wrong:#?}", wrong.len());

    let mut stories = wait_for("the end of every connection on record", || {
        let records = target.proxy.records().ok()?;
        let mut stories: HashMap<SocketAddr, Story> = HashMap::new();
        for record in records {
            if let Some(source) = source_of(&record) {
                let story = stories.entry(source);
                story.or_insert_with(|| Story(Vec::new())).0.push(record);
            }
        }
        let ended = |story: &Story| !story.events("conn.close").is_empty();
        let all = sources
            .iter()
            .all(|(_, source)| stories.get(source).is_some_and(ended));
        all.then_some(stories)
    })?;
    for (case, source) in &sources {
        let story = stories
            .remove(source)
            .context("each connection has a story")?;
        story
            .is_one_connection()
            .with_context(|| format!("{case:?}"))?;
        ensure!(story.got_in() == case.gets_in(), "{case:?}: {:#?}", story.0);
        if case.is_out_of_place() {
            ensure!(
                story.close_reason()? == "unexpected_message",
                "{case:?}: {:#?}",
                story.0
            );
        }
    }
    target.is_well()
}

#[test]
fn the_table_knows_every_message_at_every_state() {
    let tried: usize = cases().iter().map(|case| case.messages.len()).sum();
    let next_steps = State::ALL
        .iter()
        .flat_map(|&state| (0..=u8::MAX).map(move |number| (state, number)))
        .filter(|&(state, number)| is_next_step(state, number))
        .count();
    assert_eq!(tried + next_steps, State::ALL.len() * 256);
}
