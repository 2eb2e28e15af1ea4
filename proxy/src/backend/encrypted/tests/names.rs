//! A file is given out where it was put, and nowhere else.

use std::sync::Mutex;

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use portcullis_at_rest::ObjectId;
use portcullis_audit::catalogue::{Asker, Named, OnRecord};

use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    backend::{
        ErrorKind,
        conformance::{Client, READ, WRITE},
        encrypted::{NamedPlaces, Names},
    },
    operation::{Attributes, Operation, Outcome, Stored},
    path::VirtualPath,
};

/// Asked for: places, and the file that lies there.
type Asked = (Vec<(String, Vec<u8>)>, ObjectId);

/// Answers what it was told to, the last answer from then on.
#[derive(Debug, Clone)]
struct Told {
    answers: Arc<Mutex<Vec<Result<Named, String>>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Names for Told {
    fn named(
        &self,
        _asker: Asker,
        places: Vec<(String, Vec<u8>)>,
        object: ObjectId,
    ) -> BoxFuture<'static, Result<Named, String>> {
        self.asked.lock().unwrap().push((places, object));
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 {
            answers.remove(0)
        } else {
            answers[0].clone()
        };
        ready(answer).boxed()
    }
}

/// With a file at `/a` below `sub`.
async fn told(answers: &[Result<Named, String>]) -> (Client, Told) {
    told_with(answers, true).await
}

async fn told_with(answers: &[Result<Named, String>], vouch: bool) -> (Client, Told) {
    let told = Told {
        answers: Arc::new(Mutex::new(answers.to_vec())),
        asked: Arc::default(),
    };
    let vault = Vault {
        names: Some(NamedPlaces {
            names: Arc::new(told.clone()),
            backends: vec!["disk".to_owned(), "either".to_owned()],
        }),
        vouch,
        ..vault(Foreign::Refuse)
    };
    let service = EncryptedService::new(Arc::new(Memory::new()), vault);
    let session = |directory| Client::new(service.session(directory, &crate::testing::owner()));
    session(b"").mkdir("/sub").await;
    let client = session(b"sub");
    client.put("/a", "content").await;
    (client, told)
}

#[tokio::test]
async fn another_file_than_was_put_there_is_not_read_and_not_changed() {
    let (client, told) = told(&[Ok(Named::Other(7))]).await;
    for access in [READ, WRITE] {
        let refused = client.ask(client.open_operation("/a", access)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotAuthentic);
        assert!(refused.message.contains("record 7"), "{refused}");
    }
    let asked = told.asked.lock().unwrap();
    let at = |backend: &str| (backend.to_owned(), b"/sub/a".to_vec());
    assert_eq!(asked[0].0, [at("disk"), at("either")]);
    assert!(asked.iter().all(|(_, object)| *object == asked[0].1));
}

#[tokio::test]
async fn one_that_fits_or_of_which_nothing_is_said_is_read() {
    for answer in [Named::Fits(None), Named::Unsaid, Named::Changing] {
        let (client, _) = told(&[Ok(answer)]).await;
        assert_eq!(client.get("/a").await, b"content");
        let handle = client.open("/a", WRITE).await;
        client.write(handle, 0, "C").await;
        client.close(handle).await;
        assert_eq!(client.get("/a").await, b"Content");
    }
}

#[tokio::test]
async fn one_that_was_replaced_in_the_moment_of_its_opening_is_opened_again() {
    let (client, told) = told(&[Ok(Named::Other(7)), Ok(Named::Fits(None))]).await;
    assert_eq!(client.get("/a").await, b"content");
    assert_eq!(told.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_on_record_of_a_file_is_told_if_it_has_that_size_and_the_journal_vouches_for_it() {
    let of = |size| OnRecord {
        sha256: [7; 32],
        size,
        record: 9,
    };
    for (answer, vouch, told_as) in [
        (Named::Fits(Some(of(7))), true, Some(of(7))),
        (Named::Fits(Some(of(7))), false, None),
        (Named::Fits(Some(of(8))), true, None),
        (Named::Fits(None), true, None),
        (Named::Unsaid, true, None),
        (Named::Changing, true, None),
    ] {
        let (client, _) = told_with(&[Ok(answer)], vouch).await;
        let handle = client.open("/a", READ).await;
        assert_eq!(client.on_record(handle), told_as, "{answer:?}");
        client.close(handle).await;
        assert_eq!(client.on_record(handle), None);
        let handle = client.open("/a", WRITE).await;
        assert_eq!(client.on_record(handle), None, "it may change");
        client.close(handle).await;
    }
}

#[tokio::test]
async fn what_a_size_made_of_a_file_and_an_update_of_nothing_is_said() {
    let (client, _) = told(&[Ok(Named::Unsaid)]).await;
    let resize = |size| Operation::Setstat {
        path: VirtualPath::clean(b"/a").unwrap(),
        attributes: Attributes {
            size: Some(size),
            ..Attributes::default()
        },
    };
    let mut objects = Vec::new();
    for (size, digest) in [
        (4, Some(Sha256::digest(b"cont").into())),
        // It has that size: the file stays the one that it was.
        (4, None),
        (5, Some(Sha256::digest(b"cont\0").into())),
    ] {
        let Outcome::Published { sha256, stored } = client.ask(resize(size)).await.unwrap() else {
            panic!("a file is made");
        };
        let stored = stored.unwrap();
        assert_eq!((sha256, stored.size), (digest, size));
        objects.push(stored.object);
    }
    assert_eq!(objects[0], objects[1]);
    assert_ne!(objects[1], objects[2]);
    let handle = client.open("/a", WRITE).await;
    let closed = client.ask(Operation::Close { handle }).await.unwrap();
    let untouched = Outcome::Published {
        sha256: None,
        stored: Some(Stored {
            object: objects[2],
            size: 5,
        }),
    };
    assert_eq!(closed, untouched);
}

#[tokio::test]
async fn nothing_is_read_while_nobody_can_tell() {
    let (client, _) = told(&[Err("the journal is gone".to_owned())]).await;
    let refused = client.ask(client.open_operation("/a", READ)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Failure);
    assert!(refused.message.contains("the journal is gone"), "{refused}");
}
