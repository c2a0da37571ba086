//! The CPU clock of a whole process: one call without a file, exact to the nanosecond, for a third of a microsecond. It
//! knows a process by its pid in this process's own namespace, and fails for one that is gone.
use rustix::io::Errno;

/// `CPUCLOCK_SCHED` of a whole process, as the kernel encodes it beside the pid.
const OF_PROCESS: libc::clockid_t = 2;

/// Nanoseconds of CPU, of all its threads, living and ended.
#[allow(unsafe_code, reason = "rustix has no clocks of other processes")]
pub fn cpu_ns(pid: i32) -> Result<u64, Errno> {
    let clock = (!pid << 3) | OF_PROCESS;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` to the place that it is given, which lives here.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0)))
}

/// Do the pids of `/proc` here name the processes that the clocks know? Not where `/proc` is another namespace's, nor
/// where a filter denies the call.
pub fn usable() -> Result<(), String> {
    let me = std::process::id();
    let shown = std::fs::read_link("/proc/self").map_err(|e| format!("/proc/self cannot be read: {e}"))?;
    if shown.to_str() != Some(me.to_string().as_str()) {
        return Err("/proc shows another pid namespace than this process's own".into());
    }
    let pid = i32::try_from(me).map_err(|_| "this process has no pid".to_owned())?;
    cpu_ns(pid).map(drop).map_err(|e| format!("the CPU clocks of processes are denied: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_use_and_ends_with_the_process() {
        assert_eq!(usable(), Ok(()));
        let me = std::process::id() as i32;
        let before = cpu_ns(me).unwrap();
        let mut sum = 0_u64;
        for n in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(n));
        }
        assert!(cpu_ns(me).unwrap() > before);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(cpu_ns(pid).is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(cpu_ns(pid).is_err());
    }
}
