//! Stored files back in plaintext, without the gateway: from the directory of a backend and the keys, and against the journal if
//! it is there.

#![forbid(unsafe_code)]

mod arguments;
#[cfg(feature = "buckets")]
mod bucket;
mod journal;
mod report;
mod restore;
mod tree;

use std::{
    error::Error,
    ffi::OsStr,
    fs::{DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use portcullis_at_rest::{
    DataKey, Head, Keyring, Realm,
    escrow::Identity,
    kek::{KeyEncryptionKey, SoftwareKek},
    key_file::{read_kek, read_share, write_kek, write_recipient, write_share},
    names::{FILE, FILE_LENGTH, Names},
    shares,
};
use rustix::{
    fs::OFlags,
    process::{DumpableBehavior, Resource, Rlimit},
};

use self::{
    arguments::{Arguments, Call, From},
    journal::Index,
    report::Report,
    restore::{Fault, Keys},
    tree::{Opened, Tree, of_keys},
};

fn main() -> ExitCode {
    let done = match arguments::parse(std::env::args_os()) {
        Ok(Call::Print(text)) => io::stdout()
            .write_all(text.as_bytes())
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Ok(Call::Rescue(arguments)) => run(&arguments),
        Ok(Call::NewEscrow(directory)) => new_escrow(&directory),
        Ok(Call::NewKey(path)) => new_key(&path),
        Err(error) => Err(format!("{error}; see portcullis-rescue --help").into()),
    };
    done.unwrap_or_else(|error| {
        let mut text = format!("portcullis-rescue: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        // Nothing is left to say it with if stderr is closed.
        let _ = writeln!(io::stderr(), "{text}");
        ExitCode::from(2)
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    leave_no_traces()?;
    let keys = keys(arguments)?;
    let index = match &arguments.journal {
        None => None,
        Some((directory, key)) => Some(Index::read(directory, key)?),
    };
    let opened = open(&arguments.from)?;
    let names = names(arguments, &opened, &keys, index.as_ref())?;
    let only = arguments.only.as_deref();
    let tree = Tree::open(&opened, &arguments.to, only, names)?;
    let mut report = Report::new(arguments.json, io::stdout().lock());
    report.journal(index.as_ref())?;
    tree.restore(&keys, index.as_ref(), &mut report)?;
    let is_whole = report.end()?;
    let is_sound = index.as_ref().is_none_or(Index::is_sound);
    Ok(if is_whole && is_sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Those of the backend, if they are encrypted. Without them a tree of encrypted ones would come back under names that say nothing.
fn names(
    arguments: &Arguments,
    opened: &Opened,
    keys: &Keys,
    index: Option<&Index>,
) -> Result<Option<Names>, Box<dyn Error>> {
    const MOST: u64 = FILE_LENGTH as u64 + 1;
    let read = |path: &Path| -> io::Result<Option<Vec<u8>>> {
        let mut stored = Vec::new();
        let file = File::options()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)?;
        file.take(MOST).read_to_end(&mut stored)?;
        Ok(Some(stored))
    };
    let name = OsStr::from_bytes(FILE);
    let stored = match (&arguments.names, opened) {
        (Some(path), _) => read(path),
        (None, Opened::Directory(from)) => {
            let path = from.join(name);
            match path.symlink_metadata() {
                Ok(_) => read(&path),
                Err(_) => Ok(None),
            }
        }
        #[cfg(feature = "buckets")]
        (None, Opened::Bucket(bucket)) => Ok(bucket
            .small(&name.to_string_lossy(), MOST)
            .map_err(|error| format!("the bucket can't be read: {error}"))?),
    };
    if let (Some(index), Ok(Some(stored))) = (index, &stored)
        && let Some(lost) = Head::parse(stored).ok().and_then(|head| index.lost(&head))
    {
        let lost = of_keys(lost);
        return Err(format!(
            "the encrypted names of this backend were {lost}; nothing of it is given out"
        )
        .into());
    }
    let names = match stored {
        Ok(None) => return Ok(None),
        Ok(Some(stored)) => match keys.names(&stored) {
            // Another copy would be no better.
            Err(Fault::KeyMissing(missing)) => {
                return Err(format!(
                    "the encrypted names of this backend can't be read: {missing}"
                )
                .into());
            }
            names => names.map_err(|fault| fault.to_string()),
        },
        Err(error) => Err(error.to_string()),
    };
    names.map(Some).map_err(|error| {
        let path = arguments.names.as_deref().unwrap_or(Path::new(name));
        format!(
            "{}, the key of the encrypted names, can't be read: {error}; another copy of it will do (--names FILE), and a copy of the backend without it comes back under its stored names",
            path.display()
        )
        .into()
    })
}

fn open(from: &From) -> Result<Opened, Box<dyn Error>> {
    match from {
        From::Directory(path) => Ok(Opened::Directory(path.clone())),
        #[cfg(feature = "buckets")]
        From::Bucket(place) => Ok(Opened::Bucket(bucket::Bucket::open(place)?)),
        #[cfg(not(feature = "buckets"))]
        From::Bucket(place) => Err(format!(
            "{}: this program was built without the feature `buckets`; copy the bucket to a directory",
            place.bucket
        )
        .into()),
    }
}

/// Two of three.
const SHARES: (u8, u8) = (2, 3);

fn new_escrow(directory: &Path) -> Result<ExitCode, Box<dyn Error>> {
    leave_no_traces()?;
    let identity = Identity::generate()?;
    let shares = shares::split(&identity, SHARES.0, SHARES.1)?;
    DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .map_err(|error| format!("{} can't be made: {error}", directory.display()))?;
    write_recipient(&directory.join("recipient"), identity.recipient())?;
    for share in &shares {
        write_share(&directory.join(format!("share-{}", share.number())), share)?;
    }
    writeln!(
        io::stdout(),
        "{}: `recipient` goes to the gateway; give each of the {} shares to another person, and keep none here",
        directory.display(),
        shares.len()
    )?;
    Ok(ExitCode::SUCCESS)
}

fn new_key(path: &Path) -> Result<ExitCode, Box<dyn Error>> {
    leave_no_traces()?;
    let key = DataKey::random()?;
    write_kek(path, &key)?;
    writeln!(
        io::stdout(),
        "{}: key-encryption key {}; keep a copy apart from the backend's",
        path.display(),
        SoftwareKek::new(&key).id()
    )?;
    Ok(ExitCode::SUCCESS)
}

/// No core dumps, which would hold keys; and a tree may be deep.
fn leave_no_traces() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let files = rustix::process::getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: files.maximum,
        ..files
    };
    Ok(rustix::process::setrlimit(Resource::Nofile, most)?)
}

fn keys(arguments: &Arguments) -> Result<Keys, Box<dyn Error>> {
    let identity = if arguments.shares.is_empty() {
        None
    } else {
        let shares: Result<Vec<_>, _> = arguments.shares.iter().map(|p| read_share(p)).collect();
        Some(shares::join(&shares?)?)
    };
    let mut keks = arguments.keys.iter().map(|path| {
        let kek: Arc<dyn KeyEncryptionKey> = Arc::new(read_kek(path)?);
        Ok::<_, Box<dyn Error>>(kek)
    });
    let ring = match keks.next() {
        None => None,
        Some(first) => Some(Keyring::new(first?, keks.collect::<Result<_, _>>()?, None)),
    };
    let realm = arguments.backend.as_deref().map(Realm::named);
    Ok(Keys {
        identity,
        ring,
        realm,
    })
}
