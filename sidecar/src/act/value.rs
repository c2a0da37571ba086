//! A cgroup's CPU limit as a value: read, written, computed. Pure but for the two files.
use std::io;
use std::path::Path;

/// The least that an agent keeps.
pub const FLOOR_CORES: f64 = 0.1;
/// Short, so that an agent that people type at stays usable.
const PERIOD_USEC: u64 = 20_000;
const V2: &str = "cpu.max";
const V1_QUOTA: &str = "cpu.cfs_quota_us";
const V1_PERIOD: &str = "cpu.cfs_period_us";

/// The rungs that write a cgroup's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

impl Version {
    pub fn rung(self) -> &'static str {
        match self {
            Self::V1 => "cgroup1",
            Self::V2 => "cgroup2",
        }
    }

    pub fn of_rung(rung: &str) -> Option<Self> {
        [Self::V1, Self::V2].into_iter().find(|v| v.rung() == rung)
    }

    /// The file that limits.
    pub fn file(self) -> &'static str {
        match self {
            Self::V1 => V1_QUOTA,
            Self::V2 => V2,
        }
    }

    /// One line each for v1's quota and period.
    pub fn read(self, directory: &Path) -> io::Result<String> {
        let line = |file: &str| Ok::<_, io::Error>(std::fs::read_to_string(directory.join(file))?.trim().to_owned());
        match self {
            Self::V2 => line(V2),
            Self::V1 => Ok(format!("{}\n{}", line(V1_QUOTA)?, line(V1_PERIOD)?)),
        }
    }

    pub fn write(self, directory: &Path, value: &str) -> io::Result<()> {
        let put = |file: &str, text: &str| std::fs::write(directory.join(file), text);
        match self {
            Self::V2 => put(V2, value),
            Self::V1 => {
                let (quota, period) = value.split_once('\n').ok_or(io::ErrorKind::InvalidData)?;
                // The kernel judges each write by itself: without a quota any period is right.
                put(V1_QUOTA, "-1")?;
                put(V1_PERIOD, period)?;
                if quota == "-1" { Ok(()) } else { put(V1_QUOTA, quota) }
            }
        }
    }

    /// Whether `now` is what a write that was cut short between `old` and `new` leaves: only v1 is written in steps.
    pub fn is_half_written(self, now: &str, old: &str, new: &str) -> bool {
        let Some((Self::V1, ("-1", period))) = now.split_once('\n').map(|parts| (self, parts)) else { return false };
        let of = |value: &str| value.split_once('\n').is_some_and(|(_, theirs)| theirs == period);
        // One of our limits may have given way to another.
        let ours = of(old) || of(new) || period == PERIOD_USEC.to_string();
        ours && now != old && now != new
    }

    /// What holds the agent below `cores`, given what stands there: never looser than that.
    pub fn limited(self, now: &str, cores: f64) -> String {
        let cores = if cores.is_finite() { cores.max(FLOOR_CORES) } else { FLOOR_CORES };
        if self.cores(now).is_some_and(|limit| limit <= cores) {
            return now.to_owned();
        }
        let quota = (cores * PERIOD_USEC as f64).round() as u64;
        match self {
            Self::V2 => format!("{quota} {PERIOD_USEC}"),
            Self::V1 => format!("{quota}\n{PERIOD_USEC}"),
        }
    }

    /// `None`: no limit.
    pub fn cores(self, value: &str) -> Option<f64> {
        let (quota, period) = match self {
            Self::V2 => value.split_once(' ')?,
            Self::V1 => value.split_once('\n')?,
        };
        let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    }

    /// A harmless try of v1: the same quota again.
    pub fn probe(self, directory: &Path) -> io::Result<()> {
        let now = self.read(directory)?;
        now.split_once('\n').map_or(Ok(()), |(quota, _)| std::fs::write(directory.join(V1_QUOTA), quota))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_quota_of_a_short_period_and_never_looser_than_what_stands_there() {
        for (version, now, cores, then) in [
            (Version::V2, "max 100000", 0.2, "4000 20000"),
            (Version::V2, "50000 100000", 1.0, "50000 100000"),
            (Version::V2, "50000 100000", 0.25, "5000 20000"),
            (Version::V2, "max 100000", 0.0, "2000 20000"),
            (Version::V2, "max 100000", f64::NAN, "2000 20000"),
            (Version::V1, "-1\n100000", 1.5, "30000\n20000"),
            (Version::V1, "10000\n100000", 0.5, "10000\n100000"),
        ] {
            assert_eq!(version.limited(now, cores), then, "{version:?} {now:?} {cores}");
        }
        assert_eq!(Version::V1.cores("-1\n100000"), None);
        assert_eq!(Version::V2.cores("max 100000"), None);
        assert_eq!(Version::of_rung("cgroup1"), Some(Version::V1));
        assert_eq!(Version::of_rung("duty-cycle"), None);
    }

    #[test]
    fn a_write_that_was_cut_short_is_known_by_its_value() {
        let limited = ("150000\n100000", "4000\n20000");
        let unlimited = ("-1\n100000", "4000\n20000");
        for (version, now, (old, new), half) in [
            (Version::V1, "-1\n100000", limited, true),
            (Version::V1, "-1\n20000", limited, true),
            (Version::V1, "-1\n50000", limited, false),
            (Version::V1, "5000\n20000", limited, false),
            (Version::V1, "-1\n20000", unlimited, true),
            // Not begun, or undone.
            (Version::V1, "-1\n100000", unlimited, false),
            (Version::V1, "4000\n20000", limited, false),
            // A stricter limit of ours gives way to what stood there.
            (Version::V1, "-1\n20000", ("50000\n100000", "50000\n100000"), true),
            (Version::V2, "max 100000", ("150000 100000", "4000 20000"), false),
        ] {
            assert_eq!(version.is_half_written(now, old, new), half, "{version:?} {now:?} {old:?} {new:?}");
        }
    }

    #[test]
    fn values_come_back_as_they_were_written() {
        let here = tempfile::tempdir().unwrap();
        Version::V1.write(here.path(), "4000\n20000").unwrap();
        assert_eq!(Version::V1.read(here.path()).unwrap(), "4000\n20000");
        Version::V1.write(here.path(), "-1\n100000").unwrap();
        assert_eq!(Version::V1.read(here.path()).unwrap(), "-1\n100000");
        Version::V2.write(here.path(), "max 100000").unwrap();
        assert_eq!(Version::V2.read(here.path()).unwrap(), "max 100000");
        Version::V1.probe(here.path()).unwrap();
    }
}
