//! The ladder: which rungs there are for a resource, best first, by the names that capabilities and people use.
use pitwall_proto::v1::Resource;

use super::duty;
use super::files::{Files, What};
use super::gpu::Setting;
use super::threads::Knob;
use super::value::Version;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    Files(Files),
    Duty,
    Threads(Knob),
    Gpu(Setting),
}

/// What can be limited, and its word in the names of capabilities.
pub const RESOURCES: [(Resource, &str); 8] = [
    (Resource::Cpu, "cpu"),
    (Resource::Memory, "memory"),
    (Resource::Pids, "pids"),
    (Resource::Io, "io"),
    (Resource::CpuWeight, "weight"),
    (Resource::Freeze, "freeze"),
    (Resource::GpuPower, "gpu-power"),
    (Resource::GpuClock, "gpu-clock"),
];

pub fn word(resource: Resource) -> Option<&'static str> {
    RESOURCES.iter().find(|(of, _)| *of == resource).map(|(_, word)| *word)
}

/// For messages: "the CPU cannot be limited here".
pub fn noun(resource: Resource) -> &'static str {
    match resource {
        Resource::Cpu => "the CPU",
        Resource::Memory => "memory",
        Resource::Pids => "the number of processes",
        Resource::Io => "I/O",
        Resource::CpuWeight => "the CPU's share",
        Resource::Freeze => "running at all",
        Resource::GpuPower => "a GPU's power",
        Resource::GpuClock => "a GPU's clock",
        Resource::Unspecified | Resource::Disk | Resource::GpuMemory => "this resource",
    }
}

impl Rung {
    /// Best first.
    pub fn ladder(resource: Resource) -> Vec<Self> {
        let files = What::of(resource)
            .into_iter()
            .flat_map(|what| [Version::V2, Version::V1].map(|version| Self::Files(Files { what, version })));
        let others: &[Self] = match resource {
            Resource::Cpu => &[Self::Duty, Self::Threads(Knob::Affinity)],
            Resource::CpuWeight => &[Self::Threads(Knob::Nice)],
            Resource::GpuPower => &[Self::Gpu(Setting::Power)],
            Resource::GpuClock => &[Self::Gpu(Setting::Clock)],
            _ => &[],
        };
        files.chain(others.iter().copied()).collect()
    }

    pub fn of(resource: Resource, name: &str) -> Option<Self> {
        Self::ladder(resource).into_iter().find(|rung| rung.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Files(files) => files.rung(),
            Self::Duty => duty::RUNG,
            Self::Threads(knob) => knob.rung(),
            Self::Gpu(_) => super::gpu::RUNG,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_is_found_by_its_name_and_the_best_is_first() {
        for (resource, _) in RESOURCES {
            let ladder = Rung::ladder(resource);
            assert!(!ladder.is_empty() && word(resource).is_some(), "{resource:?}");
            for rung in ladder {
                assert_eq!(Rung::of(resource, rung.name()), Some(rung));
            }
        }
        let names = |resource| Rung::ladder(resource).into_iter().map(Rung::name).collect::<Vec<_>>();
        assert_eq!(names(Resource::Cpu), ["cgroup2", "cgroup1", "duty-cycle", "affinity"]);
        assert_eq!(names(Resource::CpuWeight), ["cgroup2", "cgroup1", "nice"]);
        assert_eq!(names(Resource::GpuPower), ["nvml"]);
        assert!(names(Resource::Disk).is_empty() && word(Resource::GpuMemory).is_none());
    }
}
