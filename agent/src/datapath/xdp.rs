//! The datapath in the kernel: the only user of aya.

mod links;
mod lists;

use std::{collections::BTreeMap, io, net::IpAddr};

use agent_ebpf::layout::{
    self, Address4, Address6, BanValue, Control, DropEvent, MAPS, MAX_HOST_BANS, PROGRAM,
    Parameters,
};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{ProgramError, Xdp},
};
use aya_log::EbpfLogger;

use self::{links::Links, lists::ListSlots};
use super::{
    Counters, Datapath, DatapathError, InterfaceStatus,
    mode::AttachMode,
    pins::{Pins, PinsError},
};
use crate::reconcile::Lists;

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
    bans4: HashMap<MapData, Address4, BanValue>,
    bans6: HashMap<MapData, Address6, BanValue>,
    host_bans: BTreeMap<IpAddr, u64>,
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
        let bans4 = take(&mut program, "BANS4")?;
        let bans6 = take(&mut program, "BANS6")?;
        let generation = word(&control, Control::Generation)?;
        let event_window = word(&control, Control::EventWindow)?;
        let host_bans = read_bans(&bans4, "BANS4")?
            .into_iter()
            .chain(read_bans(&bans6, "BANS6")?)
            .collect();
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
            bans4,
            bans6,
            host_bans,
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

    fn note_bans(&mut self) -> Result<(), DatapathError> {
        let has_v4 = self.host_bans.keys().any(IpAddr::is_ipv4);
        let has_v6 = self.host_bans.keys().any(IpAddr::is_ipv6);
        self.set_control(Control::HasBans4, u64::from(has_v4))?;
        self.set_control(Control::HasBans6, u64::from(has_v6))
    }
}

impl Datapath for XdpDatapath {
    fn switch(&mut self, lists: &Lists) -> Result<u64, DatapathError> {
        let next = self.generation + 1;
        let mut parameters =
            Parameters::new(lists.policy, self.sample_mask, self.events_per_window);
        for (list, family) in self.lists.fill(next, lists)? {
            parameters.set_present(list, family);
        }
        self.parameters
            .set(layout::parameters_slot(next), parameters, 0)
            .map_err(|source| DatapathError::Map {
                action: "write PARAMETERS",
                source,
            })?;
        self.set_control(Control::Generation, next)?;
        self.generation = next;
        self.lists.wait_for_readers(next)?;
        // Bans taken over from an earlier daemon hold from the first generation on.
        self.note_bans()?;
        Ok(next)
    }

    fn ban(&mut self, address: IpAddr, expires: u64) -> Result<(), DatapathError> {
        let value = BanValue { expires };
        let inserted = match address {
            IpAddr::V4(address) => self.bans4.insert(address.octets(), value, 0),
            IpAddr::V6(address) => self.bans6.insert(address.octets(), value, 0),
        };
        inserted.map_err(|source| {
            if system_error(&source).and_then(io::Error::raw_os_error) == Some(libc::E2BIG) {
                DatapathError::BansFull {
                    limit: MAX_HOST_BANS,
                }
            } else {
                DatapathError::Map {
                    action: "write the ban",
                    source,
                }
            }
        })?;
        self.host_bans.insert(address, expires);
        self.note_bans()
    }

    fn unban(&mut self, address: IpAddr) -> Result<(), DatapathError> {
        let removed = match address {
            IpAddr::V4(address) => self.bans4.remove(&address.octets()),
            IpAddr::V6(address) => self.bans6.remove(&address.octets()),
        };
        match removed {
            Err(source) if !is_absent(&source) => {
                return Err(DatapathError::Map {
                    action: "remove the ban",
                    source,
                });
            }
            Ok(()) | Err(_) => {}
        }
        self.host_bans.remove(&address);
        self.note_bans()
    }

    fn host_bans(&self) -> BTreeMap<IpAddr, u64> {
        self.host_bans.clone()
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn tend(&mut self) -> Vec<InterfaceStatus> {
        let Ok(program) = xdp(&mut self.program) else {
            return Vec::new();
        };
        let statuses = self.links.tend(program, &self.pins);
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

    fn events(&mut self, limit: usize) -> Vec<DropEvent> {
        let mut events = Vec::new();
        while events.len() < limit
            && let Some(item) = self.events.next()
        {
            events.extend(DropEvent::from_bytes(&item));
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

fn read_bans<K: aya::Pod + Into<IpAddr>>(
    bans: &HashMap<MapData, K, BanValue>,
    name: &'static str,
) -> Result<Vec<(IpAddr, u64)>, OpenError> {
    bans.iter()
        .map(|ban| ban.map(|(address, value)| (address.into(), value.expires)))
        .collect::<Result<_, _>>()
        .map_err(|source| OpenError::Map { name, source })
}

fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound | MapError::ElementNotFound)
        || system_error(error).is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn system_error(error: &MapError) -> Option<&io::Error> {
    if let MapError::SyscallError(error) = error {
        Some(&error.io_error)
    } else {
        None
    }
}
