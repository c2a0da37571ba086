//! Totals of the machine, through sysinfo: they are the same for every sidecar on it, and told apart by boot id.
use std::time::Instant;

use pitwall_proto::v1;
use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, MemoryRefreshKind, System};

use super::procfs::boot_id;

pub struct Host {
    /// Absent where the system cannot be read at all.
    system: Option<System>,
    boot_id: String,
    hostname: String,
    cpus: Option<u32>,
    /// CPU use needs two looks, of which the library takes the second only so much later.
    looked: Option<Instant>,
    load_1m: Option<f64>,
    cpu_cores: Option<f64>,
}

impl Default for Host {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().ok();
        Self {
            system: System::new().ok(),
            boot_id: boot_id(),
            hostname: System::host_name().unwrap_or_default(),
            cpus: cpus.and_then(|n| u32::try_from(n.get()).ok()),
            looked: None,
            load_1m: None,
            cpu_cores: None,
        }
    }
}

impl Host {
    /// All of it anew if `slow`, else as it was: the kernel walks over every CPU and interrupt for its totals.
    pub fn look(&mut self, slow: bool) -> v1::HostUsage {
        let mut usage = v1::HostUsage {
            boot_id: self.boot_id.clone(),
            hostname: self.hostname.clone(),
            cpus: self.cpus,
            ..v1::HostUsage::default()
        };
        if slow {
            self.load_1m = System::load_average().ok().map(|l| l.one);
        }
        usage.load_1m = self.load_1m;
        let Some(system) = &mut self.system else { return usage };
        let apart = self.looked.map(|at| at.elapsed());
        let again = slow && apart.is_none_or(|apart| apart >= MINIMUM_CPU_UPDATE_INTERVAL);
        if again {
            system.refresh_cpu_usage();
            self.looked = Some(Instant::now());
        }
        if slow {
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        }
        // The affinity of the sidecar may be narrower than the machine.
        let all = u32::try_from(system.cpus().len()).ok().filter(|n| *n > 0);
        usage.cpus = all.or(self.cpus);
        if again && apart.is_some() {
            let share = f64::from(system.global_cpu_usage()) / 100.0;
            let cores = all.map(|cpus| share.clamp(0.0, 1.0) * f64::from(cpus));
            self.cpu_cores = cores.filter(|c| c.is_finite());
        }
        usage.cpu_cores = self.cpu_cores;
        if system.total_memory() > 0 {
            usage.memory_total_bytes = Some(system.total_memory());
            usage.memory_used_bytes = Some(system.used_memory());
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_has_no_cpu_use_and_a_later_one_has() {
        let mut host = Host::default();
        let first = host.look(true);
        assert_eq!(first.cpu_cores, None);
        assert!(!first.boot_id.is_empty() && !first.hostname.is_empty());
        assert!(first.memory_total_bytes > first.memory_used_bytes);
        // Until the library takes another look, what it has is the mean since the boot.
        let began = Instant::now();
        let later = loop {
            let later = host.look(true);
            if later.cpu_cores.is_some() || began.elapsed() > 50 * MINIMUM_CPU_UPDATE_INTERVAL {
                break later;
            }
            std::thread::yield_now();
        };
        assert!(began.elapsed() > MINIMUM_CPU_UPDATE_INTERVAL / 2, "too soon after the first");
        assert!(later.cpu_cores.is_some_and(|c| c >= 0.0 && c <= f64::from(later.cpus.unwrap())));
    }
}
