//! Sets of keys: that of `[encryption]`, and one for each `[encryption.NAME]`. What one of them encrypts, no other opens.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis_at_rest::{Keyring, kek::KekId, key_file};

use super::{
    super::section::{Faults, Section},
    EncryptionConfig,
    keys::{Key, active, file, is_of, token},
};
use crate::{
    causes::chain,
    tombs::{Tomb, Tombs},
};

/// Files up to this size, in bytes, can be changed and written in any order; they are encrypted anew as a whole.
const UPDATE_LIMIT: u64 = 64 << 20;
/// Beyond this nobody wants to wait for the CLOSE.
const LARGEST_UPDATE_LIMIT: u64 = 1 << 34;
/// Where files that are changed wait, encrypted: it survives neither a restart nor the daemon.
const SPOOL_DIRECTORY: &str = "/var/tmp";
const WAY_OUT: &str =
    "make them with `portcullis-rescue new-key FILE` and `new-escrow DIRECTORY`, and name them in";
/// What only a section of keys has.
const OF_KEYS: [&str; 5] = [
    "key_file",
    "token",
    "retired_key_files",
    "retired_tokens",
    "escrow_recipient_file",
];
/// Longest name of a set, in bytes.
const LONGEST_NAME: usize = 64;

/// All sets of a configuration.
#[derive(Debug, Default)]
pub(in crate::config) struct KeySets {
    /// That of `[encryption]`.
    standard: Set,
    named: BTreeMap<String, Set>,
}

/// What there is of one set.
#[derive(Debug, Default)]
enum Set {
    #[default]
    Absent,
    /// It has faults, which are told already.
    Faulty,
    Good(Arc<EncryptionConfig>),
}

/// What a backend gets.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) enum Keys<'a> {
    Absent,
    /// They are there and have faults, which are told already.
    Faulty,
    Good(&'a Arc<EncryptionConfig>),
}

impl KeySets {
    /// Those of a name, or of `[encryption]`.
    pub(in crate::config) fn of(&self, name: Option<&str>) -> Keys<'_> {
        let set = match name {
            None => Some(&self.standard),
            Some(name) => self.named.get(name),
        };
        match set {
            None | Some(Set::Absent) => Keys::Absent,
            Some(Set::Faulty) => Keys::Faulty,
            Some(Set::Good(keys)) => Keys::Good(keys),
        }
    }

    /// That of `[encryption]` first.
    pub(in crate::config) fn into_good(self) -> Vec<Arc<EncryptionConfig>> {
        self.good().map(Arc::clone).collect()
    }

    fn good(&self) -> impl Iterator<Item = &Arc<EncryptionConfig>> {
        std::iter::once(&self.standard)
            .chain(self.named.values())
            .filter_map(|set| match set {
                Set::Good(keys) => Some(keys),
                Set::Absent | Set::Faulty => None,
            })
    }

    /// What is wrong with a backend that names a set which is not there.
    pub(super) fn none_of(&self, name: &str) -> String {
        let known: Vec<_> = self.named.keys().map(String::as_str).collect();
        let known = if known.is_empty() {
            "there are no sections [encryption.NAME]".to_owned()
        } else {
            format!("there are {}", known.join(", "))
        };
        format!("there is no [encryption.{name}]; {known}. New keys: {WAY_OUT} it")
    }

    /// What is wrong with a backend that names none where `[encryption]` has none.
    pub(super) fn no_default(&self) -> String {
        let names = if self.named.is_empty() {
            String::new()
        } else {
            " in [encryption], and the backend names no other set (keys = \"NAME\")".to_owned()
        };
        format!(
            "files of this backend are encrypted, and there are no keys{names}: {WAY_OUT} [encryption]"
        )
    }

    /// Keys that are in two sets although destroying one set should leave nothing to open its files with.
    fn tell_shared(&self, faults: &Faults) {
        let mut active: BTreeMap<KekId, &EncryptionConfig> = BTreeMap::new();
        let mut recipients: BTreeMap<[u8; 16], &EncryptionConfig> = BTreeMap::new();
        for keys in self.good() {
            let section = keys.section();
            if let Some(other) = active.insert(keys.ring.active(), keys) {
                let problem = format!(
                    "its key_file or token is that of [{}] too, and whoever destroys one of both would leave the other: make another one with `portcullis-rescue new-key FILE`",
                    other.section()
                );
                faults.note(section.clone(), problem);
            }
            if let Some(other) = recipients.insert(keys.recipient, keys) {
                let problem = format!(
                    "the escrow key is that of [{}] too, whose shares would open the files of both: make another one with `portcullis-rescue new-escrow DIRECTORY`",
                    other.section()
                );
                faults.note(format!("{section}.escrow_recipient_file"), problem);
            }
        }
    }
}

