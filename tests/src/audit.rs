//! What either side has on its disk, read past both of them: the journal's rows and the sidecar's state file, as they lie
//! there after a kill. Whoever still runs must be held still meanwhile, so that both are of one moment.
use std::{collections::BTreeMap, fs, path::Path};

use pitwall_proto::{
    journal::{Event, event::Body},
    state,
    v1::{self, CommandState},
};

/// The orchestrator's own conclusion about a lease, from a hello.
const CAME_BACK_WITHOUT_IT: &str = "the sidecar came back without it";

/// A command's way, as one side has it on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub id: String,
    /// The last is where it is.
    pub states: Vec<CommandState>,
}

impl Way {
    pub fn state(&self) -> CommandState {
        self.states.last().copied().unwrap_or(CommandState::Queued)
    }

    pub fn ended(&self) -> bool {
        is_end(self.state())
    }
}

pub fn is_end(state: CommandState) -> bool {
    state as i32 >= CommandState::Succeeded as i32
}

/// Every event of the journal, in order.
#[derive(Clone, Debug, Default)]
pub struct Journal(pub Vec<Event>);

impl Journal {
    /// Of a copy: to open the file itself would change what the next owner finds.
    pub fn read(data: &Path) -> Self {
        let copy = tempfile::tempdir().expect("a folder");
        let name = "journal.sqlite3";
        for part in [name.to_owned(), format!("{name}-wal")] {
            // Without a log, what was committed is in the file.
            if data.join(&part).exists() {
                fs::copy(data.join(&part), copy.path().join(&part)).expect("the journal can be copied");
            }
        }
        let connection = rusqlite::Connection::open(copy.path().join(name)).expect("it is a journal");
        let mut rows = connection.prepare("SELECT body FROM event ORDER BY sequence").expect("it has events");
        let bodies = rows.query_map([], |row| row.get::<_, Vec<u8>>(0)).expect("they can be read");
        let decode = |body: Vec<u8>| prost::Message::decode(body.as_slice()).expect("it is an event");
        Self(bodies.map(|body| decode(body.expect("a row"))).collect())
    }

    fn bodies(&self) -> impl Iterator<Item = &Body> {
        self.0.iter().filter_map(|event| event.body.as_ref())
    }

    /// The command that was asked for with this key; more than one is a fault.
    pub fn asked_with(&self, key: &str) -> Option<Way> {
        let mut ids = self.bodies().filter_map(|body| match body {
            Body::CommandIssued(issued) if issued.idempotency_key == key => Some(issued.id.clone()),
            _ => None,
        });
        let id = ids.next()?;
        assert_eq!(ids.next(), None, "{key} was issued twice");
        let steps = self.bodies().filter_map(|body| match body {
            Body::CommandStep(step) if step.id == id => CommandState::try_from(step.state).ok(),
            _ => None,
        });
        let states = std::iter::once(CommandState::Queued).chain(steps).collect();
        Some(Way { id, states })
    }

    /// What the agent said of itself, and how often it is in the journal.
    pub fn claims(&self) -> BTreeMap<&str, usize> {
        let mut claims = BTreeMap::new();
        for body in self.bodies() {
            if let Body::ClaimMade(claim) = body {
                *claims.entry(claim.text.as_str()).or_default() += 1;
            }
        }
        claims
    }

    /// Its sequence has no gap, its time and the facts of a sidecar never run backwards.
    pub fn holds_together(&self) {
        let mut facts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (n, event) in (1..).zip(&self.0) {
            assert_eq!(event.sequence, n, "a gap");
            if let Some(Body::FactsAccepted(accepted)) = &event.body {
                let last = facts.entry((&accepted.agent, &accepted.instance)).or_default();
                assert!(accepted.seq > *last, "facts of {} after {last}: {accepted:?}", accepted.agent);
                *last = accepted.seq;
            }
        }
        assert!(self.0.is_sorted_by_key(|event| event.at_ms), "time ran backwards");
    }

