//! The rungs of a GPU, through NVIDIA's library: its power limit and a highest clock. They hold for whole devices, so only
//! for those whose every known process is the agent's. A device is known by its UUID; a place is all of them, and a value
//! has a line for each. The library is opened for each act and closed after it: acts are rare, and a driver may come and go.
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::GpuLockedClocksSetting;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use pitwall_sidecar_core::io::HoldState;

use crate::sample::gpu::LIBRARY_VARIABLE;

pub const RUNG: &str = "nvml";
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];
/// Devices looked at on one host.
const DEVICES_MAX: u32 = 64;
/// The driver names processes as its own pid namespace does, which is the first one: the kernel gives it this number.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// The driver sets a highest clock and does not tell it again.
const UNLOCKED: &str = "unlocked";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Power,
    Clock,
}

/// What a hold needs of the devices that the agent uses.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub place: String,
    pub old: String,
    pub new: String,
}

pub fn library() -> Option<OsString> {
    std::env::var_os(LIBRARY_VARIABLE)
}

fn open(library: Option<&OsStr>) -> Result<Nvml, String> {
    let one = |path: &OsStr| {
        let opened = Nvml::builder().lib_path(path).init();
        opened.map_err(|e| format!("{} cannot be used: {e}", path.to_string_lossy()))
    };
    match library {
        Some(path) => one(path),
        None => one(LIBRARIES[0].as_ref()).or_else(|first| one(LIBRARIES[1].as_ref()).map_err(|_| first)),
    }
}

/// Whether it may be set here, tried by the same value again where `acts`.
pub fn probe(library: Option<&OsStr>, setting: Setting, acts: bool) -> Result<(), String> {
    let nvml = open(library)?;
    let count = nvml.device_count().map_err(|e| format!("the driver does not tell its devices: {e}"))?;
    let mut why = String::from("the driver is there and shows no device");
    for index in 0..count.min(DEVICES_MAX) {
        let tried = nvml.device_by_index(index).and_then(|mut device| {
            let now = device.power_management_limit()?;
            if setting == Setting::Clock {
                device.max_clock_info(Clock::Graphics)?;
            }
            // A highest clock cannot be tried without changing it; it needs the same permission.
            if acts { device.set_power_management_limit(now) } else { Ok(()) }
        });
        match tried {
            Ok(()) => return Ok(()),
            Err(e) => why = format!("GPU {index}: {}", told(&e)),
        }
    }
    Err(why)
}

/// What would be written, and what is there; changes nothing.
pub fn examine(library: Option<&OsStr>, setting: Setting, amount: f64, agents: &HashSet<u32>) -> Result<Found, String> {
    if !amount.is_finite() || amount <= 0.0 {
        return Err(format!("{amount} is no amount that can be held"));
    }
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if namespace.as_os_str() != FIRST_PID_NAMESPACE {
        return Err(
            "the driver names processes as the host does, which cannot be told from here: whose a GPU is, is not \
                    known in a pid namespace of its own"
                .into(),
        );
    }
    let nvml = open(library)?;
    let count = nvml.device_count().map_err(|e| format!("the driver does not tell its devices: {e}"))?;
    let (mut places, mut olds, mut news) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..count.min(DEVICES_MAX) {
        let at = |e: NvmlError| format!("GPU {index}: {}", told(&e));
        let device = nvml.device_by_index(index).map_err(at)?;
        let users = users(&device).map_err(at)?;
        if !users.iter().any(|pid| agents.contains(pid)) {
            continue;
        }
        if let Some(other) = users.iter().find(|pid| !agents.contains(pid)) {
            return Err(format!("GPU {index} is also used by pid {other}, which is not the agent's"));
        }
        let (old, new) = setting.limited(&device, amount).map_err(|why| format!("GPU {index}: {why}"))?;
        places.push(device.uuid().map_err(at)?);
        olds.push(old);
        news.push(new);
    }
    if places.is_empty() {
        return Err("the agent uses no GPU now".into());
    }
    Ok(Found { place: places.join(","), old: olds.join("\n"), new: news.join("\n") })
}

/// Compute and graphics; a driver that does not know one kind of them has none.
fn users(device: &Device<'_>) -> Result<HashSet<u32>, NvmlError> {
    let known = |found: Result<Vec<nvml_wrapper::struct_wrappers::device::ProcessInfo>, NvmlError>| match found {
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => Ok(Vec::new()),
        other => other,
    };
    let compute = device.running_compute_processes()?;
    let graphics = known(device.running_graphics_processes())?;
    Ok(compute.iter().chain(&graphics).map(|p| p.pid).collect())
}