/// Retired keys of a set that another one has too: until they are removed, what they open outlives the set. A sentence each.
pub(in crate::config) fn lent(sets: &[Arc<EncryptionConfig>]) -> Vec<String> {
    let mut found = Vec::new();
    for keys in sets {
        for key in keys.ring.retired() {
            let others = sets.iter().filter(|other| other.set != keys.set);
            let owner = others.into_iter().find(|other| other.has_key(key));
            if let Some(owner) = owner {
                found.push(format!(
                    "key {key} of [{}] is retired in [{}] too: rotate the keys of its backends, then remove it there, so that each set can be destroyed alone",
                    owner.section(),
                    keys.section()
                ));
            }
        }
    }
    found
}

/// The path of a set's section.
pub(super) fn section(set: Option<&str>) -> String {
    match set {
        None => "encryption".to_owned(),
        Some(name) => format!("encryption.{name}"),
    }
}

/// What all sets share.
#[derive(Debug, Clone)]
struct Handling<'a> {
    tombs: &'a Tombs,
    update_limit: u64,
    spool_directory: PathBuf,
    check_names: bool,
    vouch: bool,
}

pub(in crate::config) fn encryption(
    mut section: Section<'_>,
    tombs: &Tombs,
    faults: &Faults,
) -> KeySets {
    let handling = handling(&mut section, tombs);
    let has_keys = OF_KEYS.iter().any(|key| section.has(key));
    let mut standard = Set::Absent;
    if has_keys {
        standard = set(&mut section, None, &handling);
    }
    let others = section.other_sections();
    if !has_keys && others.is_empty() {
        standard = set(&mut section, None, &handling);
    }
    let mut named = BTreeMap::new();
    for (name, mut below) in others {
        if !is_name(name) {
            let problem = format!(
                "this is no name for keys; expected up to {LONGEST_NAME} letters, digits, - and _"
            );
            section.fault(name, problem);
        }
        let set = set(&mut below, Some(name), &handling);
        below.finish();
        named.insert(name.to_owned(), set);
    }
    section.finish();
    let sets = KeySets { standard, named };
    sets.tell_shared(faults);
    sets
}

fn is_name(name: &str) -> bool {
    let is_good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_good)
}

fn handling<'a>(section: &mut Section<'_>, tombs: &'a Tombs) -> Handling<'a> {
    let update_limit = section.number("update_limit_bytes", 0..=LARGEST_UPDATE_LIMIT, UPDATE_LIMIT);
    let spool = section.text("spool_directory", "the path of a directory");
    let spool_directory = PathBuf::from(spool.unwrap_or(SPOOL_DIRECTORY));
    if !spool_directory.is_absolute() || !spool_directory.is_dir() {
        let problem = format!("{} is not a directory", spool_directory.display());
        section.fault("spool_directory", problem);
    }
    let check_names = section.flag("check_names", true);
    Handling {
        tombs,
        update_limit,
        spool_directory,
        check_names,
        vouch: check_file(section, check_names),
    }
}

/// True if the journal answers.
fn check_file(section: &mut Section<'_>, check_names: bool) -> bool {
    match section.text("check_file", "\"journal\" or \"read\"") {
        None => check_names,
        Some("read") => false,
        Some("journal") if check_names => true,
        Some("journal") => {
            section.fault(
                "check_file",
                "with check_names = false nobody knows of which file the journal speaks: say \"read\"",
            );
            false
        }
        Some(other) => {
            section.fault(
                "check_file",
                format!("{other:?} is neither \"journal\" nor \"read\""),
            );
            false
        }
    }
}

fn set(section: &mut Section<'_>, name: Option<&str>, handling: &Handling<'_>) -> Set {
    match keys(section, name, handling) {
        Some(keys) => Set::Good(Arc::new(keys)),
        None => Set::Faulty,
    }
}