    /// When each claim was taken in, and when it was made, as the journal has it.
    pub fn claim_times(&self) -> Vec<(i64, i64)> {
        let of = |event: &Event| match &event.body {
            Some(Body::ClaimMade(claim)) => Some((event.at_ms, claim.made_ms)),
            _ => None,
        };
        self.0.iter().filter_map(of).collect()
    }

    /// How often a sidecar of this agent came as another process than before.
    pub fn lives(&self, agent: &str) -> usize {
        self.bodies().filter(|body| matches!(body, Body::SidecarConnected(c) if c.agent == agent)).count()
    }

    /// What its sidecar told of a command's lease, in order. What the orchestrator concludes from a hello without the
    /// lease may come before that, or not at all: it depends on who is faster.
    pub fn leases(&self, command: &str) -> Vec<v1::LeaseState> {
        let of = |body: &Body| match body {
            Body::Lease(lease) if lease.command == command && lease.detail != CAME_BACK_WITHOUT_IT => {
                v1::LeaseState::try_from(lease.state).ok()
            }
            _ => None,
        };
        self.bodies().filter_map(of).collect()
    }

    /// What became of a sidecar's signs of life, in order.
    pub fn liveness(&self, agent: &str) -> Vec<v1::SidecarStatus> {
        let of = |body: &Body| match body {
            Body::SidecarLiveness(told) if told.agent == agent => v1::SidecarStatus::try_from(told.status).ok(),
            _ => None,
        };
        self.bodies().filter_map(of).collect()
    }

    /// The last fact of an agent that was taken in.
    pub fn facts_accepted(&self, agent: &str) -> u64 {
        let of = |body: &Body| match body {
            Body::FactsAccepted(accepted) if accepted.agent == agent => Some(accepted.seq),
            _ => None,
        };
        self.bodies().filter_map(of).last().unwrap_or(0)
    }
}

/// A sidecar's memory.
#[derive(Debug)]
pub struct Kept(pitwall_sidecar_core::kept::Kept);

impl Kept {
    /// From its state directory; empty where it never wrote.
    pub fn read(state: &Path) -> Self {
        let bytes = fs::read(state.join("state")).unwrap_or_default();
        let read = pitwall_sidecar_core::kept::read(&bytes);
        let torn = matches!(read.lost, pitwall_sidecar_core::frame::Lost::Damaged { .. });
        assert!(!torn, "a kill damages nothing: {:?}", read.lost);
        Self(read.kept)
    }

    /// The instance, and which life of it wrote this.
    pub fn life(&self) -> (String, u64) {
        (self.0.life.instance.clone(), self.0.life.life)
    }

    /// Where a command is, and whether the orchestrator's word is there that it has the result.
    pub fn command(&self, id: &str) -> Option<(CommandState, bool)> {
        let command = self.0.commands.get(id)?;
        Some((CommandState::try_from(command.state).unwrap_or_default(), command.acked))
    }

    /// Claims that wait for the orchestrator.
    pub fn claims_waiting(&self) -> Vec<String> {
        let claim = |fact: &state::Fact| {
            let fact: v1::Fact = prost::Message::decode(fact.fact.as_slice()).expect("it is a fact");
            match fact.kind {
                Some(v1::fact::Kind::Claim(claim)) => Some(claim.text),
                _ => None,
            }
        };
        let (acked, facts, _) = self.0.spool.snapshot();
        facts.iter().filter(|fact| fact.seq > acked.seq).filter_map(claim).collect()
    }

    pub fn facts_waiting(&self) -> usize {
        self.0.spool.len()
    }

    /// Results that the orchestrator has not confirmed.
    pub fn results_waiting(&self) -> Vec<&str> {
        self.0.commands.values().filter(|command| !command.acked).map(|command| command.id.as_str()).collect()
    }
}
