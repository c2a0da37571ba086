//! A process's CPU limit as its cgroup has it, read from outside: what the product says is held against this.
use std::{fs, path::PathBuf};

/// Cores that the cgroup of a process allows; `None`: no limit. `Err`: it has no cgroup of its own that could have one.
pub fn cpu_limit(pid: i32) -> Result<Option<f64>, String> {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| format!("process {pid}: {error}"))?;
    let of = |controllers: &dyn Fn(&str) -> bool| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (names, path) = (parts.next()?, parts.next()?);
            controllers(names).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let number = |path: PathBuf| -> Result<String, String> {
        fs::read_to_string(&path)
            .map(|text| text.trim().to_owned())
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    if let Some(path) = of(&|names| names.split(',').any(|name| name == "cpu")).filter(|path| !path.is_empty()) {
        let folder = PathBuf::from("/sys/fs/cgroup/cpu").join(path);
        let quota: f64 = number(folder.join("cpu.cfs_quota_us"))?.parse().map_err(|_| "no number".to_owned())?;
        let period: f64 = number(folder.join("cpu.cfs_period_us"))?.parse().map_err(|_| "no number".to_owned())?;
        return Ok((quota > 0.0).then(|| (quota / period * 1000.0).round() / 1000.0));
    }
    let path =
        of(&|names| names.is_empty()).filter(|path| !path.is_empty()).ok_or("the agent has no cgroup of its own")?;
    let text = number(PathBuf::from("/sys/fs/cgroup").join(path).join("cpu.max"))?;
    let mut words = text.split(' ').map(str::parse::<f64>);
    match (words.next(), words.next()) {
        (Some(Ok(quota)), Some(Ok(period))) => Ok(Some((quota / period * 1000.0).round() / 1000.0)),
        _ => Ok(None),
    }
}
