//! A permitted operation on what lies there under other names.
//!
//! A layer that encrypts names asks the backend below for other paths than are on record. [`Stored`] is the proof that they are
//! those paths' stored names, and no others: whoever checks it computes them again.

use std::sync::Arc;

use bytes::Bytes;
use portcullis_at_rest::names::{NameTooLong, Names};
use portcullis_journal::{Covers, Event, Intent};

use super::{Permit, Route};
use crate::{operation::Operation, path::RelativePath};

/// An operation with its paths as they are stored. Its record names those that clients see.
#[derive(Debug, Clone)]
pub struct Stored {
    permit: Permit,
    names: Arc<Names>,
}

impl Stored {
    /// `permit` with the stored names of `names`, for [`Recorded::cover`](portcullis_journal::Recorded::cover).
    ///
    /// # Errors
    /// If a name of it is too long to be stored.
    pub fn of(permit: &Permit, names: &Arc<Names>) -> Result<Self, NameTooLong> {
        let route = match permit.route() {
            Route::Gateway => Route::Gateway,
            Route::Mount {
                mount,
                target,
                second,
            } => {
                let stored = |path: &RelativePath| path.renamed(|name| names.encrypt(name));
                Route::Mount {
                    mount: *mount,
                    target: stored(target)?,
                    second: second.as_ref().map(stored).transpose()?,
                }
            }
        };
        let mut operation = permit.operation().clone();
        if let Operation::Symlink { target, .. } = &mut operation {
            *target = stored_target(names, target)?;
        }
        let permit = Permit {
            route,
            operation,
            ..permit.clone()
        };
        Ok(Self {
            permit,
            names: Arc::clone(names),
        })
    }

    /// For the backend: covered by the proof for this.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }
}

impl Intent for Stored {
    fn event(&self) -> Event {
        self.permit.event()
    }
}

impl Covers<Stored> for Permit {
    fn covers(&self, act: &Stored) -> bool {
        Stored::of(self, &act.names).is_ok_and(|own| own.permit.is(&act.permit))
    }
}

impl Covers<Permit> for Stored {
    fn covers(&self, act: &Permit) -> bool {
        self.permit.is(act)
    }
}

impl Permit {
    /// True if the two allow the same.
    fn is(&self, other: &Self) -> bool {
        self.id == other.id
            && self.operation == other.operation
            && self.route == other.route
            && self.decision == other.decision
            && Arc::ptr_eq(&self.requester, &other.requester)
    }
}

/// The target of a link, whose names are stored as those of paths are.
fn stored_target(names: &Names, target: &[u8]) -> Result<Bytes, NameTooLong> {
    let parts: Result<Vec<_>, _> = target
        .split(|byte| *byte == b'/')
        .map(|part| match part {
            b"" | b"." | b".." => Ok(part.to_vec()),
            name => names.encrypt(name),
        })
        .collect();
    Ok(parts?.join(&b'/').into())
}

#[cfg(test)]
mod tests {
    use portcullis_at_rest::{DataKey, Keyring, Realm, kek::SoftwareKek};
    use portcullis_journal::Recorded;

    use super::*;
    use crate::{path::VirtualPath, testing::Fixture};

    fn names() -> Arc<Names> {
        let kek = SoftwareKek::new(&DataKey::random().unwrap());
        let ring = Keyring::new(Arc::new(kek), Vec::new(), None);
        let realm = Realm::named("archive");
        let file = Names::create(&ring, &realm).unwrap();
        Arc::new(Names::open(&ring, &realm, &file).unwrap())
    }

    fn path(name: &str) -> VirtualPath {
        VirtualPath::clean(name.as_bytes()).unwrap()
    }

    fn rename(from: &str, to: &str) -> Operation {
        Operation::Rename {
            from: path(from),
            to: path(to),
        }
    }

    fn covered(recorded: &Recorded<Permit>, stored: Stored) -> Option<Recorded<Permit>> {
        let stored = recorded.cover(stored).ok()?;
        let permit = stored.intent().permit().clone();
        stored.cover(permit).ok()
    }

    #[tokio::test]
    async fn both_paths_and_the_target_of_a_link_have_stored_names_and_the_record_has_the_clients()
    {
        let (fixture, names) = (Fixture::new(), names());
        let recorded = fixture.recorded(rename("/d/a", "/b")).await;
        let stored = Stored::of(recorded.intent(), &names).unwrap();
        let below = covered(&recorded, stored).unwrap();
        let name = |name: &str| names.encrypt(name.as_bytes()).unwrap();
        let permit = below.intent();
        assert_eq!(
            permit.target().unwrap().as_bytes(),
            [&name("d")[..], b"/", &name("a")].concat()
        );
        assert_eq!(permit.second_target().unwrap().as_bytes(), name("b"));
        assert_eq!(permit.operation(), recorded.intent().operation());

        let link = Operation::Symlink {
            target: "./d//a".into(),
            link: path("/l"),
        };
        let recorded = fixture.recorded(link).await;
        let stored = Stored::of(recorded.intent(), &names).unwrap();
        let below = covered(&recorded, stored).unwrap();
        let Operation::Symlink { target, .. } = below.intent().operation() else {
            panic!("it is another operation");
        };
        let expected = [b"./", &name("d")[..], b"//", &name("a")].concat();
        assert_eq!(target[..], expected);

        let recorded = fixture.recorded(Operation::Stat { path: path("/") }).await;
        let stored = Stored::of(recorded.intent(), &names).unwrap();
        let below = covered(&recorded, stored).unwrap();
        assert!(below.intent().target().unwrap().is_empty(), "the root");
    }

    #[tokio::test]
    async fn no_proof_leads_to_another_path_operation_or_account() {
        let (fixture, names) = (Fixture::new(), names());
        let recorded = fixture.recorded(rename("/a", "/b")).await;
        for other in [rename("/a", "/c"), rename("/c", "/b"), rename("/b", "/a")] {
            let other = fixture.recorded(other).await;
            let stored = Stored::of(other.intent(), &names).unwrap();
            assert!(covered(&recorded, stored).is_none());
        }
        // As it stands on record: no layer would ask for that.
        let own = Stored::of(recorded.intent(), &names).unwrap();
        let proof = recorded.cover(own.clone()).unwrap();
        assert!(proof.cover(recorded.intent().clone()).is_err());
        let mut forged = own.clone();
        forged.permit.route = recorded.intent().route().clone();
        assert!(recorded.cover(forged).is_err());
        let mut forged = own.clone();
        forged.permit.operation = Operation::Remove { path: path("/a") };
        assert!(recorded.cover(forged).is_err());
        let mut forged = own.clone();
        forged.permit.requester = Arc::new(crate::testing::requester());
        assert!(recorded.cover(forged).is_err());
        // Names of another key are not those that the proof is made with.
        let mut forged = own;
        forged.names = tests::names();
        assert!(recorded.cover(forged).is_err());
    }

    #[tokio::test]
    async fn a_name_that_is_too_long_to_be_stored_is_refused() {
        let (fixture, names) = (Fixture::new(), names());
        for (length, fits) in [(143, true), (144, false)] {
            let name = format!("/d/{}", "x".repeat(length));
            let recorded = fixture
                .recorded(Operation::Stat { path: path(&name) })
                .await;
            assert_eq!(Stored::of(recorded.intent(), &names).is_ok(), fits);
        }
    }
}
