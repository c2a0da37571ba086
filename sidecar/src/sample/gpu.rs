//! GPUs through NVIDIA's library, where there is one. Never an error: absent, with the reason.
use std::ffi::OsStr;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use pitwall_proto::v1;

/// Devices looked at on one host.
const DEVICES_MAX: u32 = 64;
/// Drivers install the first; the second belongs to development packages.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];
/// Names another library, for machines that keep it elsewhere.
pub const LIBRARY_VARIABLE: &str = "PITWALL_NVML_LIBRARY";

pub struct Gpus {
    /// Or why there are none.
    nvml: Result<Nvml, String>,
}

impl Default for Gpus {
    fn default() -> Self {
        Self::load(std::env::var_os(LIBRARY_VARIABLE).as_deref())
    }
}

impl Gpus {
    pub fn load(library: Option<&OsStr>) -> Self {
        let nvml = match library {
            Some(path) => open(path),
            None => open(LIBRARIES[0].as_ref()).or_else(|first| open(LIBRARIES[1].as_ref()).map_err(|_| first)),
        };
        Self { nvml: nvml.and_then(with_devices) }
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

    /// What a device does not tell is absent.
    pub fn look(&self) -> Vec<v1::GpuUsage> {
        let Ok(nvml) = &self.nvml else { return Vec::new() };
        let count = nvml.device_count().unwrap_or(0).min(DEVICES_MAX);
        (0..count).filter_map(|index| device(nvml, index)).collect()
    }
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

fn device(nvml: &Nvml, index: u32) -> Option<v1::GpuUsage> {
    let device = nvml.device_by_index(index).ok()?;
    let memory = device.memory_info().ok();
    Some(v1::GpuUsage {
        index,
        name: device.name().unwrap_or_default(),
        utilization: device.utilization_rates().ok().map(|u| f64::from(u.gpu.min(100)) / 100.0),
        memory_used_bytes: memory.as_ref().map(|m| m.used),
        memory_total_bytes: memory.as_ref().map(|m| m.total),
        power_watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1_000.0),
        temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_the_capability_is_absent_with_its_reason() {
        let gpus = Gpus::load(Some("/nowhere/libnvidia-ml.so.1".as_ref()));
        let capability = gpus.capability();
        assert!(!capability.available && capability.name == "gpu");
        assert!(capability.reason.contains("/nowhere/libnvidia-ml.so.1"), "{}", capability.reason);
        assert!(capability.enabled_by.contains(LIBRARY_VARIABLE));
        assert!(gpus.look().is_empty());
    }
}
