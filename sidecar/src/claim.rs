//! What an agent says of itself: `.pitwall/claim.json` in its workspace. Whatever stands there is shown beside the
//! verified progress and never moves it.
//!
//! ```json
//! {"progress": 0.86, "text": "writing the API", "waiting_for": "", "deliverables": {"talents-api": 0.5}}
//! ```
//! All fields are optional. A progress is 0 to 1; agents write percentages too, so a number above 1 and up to 100, and
//! a text such as "86 %", are read as percent. Unknown fields are ignored.
use std::collections::BTreeMap;

use pitwall_proto::v1;
use serde::Deserialize;
use serde_json::Value;

use crate::probe::beneath::{Refusal, Root};

/// Where it is, from the workspace.
pub const PATH: &str = ".pitwall/claim.json";
pub const DIRECTORY: &str = ".pitwall";
pub const SIZE_MAX: u64 = 64 * 1024;
/// Characters that are kept of a text.
const TEXT_MAX: usize = 500;
const DELIVERABLES_MAX: usize = 256;

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    progress: Option<Value>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    waiting_for: Option<String>,
    #[serde(default)]
    deliverables: BTreeMap<String, Value>,
}

/// Reads the file; `Err` says why the claim cannot be used.
pub fn read(root: &Root) -> Result<v1::Claim, String> {
    let (bytes, _) = root.read_small(PATH, SIZE_MAX).map_err(|refusal| refusal.to_string())?;
    parse(&bytes)
}

/// A stamp that changes with the file; `None`: it is not there, or is nothing that could be read.
#[must_use]
pub fn stamp(root: &Root) -> Option<u64> {
    match root.file(PATH) {
        Ok((_, stat)) => Some(crate::watch::tree::stamp(&stat)),
        Err(Refusal::Missing(_) | Refusal::NotADirectory(_)) => None,
        // Something is there: `read` tells what is wrong with it, once.
        Err(_) => Some(0),
    }
}

pub fn parse(bytes: &[u8]) -> Result<v1::Claim, String> {
    let wrong = |e: serde_json::Error| format!("{PATH} is not the JSON object it should be: {e}");
    // Through a map: a struct would be read from an array, too.
    let object: serde_json::Map<String, Value> = serde_json::from_slice(bytes).map_err(wrong)?;
    let written: Written = serde_json::from_value(Value::Object(object)).map_err(wrong)?;
    let progress = written.progress.as_ref().map(|value| share("progress", value)).transpose()?.flatten();
    if written.deliverables.len() > DELIVERABLES_MAX {
        return Err(format!("{PATH} claims {} deliverables, at most {DELIVERABLES_MAX}", written.deliverables.len()));
    }
    let mut deliverables = BTreeMap::new();
    for (name, value) in &written.deliverables {
        if let Some(claimed) = share(name, value)? {
            deliverables.insert(name.clone(), claimed);
        }
    }
    let short = |text: Option<String>| text.unwrap_or_default().trim().chars().take(TEXT_MAX).collect();
    Ok(v1::Claim { progress, text: short(written.text), waiting_for: short(written.waiting_for), deliverables })
}

fn share(what: &str, value: &Value) -> Result<Option<f64>, String> {
    let wrong = || {
        let value: String = value.to_string().chars().take(40).collect();
        Err(format!("{PATH}: {what} is {value}; write a number from 0 to 1, or a percentage such as \"86 %\""))
    };
    let (number, percent) = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => (number.as_f64(), false),
        Value::String(text) => {
            let text = text.trim();
            (text.strip_suffix('%').unwrap_or(text).trim().parse().ok(), text.ends_with('%'))
        }
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => return wrong(),
    };
    match number {
        Some(number) if (0.0..=1.0).contains(&number) && !percent => Ok(Some(number)),
        Some(number) if (0.0..=100.0).contains(&number) => Ok(Some(number / 100.0)),
        Some(_) | None => wrong(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_understood_as_agents_write_it() {
        for (text, expected) in [
            (r#"{"progress": 0.86}"#, Some(0.86)),
            (r#"{"progress": 86}"#, Some(0.86)),
            (r#"{"progress": "86 %"}"#, Some(0.86)),
            (r#"{"progress": "86%"}"#, Some(0.86)),
            (r#"{"progress": "0.5 %"}"#, Some(0.005)),
            (r#"{"progress": "0.5"}"#, Some(0.5)),
            (r#"{"progress": 1}"#, Some(1.0)),
            (r#"{"progress": 100}"#, Some(1.0)),
            (r#"{"progress": 0}"#, Some(0.0)),
            (r#"{"progress": null}"#, None),
            ("{}", None),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().progress, expected, "{text}");
        }
        let claim = parse(br#"{"text":" hi ","waiting_for":"Ada","deliverables":{"api":50},"more":[1]}"#).unwrap();
        assert_eq!((claim.text.as_str(), claim.waiting_for.as_str(), claim.deliverables["api"]), ("hi", "Ada", 0.5));
    }

    #[test]
    fn what_is_no_claim_is_refused_with_what_to_write() {
        for text in ["", "[]", "{", r#"{"progress": 101}"#, r#"{"progress": -1}"#, r#"{"progress": "NaN"}"#] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        for text in [r#"{"progress": "soon"}"#, r#"{"progress": true}"#, r#"{"deliverables": {"a": {}}}"#] {
            assert!(parse(text.as_bytes()).unwrap_err().contains("0 to 1"), "{text}");
        }
        let many: Vec<String> = (0..300).map(|n| format!("\"d{n}\":1")).collect();
        assert!(parse(format!("{{\"deliverables\":{{{}}}}}", many.join(",")).as_bytes()).is_err());
    }

    #[test]
    fn a_claim_that_is_a_link_out_of_the_workspace_or_too_large_is_not_read() {
        let workspace = tempfile::tempdir().unwrap();
        std::fs::create_dir(workspace.path().join(DIRECTORY)).unwrap();
        let at = workspace.path().join(PATH);
        let root = Root::open(workspace.path()).unwrap();
        assert_eq!(stamp(&root), None);
        std::os::unix::fs::symlink("/etc/passwd", &at).unwrap();
        assert!(stamp(&root).is_some());
        assert!(read(&root).unwrap_err().contains("leads out"));
        std::fs::remove_file(&at).unwrap();
        std::fs::write(&at, format!("{{\"text\": \"{}\"}}", "x".repeat(70_000))).unwrap();
        assert!(read(&root).unwrap_err().contains("larger than"));
    }
}
