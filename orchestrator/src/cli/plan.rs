//! `pitwall plan`: check and schema need no orchestrator; apply makes a plan the next generation.
use std::path::Path;

use pitwall_core::plan::{self, Mistakes, Parsed};
use pitwall_proto::v1;

use super::{
    args::{Connect, PlanAction},
    client::{Client, within},
    exit::{CliError, Exit, Result},
    input,
    out::Out,
    render::text,
};

pub async fn run(out: Out, action: &PlanAction) -> Result<()> {
    match action {
        PlanAction::Check { file } => check(out, file),
        PlanAction::Schema => out.document(&plan::schema()),
        PlanAction::Apply { file, connect } => apply(out, file, connect).await,
    }
}

struct Source {
    name: String,
    text: String,
}

fn source(file: &Path) -> Result<Source> {
    Ok(Source { name: input::name(file), text: input::read(file, plan::TEXT_MAX, "a plan")? })
}

fn check(out: Out, file: &Path) -> Result<()> {
    let source = source(file)?;
    match plan::parse(&source.text, &source.name) {
        Ok(parsed) => {
            warn(out, &source.name, &parsed.warnings);
            let answer = v1::CheckPlanResponse { valid: true, warnings: parsed.warnings.clone(), ..Default::default() };
            out.show(&answer, |_| format!("{}: usable: {}\n", source.name, summary(&parsed)))
        }
        Err(mistakes) => refuse(out, &mistakes),
    }
}

fn summary(parsed: &Parsed) -> String {
    let agents = text::count(parsed.plan.agents.len(), "agent");
    let deliverables = text::count(parsed.plan.deliverables().count(), "deliverable");
    let checks: usize = parsed.plan.deliverables().map(|(_, d)| d.checks.len()).sum();
    format!("project {}, {agents}, {deliverables}, {}", parsed.plan.project, text::count(checks, "check"))
}

/// Every mistake: to standard error with its line for people, as the answer of `CheckPlan` for machines.
fn refuse(out: Out, mistakes: &Mistakes) -> Result<()> {
    if out.json {
        out.document(&v1::CheckPlanResponse {
            valid: false,
            mistakes: mistakes
                .list
                .iter()
                .map(|m| v1::PlanMistake {
                    line: m.line,
                    column: m.column,
                    message: m.message.clone(),
                    help: m.help.clone(),
                })
                .collect(),
            warnings: Vec::new(),
            rendered: mistakes.render(false),
        })?;
    } else {
        out.note(mistakes.render(out.error_color).trim_end());
    }
    Err(CliError::silent(Exit::BadInput))
}

fn warn(out: Out, name: &str, warnings: &[String]) {
    for warning in warnings {
        out.progress(&format!("warning: {name}: {}", text::clean(warning)));
    }
}

async fn apply(out: Out, file: &Path, connect: &Connect) -> Result<()> {
    let source = source(file)?;
    // Checked here first: mistakes are then told with their lines, and no orchestrator is bothered.
    if let Err(mistakes) = plan::parse(&source.text, &source.name) {
        return refuse(out, &mistakes);
    }
    let client = Client::connect(connect).await?;
    let request =
        v1::ApplyPlanRequest { project: client.project(), plan_yaml: source.text, file_name: source.name.clone() };
    let answer = within(client.api().apply_plan(request)).await?;
    warn(out, &source.name, &answer.warnings);
    out.show(&answer, |_| {
        if answer.differences.is_empty() {
            return format!("nothing changed: generation {} stays\n", answer.generation);
        }
        let differences: Vec<String> = answer.differences.iter().map(|d| format!("  {}\n", text::clean(d))).collect();
        format!("generation {}\n{}", answer.generation, differences.concat())
    })
}
