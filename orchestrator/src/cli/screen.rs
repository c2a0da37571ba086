//! An own screen of the terminal, for what is drawn again and again.
use std::io::{self, Write as _};

use super::exit::{CliError, Result};

/// The alternate screen, without a cursor; both come back when this is dropped, however the watch ends.
#[derive(Debug)]
pub struct Screen(());

impl Screen {
    pub fn open() -> Result<Self> {
        write("\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J")?;
        Ok(Self(()))
    }

    /// Over what is there, each line cleared behind its text: without flicker.
    pub fn draw(&mut self, lines: &[String]) -> Result<()> {
        let mut text = String::from("\x1b[H");
        for (i, line) in lines.iter().enumerate() {
            if i > 0 {
                text.push_str("\r\n");
            }
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        write(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = write("\x1b[?25h\x1b[?1049l");
    }
}

fn write(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| CliError::output(&error))
}
