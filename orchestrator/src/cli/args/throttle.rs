//! What may be typed to hold an agent, to let it go, and to end a process of it.
use clap::{ArgGroup, Args, ValueEnum};
use pitwall_proto::v1::{self, Resource};

use super::{Issue, amount};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true)
    .args(["cpu", "memory", "pids", "io", "weight", "freeze", "gpu_power", "gpu_clock"]))]
pub struct Throttle {
    #[arg(value_name = "AGENT")]
    pub agent: String,
    /// Cores, as 0.5, or a share of one core, as 50%
    #[arg(long, value_name = "CORES", value_parser = amount::cores)]
    pub cpu: Option<f64>,
    /// Memory, as 1GiB or 800MB: never below what is in use
    #[arg(long, value_name = "BYTES", value_parser = amount::bytes)]
    pub memory: Option<f64>,
    /// Processes and threads
    #[arg(long, value_name = "N", value_parser = amount::pids)]
    pub pids: Option<f64>,
    /// Bytes per second, read and written each, as 20MB/s
    #[arg(long, value_name = "RATE", value_parser = amount::rate)]
    pub io: Option<f64>,
    /// Share of the CPU against others of the same host: 1 to 10000, 100 is everybody's
    #[arg(long, value_name = "N", value_parser = amount::weight)]
    pub weight: Option<f64>,
    /// Nothing of it runs, for at most 60s
    #[arg(long)]
    pub freeze: bool,
    /// Watts, for each GPU that it uses, as 200W
    #[arg(long, value_name = "POWER", value_parser = amount::watts)]
    pub gpu_power: Option<f64>,
    /// Highest clock of each GPU that it uses, as 900MHz
    #[arg(long, value_name = "CLOCK", value_parser = amount::megahertz)]
    pub gpu_clock: Option<f64>,
    /// How long in all
    #[arg(long = "for", value_name = "DURATION", value_parser = amount::duration_ms)]
    pub for_ms: u32,
    /// This process alone, with what it starts from then on; its pid or its name, as `pitwall hosts` shows them
    #[arg(long, value_name = "PID|NAME", value_parser = amount::process)]
    pub process: Option<v1::ProcessIdentity>,
    /// The rung to use, as `pitwall doctor` names them: cgroup1 of throttle.cpu.cgroup1 [default: the best that is there]
    #[arg(long, value_name = "RUNG", default_value = "", hide_default_value = true)]
    pub via: String,
    /// Undone when the orchestrator did not renew it for so long [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = amount::duration_ms)]
    pub ttl: Option<u32>,
    #[command(flatten)]
    pub issue: Issue,
}

impl Throttle {
    /// One for each resource, in the order of the help.
    pub fn throttles(&self) -> Vec<v1::Throttle> {
        let asked = [
            (Resource::Cpu, self.cpu),
            (Resource::Memory, self.memory),
            (Resource::Pids, self.pids),
            (Resource::Io, self.io),
            (Resource::CpuWeight, self.weight),
            (Resource::Freeze, self.freeze.then_some(1.0)),
            (Resource::GpuPower, self.gpu_power),
            (Resource::GpuClock, self.gpu_clock),
        ];
        let one = |(resource, amount): (Resource, Option<f64>)| {
            let amount = amount?;
            let cpu = resource == Resource::Cpu;
            Some(v1::Throttle {
                // As an older orchestrator knows it.
                cpu_cores: if cpu { amount } else { 0.0 },
                resource: resource as i32,
                amount: if cpu { 0.0 } else { amount },
                for_ms: self.for_ms,
                ttl_ms: self.ttl.unwrap_or_default(),
                process: self.process.clone(),
                via: self.via.clone(),
            })
        };
        asked.into_iter().filter_map(one).collect()
    }
}

#[derive(Debug, Args)]
pub struct Unthrottle {
    #[arg(value_name = "AGENT")]
    pub agent: String,
    /// Only of this resource [default: all]
    #[arg(long, value_enum, value_name = "RESOURCE")]
    pub resource: Option<Held>,
    #[command(flatten)]
    pub issue: Issue,
}

/// What can be held, in the words of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Held {
    Cpu,
    Memory,
    Pids,
    Io,
    Weight,
    Freeze,
    GpuPower,
    GpuClock,
}

