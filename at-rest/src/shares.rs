//! The private half of the escrow in shares, of which some number gives it back and fewer say nothing of it
//! (Shamir, in GF(256) with the polynomial 0x11d).

use std::{collections::BTreeSet, fmt};

use aws_lc_rs::agreement::{PrivateKey, X25519};
use blahaj::Sharks;
use zeroize::Zeroizing;

use crate::escrow::{Identity, Recipient};

const SECRET: usize = 32;

/// One of the shares of an escrow key. Wiped when dropped, its content never shown.
#[derive(Clone)]
pub struct Share {
    recipient: [u8; 16],
    number: u8,
    threshold: u8,
    content: Zeroizing<[u8; SECRET]>,
}

/// Why an escrow key was not split.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    #[error(
        "a key can't be split so that {threshold} of {count} shares give it back: at least 2, at most all"
    )]
    Threshold { threshold: u8, count: u8 },
    #[error("the private half does not have {SECRET} bytes")]
    Length,
    #[error("the shares do not give the key back")]
    NotProven(#[source] JoinError),
}

/// Why shares did not give an escrow key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    #[error("there is no share; at least two are needed")]
    None,
    #[error("{given} of {threshold} different shares are there (number {}); bring another one", .numbers.iter().map(u8::to_string).collect::<Vec<_>>().join(", "))]
    TooFew {
        given: usize,
        threshold: u8,
        numbers: BTreeSet<u8>,
    },
    #[error("share {number} belongs to the escrow key {}, the others to {}", hex::encode(.found), hex::encode(.expected))]
    OtherRecipient {
        number: u8,
        expected: [u8; 16],
        found: [u8; 16],
    },
    #[error(
        "share {number} was made for {found} shares, the others for {expected}: they are not of one split"
    )]
    OtherThreshold { number: u8, expected: u8, found: u8 },
    #[error("two different shares have the number {0}: one is of another split, or forged")]
    Twice(u8),
    #[error("the shares do not give the private half of the escrow key {}: one is of another split, or forged", hex::encode(.0))]
    NotTheKey([u8; 16]),
}

impl Share {
    /// Recipient, number, threshold, content; in bytes.
    pub(crate) const LENGTH: usize = 16 + 1 + 1 + SECRET;

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (recipient, rest) = bytes.split_first_chunk()?;
        let (&[number, threshold], content) = rest.split_first_chunk()?;
        Some(Self {
            recipient: *recipient,
            number,
            threshold,
            content: Zeroizing::new(content.try_into().ok()?),
        })
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(Self::LENGTH));
        bytes.extend_from_slice(&self.recipient);
        bytes.extend_from_slice(&[self.number, self.threshold]);
        bytes.extend_from_slice(&*self.content);
        bytes
    }

    /// Of the recipient whose private half it is a share of, see [`Recipient::id`].
    pub fn recipient(&self) -> [u8; 16] {
        self.recipient
    }

    /// From 1 on.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// How many are needed.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recipient = hex::encode(self.recipient);
        write!(f, "Share({} of {recipient})", self.number)
    }
}

/// Makes `count` shares, any `threshold` of which give the key back, and tries each of them.
///
/// # Errors
/// If `threshold` is less than 2 or more than `count`.
pub fn split(identity: &Identity, threshold: u8, count: u8) -> Result<Vec<Share>, SplitError> {
    if threshold < 2 || threshold > count {
        return Err(SplitError::Threshold { threshold, count });
    }
    let mut shares = Vec::new();
    for dealt in Sharks(threshold)
        .dealer(identity.private())
        .take(count.into())
    {
        let bytes = Zeroizing::new(Vec::from(&dealt));
        let (number, content) = bytes.split_first().ok_or(SplitError::Length)?;
        let content = content.try_into().map_err(|_| SplitError::Length)?;
        shares.push(Share {
            recipient: identity.recipient().id(),
            number: *number,
            threshold,
            content: Zeroizing::new(content),
        });
    }
    for some in shares.windows(threshold.into()) {
        join(some).map_err(SplitError::NotProven)?;
    }
    Ok(shares)
}

