//! OpenLDAP's slapd: a small directory of people and groups, over LDAPS and StartTLS.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Result;
use tempfile::TempDir;

use super::{started_once, unpacked_libraries};
use crate::files;
use crate::locate;
use crate::place::Place;
use crate::process::{Running, succeed};

/// Below this is everything.
pub const BASE: &str = "dc=example,dc=org";
/// An account that may search, and not write.
pub const SERVICE_DN: &str = "cn=gateway,dc=example,dc=org";
/// The password of every entry that has one.
pub const PASSWORD: &str = "correct horse battery";

/// Alice, Bob and Dave are people, Carol is there twice. Alice is in two groups, Dave in one that is in one of them.
const ENTRIES: &str = "
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: cn=gateway,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: gateway
userPassword: correct horse battery

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=guests,dc=example,dc=org
objectClass: organizationalUnit
ou: guests

dn: uid=alice,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
userPassword: correct horse battery

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: B
userPassword: correct horse battery

dn: uid=dave,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: dave
cn: Dave
sn: D
userPassword: correct horse battery

dn: uid=carol,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: carol
cn: Carol
sn: C
userPassword: correct horse battery

dn: uid=carol,ou=guests,dc=example,dc=org
objectClass: inetOrgPerson
uid: carol
cn: Carol
sn: C
userPassword: correct horse battery
";

/// Added to the running server: only that keeps `memberOf` of the members.
const GROUPS: &str = "dn: cn=Transfer,dc=example,dc=org
changetype: add
objectClass: groupOfNames
cn: Transfer
member: uid=alice,ou=people,dc=example,dc=org
member: cn=Couriers,dc=example,dc=org

dn: cn=Couriers,dc=example,dc=org
changetype: add
objectClass: groupOfNames
cn: Couriers
member: uid=dave,ou=people,dc=example,dc=org

dn: cn=Unrelated,dc=example,dc=org
changetype: add
objectClass: groupOfNames
cn: Unrelated
member: uid=alice,ou=people,dc=example,dc=org
";

/// A running slapd.
#[derive(Debug)]
pub struct Slapd {
    /// Where it listens with TLS from the first byte on.
    pub ldaps: SocketAddr,
    /// Where it listens for StartTLS; it takes no bind before that.
    pub start_tls: SocketAddr,
    /// The authority of its certificate, PEM.
    pub authority: PathBuf,
    /// The process.
    pub process: Running,
    scratch: TempDir,
}

