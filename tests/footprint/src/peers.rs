//! What else measures processes once a second: those that are installed run beside the sidecar, at the same cadence, and
//! are measured in the same way. They look at every process that they see, so they see the agent's alone: where that can
//! be had the agent is in a pid namespace of its own (`wrap`), and they are started in there.
//!
//! `install` unpacks Debian's packages and a virtual environment into a cache of its own; nothing is installed.
use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use rustix::process::{Pid, Signal, kill_process};

use crate::meter;

const PACKAGES: [&str; 4] = ["collectd-core", "libltdl7", "prometheus-node-exporter", "prometheus-process-exporter"];
const SCRAPE_WITHIN: Duration = Duration::from_secs(2);
const SCRAPE_MAX: u64 = 8 << 20;

/// Every process of the machine once a second, with what a table of processes shows.
const PSUTIL: &str = "
import psutil, time
next = time.monotonic()
while True:
    for p in psutil.process_iter(['pid', 'name', 'cpu_times', 'memory_info', 'num_threads']): pass
    psutil.cpu_times(); psutil.virtual_memory()
    next += 1
    time.sleep(max(0, next - time.monotonic()))
";

fn cache() -> PathBuf {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/pitwall-peers"));
    env::var_os("PITWALL_PEERS_CACHE").map(PathBuf::from).or_else(home).unwrap_or_else(|| "/tmp/pitwall-peers".into())
}

/// Fetches what is not there. What cannot be had is told, and is missing in the table.
pub fn install() -> Result<()> {
    let cache = cache();
    fs::create_dir_all(&cache)?;
    if !cache.join("debian").exists() {
        let fresh = tempfile::tempdir_in(&cache)?;
        let fetched =
            run(Command::new("apt-get").arg("download").args(PACKAGES).current_dir(fresh.path())).and_then(|()| {
                for entry in
                    fs::read_dir(fresh.path())?.flatten().filter(|e| e.path().extension().is_some_and(|e| e == "deb"))
                {
                    run(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(fresh.path().join("root")))?;
                }
                Ok(fs::rename(fresh.path().join("root"), cache.join("debian"))?)
            });
        if let Err(why) = fetched {
            eprintln!("collectd and the exporters cannot be had here: {why:#}");
        }
    }
    let venv = cache.join("venv");
    if !venv.join("bin/python").exists() {
        let made = run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).and_then(|()| {
            run(Command::new(venv.join("bin/pip")).args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "psutil",
            ]))
        });
        if let Err(why) = made {
            eprintln!("psutil cannot be had here: {why:#}");
            fs::remove_dir_all(&venv).ok();
        }
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} cannot be started"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The agent's command with a pid namespace and a `/proc` of its own around it, where this machine lets us.
pub fn wrap(command: Vec<String>) -> (Vec<String>, bool) {
    const AROUND: [&str; 4] = ["unshare", "--pid", "--fork", "--mount-proc"];
    let can = Command::new(AROUND[0]).args(&AROUND[1..]).arg("true").stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        return (command, false);
    }
    let mut words = command.into_iter();
    // The first says that a command follows.
    let wrapped = words.next().into_iter().chain(AROUND.map(str::to_owned)).chain(words);
    (wrapped.collect(), true)
}

/// Where peers are started.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// For their files.
    pub dir: &'a Path,
    /// The process whose namespaces they share; `None`: this one's.
    pub inside: Option<u32>,
}

