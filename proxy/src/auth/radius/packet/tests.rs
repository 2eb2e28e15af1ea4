use super::*;

pub(in crate::auth::radius) const SECRET: &[u8] = b"a secret between two machines";

fn request() -> Request {
    let code = Secret::from("123456");
    let question = Question {
        user: "alice",
        code: &code,
        nas_identifier: "gateway",
        calling_station: "192.0.2.7",
    };
    Request::new(&question, SECRET, 9, [7; 16]).unwrap()
}

/// How a scripted server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth::radius) enum Forgery {
    None,
    NoMessageAuthenticator,
    WrongMessageAuthenticator,
    TwoMessageAuthenticators,
    WrongResponseAuthenticator,
    OtherIdentifier,
    OtherSecret,
    WithProxyState,
    /// A refusal, relabelled on the way without knowing the secret.
    RelabelledReject,
}

/// A reply to the request in `asked`, made as a server makes it but for `forgery`.
pub(in crate::auth::radius) fn reply(asked: &[u8], code: u8, forgery: Forgery) -> Vec<u8> {
    let secret = if forgery == Forgery::OtherSecret {
        b"a secret of somebody else entirely"
    } else {
        SECRET
    };
    let authenticator = &asked[4..20];
    let identifier = asked[1].wrapping_add(u8::from(forgery == Forgery::OtherIdentifier));
    let mut attributes = Vec::new();
    if forgery != Forgery::NoMessageAuthenticator {
        attributes.extend([80, 18]);
        attributes.extend([0; 16]);
    }
    if forgery == Forgery::WithProxyState {
        attributes.extend([33, 5, 1, 2, 3]);
    }
    attributes.extend([18, 4, b'h', b'i']);
    if forgery == Forgery::TwoMessageAuthenticators {
        attributes.extend([80, 18]);
        attributes.extend([0; 16]);
    }
    let length = u16::try_from(20 + attributes.len()).unwrap().to_be_bytes();
    let start = [code, identifier, length[0], length[1]];
    if forgery != Forgery::NoMessageAuthenticator {
        let mut proof = hmac_md5(secret, &[&start, authenticator, &attributes]);
        if forgery == Forgery::WrongMessageAuthenticator {
            proof[15] ^= 1;
        }
        attributes[2..18].copy_from_slice(&proof);
    }
    let mut response = md5_of(&[&start, authenticator, &attributes, secret]);
    if forgery == Forgery::WrongResponseAuthenticator {
        response[0] ^= 1;
    }
    let code = if forgery == Forgery::RelabelledReject {
        2
    } else {
        code
    };
    [&[code], &start[1..], &response, &attributes].concat()
}

#[test]
fn the_code_is_hidden_as_rfc_2865_section_7_1_shows() {
    // Request Authenticator, shared secret, password and the hidden form of the RFC's example.
    let authenticator = hex::decode("0f403f9473978057bd83d5cb98f4227a").unwrap();
    let hidden = hide(
        b"arctangent",
        b"xyzzy5461",
        &authenticator.try_into().unwrap(),
    );
    assert_eq!(hex::encode(&*hidden), "0dbe708d93d413ce3196e43f782a0aee");
}

#[test]
fn a_request_begins_with_its_message_authenticator_and_never_shows_the_code() {
    let request = request();
    let bytes = request.bytes();
    assert_eq!(bytes[0], 1);
    assert_eq!(
        usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        bytes.len()
    );
    assert_eq!(bytes[20..22], [80, 18]);
    let mut blank = bytes.to_vec();
    blank[22..38].fill(0);
    assert_eq!(bytes[22..38], hmac_md5(SECRET, &[&blank]));
    assert!(!bytes.windows(6).any(|window| window == b"123456"));
}

#[test]
fn a_code_of_no_byte_or_of_too_many_is_not_sent() {
    for (code, is_sent) in [
        (String::new(), false),
        ("1".repeat(CODE_MAX), true),
        ("1".repeat(CODE_MAX + 1), false),
    ] {
        let code = Secret::from(code);
        let question = Question {
            user: "alice",
            code: &code,
            nas_identifier: "gateway",
            calling_station: "192.0.2.7",
        };
        assert_eq!(Request::new(&question, SECRET, 0, [0; 16]).is_ok(), is_sent);
    }
}

#[test]
fn only_a_reply_that_is_proven_in_both_ways_is_believed() {
    let request = request();
    let read = |code, forgery| request.read_reply(&reply(request.bytes(), code, forgery), SECRET);
    assert_eq!(read(2, Forgery::None), Ok(Reply::Accept));
    assert_eq!(read(3, Forgery::None), Ok(Reply::Reject));
    assert_eq!(read(11, Forgery::None), Ok(Reply::Challenge));
    assert_eq!(read(5, Forgery::None), Err(ReplyError::Code(5)));
    for (forgery, error) in [
        (
            Forgery::NoMessageAuthenticator,
            ReplyError::NoMessageAuthenticator,
        ),
        (
            Forgery::WrongMessageAuthenticator,
            ReplyError::MessageAuthenticator,
        ),
        (
            Forgery::TwoMessageAuthenticators,
            ReplyError::MessageAuthenticator,
        ),
        (
            Forgery::WrongResponseAuthenticator,
            ReplyError::ResponseAuthenticator,
        ),
        (Forgery::OtherIdentifier, ReplyError::Identifier),
        (Forgery::OtherSecret, ReplyError::MessageAuthenticator),
        (Forgery::WithProxyState, ReplyError::ProxyState),
    ] {
        assert_eq!(read(2, forgery), Err(error), "{forgery:?}");
    }
    assert_eq!(
        read(3, Forgery::RelabelledReject),
        Err(ReplyError::MessageAuthenticator)
    );
}

#[test]
fn a_reply_cut_anywhere_is_refused_and_padding_is_not_read() {
    let request = request();
    let whole = reply(request.bytes(), 2, Forgery::None);
    for length in 0..whole.len() {
        assert_eq!(
            request.read_reply(&whole[..length], SECRET),
            Err(ReplyError::Length)
        );
    }
    let padded = [&whole[..], &[33, 0, 0]].concat();
    assert_eq!(request.read_reply(&padded, SECRET), Ok(Reply::Accept));
}

#[test]
fn an_attribute_of_an_impossible_length_is_refused() {
    let request = request();
    for attributes in [&[18, 1][..], &[18, 0], &[18, 3, 65, 18], &[18, 200, 65]] {
        let length = u8::try_from(20 + attributes.len()).unwrap();
        let packet = [&[2, 9, 0, length][..], &[0; 16], attributes].concat();
        assert_eq!(
            request.read_reply(&packet, SECRET),
            Err(ReplyError::Attribute)
        );
    }
}
