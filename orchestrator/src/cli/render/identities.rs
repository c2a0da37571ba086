//! Identities, tokens, secrets, and the audit log.
use std::path::Path;

use pitwall_proto::v1;

use super::{
    Paint, Style,
    table::{Cell, Column, or_dash, table},
    text,
};

const IDENTITIES: [Column; 5] = [
    Column::left("IDENTITY", 0),
    Column::left("ROLE", 0),
    Column::left("STATE", 0),
    Column::right("AGE", 0),
    Column::left("SUBJECT", 0),
];
const TOKENS: [Column; 4] =
    [Column::left("TOKEN", 0), Column::left("AGENT", 0), Column::left("STATE", 0), Column::right("AGE", 0)];
const AUDIT: [Column; 6] = [
    Column::left("TIME", 0),
    Column::left("WHO", 0),
    Column::left("FROM", 0),
    Column::left("CALL", 0),
    Column::left("OUTCOME", 0),
    Column::left("WHAT", 0),
];
const SECRETS: [Column; 3] = [Column::left("AGENT", 0), Column::left("SECRET", 0), Column::left("", 0)];

/// `pitwall identity list`.
pub fn all(listed: &v1::ListIdentitiesResponse, now: i64, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = listed.identities.iter().map(|identity| one(identity, now)).collect();
    let mut out = table(&IDENTITIES, &rows, style);
    if !listed.tokens.is_empty() {
        let rows: Vec<Vec<Cell>> = listed.tokens.iter().map(|token| a_token(token, now)).collect();
        out.push('\n');
        out.push_str(&table(&TOKENS, &rows, style));
    }
    out
}

fn one(identity: &v1::Identity, now: i64) -> Vec<Cell> {
    let role = match identity.role() {
        v1::Role::Unspecified => "sidecar",
        v1::Role::Viewer => "viewer",
        v1::Role::Operator => "operator",
        v1::Role::Admin => "admin",
    };
    let state = match identity.revoked_unix_ms {
        Some(at) => Cell::painted(format!("revoked {} ago", text::ago(now, at)), Paint::Bad),
        None if identity.certificates == 0 => Cell::painted("expired", Paint::Dim),
        None => Cell::new(format!("for {} more", text::duration(identity.expires_unix_ms - now))),
    };
    vec![
        Cell::new(text::clean(&identity.name)),
        Cell::new(role),
        state,
        Cell::new(text::ago(now, identity.created_unix_ms)),
        Cell::painted(text::clean(&identity.subject), Paint::Dim),
    ]
}

fn a_token(token: &v1::Token, now: i64) -> Vec<Cell> {
    let state = match token.spent_unix_ms {
        Some(_) if token.misused > 0 => {
            Cell::painted(format!("used, then tried with another key {}x", token.misused), Paint::Bad)
        }
        Some(at) => Cell::painted(format!("used {} ago", text::ago(now, at)), Paint::Dim),
        None if token.expires_unix_ms <= now => Cell::painted("expired", Paint::Dim),
        None => Cell::new(format!("for {} more", text::duration(token.expires_unix_ms - now))),
    };
    let made = text::ago(now, token.created_unix_ms);
    vec![Cell::new(text::clean(&token.id)), Cell::new(text::clean(&token.agent)), state, Cell::new(made)]
}

/// `pitwall audit`, newest first.
pub fn audit(entries: &[v1::AuditEntry], style: Style) -> String {
    if entries.is_empty() {
        return "nothing was changed and nothing refused\n".into();
    }
    let rows: Vec<Vec<Cell>> = entries
        .iter()
        .map(|entry| {
            let refused = entry.outcome != "OK";
            let mut outcome = if entry.reason.is_empty() { entry.outcome.clone() } else { entry.reason.clone() };
            if entry.times > 1 {
                outcome.push_str(&format!(" x{}", entry.times));
            }
            let said = [&entry.what, &entry.message].into_iter().filter(|s| !s.is_empty()).cloned().collect::<Vec<_>>();
            let who = entry.who.strip_prefix("spiffe://pitwall/").unwrap_or(&entry.who);
            vec![
                Cell::new(text::clock(entry.at_unix_ms)),
                or_dash(Some(text::clean(who)).filter(|who| !who.is_empty())),
                Cell::new(text::clean(&entry.from)),
                Cell::new(text::clean(&entry.call)),
                Cell::painted(text::clean(&outcome), if refused { Paint::Bad } else { Paint::None }),
                Cell::new(text::clean(&said.join(": "))),
            ]
        })
        .collect();
    table(&AUDIT, &rows, style)
}

/// `pitwall setup`.
pub fn secrets<'a>(made: impl Iterator<Item = (&'a str, &'a Path, &'a str)>, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = made
        .map(|(agent, path, state)| vec![Cell::new(agent), Cell::new(path.display().to_string()), Cell::new(state)])
        .collect();
    table(&SECRETS, &rows, style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_told_with_its_reason_and_how_often() {
        let entry = v1::AuditEntry {
            at_unix_ms: 14_467_000,
            who: "spiffe://pitwall/operator/viewer/ann".into(),
            from: "10.0.0.7".into(),
            call: "ControlService/IssueCommand".into(),
            what: String::new(),
            outcome: "PermissionDenied".into(),
            reason: "ROLE_INSUFFICIENT".into(),
            message: "needs the role operator".into(),
            times: 3,
        };
        let told = audit(&[entry], Style::plain());
        for part in ["04:01:07", "operator/viewer/ann", "10.0.0.7", "ROLE_INSUFFICIENT x3", "needs the role operator"] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }

    #[test]
    fn identities_and_tokens_are_listed_with_what_became_of_them() {
        let identity = v1::Identity {
            name: "backend".into(),
            subject: "spiffe://pitwall/agent/p/backend".into(),
            revoked_unix_ms: Some(60_000),
            ..Default::default()
        };
        let token = v1::Token {
            id: "0a".into(),
            agent: "backend".into(),
            spent_unix_ms: Some(0),
            misused: 2,
            ..Default::default()
        };
        let told = all(
            &v1::ListIdentitiesResponse { identities: vec![identity], tokens: vec![token] },
            120_000,
            Style::plain(),
        );
        assert!(told.contains("revoked 1m ago") && told.contains("sidecar"), "{told}");
        assert!(told.contains("tried with another key 2x"), "{told}");
    }
}
