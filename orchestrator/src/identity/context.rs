//! Named orchestrators of this user: an address and an identity each, one of them in use. One small file,
//! `$PITWALL_CONFIG/contexts.json`, by default below `$XDG_CONFIG_HOME/pitwall` or `~/.config/pitwall`.
use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{IdentityError, Result, files};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    pub used: Option<String>,
    pub contexts: BTreeMap<String, Context>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    pub orchestrator: String,
    /// A directory, absolute; absent: plaintext on loopback.
    pub identity: Option<PathBuf>,
}

/// `None`: this user has no home.
pub fn file() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = set("PITWALL_CONFIG")
        .or_else(|| set("XDG_CONFIG_HOME").map(|dir| dir.join("pitwall")))
        .or_else(|| set("HOME").map(|dir| dir.join(".config/pitwall")))?;
    Some(directory.join("contexts.json"))
}

impl Contexts {
    pub fn load(path: &Path) -> Result<Self> {
        let Some(bytes) = files::read(path)? else { return Ok(Self::default()) };
        serde_json::from_slice(&bytes).map_err(|error| IdentityError::File {
            doing: "understand",
            path: path.into(),
            why: error.to_string(),
        })
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            files::make_private_dir(directory)?;
        }
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| IdentityError::File {
            doing: "encode",
            path: path.into(),
            why: error.to_string(),
        })?;
        files::write(path, &bytes, files::SECRET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/contexts.json");
        assert_eq!(Contexts::load(&path).unwrap(), Contexts::default());
        let context = Context { orchestrator: "https://a:7440".into(), identity: Some("/i".into()) };
        let contexts = Contexts { used: Some("a".into()), contexts: [("a".to_owned(), context)].into() };
        contexts.save(&path).unwrap();
        assert_eq!(Contexts::load(&path).unwrap(), contexts);
        std::fs::write(&path, "{").unwrap();
        assert!(Contexts::load(&path).is_err());
    }
}
