//! One night: the cast, the pace, the plan's text, and the part of every agent. Who misbehaves is decided here and
//! known to nobody else: the product sees the plan and what the agents do, the operator part sees the product.
use std::path::{Path, PathBuf};

use super::{
    agent::part::{Backend, Devops, Endless, Frontend, Part, Runaway, Search, Text, Work},
    args::{Variant, Without},
    cast::{Cast, Dice, ROLES, Role},
    pace::Pace,
    plan::{self, Ports},
};

const MIB: u64 = 1024 * 1024;
/// What the runaway burns, in cores: the whole night stays below 1.2, so that two cores are enough for it.
const BURN: f64 = 0.85;

#[derive(Clone, Debug)]
pub struct Night {
    pub variant: Variant,
    pub cast: Cast,
    pub pace: Pace,
    /// In which order sidecars are started.
    pub order: Vec<Role>,
}

/// Where things are while a night goes on.
#[derive(Clone, Debug)]
pub struct Places {
    pub root: PathBuf,
    /// Each agent in a container of its own.
    pub contained: bool,
}

impl Places {
    pub fn plan(&self) -> PathBuf {
        self.root.join("plan.yaml")
    }

    pub fn lifeline(&self) -> PathBuf {
        self.root.join("lifeline")
    }

    /// A directory of one agent: `workspace`, `inbox`, `state`.
    pub fn of(&self, agent: &str, what: &str) -> PathBuf {
        if self.contained { Path::new("/").join(what) } else { self.root.join(agent).join(what) }
    }

    pub fn part(&self, name: &str) -> PathBuf {
        self.root.join("parts").join(format!("{name}.json"))
    }

    pub fn program(&self, name: &str) -> PathBuf {
        if self.contained { Path::new("/usr/local/bin").join(name) } else { self.root.join("bin").join(name) }
    }

    pub fn log(&self, name: &str) -> PathBuf {
        let file = format!("{name}.log");
        if self.contained { Path::new("/tmp").join(file) } else { self.root.join("logs").join(file) }
    }
}

impl Night {
    pub fn new(variant: Variant) -> Self {
        let cast = Cast::of(variant.seed);
        let mut dice = Dice::new(variant.seed ^ 0x70_69_74);
        let pace = Pace::of(variant.windows, &mut dice);
        let mut order: Vec<Role> = ROLES.into_iter().filter(|r| *r != Role::Docs).collect();
        dice.shuffle(&mut order);
        Self { variant, cast, pace, order }
    }

    pub fn yaml(&self, ports: Ports) -> String {
        plan::yaml(&self.cast, &self.pace, ports)
    }

    /// Roles that have a sidecar.
    pub fn watched(&self) -> Vec<Role> {
        let mut roles = self.order.clone();
        if !self.variant.has(Without::Absent) {
            roles.push(Role::Docs);
        }
        roles
    }

    /// Whether its sidecar starts the agent only when it is activated.
    pub fn held(&self, role: Role) -> bool {
        role == Role::Design && self.variant.has(Without::Absent)
    }

    /// Whether the plan expects this agent early, as it is one of those that do not show up.
    pub fn is_absent(&self, agent: &str) -> bool {
        [Role::Design, Role::Docs].iter().any(|role| self.cast.name(*role) == agent)
    }

    /// The name of the program that a role runs as.
    pub fn program(&self, role: Role) -> String {
        format!("{}-agent", self.cast.name(role))
    }

    pub fn part(&self, role: Role, places: &Places, ports: Ports) -> Part {
        let name = self.cast.name(role);
        let work = match role {
            Role::Backend => Work::Backend(self.backend(ports)),
            Role::Frontend => Work::Frontend(self.frontend(places, ports)),
            Role::AiMl => Work::Search(self.search(ports)),
            Role::Devops => Work::Devops(self.devops(ports)),
            Role::Integration | Role::Testing => Work::Patient,
            Role::Design => self.author(&self.cast.tokens, &["colors.css", "space.css", "type.css"]),
            Role::Docs => self.author("", &["guide.md"]),
        };
        self.wrap(name, places, work)
    }

    /// The part of frontend's development server.
    pub fn runaway(&self, places: &Places) -> Part {
        let wild = self.variant.has(Without::Runaway);
        let work = Work::Runaway(Runaway {
            log: places.log(&self.cast.runaway),
            cpu_limit: plan::CPU_LIMIT,
            memory_limit_bytes: plan::MEMORY_LIMIT_MIB * MIB,
            cpu_ms: wild.then_some(self.pace.moments.cpu_ms),
            memory_after_ms: self.pace.moments.memory_after_ms,
            burn: BURN,
            grow_bytes: (plan::MEMORY_LIMIT_MIB + 96) * MIB,
        });
        self.wrap(self.cast.name(Role::Frontend), places, work)
    }

