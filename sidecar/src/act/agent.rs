//! Who the agent is right now: shared by the actor, which starts it, and the sampler, which measures it.
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pitwall_proto::v1;

use crate::sample::beside::Beside;
use crate::sample::cgroup::Places;
use crate::sample::members::{Look, Members};
use crate::sample::procfs::{ProcFs, Stat};

/// Cheap to clone; all clones see the same agent.
#[derive(Clone, Default)]
pub struct AgentHandle {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    view: Mutex<Arc<AgentView>>,
    /// Here, so that what the sampler once saw as the agent's may be killed as the agent's.
    members: Mutex<Members>,
}

#[derive(Clone, Debug, Default)]
pub struct AgentView {
    /// Set for as long as a process of the agent may be left, also when the root itself has ended.
    pub root: Option<v1::ProcessIdentity>,
    /// Started by this sidecar or an earlier life of it, in a session of its own.
    pub launched: bool,
    /// The cgroups that hold the agent and nothing else; empty where there are none.
    pub places: Places,
    /// The cgroup that the sidecar's owner named: it may come and go, and its oldest process is the root.
    pub named_cgroup: Option<PathBuf>,
    /// The agent is in a container of its own that shares this pid namespace.
    pub beside: Option<Arc<Beside>>,
}

impl AgentHandle {
    pub fn new(view: AgentView) -> Self {
        let shared = Shared { view: Mutex::new(Arc::new(view)), members: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    pub fn view(&self) -> Arc<AgentView> {
        let mut view = lock(&self.shared.view);
        if let Some(directory) = &view.named_cgroup
            && !view.places.members().is_some_and(|d| d.is_dir())
        {
            let places = Places::of_directory(directory);
            if places != view.places {
                *view = Arc::new(AgentView { places, ..AgentView::clone(&view) });
            }
        }
        view.clone()
    }

    /// Changes the view for all.
    pub fn change(&self, how: impl FnOnce(&mut AgentView)) {
        let mut view = lock(&self.shared.view);
        let mut changed = AgentView::clone(&view);
        how(&mut changed);
        *view = Arc::new(changed);
    }

    /// Beside the sidecar: how many processes wait to become the agent.
    pub fn holding(&self) -> usize {
        self.processes(&mut ProcFs::default(), &mut Vec::new());
        lock(&self.shared.members).holding
    }

    /// The living processes of the agent. Blocks for as long as `/proc` takes.
    pub fn processes(&self, proc: &mut impl Look, into: &mut Vec<Stat>) {
        let view = self.view();
        lock(&self.shared.members).look(proc, &view, std::process::id() as i32, into);
    }
}

/// A panic elsewhere leaves these values whole: each is replaced at once.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
