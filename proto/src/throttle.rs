//! What a throttle means: of which resource how much, of whom, and which amounts are legal. Said once, for the
//! orchestrator that refuses and for the sidecar that rejects. Pure; a mistake is a sentence that says what would be right.
use crate::v1::{self, Resource};

/// Never below 10 % of a core.
pub const CPU_FLOOR: f64 = 0.1;
/// A freeze is short: what stands still answers nobody.
pub const FREEZE_MAX_MS: u32 = 60_000;
/// Every throttle ends by itself.
pub const FOR_MAX_MS: u32 = 7 * 24 * 3_600_000;
pub const WEIGHT_MAX: f64 = 10_000.0;
/// Above it numbers are not exact any more, and no machine has so much of anything.
const AMOUNT_MAX: f64 = 1e15;
/// As the kernel keeps a process's name.
const NAME_SHOWN: usize = 15;
/// Amounts that were computed on the way here.
const ROUNDING: f64 = 1e-9;

/// Each resource that can be limited, with the word that capabilities and people use for it.
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

/// `cpu` as in `throttle.cpu.cgroup2`; also for those that have a quota only.
pub fn word(resource: Resource) -> &'static str {
    match resource {
        Resource::Disk => "disk",
        Resource::GpuMemory => "gpu-memory",
        Resource::Unspecified => "unknown",
        _ => RESOURCES.iter().find(|(r, _)| *r == resource).map_or("unknown", |(_, word)| word),
    }
}

/// Can an agent be held below an amount of it? Of others only a quota can be set.
pub fn is_held(resource: Resource) -> bool {
    RESOURCES.iter().any(|(known, _)| *known == resource)
}

pub fn of_word(word: &str) -> Option<Resource> {
    RESOURCES.iter().find(|(_, known)| *known == word).map(|(resource, _)| *resource)
}

/// The capability that a throttle of this resource needs; of this rung, where one is named.
pub fn capability(resource: Resource, via: &str) -> String {
    let word = word(resource);
    if via.is_empty() { format!("throttle.{word}") } else { format!("throttle.{word}.{via}") }
}

/// One process, as it cannot be mistaken: pid and start ticks. `None`: the whole agent.
pub type Target = Option<(i32, u64)>;

pub fn target(process: Option<&v1::ProcessIdentity>) -> Target {
    process.map(|p| (p.pid, p.start_ticks))
}

