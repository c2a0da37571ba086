//! How the night is shown while it goes on: a live table on a terminal, plain lines in a pipe, nothing on standard
//! output where that is to be one JSON document.
use std::{
    collections::VecDeque,
    io::{self, Write as _},
};

use pitwall_proto::v1;

use super::record::DemoMs;
use crate::cli::{
    out::{self, Out},
    render::{self, Style},
    screen::Screen,
};

/// Lines of what happened that are shown below the table, where there is room.
const HAPPENED_SHOWN: usize = 10;

#[derive(Debug)]
pub enum Show {
    Table { screen: Screen, style: Style, happened: VecDeque<String> },
    Lines,
    Nothing,
}

impl Show {
    pub fn new(out: Out) -> Self {
        if out.json {
            return Self::Nothing;
        }
        if !out.terminal {
            return Self::Lines;
        }
        match Screen::open() {
            Ok(screen) => Self::Table { screen, style: out.style, happened: VecDeque::new() },
            Err(_) => Self::Nothing,
        }
    }

    /// What is new, as it happens.
    pub fn tell(&mut self, now: DemoMs, text: &str) {
        let line = format!("{:>6.1}s  {text}", now as f64 / 1_000.0);
        match self {
            Self::Lines => put(&format!("{line}\n")),
            Self::Table { happened, .. } => {
                happened.push_back(line);
                if happened.len() > HAPPENED_SHOWN {
                    happened.pop_front();
                }
            }
            Self::Nothing => {}
        }
    }

    /// The table again, on a terminal: what fits.
    pub fn draw(&mut self, situation: &v1::Situation, unix_ms: i64) {
        let Self::Table { screen, style, happened } = self else { return };
        let (columns, rows) = out::size().unwrap_or((80, 24));
        style.width = Some(columns);
        let table = render::situation(situation, unix_ms, *style);
        let below: String = happened.iter().map(|line| style.line(render::Paint::Dim, line)).collect();
        let lines: Vec<String> = table.lines().chain([""]).chain(below.lines()).take(rows).map(str::to_owned).collect();
        // A terminal that is gone has seen enough.
        screen.draw(&lines).ok();
    }

    /// Gives the terminal back.
    pub fn close(&mut self) {
        *self = Self::Nothing;
    }
}

/// A reader that is gone has seen enough: the demo goes on and ends as it would.
fn put(text: &str) {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).ok();
}
