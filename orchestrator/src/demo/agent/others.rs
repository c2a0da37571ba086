//! The rest of the team: devops is slow, ai-ml waits for it, integration and testing wait for their turn, design and
//! docs do their work where anybody starts them.
use std::{io, thread};

use super::{
    Agenda, Every, STEP, Since, files, http,
    part::{Devops, Part, Search, Text},
};

pub fn devops(part: &Part, work: &Devops) -> io::Result<()> {
    for text in &work.begun {
        files::write(&part.workspace, text)?;
    }
    let since = Since::now();
    let mut step = Every::new(work.step_ms);
    let mut finish = Agenda::new(work.finish.clone());
    let mut serve = Agenda::new(vec![(work.serve_at_ms, ())]);
    let mut steps = 0;
    loop {
        let now = since.ms();
        if step.due(now)
            && let Some(path) = work.notes.get(steps % work.notes.len().max(1))
        {
            steps += 1;
            files::write(&part.workspace, &Text { path: path.clone(), text: format!("step {steps}\n") })?;
        }
        if let Some(text) = finish.due(now) {
            files::write(&part.workspace, &text)?;
        }
        if serve.due(now).is_some() {
            http::serve_database(work.port, work.anywhere)?;
        }
        thread::sleep(STEP);
    }
}

pub fn search(part: &Part, work: &Search) -> io::Result<()> {
    let since = Since::now();
    let mut agenda = Agenda::new(work.at_once.clone());
    let (mut poll, mut then) = (Every::new(work.poll_every_ms), Every::new(work.then.every_ms));
    let (mut ready, mut written) = (false, 0);
    loop {
        let now = since.ms();
        if let Some(text) = agenda.due(now) {
            files::write(&part.workspace, &text)?;
        }
        if !ready && poll.due(now) {
            ready = http::connects(&work.host, work.port);
        }
        if ready && then.due(now) {
            files::write(&part.workspace, &files::nth(&work.then, written))?;
            written += 1;
        }
        thread::sleep(STEP);
    }
}

pub fn patient(part: &Part) -> io::Result<()> {
    let mut read = Vec::new();
    loop {
        // Nobody writes to it in this night; it looks all the same.
        files::urgent_notes(&part.inbox, &mut read);
        thread::sleep(10 * STEP);
    }
}

pub fn author(part: &Part, texts: &[Text], every_ms: u64) -> io::Result<()> {
    let since = Since::now();
    let steps = (1..).map(|n: u64| n * every_ms);
    let mut agenda = Agenda::new(steps.zip(texts.iter().cloned()).collect());
    loop {
        if let Some(text) = agenda.due(since.ms()) {
            files::write(&part.workspace, &text)?;
        }
        thread::sleep(STEP);
    }
}
