//! What else measures processes once a second: those that are installed run beside the sidecar, at the same cadence, and
//! are measured in the same way. They look at every process of the machine, the sidecar at its agent's: that is told too.
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
        let fetched = run(Command::new("apt-get").arg("download").args(PACKAGES).current_dir(fresh.path()))
            .and_then(|()| {
                for entry in fs::read_dir(fresh.path())?.flatten().filter(|e| e.path().extension().is_some_and(|e| e == "deb")) {
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
            run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", "psutil"]))
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

/// One that runs. Ends with its guard.
pub struct Peer {
    pub name: &'static str,
    child: Child,
    scraped_at: Option<SocketAddr>,
    pub scrapes: u32,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    fn start(name: &'static str, command: &mut Command, scraped_at: Option<SocketAddr>) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let mut peer = Self { name, child, scraped_at, scrapes: 0 };
        // Whatever is wrong with it shows at once.
        std::thread::sleep(Duration::from_millis(500));
        if let Some(status) = peer.child.try_wait()? {
            bail!("{name} ended at once: {status}");
        }
        Ok(peer)
    }

    pub fn cpu_ns(&self) -> Option<u64> {
        meter::cpu_ns(self.child.id())
    }

    pub fn memory(&self) -> Option<(u64, u64)> {
        meter::memory(self.child.id())
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
pub fn start(dir: &Path) -> (Vec<Peer>, Vec<String>) {
    let debian = cache().join("debian");
    let started = [
        collectd(&debian, dir),
        exporter("node_exporter", &debian, "prometheus-node-exporter", &["--web.listen-address"], None),
        process_exporter(&debian, dir),
        psutil(&cache().join("venv")),
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

fn collectd(debian: &Path, dir: &Path) -> Result<Peer> {
    let program = there(debian.join("usr/sbin/collectd"))?;
    let home = dir.join("collectd");
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
    Peer::start("collectd", &mut command, None)
}

fn exporter(
    name: &'static str,
    debian: &Path,
    program: &str,
    listen: &[&str],
    config: Option<&Path>,
) -> Result<Peer> {
    let program = there(debian.join("usr/bin").join(program))?;
    let address = free_port()?;
    let mut command = Command::new(program);
    command.args(listen).arg(address.to_string());
    if let Some(config) = config {
        command.arg("-config.path").arg(config);
    }
    Peer::start(name, &mut command, Some(address))
}

fn process_exporter(debian: &Path, dir: &Path) -> Result<Peer> {
    let config = dir.join("process-exporter.yaml");
    fs::write(&config, "process_names:\n  - name: \"{{.Comm}} {{.PID}}\"\n    cmdline: ['.+']\n")?;
    exporter("process_exporter", debian, "prometheus-process-exporter", &["-web.listen-address"], Some(&config))
}

fn psutil(venv: &Path) -> Result<Peer> {
    let python = there(venv.join("bin/python"))?;
    Peer::start("psutil", Command::new(python).args(["-c", PSUTIL]), None)
}
