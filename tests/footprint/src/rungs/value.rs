//! Where the value of each rung stands, and how it is read and written by somebody who is not the sidecar.
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    process::{Pid, Signal},
    thread::{CpuSet, sched_setaffinity},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    CpuV1,
    CpuV2,
    WeightV1,
    WeightV2,
    PidsV1,
    PidsV2,
    IoV1,
    IoV2,
    MemoryV1,
    MemoryV2,
    FreezeV1,
    FreezeV2,
    Affinity,
    Nice,
    DutyCycle,
}

/// A duty cycle is seen by looking at the process so often and so long.
const LOOKS: u32 = 100;
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A share of looks at which it stood, in percent, from which it counts as held: on a busy machine an agent gets hardly
/// more than it is allowed, and is seldom stopped.
const STANDS_FROM: u32 = 3;
/// What the foreign writer allows. Each of them is looser than what the sidecar was asked for or just another value.
const FOREIGN_NICE: i32 = 15;

impl Kind {
    /// The v1 controller and its files, or the files of v2.
    fn files(self) -> Option<(Option<&'static str>, &'static [&'static str])> {
        Some(match self {
            Self::CpuV1 => (Some("cpu"), &["cpu.cfs_quota_us", "cpu.cfs_period_us"]),
            Self::CpuV2 => (None, &["cpu.max"]),
            Self::WeightV1 => (Some("cpu"), &["cpu.shares"]),
            Self::WeightV2 => (None, &["cpu.weight"]),
            Self::PidsV1 => (Some("pids"), &["pids.max"]),
            Self::PidsV2 => (None, &["pids.max"]),
            Self::IoV1 => (Some("blkio"), &["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"]),
            Self::IoV2 => (None, &["io.max"]),
            Self::MemoryV1 => (Some("memory"), &["memory.limit_in_bytes"]),
            Self::MemoryV2 => (None, &["memory.max"]),
            Self::FreezeV1 => (Some("freezer"), &["freezer.state"]),
            Self::FreezeV2 => (None, &["cgroup.freeze"]),
            Self::Affinity | Self::Nice | Self::DutyCycle => return None,
        })
    }

    /// For people: where it stands.
    pub fn place(self, pid: i32) -> String {
        match (self.files(), self) {
            (Some((controller, files)), _) => {
                folder(pid, controller).map_or_else(|why| why.to_string(), |at| at.join(files[0]).display().to_string())
            }
            (None, Self::Affinity) => format!("/proc/{pid}/status: Cpus_allowed_list"),
            (None, Self::Nice) => format!("/proc/{pid}/stat: nice"),
            (None, _) => format!("/proc/{pid}/stat: stopped, in percent of {LOOKS} looks"),
        }
    }

    /// As it stands there; several files are joined by `; `.
    pub fn read(self, pid: i32) -> Result<String> {
        if let Some((controller, files)) = self.files() {
            let folder = folder(pid, controller)?;
            let each: Result<Vec<String>> = files.iter().map(|file| line(&folder.join(file))).collect();
            return Ok(each?.join("; "));
        }
        match self {
            Self::Affinity => {
                let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
                let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
                Ok(list.context("the kernel tells no affinity")?.trim().to_owned())
            }
            Self::Nice => Ok(stat(pid)?.get(16).context("no nice value")?.clone()),
            _ => {
                let mut stood = 0;
                for _ in 0..LOOKS {
                    stood += u32::from(stat(pid)?.first().is_some_and(|state| state == "T"));
                    std::thread::sleep(LOOK_EVERY);
                }
                Ok((stood * 100 / LOOKS).to_string())
            }
        }
    }

    /// Does the value say this amount?
    pub fn says(self, value: &str, amount: f64) -> bool {
        let near = |value: f64, wanted: f64| (value - wanted).abs() <= wanted * 0.02;
        let numbers = |text: &str| text.split([' ', ';']).filter_map(|n| n.parse::<f64>().ok()).collect::<Vec<f64>>();
        let all = numbers(value);
        match self {
            Self::CpuV1 | Self::CpuV2 => all.len() == 2 && near(all[0] / all[1], amount),
            // 1,024 shares and a weight of 100 are everybody's.
            Self::WeightV1 => all.first().is_some_and(|shares| near(shares / 1_024.0, amount / 100.0)),
            Self::WeightV2 | Self::PidsV1 | Self::PidsV2 => all.first().is_some_and(|now| near(*now, amount)),
            // Whole pages.
            Self::MemoryV1 | Self::MemoryV2 => all.first().is_some_and(|now| near(*now, amount)),
            Self::IoV1 => value.split("; ").all(|file| numbers(file).first().is_some_and(|now| near(*now, amount))),
            Self::IoV2 => ["rbps", "wbps"].iter().all(|key| {
                let found = value.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
                found.and_then(|n| n.parse::<f64>().ok()).is_some_and(|now| near(now, amount))
            }),
            Self::FreezeV1 => value == "FROZEN",
            Self::FreezeV2 => value == "1",
            Self::Affinity => !value.contains([',', '-']),
            Self::Nice => value.parse::<i32>().is_ok_and(|now| now > 0),
            Self::DutyCycle => value.parse::<u32>().is_ok_and(|stood| stood >= STANDS_FROM),
        }
    }

    /// Is it the same value? Only a duty cycle is seen by looking, and not read.
    pub fn same(self, one: &str, other: &str) -> bool {
        match self {
            Self::DutyCycle => self.says(one, 0.0) == self.says(other, 0.0),
            _ => one == other,
        }
    }

    /// Somebody else writes another value.
    pub fn write_foreign(self, pid: i32) -> Result<()> {
        let Some((controller, files)) = self.files() else {
            let process = Pid::from_raw(pid).context("no pid")?;
            match self {
                Self::Affinity => {
                    // The other CPU than a sidecar would take first, or took.
                    let now = self.read(pid)?;
                    let mut set = CpuSet::new();
                    set.set(usize::from(now.trim() == "0"));
                    sched_setaffinity(Some(process), &set)?;
                }
                Self::Nice => rustix::process::setpriority_process(Some(process), FOREIGN_NICE)?,
                // Nothing is written there; another one can only let it run.
                _ => rustix::process::kill_process(process, Signal::CONT)?,
            }
            return Ok(());
        };
        let folder = folder(pid, controller)?;
        let put = |file: &str, text: &str| {
            fs::write(folder.join(file), text).with_context(|| folder.join(file).display().to_string())
        };
        match self {
            Self::CpuV1 => put(files[0], "7000"),
            Self::CpuV2 => put(files[0], "7000 20000"),
            Self::WeightV1 => put(files[0], "700"),
            Self::WeightV2 | Self::PidsV1 | Self::PidsV2 => put(files[0], "77"),
            Self::MemoryV1 | Self::MemoryV2 => put(files[0], "805306368"),
            Self::FreezeV1 => put(files[0], "THAWED"),
            Self::FreezeV2 => put(files[0], "0"),
            Self::IoV1 | Self::IoV2 => {
                // On the same device.
                let now = self.read(pid)?;
                let device = now.split(' ').next().filter(|word| word.contains(':')).context("no device is limited")?;
                let text =
                    if self == Self::IoV2 { format!("{device} rbps=7340032") } else { format!("{device} 7340032") };
                put(files[0], &text)
            }
            Self::Affinity | Self::Nice | Self::DutyCycle => bail!("not a file"),
        }
    }

    /// What another writer changed is made as it was.
    pub fn write_back(self, pid: i32, before: &str) -> Result<()> {
        let Some((controller, files)) = self.files() else {
            let process = Pid::from_raw(pid).context("no pid")?;
            match self {
                Self::Affinity => {
                    let mut set = CpuSet::new();
                    for cpu in cpus(before) {
                        set.set(cpu);
                    }
                    sched_setaffinity(Some(process), &set)?;
                }
                Self::Nice => rustix::process::setpriority_process(Some(process), before.parse()?)?,
                _ => {}
            }
            return Ok(());
        };
        let folder = folder(pid, controller)?;
        if matches!(self, Self::IoV1 | Self::IoV2) {
            let now = self.read(pid)?;
            let Some(device) = now.split(' ').next().filter(|word| word.contains(':')) else { return Ok(()) };
            let none = if self == Self::IoV2 { "rbps=max wbps=max" } else { "0" };
            for file in files {
                fs::write(folder.join(file), format!("{device} {none}"))?;
            }
            return Ok(());
        }
        for (file, value) in files.iter().zip(before.split("; ")) {
            fs::write(folder.join(file), value).with_context(|| folder.join(file).display().to_string())?;
        }
        Ok(())
    }
}

/// As the kernel lists them: `0-1,4`.
fn cpus(list: &str) -> Vec<usize> {
    let one = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse().ok()?..=to.parse().ok()?)
    };
    list.split(',').filter_map(one).flatten().collect()
}

