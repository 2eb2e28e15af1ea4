//! The program loaded and attached to nothing, fed with frames one at a time, beside the verdict on the host.

use std::{borrow::Cow, path::PathBuf, process::Command, sync::Arc};

use agent_ebpf::{
    class::Class,
    layout::FINGERPRINT,
    limit::Excess,
    packet::{Bytes, Headers, Source},
    scope::{ScopeRange, ScopeSet},
    verdict::{self, Rules, VERDICTS, Verdict},
};
use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    maps::MapData,
    programs::{TestRun as _, TestRunOptions, Xdp, loaded_programs},
};
use aya_obj::programs::XdpAttachType;
use portcullis_agent::{
    datapath::{
        self, Counters, Datapath as _, Settings,
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

/// Actions of the kernel's `enum xdp_action`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

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
    /// The same program, to be fed with frames that are not marked as made up; and the counters after the last one.
    unmarked: Option<(Xdp, Counters)>,
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

    /// Attached to nothing, for [`Subject::judge`] to feed each frame twice: marked as made up, which the program judges on its long
    /// way, and as one from a wire. So rare are events that no drop takes the long way for one.
    ///
    /// # Errors
    /// Without root.
    pub(crate) fn both_ways(table: TableChoice) -> Result<Self> {
        let mut loaded = Self::sampled(Arc::new(Linux), &[], table, 1 << 30)?;
        let program = loaded.program()?;
        // The first drop is an event, and sets when the next one is.
        for _ in 0..2 {
            program.test_run(TestRunOptions {
                data_in: Some(&[0; SHORTEST]),
                ..TestRunOptions::default()
            })?;
        }
        loaded.unmarked = Some((program, loaded.datapath.counters()?));
        Ok(loaded)
    }

    /// The program that has this datapath's maps.
    fn program(&self) -> Result<Xdp> {
        let control = MapData::from_pin(self.pin("CONTROL"))?.info()?.id();
        for info in loaded_programs() {
            // Programs of others may end meanwhile.
            let Ok(info) = info else { continue };
            let is_ours = info.name_as_str().is_some_and(datapath::is_ours)
                && info.map_ids()?.is_some_and(|maps| maps.contains(&control));
            if is_ours {
                return Ok(Xdp::from_program_info(
                    info,
                    Cow::Borrowed("judged"),
                    XdpAttachType::Interface,
                )?);
            }
        }
        bail!("the program is not among those that are loaded")
    }

    /// Feeds the program with a frame as from a wire. The reason it counted.
    fn counted(&mut self, frame: &[u8]) -> Result<Option<&'static str>> {
        let Some((program, before)) = &mut self.unmarked else {
            return Ok(None);
        };
        let action = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ..TestRunOptions::default()
            })?
            .return_value;
        let after = self.datapath.counters()?;
        let before = std::mem::replace(before, after.clone());
        let mut found = Vec::new();
        for index in 0..VERDICTS {
            let verdict = Verdict::from_index(index).context("a verdict for each index")?;
            let (counts, counted, wanted) = match verdict {
                Verdict::Pass(_) => (&before.passed, &after.passed, XDP_PASS),
                Verdict::Drop(_) => (&before.dropped, &after.dropped, XDP_DROP),
            };
            if counts.get(verdict.name()) != counted.get(verdict.name()) {
                ensure!(action == wanted, "{} with action {action}", verdict.name());
                found.push(verdict.name());
            }
        }
        match found.as_slice() {
            [one] => Ok(Some(one)),
            _ => bail!("counted as {found:?}"),
        }
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
        Self::sampled(kernel, interfaces, table, 1)
    }

    fn sampled(
        kernel: Arc<dyn Kernel>,
        interfaces: &[&str],
        table: TableChoice,
        sample_one_in: u32,
    ) -> Result<Self> {
        let mounted = Mounted::new()?;
        let options = Options {
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            mode: AttachMode::Native,
            table,
            sample_one_in,
            events_per_second: 10_000_000,
        };
        Ok(Self {
            datapath: XdpDatapath::open_on(kernel, &options, Pins::lock(&mounted.path())?)?,
            host: Host::default(),
            unmarked: None,
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
            reasons.extend(self.counted(frame)?);
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