/// A use that is measured proves the limit; what nobody runs into is read back.
pub fn is_measured(resource: Resource) -> bool {
    matches!(resource, Resource::Cpu | Resource::Io)
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meant {
    pub resource: Resource,
    /// In the unit of the resource; the smaller, the stricter.
    pub amount: f64,
}

/// What is meant, whether or not it is legal: `cpu_cores` is short for an amount of the CPU.
pub fn meant(throttle: &v1::Throttle) -> Meant {
    let resource = match Resource::try_from(throttle.resource) {
        Ok(Resource::Unspecified) => Resource::Cpu,
        Ok(resource) => resource,
        Err(_) => Resource::Unspecified,
    };
    let short = resource == Resource::Cpu && throttle.cpu_cores != 0.0;
    Meant { resource, amount: if short { throttle.cpu_cores } else { throttle.amount } }
}

/// What is meant, where it is legal. Whether it is possible is for the sidecar to find out.
pub fn checked(throttle: &v1::Throttle) -> Result<Meant, String> {
    let meant = meant(throttle);
    let Meant { resource, amount } = meant;
    let other = throttle.amount != 0.0 && throttle.amount.total_cmp(&amount).is_ne();
    if resource == Resource::Cpu && other {
        return Err("cpu_cores and amount differ: give one of them".into());
    }
    if resource != Resource::Cpu && throttle.cpu_cores != 0.0 {
        return Err("cpu_cores is for the CPU alone: give the amount".into());
    }
    amount_of(resource, amount)?;
    if throttle.for_ms == 0 || throttle.for_ms > FOR_MAX_MS {
        return Err("for_ms is above 0 and at most 7 days: every throttle ends by itself".into());
    }
    if resource == Resource::Freeze && throttle.for_ms > FREEZE_MAX_MS {
        let most = FREEZE_MAX_MS / 1_000;
        return Err(format!("a freeze is short, at most {most} s: hold the CPU for longer than that"));
    }
    if throttle.ttl_ms > FOR_MAX_MS {
        return Err("ttl_ms is at most 7 days".into());
    }
    Ok(meant)
}

/// Whether this is an amount of that resource that anything may be held at.
pub fn amount_of(resource: Resource, amount: f64) -> Result<(), String> {
    let word = word(resource);
    if !amount.is_finite() || amount > AMOUNT_MAX {
        return Err(format!("{word}: {amount} is no amount"));
    }
    match resource {
        Resource::Cpu if amount < CPU_FLOOR - ROUNDING => {
            Err(format!("cpu: {amount} cores: an agent is never held below {CPU_FLOOR} cores, 10 % of a core"))
        }
        Resource::Pids if amount < 1.0 || amount.fract() != 0.0 => {
            Err(format!("pids: {amount}: give a whole number of processes and threads, at least 1"))
        }
        Resource::CpuWeight if !(1.0..=WEIGHT_MAX).contains(&amount) || amount.fract() != 0.0 => {
            Err(format!("weight: {amount}: give a whole number from 1 to {WEIGHT_MAX}; 100 is everybody's"))
        }
        Resource::Freeze if amount != 1.0 => Err(format!("freeze: {amount}: the amount of a freeze is 1")),
        Resource::Memory | Resource::Io if amount < 1.0 => Err(format!("{word}: {amount}: give bytes, above 0")),
        Resource::GpuPower | Resource::GpuClock if amount <= 0.0 => {
            Err(format!("{word}: {amount}: the amount is above 0"))
        }
        Resource::Disk | Resource::GpuMemory => {
            Err(format!("{word} cannot be held below an amount: only a quota of the plan can be set"))
        }
        Resource::Unspecified => Err("this resource is not known here: a newer pitwall may know it".into()),
        Resource::Cpu
        | Resource::Memory
        | Resource::Pids
        | Resource::Io
        | Resource::CpuWeight
        | Resource::Freeze
        | Resource::GpuPower
        | Resource::GpuClock => Ok(()),
    }
}

/// An amount with its unit, for people: `0.50 cores`, `1.0 GiB`, `200 processes`, `20.0 MB/s`.
pub fn shown(resource: Resource, amount: f64) -> String {
    match resource {
        Resource::Cpu => format!("{amount:.2} cores"),
        Resource::Memory | Resource::Disk | Resource::GpuMemory => bytes(amount),
        Resource::Pids => format!("{amount:.0} processes"),
        Resource::Io => rate(amount),
        Resource::CpuWeight => format!("weight {amount:.0}"),
        Resource::Freeze => "frozen".into(),
        Resource::GpuPower => format!("{amount:.0} W"),
        Resource::GpuClock => format!("{amount:.0} MHz"),
        Resource::Unspecified => format!("{amount}"),
    }
}

/// Without a unit where the resource says it already: `asked 0.50, measured 0.49`.
pub fn brief(resource: Resource, amount: f64) -> String {
    if resource == Resource::Cpu { format!("{amount:.2}") } else { shown(resource, amount) }
}

fn bytes(value: f64) -> String {
    const KIB: f64 = 1024.0;
    match value {
        v if v >= KIB * KIB * KIB => format!("{:.1} GiB", v / (KIB * KIB * KIB)),
        v if v >= KIB * KIB => format!("{:.0} MiB", v / (KIB * KIB)),
        v => format!("{:.0} KiB", v / KIB),
    }
}

fn rate(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.1} GB/s", v / 1e9),
        v if v >= 1e6 => format!("{:.1} MB/s", v / 1e6),
        v => format!("{:.1} kB/s", v / 1e3),
    }
}

/// What of whom, for people: `cpu 0.50 cores`, `memory 1.0 GiB of next-server (pid 812)`.
pub fn of_whom(throttle: &v1::Throttle) -> String {
    let Meant { resource, amount } = meant(throttle);
    let what = match resource {
        Resource::Freeze => "freeze".into(),
        Resource::CpuWeight => format!("weight {amount:.0}"),
        _ => format!("{} {}", word(resource), shown(resource, amount)),
    };
    match &throttle.process {
        None => what,
        Some(p) if p.name.is_empty() => format!("{what} of pid {}", p.pid),
        Some(p) if p.pid == 0 => format!("{what} of {}", p.name),
        Some(p) => format!("{what} of {} (pid {})", p.name, p.pid),
    }
}

