//! The datapath in the kernel: the only user of aya.

mod egress;
mod links;
mod lists;

use std::{sync::Arc, time::Duration};

use agent_ebpf::layout::{self, Control, MAPS, PROGRAM, PacketEvent, Parameters};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, MapData, MapError, PerCpuArray, RingBuf},
    programs::{ProgramError, Xdp},
};
use aya_log::EbpfLogger;

use self::{
    links::Links,
    lists::{ListSlots, Lists},
};
use super::{
    Counters, Datapath, DatapathError, Description, Edit, InterfaceStatus, MonitoredSet, Probe,
    Readback, Settings, TableKind,
    mode::AttachMode,
    pins::{Pins, PinsError},
};
use crate::rule::Rule;

/// The program, as the build script compiled or was given it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-xdp.o"));

/// What the datapath is to do.
#[derive(Debug, Clone)]
pub struct Options {
    pub interfaces: Vec<String>,
    pub mode: AttachMode,
    /// One drop in so many becomes an event: a power of two.
    pub sample_one_in: u32,
    /// Events a second, over all CPUs.
    pub events_per_second: u32,
}

/// The program and its maps, loaded.
pub struct XdpDatapath {
    program: Ebpf,
    control: Array<MapData, u64>,
    parameters: Array<MapData, Parameters>,
    lists: ListSlots,
    rules: Arc<[Rule]>,
    settings: Settings,
    previous: Option<(Arc<[Rule]>, Settings)>,
    counters: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    links: Links,
    pins: Pins,
    /// Whether maps of other layouts may still be pinned.
    has_stale_maps: bool,
    generation: u64,
    event_window: u64,
    sample_mask: u32,
    events_per_window: u32,
}

/// Why the program can't be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error("load the XDP program into the kernel (5.15 or later is needed)")]
    Load { source: EbpfError },
    #[error("verify and load program {PROGRAM}")]
    Program { source: ProgramError },
    #[error("the XDP object has no program or map `{name}`; it was built from another version")]
    Missing { name: &'static str },
    #[error("use map {name}")]
    Map {
        name: &'static str,
        source: MapError,
    },
}

impl XdpDatapath {
    /// Loads the program and takes over the pinned maps, or makes and pins them. Nothing is attached yet.
    ///
    /// # Errors
    /// If the kernel refuses, or what is pinned is not what this version makes.
    pub fn open(options: &Options, pins: Pins) -> Result<Self, OpenError> {
        pins.check_maps()?;
        let mut loader = EbpfLoader::new();
        for map in MAPS {
            loader.map_pin_path(map.name, pins.map(map.name));
        }
        let mut program = loader
            .load(OBJECT)
            .map_err(|source| OpenError::Load { source })?;
        let logger = EbpfLogger::init(&mut program)
            .map_err(|error| tracing::debug!(%error, "the program's log is not read"))
            .ok();
        xdp(&mut program)?
            .load()
            .map_err(|source| OpenError::Program { source })?;

        let control = take(&mut program, "CONTROL")?;
        let generation = word(&control, Control::Generation)?;
        let event_window = word(&control, Control::EventWindow)?;
        let cpus = aya::util::nr_cpus().unwrap_or(1).max(1);
        let windows_a_second = 10;
        let share =
            options.events_per_second / windows_a_second / u32::try_from(cpus).unwrap_or(u32::MAX);
        let mut datapath = Self {
            parameters: take(&mut program, "PARAMETERS")?,
            lists: ListSlots::new(take(&mut program, "LISTS4")?, take(&mut program, "LISTS6")?),
            counters: take(&mut program, "COUNTERS")?,
            events: take(&mut program, "EVENTS")?,
            control,
            rules: Arc::from([]),
            settings: Settings::default(),
            previous: None,
            logger,
            links: Links::new(&options.interfaces, options.mode),
            pins,
            has_stale_maps: true,
            generation,
            event_window,
            sample_mask: options.sample_one_in.next_power_of_two() - 1,
            events_per_window: share.max(1),
            program,
        };
        // Events from before the start have no time that could be told.
        while datapath.events.next().is_some() {}
        Ok(datapath)
    }

    /// Whether a link of an earlier run is pinned for any interface: then enforcement is going on.
    pub fn takes_over(&self) -> bool {
        !self.pins.linked().is_empty()
    }

    fn set_control(&mut self, word: Control, value: u64) -> Result<(), DatapathError> {
        self.control
            .set(word as u32, value, 0)
            .map_err(|source| DatapathError::Map {
                action: "write CONTROL",
                source,
            })
    }

