//! `pitwall context`: orchestrators that this user works with, by name.
use std::path::Path;

use serde::Serialize;

use super::{
    args::ContextAction,
    client::credentials,
    exit::{CliError, Exit, Result},
    out::Out,
    render::table::{Cell, Column, or_dash, table},
};
use crate::{
    identity::context::{self, Context, Contexts},
    serve::identity_failed,
};

const COLUMNS: [Column; 4] =
    [Column::left("", 1), Column::left("NAME", 0), Column::left("ORCHESTRATOR", 0), Column::left("IDENTITY", 0)];

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    orchestrator: &'a str,
    identity: Option<&'a Path>,
    used: bool,
}

/// The one that was named, or the one in use; `None`: neither.
pub fn chosen(named: Option<&str>) -> Result<Option<(String, Context)>> {
    let Some(file) = context::file() else {
        return named.map_or(Ok(None), |_| Err(homeless()));
    };
    let contexts = Contexts::load(&file).map_err(|error| identity_failed(&error))?;
    let Some(name) = named.map(str::to_owned).or(contexts.used.clone()) else { return Ok(None) };
    match contexts.contexts.get(&name) {
        Some(context) => Ok(Some((name, context.clone()))),
        None => Err(unknown(&name)),
    }
}

pub fn run(out: Out, action: &ContextAction) -> Result<()> {
    let file = context::file().ok_or_else(homeless)?;
    let mut contexts = Contexts::load(&file).map_err(|error| identity_failed(&error))?;
    match action {
        ContextAction::List => return list(out, &contexts),
        ContextAction::Add { name, orchestrator, identity } => {
            if !orchestrator.starts_with("https://") {
                let message = format!("{orchestrator:?} is no address of an orchestrator elsewhere");
                return Err(CliError::new(Exit::Usage, message).hint("write it as https://pitwall.example:7440"));
            }
            // Tried now, so that a wrong directory is told here and not at the first command.
            credentials(identity)?;
            let identity = std::path::absolute(identity).map_err(|error| {
                CliError::bad_input(format!("{} has no absolute path: {error}", identity.display()))
            })?;
            let context = Context { orchestrator: orchestrator.clone(), identity: Some(identity) };
            contexts.contexts.insert(name.clone(), context);
            // The first one is meant.
            contexts.used.get_or_insert_with(|| name.clone());
        }
        ContextAction::Use { name } => {
            if !contexts.contexts.contains_key(name) {
                return Err(unknown(name));
            }
            contexts.used = Some(name.clone());
        }
        ContextAction::Remove { name } => {
            if contexts.contexts.remove(name).is_none() {
                return Err(unknown(name));
            }
            contexts.used = contexts.used.filter(|used| used != name);
        }
    }
    contexts.save(&file).map_err(|error| identity_failed(&error))?;
    match &contexts.used {
        Some(used) => out.progress(&format!("in use: {used}")),
        None => out.progress("none is in use: commands go to the orchestrator on this machine"),
    }
    Ok(())
}

fn list(out: Out, contexts: &Contexts) -> Result<()> {
    let listed: Vec<Listed<'_>> = contexts
        .contexts
        .iter()
        .map(|(name, context)| Listed {
            name,
            orchestrator: &context.orchestrator,
            identity: context.identity.as_deref(),
            used: contexts.used.as_ref() == Some(name),
        })
        .collect();
    out.show(&listed, |style| {
        if listed.is_empty() {
            return "no contexts: commands go to the orchestrator on this machine\n".into();
        }
        let rows: Vec<Vec<Cell>> = listed
            .iter()
            .map(|one| {
                let used = if one.used { "*" } else { "" };
                let identity = one.identity.map(|directory| directory.display().to_string());
                vec![Cell::new(used), Cell::new(one.name), Cell::new(one.orchestrator), or_dash(identity)]
            })
            .collect();
        table(&COLUMNS, &rows, style)
    })
}

fn unknown(name: &str) -> Box<CliError> {
    CliError::bad_input(format!("no context is named {name:?}")).hint("`pitwall context list` shows all")
}

fn homeless() -> Box<CliError> {
    CliError::bad_input("there is no place to remember contexts: neither PITWALL_CONFIG nor HOME is set")
        .hint("give --orchestrator URL and --identity DIR")
}
