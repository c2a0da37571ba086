//! Frontend: does what it can, waits for backend's API by asking it, goes on by itself when it answers. Its
//! development server is a child process.
use std::{
    io,
    process::{Command, Stdio},
    thread,
};

use super::{
    Agenda, Every, STEP, Since, files, http,
    part::{Frontend, Part},
};

pub fn run(part: &Part, work: &Frontend) -> io::Result<()> {
    let mut server = Command::new(&work.server)
        .arg("demo-agent")
        .arg(&work.server_part)
        .current_dir(&part.workspace)
        .stdin(Stdio::null())
        .spawn()?;
    // Reaped whatever ends it: a zombie would look like a process that is still there.
    thread::Builder::new().name("reaper".into()).spawn(move || server.wait())?;

    // Nothing can be built against a backend whose server is not even up.
    while http::get(&work.api_host, work.api_port, &work.api_path).is_err() {
        thread::sleep(STEP);
    }
    let since = Since::now();
    let mut agenda = Agenda::new(work.at_once.clone());
    let (claim_at, progress, text) = &work.claim;
    let mut claims = Agenda::new(vec![(*claim_at, ())]);
    let mut poll = Every::new(work.poll_every_ms);
    let mut page: Option<Agenda<super::part::Text>> = None;
    loop {
        let now = since.ms();
        if let Some(text) = agenda.due(now) {
            files::write(&part.workspace, &text)?;
        }
        if claims.due(now).is_some() {
            files::claim(&part.workspace, *progress, text)?;
        }
        match &mut page {
            Some(page) => {
                if let Some(text) = page.due(now) {
                    files::write(&part.workspace, &text)?;
                }
            }
            None if agenda.left.is_empty() && poll.due(now) => {
                if matches!(http::get(&work.api_host, work.api_port, &work.api_path), Ok((200, _))) {
                    let steps = (1..).map(|n: u64| now + n * work.page_step_ms);
                    page = Some(Agenda::new(steps.zip(work.page.iter().cloned()).collect()));
                }
            }
            None => {}
        }
        thread::sleep(STEP);
    }
}
