//! Backend: says how far it is, writes one file after another, and looks into its inbox now and then. Only an urgent
//! note brings it to the route that it forgot.
use std::{io, thread};

use super::{
    Agenda, Every, STEP, Since, files, http,
    part::{Backend, Part},
};

pub fn run(part: &Part, work: &Backend) -> io::Result<()> {
    http::serve_routes(&part.workspace, &work.source, work.port, work.anywhere)?;
    let since = Since::now();
    let first = (0..).map(|n: u64| n * work.first_every_ms).zip(work.first.iter().cloned());
    let mut first = Agenda::new(first.collect());
    let mut claims =
        Agenda::new(work.claims.iter().map(|(at, progress, text)| (*at, (*progress, text.clone()))).collect());
    let mut routes = Agenda::new(work.own_route.iter().cloned().collect());
    let (mut then, mut look) = (Every::new(work.then.every_ms), Every::new(work.look_every_ms));
    let mut read = Vec::new();
    let mut written = 0;
    loop {
        let now = since.ms();
        if let Some(text) = first.due(now) {
            files::write(&part.workspace, &text)?;
        }
        if let Some((progress, text)) = claims.due(now) {
            files::claim(&part.workspace, progress, &text)?;
        }
        if first.left.is_empty() && then.due(now) {
            files::write(&part.workspace, &files::nth(&work.then, written))?;
            written += 1;
        }
        if look.due(now) {
            for path in files::urgent_notes(&part.inbox, &mut read).iter().filter_map(|n| files::wanted_route(n)) {
                routes.left.push_back((now + work.obey_after_ms, path));
            }
        }
        // A path that is no route, or leads out of the workspace, is nothing that it could do.
        if let Some(path) = routes.due(now)
            && files::below(&part.workspace, &path).is_some()
            && let Some(route) = files::route(&path)
        {
            files::write(&part.workspace, &route)?;
        }
        thread::sleep(STEP);
    }
}
