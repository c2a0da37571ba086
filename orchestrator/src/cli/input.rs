//! Text from files and standard input, never more than its reader can use.
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::exit::{CliError, Result};

/// The text of a file; `-` is standard input.
pub fn read(path: &Path, max: usize, what: &str) -> Result<String> {
    let told = name(path);
    let unreadable = |error: io::Error| {
        let why = match error.kind() {
            io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
            _ => error.to_string(),
        };
        CliError::bad_input(format!("cannot read {told}: {why}"))
    };
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(unreadable)?) };
    let mut text = String::new();
    source.take(max as u64 + 1).read_to_string(&mut text).map_err(|error| {
        // Cut in the middle of a character is still too long, not broken.
        if text.len() > max { CliError::bad_input("") } else { unreadable(error) }
    })?;
    if text.len() > max {
        return Err(CliError::bad_input(format!("{told} is too long for {what}: at most {max} bytes")));
    }
    Ok(text)
}

/// As messages call it.
pub fn name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_cannot_be_used_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("short"), "äb").expect("written");
        fs::write(path("binary"), [0xff, 0xfe]).expect("written");
        assert_eq!(read(&path("short"), 3, "a note").ok().as_deref(), Some("äb"));
        let table = [("short", 2, "at most 2 bytes"), ("binary", 9, "not UTF-8"), ("absent", 9, "No such file")];
        for (name, max, expected) in table {
            let error = read(&path(name), max, "a note").expect_err(name);
            assert!(error.message.contains(expected), "{}", error.message);
        }
    }
}
