//! `hold -- COMMAND …`: waits until the agent is activated, then becomes the command. For the container of an agent that
//! is to start later: its image needs nothing but its own program, as this one is static and lies, beside the file that
//! activates it, in the inbox that the sidecar shares with the agent. An activation stands: a container that starts
//! again goes on at once.
use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

/// Put beside this program by the sidecar (`pitwall_sidecar::act::held::ACTIVATED`; a test holds the two together).
const ACTIVATED: &str = ".activated";
/// An inbox is a volume of the same host: a look at it costs a microsecond.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// As a shell would say it.
const CANNOT_EXEC: u8 = 127;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let command: Vec<OsString> =
        if words.next().is_some_and(|word| word == "--") { words.collect() } else { Vec::new() };
    let Some((program, arguments)) = command.split_first() else {
        eprintln!("hold: give the command that it becomes: hold -- COMMAND …");
        return ExitCode::from(USAGE);
    };
    let inbox = match env::current_exe() {
        Ok(me) => me.parent().unwrap_or(Path::new("/")).to_owned(),
        Err(error) => {
            eprintln!("hold: cannot find its own file, and by it the inbox: {error}; /proc must be mounted");
            return ExitCode::from(CANNOT_EXEC);
        }
    };
    let activated = inbox.join(ACTIVATED);
    if !activated.exists() {
        eprintln!("hold: waits for `pitwall activate`");
    }
    while !activated.exists() {
        thread::sleep(LOOK_EVERY);
    }
    let why = Command::new(program).args(arguments).exec();
    eprintln!("hold: {} cannot be started: {why}", program.to_string_lossy());
    ExitCode::from(CANNOT_EXEC)
}