    fn wrap(&self, agent: &str, places: &Places, work: Work) -> Part {
        Part {
            workspace: places.of(agent, "workspace"),
            inbox: places.of(agent, "inbox"),
            // A container ends with its engine's word.
            lifeline: (!places.contained).then(|| places.lifeline()),
            work,
        }
    }

    fn backend(&self, ports: Ports) -> Backend {
        let (cast, m) = (&self.cast, &self.pace.moments);
        let auth = format!("{}/api/auth", cast.source);
        let mut first: Vec<Text> = ["session.ts", "login.ts", "logout.ts"]
            .iter()
            .map(|file| Text {
                path: format!("{auth}/{file}"),
                text: format!("// {file}\nexport const ready = true\n"),
            })
            .collect();
        let drifts = self.variant.has(Without::Misdirected);
        if !drifts {
            // Frontend's login waits for this all night, and two files do not prove it: backend is at what somebody
            // waits for.
            first.truncate(1);
        }
        let then = if drifts {
            Endless {
                directory: cast.side.clone(),
                words: cast.side_words.clone(),
                files: None,
                every_ms: m.side_every_ms,
            }
        } else {
            Endless { directory: auth, words: vec!["session".into()], files: Some(1), every_ms: m.side_every_ms }
        };
        let claim = |share: f64| format!("{} at {:.0} %, nearly there", cast.api(), share * 100.0);
        Backend {
            source: cast.source.clone(),
            port: ports.api,
            anywhere: ports.by_name,
            first,
            first_every_ms: m.auth_every_ms,
            claims: vec![(m.first_claim_ms, 0.76, claim(0.76)), (m.second_claim_ms, 0.86, claim(0.86))],
            then,
            look_every_ms: m.look_every_ms,
            obey_after_ms: m.obey_after_ms,
            own_route: (!self.variant.has(Without::Missing)).then(|| (m.own_route_ms, cast.route_path())),
        }
    }

    fn frontend(&self, places: &Places, ports: Ports) -> Frontend {
        let (cast, m) = (&self.cast, &self.pace.moments);
        let page = |path: String, what: &str| Text {
            path,
            text: format!("export default function {what}() {{ return <main>{what}</main> }}\n"),
        };
        let dir = cast.page_dir();
        let mut at_once = vec![(m.layout_ms, page(format!("{}/layout.tsx", cast.source), "Layout"))];
        if self.variant.has(Without::Misdirected) {
            at_once.push((m.login_ms, page(format!("{}/login/page.tsx", cast.source), "Login")));
        }
        Frontend {
            at_once,
            claim: (m.layout_ms, 0.4, "layout and login".into()),
            api_host: ports.host_of(cast.name(Role::Backend)).into(),
            api_port: ports.api,
            api_path: format!("/api/{}", cast.resource),
            poll_every_ms: m.poll_every_ms,
            page: vec![
                page(format!("{dir}/row.tsx"), "Row"),
                page(format!("{dir}/filter.tsx"), "Filter"),
                page(format!("{dir}/empty.tsx"), "Empty"),
                page(cast.page_path(), "Page"),
            ],
            page_step_ms: m.page_step_ms,
            server: places.program(&cast.runaway),
            server_part: places.part(&cast.runaway),
        }
    }

    fn search(&self, ports: Ports) -> Search {
        let m = &self.pace.moments;
        let model = Text { path: "embeddings/model.py".into(), text: "DIMENSIONS = 384\n".into() };
        Search {
            at_once: vec![(m.embeddings_ms, model)],
            host: ports.host_of(self.cast.name(Role::Devops)).into(),
            port: ports.database,
            poll_every_ms: m.poll_every_ms,
            then: Endless {
                directory: "index".into(),
                words: vec!["shard".into()],
                files: None,
                every_ms: m.devops_step_ms,
            },
        }
    }

    fn devops(&self, ports: Ports) -> Devops {
        let (db, m) = (&self.cast.database, &self.pace.moments);
        let text = |path: String, text: &str| Text { path, text: text.into() };
        Devops {
            step_ms: m.devops_step_ms,
            begun: vec![
                text("infra/gpu/driver.yaml".into(), "driver: 570\n"),
                text(format!("infra/{db}/compose.yaml"), "services: {}\n"),
            ],
            notes: vec!["infra/gpu/notes.md".into(), format!("infra/{db}/notes.md")],
            finish: vec![(m.gpu_ms, text("infra/gpu/devices.yaml".into(), "devices: [0, 1]\n"))],
            serve_at_ms: m.database_ms,
            port: ports.database,
            anywhere: ports.by_name,
        }
    }

