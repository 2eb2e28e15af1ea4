//! The program loaded and attached to nothing, fed with frames one at a time, beside the verdict on the host.

use std::{path::PathBuf, process::Command, sync::Arc};

use agent_ebpf::{
    class::Class,
    layout::FINGERPRINT,
    limit::Excess,
    packet::{Bytes, Headers, Source},
    scope::{ScopeRange, ScopeSet},
    verdict::{self, Rules, Verdict},
};
use anyhow::{Context as _, Result, ensure};
use portcullis_agent::{
    datapath::{
        self, Datapath as _, Settings,
        kernel::{Kernel, Linux},
        mode::{AttachMode, TableChoice},
        pins::Pins,
        xdp::{Options, XdpDatapath},
    },
    rule::{self, Scope},
    ruleset::Ruleset,
};
use portcullis_tests::{
    differential::{Edit, Subject},
    files,
    frames::SHORTEST,
    oracle::{Action, Policy, Rule},
    process::succeed,
};
use tempfile::TempDir;

/// A BPF file system of the test's own.
struct Mounted(TempDir);

impl Mounted {
    fn new() -> Result<Self> {
        let folder = files::folder("loaded")?;
        succeed(
            Command::new("mount")
                .args(["-t", "bpf", "bpf"])
                .arg(folder.path()),
        )
        .context("mount a BPF file system (this needs root)")?;
        Ok(Self(folder))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("portcullis")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// The loaded program with its maps, and the same rules on the host.
pub(crate) struct Loaded {
    // Before the file system that its pins are in.
    pub(crate) datapath: XdpDatapath,
    host: Host,
    mounted: Mounted,
}

impl Loaded {
    /// Attached to nothing.
    ///
    /// # Errors
    /// Without root.
    pub(crate) fn new(table: TableChoice) -> Result<Self> {
        Self::on(&[], table)
    }

    /// For these interfaces; nothing is attached before the datapath is tended.
    ///
    /// # Errors
    /// Without root.
    pub(crate) fn on(interfaces: &[&str], table: TableChoice) -> Result<Self> {
        Self::through(Arc::new(Linux), interfaces, table)
    }

    /// With something between it and the kernel.
    ///
    /// # Errors
    /// Without root.
    pub(crate) fn through(
        kernel: Arc<dyn Kernel>,
        interfaces: &[&str],
        table: TableChoice,
    ) -> Result<Self> {
        let mounted = Mounted::new()?;
        let options = Options {
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            mode: AttachMode::Native,
            table,
            sample_one_in: 1,
            events_per_second: 10_000_000,
        };
        Ok(Self {
            datapath: XdpDatapath::open_on(kernel, &options, Pins::lock(&mounted.path())?)?,
            host: Host::default(),
            mounted,
        })
    }

    /// The pin of one of its maps.
    pub(crate) fn pin(&self, map: &str) -> PathBuf {
        self.mounted
            .path()
            .join(format!("maps-{FINGERPRINT:016x}"))
            .join(map)
    }

    /// The verdict on the host, which takes frames of any length.
    pub(crate) fn on_the_host(&self, frame: &[u8]) -> Verdict {
        verdict::decide(frame, &self.host).verdict
    }
}

impl Subject for Loaded {
    fn replace(&mut self, rules: &[Rule], policy: Policy) -> Result<()> {
        let rules: Arc<[rule::Rule]> = rules.iter().map(as_rule).collect::<Result<_>>()?;
        let policy = as_policy(policy);
        self.host = Host {
            policy,
            ruleset: Ruleset::build(&rules)?,
            scopes: Vec::new(),
        };
        self.host.scopes = self.host.ruleset.scope_sets();
        let settings = Settings {
            policy,
            ..Settings::default()
        };
        self.datapath.switch(rules, &settings)?;
        Ok(())
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<()> {
        for edit in edits {
            match edit {
                Edit::Add(rule) => self.host.ruleset.insert(&as_rule(rule)?)?,
                Edit::Remove(rule) => self.host.ruleset.remove(&as_rule(rule)?)?,
            };
        }
        // Sums of scopes that an edit of a wide prefix makes have a class from the next build on.
        self.host.ruleset = Ruleset::build(&self.host.ruleset.rules())?;
        self.host.scopes = self.host.ruleset.scope_sets();
        let edits: Vec<datapath::Edit> = edits
            .iter()
            .map(|edit| {
                Ok(match edit {
                    Edit::Add(rule) => datapath::Edit::Add(as_rule(rule)?),
                    Edit::Remove(rule) => datapath::Edit::Remove(as_rule(rule)?),
                })
            })
            .collect::<Result<_>>()?;
        self.datapath.edit(&edits).context("edit the live tables")?;
        Ok(())
    }

    fn judge(&mut self, frame: &[u8]) -> Result<Vec<&'static str>> {
        let host = self.on_the_host(frame);
        let mut reasons = vec![host.name()];
        if frame.len() >= SHORTEST {
            let probe = self.datapath.probe(frame, None)?;
            ensure!(
                probe.generation == self.datapath.generation() && !probe.monitored,
                "{probe:?}"
            );
            reasons.push(probe.verdict.name());
        }
        Ok(reasons)
    }
}

#[derive(Default)]
struct Host {
    policy: verdict::Policy,
    ruleset: Ruleset,
    scopes: Vec<ScopeSet>,
}

impl Rules for Host {
    fn policy(&self) -> verdict::Policy {
        self.policy
    }

    fn class_of(&self, source: Source) -> Class {
        self.ruleset.class_of(source.address())
    }

    fn permits(&self, scope: u32, protocol: u8, port: Option<u16>) -> bool {
        self.scopes
            .get(scope as usize)
            .is_some_and(|scope| scope.permits(protocol, port))
    }

    fn is_reply<B: Bytes + ?Sized>(&self, _packet: &B, _headers: &Headers) -> bool {
        false
    }

    fn limits(&self) -> bool {
        false
    }

    fn excess(&self, _source: Source, _is_connection_attempt: bool) -> Option<Excess> {
        None
    }
}

/// The oracle's rule as the agent writes it.
fn as_rule(rule: &Rule) -> Result<rule::Rule> {
    let action = match &rule.action {
        Action::Protect => rule::Action::Protect,
        Action::Ban => rule::Action::Ban,
        Action::Deny => rule::Action::Deny,
        Action::Allow(None) => rule::Action::Allow(None),
        Action::Allow(Some(spans)) => {
            let ranges = spans
                .iter()
                .map(|span| ScopeRange::ports(span.protocol, span.first, span.last));
            rule::Action::Allow(Some(Arc::new(Scope::new(ranges)?)))
        }
    };
    Ok(rule::Rule {
        prefix: rule.prefix,
        action,
    })
}

fn as_policy(policy: Policy) -> verdict::Policy {
    verdict::Policy {
        drop_fragments: policy.drop_fragments,
        drop_long_extension_chains: policy.drop_long_extension_chains,
        drop_unknown_extension_headers: policy.drop_unknown_extension_headers,
        judge_deep_tags: policy.judge_deep_tags,
        pass_other_ethernet: policy.pass_other_ethernet,
        nat64: policy.nat64,
    }
}
