//! Messages as text for people: the look of the situation, of blockers, findings, hosts, commands and events.
//! Pure: the moment, the width and whether colour is wanted are parameters, so that golden tests hold every line.
//! All text that came over the network is cleaned of control characters here, before it reaches a terminal.
pub mod agents;
pub mod blockers;
pub mod commands;
pub mod events;
pub mod findings;
pub mod gpus;
pub mod hosts;
pub mod identities;
pub mod situation;
pub mod table;
pub mod text;
pub mod usage;

pub use situation::situation;

/// How the text has to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal; longer cells are cut with `…`. None: as long as it is, for pipes and files.
    pub width: Option<usize>,
    pub color: bool,
}

impl Style {
    pub fn plain() -> Self {
        Self::default()
    }

    pub fn paint(self, paint: Paint, text: &str) -> String {
        match paint.code().filter(|_| self.color && !text.is_empty()) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    /// One line that fits, with its colour put on after it was cut.
    pub fn line(self, paint: Paint, text: &str) -> String {
        let cut = self.width.map_or_else(|| text.to_owned(), |width| text::fit(text, width));
        format!("{}\n", self.paint(paint, &cut))
    }
}

/// Colour adds to what the words say, and never says anything alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paint {
    #[default]
    None,
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
}

impl Paint {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Bold => Some("1"),
            Self::Dim => Some("2"),
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("1;31"),
        }
    }
}

#[cfg(test)]
pub(crate) mod samples;
