//! [`Entry`]: an account without its secrets, and its form in a file.

use std::{
    collections::BTreeSet,
    num::{NonZeroU32, NonZeroU64},
    str::FromStr,
};

use portcullis_journal::{
    AccountKind,
    record::{untrusted, untrusted_bytes},
};
use serde_json::{Map, Value, json};

use crate::{
    accounts::{
        AccountName,
        admission::{Restrictions, SourceNetwork},
        kind_from, kind_name, mounts,
    },
    allowance::{AccountLimits, Allowance},
    auth::{
        flow::FactorPolicy,
        public_key::{self, KeyRules},
    },
    exception::Exception,
    path::VirtualPath,
    policy::{Mount, PathRules, Permissions},
};

/// The fields of an account, in the order of the columns.
pub const FIELDS: [&str; 17] = [
    "name",
    "kind",
    "owner",
    "disabled",
    "expires",
    "idle_days",
    "hours",
    "sources",
    "max_sessions",
    "read_rate",
    "write_rate",
    "policy_reason",
    "policy_approver",
    "policy_expires",
    "groups",
    "keys",
    "mounts",
];

/// An account without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: AccountName,
    pub kind: AccountKind,
    pub owner: Option<String>,
    pub disabled: bool,
    pub policy: FactorPolicy,
    pub restrictions: Restrictions,
    pub limits: AccountLimits,
    /// In their order.
    pub groups: BTreeSet<AccountName>,
    pub keys: Vec<KeyLine>,
    /// Its own, by place.
    pub mounts: Vec<Mount>,
}

/// A public key of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLine {
    pub fingerprint: String,
    /// `TYPE BASE64`
    pub line: String,
    pub comment: String,
}

/// What is wrong with which field.
pub(super) type FieldFault = (String, String);

impl Entry {
    /// As [`Entry::from_fields`] reads it; what is not set is left out.
    pub fn fields(&self) -> Map<String, Value> {
        let Restrictions {
            expires,
            idle_days,
            hours,
            sources,
        } = &self.restrictions;
        let AccountLimits {
            sessions,
            read_rate,
            write_rate,
        } = self.limits;
        let exception = match &self.policy {
            FactorPolicy::PossessionPair(exception) => Some(exception),
            FactorPolicy::TwoClass => None,
        };
        let texts = |texts: Vec<String>| (!texts.is_empty()).then(|| Value::from(texts));
        let values = [
            Some(self.name.as_str().into()),
            Some(kind_name(self.kind).into()),
            self.owner.as_deref().map(Value::from),
            self.disabled.then_some(true.into()),
            expires.map(|date| date.to_string().into()),
            idle_days.map(|days| days.get().into()),
            hours.as_ref().map(|hours| hours.to_string().into()),
            texts(sources.iter().map(ToString::to_string).collect()),
            sessions.map(|most| most.get().into()),
            read_rate.map(|rate| rate.get().into()),
            write_rate.map(|rate| rate.get().into()),
            exception.map(|exception| exception.reason.as_str().into()),
            exception.map(|exception| exception.approver.as_str().into()),
            exception.map(|exception| exception.expires.to_string().into()),
            texts(self.groups.iter().map(ToString::to_string).collect()),
            texts(self.keys.iter().map(KeyLine::to_text).collect()),
            (!self.mounts.is_empty()).then(|| {
                self.mounts
                    .iter()
                    .map(mount_fields)
                    .collect::<Vec<_>>()
                    .into()
            }),
        ];
        FIELDS
            .into_iter()
            .zip(values)
            .filter_map(|(field, value)| Some((field.to_owned(), value?)))
            .collect()
    }