impl Held {
    pub fn resource(self) -> Resource {
        match self {
            Self::Cpu => Resource::Cpu,
            Self::Memory => Resource::Memory,
            Self::Pids => Resource::Pids,
            Self::Io => Resource::Io,
            Self::Weight => Resource::CpuWeight,
            Self::Freeze => Resource::Freeze,
            Self::GpuPower => Resource::GpuPower,
            Self::GpuClock => Resource::GpuClock,
        }
    }
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whom").required(true).args(["process", "pid"]))]
pub struct Kill {
    #[arg(value_name = "AGENT")]
    pub agent: String,
    /// The process: its pid or its name, as `pitwall hosts` shows them
    #[arg(value_name = "PROCESS", value_parser = amount::process)]
    pub process: Option<v1::ProcessIdentity>,
    /// The same, by its pid alone
    #[arg(long, value_name = "N", value_parser = amount::pid)]
    pub pid: Option<i32>,
    /// And all processes that descend from it
    #[arg(long)]
    pub tree: bool,
    /// Its start time in clock ticks since boot (field 22 of /proc/N/stat), where the latest reading does not show it
    #[arg(long, value_name = "TICKS", default_value_t = 0, hide_default_value = true)]
    pub start_ticks: u64,
    /// Between TERM and KILL [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = amount::duration_ms)]
    pub grace: Option<u32>,
    #[command(flatten)]
    pub issue: Issue,
}

impl Kill {
    /// Without a start time the orchestrator fills it in from the latest reading, or refuses.
    pub fn kill(&self) -> v1::Kill {
        let asked = self.process.clone().unwrap_or_default();
        let process =
            v1::ProcessIdentity { pid: self.pid.unwrap_or(asked.pid), start_ticks: self.start_ticks, name: asked.name };
        v1::Kill { process: Some(process), grace_ms: self.grace.unwrap_or_default(), tree: self.tree }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use pitwall_proto::throttle;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn command(line: &str) -> Command {
        Cli::try_parse_from(line.split_whitespace()).expect(line).command
    }

    #[test]
    fn one_throttle_for_each_resource_with_its_amount_and_process() {
        let line = "pitwall throttle a --cpu 0.5 --memory 1GiB --pids 200 --io 20MB/s --weight 10 --freeze \
                    --gpu-power 200W --gpu-clock 900MHz --for 30s --process next-server --via cgroup1";
        let Command::Throttle(asked) = command(line) else { panic!("not a throttle") };
        let all = asked.throttles();
        let told: Vec<String> = all.iter().map(throttle::of_whom).collect();
        let expected = [
            "cpu 0.50 cores",
            "memory 1.0 GiB",
            "pids 200 processes",
            "io 20.0 MB/s",
            "weight 10",
            "freeze",
            "gpu-power 200 W",
            "gpu-clock 900 MHz",
        ]
        .map(|what| format!("{what} of next-server"));
        assert_eq!(told, expected);
        for one in &all {
            assert_eq!((one.for_ms, one.via.as_str()), (30_000, "cgroup1"));
            assert!(throttle::checked(one).is_ok(), "{one:?}");
        }
    }

    #[test]
    fn a_process_is_a_pid_or_a_name() {
        let killed = |line: &str| {
            let Command::Kill(asked) = command(line) else { panic!("not a kill") };
            let kill = asked.kill();
            let process = kill.process.expect("named");
            (process.pid, process.name, kill.tree)
        };
        assert_eq!(killed("pitwall kill a 4242 --tree"), (4242, String::new(), true));
        assert_eq!(killed("pitwall kill a next-server"), (0, "next-server".into(), false));
        assert_eq!(killed("pitwall kill a --pid 4242"), (4242, String::new(), false));
        for wrong in
            ["pitwall kill a", "pitwall kill a 12 --pid 13", "pitwall kill a 0", "pitwall throttle a --for 10s"]
        {
            assert!(Cli::try_parse_from(wrong.split_whitespace()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_of_an_unthrottle_are_those_of_capabilities() {
        for held in Held::value_variants() {
            let word = throttle::word(held.resource());
            let line = format!("pitwall unthrottle a --resource {word}");
            let Command::Unthrottle(asked) = command(&line) else { panic!("not an unthrottle") };
            assert_eq!(asked.resource, Some(*held), "{word}");
        }
    }
}
