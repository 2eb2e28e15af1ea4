//! The datapath in the kernel: the only user of aya.

mod egress;
mod family;
mod generation;
mod inner;
mod links;
mod page;
mod probe;
mod readers;
mod reaper;
mod store;
mod tables;
mod trie;

pub(crate) use self::egress::remove_filters;

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_ebpf::layout::{
    EGRESS_PROGRAM, FlowTimeouts, LPM_EGRESS_PROGRAM, LPM_PROGRAM, MAPS, PROGRAM,
};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapData, MapError, RingBuf},
    programs::{ProgramError, SchedClassifier, Xdp},
};

use self::{
    family::{Family, V4, V6},
    generation::Fixed,
    links::Links,
    page::{Page, PageMaps},
    reaper::Reaper,
    store::Store,
    tables::Tables,
};
use super::{
    Counters, Datapath, DatapathError, Description, Edit, InterfaceStatus, PacketEvent, Probe,
    Readback, Settings, TableKind,
    kernel::{Kernel, Linux, check_mapping},
    mode::{AttachMode, TableChoice},
    pins::{self, Pins, PinsError},
};
use crate::rule::Rule;

/// The programs, as the build script compiled or was given them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-xdp.o"));

/// What the datapath is to do.
#[derive(Debug, Clone)]
pub struct Options {
    pub interfaces: Vec<String>,
    pub mode: AttachMode,
    pub table: TableChoice,
    /// One drop in so many becomes an event: a power of two.
    pub sample_one_in: u32,
    /// Events a second, over all CPUs.
    pub events_per_second: u32,
}

/// How long a learned flow lasts after its last outgoing packet: TCP ten minutes, UDP two, ICMP half a one.
const FLOW_TIMEOUTS: FlowTimeouts = FlowTimeouts::from_seconds(600, 120, 30);
/// Old flows are looked for so often. Far less than what their time takes to wrap, 19 hours.
const FLOW_SWEEP: Duration = Duration::from_secs(3600);

/// The programs and their maps, loaded.
pub struct XdpDatapath {
    program: Ebpf,
    kind: TableKind,
    store: Store,
    events: RingBuf<MapData>,
    links: Links,
    pins: Pins,
    /// Whether maps of other layouts may still be pinned.
    has_stale_maps: bool,
    flows_swept: Instant,
}

/// Why the programs can't be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error("load the XDP program into the kernel (5.15 or later is needed)")]
    Load { source: EbpfError },
    #[error("verify and load program {name}")]
    Program {
        name: &'static str,
        source: ProgramError,
    },
    #[error("the XDP object has no program or map `{name}`; it was built from another version")]
    Missing { name: &'static str },
    #[error("use map {name}")]
    Map {
        name: &'static str,
        source: MapError,
    },
    #[error("map the memory of the program's maps")]
    Memory { source: io::Error },
    #[error("start the thread that frees memory")]
    Thread { source: io::Error },
    #[error("draw a key")]
    Random { source: getrandom::Error },
}

