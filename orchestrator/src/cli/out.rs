//! Where output goes: data to standard output, words about progress to standard error. A reader that goes away ends
//! the program without a complaint.
use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::{
    args::{ColorWhen, Look, Output},
    exit::{CliError, Result},
    render::Style,
};

/// Narrower terminals are treated as this wide: nothing could be read there.
const WIDTH_MIN: u16 = 20;

#[derive(Clone, Copy, Debug)]
pub struct Out {
    pub json: bool,
    pub style: Style,
    pub terminal: bool,
    /// Colour for standard error.
    pub error_color: bool,
}

impl Out {
    pub fn new(look: Look) -> Self {
        let terminal = io::stdout().is_terminal();
        let wanted = |is_terminal: bool| match look.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => is_terminal && !is_set("NO_COLOR") && env::var_os("TERM").is_none_or(|t| t != "dumb"),
        };
        let width = if terminal { size().map(|(columns, _)| columns) } else { None };
        Self {
            json: look.output == Output::Json,
            style: Style { width, color: wanted(terminal) },
            terminal,
            error_color: wanted(io::stderr().is_terminal()),
        }
    }

    /// The answer: as JSON for machines, or what `render` makes of it for people.
    pub fn show<T: Serialize>(&self, message: &T, render: impl FnOnce(Style) -> String) -> Result<()> {
        if self.json { self.document(message) } else { self.text(&render(self.style)) }
    }

    pub fn text(&self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| CliError::output(&error))
    }

    /// One document of several lines.
    pub fn document<T: Serialize>(&self, message: &T) -> Result<()> {
        self.text(&format!("{}\n", encoded(serde_json::to_string_pretty(message))?))
    }

    /// One document of one line.
    pub fn json_line<T: Serialize>(&self, message: &T) -> Result<()> {
        self.text(&format!("{}\n", encoded(serde_json::to_string(message))?))
    }

    /// For people who wait; machines are told nothing but the outcome.
    pub fn progress(&self, text: &str) {
        if !self.json {
            self.note(text);
        }
    }

    /// For people, whatever the output.
    pub fn note(&self, text: &str) {
        // With standard error gone there is nobody to tell.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

fn encoded(json: serde_json::Result<String>) -> Result<String> {
    json.map_err(|error| CliError::internal(format!("cannot write the answer as JSON: {error}")))
}

fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// Columns and rows of the terminal on standard output.
pub fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|s| s.ws_col > 0 && s.ws_row > 0)?;
    Some((size.ws_col.max(WIDTH_MIN).into(), size.ws_row.max(2).into()))
}

/// Unix milliseconds.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
