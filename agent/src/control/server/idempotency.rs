//! Answers that were given, by `Idempotency-Key`: a request that is sent again gets the answer of the first and changes nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode},
    response::Response,
};

use super::limiter::Key;
use crate::control::{Code, Failure};

/// Answers that are remembered; the oldest is forgotten first.
const MAX_ANSWERS: usize = 1024;
/// Characters of a key.
pub(super) const MAX_KEY: usize = 200;

/// One peer's use of one key.
pub(super) type Slot = (Key, String);

#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    slots: HashMap<Slot, ([u8; 32], Option<Answer>)>,
    order: VecDeque<Slot>,
}

/// An answer as it was given.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

impl Answers {
    /// Takes a slot for the request with this digest, or gives the answer that it has already.
    ///
    /// # Errors
    /// If the key was used for another request, or the first one is still under way.
    pub(super) fn begin(&self, slot: &Slot, digest: [u8; 32]) -> Result<Option<Answer>, Failure> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.slots.get(slot) {
            Some((earlier, _)) if *earlier != digest => Err(Failure::new(
                Code::Reused,
                "this Idempotency-Key was used for another request; take a new one",
            )),
            Some((_, Some(answer))) => Ok(Some(answer.clone())),
            Some((_, None)) => Err(Failure::new(
                Code::Conflict,
                "the request with this Idempotency-Key is still under way",
            )),
            None => {
                if known.order.len() >= MAX_ANSWERS
                    && let Some(oldest) = known.order.pop_front()
                {
                    known.slots.remove(&oldest);
                }
                known.slots.insert(slot.clone(), (digest, None));
                known.order.push_back(slot.clone());
                Ok(None)
            }
        }
    }

    /// Remembers the answer; without one the key is free again.
    pub(super) fn end(&self, slot: &Slot, answer: Option<Answer>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(answer) => {
                if let Some((_, place)) = known.slots.get_mut(slot) {
                    *place = Some(answer);
                }
            }
            None => {
                known.slots.remove(slot);
                known.order.retain(|other| other != slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(key: &str) -> Slot {
        (Key::User(1), key.to_owned())
    }

    fn answer() -> Answer {
        Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn the_same_request_gets_the_answer_of_the_first_and_another_is_refused() {
        let answers = Answers::default();
        assert!(answers.begin(&slot("a"), [1; 32]).unwrap().is_none());
        assert_eq!(
            answers.begin(&slot("a"), [1; 32]).unwrap_err().code,
            Code::Conflict
        );
        answers.end(&slot("a"), Some(answer()));
        assert!(answers.begin(&slot("a"), [1; 32]).unwrap().is_some());
        assert_eq!(
            answers.begin(&slot("a"), [2; 32]).unwrap_err().code,
            Code::Reused
        );
        let another_peer = (Key::User(2), "a".to_owned());
        assert!(answers.begin(&another_peer, [2; 32]).unwrap().is_none());
    }

    #[test]
    fn a_request_that_failed_may_be_tried_again() {
        let answers = Answers::default();
        assert!(answers.begin(&slot("a"), [1; 32]).unwrap().is_none());
        answers.end(&slot("a"), None);
        assert!(answers.begin(&slot("a"), [1; 32]).unwrap().is_none());
    }

    #[test]
    fn only_so_many_answers_are_remembered() {
        let answers = Answers::default();
        for number in 0..=MAX_ANSWERS {
            let slot = slot(&number.to_string());
            assert!(answers.begin(&slot, [1; 32]).unwrap().is_none());
            answers.end(&slot, Some(answer()));
        }
        assert!(answers.begin(&slot("0"), [1; 32]).unwrap().is_none());
        assert_eq!(answers.0.lock().unwrap().order.len(), MAX_ANSWERS);
    }
}
