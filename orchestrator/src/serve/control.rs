//! `ControlService`: reads are answered from the state once it is durable, mutations by the core, history by the journal.
use std::{pin::Pin, sync::Arc};

use pitwall_core::{
    plan::{self, Mistakes, Parsed},
    tell,
};
use pitwall_proto::v1::{self, control_service_server::ControlService};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status};

use super::{
    door::{audited::Noted, peer::Peer},
    history,
    mailbox::ProjectHandle,
    status, watching,
};

/// Watchers at the same time.
const WATCHES_MAX: usize = 256;
/// Messages between a watcher's task and its stream: the hub is the queue.
const WATCH_AHEAD: usize = 1;
const COMMANDS_DEFAULT: u32 = 100;
const COMMANDS_MAX: u32 = 1_000;

type Answer<T> = Result<Response<T>, Status>;

pub struct Operators {
    project: ProjectHandle,
    watches: Arc<Semaphore>,
}

impl Operators {
    pub fn new(project: ProjectHandle) -> Self {
        Self { project, watches: Arc::new(Semaphore::new(WATCHES_MAX)) }
    }
}

#[tonic::async_trait]
impl ControlService for Operators {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn get_situation(&self, request: Request<v1::GetSituationRequest>) -> Answer<v1::GetSituationResponse> {
        let project = self.project.named(&request.get_ref().project)?;
        let situation = project.ask(|core, now| core.situation(now)).await?;
        Ok(Response::new(v1::GetSituationResponse { situation: Some(situation) }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let request = request.into_inner();
        let project = self.project.named(&request.project)?;
        let room = self.watches.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{WATCHES_MAX} watches are open, which is the limit");
            status::status(Code::ResourceExhausted, "WATCHES_EXHAUSTED", message, "watch again later")
        })?;
        let begun = project.watch(request.from).await?;
        let (out, stream) = mpsc::channel(WATCH_AHEAD);
        // Ends when the client goes or the project does.
        tokio::spawn(watching::feed(project.clone(), begun, out, room));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_agents(&self, request: Request<v1::ListAgentsRequest>) -> Answer<v1::ListAgentsResponse> {
        let project = self.project.named(&request.get_ref().project)?;
        let agents = project.ask(|core, now| core.situation(now).agents).await?;
        Ok(Response::new(v1::ListAgentsResponse { agents }))
    }

    async fn list_blockers(&self, request: Request<v1::ListBlockersRequest>) -> Answer<v1::ListBlockersResponse> {
        let project = self.project.named(&request.get_ref().project)?;
        let blockers = project.ask(|core, now| core.situation(now).blockers).await?;
        Ok(Response::new(v1::ListBlockersResponse { blockers }))
    }

    async fn list_findings(&self, request: Request<v1::ListFindingsRequest>) -> Answer<v1::ListFindingsResponse> {
        let project = self.project.named(&request.get_ref().project)?;
        let closed = request.get_ref().include_closed;
        let findings = project.ask(move |core, _| core.findings(closed)).await?;
        Ok(Response::new(v1::ListFindingsResponse { findings }))
    }

