//! `pitwall-sidecar doctor`: what works in this place, what does not, why, and what would change it. Looks, and acts on
//! nobody; `judge` holds the words, this file the looks. Takes the options and variables of the sidecar itself, so that
//! `docker exec SIDECAR pitwall-sidecar doctor` needs none.
mod judge;

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    net::{TcpStream, ToSocketAddrs as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser as _;
use pitwall_proto::v1;
use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

use self::judge::{Folder, Neighbourhood, Seen, judge};
use crate::{
    act::{self, Actor, AgentTarget},
    args,
    sample::{Sampler, procfs::ProcFs},
};

pub const NAME: &str = "doctor";
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const ALL_WORKS: u8 = 0;
const SOMETHING_DOES_NOT: u8 = 1;

/// The sidecar's own command line, with another word before it.
pub struct Args(args::Args);

impl Args {
    /// Ends the process with help or a mistake, as clap does.
    pub fn parse_from(words: &[OsString]) -> Self {
        let program = OsString::from("pitwall-sidecar doctor");
        Self(args::Args::parse_from(std::iter::once(&program).chain(words.iter().skip(1))))
    }
}

/// The exit code: 0 where all that the sidecar is for works.
pub fn run(Args(args): Args) -> u8 {
    let args = match args.checked() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("pitwall-sidecar doctor: {error}");
            return SOMETHING_DOES_NOT;
        }
    };
    let found = judge(&look(&args));
    // Whoever closed the pipe does not read the rest.
    let _ = std::io::stdout().lock().write_all(judge::told(&found).as_bytes());
    if found.iter().any(|f| f.severe()) { SOMETHING_DOES_NOT } else { ALL_WORKS }
}

fn look(args: &args::Args) -> Seen {
    let (exits, _) = tokio::sync::mpsc::channel(1);
    let actor =
        crate::run::agent(args).and_then(|config| Actor::new(act::Config { only_looks: true, ..config }, exits));
    let target = crate::run::target(args);
    let (neighbourhood, capabilities, means, started) = match actor {
        Ok(actor) => {
            if target == AgentTarget::Command {
                // What it would say of a record that cannot be read, the sidecar itself says.
                let _ = actor.find_started();
            }
            let mut sampler = Sampler::new(actor.agent());
            // The root is chosen by a look, and by it the agent's cgroup.
            sampler.sample();
            let mut capabilities = actor.probe_again();
            capabilities.extend(sampler.capabilities());
            (neighbourhood(&actor), capabilities, sampler.means(), Ok(()))
        }
        Err(error) => (Neighbourhood::default(), Vec::<v1::Capability>::new(), Vec::new(), Err(format!("{error:#}"))),
    };
    Seen {
        beside: target == AgentTarget::Beside,
        starts: target == AgentTarget::Command,
        started,
        neighbourhood,
        capabilities,
        means,
        effective: act::effective_capabilities().unwrap_or(0),
        uid: rustix::process::getuid().as_raw(),
        workspace: folder(&args.workspace),
        inbox: folder(&args.inbox),
        state: folder(&args.state),
        orchestrator: reach(&args.orchestrator),
        orchestrator_url: args.orchestrator.clone(),
        token: args.join_token_file.as_deref().map(|file| fs::read(file).map(drop).map_err(|e| e.to_string())),
        joined: args.insecure || args.state.join("identity.json").is_file(),
    }
}

fn neighbourhood(actor: &Actor) -> Neighbourhood {
    let agent = actor.agent();
    let mut stats = Vec::new();
    let mut proc = ProcFs::default();
    agent.processes(&mut proc, &mut stats);
    let view = agent.view();
    let root = view.root.clone().filter(|_| !stats.is_empty());
    let status = |pid: i32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    Neighbourhood {
        processes: stats.len(),
        holding: if view.beside.is_some() { agent.holding() } else { 0 },
        root_uid: root.as_ref().and_then(|r| {
            status(r.pid).lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
        }),
        root_io: root.as_ref().map(|r| proc.io(r.pid).is_some()),
        root: root.map(|r| format!("{} (pid {})", r.name, r.pid)),
        leaf: view.places.directories().first().map(|d| d.display().to_string()),
        memory_limit: memory_limit(&view.places),
    }
}

/// `Some(None)`: it has none.
fn memory_limit(places: &crate::sample::cgroup::Places) -> Option<Option<u64>> {
    let (directory, file) = match (&places.memory, &places.v2) {
        (Some(v1), _) => (v1, "memory.limit_in_bytes"),
        (None, Some(v2)) => (v2, "memory.max"),
        (None, None) => return None,
    };
    let text = fs::read_to_string(directory.join(file)).ok()?;
    // v1 says "no limit" by a number that no machine has.
    Some(text.trim().parse::<u64>().ok().filter(|bytes| *bytes < 1 << 60))
}

fn folder(path: &Path) -> Folder {
    let read_only = statvfs(path).is_ok_and(|vfs| vfs.f_flag.contains(StatVfsMountFlags::RDONLY));
    Folder {
        path: path.to_owned(),
        there: path.is_dir(),
        writable: !read_only && access(path, Access::WRITE_OK).is_ok(),
        own_mount: is_mount(path),
    }
}

/// A directory of the container's own writable layer is gone with the container.
fn is_mount(path: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<PathBuf> = text.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from).collect();
    path.ancestors().take_while(|p| *p != Path::new("/")).any(|p| points.iter().any(|point| point == p))
}

fn reach(url: &str) -> Result<(), String> {
    let uri: http::Uri = url.parse().map_err(|_| "it is no URL".to_owned())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let addresses = (host.as_str(), port).to_socket_addrs().map_err(|e| format!("{host} cannot be resolved: {e}"))?;
    let mut why = format!("{host} has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
            Ok(_) => return Ok(()),
            Err(error) => why = format!("{address}: {error}"),
        }
    }
    Err(why)
}
