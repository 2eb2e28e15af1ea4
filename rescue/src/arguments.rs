//! The command line.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

const USAGE: &str = "\
Decrypts the files of a Portcullis backend without the gateway: its directory, two shares of the escrow key, nothing else.
Only reads there. A file appears under --to when all of it was authentic, and none is ever overwritten.

Usage: portcullis-rescue --from DIRECTORY|BUCKET --share FILE --share FILE --to DIRECTORY [options]
       portcullis-rescue new-escrow DIRECTORY
       portcullis-rescue new-key FILE

  new-escrow           make an escrow key, on a machine without a network: `recipient` for the gateway, and three shares, any two of
                       which open every stored file. The private half itself is written nowhere.
  new-key              make a key-encryption key for the gateway
  --from DIRECTORY     directory of the backend, or a copy of it
  --from s3://BUCKET/PREFIX --endpoint URL --credentials FILE [--region REGION] [--ca FILE]
                       its bucket; FILE has the access key's id and its secret, a line each, and is readable for its owner alone. The
                       server's certificate is of a public authority, or of one in --ca (PEM); http:// only on this machine
  --from azure://ACCOUNT/CONTAINER/PREFIX [--endpoint URL] --credentials FILE [--ca FILE]
                       its container; FILE has a key of the storage account, or a shared access signature (sp=rl)
  --share FILE         a share of the escrow key; as many as it says are needed
  --key FILE           a key-encryption key of the gateway, instead of shares or besides; may be given more than once
  --to DIRECTORY       where the plaintext goes; made if it is not there (0700, files 0600)
  --only PREFIX        only this file or directory, from --from on, by the names that come back
  --names FILE         the file with the key of encrypted names; .portcullis-names in --from if it is there. Needed where --from is
                       a directory below the backend's
  --backend NAME       refuse files that were encrypted for another backend than this one of the gateway's configuration
  --journal DIRECTORY  the gateway's journal: each file is compared with the last upload on record
  --journal-key FILE   public keys of the journal, one a line
  --json               one JSON object a line: each file, then the summary
  --help, --version

Each file is one of: verified (as the journal says), decrypted (authentic; not in the journal), differs (authentic, but not
what the journal says was uploaded last), not-authentic (changed, cut off or not of this backend), not-encrypted (copied as it
is), newer-format, key-missing, exists (something stands under that name in --to), not-a-file (links and the like), failed,
unfinished (an upload that was never published; left out), unnamed (authentic, but its name, or that of a directory above it, was
changed or never encrypted: it has the one that it has on the backend).

Exit code: 0 every file verified or decrypted, 1 not every one, or the journal is not sound, 2 could not run.
";

pub(crate) enum Call {
    Rescue(Box<Arguments>),
    NewEscrow(PathBuf),
    NewKey(PathBuf),
    Print(String),
}

/// Where the stored files are.
pub(crate) enum From {
    Directory(PathBuf),
    Bucket(Place),
}

/// A part of a bucket.
#[cfg_attr(
    not(feature = "buckets"),
    expect(dead_code, reason = "said to be there, and not read")
)]
pub(crate) struct Place {
    pub(crate) service: Service,
    /// Azure: the container.
    pub(crate) bucket: String,
    /// Without slashes at its ends.
    pub(crate) prefix: String,
    pub(crate) endpoint: String,
    pub(crate) credentials: PathBuf,
    pub(crate) authorities: Option<PathBuf>,
}

/// Whose interface the server of a bucket has.
#[cfg_attr(
    not(feature = "buckets"),
    expect(dead_code, reason = "said to be there, and not read")
)]
pub(crate) enum Service {
    S3 { region: String },
    Azure { account: String },
}