    /// # Errors
    /// Every field that is wrong.
    pub(super) fn from_fields(
        fields: &Map<String, Value>,
        rules: KeyRules,
    ) -> Result<Self, Vec<FieldFault>> {
        let mut reader = Reader {
            fields,
            rules,
            prefix: String::new(),
            faults: Vec::new(),
        };
        reader.refuse_unknown(&FIELDS);
        let name = reader.required("name");
        let kind = reader
            .text("kind")
            .map_or(Some(AccountKind::Human), |kind| {
                let known = kind_from(kind).ok();
                if known.is_none() {
                    reader.fault("kind", "expected human, machine, break-glass or admin");
                }
                known
            });
        let sources: Vec<SourceNetwork> = reader.list("sources");
        let groups: Vec<AccountName> = reader.list("groups");
        let restrictions = Restrictions {
            expires: reader.parsed("expires"),
            idle_days: reader.number_32("idle_days"),
            hours: reader.parsed("hours"),
            sources: sorted(sources.into_iter().map(|SourceNetwork(network)| network)),
        };
        let limits = AccountLimits {
            sessions: reader.number_32("max_sessions"),
            read_rate: reader.rate("read_rate"),
            write_rate: reader.rate("write_rate"),
        };
        let policy = reader.policy();
        let keys = reader.keys();
        let mounts = reader.mounts();
        let owner = reader.text("owner").map(str::to_owned);
        let disabled = reader.flag("disabled").unwrap_or(false);
        match (name, kind) {
            (Some(name), Some(kind)) if reader.faults.is_empty() => Ok(Self {
                name,
                kind,
                owner,
                disabled,
                policy,
                restrictions,
                limits,
                groups: groups.into_iter().collect(),
                keys,
                mounts,
            }),
            (_, _) => Err(reader.faults),
        }
    }
}

impl KeyLine {
    fn to_text(&self) -> String {
        format!("{} {}", self.line, self.comment)
            .trim_end()
            .to_owned()
    }
}

/// As the database orders them.
fn sorted(networks: impl Iterator<Item = ipnet::IpNet>) -> Vec<ipnet::IpNet> {
    let mut networks: Vec<_> = networks.collect();
    networks.sort_by_key(ToString::to_string);
    networks.dedup();
    networks
}

fn mount_fields(mount: &Mount) -> Value {
    let mut shown = json!({
        "at": untrusted(mount.at.as_bytes()),
        "backend": mount.backend,
        "directory": untrusted(&mount.directory),
        "permissions": mount.permissions.to_string(),
    });
    let Allowance {
        read_rate,
        write_rate,
        quota,
    } = mount.allowance;
    let rules = mount.rules.texts();
    let optional = [
        ("rules", (!rules.is_empty()).then(|| rules.into())),
        ("read_rate", read_rate.map(|rate| rate.get().into())),
        ("write_rate", write_rate.map(|rate| rate.get().into())),
        ("quota", quota.map(Value::from)),
        (
            "extensions",
            mount.extensions.map(|extensions| extensions.names().into()),
        ),
        ("resume", mount.resume.map(Value::from)),
    ];
    if let Some(shown) = shown.as_object_mut() {
        for (field, value) in optional {
            if let Some(value) = value {
                shown.insert(field.to_owned(), value);
            }
        }
    }
    shown
}

const MOUNT_FIELDS: [&str; 10] = [
    "at",
    "backend",
    "directory",
    "permissions",
    "rules",
    "read_rate",
    "write_rate",
    "quota",
    "extensions",
    "resume",
];

/// Reads fields and notes what is wrong with them. `null` is as good as absent.
struct Reader<'a> {
    fields: &'a Map<String, Value>,
    /// Which keys an account may have.
    rules: KeyRules,
    prefix: String,
    faults: Vec<FieldFault>,
}

impl<'a> Reader<'a> {
    fn fault(&mut self, field: &str, problem: impl Into<String>) {
        let field = format!("{}{field}", self.prefix);
        self.faults.push((field, problem.into()));
    }

    fn refuse_unknown(&mut self, known: &[&str]) {
        for field in self.fields.keys() {
            if !known.contains(&field.as_str()) {
                self.fault(
                    field,
                    format!("unknown field; known are {}", known.join(", ")),
                );
            }
        }
    }