impl XdpDatapath {
    /// Loads the programs and takes over the pinned maps, or makes and pins them. Nothing is attached yet.
    ///
    /// # Errors
    /// If the kernel refuses, or what is pinned is not what this version makes.
    pub fn open(options: &Options, pins: Pins) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(Linux), options, pins)
    }

    /// As [`XdpDatapath::open`], with something between it and the kernel.
    ///
    /// # Errors
    /// As [`XdpDatapath::open`].
    pub fn open_on(
        kernel: Arc<dyn Kernel>,
        options: &Options,
        pins: Pins,
    ) -> Result<Self, OpenError> {
        pins.check_maps()?;
        let mut loader = EbpfLoader::new();
        for map in &MAPS {
            loader.map_pin_path(map.name, pins.map(map.name));
            loader.map_max_entries(map.name, pins::entries(map));
        }
        let mut program = loader
            .load(OBJECT)
            .map_err(|source| OpenError::Load { source })?;
        let kind = load(&mut program, &*kernel, options.table)?;

        let mut take = |name| take(&mut program, name);
        let cpu_count = aya::util::nr_cpus().unwrap_or(1).max(1);
        let maps = PageMaps {
            control: take("CONTROL")?,
            parameters: take("PARAMETERS")?,
            scopes: take("SCOPES")?,
            cpus: take("CPUS")?,
            flows: take("FLOWS")?,
            cpu_count,
        };
        let page = Page::map(&kernel, &maps).map_err(|source| OpenError::Memory { source })?;
        page.ensure_key()
            .map_err(|source| OpenError::Random { source })?;
        let uses_tries = kind != TableKind::Compiled;
        let tables4 = tables::<V4>(&kernel, uses_tries, &mut take)?;
        let tables6 = tables::<V6>(&kernel, uses_tries, &mut take)?;
        let events = program
            .take_map("EVENTS")
            .ok_or(OpenError::Missing { name: "EVENTS" })?;
        let events = RingBuf::try_from(events).map_err(|source| OpenError::Map {
            name: "EVENTS",
            source,
        })?;
        let reaper =
            Reaper::start(Arc::clone(&kernel)).map_err(|source| OpenError::Thread { source })?;
        let windows_a_second = 10;
        let cpus = u32::try_from(cpu_count).unwrap_or(u32::MAX);
        let share = options.events_per_second / windows_a_second / cpus;
        let fixed = Fixed {
            sample_mask: options.sample_one_in.next_power_of_two() - 1,
            events_per_window: share.max(1),
            timeouts: FLOW_TIMEOUTS,
        };
        let mut datapath = Self {
            program,
            kind,
            store: Store::new(page, tables4, tables6, reaper, fixed),
            events,
            links: Links::new(&options.interfaces, options.mode),
            pins,
            has_stale_maps: true,
            flows_swept: Instant::now(),
        };
        // Events from before the start have no time that could be told.
        while datapath.events.next().is_some() {}
        datapath.store.page().set_observe(0);
        Ok(datapath)
    }

    /// Whether a link of an earlier run is pinned for any interface: then enforcement is going on.
    pub fn takes_over(&self) -> bool {
        !self.pins.linked().is_empty()
    }

    fn xdp_name(&self) -> &'static str {
        match self.kind {
            TableKind::Compiled => PROGRAM,
            TableKind::LpmTrie { .. } => LPM_PROGRAM,
        }
    }

    fn egress_name(&self) -> &'static str {
        match self.kind {
            TableKind::Compiled => EGRESS_PROGRAM,
            TableKind::LpmTrie { .. } => LPM_EGRESS_PROGRAM,
        }
    }
}

/// Loads the programs that go with the table asked for, or those of the tries where the kernel refuses them.
fn load(
    program: &mut Ebpf,
    kernel: &dyn Kernel,
    choice: TableChoice,
) -> Result<TableKind, OpenError> {
    let reason = match choice {
        TableChoice::Lpm => "the configuration asks for it".to_owned(),
        TableChoice::Compiled => {
            let tried = check_mapping(kernel)
                .map_err(|error| format!("the kernel does not let an array be mapped: {error}"))
                .and_then(|()| {
                    load_both(program, PROGRAM, EGRESS_PROGRAM).map_err(|error| {
                        format!("the kernel refuses the program: {}", first_line(&error))
                    })
                });
            match tried {
                Ok(()) => return Ok(TableKind::Compiled),
                Err(reason) => reason,
            }
        }
    };
    tracing::warn!(
        reason,
        "falling back to the kernel's LPM tries: slower, the same verdicts"
    );
    load_both(program, LPM_PROGRAM, LPM_EGRESS_PROGRAM)?;
    Ok(TableKind::LpmTrie { reason })
}

fn load_both(
    program: &mut Ebpf,
    ingress: &'static str,
    egress: &'static str,
) -> Result<(), OpenError> {
    let refused = |name| move |source| OpenError::Program { name, source };
    xdp(program, ingress)?.load().map_err(refused(ingress))?;
    classifier(program, egress)?.load().map_err(refused(egress))
}

/// The verifier's log has thousands of lines.
fn first_line(error: &OpenError) -> String {
    let text =
        std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    text.lines().next().unwrap_or_default().to_owned()
}

