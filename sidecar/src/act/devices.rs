//! A cgroup's I/O limits as a value: one line for each device, `254:0 rbps=1000 wbps=max`, of either version. What else
//! stands there (operations a second, other devices) is nobody's business here.
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::value::Version;

pub const V2: &str = "io.max";
pub const V1_READ: &str = "blkio.throttle.read_bps_device";
const V1_WRITE: &str = "blkio.throttle.write_bps_device";
/// Devices of one limit.
const DEVICES_MAX: usize = 16;
/// Less would stop it rather than slow it down.
const FLOOR_BYTES: u64 = 64 << 10;

/// Read and written bytes a second; `None`: no limit.
type Rates = (Option<u64>, Option<u64>);
type Limits = BTreeMap<String, Rates>;

fn parse(value: &str) -> Limits {
    value
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let device = words.next()?.to_owned();
            let mut rates = (None, None);
            for (key, rate) in words.filter_map(|word| word.split_once('=')) {
                match key {
                    "rbps" => rates.0 = rate.parse().ok(),
                    "wbps" => rates.1 = rate.parse().ok(),
                    _ => {}
                }
            }
            Some((device, rates))
        })
        .take(DEVICES_MAX)
        .collect()
}

fn text(limits: &Limits) -> String {
    let lines = limits.iter().map(|(device, rates)| line(device, *rates));
    lines.collect::<Vec<_>>().join("\n")
}

fn line(device: &str, (read, written): Rates) -> String {
    let word = |rate: Option<u64>| rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
    format!("{device} rbps={} wbps={}", word(read), word(written))
}

/// Of the devices that `like` names.
pub fn read(version: Version, directory: &Path, like: &str) -> io::Result<String> {
    let file = |name: &str| std::fs::read_to_string(directory.join(name));
    let there = match version {
        Version::V2 => parse(&file(V2)?),
        Version::V1 => {
            let (read, written) = (v1_rates(&file(V1_READ)?), v1_rates(&file(V1_WRITE)?));
            let devices = read.keys().chain(written.keys()).cloned();
            devices.map(|d| (d.clone(), (read.get(&d).copied(), written.get(&d).copied()))).collect()
        }
    };
    let of = |device: String| (device.clone(), there.get(&device).copied().unwrap_or_default());
    Ok(text(&parse(like).into_keys().map(of).collect()))
}

fn v1_rates(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(device, rate)| Some((device.to_owned(), rate.trim().parse().ok()?))).collect()
}

pub fn write(version: Version, directory: &Path, value: &str) -> io::Result<()> {
    for (device, rates) in parse(value) {
        match version {
            Version::V2 => std::fs::write(directory.join(V2), line(&device, rates))?,
            Version::V1 => {
                for (file, rate) in [(V1_READ, rates.0), (V1_WRITE, rates.1)] {
                    // 0 is "none" there.
                    std::fs::write(directory.join(file), format!("{device} {}", rate.unwrap_or(0)))?;
                }
            }
        }
    }
    Ok(())
}

pub fn limited(now: &str, amount: f64) -> String {
    let asked = (amount as u64).max(FLOOR_BYTES);
    let stricter = |stands: Option<u64>| Some(stands.map_or(asked, |stands| stands.min(asked)));
    text(&parse(now).into_iter().map(|(device, (r, w))| (device, (stricter(r), stricter(w)))).collect())
}

/// Every rate is the old or the new one, and neither all of them are the old nor all the new ones.
pub fn is_half_written(now: &str, old: &str, new: &str) -> bool {
    let (now, old, new) = (parse(now), parse(old), parse(new));
    let one_of = |device: &String, rates: &Rates| {
        let (old, new) = (old.get(device), new.get(device));
        let fits = |of: fn(&Rates) -> Option<u64>| {
            [old, new].into_iter().flatten().any(|rates_then| of(rates_then) == of(rates))
        };
        fits(|r| r.0) && fits(|r| r.1)
    };
    now != old && now != new && now.len() == new.len() && now.iter().all(|(device, rates)| one_of(device, rates))
}

pub fn unlimited(like: &str) -> String {
    text(&parse(like).into_keys().map(|device| (device, (None, None))).collect())
}

pub fn none_there(version: Version, directory: &Path) -> bool {
    let file = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
    match version {
        Version::V2 => parse(&file(V2)).values().all(|rates| *rates == (None, None)),
        Version::V1 => v1_rates(&file(V1_READ)).is_empty() && v1_rates(&file(V1_WRITE)).is_empty(),
    }
}

