//! One check: its rule made whole, its id and digest.
use std::collections::BTreeMap;

use super::{
    mistake::Mistakes,
    node::Place,
    raw,
    read::{At, Text},
    types::{Check, Rule},
};

/// The windows that a check of this agent has when it says nothing.
#[derive(Clone, Copy)]
pub struct CheckWindows {
    pub every_ms: u64,
    pub fresh_for_ms: u64,
    pub hysteresis_ms: u64,
    pub timeout_ms: u64,
}

impl CheckWindows {
    pub const DEFAULT: Self = Self { every_ms: 10_000, fresh_for_ms: 60_000, hysteresis_ms: 5_000, timeout_ms: 5_000 };

    pub fn or(self, said: Option<&raw::CheckDefaults>) -> Self {
        let Some(said) = said else { return self };
        let ms = |value: &Option<At<super::read::Duration>>, default| value.as_ref().map_or(default, |at| at.value.0);
        Self {
            every_ms: ms(&said.every, self.every_ms),
            fresh_for_ms: ms(&said.fresh_for, self.fresh_for_ms),
            hysteresis_ms: ms(&said.hysteresis, self.hysteresis_ms),
            timeout_ms: ms(&said.timeout, self.timeout_ms),
        }
    }
}

pub fn check(raw: raw::Check, windows: CheckWindows, mistakes: &mut Mistakes) -> Option<Check> {
    let place = raw.place;
    let own = raw::CheckDefaults {
        every: raw.every,
        fresh_for: raw.fresh_for,
        hysteresis: raw.hysteresis,
        timeout: raw.timeout,
    };
    let rule = rule(raw.rule, place, mistakes)?;
    let windows = windows.or(Some(&own));
    if windows.fresh_for_ms < windows.every_ms {
        let at = own.fresh_for.or(own.every).map_or(place, |at| at.place);
        mistakes.add(
            at,
            format!(
                "evidence would be stale before it is renewed: fresh_for {} ms, every {} ms",
                windows.fresh_for_ms, windows.every_ms
            ),
            "make fresh_for at least twice as long as every",
        );
        return None;
    }
    let json = serde_json::to_vec(&rule).unwrap_or_default();
    Some(Check {
        id: id(&rule),
        digest: blake3::hash(&json).to_hex()[..32].to_string(),
        weight: raw.weight.map_or(1.0, |w| w.value.0),
        required: raw.required.is_none_or(|r| r.value.0),
        every_ms: windows.every_ms,
        fresh_for_ms: windows.fresh_for_ms,
        hysteresis_ms: windows.hysteresis_ms,
        timeout_ms: windows.timeout_ms,
        rule,
    })
}

fn id(rule: &Rule) -> String {
    match rule {
        Rule::File { path, .. } => format!("file:{path}"),
        Rule::Directory { path, .. } => format!("directory:{path}"),
        Rule::Http { url, .. } => format!("http:{url}"),
        Rule::Tcp { address } => format!("tcp:{address}"),
        Rule::Process { name } => format!("process:{name}"),
        Rule::Grpc { address, service } if service.is_empty() => format!("grpc:{address}"),
        Rule::Grpc { address, service } => format!("grpc:{address}/{service}"),
    }
}

