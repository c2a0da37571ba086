//! Columns of text: as wide as their cells, the last one cut to what the terminal leaves.
use super::{Paint, Style, text};

/// Wider cells are cut, except in the last column: no single long name may push all others off the screen.
const CELL_MAX: usize = 48;
/// The last column is never cut below this, even when the line then wraps.
const LAST_MIN: usize = 16;
const GAP: &str = "  ";

#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    right: bool,
    min: usize,
}

impl Column {
    pub const fn left(title: &'static str, min: usize) -> Self {
        Self { title, right: false, min }
    }

    pub const fn right(title: &'static str, min: usize) -> Self {
        Self { title, right: true, min }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), paint: Paint::None }
    }

    pub fn painted(text: impl Into<String>, paint: Paint) -> Self {
        Self { text: text.into(), paint }
    }
}

/// `-` where something was not measured or not said.
pub fn or_dash(text: Option<String>) -> Cell {
    text.map_or_else(|| Cell::painted("-", Paint::Dim), Cell::new)
}

/// The titles and the rows; columns without any title make a table without a title line.
pub fn table(columns: &[Column], rows: &[Vec<Cell>], style: Style) -> String {
    let last = columns.len().saturating_sub(1);
    let mut widths: Vec<usize> = columns.iter().map(|c| c.min.max(text::width(c.title))).collect();
    for row in rows {
        for (cell, width) in row.iter().zip(&mut widths) {
            *width = (*width).max(text::width(&cell.text).min(CELL_MAX));
        }
    }
    let before: usize = widths.iter().take(last).map(|w| w + GAP.len()).sum();
    let room = style.width.map_or(usize::MAX, |all| all.saturating_sub(before).max(LAST_MIN));
    let mut out = String::new();
    if columns.iter().any(|c| !c.title.is_empty()) {
        let titles = columns.iter().map(|c| Cell::painted(c.title, Paint::Bold)).collect::<Vec<_>>();
        line(columns, &widths, room, &titles, style, &mut out);
    }
    for row in rows {
        line(columns, &widths, room, row, style, &mut out);
    }
    out
}

fn line(columns: &[Column], widths: &[usize], room: usize, row: &[Cell], style: Style, out: &mut String) {
    let last = columns.len().saturating_sub(1);
    // Spaces are owed until text follows, so that no line ends in blanks.
    let mut owed = 0;
    for (i, ((column, width), cell)) in columns.iter().zip(widths).zip(row).enumerate() {
        let cut = text::fit(&cell.text, if i == last { room } else { CELL_MAX });
        let pad = width.saturating_sub(text::width(&cut));
        if column.right {
            owed += pad;
        }
        if !cut.is_empty() {
            out.push_str(&" ".repeat(owed));
            out.push_str(&style.paint(cell.paint, &cut));
            owed = 0;
        }
        owed += GAP.len() + if column.right { 0 } else { pad };
        if cut.is_empty() && column.right {
            owed -= pad;
            owed += width;
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [Column::left("NAME", 6), Column::right("N", 4), Column::left("TEXT", 0)];

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![Cell::new("a"), Cell::new("12"), Cell::new("a text that is rather long")],
            vec![Cell::new("bb"), or_dash(None), Cell::new("")],
            vec![Cell::new(""), Cell::new(""), Cell::new("x")],
        ]
    }

    #[test]
    fn columns_align_and_the_last_is_cut() {
        let wide = table(&COLUMNS, &rows(), Style::plain());
        assert_eq!(
            wide,
            "NAME       N  TEXT\na         12  a text that is rather long\nbb         -\n              x\n"
        );
        let narrow = table(&COLUMNS, &rows(), Style { width: Some(32), color: false });
        assert_eq!(narrow.lines().nth(1), Some("a         12  a text that is ra…"));
        assert!(narrow.lines().all(|l| text::width(l) <= 32));
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let colored = table(&COLUMNS, &rows(), Style { width: None, color: true });
        let mut plain = colored.clone();
        for code in ["\x1b[1m", "\x1b[2m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, table(&COLUMNS, &rows(), Style::plain()));
        assert_ne!(colored, plain);
    }
}
