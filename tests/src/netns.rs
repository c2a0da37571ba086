//! Another host, as a network namespace of its own with one link to here. Gone with its guard.
use std::{
    ffi::OsStr,
    process::{Command, id},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::surroundings;

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Netns {
    name: String,
    link: String,
    /// This side's address, as the other one reaches it.
    pub here: String,
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

impl Netns {
    /// `None`: the surroundings are not there, which was told.
    pub fn new(test: &str) -> Option<Self> {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = id() % 100_000;
        // Documentation's own range, a pair of addresses for each process and test.
        let subnet = (mark * 4 + n) % 64;
        let host = subnet * 4;
        let netns = Self {
            name: format!("pitwall-{mark}-{n}"),
            link: format!("pw{mark}-{n}"),
            here: format!("198.51.100.{}", host + 1),
        };
        let there = format!("198.51.100.{}/30", host + 2);
        let here = format!("{}/30", netns.here);
        let (name, link) = (netns.name.as_str(), netns.link.as_str());
        let far = format!("{link}p");
        let made = ip(&["netns", "add", name])
            .and_then(|()| ip(&["link", "add", link, "type", "veth", "peer", "name", &far]))
            .and_then(|()| ip(&["link", "set", &far, "netns", name]))
            .and_then(|()| ip(&["addr", "add", &here, "dev", link]))
            .and_then(|()| ip(&["link", "set", link, "up"]))
            .and_then(|()| ip(&["-n", name, "addr", "add", &there, "dev", &far]))
            .and_then(|()| ip(&["-n", name, "link", "set", &far, "up"]));
        surroundings::have(test, "netns", made).then_some(netns)
    }

    /// A command that runs over there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Half of it may not have been made. The link's other end goes with it.
        let _ = ip(&["link", "del", &self.link]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}