fn keys(
    section: &mut Section<'_>,
    name: Option<&str>,
    handling: &Handling<'_>,
) -> Option<EncryptionConfig> {
    let tomb = name.and_then(|name| handling.tombs.of(name));
    if let Some(tomb) = tomb
        && is_of(section, tomb)
    {
        section.know(&OF_KEYS);
        return lost(tomb, handling);
    }
    let active = active(section);
    let retired_tokens: Vec<_> = section
        .tables("retired_tokens")
        .into_iter()
        .map(token)
        .collect();
    let retired: Vec<_> = section
        .texts("retired_key_files", "a list of key files")
        .unwrap_or_default()
        .into_iter()
        .map(|(index, path)| file(section, &format!("retired_key_files[{index}]"), path))
        .chain(retired_tokens)
        .collect();
    let escrow = section
        .required_text(
            "escrow_recipient_file",
            "the file of the public half of the escrow key: without it, files are lost with the gateway's keys",
        )
        .and_then(|path| {
            key_file::read_recipient(Path::new(path))
                .map_err(|error| section.fault("escrow_recipient_file", chain(&error)))
                .ok()
        });
    let (active, escrow) = (active?, escrow?);
    let retired: Vec<Key> = retired.into_iter().collect::<Option<_>>()?;
    refuse_destroyed(section, &active, &retired, escrow.id(), handling.tombs)?;
    let all = || std::iter::once(&active).chain(&retired);
    let identity = all()
        .flat_map(Key::identity)
        .chain(*escrow.as_bytes())
        .collect();
    let sources = all().map(Key::source).collect();
    let retired = retired.into_iter().map(|key| key.kek).collect();
    let Handling {
        tombs,
        update_limit,
        spool_directory,
        check_names,
        vouch,
    } = handling.clone();
    let destroyed = tombs.on_record().flat_map(|tomb| {
        let record = tomb.epitaph();
        let ids = tomb.ids().into_iter();
        ids.map(move |id| (id, Arc::clone(&record)))
    });
    Some(EncryptionConfig {
        set: name.map(str::to_owned),
        recipient: escrow.id(),
        ring: Keyring::knowing(active.kek, retired, Some(escrow), destroyed.collect()),
        identity,
        sources,
        update_limit,
        spool_directory,
        check_names,
        vouch,
    })
}

/// A set whose keys were destroyed: its files can be listed and removed, and nothing is written with it.
fn lost(tomb: &Tomb, handling: &Handling<'_>) -> Option<EncryptionConfig> {
    let mut recipient = [0; 16];
    hex::decode_to_slice(&tomb.escrow, &mut recipient).ok()?;
    let (active, retired) = tomb
        .ids()
        .split_first()
        .map(|(id, ids)| (*id, ids.to_vec()))?;
    Some(EncryptionConfig {
        set: Some(tomb.set.clone()),
        recipient,
        ring: Keyring::lost(active, retired, tomb.epitaph()),
        identity: [b"destroyed", &active.0[..]].concat(),
        sources: tomb.keys.clone(),
        update_limit: handling.update_limit,
        spool_directory: handling.spool_directory.clone(),
        check_names: handling.check_names,
        vouch: handling.vouch,
    })
}

/// `None` if one of the keys was destroyed on record: somebody has brought a copy of it back.
fn refuse_destroyed(
    section: &Section<'_>,
    active: &Key,
    retired: &[Key],
    escrow: [u8; 16],
    tombs: &Tombs,
) -> Option<()> {
    let mut is_good = true;
    for tomb in tombs.on_record() {
        let ids = tomb.ids();
        let of_keys = |key: &Key| ids.contains(&key.kek.id());
        let mut refuse = |key: &str, what: &str, way_out: &str| {
            let epitaph = tomb.epitaph();
            section.fault(key, format!("{what} is back: {epitaph}; {way_out}"));
            is_good = false;
        };
        if of_keys(active) {
            let way_out =
                "make another one with `portcullis-rescue new-key FILE`, and destroy the copy";
            refuse("key_file", "a destroyed key", way_out);
        }
        if retired.iter().any(of_keys) {
            refuse(
                "retired_key_files",
                "a destroyed key",
                "remove it, and destroy the copy",
            );
        }
        if hex::encode(escrow) == tomb.escrow {
            let way_out = "make another one with `portcullis-rescue new-escrow DIRECTORY`";
            refuse(
                "escrow_recipient_file",
                "an escrow key of destroyed keys",
                way_out,
            );
        }
    }
    is_good.then_some(())
}
