//! What agents do with files: write below the workspace, claim, look into the inbox, understand an urgent note.
use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::part::{Endless, Text};

/// A note in the inbox that is longer is not read.
const NOTE_MAX_BYTES: u64 = 64 * 1024;

/// Writes a file below the workspace, making its directories.
pub fn write(workspace: &Path, text: &Text) -> io::Result<()> {
    let path = below(workspace, &text.path)
        .ok_or_else(|| io::Error::other(format!("{:?} is not below the workspace", text.path)))?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, &text.text)
}

/// A relative path that stays below, joined.
pub fn below(workspace: &Path, relative: &str) -> Option<PathBuf> {
    let path = Path::new(relative);
    let plain = !relative.is_empty() && path.components().all(|c| matches!(c, Component::Normal(_)));
    plain.then(|| workspace.join(path))
}

/// Says of itself how far it is.
pub fn claim(workspace: &Path, progress: f64, text: &str) -> io::Result<()> {
    let directory = workspace.join(".pitwall");
    fs::create_dir_all(&directory)?;
    let new = directory.join("claim.json.new");
    fs::write(&new, serde_json::json!({ "progress": progress, "text": text }).to_string())?;
    fs::rename(new, directory.join("claim.json"))
}

/// The nth file of work without end.
pub fn nth(endless: &Endless, round: usize) -> Text {
    let n = endless.files.map_or(round, |files| round % files.max(1));
    let word = endless.words.get(n % endless.words.len().max(1)).map_or("notes", String::as_str);
    Text {
        path: format!("{}/{word}-{n}.tsx", endless.directory),
        text: format!("// {word}, draft {round}\nexport function {}{n}() {{ return {n} }}\n", word.to_uppercase()),
    }
}

/// Urgent notes in the inbox that were not read before, oldest name first. No inbox: none.
pub fn urgent_notes(inbox: &Path, read: &mut Vec<PathBuf>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(inbox) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    let mut notes = Vec::new();
    for path in paths {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let small = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= NOTE_MAX_BYTES);
        if !name.starts_with("URGENT-") || !name.ends_with(".md") || !small || read.contains(&path) {
            continue;
        }
        if let Ok(text) = fs::read_to_string(&path) {
            notes.push(text);
            read.push(path);
        }
    }
    notes
}

/// The route that a note asks for: the first thing in backticks that is the path of one.
pub fn wanted_route(note: &str) -> Option<String> {
    let quoted = note.split('`').skip(1).step_by(2);
    quoted.map(str::trim).find(|q| q.ends_with("/route.ts") && !q.contains(char::is_whitespace)).map(str::to_owned)
}

/// A route with a real handler, for the resource that its path names.
pub fn route(path: &str) -> Option<Text> {
    let resource = resource(path)?;
    let rows: Vec<serde_json::Value> = ["Ada", "Grace", "Edsger"]
        .iter()
        .enumerate()
        .map(|(i, name)| serde_json::json!({ "id": format!("{resource}-{}", i + 1), "name": name }))
        .collect();
    let rows = serde_json::Value::from(rows);
    let text = format!(
        "const rows = {rows:#}\n\nexport async function GET() {{\n  return Response.json({{ {resource}: rows }})\n}}\n"
    );
    Some(Text { path: path.to_owned(), text })
}

/// `talents` of `app/api/talents/route.ts`.
fn resource(path: &str) -> Option<&str> {
    let directory = path.strip_suffix("/route.ts")?;
    let name = directory.rsplit('/').next()?;
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    plain.then_some(name)
}

/// What the handler of a route answers: its rows as they stand in the file. `None`: no handler that works.
pub fn answer(resource: &str, source: &str) -> Option<String> {
    let handler = source.contains("export async function GET") && source.contains("Response.json");
    let rows = source.split_once("const rows = ")?.1;
    let rows = rows.split_once("\n\n")?.0;
    let rows: serde_json::Value = serde_json::from_str(rows).ok()?;
    handler.then(|| serde_json::json!({ resource: rows }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_understood_by_the_path_in_backticks() {
        let table = [
            ("please write `app/api/talents/route.ts` now", Some("app/api/talents/route.ts")),
            ("run `npm test`, then `src/app/api/x/route.ts`", Some("src/app/api/x/route.ts")),
            ("write app/api/talents/route.ts", None),
            ("hurry", None),
            ("`a b/route.ts`", None),
        ];
        for (note, path) in table {
            assert_eq!(wanted_route(note).as_deref(), path, "{note}");
        }
    }

    #[test]
    fn a_route_answers_what_stands_in_its_file() {
        let route = route("app/api/talents/route.ts").expect("a route");
        let answer = answer("talents", &route.text).expect("an answer");
        let json: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(json.pointer("/talents/0/id"), Some(&serde_json::json!("talents-1")));
        assert_eq!(super::answer("talents", "// TODO"), None);
        assert_eq!(super::answer("talents", "const rows = []\n\n// no handler"), None);
    }

    #[test]
    fn nothing_is_written_outside_the_workspace() {
        let root = Path::new("/w");
        assert_eq!(below(root, "a/b.ts"), Some("/w/a/b.ts".into()));
        for path in ["../x", "/etc/passwd", "a/../../x", "", "./a"] {
            assert_eq!(below(root, path), None, "{path}");
        }
    }

    #[test]
    fn work_without_end_makes_new_files_or_the_same_ones_again() {
        let mut endless = Endless { directory: "d".into(), words: vec!["w".into()], files: None, every_ms: 1 };
        assert_eq!(nth(&endless, 7).path, "d/w-7.tsx");
        endless.files = Some(2);
        assert_eq!((nth(&endless, 7).path, nth(&endless, 8).path), ("d/w-1.tsx".into(), "d/w-0.tsx".into()));
        assert_ne!(nth(&endless, 7).text, nth(&endless, 9).text);
    }

    #[test]
    fn only_urgent_notes_are_read_and_each_once() {
        let inbox = tempfile::tempdir().expect("a folder");
        fs::write(inbox.path().join("URGENT-1.md"), "first").expect("written");
        fs::write(inbox.path().join("NOTE-2.md"), "later").expect("written");
        let mut read = Vec::new();
        assert_eq!(urgent_notes(inbox.path(), &mut read), ["first"]);
        assert!(urgent_notes(inbox.path(), &mut read).is_empty());
        assert!(urgent_notes(&inbox.path().join("absent"), &mut read).is_empty());
    }
}
