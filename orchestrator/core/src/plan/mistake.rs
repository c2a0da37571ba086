//! Mistakes in a plan: where, what, and what to do instead.
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::node::Place;

/// More would not help anybody.
const LISTED_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Both count from 1; columns count characters.
    pub line: u32,
    pub column: u32,
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// Every mistake of one text, in the order of their places.
#[derive(Clone, Debug)]
pub struct Mistakes {
    pub file_name: String,
    pub text: String,
    pub list: Vec<Mistake>,
}

impl Mistakes {
    pub(crate) fn new(text: &str, file_name: &str) -> Self {
        Self { file_name: file_name.into(), text: text.into(), list: Vec::new() }
    }

    pub(crate) fn add(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        if self.list.len() < LISTED_MAX {
            let (message, help) = (message.into(), help.into());
            self.list.push(Mistake { line: place.line, column: place.column, message, help });
        }
    }

    pub(crate) fn sorted(mut self) -> Self {
        self.list.sort_by_key(|m| (m.line, m.column));
        self
    }

    /// All of them with the lines they are in, as a compiler would.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for mistake in &self.list {
            let span = self.span(mistake);
            let snippet = Snippet::source(self.text.as_str())
                .path(self.file_name.as_str())
                .annotation(AnnotationKind::Primary.span(span));
            let mut group = Level::ERROR.primary_title(mistake.message.as_str()).element(snippet);
            if !mistake.help.is_empty() {
                group = group.element(Level::HELP.message(mistake.help.as_str()));
            }
            out.push_str(&renderer.render(&[group]));
            out.push_str("\n\n");
        }
        let n = self.list.len();
        let more = if n == LISTED_MAX { " or more" } else { "" };
        out.push_str(&format!("{}: {n}{more} mistake{}\n", self.file_name, if n == 1 { "" } else { "s" }));
        out
    }

    /// The bytes of the word that a mistake points at.
    fn span(&self, mistake: &Mistake) -> std::ops::Range<usize> {
        let line = mistake.line.max(1) as usize;
        let start: usize = self.text.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let rest = self.text.get(start..).unwrap_or("").lines().next().unwrap_or("");
        let skip = mistake.column.max(1) as usize - 1;
        let from = rest.char_indices().nth(skip).map_or(rest.len(), |(at, _)| at);
        let word = rest[from..].find([' ', ',', ']', '}', '#']).unwrap_or(rest.len() - from);
        let word = rest[from..from + word].trim_end_matches(':').len().max(1);
        (start + from).min(self.text.len())..(start + from + word).min(self.text.len())
    }
}

/// The nearest of the known words, where one is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 3)
        .min()
        .map(|(_, candidate)| candidate)
}
