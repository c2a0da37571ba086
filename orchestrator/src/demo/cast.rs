//! Who plays in the night, drawn from a seed: names, paths, contents. Seed 0 is the night as it was written down.
//! Nothing here is known to the product; it reaches it as a plan, and the agents as their own part only.

/// A small seeded generator (splitmix64): the same seed is the same night on every machine.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n.max(1)).unwrap_or(1);
        usize::try_from(self.next() % n).unwrap_or(0)
    }

    pub fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// `ms`, up to 15 % earlier or later.
    pub fn about(&mut self, ms: u64) -> u64 {
        let spread = ms * 30 / 100;
        ms - spread / 2 + self.next() % (spread + 1)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Backend,
    Frontend,
    AiMl,
    Devops,
    Integration,
    Testing,
    Design,
    /// The eighth, which has no sidecar.
    Docs,
}

pub const ROLES: [Role; 8] = [
    Role::Backend,
    Role::Frontend,
    Role::AiMl,
    Role::Devops,
    Role::Integration,
    Role::Testing,
    Role::Design,
    Role::Docs,
];

/// Names and paths of one night.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cast {
    pub project: String,
    names: Vec<String>,
    /// What the API is about: `talents`.
    pub resource: String,
    /// Where the agents keep their source: `app` or `src/app`.
    pub source: String,
    /// Backend's work that nobody waits for.
    pub side: String,
    /// Words for the files that it writes meanwhile.
    pub side_words: Vec<String>,
    /// Devops' vector database.
    pub database: String,
    /// A directory of design's.
    pub tokens: String,
    /// The process that runs away.
    pub runaway: String,
}

impl Cast {
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        // Seed 0 takes the first of each list.
        let mut pick = |of: &[&str]| if seed == 0 { of[0].to_owned() } else { dice.pick(of).to_owned() };
        let names = vec![
            pick(&["backend", "api", "server", "services"]),
            pick(&["frontend", "web", "ui", "client"]),
            pick(&["ai-ml", "ml", "search-ai", "models"]),
            pick(&["devops", "infra", "platform", "ops"]),
            pick(&["integration", "glue", "pipelines"]),
            pick(&["testing", "qa", "e2e"]),
            pick(&["design", "ux", "brand"]),
            pick(&["docs", "handbook", "writing"]),
        ];
        let words = ["roles", "audit", "export", "banner", "charts", "themes", "invites", "billing", "search"];
        let project = pick(&["talent-platform", "league", "stage-door", "scout", "paddock"]);
        let resource = pick(&["talents", "players", "drivers", "singers", "coaches", "venues"]);
        let source = pick(&["app", "src/app", "site/app"]);
        let side = pick(&["admin-console", "reports", "back-office", "newsletter"]);
        let database = pick(&["qdrant", "milvus", "weaviate", "vectors"]);
        let tokens = pick(&["design-system", "tokens", "styles/system"]);
        let mut side_words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        if seed != 0 {
            dice.shuffle(&mut side_words);
        }
        Self { project, names, resource, source, side, side_words, database, tokens, runaway: "next-server".into() }
    }

    pub fn name(&self, role: Role) -> &str {
        &self.names[role as usize]
    }

    /// The deliverable everybody waits for.
    pub fn api(&self) -> String {
        format!("{}-api", self.resource)
    }

    pub fn route_path(&self) -> String {
        format!("{}/api/{}/route.ts", self.source, self.resource)
    }

    /// `agent/deliverable` of the API.
    pub fn api_id(&self) -> String {
        format!("{}/{}", self.name(Role::Backend), self.api())
    }

    /// What frontend makes of it.
    pub fn list(&self) -> String {
        format!("{}-list", self.resource)
    }

    pub fn page_dir(&self) -> String {
        format!("{}/{}", self.source, self.resource)
    }

    pub fn page_path(&self) -> String {
        format!("{}/page.tsx", self.page_dir())
    }

    pub fn vector_db(&self) -> String {
        format!("{}-db", self.database)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seed_0_is_the_night_as_it_was_written_down() {
        let cast = Cast::of(0);
        let names: Vec<&str> = ROLES.iter().map(|r| cast.name(*r)).collect();
        assert_eq!(names, ["backend", "frontend", "ai-ml", "devops", "integration", "testing", "design", "docs"]);
        assert_eq!(cast.route_path(), "app/api/talents/route.ts");
        assert_eq!(cast.api_id(), "backend/talents-api");
    }

    #[test]
    fn the_same_seed_is_the_same_night_and_seeds_differ() {
        let mut nights = BTreeSet::new();
        for seed in 0..40 {
            let cast = Cast::of(seed);
            assert_eq!(cast, Cast::of(seed));
            let names: BTreeSet<&str> = ROLES.iter().map(|r| cast.name(*r)).collect();
            assert_eq!(names.len(), ROLES.len(), "seed {seed}: {names:?}");
            nights.insert(format!("{cast:?}"));
        }
        assert!(nights.len() > 35, "only {} different nights", nights.len());
    }

    #[test]
    fn times_vary_by_at_most_15_percent() {
        let mut dice = Dice::new(7);
        for _ in 0..1_000 {
            let ms = dice.about(1_000);
            assert!((850..=1_150).contains(&ms), "{ms}");
        }
    }
}
