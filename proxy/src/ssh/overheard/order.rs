//! Which messages have a place where they come.

const IGNORE: u8 = 2;
const UNIMPLEMENTED: u8 = 3;
const DEBUG: u8 = 4;
pub(super) const SERVICE_REQUEST: u8 = 5;
const EXT_INFO: u8 = 7;
const KEXINIT: u8 = 20;
const NEWKEYS: u8 = 21;
const USERAUTH_REQUEST: u8 = 50;
const USERAUTH_INFO_RESPONSE: u8 = 61;
const CHANNEL_SUCCESS: u8 = 99;
const CHANNEL_FAILURE: u8 = 100;

/// How far the client is, by its messages.
///
/// Before the first NEWKEYS the library itself ends a connection that sends anything else than what comes next.
#[derive(Debug, Default)]
pub(super) struct Order {
    stage: Stage,
    is_rekeying: bool,
    /// A prompt is open.
    is_prompted: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Clear,
    Encrypted,
    /// A service was asked for.
    Requested,
    Authenticating,
    LoggedIn,
}

impl Order {
    /// Takes the message `number` in; false if it has no place here (RFC 4253 section 7.1 and 12, RFC 4252 section 6, RFC 8308
    /// section 2.4). What the library answers or ends by itself is left to it.
    pub(super) fn admits(&mut self, number: u8) -> bool {
        if self.stage == Stage::Clear {
            if number == NEWKEYS {
                self.stage = Stage::Encrypted;
            }
            return true;
        }
        if self.stage == Stage::LoggedIn {
            return true;
        }
        match (number, self.stage) {
            (IGNORE | UNIMPLEMENTED | DEBUG, _) => true,
            (KEXINIT, _) => {
                self.is_rekeying = true;
                true
            }
            (NEWKEYS, _) => std::mem::take(&mut self.is_rekeying),
            (30..=34, _) => self.is_rekeying,
            // The library ends such a connection.
            (USERAUTH_REQUEST.., _) if self.is_rekeying => true,
            (SERVICE_REQUEST, Stage::Encrypted) => {
                self.stage = Stage::Requested;
                true
            }
            (EXT_INFO, Stage::Encrypted) => true,
            (USERAUTH_REQUEST, Stage::Authenticating) => {
                self.is_prompted = false;
                true
            }
            (USERAUTH_INFO_RESPONSE, Stage::Authenticating) => {
                std::mem::take(&mut self.is_prompted)
            }
            _ => false,
        }
    }

    pub(super) fn service_accepted(&mut self) {
        self.stage = Stage::Authenticating;
    }

    pub(super) fn prompted(&mut self) {
        self.is_prompted = true;
    }

    pub(super) fn logged_in(&mut self) {
        self.stage = Stage::LoggedIn;
    }

    pub(super) fn is_logged_in(&self) -> bool {
        self.stage == Stage::LoggedIn
    }
}

/// Whether a message that the library does not know may come after the login: further requests of authentication are to be
/// ignored (RFC 4252 section 5.1), extensions change nothing, and answers to requests of channels, which it makes none of, are a
/// client's slip.
pub(super) fn is_tolerated(number: u8) -> bool {
    matches!(
        number,
        USERAUTH_REQUEST | EXT_INFO | CHANNEL_SUCCESS | CHANNEL_FAILURE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticating() -> Order {
        let mut order = Order::default();
        for number in [KEXINIT, 30, NEWKEYS, EXT_INFO, SERVICE_REQUEST] {
            assert!(order.admits(number), "{number}");
        }
        order.service_accepted();
        order
    }

    #[test]
    fn one_service_is_asked_for_and_only_authentication_follows() {
        let mut order = authenticating();
        for number in [IGNORE, UNIMPLEMENTED, DEBUG, USERAUTH_REQUEST] {
            assert!(order.admits(number), "{number}");
        }
        let others = (0..=u8::MAX).filter(|number| ![2, 3, 4, 20, 50].contains(number));
        for number in others {
            assert!(!order.admits(number), "{number}");
        }
        let mut early = Order::default();
        assert!(early.admits(NEWKEYS));
        assert!(!early.admits(USERAUTH_REQUEST));
    }

    #[test]
    fn a_prompt_has_one_answer_and_none_once_another_request_took_it_back() {
        let mut order = authenticating();
        order.prompted();
        assert!(order.admits(USERAUTH_INFO_RESPONSE));
        assert!(!order.admits(USERAUTH_INFO_RESPONSE));
        order.prompted();
        assert!(order.admits(USERAUTH_REQUEST));
        assert!(!order.admits(USERAUTH_INFO_RESPONSE));
    }

    #[test]
    fn keys_are_exchanged_anew_after_a_kexinit_only() {
        let mut order = authenticating();
        assert!(!order.admits(30) && !order.admits(NEWKEYS));
        assert!(order.admits(KEXINIT) && order.admits(30));
        assert!(!order.admits(SERVICE_REQUEST), "in the middle of it");
        assert!(order.admits(NEWKEYS) && order.admits(USERAUTH_REQUEST));
    }

    #[test]
    fn after_the_login_the_library_says_what_it_does_not_know() {
        let mut order = authenticating();
        order.logged_in();
        assert!((0..=u8::MAX).all(|number| order.admits(number)));
        assert!(is_tolerated(USERAUTH_REQUEST) && !is_tolerated(SERVICE_REQUEST));
    }
}