/// One that runs. Ends with its guard.
pub struct Peer {
    pub name: &'static str,
    child: Child,
    /// Its own, where what we started is the way into a namespace.
    pid: u32,
    scraped_at: Option<SocketAddr>,
    pub scrapes: u32,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // In another namespace it does not end with what we started.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    fn start(
        name: &'static str,
        command: &Command,
        scraped_at: Option<SocketAddr>,
        inside: Option<u32>,
    ) -> Result<Self> {
        let mut started = Command::new(inside.map_or(command.get_program(), |_| "nsenter".as_ref()));
        if let Some(pid) = inside {
            started.args(["--target", &pid.to_string(), "--pid", "--mount", "--"]).arg(command.get_program());
        }
        started.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        started.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = started.spawn().with_context(|| format!("{name} cannot be started"))?;
        let mut peer = Self { name, pid: child.id(), child, scraped_at, scrapes: 0 };
        // Whatever is wrong with it shows at once.
        std::thread::sleep(Duration::from_millis(500));
        if let Some(status) = peer.child.try_wait()? {
            bail!("{name} ended at once: {status}");
        }
        if inside.is_some() {
            peer.pid = *meter::family(peer.pid).get(1).with_context(|| format!("{name} is in no namespace"))?;
        }
        Ok(peer)
    }

    pub fn cpu_ns(&self) -> Option<u64> {
        meter::cpu_ns(self.pid)
    }

    pub fn memory(&self) -> Option<(u64, u64)> {
        meter::memory(self.pid)
    }

    /// Asks an exporter, as Prometheus would; the others need no asking.
    pub fn scrape(&mut self) -> Result<()> {
        if let Some(address) = self.scraped_at {
            let mut stream = TcpStream::connect_timeout(&address, SCRAPE_WITHIN)?;
            stream.set_read_timeout(Some(SCRAPE_WITHIN))?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.take(SCRAPE_MAX).read_to_end(&mut answer)?;
            ensure!(answer.starts_with(b"HTTP/1.") && answer.len() > 1_000, "{} answered nothing", self.name);
        }
        self.scrapes += 1;
        Ok(())
    }
}

/// All that are installed; what is missing and why is the second.
pub fn start(place: Place<'_>) -> (Vec<Peer>, Vec<String>) {
    let debian = cache().join("debian");
    let started = [
        collectd(&debian, place),
        exporter("node_exporter", &debian, ("prometheus-node-exporter", "--web.listen-address"), None, place),
        process_exporter(&debian, place),
        psutil(&cache().join("venv"), place),
    ];
    let mut peers = Vec::new();
    let mut missing = Vec::new();
    for peer in started {
        match peer {
            Ok(peer) => peers.push(peer),
            Err(why) => missing.push(format!("{why:#}")),
        }
    }
    (peers, missing)
}

fn there(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.exists(), "{} is not there (--install-peers)", path.display());
    Ok(path)
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn collectd(debian: &Path, place: Place<'_>) -> Result<Peer> {
    let program = there(debian.join("usr/sbin/collectd"))?;
    let home = place.dir.join("collectd");
    fs::create_dir_all(&home)?;
    let plugins: String =
        ["cpu", "memory", "load", "processes", "csv"].iter().map(|name| format!("LoadPlugin {name}\n")).collect();
    let config = format!(
        "BaseDir \"{0}\"\nPluginDir \"{1}/usr/lib/collectd\"\nTypesDB \"{1}/usr/share/collectd/types.db\"\nInterval 1\n\
         {plugins}<Plugin processes>\n  ProcessMatch \"crowd\" \"part member\"\n</Plugin>\n\
         <Plugin csv>\n  DataDir \"{0}/csv\"\n</Plugin>\n",
        home.display(),
        debian.display()
    );
    let file = home.join("collectd.conf");
    fs::write(&file, config)?;
    let libraries = debian.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(program);
    command.arg("-f").arg("-C").arg(file).arg("-P").arg(home.join("pid")).env("LD_LIBRARY_PATH", libraries);
    Peer::start("collectd", &command, None, place.inside)
}

fn exporter(
    name: &'static str,
    debian: &Path,
    (program, listen): (&str, &str),
    config: Option<&Path>,
    place: Place<'_>,
) -> Result<Peer> {
    let program = there(debian.join("usr/bin").join(program))?;
    let address = free_port()?;
    let mut command = Command::new(program);
    command.arg(listen).arg(address.to_string());
    if let Some(config) = config {
        command.arg("-config.path").arg(config);
    }
    Peer::start(name, &command, Some(address), place.inside)
}

fn process_exporter(debian: &Path, place: Place<'_>) -> Result<Peer> {
    let config = place.dir.join("process-exporter.yaml");
    fs::write(&config, "process_names:\n  - name: \"{{.Comm}} {{.PID}}\"\n    cmdline: ['.+']\n")?;
    let program = ("prometheus-process-exporter", "-web.listen-address");
    exporter("process_exporter", debian, program, Some(&config), place)
}

fn psutil(venv: &Path, place: Place<'_>) -> Result<Peer> {
    let python = there(venv.join("bin/python"))?;
    Peer::start("psutil", Command::new(python).args(["-c", PSUTIL]), None, place.inside)
}
