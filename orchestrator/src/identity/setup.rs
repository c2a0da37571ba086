//! `pitwall setup`: authority, token records and one secret file per agent, before any server runs. May be run again:
//! what is there and still good is left as it is, so that a one-shot container may run at every start.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use pitwall_core::{identity::Subject, plan::Plan};
use pitwall_proto::join::{JoinToken, hex};

use super::{
    Result, authority, files,
    keeper::{Keeper, Lives},
    now,
};

/// What became of one agent's secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    Written(PathBuf),
    /// Not used yet, and good still.
    Kept(PathBuf),
    /// Its sidecar has a certificate: no secret is needed. An empty file stands in its place, so that mounts find one.
    Joined(PathBuf),
}

pub fn run(plan: &Plan, data: &Path, secrets: &Path, ttl: Duration) -> Result<Vec<(String, Secret)>> {
    let keeper = Keeper::open(data, Lives::default())?;
    keeper.local_operator()?;
    files::make_private_dir(secrets)?;
    let mut done = Vec::new();
    for agent in plan.agents.keys() {
        done.push((agent.clone(), secret(&keeper, &plan.project, agent, secrets, ttl)?));
    }
    Ok(done)
}

/// Where the secret of an agent is put.
pub fn secret_file(secrets: &Path, agent: &str) -> PathBuf {
    secrets.join(format!("{agent}.token"))
}

/// What of it is there, where a server owns the records; `None`: that agent has no secret and has not joined.
pub fn look(plan: &Plan, data: &Path, secrets: &Path) -> Result<Vec<(String, Option<Secret>)>> {
    let certificate = authority::directory(data).join(authority::CERTIFICATE);
    // Before it was made, opening would make one.
    if files::read(&certificate)?.is_none() {
        return Ok(plan.agents.keys().map(|agent| (agent.clone(), None)).collect());
    }
    let keeper = Keeper::open(data, Lives::default())?;
    files::make_private_dir(secrets)?;
    let found = |agent: &String| Ok((agent.clone(), found(&keeper, &plan.project, agent, secrets)?));
    plan.agents.keys().map(found).collect()
}

fn secret(keeper: &Keeper, project: &str, agent: &str, secrets: &Path, ttl: Duration) -> Result<Secret> {
    if let Some(found) = found(keeper, project, agent, secrets)? {
        return Ok(found);
    }
    let path = secret_file(secrets, agent);
    let (token, _) = keeper.create_token(project, agent, ttl)?;
    files::write(&path, format!("{token}\n").as_bytes(), files::SECRET)?;
    Ok(Secret::Written(path))
}

fn found(keeper: &Keeper, project: &str, agent: &str, secrets: &Path) -> Result<Option<Secret>> {
    let path = secret_file(secrets, agent);
    let held: Option<JoinToken> = files::read_text(&path)?.and_then(|text| text.parse().ok());
    let records = keeper.records();
    let open = held.as_ref().and_then(|token| records.tokens.get(&hex(&token.id)));
    let ours = held.as_ref().is_some_and(|token| token.authority == keeper.authority.fingerprint());
    if ours && open.is_some_and(|record| record.is_open(now()) && record.agent == agent && record.project == project) {
        return Ok(Some(Secret::Kept(path)));
    }
    if Subject::agent(project, agent).is_some_and(|subject| records.is_joined(now(), &subject)) {
        if held.is_none() && !path.exists() {
            files::write(&path, b"", files::SECRET)?;
        }
        return Ok(Some(Secret::Joined(path)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::request;

    #[test]
    fn it_may_be_run_again_at_any_time() {
        let dir = tempfile::tempdir().unwrap();
        let (data, secrets) = (dir.path().join("data"), dir.path().join("secrets"));
        let text = "project: p\nagents:\n  a: { deliverables: { d: { checks: [ { file: x } ] } } }\n  b: { deliverables: { d: { checks: [ { file: x } ] } } }\n";
        let plan = pitwall_core::plan::parse(text, "plan.yaml").unwrap().plan;
        let day = Duration::from_secs(86_400);
        let done = run(&plan, &data, &secrets, day).unwrap();
        assert!(done.iter().all(|(_, secret)| matches!(secret, Secret::Written(_))), "{done:?}");
        let done = run(&plan, &data, &secrets, day).unwrap();
        assert!(done.iter().all(|(_, secret)| matches!(secret, Secret::Kept(_))), "{done:?}");

        let token = std::fs::read_to_string(secrets.join("a.token")).unwrap().parse().unwrap();
        let keeper = Keeper::open(&data, Lives::default()).unwrap();
        keeper.enrol(&token, &request::make().unwrap().1).unwrap();
        let done = run(&plan, &data, &secrets, day).unwrap();
        assert!(matches!(done[0].1, Secret::Joined(_)) && matches!(done[1].1, Secret::Kept(_)), "{done:?}");
        // Revoked: it has to join again.
        Keeper::open(&data, Lives::default()).unwrap().revoke("a").unwrap();
        let seen = look(&plan, &data, &secrets).unwrap();
        assert!(seen[0].1.is_none() && matches!(seen[1].1, Some(Secret::Kept(_))), "{seen:?}");
        let done = run(&plan, &data, &secrets, day).unwrap();
        assert!(matches!(done[0].1, Secret::Written(_)), "{done:?}");
        assert!(look(&plan, &dir.path().join("other"), &secrets).unwrap().iter().all(|(_, seen)| seen.is_none()));
    }
}