fn tables<F: Family>(
    kernel: &Arc<dyn Kernel>,
    uses_tries: bool,
    take: &mut impl FnMut(&'static str) -> Result<OwnedFd, OpenError>,
) -> Result<Tables<F>, OpenError> {
    let outers = F::outer_names()
        .iter()
        .map(|name| take(name))
        .collect::<Result<_, _>>()?;
    let lpm = take(F::lpm_name())?;
    Ok(Tables::new(Arc::clone(kernel), outers, lpm, uses_tries))
}

impl Datapath for XdpDatapath {
    fn switch(&mut self, rules: Arc<[Rule]>, settings: &Settings) -> Result<u64, DatapathError> {
        self.store.switch(rules, settings)
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<u64, DatapathError> {
        self.store.edit(edits)
    }

    fn switch_confirmed(
        &mut self,
        rules: Arc<[Rule]>,
        settings: &Settings,
        after: Duration,
    ) -> Result<u64, DatapathError> {
        self.store.switch_confirmed(rules, settings, after)
    }

    fn confirm(&mut self) -> Result<(), DatapathError> {
        self.store.confirm()
    }

    fn revert(&mut self) -> Result<u64, DatapathError> {
        self.store.revert()
    }

    fn generation(&self) -> u64 {
        self.store.number()
    }

    fn verify(&mut self) -> Result<Readback, DatapathError> {
        self.store.verify()
    }

    fn tend(&mut self) -> Vec<InterfaceStatus> {
        self.store.tend();
        if self.flows_swept.elapsed() > FLOW_SWEEP {
            self.store.page().sweep_flows(FLOW_TIMEOUTS);
            self.flows_swept = Instant::now();
        }
        let learns = self
            .store
            .current()
            .is_some_and(|generation| generation.settings.learn_replies);
        let (ingress, egress) = (self.xdp_name(), self.egress_name());
        let (mut judging, mut learning) = (None, None);
        for (name, program) in self.program.programs_mut() {
            if name == ingress {
                judging = program.try_into().ok();
            } else if name == egress && learns {
                learning = program.try_into().ok();
            }
        }
        let Some(judging) = judging else {
            return Vec::new();
        };
        let statuses = self.links.tend(judging, learning, &self.pins);
        // While a link still runs an older program, that one's maps stay.
        if self.has_stale_maps && statuses.iter().all(InterfaceStatus::is_settled) {
            self.pins.remove_stale_maps();
            self.has_stale_maps = false;
        }
        statuses
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        Counters::collect(|index| Ok(self.store.page().counter(index)))
    }

    fn open_event_window(&mut self) -> Result<(), DatapathError> {
        self.store.page().open_event_window();
        Ok(())
    }

    fn events(&mut self, limit: usize) -> Vec<PacketEvent> {
        let mut events = Vec::new();
        while events.len() < limit
            && let Some(item) = self.events.next()
        {
            events.extend(PacketEvent::from_bytes(&item));
        }
        events
    }

    fn observe(&mut self, one_in: Option<u32>) -> Result<(), DatapathError> {
        let one_in = one_in.map_or(0, |one_in| u64::from(one_in).next_power_of_two());
        self.store.page().set_observe(one_in);
        Ok(())
    }

    fn probe(&mut self, frame: &[u8], interface: Option<u32>) -> Result<Probe, DatapathError> {
        let name = self.xdp_name();
        let program = xdp(&mut self.program, name).map_err(|error| DatapathError::Probe {
            source: io::Error::other(error),
        })?;
        probe::run(program, self.store.page(), frame, interface)
    }

    fn describe(&self) -> Description {
        let (memory_bytes, prefixes4, prefixes6) = self.store.size();
        Description {
            table: self.kind.clone(),
            memory_bytes,
            prefixes4,
            prefixes6,
        }
    }
}

fn xdp<'a>(program: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, OpenError> {
    program
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(OpenError::Missing { name })
}

fn classifier<'a>(
    program: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, OpenError> {
    program
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(OpenError::Missing { name })
}

fn take(program: &mut Ebpf, name: &'static str) -> Result<OwnedFd, OpenError> {
    match program.take_map(name) {
        Some(Map::Array(map) | Map::ArrayOfMaps(map)) => map
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| OpenError::Memory { source }),
        Some(_) | None => Err(OpenError::Missing { name }),
    }
}