pub(super) fn rule(raw: raw::Rule, place: Place, mistakes: &mut Mistakes) -> Option<Rule> {
    match raw {
        raw::Rule::File(file) => {
            let path = workspace_path(file.path, place, mistakes)?;
            let (min, max) = (file.min_bytes.map(|s| s.value.0), file.max_bytes.as_ref().map(|s| s.value.0));
            if let (Some(least), Some(most)) = (min, max)
                && least > most
            {
                let at = file.max_bytes.map_or(place, |s| s.place);
                mistakes.add(at, format!("max_bytes {most} is below min_bytes {least}"), "swap them");
                return None;
            }
            let texts = |list| raw::many::<Text>(list).into_iter().map(|t| t.value.0).collect();
            Some(Rule::File {
                path,
                min_bytes: min,
                max_bytes: max,
                contains: texts(file.contains),
                forbids: texts(file.forbids),
            })
        }
        raw::Rule::Directory(directory) => {
            let path = workspace_path(directory.path, place, mistakes)?;
            let min_files = directory.min_files.map_or(1, |n| n.value.0);
            Some(Rule::Directory { path, min_files: u32::try_from(min_files).unwrap_or(u32::MAX) })
        }
        raw::Rule::Http(http) => {
            let url = needed(http.url, "url", place, mistakes)?;
            if !valid_url(&url.value.0) {
                let message = format!("{:?} is no URL that a sidecar can ask", url.value.0);
                mistakes.add(
                    url.place,
                    message,
                    "write it like http://backend:3000/api/talents; https is not known yet",
                );
                return None;
            }
            let status = http.status.as_ref().map_or(200, |s| s.value.0);
            let Some(status) = u16::try_from(status).ok().filter(|s| (100..600).contains(s)) else {
                let at = http.status.map_or(place, |s| s.place);
                mistakes.add(at, format!("{status} is no HTTP status"), "100 to 599");
                return None;
            };
            let mut json = BTreeMap::new();
            for (pointer, wanted) in http.json.map(|at| at.value.0).unwrap_or_default() {
                if !pointer.is_empty() && !pointer.starts_with('/') {
                    mistakes.add(
                        wanted.place,
                        format!("{pointer:?} is no JSON pointer"),
                        "it begins with /, for example /items/0/id",
                    );
                    continue;
                }
                let present = wanted.value.0 == serde_json::Value::String("present".into());
                json.insert(pointer, (!present).then(|| wanted.value.0.to_string()));
            }
            Some(Rule::Http { url: url.value.0, status, json })
        }
        raw::Rule::Tcp(tcp) => Some(Rule::Tcp { address: host_and_port(tcp.address, place, mistakes)? }),
        raw::Rule::Grpc(grpc) => {
            let service = grpc.service.map(|at| at.value.0).unwrap_or_default();
            Some(Rule::Grpc { address: host_and_port(grpc.address, place, mistakes)?, service })
        }
        raw::Rule::Process(process) => {
            let name = needed(process.name, "name", place, mistakes)?;
            if name.value.0.is_empty() || name.value.0.contains('/') {
                mistakes.add(
                    name.place,
                    "expected a command name",
                    "as `ps -o comm` shows it, for example next-server",
                );
                return None;
            }
            Some(Rule::Process { name: name.value.0 })
        }
    }
}

fn host_and_port(address: Option<At<Text>>, place: Place, mistakes: &mut Mistakes) -> Option<String> {
    let address = needed(address, "address", place, mistakes)?;
    if !valid_address(&address.value.0) {
        let message = format!("{:?} is no host:port", address.value.0);
        mistakes.add(address.place, message, "for example qdrant:6333");
        return None;
    }
    Some(address.value.0)
}

fn needed(value: Option<At<Text>>, key: &str, place: Place, mistakes: &mut Mistakes) -> Option<At<Text>> {
    if value.is_none() {
        mistakes.add(place, format!("this check needs `{key}`"), format!("add `{key}:`"));
    }
    value
}

/// Relative, and never out of the workspace.
fn workspace_path(path: Option<At<Text>>, place: Place, mistakes: &mut Mistakes) -> Option<String> {
    let path = needed(path, "path", place, mistakes)?;
    let text = path.value.0;
    let wrong = if text.is_empty() {
        Some("the path is empty")
    } else if text.starts_with('/') {
        Some("the path is absolute")
    } else if text.split('/').any(|part| part == "..") {
        Some("the path leaves the workspace")
    } else if text.contains('\0') {
        Some("the path holds a NUL")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        mistakes.add(
            path.place,
            format!("{wrong}: {text:?}"),
            "give it relative to the workspace, for example app/page.tsx",
        );
        return None;
    }
    if text.split('/').next() == Some(".pitwall") {
        mistakes.add(
            path.place,
            "what lies in .pitwall/ is a claim, and no proof",
            "check what the agent is to deliver",
        );
        return None;
    }
    let opens = text.matches('[').count() + text.matches('{').count();
    let closes = text.matches(']').count() + text.matches('}').count();
    if opens != closes && text.contains(['*', '?', '{']) {
        mistakes.add(path.place, format!("{text:?} is no glob: a bracket is not closed"), "close every [ and {");
        return None;
    }
    let trimmed = text.strip_prefix("./").unwrap_or(&text).trim_end_matches('/');
    Some(trimmed.to_string())
}

fn valid_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let plain = url.chars().all(|c| c.is_ascii_graphic());
    plain && !authority.contains('@') && (valid_address(authority) || valid_address(&format!("{authority}:80")))
}

fn valid_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host_ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
    };
    host_ok && port.parse::<u16>().is_ok_and(|p| p > 0)
}
