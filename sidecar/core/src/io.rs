//! What goes into the sidecar's core and what comes out: the whole contract with the shell.
//!
//! The shell hands in `(now, Input)` and carries out the returned actions in order, holding no rule. Whatever may
//! be seen outside (a frame, an effect) waits behind `Persist`: only `Input::Persisted` releases it. Nothing calls
//! back: results of probes and effects, closed streams and failed writes come in as inputs.
use pitwall_proto::v1;

/// What the clocks say. Windows and deadlines are counted on boot time (suspend counts); wall time is annotation,
/// and bridges a host reboot, where ages are marked estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on CLOCK_BOOTTIME.
    pub boot_ms: u64,
    /// Unix milliseconds.
    pub wall_ms: i64,
}

/// One stream; given out by the core, never reused in a process.
pub type SessionId = u64;
/// One effect; given out by the core, never reused in a process.
pub type EffectId = u64;

/// What is fixed for a process of the sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Empty: whatever the orchestrator serves.
    pub project: String,
    pub agent: String,
    /// A fresh random instance id, used only where the state directory holds none.
    pub fresh_instance: String,
    pub version: String,
    /// With the boot id; its figures are refreshed by samples.
    pub host: v1::HostUsage,
    pub capabilities: Vec<v1::Capability>,
    /// Where the state directory lies, as one word: another one for a directory that was moved or copied. Empty: not known.
    pub place: String,
    /// For jitter.
    pub seed: u64,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "samples are by far the most frequent ones")]
pub enum Input {
    /// Once, after `Core::recover`.
    Started,
    /// A frame of the open stream, in order.
    Received { session: SessionId, frame: v1::ConnectResponse },
    /// The stream could not be opened, or ended. `refusal` is the `ErrorInfo` reason, where the other side gave one.
    Closed { session: SessionId, why: String, refusal: Option<String> },
    /// Batch `batch` is durable, and so are all before it.
    Persisted { batch: u64 },
    /// It could not be written, nothing of it may be relied on. The core asks again.
    PersistFailed { batch: u64, why: String },
    /// What a probe saw.
    Observed(Observation),
    /// Files below the workspace that were created, modified or removed since the last input of this kind, by the
    /// reconciling walk and by hints. Without `.pitwall/` and the inbox. At most [`CHANGES_MAX`], `more` counts the rest.
    FilesChanged { paths: Vec<String>, more: u32 },
    /// The workspace came or went.
    Workspace { present: bool, reason: String },
    /// `.pitwall/claim.json` changed. `Err` tells why it cannot be read; then the old claim stands.
    Claim(Result<v1::Claim, String>),
    /// One measurement of the agent, at the plan's pace.
    Sampled(Sample),
    /// Command lines of the agent's processes, by pid and start time: those whose names changed or that are new since the
    /// last input of this kind are in it, and all others that are still alive. Only while the plan asks for any.
    CommandLines(Vec<(v1::ProcessIdentity, String)>),
    /// What lies in the workspace, in bytes; `None`: it could not be walked as a whole.
    WorkspaceUsed(Option<u64>),
    /// A child that the sidecar started itself ended.
    ChildExited { root: v1::ProcessIdentity, code: Option<i32>, signal: Option<i32> },
    /// The outcome of an effect.
    Done { effect: EffectId, outcome: EffectOutcome },
    /// SIGTERM or SIGINT: end the agent that this sidecar started (TERM, grace, KILL), undo leases, say so, stop.
    Stop,
    /// A deadline may have passed.
    Tick,
}

/// Paths in one `FilesChanged`.
pub const CHANGES_MAX: usize = 1_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Append these bytes to the state file and make them durable, then say `Persisted` or `PersistFailed`.
    Persist {
        batch: u64,
        bytes: Vec<u8>,
    },
    /// Replace the whole state file by these bytes, atomically and durably; answered the same way.
    Rewrite {
        batch: u64,
        bytes: Vec<u8>,
    },
    /// Open a stream, and send this as its first frame. Frames come back as `Received`, its end as `Closed`.
    Connect {
        session: SessionId,
        hello: v1::ConnectRequest,
    },
    Send {
        session: SessionId,
        frame: v1::ConnectRequest,
    },
    /// End the stream from this side; no `Closed` follows.
    Disconnect {
        session: SessionId,
    },
    /// Make this check once and say `Observed`. At most one of a check is under way. Without a deliverable it is a check
    /// of the agent's health.
    Probe {
        deliverable: String,
        check: Box<v1::Check>,
    },
    /// The part of the plan that holds from now on: what to watch, how often to sample and to walk.
    Adopt {
        plan: Box<v1::AgentPlan>,
    },
    /// Carry this out and say `Done`.
    Do {
        effect: EffectId,
        what: Effect,
    },
    /// Start the agent, where this sidecar starts one and none is alive: what was held back at the start
    /// (`Core::starts_agent_at_once`).
    StartAgent,
    /// The operator should read this on stderr.
    Log {
        severe: bool,
        text: String,
    },
    /// Everything is undone and said: end the process with this code.
    Exit {
        code: u8,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    pub deliverable: String,
    pub check_id: String,
    /// Of the rule that was tried.
    pub check_digest: String,
    pub outcome: v1::Outcome,
    pub evidence: v1::Evidence,
}