/// Whether somebody who says `name` may mean a process that the kernel calls `known`, which it cuts.
pub fn is_named(known: &str, name: &str) -> bool {
    let cut = |text: &str| text.floor_char_boundary(NAME_SHOWN);
    !name.is_empty() && (known == name || (name.len() > NAME_SHOWN && known == &name[..cut(name)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(resource: Resource, amount: f64) -> v1::Throttle {
        v1::Throttle { resource: resource as i32, amount, for_ms: 1_000, ..Default::default() }
    }

    #[test]
    fn cores_are_short_for_an_amount_of_the_cpu() {
        let short = |resource, cpu_cores, amount| v1::Throttle {
            cpu_cores,
            resource,
            amount,
            for_ms: 1_000,
            ..Default::default()
        };
        let cpu = |amount| Some(Meant { resource: Resource::Cpu, amount });
        let table = [
            (short(0, 0.5, 0.0), cpu(0.5)),
            (short(1, 0.5, 0.0), cpu(0.5)),
            (short(1, 0.0, 0.5), cpu(0.5)),
            (short(0, 0.0, 0.5), cpu(0.5)),
            (short(1, 0.5, 0.5), cpu(0.5)),
            (short(1, 0.5, 0.7), None),
            (short(0, 0.0, 0.0), None),
            (short(2, 0.5, 1e9), None),
            (short(2, 0.0, 1e9), Some(Meant { resource: Resource::Memory, amount: 1e9 })),
            (short(99, 0.5, 0.5), None),
        ];
        for (throttle, expected) in table {
            assert_eq!(checked(&throttle).ok(), expected, "{throttle:?}");
        }
    }

    #[test]
    fn amounts_that_are_legal() {
        use Resource as R;
        let legal = [
            (R::Cpu, 0.1),
            (R::Cpu, 64.0),
            (R::Memory, 1.0),
            (R::Memory, 4e9),
            (R::Pids, 1.0),
            (R::Io, 2e7),
            (R::CpuWeight, 1.0),
            (R::CpuWeight, 10_000.0),
            (R::Freeze, 1.0),
            (R::GpuPower, 0.5),
            (R::GpuClock, 900.0),
        ];
        for (resource, amount) in legal {
            assert_eq!(checked(&throttle(resource, amount)), Ok(Meant { resource, amount }));
        }
        let illegal = [
            (R::Cpu, 0.09, "never held below"),
            (R::Cpu, f64::NAN, "no amount"),
            (R::Cpu, -1.0, "never held below"),
            (R::Memory, 0.0, "above 0"),
            (R::Memory, f64::INFINITY, "no amount"),
            (R::Memory, 1e18, "no amount"),
            (R::Pids, 0.0, "at least 1"),
            (R::Pids, 1.5, "whole number"),
            (R::Io, -1.0, "above 0"),
            (R::CpuWeight, 0.0, "from 1 to 10000"),
            (R::CpuWeight, 10_001.0, "from 1 to 10000"),
            (R::Freeze, 0.5, "is 1"),
            (R::GpuPower, 0.0, "above 0"),
            (R::GpuClock, -900.0, "above 0"),
            (R::Disk, 1e9, "quota"),
            (R::GpuMemory, 1e9, "quota"),
        ];
        for (resource, amount, why) in illegal {
            let said = checked(&throttle(resource, amount)).expect_err(why);
            assert!(said.contains(why), "{resource:?} {amount}: {said}");
        }
    }

    #[test]
    fn times_end_and_a_freeze_soon() {
        let held = |resource, amount, for_ms| checked(&v1::Throttle { for_ms, ..throttle(resource, amount) });
        assert!(held(Resource::Cpu, 0.5, 0).is_err());
        assert!(held(Resource::Cpu, 0.5, FOR_MAX_MS).is_ok());
        assert!(held(Resource::Cpu, 0.5, FOR_MAX_MS + 1).is_err());
        assert!(held(Resource::Freeze, 1.0, FREEZE_MAX_MS).is_ok());
        assert!(held(Resource::Freeze, 1.0, FREEZE_MAX_MS + 1).is_err());
        let renewed_never = v1::Throttle { ttl_ms: FOR_MAX_MS + 1, ..throttle(Resource::Cpu, 0.5) };
        assert!(checked(&renewed_never).is_err());
    }

    #[test]
    fn words_and_capabilities() {
        for (resource, known) in RESOURCES {
            assert_eq!((word(resource), of_word(known)), (known, Some(resource)));
        }
        assert_eq!(of_word("disk"), None);
        assert_eq!(capability(Resource::GpuPower, ""), "throttle.gpu-power");
        assert_eq!(capability(Resource::Memory, "cgroup1"), "throttle.memory.cgroup1");
    }

    #[test]
    fn what_people_read() {
        let process = v1::ProcessIdentity { pid: 812, start_ticks: 1, name: "next-server".into() };
        let of = |resource, amount| of_whom(&throttle(resource, amount));
        assert_eq!(of(Resource::Cpu, 0.5), "cpu 0.50 cores");
        assert_eq!(of(Resource::Memory, 1024.0 * 1024.0 * 1024.0), "memory 1.0 GiB");
        assert_eq!(of(Resource::Io, 2e7), "io 20.0 MB/s");
        assert_eq!(of(Resource::CpuWeight, 10.0), "weight 10");
        assert_eq!(of(Resource::Freeze, 1.0), "freeze");
        let one = v1::Throttle { process: Some(process), ..throttle(Resource::Pids, 20.0) };
        assert_eq!(of_whom(&one), "pids 20 processes of next-server (pid 812)");
        assert!(is_named("next-server", "next-server") && !is_named("next-server", "next"));
        assert!(is_named("a-name-too-long", "a-name-too-long-for-the-kernel") && !is_named("", ""));
    }
}
