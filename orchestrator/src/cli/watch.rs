//! `pitwall watch`: a live table on a terminal, one line per event in a pipe, one JSON document per message for machines.
use std::{io, time::Duration};

use pitwall_proto::v1::{self, watch_response::Body};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    args::Connect,
    exit::{CliError, Exit, Result},
    follow::{self, Heard, Terms},
    out::{self, Out, now},
    read,
    render::{self, Paint, Style, text},
    screen::Screen,
};

/// Without any orchestrator for so long, a watch ends: nobody should believe a table of yesterday.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(10 * 60);
/// Redrawn at most so often; ages move once a second anyway.
const REDRAW_EVERY: Duration = Duration::from_millis(250);
const REDRAWS_PER_SECOND: u32 = 4;

pub async fn run(out: Out, connect: &Connect) -> Result<()> {
    let terms = Terms { connect: connect.clone(), from: None, give_up_after: GIVE_UP_AFTER, patient: false };
    let heard = follow::follow(terms);
    if out.terminal && !out.json { live(out, heard).await } else { lines(out, heard).await }
}

async fn lines(out: Out, mut heard: mpsc::Receiver<Result<Heard>>) -> Result<()> {
    while let Some(heard) = heard.recv().await {
        match heard? {
            Heard::Message(message) if out.json => out.json_line(&*message)?,
            Heard::Message(message) => match message.body {
                Some(Body::Change(change)) => {
                    for event in &change.events {
                        read::print(out, event)?;
                    }
                }
                Some(Body::Snapshot(situation)) => {
                    let at = situation.revision.map_or(0, |r| r.sequence);
                    out.progress(&format!("watching {} from event {at} on", text::clean(&situation.project)));
                }
                Some(Body::Readouts(_)) | None => {}
            },
            Heard::Lost(why) => out.note(&format!("{}; trying again", text::clean(&why))),
            Heard::Connected(_) => {}
        }
    }
    Ok(())
}

/// Ctrl-C is the caller's, who drops this and so the screen.
async fn live(out: Out, mut heard: mpsc::Receiver<Result<Heard>>) -> Result<()> {
    let failed = |error: io::Error| CliError::internal(format!("cannot listen for signals: {error}"));
    let mut ended = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hung_up = signal(SignalKind::hangup()).map_err(failed)?;
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut tick = interval(REDRAW_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut view = View::default();
    // Opened by the first message: an error before it is told on the ordinary screen.
    let mut screen: Option<Screen> = None;
    let mut redraw = false;
    let mut ticks = 0;
    loop {
        tokio::select! {
            told = heard.recv() => match told {
                None => return Ok(()),
                Some(told) => {
                    view.hear(told?);
                    redraw = true;
                }
            },
            _ = tick.tick() => {
                ticks = (ticks + 1) % REDRAWS_PER_SECOND;
                if !redraw && ticks != 0 {
                    continue;
                }
                if let Some(situation) = &view.situation {
                    let screen = match &mut screen {
                        Some(screen) => screen,
                        None => screen.insert(Screen::open()?),
                    };
                    screen.draw(&view.draw(situation, out.style.color))?;
                    redraw = false;
                }
            }
            _ = resized.recv() => redraw = true,
            _ = ended.recv() => return Err(CliError::silent(Exit::Interrupted)),
            _ = hung_up.recv() => return Err(CliError::silent(Exit::Interrupted)),
        }
    }
}

#[derive(Default)]
struct View {
    situation: Option<v1::Situation>,
    /// Why what is shown may be old.
    lost: Option<String>,
}

impl View {
    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Message(message) => {
                self.lost = None;
                // Changes before a snapshot have nothing to change.
                let Some(body) = message.body else { return };
                if self.situation.is_some() || matches!(body, Body::Snapshot(_)) {
                    follow::apply(self.situation.get_or_insert_default(), body);
                }
            }
            Heard::Connected(_) => self.lost = None,
            Heard::Lost(why) => self.lost = Some(why),
        }
    }

    fn draw(&self, situation: &v1::Situation, color: bool) -> Vec<String> {
        let (columns, rows) = out::size().unwrap_or((80, 24));
        frame(situation, self.lost.as_deref(), now(), Style { width: Some(columns), color }, rows)
    }
}

/// What fits, and in the last line how fresh it is.
fn frame(situation: &v1::Situation, lost: Option<&str>, now: i64, style: Style, rows: usize) -> Vec<String> {
    let told = render::situation(situation, now, style);
    let mut lines: Vec<String> = told.lines().map(str::to_owned).collect();
    let room = rows.saturating_sub(1);
    let hidden = if lines.len() > room { lines.len() - room } else { 0 };
    lines.truncate(room);
    let more = if hidden > 0 {
        format!("{}, `pitwall status` shows all   ", text::count(hidden, "more line"))
    } else {
        String::new()
    };
    let foot = match lost {
        Some(why) => (Paint::Bad, format!("{more}NOT LIVE: {}; trying again", text::clean(why))),
        None => {
            let at = situation.revision.as_ref().map_or(0, |r| r.sequence);
            (Paint::Dim, format!("{more}live, event {at}, generation {}; Ctrl-C ends", situation.generation))
        }
    };
    lines.push(style.line(foot.0, &foot.1).trim_end().to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::{super::render::samples, *};

    const STYLE: Style = Style { width: Some(100), color: false };

    #[test]
    fn a_frame_fits_the_screen_and_says_how_fresh_it_is() {
        let night = samples::night();
        let all = frame(&night, None, samples::NOW, STYLE, 60);
        assert_eq!(all.last().map(String::as_str), Some("live, event 0, generation 1; Ctrl-C ends"));
        let small = frame(&night, Some("connection refused"), samples::NOW, STYLE, 6);
        assert_eq!(small.len(), 6);
        let hidden = all.len() - 1 - 5;
        let foot =
            format!("{hidden} more lines, `pitwall status` shows all   NOT LIVE: connection refused; trying again");
        assert_eq!(small.last(), Some(&foot));
    }

    #[test]
    fn a_view_begins_with_a_snapshot_and_says_when_it_is_old() {
        let message = |body| Heard::Message(Box::new(v1::WatchResponse { body: Some(body) }));
        let mut view = View::default();
        view.hear(message(Body::Change(v1::Change::default())));
        assert!(view.situation.is_none());
        view.hear(message(Body::Snapshot(samples::night())));
        view.hear(Heard::Lost("gone".into()));
        assert_eq!(view.lost.as_deref(), Some("gone"));
        view.hear(message(Body::Change(v1::Change { generation: 7, ..Default::default() })));
        assert!(view.lost.is_none());
        assert_eq!(view.situation.map(|s| s.generation), Some(7));
    }
}
