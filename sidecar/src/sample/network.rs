//! Bytes on the network of an agent that has its own: where it shares the sidecar's or the host's, nothing there is its
//! alone, and nothing is told.
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::kept::{open, read_whole};
use super::parse::{Traffic, net_dev};
use super::procfs::ProcFs;

#[derive(Debug, Default)]
pub struct Network {
    of: Option<(i32, u64)>,
    file: Option<OwnedFd>,
    /// Why there is none.
    pub absent: Option<String>,
    last: Option<(Traffic, u64)>,
    buffer: Vec<u8>,
    /// Received and sent, bytes per second.
    pub rates: Option<(f64, f64)>,
}

impl Network {
    /// `process`: one of the agent, by pid and start time; `now_ns` on the boot-time clock.
    pub fn look(&mut self, proc: &ProcFs, process: Option<(i32, u64)>, now_ns: u64) {
        self.rates = None;
        if self.of != process {
            *self = Self { of: process, buffer: std::mem::take(&mut self.buffer), ..Self::default() };
            let Some((pid, _)) = process else { return };
            match own_devices(proc, pid) {
                Ok(file) => self.file = Some(file),
                Err(why) => self.absent = Some(why),
            }
        }
        let Some(file) = &self.file else { return };
        let now = read_whole(file, &mut self.buffer).ok().and_then(|()| net_dev(&self.buffer));
        if let (Some(now), Some((then, at))) = (now, self.last) {
            let seconds = now_ns.saturating_sub(at) as f64 / 1e9;
            // A device that was taken away takes its bytes with it.
            let grown = now.received.checked_sub(then.received).zip(now.sent.checked_sub(then.sent));
            self.rates = grown.filter(|_| seconds > 0.0).map(|(r, s)| (r as f64 / seconds, s as f64 / seconds));
        }
        self.last = now.map(|now| (now, now_ns));
    }
}

fn namespace(proc: &ProcFs, pid: i32) -> Option<PathBuf> {
    std::fs::read_link(proc.path_of(pid, "ns/net")).ok()
}

fn own_devices(proc: &ProcFs, pid: i32) -> Result<OwnedFd, String> {
    let its = namespace(proc, pid).ok_or("its network namespace may not be seen")?;
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    if namespace(proc, me).as_ref() == Some(&its) {
        return Err("it shares the sidecar's network".into());
    }
    // In the host's own pid namespace the first process has the host's network.
    if namespace(proc, 1).as_ref() == Some(&its) {
        return Err("it shares the host's network".into());
    }
    open(&proc.path_of(pid, "net/dev")).map_err(|e| format!("its network devices cannot be read: {e}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_agent_on_a_shared_network_has_no_traffic_of_its_own() {
        let mut network = Network::default();
        network.look(&ProcFs::default(), Some((std::process::id() as i32, 1)), 5);
        assert_eq!(network.absent.as_deref(), Some("it shares the sidecar's network"));
        assert_eq!(network.rates, None);
    }

    #[test]
    fn its_own_devices_are_read_over_the_true_time_and_a_reset_is_no_rate() {
        let tree = tempfile::tempdir().unwrap();
        let process = |pid: i32, namespace: &str| {
            let directory = tree.path().join(pid.to_string());
            std::fs::create_dir_all(directory.join("ns")).unwrap();
            std::fs::create_dir_all(directory.join("net")).unwrap();
            symlink(namespace, directory.join("ns/net")).unwrap();
        };
        process(1, "net:[1]");
        process(10, "net:[2]");
        process(11, "net:[1]");
        process(std::process::id() as i32, "net:[3]");
        let dev = |bytes: u64| {
            let text =
                format!("Inter-|\n face |\n    lo: 5 0 0 0 0 0 0 0 5 0\n  eth0: {bytes} 0 0 0 0 0 0 0 {bytes} 0\n");
            std::fs::write(tree.path().join("10/net/dev"), text).unwrap();
        };
        let proc = ProcFs::at(tree.path());
        let mut network = Network::default();
        let second = 1_000_000_000;
        dev(100);
        network.look(&proc, Some((10, 7)), second);
        assert_eq!((network.rates, network.absent.take()), (None, None));
        dev(1_100);
        network.look(&proc, Some((10, 7)), 3 * second);
        assert_eq!(network.rates, Some((500.0, 500.0)));
        dev(3);
        network.look(&proc, Some((10, 7)), 4 * second);
        assert_eq!(network.rates, None);
        network.look(&proc, Some((11, 7)), 5 * second);
        assert_eq!(network.absent.as_deref(), Some("it shares the host's network"));
        network.look(&proc, None, 6 * second);
        assert_eq!((network.rates, network.absent.take()), (None, None));
    }
}