impl Slapd {
    /// Starts it with its entries.
    ///
    /// # Errors
    /// When it isn't unpacked (`cargo xtask setup`).
    pub fn start(place: Place<'_>) -> Result<Self> {
        let program = locate::peer("slapd", "usr/sbin/slapd")?;
        let schema = locate::peer("slapd", "etc/ldap/schema/core.schema")?;
        let modules = locate::peer("slapd", "usr/lib/ldap/back_mdb.so")?;
        let scratch = files::folder("slapd")?;
        let folder = scratch.path();
        let ldaps = SocketAddr::new(place.address(), place.port(636));
        let start_tls = SocketAddr::new(place.address(), place.port(389));
        let authority = certify(folder, &ldaps.ip().to_string())?;
        fs::create_dir(folder.join("database"))?;
        let configuration = folder.join("slapd.conf");
        let schemas = schema.parent().unwrap_or(Path::new("/"));
        let includes: String = ["core", "cosine", "inetorgperson"]
            .map(|name| format!("include {}/{name}.schema\n", schemas.display()))
            .concat();
        files::secret(
            &configuration,
            &format!(
                "{includes}\
                 modulepath {modules}\n\
                 moduleload back_mdb\n\
                 moduleload memberof\n\
                 pidfile {here}/slapd.pid\n\
                 TLSCACertificateFile {here}/authority.pem\n\
                 TLSCertificateFile {here}/server.pem\n\
                 TLSCertificateKeyFile {here}/server.key\n\
                 disallow bind_anon\n\
                 security simple_bind=128\n\
                 database mdb\n\
                 suffix \"{BASE}\"\n\
                 rootdn \"cn=admin,{BASE}\"\n\
                 rootpw \"{PASSWORD}\"\n\
                 directory {here}/database\n\
                 overlay memberof\n\
                 access to attrs=userPassword by anonymous auth by * none\n\
                 access to * by users read by * none\n",
                modules = modules.parent().unwrap_or(Path::new("/")).display(),
                here = folder.display(),
            ),
        )?;
        let entries = folder.join("entries.ldif");
        files::secret(&entries, ENTRIES)?;
        let libraries = unpacked_libraries("slapd");
        // The same binary under another name, as the package has it.
        succeed(
            Command::new(&program)
                .args(["-T", "add", "-f"])
                .arg(&configuration)
                .arg("-l")
                .arg(&entries)
                .env("LD_LIBRARY_PATH", &libraries),
        )?;
        let mut command = place.command("setpriv");
        // A shared one is never dropped.
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&program)
            .arg("-f")
            .arg(&configuration)
            .arg("-h")
            .arg(format!("ldaps://{ldaps} ldap://{start_tls}"))
            // Stays in front, and logs operations.
            .args(["-d", "256"])
            .env("LD_LIBRARY_PATH", &libraries);
        let mut process = Running::start("slapd", &mut command, &folder.join("output.log"))?;
        process.wait_until_listening(ldaps.port())?;
        process.wait_until_listening(start_tls.port())?;
        let started = Self {
            ldaps,
            start_tls,
            authority,
            process,
            scratch,
        };
        started.change(GROUPS)?;
        Ok(started)
    }

    /// One for all tests of this process that only read.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SLAPD: OnceLock<Slapd> = OnceLock::new();
        started_once(&SLAPD, "slapd", || {
            let slapd = Self::start(Place::Loopback)?;
            let folder = slapd.scratch.path().to_path_buf();
            Ok((slapd, folder))
        })
    }

    /// Removes a person, as an administrator of the directory does when somebody leaves.
    ///
    /// # Errors
    /// When the directory refuses.
    pub fn remove(&self, dn: &str) -> Result<()> {
        self.modify("ldapdelete", &format!("{dn}\n"))
    }

    /// Applies changes in LDIF.
    ///
    /// # Errors
    /// When the directory refuses.
    pub fn change(&self, ldif: &str) -> Result<()> {
        self.modify("ldapmodify", ldif)
    }

    fn modify(&self, tool: &str, input: &str) -> Result<()> {
        let input_file = self.scratch.path().join("input");
        files::secret(&input_file, input)?;
        succeed(
            Command::new(locate::peer("slapd", &format!("usr/bin/{tool}"))?)
                .args(["-x", "-H", &format!("ldaps://{}", self.ldaps)])
                .args(["-D", &format!("cn=admin,{BASE}"), "-w", PASSWORD])
                .arg("-f")
                .arg(&input_file)
                .env("LDAPTLS_CACERT", &self.authority)
                .env("LD_LIBRARY_PATH", unpacked_libraries("slapd")),
        )?;
        Ok(())
    }
}

/// An authority in `authority.pem`, and a certificate of it for `address` in `server.pem` and `server.key`.
fn certify(folder: &Path, address: &str) -> Result<PathBuf> {
    let at = |name: &str| folder.join(name);
    let openssl = || {
        let mut command = Command::new("openssl");
        command.current_dir(folder);
        command
    };
    let new_key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    succeed(
        openssl()
            .args(["req", "-x509", "-days", "30", "-subj", "/CN=Test authority"])
            .args(["-addext", "keyUsage=critical,keyCertSign"])
            .args(new_key)
            .args(["-keyout", "authority.key", "-out", "authority.pem"]),
    )?;
    succeed(
        openssl()
            .args(["req", "-subj", "/CN=localhost"])
            .args(new_key)
            .args(["-keyout", "server.key", "-out", "server.csr"]),
    )?;
    fs::write(
        at("server.ext"),
        format!("subjectAltName=DNS:localhost,IP:{address}\nbasicConstraints=critical,CA:FALSE\n"),
    )?;
    succeed(openssl().args([
        "x509",
        "-req",
        "-days",
        "30",
        "-in",
        "server.csr",
        "-CA",
        "authority.pem",
        "-CAkey",
        "authority.key",
        "-CAcreateserial",
        "-extfile",
        "server.ext",
        "-out",
        "server.pem",
    ]))?;
    Ok(at("authority.pem"))
}