/// The escrow key by its shares, proven by its public half. More than are needed may be given, and the same one twice.
///
/// # Errors
/// If they are too few, not of one key, or not as they were made.
pub fn join(shares: &[Share]) -> Result<Identity, JoinError> {
    let first = shares.first().ok_or(JoinError::None)?;
    let mut distinct: Vec<&Share> = Vec::new();
    for share in shares {
        if share.recipient != first.recipient {
            return Err(JoinError::OtherRecipient {
                number: share.number,
                expected: first.recipient,
                found: share.recipient,
            });
        }
        if share.threshold != first.threshold {
            return Err(JoinError::OtherThreshold {
                number: share.number,
                expected: first.threshold,
                found: share.threshold,
            });
        }
        match distinct.iter().find(|other| other.number == share.number) {
            None => distinct.push(share),
            Some(other) if other.content == share.content => {}
            Some(_) => return Err(JoinError::Twice(share.number)),
        }
    }
    // A threshold of less than two is none that `split` makes.
    if distinct.len() < usize::from(first.threshold).max(2) {
        return Err(JoinError::TooFew {
            given: distinct.len(),
            threshold: first.threshold,
            numbers: distinct.iter().map(|share| share.number).collect(),
        });
    }
    let error = JoinError::NotTheKey(first.recipient);
    let mut points = Vec::new();
    for share in distinct {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + SECRET));
        bytes.push(share.number);
        bytes.extend_from_slice(&*share.content);
        match blahaj::Share::try_from(bytes.as_slice()) {
            Ok(point) => points.push(point),
            Err(_) => return Err(error),
        }
    }
    let private = match Sharks(first.threshold).recover(&points) {
        Ok(private) => Zeroizing::new(private),
        Err(_) => return Err(error),
    };
    match public_half(&private) {
        Some(recipient) if recipient.id() == first.recipient => {
            Ok(Identity::from_parts(private, recipient))
        }
        Some(_) | None => Err(error),
    }
}

/// X25519 with the base point (RFC 7748).
fn public_half(private: &[u8]) -> Option<Recipient> {
    let key = PrivateKey::from_private_key(&X25519, private).ok()?;
    Recipient::from_bytes(key.compute_public_key().ok()?.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataKey;

    fn opens(joined: &Identity, original: &Identity) -> bool {
        let key = DataKey::random().unwrap();
        let sealed = original.recipient().seal(&key, b"file").unwrap();
        joined
            .open(&sealed, b"file")
            .is_ok_and(|found| found.as_bytes() == key.as_bytes())
    }

    #[test]
    fn any_two_of_three_give_the_key_back_and_one_does_not() {
        let identity = Identity::generate().unwrap();
        let shares = split(&identity, 2, 3).unwrap();
        for (one, two) in [(0, 1), (1, 0), (0, 2), (1, 2)] {
            let joined = join(&[shares[one].clone(), shares[two].clone()]).unwrap();
            assert_eq!(joined.recipient(), identity.recipient());
            assert!(opens(&joined, &identity));
        }
        assert!(opens(&join(&shares).unwrap(), &identity));
        for share in &shares {
            let twice = [share.clone(), share.clone()];
            for given in [&twice[..1], &twice] {
                let error = join(given).unwrap_err();
                assert!(
                    matches!(&error, JoinError::TooFew { given: 1, threshold: 2, numbers } if numbers.contains(&share.number())),
                    "{error}"
                );
            }
        }
        assert!(matches!(join(&[]), Err(JoinError::None)));
    }

    #[test]
    fn one_share_says_nothing_of_the_key() {
        // Of a linear polynomial whose slope is random, each value is as likely as any other: two splits never agree.
        let identity = Identity::generate().unwrap();
        let (one, two) = (
            split(&identity, 2, 3).unwrap(),
            split(&identity, 2, 3).unwrap(),
        );
        for (one, two) in one.iter().zip(&two) {
            assert_ne!(one.content, two.content);
            assert_ne!(one.content[..], *identity.private());
        }
        assert!(matches!(
            join(&[one[0].clone(), two[1].clone()]),
            Err(JoinError::NotTheKey(_))
        ));
        assert!(matches!(
            join(&[one[0].clone(), two[0].clone()]),
            Err(JoinError::Twice(1))
        ));
    }

    #[test]
    fn shares_of_different_keys_and_forged_ones_are_named() {
        let identity = Identity::generate().unwrap();
        let shares = split(&identity, 2, 3).unwrap();
        let others = split(&Identity::generate().unwrap(), 2, 3).unwrap();
        assert!(matches!(
            join(&[shares[0].clone(), others[1].clone()]),
            Err(JoinError::OtherRecipient { number: 2, .. })
        ));
        let mut forged = others[1].clone();
        forged.recipient = shares[0].recipient;
        assert!(matches!(
            join(&[shares[0].clone(), forged]),
            Err(JoinError::NotTheKey(_))
        ));
        let three = split(&identity, 3, 3).unwrap();
        assert!(matches!(
            join(&[shares[0].clone(), three[1].clone()]),
            Err(JoinError::OtherThreshold {
                number: 2,
                expected: 2,
                found: 3
            })
        ));
        let mut lowered = shares[0].clone();
        lowered.threshold = 1;
        assert!(matches!(join(&[lowered]), Err(JoinError::TooFew { .. })));
        let mut zero = shares[0].clone();
        zero.number = 0;
        assert!(matches!(
            join(&[zero, shares[1].clone()]),
            Err(JoinError::NotTheKey(_))
        ));
    }

    #[test]
    fn senseless_thresholds_are_refused() {
        let identity = Identity::generate().unwrap();
        for (threshold, count) in [(0, 3), (1, 3), (4, 3)] {
            assert!(split(&identity, threshold, count).is_err());
        }
        assert_eq!(split(&identity, 3, 5).unwrap().len(), 5);
    }
}