    fn value(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn text(&mut self, field: &str) -> Option<&'a str> {
        let value = self.value(field)?;
        let text = value.as_str().filter(|text| !text.trim().is_empty());
        if text.is_none() {
            self.fault(field, format!("expected a text, found {value}"));
        }
        text
    }

    fn flag(&mut self, field: &str) -> Option<bool> {
        let value = self.value(field)?;
        if value.as_bool().is_none() {
            self.fault(field, format!("expected true or false, found {value}"));
        }
        value.as_bool()
    }

    fn parsed<T: FromStr<Err: ToString>>(&mut self, field: &str) -> Option<T> {
        match self.text(field)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(field, error.to_string());
                None
            }
        }
    }

    fn required<T: FromStr<Err: ToString>>(&mut self, field: &str) -> Option<T> {
        if self.value(field).is_none() {
            self.fault(field, format!("{field} is missing"));
        }
        self.parsed(field)
    }

    fn number(&mut self, field: &str) -> Option<NonZeroU64> {
        let value = self.value(field)?;
        let number = value
            .as_u64()
            // As SQLite stores numbers.
            .filter(|&number| i64::try_from(number).is_ok())
            .and_then(NonZeroU64::new);
        if number.is_none() {
            self.fault(field, format!("expected a number from 1 on, found {value}"));
        }
        number
    }

    /// Bytes a second.
    fn rate(&mut self, field: &str) -> Option<NonZeroU64> {
        let rate = self.number(field)?;
        mounts::parse_rate(&rate.to_string())
            .map_err(|error| self.fault(field, error.to_string()))
            .ok()
    }

    fn number_32(&mut self, field: &str) -> Option<NonZeroU32> {
        let wide = self.number(field)?;
        let narrow = NonZeroU32::try_from(wide).ok();
        if narrow.is_none() {
            self.fault(field, format!("{wide} is too large"));
        }
        narrow
    }

    fn texts(&mut self, field: &str) -> Vec<&'a str> {
        let Some(value) = self.value(field) else {
            return Vec::new();
        };
        let texts = value
            .as_array()
            .and_then(|values| values.iter().map(Value::as_str).collect());
        texts.unwrap_or_else(|| {
            self.fault(field, format!("expected a list of texts, found {value}"));
            Vec::new()
        })
    }

    fn list<T: FromStr<Err: ToString>>(&mut self, field: &str) -> Vec<T> {
        let texts = self.texts(field);
        let mut list = Vec::with_capacity(texts.len());
        for text in texts {
            match text.parse::<T>() {
                Ok(value) => list.push(value),
                Err(error) => self.fault(field, error.to_string()),
            }
        }
        list
    }

    fn policy(&mut self) -> FactorPolicy {
        const PARTS: [&str; 3] = ["policy_reason", "policy_approver", "policy_expires"];
        let given = PARTS.map(|part| self.value(part).is_some());
        if given == [false; 3] {
            return FactorPolicy::TwoClass;
        }
        let reason = self.required("policy_reason");
        let approver = self.required("policy_approver");
        let expires = self.required("policy_expires");
        match (reason, approver, expires) {
            (Some(reason), Some(approver), Some(expires)) => {
                FactorPolicy::PossessionPair(Exception {
                    reason,
                    approver,
                    expires,
                })
            }
            (_, _, _) => FactorPolicy::TwoClass,
        }
    }

    fn keys(&mut self) -> Vec<KeyLine> {
        let mut keys: Vec<KeyLine> = Vec::new();
        for text in self.texts("keys") {
            let key = public_key::parse_under(text, self.rules).map_err(|error| error.to_string());
            let line = key.and_then(|key| {
                let bare = ssh_key::PublicKey::from(key.key_data().clone());
                Ok(KeyLine {
                    fingerprint: public_key::fingerprint(&key),
                    line: bare.to_openssh().map_err(|error| error.to_string())?,
                    comment: String::from_utf8_lossy(key.comment().as_bytes()).into_owned(),
                })
            });
            match line {
                Ok(line) if keys.iter().any(|key| key.fingerprint == line.fingerprint) => {
                    self.fault("keys", format!("{} is there twice", line.fingerprint));
                }
                Ok(line) => keys.push(line),
                Err(error) => self.fault("keys", error),
            }
        }
        keys.sort_by(|one, other| one.fingerprint.cmp(&other.fingerprint));
        keys
    }

    fn mounts(&mut self) -> Vec<Mount> {
        let Some(value) = self.value("mounts") else {
            return Vec::new();
        };
        let objects: Option<Vec<&Map<String, Value>>> = value
            .as_array()
            .and_then(|values| values.iter().map(Value::as_object).collect());
        let Some(objects) = objects else {
            self.fault(
                "mounts",
                format!("expected a list of objects, found {value}"),
            );
            return Vec::new();
        };
        let mut mounts: Vec<Mount> = Vec::new();
        for (index, fields) in objects.into_iter().enumerate() {
            let mut reader = Reader {
                fields,
                rules: self.rules,
                prefix: format!("mounts[{index}]."),
                faults: Vec::new(),
            };
            let mount = reader.mount();
            self.faults.append(&mut reader.faults);
            match mount {
                Some(mount) if mounts.iter().any(|other| other.at == mount.at) => {
                    self.fault("mounts", format!("two mounts at {:?}", mount.at));
                }
                Some(mount) => mounts.push(mount),
                None => {}
            }
        }
        mounts.sort_by(|one, other| one.at.cmp(&other.at));
        mounts
    }

    fn mount(&mut self) -> Option<Mount> {
        self.refuse_unknown(&MOUNT_FIELDS);
        let at = self.required::<String>("at").and_then(|text| {
            let bytes = untrusted_bytes(&text).filter(|bytes| bytes.first() == Some(&b'/'));
            let place = bytes.and_then(|bytes| VirtualPath::clean(&bytes).ok());
            if place.is_none() {
                self.fault(
                    "at",
                    format!("{text:?} is not an absolute path such as /inbox"),
                );
            }
            place
        });
        let directory = self.required::<String>("directory").and_then(|text| {
            let bytes = untrusted_bytes(&text).filter(|bytes| !bytes.contains(&0));
            if bytes.is_none() {
                self.fault("directory", format!("{text:?} is not a directory"));
            }
            bytes
        });
        let backend = self.required("backend");
        let permissions = self.required::<String>("permissions").and_then(|text| {
            Permissions::parse(&text)
                .map_err(|error| self.fault("permissions", error.to_string()))
                .ok()
        });
        let texts = self.texts("rules");
        let rules = PathRules::parse(&texts)
            .map_err(|error| self.fault("rules", error.to_string()))
            .ok();
        let extensions = self.value("extensions").is_some().then(|| {
            let names = self.texts("extensions");
            let list = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(",")
            };
            mounts::parse_extensions(&list)
                .map_err(|error| self.fault("extensions", error.to_string()))
                .ok()
        });
        let quota = self.value("quota").and_then(|value| {
            let quota = value.as_u64().filter(|&quota| i64::try_from(quota).is_ok());
            if quota.is_none() {
                self.fault(
                    "quota",
                    format!("expected a number of bytes, found {value}"),
                );
            }
            quota
        });
        let allowance = Allowance {
            read_rate: self.rate("read_rate"),
            write_rate: self.rate("write_rate"),
            quota,
        };
        let resume = self.flag("resume");
        Some(Mount {
            at: at?,
            backend: backend?,
            directory: directory?,
            permissions: permissions?,
            rules: rules?,
            group: None,
            allowance,
            extensions: extensions.flatten(),
            resume,
        })
    }
}