    fn author(&self, directory: &str, names: &[&str]) -> Work {
        let path = |name: &&str| if directory.is_empty() { (*name).to_owned() } else { format!("{directory}/{name}") };
        let files = names.iter().map(|name| Text { path: path(name), text: format!("/* {name} */\n") }).collect();
        Work::Author { files, every_ms: self.pace.moments.design_step_ms }
    }
}

/// The parts of everybody who has one, by the name of their file.
pub fn save_parts(night: &Night, places: &Places, ports: Ports) -> std::io::Result<()> {
    let save = |part: Part, path: &Path| part.save(path);
    for role in ROLES {
        save(night.part(role, places, ports), &places.part(night.cast.name(role)))?;
    }
    save(night.runaway(places), &places.part(&night.cast.runaway))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::args::Windows;

    fn night(seed: u64, without: &[Without]) -> Night {
        Night::new(Variant {
            seed,
            without: without.to_vec(),
            operator: true,
            suppress_inbox: false,
            windows: Windows::Short,
        })
    }

    const PORTS: Ports = Ports { api: 1, database: 2, by_name: false };

    /// The paths that the plan's checks look at must be the ones that the agents write.
    #[test]
    fn agents_write_what_the_plan_checks_whatever_the_seed() {
        let places = Places { root: "/night".into(), contained: false };
        for seed in 0..50 {
            let night = night(seed, &[]);
            let yaml = night.yaml(PORTS);
            let Work::Frontend(frontend) = night.part(Role::Frontend, &places, PORTS).work else { panic!("frontend") };
            for (_, text) in &frontend.at_once {
                assert!(yaml.contains(&format!("path: {} ", text.path)), "seed {seed}: {}", text.path);
            }
            let page = frontend.page.last().expect("a page");
            assert!(yaml.contains(&format!("path: {},", page.path)), "seed {seed}: {}", page.path);
            assert!(yaml.contains(&format!("127.0.0.1:1{}\"", frontend.api_path)), "seed {seed}");
            let Work::Author { files, .. } = night.part(Role::Design, &places, PORTS).work else { panic!("design") };
            assert!(files.iter().all(|f| f.path.starts_with(&night.cast.tokens)) && files.len() == 3);
        }
    }

    #[test]
    fn backend_does_not_know_the_route_unless_it_behaves() {
        let places = Places { root: "/night".into(), contained: false };
        let of = |night: &Night| serde_json::to_string(&night.part(Role::Backend, &places, PORTS)).expect("JSON");
        assert!(!of(&night(0, &[])).contains("route.ts"));
        assert!(!of(&night(0, &[Without::Misdirected])).contains("route.ts"));
        assert!(of(&night(0, &[Without::Missing])).contains("app/api/talents/route.ts"));
    }

    #[test]
    fn who_is_absent_has_no_agent_or_no_sidecar() {
        let usual = night(3, &[]);
        assert!(usual.held(Role::Design) && !usual.watched().contains(&Role::Docs));
        assert_eq!(usual.watched().len(), 7);
        let behaving = night(3, &[Without::Absent]);
        assert!(!behaving.held(Role::Design) && behaving.watched().contains(&Role::Docs));
    }

    /// `deploy/night` holds this very night. To write it anew after a change: PITWALL_WRITE_NIGHT=1.
    #[test]
    fn the_night_in_containers_is_the_night_of_seed_0() {
        let mut night = night(0, &[]);
        night.variant.windows = Windows::Full;
        let night = Night::new(night.variant);
        let places = Places { root: "/night".into(), contained: true };
        let ports = Ports { api: 3000, database: 6333, by_name: true };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/night");
        let parts = ROLES.iter().map(|role| (night.cast.name(*role).to_owned(), night.part(*role, &places, ports)));
        let mut files: Vec<(PathBuf, String)> = parts
            .chain([(night.cast.runaway.clone(), night.runaway(&places))])
            .map(|(name, part)| {
                (format!("parts/{name}.json").into(), serde_json::to_string_pretty(&part).expect("JSON"))
            })
            .collect();
        files.push(("plan.yaml".into(), night.yaml(ports).replace("    inbox: inbox", "    inbox: /inbox")));
        for (file, text) in files {
            let path = folder.join(file);
            if std::env::var_os("PITWALL_WRITE_NIGHT").is_some() {
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                std::fs::write(&path, &text).expect("written");
            }
            let there = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(there, text, "{} is not this night's", path.display());
        }
    }
}