impl Setting {
    fn limited(self, device: &Device<'_>, amount: f64) -> Result<(String, String), String> {
        let at = |e: NvmlError| told(&e);
        match self {
            Self::Power => {
                let now = device.power_management_limit().map_err(at)?;
                let bounds = device.power_management_limit_constraints().map_err(at)?;
                let asked = (amount * 1_000.0) as u32;
                if asked < bounds.min_limit {
                    let watts = |milli: u32| f64::from(milli) / 1_000.0;
                    return Err(format!(
                        "{amount} W is below what it takes: {} to {} W",
                        watts(bounds.min_limit),
                        watts(bounds.max_limit)
                    ));
                }
                Ok((now.to_string(), now.min(asked).to_string()))
            }
            Self::Clock => {
                let highest = device.max_clock_info(Clock::Graphics).map_err(at)?;
                let asked = (amount as u32).max(1);
                Ok((UNLOCKED.into(), format!("0-{}", asked.min(highest))))
            }
        }
    }

    fn read(self, device: &Device<'_>, new: &str) -> Result<String, NvmlError> {
        match self {
            Self::Power => device.power_management_limit().map(|milliwatts| milliwatts.to_string()),
            // Seen by what it does: a clock above the highest one is somebody else's doing.
            Self::Clock => {
                let clock = device.clock_info(Clock::Graphics)?;
                let is_held = highest(new).is_none_or(|highest| clock <= highest);
                Ok(if is_held { new.to_owned() } else { format!("the graphics clock at {clock} MHz") })
            }
        }
    }

    fn write(self, device: &mut Device<'_>, value: &str) -> Result<(), NvmlError> {
        match self {
            Self::Power => device.set_power_management_limit(value.parse().map_err(|_| NvmlError::InvalidArg)?),
            Self::Clock => match highest(value) {
                Some(max_clock_mhz) => {
                    device.set_gpu_locked_clocks(GpuLockedClocksSetting::Numeric { min_clock_mhz: 0, max_clock_mhz })
                }
                None => device.reset_gpu_locked_clocks(),
            },
        }
    }
}

/// `None`: unlocked.
fn highest(value: &str) -> Option<u32> {
    value.strip_prefix("0-")?.parse().ok()
}

fn told(error: &NvmlError) -> String {
    match error {
        NvmlError::NoPermission => "the driver permits it to root alone".into(),
        NvmlError::NotSupported => "the driver does not support it for this device".into(),
        other => other.to_string(),
    }
}

/// Each device of a hold with its line of the values.
fn each<'a>(place: &'a str, old: &'a str, new: &'a str) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    place.split(',').zip(old.lines()).zip(new.lines()).map(|((uuid, old), new)| (uuid, old, new))
}

/// A power limit that somebody else changed meanwhile is left alone; a highest clock cannot be read back.
pub fn hold(library: Option<&OsStr>, setting: Setting, found: &Found) -> Result<(), String> {
    let nvml = open(library)?;
    for (uuid, old, new) in each(&found.place, &found.old, &found.new) {
        let at = |e: NvmlError| format!("{uuid}: {}", told(&e));
        let mut device = nvml.device_by_uuid(uuid).map_err(at)?;
        let now = setting.read(&device, new).map_err(at)?;
        if setting == Setting::Power && now != old && now != new {
            return Err(format!("somebody else changed {uuid} to {now} meanwhile; it was left alone"));
        }
        setting.write(&mut device, new).map_err(at)?;
    }
    Ok(())
}

pub fn state(library: Option<&OsStr>, setting: Setting, found: &Found) -> Result<HoldState, String> {
    let nvml = open(library)?;
    let (mut ours, mut before) = (0, 0);
    let mut now = Vec::new();
    for (uuid, old, new) in each(&found.place, &found.old, &found.new) {
        let at = |e: NvmlError| format!("{uuid}: {}", told(&e));
        let device = match nvml.device_by_uuid(uuid) {
            Ok(device) => device,
            Err(NvmlError::NotFound | NvmlError::GpuLost) => return Ok(HoldState::Gone),
            Err(e) => return Err(at(e)),
        };
        let value = setting.read(&device, new).map_err(at)?;
        ours += usize::from(value == new);
        before += usize::from(value == old && old != new);
        now.push(value);
    }
    let all = now.len();
    Ok(match (ours, before) {
        _ if all == 0 => HoldState::Gone,
        // A write that was cut short between two devices is ours too.
        (1.., _) if ours + before == all => HoldState::Ours,
        _ => HoldState::Foreign(now.join("\n")),
    })
}

/// Puts back what is ours, device by device.
pub fn release(library: Option<&OsStr>, setting: Setting, found: &Found) -> Result<(), String> {
    let nvml = open(library)?;
    for (uuid, old, new) in each(&found.place, &found.old, &found.new) {
        let at = |e: NvmlError| format!("{uuid}: {}", told(&e));
        let mut device = match nvml.device_by_uuid(uuid) {
            Ok(device) => device,
            Err(NvmlError::NotFound | NvmlError::GpuLost) => continue,
            Err(e) => return Err(at(e)),
        };
        if setting == Setting::Clock || setting.read(&device, new).map_err(at)? == new {
            setting.write(&mut device, old).map_err(at)?;
        }
    }
    Ok(())
}
