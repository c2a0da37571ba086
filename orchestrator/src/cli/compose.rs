//! `pitwall compose`: what stands beside a service, and what is wrong with a file. Needs no orchestrator.
use pitwall_core::compose::{self, Cgroup, Wanted};
use serde::Serialize;

use super::{
    args::{CgroupWord, ComposeAction, ComposePrint},
    exit::{CliError, Exit, Result},
    input,
    out::Out,
};

#[derive(Serialize)]
struct Told<'a> {
    valid: bool,
    mistakes: Vec<ToldMistake<'a>>,
}

#[derive(Serialize)]
struct ToldMistake<'a> {
    line: u32,
    column: u32,
    message: &'a str,
    help: &'a str,
}

pub fn run(out: Out, action: &ComposeAction) -> Result<()> {
    match action {
        ComposeAction::Print(asked) => out.text(&compose::print(&wanted(asked)?)),
        ComposeAction::Check { file } => {
            let text = input::read(file, compose::TEXT_MAX, "a compose file")?;
            let found = compose::check(&text, &input::name(file));
            if out.json {
                let mistakes = found.list.iter().map(|m| ToldMistake {
                    line: m.line,
                    column: m.column,
                    message: &m.message,
                    help: &m.help,
                });
                out.document(&Told { valid: found.list.is_empty(), mistakes: mistakes.collect() })?;
            } else if found.list.is_empty() {
                return out.text(&format!("{}: nothing is wrong beside its agents\n", found.file_name));
            } else {
                out.note(found.render(out.error_color).trim_end());
            }
            if found.list.is_empty() { Ok(()) } else { Err(CliError::silent(Exit::BadInput)) }
        }
    }
}

fn wanted(asked: &ComposePrint) -> Result<Wanted> {
    let mut wanted = Wanted::of(&asked.service);
    if let Some(agent) = &asked.agent {
        wanted.agent.clone_from(agent);
    }
    if let Some(workspace) = &asked.workspace {
        let (source, at) =
            workspace.split_once(':').filter(|(s, at)| !s.is_empty() && at.starts_with('/')).ok_or_else(|| {
                CliError::bad_input(format!("--workspace {workspace} is not SOURCE:PATH, for example ./repo:/app"))
            })?;
        (wanted.workspace, wanted.workspace_at) = (source.into(), at.into());
    }
    wanted.network.clone_from(&asked.network);
    wanted.gpu = asked.gpu;
    wanted.cgroup = asked.cgroup.map(|version| match version {
        CgroupWord::V1 => Cgroup::V1,
        CgroupWord::V2 => Cgroup::V2,
    });
    Ok(wanted)
}