    async fn list_hosts(&self, request: Request<v1::ListHostsRequest>) -> Answer<v1::ListHostsResponse> {
        let project = self.project.named(&request.get_ref().project)?;
        let hosts = project.ask(|core, now| core.readouts(now).hosts).await?;
        Ok(Response::new(v1::ListHostsResponse { hosts }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        let request = request.into_inner();
        let project = self.project.named(&request.project)?;
        let told = project.ask(move |core, now| core.explain(now, &request.agent, &request.deliverable)).await?;
        told.map(Response::new).map_err(|refusal| status::refused(&refusal))
    }

    async fn issue_command(&self, request: Request<v1::IssueCommandRequest>) -> Answer<v1::IssueCommandResponse> {
        Noted::note(&request, || asked(request.get_ref()));
        let who = who(&request);
        let mut request = request.into_inner();
        // Whoever has an identity cannot issue in another's name.
        if let Some(who) = who {
            request.origin = who;
        }
        let command = self.project.named(&request.project)?.issue(request).await?;
        Ok(Response::new(v1::IssueCommandResponse { command: Some(command) }))
    }

    async fn cancel_command(&self, request: Request<v1::CancelCommandRequest>) -> Answer<v1::CancelCommandResponse> {
        Noted::note(&request, || format!("cancel {}", request.get_ref().id));
        let request = request.into_inner();
        let command = self.project.named(&request.project)?.cancel(request.id).await?;
        Ok(Response::new(v1::CancelCommandResponse { command: Some(command) }))
    }

    async fn adopt_sidecar(&self, request: Request<v1::AdoptSidecarRequest>) -> Answer<v1::AdoptSidecarResponse> {
        Noted::note(&request, || format!("adopt {} {}", request.get_ref().agent, request.get_ref().sidecar));
        let who = who(&request);
        let mut request = request.into_inner();
        if let Some(who) = who {
            request.origin = who;
        }
        let adopted = self.project.named(&request.project)?.adopt(request).await?;
        Ok(Response::new(adopted))
    }

    async fn list_commands(&self, request: Request<v1::ListCommandsRequest>) -> Answer<v1::ListCommandsResponse> {
        let request = request.into_inner();
        let project = self.project.named(&request.project)?;
        let limit = if request.limit == 0 { COMMANDS_DEFAULT } else { request.limit.min(COMMANDS_MAX) } as usize;
        let (commands, interventions) = project
            .ask(move |core, _| {
                let commands = core.commands(&request.agent, &request.id, limit);
                // Those of the commands that are told.
                let mut interventions = core.interventions();
                interventions.retain(|i| commands.iter().any(|c| c.id == i.id));
                (commands, interventions)
            })
            .await?;
        Ok(Response::new(v1::ListCommandsResponse { commands, interventions }))
    }

    async fn list_events(&self, request: Request<v1::ListEventsRequest>) -> Answer<v1::ListEventsResponse> {
        let request = request.into_inner();
        let project = self.project.named(&request.project)?;
        // Answered once durable: what is read afterwards holds at least that much.
        let revision = project.ask(|core, _| core.revision()).await?;
        let found = history::events(project, &request).await?;
        Ok(Response::new(v1::ListEventsResponse {
            events: found.events.iter().map(tell::event).collect(),
            revision: Some(revision),
            gave_up_at: found.gave_up_at,
            kept_from: found.kept_from.map(|first| v1::KeptFrom { sequence: first.sequence, at_unix_ms: first.at }),
        }))
    }

    async fn apply_plan(&self, request: Request<v1::ApplyPlanRequest>) -> Answer<v1::ApplyPlanResponse> {
        Noted::note(&request, || format!("plan {}", request.get_ref().file_name));
        let request = request.into_inner();
        let project = self.project.named(&request.project)?;
        let source = request.plan_yaml.clone();
        let parsed = parse(request.plan_yaml, request.file_name).await?.map_err(|mistakes| {
            let first: Vec<String> = mistakes
                .list
                .iter()
                .take(10)
                .map(|m| format!("{}:{}:{}: {}", mistakes.file_name, m.line, m.column, m.message))
                .collect();
            let n = mistakes.list.len();
            let message = format!("the plan has {n} mistake{}\n{}", if n == 1 { "" } else { "s" }, first.join("\n"));
            let hint = "`pitwall plan check FILE` shows all of them with their lines";
            status::status(Code::InvalidArgument, "PLAN_INVALID", message, hint)
        })?;
        let (generation, differences) = project.apply(parsed.plan, source).await?;
        Ok(Response::new(v1::ApplyPlanResponse { generation, differences, warnings: parsed.warnings }))
    }

    async fn check_plan(&self, request: Request<v1::CheckPlanRequest>) -> Answer<v1::CheckPlanResponse> {
        let request = request.into_inner();
        let answer = match parse(request.plan_yaml, request.file_name).await? {
            Ok(parsed) => v1::CheckPlanResponse { valid: true, warnings: parsed.warnings, ..Default::default() },
            Err(mistakes) => v1::CheckPlanResponse {
                valid: false,
                rendered: mistakes.render(false),
                mistakes: mistakes
                    .list
                    .into_iter()
                    .map(|m| v1::PlanMistake { line: m.line, column: m.column, message: m.message, help: m.help })
                    .collect(),
                warnings: Vec::new(),
            },
        };
        Ok(Response::new(answer))
    }
}

/// The name in the caller's certificate.
fn who<T>(request: &Request<T>) -> Option<String> {
    let peer = request.extensions().get::<Arc<Peer>>()?;
    peer.subject().map(|subject| subject.name().to_owned())
}

/// A command for the audit log.
fn asked(request: &v1::IssueCommandRequest) -> String {
    use v1::command_spec::Kind;
    let agent = &request.agent;
    match request.spec.as_ref().and_then(|spec| spec.kind.as_ref()) {
        Some(Kind::Directive(directive)) => format!("tell {agent}: {}", directive.text),
        Some(Kind::Throttle(throttle)) => {
            let length = pitwall_core::text::duration(throttle.for_ms.into());
            format!("throttle {agent} to {} for {length}", pitwall_proto::throttle::of_whom(throttle))
        }
        Some(Kind::Unthrottle(unthrottle)) if unthrottle.resource == 0 => format!("unthrottle {agent}"),
        Some(Kind::Unthrottle(unthrottle)) => {
            format!("unthrottle {agent}, {}", pitwall_proto::throttle::word(unthrottle.resource()))
        }
        Some(Kind::Kill(kill)) => {
            let process = match &kill.process {
                Some(process) if process.pid == 0 => process.name.clone(),
                process => format!("pid {}", process.as_ref().map_or(0, |p| p.pid)),
            };
            let tree = if kill.tree { " and its descendants" } else { "" };
            format!("kill {process}{tree} of {agent}")
        }
        Some(Kind::Restart(_)) => format!("restart {agent}"),
        Some(Kind::Activate(_)) => format!("activate {agent}"),
        None => format!("nothing, of {agent}"),
    }
}

/// Away from the threads that serve: a large plan takes a while.
async fn parse(text: String, file_name: String) -> Result<Result<Parsed, Mistakes>, Status> {
    let name = if file_name.is_empty() { "plan.yaml".to_owned() } else { file_name };
    tokio::task::spawn_blocking(move || plan::parse(&text, &name))
        .await
        .map_err(|_| status::status(Code::Internal, "PLAN_READER_FAILED", "the plan could not be read", ""))
}