/// The cgroup of a process where this controller is; `None`: of v2.
fn folder(pid: i32, controller: Option<&str>) -> Result<PathBuf> {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).with_context(|| format!("process {pid}"))?;
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        let fits = match controller {
            Some(controller) => names.split(',').any(|name| name == controller),
            None => names.is_empty(),
        };
        fits.then(|| path.trim_start_matches('/').to_owned())
    });
    let path = path.with_context(|| format!("process {pid} is in no cgroup of {}", controller.unwrap_or("v2")))?;
    let top = Path::new("/sys/fs/cgroup");
    Ok(controller.map_or(top.to_owned(), |controller| top.join(controller)).join(path))
}

fn line(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim().replace('\n', ", "))
}

/// What stands behind the name: state, parent and so on.
fn stat(pid: i32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let (_, rest) = text.rsplit_once(") ").context("no stat")?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

/// When it started, as the kernel counts.
pub fn start_ticks(pid: i32) -> Result<u64> {
    Ok(stat(pid)?.get(19).context("no start time")?.parse()?)
}

/// The child of a root that runs, which the agents of this table have one of.
pub fn child(root: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{root}/task/{root}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Looks until the value fits, or the time is over; then the last one that was seen.
pub async fn until(kind: Kind, pid: i32, within: Duration, fits: impl Fn(&str) -> bool) -> Result<(String, bool)> {
    let begin = Instant::now();
    loop {
        let value = tokio::task::block_in_place(|| kind.read(pid))?;
        let good = fits(&value);
        if good || begin.elapsed() > within {
            return Ok((value, good));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_amounts() {
        for (kind, value, amount, says) in [
            (Kind::CpuV1, "6000; 20000", 0.3, true),
            (Kind::CpuV1, "-1; 100000", 0.3, false),
            (Kind::CpuV2, "6000 20000", 0.3, true),
            (Kind::CpuV2, "max 100000", 0.3, false),
            (Kind::WeightV1, "512", 50.0, true),
            (Kind::WeightV2, "100", 50.0, false),
            (Kind::PidsV2, "max", 64.0, false),
            (Kind::MemoryV1, "536870912", 536_870_912.0, true),
            (Kind::IoV1, "253:0 20000000; 253:0 20000000", 20e6, true),
            (Kind::IoV1, "; ", 20e6, false),
            (Kind::IoV2, "254:0 rbps=20000000 wbps=20000000 riops=max wiops=max", 20e6, true),
            (Kind::IoV2, "254:0 rbps=20000000 wbps=max riops=max wiops=max", 20e6, false),
            (Kind::Affinity, "0-1", 1.0, false),
            (Kind::Affinity, "1", 1.0, true),
            (Kind::DutyCycle, "62", 0.3, true),
            (Kind::DutyCycle, "2", 0.3, false),
        ] {
            assert_eq!(kind.says(value, amount), says, "{kind:?} {value}");
        }
        assert!(Kind::DutyCycle.same("40", "70") && !Kind::DutyCycle.same("40", "0"));
    }
}
