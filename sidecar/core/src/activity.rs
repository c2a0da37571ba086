//! File changes, attributed to deliverables by the paths of their checks and summed up per `activity_every`.
use std::collections::BTreeMap;

use globset::{GlobBuilder, GlobMatcher};
use pitwall_proto::v1::{self, check::Rule};

const EXAMPLES_MAX: usize = 5;
const EXAMPLE_BYTES: usize = 240;

/// Which files a check looks at.
#[derive(Debug)]
enum Reach {
    File(String),
    Glob(Box<GlobMatcher>),
    /// With the slash at its end; empty: the whole workspace.
    Below(String),
}

impl Reach {
    fn of(check: &v1::Check) -> Option<Self> {
        match check.rule.as_ref()? {
            Rule::File(file) => {
                let path = plain(&file.path);
                let glob = path.contains(['*', '?', '[', '{']);
                let matcher = glob.then(|| GlobBuilder::new(&path).literal_separator(true).build().ok()).flatten();
                Some(matcher.map_or(Reach::File(path), |g| Reach::Glob(Box::new(g.compile_matcher()))))
            }
            Rule::Directory(directory) => {
                let path = plain(&directory.path);
                Some(Reach::Below(if path.is_empty() { path } else { format!("{path}/") }))
            }
            Rule::Http(_) | Rule::Tcp(_) | Rule::Process(_) | Rule::Grpc(_) => None,
        }
    }

    fn holds(&self, path: &str) -> bool {
        match self {
            Reach::File(own) => own == path,
            Reach::Glob(glob) => glob.is_match(path),
            Reach::Below(prefix) => path.starts_with(prefix.as_str()),
        }
    }
}

/// Without `./` at the front, `/` at the end, or doubled slashes.
fn plain(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    parts.join("/")
}

/// Whose files are whose: made anew with each part of the plan.
#[derive(Debug, Default)]
pub struct Paths {
    reaches: Vec<(String, String, Reach)>,
}

impl Paths {
    pub fn of(plan: &v1::AgentPlan) -> Self {
        let reaches = plan
            .deliverables
            .iter()
            .flat_map(|d| d.checks.iter().filter_map(|c| Some((d.name.clone(), c.id.clone(), Reach::of(c)?))));
        Self { reaches: reaches.collect() }
    }

    /// Deliverable and check id of every check that looks at this file.
    pub fn checks_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.reaches.iter().filter(move |(_, _, reach)| reach.holds(path)).map(|(d, c, _)| (d.as_str(), c.as_str()))
    }
}

#[derive(Debug, Default)]
pub struct Activity {
    opened: Option<u64>,
    deliverables: BTreeMap<String, u32>,
    unattributed: u32,
    examples: Vec<String>,
}

impl Activity {
    pub fn changed(&mut self, now: u64, paths: &Paths, changed: &[String], more: u32) {
        if changed.is_empty() && more == 0 {
            return;
        }
        self.opened.get_or_insert(now);
        self.unattributed = self.unattributed.saturating_add(more);
        for path in changed {
            let mut owners: Vec<&str> = paths.checks_of(path).map(|(deliverable, _)| deliverable).collect();
            owners.dedup();
            if owners.is_empty() {
                self.unattributed = self.unattributed.saturating_add(1);
            }
            for owner in owners {
                let count = self.deliverables.entry(owner.to_owned()).or_default();
                *count = count.saturating_add(1);
            }
            if self.examples.len() < EXAMPLES_MAX && !self.examples.contains(path) {
                self.examples.push(path[..path.floor_char_boundary(EXAMPLE_BYTES)].to_owned());
            }
        }
    }

    pub fn deadline(&self, every: u64) -> Option<u64> {
        self.opened.map(|at| at + every)
    }