    fn put(&mut self, rules: Arc<[Rule]>, settings: &Settings) -> Result<u64, DatapathError> {
        let next = self.generation + 1;
        let monitors = settings.monitored != MonitoredSet::None;
        let mut parameters = Parameters::new(
            settings.policy,
            monitors,
            self.sample_mask,
            self.events_per_window,
        );
        for (list, family) in self.lists.fill(next, &Lists::of(&rules))? {
            parameters.set_present(list, family);
        }
        self.parameters
            .set(layout::parameters_slot(next), parameters, 0)
            .map_err(|source| DatapathError::Map {
                action: "write PARAMETERS",
                source,
            })?;
        // One word, read once for each packet: from here on the new lists hold, all of them at once.
        self.set_control(Control::Generation, next)?;
        self.generation = next;
        self.rules = rules;
        self.settings = settings.clone();
        self.lists.wait_for_readers(next)?;
        Ok(next)
    }
}

impl Datapath for XdpDatapath {
    fn switch(&mut self, rules: Arc<[Rule]>, settings: &Settings) -> Result<u64, DatapathError> {
        self.put(rules, settings)
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<u64, DatapathError> {
        let mut rules = self.rules.to_vec();
        for edit in edits {
            match edit {
                Edit::Add(rule) => rules.push(rule.clone()),
                Edit::Remove(rule) => {
                    if let Some(at) = rules.iter().position(|there| there == rule) {
                        rules.remove(at);
                    }
                }
            }
        }
        let settings = self.settings.clone();
        self.put(rules.into(), &settings)
    }

    fn switch_confirmed(
        &mut self,
        rules: Arc<[Rule]>,
        settings: &Settings,
        _after: Duration,
    ) -> Result<u64, DatapathError> {
        let previous = (Arc::clone(&self.rules), self.settings.clone());
        let generation = self.put(rules, settings)?;
        self.previous = Some(previous);
        Ok(generation)
    }

    fn confirm(&mut self) -> Result<(), DatapathError> {
        self.previous
            .take()
            .map(drop)
            .ok_or(DatapathError::NotArmed)
    }

    fn revert(&mut self) -> Result<u64, DatapathError> {
        let (rules, settings) = self.previous.take().ok_or(DatapathError::NotArmed)?;
        self.put(rules, &settings)
    }

    fn verify(&mut self) -> Result<Readback, DatapathError> {
        Err(DatapathError::Refused)
    }

    fn observe(&mut self, _one_in: Option<u32>) -> Result<(), DatapathError> {
        Err(DatapathError::Refused)
    }

    fn probe(&mut self, _frame: &[u8], _interface: Option<u32>) -> Result<Probe, DatapathError> {
        Err(DatapathError::Refused)
    }

    fn describe(&self) -> Description {
        Description {
            table: TableKind::LpmTrie {
                reason: "the compiled table is not built yet".to_owned(),
            },
            ..Description::default()
        }
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn tend(&mut self) -> Vec<InterfaceStatus> {
        let Ok(program) = xdp(&mut self.program) else {
            return Vec::new();
        };
        let statuses = self.links.tend(program, None, &self.pins);
        // While a link still runs an older program, that one's maps stay.
        if self.has_stale_maps && statuses.iter().all(InterfaceStatus::is_settled) {
            self.pins.remove_stale_maps();
            self.has_stale_maps = false;
        }
        statuses
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        Counters::collect(|index| {
            let values = self
                .counters
                .get(&index, 0)
                .map_err(|source| DatapathError::Map {
                    action: "read COUNTERS",
                    source,
                })?;
            Ok(values.iter().sum())
        })
    }

    fn open_event_window(&mut self) -> Result<(), DatapathError> {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        self.event_window += 1;
        self.set_control(Control::EventWindow, self.event_window)
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
}

fn xdp(program: &mut Ebpf) -> Result<&mut Xdp, OpenError> {
    program
        .program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or(OpenError::Missing { name: PROGRAM })
}

fn take<M>(program: &mut Ebpf, name: &'static str) -> Result<M, OpenError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = program.take_map(name).ok_or(OpenError::Missing { name })?;
    M::try_from(map).map_err(|source| OpenError::Map { name, source })
}

fn word(control: &Array<MapData, u64>, word: Control) -> Result<u64, OpenError> {
    control
        .get(&(word as u32), 0)
        .map_err(|source| OpenError::Map {
            name: "CONTROL",
            source,
        })
}
