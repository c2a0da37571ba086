//! The names in certificates: `spiffe://pitwall/agent/PROJECT/NAME` and `spiffe://pitwall/operator/ROLE/NAME`.
use std::{fmt, str::FromStr};

const AGENT: &str = "spiffe://pitwall/agent/";
const OPERATOR: &str = "spiffe://pitwall/operator/";
const NAME_MAX: usize = 63;

/// Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Viewer,
    Operator,
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|role| role.word() == word)
            .ok_or_else(|| format!("{word:?} is no role; there are viewer, operator and admin"))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The sidecar of this agent, which may speak for no other.
    Agent {
        project: String,
        name: String,
    },
    Operator {
        role: Role,
        name: String,
    },
}

impl Subject {
    /// `None`: a part is no name.
    pub fn agent(project: &str, name: &str) -> Option<Self> {
        (is_name(project) && is_name(name)).then(|| Self::Agent { project: project.into(), name: name.into() })
    }

    pub fn operator(role: Role, name: &str) -> Option<Self> {
        is_name(name).then(|| Self::Operator { role, name: name.into() })
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Agent { name, .. } | Self::Operator { name, .. } => name,
        }
    }

    /// From the URI of a certificate; exactly what `Display` writes, nothing near it.
    pub fn parse(uri: &str) -> Option<Self> {
        if let Some((project, name)) = uri.strip_prefix(AGENT).and_then(|rest| rest.split_once('/')) {
            return Self::agent(project, name);
        }
        let (role, name) = uri.strip_prefix(OPERATOR)?.split_once('/')?;
        Self::operator(role.parse().ok()?, name)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent { project, name } => write!(f, "{AGENT}{project}/{name}"),
            Self::Operator { role, name } => write!(f, "{OPERATOR}{role}/{name}"),
        }
    }
}

/// As the plan's names are, so that each of them can stand in a certificate.
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= NAME_MAX && text.chars().all(fits) && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_read_as_it_was_written_and_nothing_near_it_is() {
        let subjects = [
            Subject::agent("talent-platform", "ai-ml").unwrap(),
            Subject::agent("operator", "admin").unwrap(),
            Subject::operator(Role::Viewer, "dashboard").unwrap(),
            Subject::operator(Role::Admin, "agent").unwrap(),
        ];
        for subject in subjects {
            assert_eq!(Subject::parse(&subject.to_string()), Some(subject));
        }
        for uri in [
            "",
            "spiffe://pitwall/agent/p",
            "spiffe://pitwall/agent/p/",
            "spiffe://pitwall/agent//a",
            "spiffe://pitwall/agent/p/a/b",
            "spiffe://pitwall/agent/p/..",
            "spiffe://pitwall/agent/p/a%62",
            "spiffe://pitwall/operator/root/n",
            "spiffe://pitwall/operator/Admin/n",
            "spiffe://pitwall/operator/admin/",
            "spiffe://other/agent/p/a",
            "https://pitwall/agent/p/a",
            " spiffe://pitwall/agent/p/a",
        ] {
            assert_eq!(Subject::parse(uri), None, "{uri}");
        }
    }

    #[test]
    fn roles_are_ordered_by_what_they_may() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        assert_eq!("operator".parse(), Ok(Role::Operator));
        assert!("root".parse::<Role>().is_err());
    }
}