/// One measurement. `None` is "not measured", never 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// What the rates cover; 0: the first sample, which has none.
    pub interval_ms: u32,
    /// The agent's root process; `None`: no process of the agent is alive.
    pub root: Option<v1::ProcessIdentity>,
    /// Every process of the agent, largest CPU first.
    pub processes: Vec<v1::ProcessUsage>,
    pub agent: v1::Usage,
    /// Out-of-memory kills in the agent's cgroup since the last sample.
    pub oom_kills: Option<u64>,
    /// Share of the interval in which the agent waited for a resource: its own PSI `some`, or run-queue wait. 0 to 1.
    pub stall_share: Option<f64>,
    pub host: v1::HostUsage,
    pub gpus: Vec<v1::GpuUsage>,
    /// The sidecar's own use.
    pub sidecar: v1::Usage,
    /// How it was measured, and what the kernel counts for the agent as a whole.
    pub meter: v1::Meter,
}

/// Something done to the agent or its inbox. Carried out once; the outcome is exact or says what is not known.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Put a file into the inbox: written beside it, synced, renamed. An existing file of the same name and content
    /// is success (a redelivery), of other content an error.
    PutDirective { file_name: String, text: String },
    /// Find out where a limit would be written and what stands there now. Changes nothing.
    Examine { slot: Slot, amount: f64 },
    /// Bring a limit into effect that was examined and is in the state file by now.
    Hold(Hold),
    /// Is the value at its place still ours? Changes nothing, except that a duty cycle is taken up again.
    Verify(Hold),
    /// Put the old value back, where the value is still ours.
    Release(Hold),
    /// TERM, grace, KILL for one process; pid and start time must both match, and it must belong to the agent.
    /// `tree`: it and its descendants, those included that are born meanwhile.
    Kill { process: v1::ProcessIdentity, grace_ms: u32, tree: bool },
    /// Start the launch command. Rejected by the core where the capability `launch` is absent.
    Launch,
    /// End every process of the agent: TERM to the root, grace, KILL to what is left.
    EndAgent { root: v1::ProcessIdentity, grace_ms: u32 },
    /// Remove what the sidecar made for an agent that it started (its cgroup); at `Stop` only.
    CleanUp,
}

#[derive(Clone, Debug, PartialEq)]
pub enum EffectOutcome {
    /// `detail` is for people: "inbox/URGENT-c3.md, 212 bytes", "pid 812 ended on TERM after 40 ms".
    Ok {
        detail: String,
    },
    /// What was not done, why, and what would enable it.
    Failed {
        why: String,
    },
    Examined(Hold),
    Verified(HoldState),
    Released(HoldState),
    Launched {
        root: v1::ProcessIdentity,
    },
}

/// What is limited: one limit at most is in effect for each slot, the strictest of its leases.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    pub resource: v1::Resource,
    /// This process alone; `None`: the whole agent.
    pub process: Option<v1::ProcessIdentity>,
    /// The rung that was asked for; empty: the best that is there.
    pub via: String,
}

/// One limit at one place, as it is in the state file before it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    pub slot: Slot,
    /// "cgroup2", "cgroup1", "duty-cycle" …
    pub rung: String,
    /// The cgroup directory, the root pid for a duty cycle, the process for affinity and nice, the device of a GPU.
    pub place: String,
    /// Inode of the cgroup directory, or start ticks of the root: another one is another place.
    pub inode: u64,
    pub boot_id: String,
    /// As the files hold them, one line each for v1's quota and period.
    pub old: String,
    pub new: String,
    /// What was asked for, in the unit of the slot's resource.
    pub amount: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum HoldState {
    /// The value is (or was, before the release) ours.
    Ours,
    /// Somebody else changed it; it was left alone. What is there.
    Foreign(String),
    /// The place is gone: another inode, another boot, or no process.
    Gone,
}