    /// The sum, once its time is over.
    pub fn due(&mut self, now: u64, every: u64) -> Option<v1::ActivityFact> {
        self.deadline(every).filter(|at| *at <= now)?;
        let opened = self.opened?;
        let done = std::mem::take(self);
        Some(v1::ActivityFact {
            window_ms: u32::try_from(now.saturating_sub(opened)).unwrap_or(u32::MAX),
            deliverables: done
                .deliverables
                .into_iter()
                .map(|(deliverable, changes)| v1::DeliverableActivity { deliverable, changes })
                .collect(),
            unattributed: done.unattributed,
            examples: done.examples,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Rule {
        Rule::File(v1::FileCheck { path: path.into(), ..Default::default() })
    }

    fn paths(rules: &[(&str, Rule)]) -> Paths {
        let deliverables = rules.iter().enumerate().map(|(n, (name, rule))| v1::DeliverablePlan {
            name: (*name).into(),
            checks: vec![v1::Check { id: format!("c{n}"), rule: Some(rule.clone()), ..Default::default() }],
            ..Default::default()
        });
        Paths::of(&v1::AgentPlan { deliverables: deliverables.collect(), ..Default::default() })
    }

    #[test]
    fn a_file_belongs_to_the_deliverables_whose_checks_look_at_it() {
        let paths = paths(&[
            ("api", file("./app/api/route.ts")),
            ("pages", file("app/**/page.tsx")),
            ("flat", file("src/*.rs")),
            ("tokens", Rule::Directory(v1::DirectoryCheck { path: "design-system/".into(), min_files: 3 })),
            ("web", Rule::Http(v1::HttpCheck { url: "http://localhost/".into(), ..Default::default() })),
        ]);
        let table = [
            ("app/api/route.ts", vec!["api"]),
            ("app/api/route.tsx", vec![]),
            ("app/page.tsx", vec!["pages"]),
            ("app/a/b/page.tsx", vec!["pages"]),
            ("src/lib.rs", vec!["flat"]),
            ("src/deep/lib.rs", vec![]),
            ("design-system/colors/red.json", vec!["tokens"]),
            ("design-system-old/red.json", vec![]),
        ];
        for (path, owners) in table {
            assert_eq!(paths.checks_of(path).map(|(d, _)| d).collect::<Vec<_>>(), owners, "{path}");
        }
    }

    #[test]
    fn changes_are_summed_up_and_told_when_the_time_is_over() {
        let paths = paths(&[("api", file("api.ts")), ("all", file("*.ts"))]);
        let mut activity = Activity::default();
        assert_eq!(activity.deadline(1_000), None);
        activity.changed(100, &paths, &["api.ts".into(), "notes.md".into()], 0);
        activity.changed(900, &paths, &["b.ts".into(), "api.ts".into()], 7);
        assert_eq!(activity.due(1_099, 1_000), None);
        let fact = activity.due(1_100, 1_000).expect("due");
        let counts: Vec<_> = fact.deliverables.iter().map(|d| (d.deliverable.as_str(), d.changes)).collect();
        assert_eq!(counts, [("all", 3), ("api", 2)]);
        assert_eq!((fact.unattributed, fact.window_ms), (8, 1_000));
        assert_eq!(fact.examples, ["api.ts", "notes.md", "b.ts"]);
        assert_eq!(activity.due(9_999, 1_000), None);
    }

    #[test]
    fn no_change_opens_no_window() {
        let mut activity = Activity::default();
        activity.changed(1, &Paths::default(), &[], 0);
        assert_eq!(activity.deadline(5), None);
    }

    #[test]
    fn examples_are_few_and_short() {
        let mut activity = Activity::default();
        let many: Vec<String> = (0..50).map(|n| format!("{n}{}", "ü".repeat(500))).collect();
        activity.changed(1, &Paths::default(), &many, 0);
        let fact = activity.due(10, 5).expect("due");
        assert_eq!((fact.examples.len(), fact.unattributed), (5, 50));
        assert!(fact.examples.iter().all(|e| e.len() <= EXAMPLE_BYTES));
    }
}
