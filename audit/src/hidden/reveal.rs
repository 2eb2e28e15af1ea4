//! Gives records back what was sealed in them, for who has the auditor's key.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use portcullis_journal::{read::Record, record::untrusted};
use serde_json::{Map, Value};

use super::{AuditorSecret, SEALED, is_token};

/// Paths that are remembered by their tokens: opening a box costs much more than reading a record.
const KEPT: NonZeroUsize = NonZeroUsize::new(1 << 14).expect("it is not zero");

/// Opens what records have sealed.
#[derive(Debug)]
pub struct Revealer {
    secret: AuditorSecret,
    paths: Mutex<LruCache<String, Vec<u8>>>,
}

impl Revealer {
    pub fn new(secret: AuditorSecret) -> Self {
        Self {
            secret,
            paths: Mutex::new(LruCache::new(KEPT)),
        }
    }

    /// Puts what is sealed into its place in the record, and says what that was. What was sealed to another key stays.
    pub fn reveal(&self, record: &mut Record) -> Map<String, Value> {
        let mut clear = Map::new();
        if let Value::Object(body) = &mut record.body {
            self.open_all(body, &mut clear);
            if let Some(Value::Object(filters)) = body.get_mut("filters") {
                self.open_all(filters, &mut clear);
            }
            let mounts = body.get_mut("mounts").and_then(Value::as_array_mut);
            for mount in mounts
                .into_iter()
                .flatten()
                .filter_map(Value::as_object_mut)
            {
                self.open_all(mount, &mut Map::new());
            }
        }
        clear
    }

    fn open_all(&self, body: &mut Map<String, Value>, clear: &mut Map<String, Value>) {
        let sealed: Vec<(String, String)> = body
            .iter()
            .filter_map(|(name, value)| {
                let name = name.strip_suffix(SEALED)?;
                Some((name.to_owned(), value.as_str()?.to_owned()))
            })
            .collect();
        for (name, sealed) in sealed {
            let token = body.get(&name).and_then(Value::as_str);
            let Some(text) = self.open(token.filter(|token| is_token(token.as_bytes())), &sealed)
            else {
                continue;
            };
            let text = untrusted(&text);
            body.remove(&format!("{name}{SEALED}"));
            body.insert(name.clone(), text.clone());
            clear.insert(name, text);
        }
    }

    fn open(&self, token: Option<&str>, sealed: &str) -> Option<Vec<u8>> {
        let Some(token) = token else {
            return self.secret.open(sealed);
        };
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = paths.get(token) {
            return Some(path.clone());
        }
        let path = self.secret.open(sealed)?;
        paths.put(token.to_owned(), path.clone());
        Some(path)
    }
}