pub(crate) struct Arguments {
    pub(crate) from: From,
    pub(crate) to: PathBuf,
    pub(crate) shares: Vec<PathBuf>,
    pub(crate) keys: Vec<PathBuf>,
    /// Directory and public keys.
    pub(crate) journal: Option<(PathBuf, PathBuf)>,
    /// From `from` on, without slashes at its ends.
    pub(crate) only: Option<Vec<u8>>,
    /// The file with the key of encrypted names, if it is not where it is looked for.
    pub(crate) names: Option<PathBuf>,
    pub(crate) backend: Option<String>,
    pub(crate) json: bool,
}

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Call, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut from, mut to, mut only, mut backend) = (None::<PathBuf>, None::<PathBuf>, None, None);
    let (mut journal, mut journal_key) = (None::<PathBuf>, None::<PathBuf>);
    let mut names = None::<PathBuf>;
    let (mut endpoint, mut region) = (None::<String>, None::<String>);
    let (mut credentials, mut authorities) = (None::<PathBuf>, None::<PathBuf>);
    let (mut shares, mut keys, mut json) = (Vec::new(), Vec::new(), false);
    let mut parser = lexopt::Parser::from_iter(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("from") => from = Some(parser.value()?.into()),
            Long("to") => to = Some(parser.value()?.into()),
            Long("share") => shares.push(parser.value()?.into()),
            Long("key") => keys.push(parser.value()?.into()),
            Long("only") => only = Some(prefix(parser.value()?)?),
            Long("endpoint") => endpoint = Some(parser.value()?.string()?),
            Long("region") => region = Some(parser.value()?.string()?),
            Long("credentials") => credentials = Some(parser.value()?.into()),
            Long("ca") => authorities = Some(parser.value()?.into()),
            Long("names") => names = Some(parser.value()?.into()),
            Long("backend") => backend = Some(parser.value()?.string()?),
            Long("journal") => journal = Some(parser.value()?.into()),
            Long("journal-key") => journal_key = Some(parser.value()?.into()),
            Long("json") => json = true,
            Long("help") | Short('h') => return Ok(Call::Print(USAGE.to_owned())),
            Long("version") => {
                let version = env!("CARGO_PKG_VERSION");
                return Ok(Call::Print(format!("portcullis-rescue {version}\n")));
            }
            Value(verb) if verb == "new-escrow" => {
                return Ok(Call::NewEscrow(only_value(&mut parser)?));
            }
            Value(verb) if verb == "new-key" => return Ok(Call::NewKey(only_value(&mut parser)?)),
            Short(_) | Long(_) | Value(_) => return Err(argument.unexpected()),
        }
    }
    let from = from.ok_or("--from is missing: the directory of the backend")?;
    let to = to.ok_or("--to is missing: the directory for the plaintext")?;
    if shares.is_empty() && keys.is_empty() {
        return Err("no key is given: --share FILE for each share, or --key FILE".into());
    }
    let journal = match (journal, journal_key) {
        (Some(directory), Some(key)) => Some((directory, key)),
        (None, None) => None,
        (Some(_), None) => {
            return Err("--journal-key is missing: without it the journal proves nothing".into());
        }
        (None, Some(_)) => return Err("--journal-key needs --journal".into()),
    };
    let server = Server {
        endpoint,
        region,
        credentials,
        authorities,
    };
    let url = from.to_str().and_then(|from| from.split_once("://"));
    let from = match url {
        Some(("s3", named)) => From::Bucket(server.s3(named)?),
        Some(("azure", named)) => From::Bucket(server.azure(named)?),
        Some(_) | None if server.is_named() => {
            return Err("--endpoint, --region, --credentials and --ca belong to --from s3://BUCKET or azure://ACCOUNT/CONTAINER".into());
        }
        Some(_) | None => {
            refuse_nested(&from, &to)?;
            From::Directory(from)
        }
    };
    Ok(Call::Rescue(Box::new(Arguments {
        from,
        to,
        shares,
        keys,
        journal,
        only,
        names,
        backend,
        json,
    })))
}

/// What was said of a bucket's server.
struct Server {
    endpoint: Option<String>,
    region: Option<String>,
    credentials: Option<PathBuf>,
    authorities: Option<PathBuf>,
}

impl Server {
    fn is_named(&self) -> bool {
        let Self {
            endpoint,
            region,
            credentials,
            authorities,
        } = self;
        endpoint.is_some() || region.is_some() || credentials.is_some() || authorities.is_some()
    }

    /// `BUCKET/PREFIX`
    fn s3(self, named: &str) -> Result<Place, lexopt::Error> {
        let endpoint = self.endpoint.clone();
        let endpoint = endpoint.ok_or("--endpoint is missing: the server of the bucket")?;
        let region = self
            .region
            .clone()
            .unwrap_or_else(|| "us-east-1".to_owned());
        let missing = "--credentials is missing: a file with the access key's id and its secret";
        self.place(Service::S3 { region }, named, endpoint, missing)
    }

    /// `ACCOUNT/CONTAINER/PREFIX`
    fn azure(self, named: &str) -> Result<Place, lexopt::Error> {
        if self.region.is_some() {
            return Err("--region belongs to --from s3://BUCKET".into());
        }
        let (account, container) = named
            .split_once('/')
            .filter(|(account, container)| !account.is_empty() && !container.is_empty())
            .ok_or("--from azure:// names an account and a container: azure://ACCOUNT/CONTAINER")?;
        let standard = || format!("https://{account}.blob.core.windows.net");
        let endpoint = self.endpoint.clone().unwrap_or_else(standard);
        let account = account.to_owned();
        let missing = "--credentials is missing: a file with a key of the account, or a shared access signature";
        self.place(Service::Azure { account }, container, endpoint, missing)
    }

    fn place(
        self,
        service: Service,
        named: &str,
        endpoint: String,
        missing: &'static str,
    ) -> Result<Place, lexopt::Error> {
        let (bucket, prefix) = named.split_once('/').unwrap_or((named, ""));
        Ok(Place {
            service,
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
            endpoint,
            credentials: self.credentials.ok_or(missing)?,
            authorities: self.authorities,
        })
    }
}

/// What a verb is about, and nothing behind it.
fn only_value(parser: &mut lexopt::Parser) -> Result<PathBuf, lexopt::Error> {
    let value = parser.value()?.into();
    match parser.next()? {
        None => Ok(value),
        Some(argument) => Err(argument.unexpected()),
    }
}

fn prefix(value: OsString) -> Result<Vec<u8>, lexopt::Error> {
    let bytes = value.into_vec();
    let parts: Vec<&[u8]> = bytes
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&&b".."[..]) {
        return Err("--only names something below --from, without ..".into());
    }
    Ok(parts.join(&b'/'))
}

/// Plaintext has no business on the backend.
fn refuse_nested(from: &Path, to: &Path) -> Result<(), lexopt::Error> {
    let Ok(from) = from.canonicalize() else {
        // Opening it says why.
        return Ok(());
    };
    let absolute = std::path::absolute(to).unwrap_or_else(|_| to.to_owned());
    let is_below = absolute
        .ancestors()
        .find_map(|place| place.canonicalize().ok())
        .is_some_and(|place| place.starts_with(&from));
    if is_below {
        return Err("--to lies inside --from: plaintext does not belong on the backend".into());
    }
    Ok(())
}
