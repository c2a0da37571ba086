//! What a test needs around it (real clients, a writable cgroup, a mount namespace). Where that is not there, the test
//! says so into the file that `PITWALL_SKIPS` names, which `.ci/run` prints last; where `PITWALL_REQUIRE` names it, the
//! test fails instead. So no test is skipped silently.
use std::{env, fs, io::Write as _, path::PathBuf};

/// Whether the test may go on. `Err` says why the surrounding is not there.
pub fn have(test: &str, surrounding: &str, found: Result<(), String>) -> bool {
    let Err(why) = found else { return true };
    let required = env::var("PITWALL_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name.trim() == surrounding),
        "{test} needs {surrounding}, which PITWALL_REQUIRE names, but: {why}"
    );
    let line = format!("{test}: needs {surrounding}: {why}");
    eprintln!("skipped {line}");
    if let Some(list) = env::var_os("PITWALL_SKIPS") {
        let written =
            fs::OpenOptions::new().create(true).append(true).open(&list).and_then(|mut f| writeln!(f, "{line}"));
        written.unwrap_or_else(|error| {
            panic!("the list of skips {} cannot be written: {error}", PathBuf::from(list).display())
        });
    }
    false
}