pub fn least(value: &str) -> f64 {
    let rates = parse(value).into_values().flat_map(|(read, written)| [read, written]).flatten();
    rates.min().map_or(f64::INFINITY, |rate| rate as f64)
}

/// The devices that the agent has used, and the one below its workspace.
pub fn of_agent(version: Version, directory: &Path, workspace: &Path) -> Result<String, String> {
    let counted = match version {
        Version::V2 => "io.stat",
        Version::V1 => "blkio.throttle.io_service_bytes",
    };
    let counted = std::fs::read_to_string(directory.join(counted)).unwrap_or_default();
    let used = counted.lines().filter_map(|line| line.split(' ').next()).filter(|word| is_device(word));
    let below = std::fs::metadata(workspace).ok().map(|m| m.dev()).and_then(disk_of);
    let devices: Limits = used.map(str::to_owned).chain(below).map(|device| (device, (None, None))).collect();
    if devices.is_empty() {
        return Err(format!(
            "no device is known that its I/O is on: it has not read or written any yet, and {} is on none",
            workspace.display()
        ));
    }
    Ok(text(&devices.into_iter().take(DEVICES_MAX).collect()))
}

/// `254:0`. Major 0 is no device, but a file system without one.
fn is_device(word: &str) -> bool {
    let parsed = word.split_once(':').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
    parsed.is_some_and(|(major, _)| major > 0)
}

/// A limit is of a whole disk, never of a partition.
fn disk_of(device: u64) -> Option<String> {
    let name = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    if !is_device(&name) {
        return None;
    }
    let at = Path::new("/sys/dev/block").join(&name);
    if !at.join("partition").exists() {
        return Some(name);
    }
    let disk = at.canonicalize().ok()?.parent()?.join("dev");
    std::fs::read_to_string(disk).ok().map(|name| name.trim().to_owned()).filter(|name| is_device(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_the_same_and_leave_the_rest_alone() {
        let here = tempfile::tempdir().unwrap();
        let at = |name: &str| here.path().join(name);
        std::fs::write(at(V2), "8:0 rbps=2000000 wbps=max riops=100 wiops=max\n8:16 rbps=5 wbps=5\n").unwrap();
        std::fs::write(at(V1_READ), "8:0 2000000\n").unwrap();
        std::fs::write(at(V1_WRITE), "").unwrap();
        for version in [Version::V1, Version::V2] {
            let now = read(version, here.path(), "8:0\n8:32").unwrap();
            assert_eq!(now, "8:0 rbps=2000000 wbps=max\n8:32 rbps=max wbps=max", "{version:?}");
            assert_eq!(
                limited(&now, 5e6),
                "8:0 rbps=2000000 wbps=5000000\n8:32 rbps=5000000 wbps=5000000",
                "never looser"
            );
            assert!(!none_there(version, here.path()));
        }
        assert_eq!(limited("8:0 rbps=max wbps=max", 0.0), "8:0 rbps=65536 wbps=65536");
        assert_eq!(least("8:0 rbps=max wbps=7"), 7.0);
        assert_eq!(unlimited("8:0 rbps=1 wbps=7"), "8:0 rbps=max wbps=max");
    }

    #[test]
    fn a_write_that_was_cut_short_is_known_by_its_rates() {
        let (old, new) = ("8:0 rbps=max wbps=9\n8:16 rbps=max wbps=max", "8:0 rbps=5 wbps=5\n8:16 rbps=5 wbps=5");
        for (now, half) in [
            ("8:0 rbps=5 wbps=9\n8:16 rbps=max wbps=max", true),
            ("8:0 rbps=5 wbps=5\n8:16 rbps=max wbps=max", true),
            ("8:0 rbps=6 wbps=5\n8:16 rbps=max wbps=max", false),
            (old, false),
            (new, false),
        ] {
            assert_eq!(is_half_written(now, old, new), half, "{now}");
        }
    }

    #[test]
    fn the_devices_are_those_that_it_used_and_that_of_its_workspace() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("io.stat"), "8:0 rbytes=1 wbytes=2\n0:31 rbytes=0\n259:1\n").unwrap();
        let found = of_agent(Version::V2, here.path(), Path::new("/proc")).unwrap();
        assert_eq!(found, "259:1 rbps=max wbps=max\n8:0 rbps=max wbps=max");
        let why = of_agent(Version::V1, here.path(), Path::new("/proc")).unwrap_err();
        assert!(why.contains("/proc") && why.contains("no device"), "{why}");
    }
}
