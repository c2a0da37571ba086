//! GPUs through NVIDIA's library, where there is one. Never an error: absent, with the reason.
//!
//! A driver that is lost at run time is tried again after a while; meanwhile its devices are shown without numbers, and
//! why. What one device does not tell does not hide the others. Processes are the agent's only where that is sure
//! (`owner`); all others are shown by the driver's pid alone.
use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use pitwall_proto::v1;

mod owner;

pub use owner::{HOST_PROC_VARIABLE, Owners};

/// Devices looked at on one host.
const DEVICES_MAX: u32 = 64;
/// Processes told of one device.
const PROCESSES_MAX: usize = 64;
/// Until a driver that was lost is looked for again.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Drivers install the first; the second belongs to development packages.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];
/// Names another library, for machines that keep it elsewhere.
pub const LIBRARY_VARIABLE: &str = "PITWALL_NVML_LIBRARY";
/// What the driver says for why clocks are held down. An idle device is not held.
const REASONS: [(ThrottleReasons, &str); 8] = [
    (ThrottleReasons::SW_POWER_CAP, "power cap"),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, "heat"),
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, "heat, by hardware"),
    (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
    (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
    (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "application clocks"),
    (ThrottleReasons::SYNC_BOOST, "sync boost"),
    (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display clocks"),
];

pub struct Gpus {
    library: Option<OsString>,
    /// Or why there are none.
    nvml: Result<Nvml, String>,
    owners: Owners,
    known: Vec<Known>,
    lost_at: Option<Instant>,
}

/// What is remembered of a device.
#[derive(Clone, Default)]
struct Known {
    name: String,
    uuid: String,
    /// The driver's time of the newest use that was told.
    told_until: u64,
}

impl Default for Gpus {
    fn default() -> Self {
        Self::load(std::env::var_os(LIBRARY_VARIABLE).as_deref())
    }
}

impl Gpus {
    pub fn load(library: Option<&OsStr>) -> Self {
        Self::with_owners(library, Owners::default())
    }

    /// Another `/proc` is for tests.
    pub fn with_owners(library: Option<&OsStr>, owners: Owners) -> Self {
        let library = library.map(OsStr::to_owned);
        Self { nvml: load(library.as_deref()), library, owners, known: Vec::new(), lost_at: None }
    }

    pub fn capability(&self) -> v1::Capability {
        let (reason, enabled_by) = match &self.nvml {
            Ok(_) => (String::new(), String::new()),
            Err(why) => (
                why.clone(),
                format!(
                    "install the NVIDIA driver and give the sidecar its devices, or name its library in {LIBRARY_VARIABLE}"
                ),
            ),
        };
        v1::Capability { name: "gpu".into(), available: self.nvml.is_ok(), reason, enabled_by }
    }

    /// What a device does not tell is absent. `agent`: its processes, asked for only where a driver names any.
    pub fn look(&mut self, agent: impl Fn() -> Vec<v1::ProcessIdentity>) -> Vec<v1::GpuUsage> {
        if self.lost_at.is_some_and(|at| at.elapsed() >= RETRY_AFTER) {
            self.try_again();
        }
        let looked = match &self.nvml {
            Ok(nvml) => look_at_all(nvml, &self.owners, &mut self.known, &agent),
            Err(why) => Err(why.clone()),
        };
        looked.unwrap_or_else(|why| {
            if self.nvml.is_ok() {
                self.lost_at = Some(Instant::now());
                self.nvml = Err(why.clone());
            }
            self.shown_without_numbers(&why)
        })
    }

    /// A driver that was lost may be back; a device that never was is not looked for again.
    pub fn try_again(&mut self) {
        self.nvml = load(self.library.as_deref());
        self.lost_at = self.nvml.is_err().then(Instant::now);
    }

    fn shown_without_numbers(&self, why: &str) -> Vec<v1::GpuUsage> {
        let lost = |(index, known): (u32, &Known)| v1::GpuUsage {
            index,
            name: known.name.clone(),
            uuid: known.uuid.clone(),
            missing: why.into(),
            ..v1::GpuUsage::default()
        };
        (0..).zip(&self.known).map(lost).collect()
    }
}

fn load(library: Option<&OsStr>) -> Result<Nvml, String> {
    let nvml = match library {
        Some(path) => open(path),
        None => open(LIBRARIES[0].as_ref()).or_else(|first| open(LIBRARIES[1].as_ref()).map_err(|_| first)),
    };
    nvml.and_then(with_devices)
}

fn open(library: &OsStr) -> Result<Nvml, String> {
    let opened = Nvml::builder().lib_path(library).init();
    opened.map_err(|e| format!("{} cannot be used: {e}", library.to_string_lossy()))
}

fn with_devices(nvml: Nvml) -> Result<Nvml, String> {
    match nvml.device_count() {
        Ok(0) => Err("the driver is there and shows no device".into()),
        Ok(_) => Ok(nvml),
        Err(e) => Err(format!("the driver does not tell its devices: {e}")),
    }
}

/// `Err`: the driver itself is gone.
fn look_at_all(
    nvml: &Nvml,
    owners: &Owners,
    known: &mut Vec<Known>,
    agent: &dyn Fn() -> Vec<v1::ProcessIdentity>,
) -> Result<Vec<v1::GpuUsage>, String> {
    let count = nvml.device_count().map_err(|e| format!("the driver is gone: {e}"))?.min(DEVICES_MAX);
    known.resize(count as usize, Known::default());
    let mut agents = None;
    let mut all = Vec::new();
    for (index, known) in (0..count).zip(known) {
        all.push(match nvml.device_by_index(index) {
            Ok(device) => look_at(&device, index, known, owners, agents.get_or_insert_with(agent)),
            Err(e) => v1::GpuUsage {
                index,
                name: known.name.clone(),
                uuid: known.uuid.clone(),
                missing: format!("it is lost: {e}"),
                ..v1::GpuUsage::default()
            },
        });
    }
    Ok(all)
}

fn look_at(
    device: &Device<'_>,
    index: u32,
    known: &mut Known,
    owners: &Owners,
    agent: &[v1::ProcessIdentity],
) -> v1::GpuUsage {
    if known.name.is_empty() {
        known.name = device.name().unwrap_or_default();
        known.uuid = device.uuid().unwrap_or_default();
    }
    let memory = device.memory_info();
    let missing = match &memory {
        Err(e @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => format!("it is lost: {e}"),
        _ => String::new(),
    };
    let memory = memory.ok();
    let watts = |milliwatts: u32| f64::from(milliwatts) / 1_000.0;
    let mig = device.mig_mode().ok().map(|mode| mode.current != 0);
    v1::GpuUsage {
        index,
        name: known.name.clone(),
        uuid: known.uuid.clone(),
        utilization: device.utilization_rates().ok().map(|u| share(u.gpu)),
        memory_used_bytes: memory.as_ref().map(|m| m.used),
        memory_total_bytes: memory.as_ref().map(|m| m.total),
        power_watts: device.power_usage().ok().map(watts),
        power_limit_watts: device.enforced_power_limit().ok().map(watts),
        temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        graphics_mhz: device.clock_info(Clock::Graphics).ok(),
        memory_mhz: device.clock_info(Clock::Memory).ok(),
        throttled_by: device.current_throttle_reasons().map(reasons).unwrap_or_default(),
        mig,
        processes: processes(device, known, mig == Some(true), owners, agent),
        missing,
    }
}

fn share(percent: u32) -> f64 {
    f64::from(percent.min(100)) / 100.0
}

fn reasons(now: ThrottleReasons) -> Vec<String> {
    REASONS.iter().filter(|(reason, _)| now.contains(*reason)).map(|(_, word)| (*word).to_owned()).collect()
}

fn processes(
    device: &Device<'_>,
    known: &mut Known,
    mig: bool,
    owners: &Owners,
    agent: &[v1::ProcessIdentity],
) -> Vec<v1::GpuProcess> {
    let mut all: Vec<v1::GpuProcess> = Vec::new();
    // One that computes and draws is in both lists, with the same memory.
    let listed = [device.running_compute_processes(), device.running_graphics_processes()];
    for process in listed.into_iter().flatten().flatten() {
        if all.len() >= PROCESSES_MAX {
            break;
        }
        if process.pid != 0 && all.iter().all(|other| other.driver_pid != process.pid) {
            all.push(v1::GpuProcess {
                identity: owners.of(process.pid, agent),
                driver_pid: process.pid,
                utilization: None,
                memory_bytes: match process.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Some(bytes),
                    UsedGpuMemory::Unavailable => None,
                },
            });
        }
    }
    // Instances share the device: no use of a single process is told. On an idle one there are no samples.
    if !mig && !all.is_empty() {
        let samples = device.process_utilization_stats(known.told_until).unwrap_or_default();
        for sample in samples.iter().filter(|sample| sample.timestamp > known.told_until) {
            if let Some(process) = all.iter_mut().find(|process| process.driver_pid == sample.pid) {
                process.utilization = Some(share(sample.sm_util));
            }
        }
        known.told_until = samples.iter().map(|sample| sample.timestamp).fold(known.told_until, u64::max);
    }
    all.sort_by_key(|process| (process.identity.is_none(), std::cmp::Reverse(process.memory_bytes)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_the_capability_is_absent_with_its_reason() {
        let mut gpus = Gpus::load(Some("/nowhere/libnvidia-ml.so.1".as_ref()));
        let capability = gpus.capability();
        assert!(!capability.available && capability.name == "gpu");
        assert!(capability.reason.contains("/nowhere/libnvidia-ml.so.1"), "{}", capability.reason);
        assert!(capability.enabled_by.contains(LIBRARY_VARIABLE));
        assert!(gpus.look(Vec::new).is_empty());
    }
}
