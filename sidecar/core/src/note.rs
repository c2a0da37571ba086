//! What an agent that is started again finds in its inbox: why it was, what of its work is verified, what is open, and
//! who waits. An agent remembers nothing of its last life; this is what it would have to know.
use std::collections::BTreeMap;

use pitwall_proto::v1::{self, Outcome};

/// Lines of one list, at most.
const LISTED_MAX: usize = 50;

/// `RESUME-4.md`: for that incarnation.
pub fn file_name(incarnation: u64) -> String {
    format!("RESUME-{incarnation}.md")
}

/// The last verdict of each check, by deliverable and check.
pub type Verdicts<'a> = BTreeMap<(&'a str, &'a str), &'a v1::VerdictFact>;

pub fn text(why: &str, plan: Option<&v1::AgentPlan>, verdicts: &Verdicts<'_>) -> String {
    let mut lines = vec!["# You were started again".to_owned(), String::new(), why.trim_end().to_owned()];
    let deliverables = plan.map_or(&[][..], |p| &p.deliverables);
    let (mut verified, mut open) = (Vec::new(), Vec::new());
    for deliverable in deliverables {
        let seen = |check: &v1::Check| {
            let verdict = verdicts.get(&(deliverable.name.as_str(), check.id.as_str()));
            verdict.filter(|v| v.check_digest == check.digest).copied()
        };
        let passes = |check: &v1::Check| seen(check).is_some_and(|v| v.outcome() == Outcome::Passed);
        let required = |check: &&v1::Check| check.required || deliverable.checks.iter().all(|c| !c.required);
        let missing: Vec<_> = deliverable.checks.iter().filter(required).filter(|c| !passes(c)).collect();
        if missing.is_empty() && !deliverable.checks.is_empty() {
            verified.push(format!("- {}", titled(deliverable)));
            continue;
        }
        open.push(format!("- {}", titled(deliverable)));
        open.extend(missing.into_iter().map(|check| {
            let verdict = seen(check);
            let summary = verdict.and_then(|v| v.evidence.as_ref()).map_or("", |e| e.summary.as_str());
            match verdict.map(|v| v.outcome()) {
                Some(Outcome::Failed) if !summary.is_empty() => format!("  - {} fails: {summary}", check.id),
                Some(Outcome::Failed) => format!("  - {} fails", check.id),
                _ => format!("  - {} is not known yet", check.id),
            }
        }));
    }
    section(&mut lines, "Verified already, leave it as it is:", verified);
    section(&mut lines, "Open:", open);
    let waiting = plan.map_or(&[][..], |p| &p.needed_by).iter().map(|who| format!("- {who}")).collect();
    section(&mut lines, "These wait for your work:", waiting);
    lines.push(String::new());
    lines.join("\n")
}

fn titled(deliverable: &v1::DeliverablePlan) -> String {
    if deliverable.title.is_empty() || deliverable.title == deliverable.name {
        deliverable.name.clone()
    } else {
        format!("{}: {}", deliverable.name, deliverable.title)
    }
}

fn section(lines: &mut Vec<String>, title: &str, mut list: Vec<String>) {
    if list.is_empty() {
        return;
    }
    let more = list.len().saturating_sub(LISTED_MAX);
    list.truncate(LISTED_MAX);
    lines.extend([String::new(), title.to_owned(), String::new()]);
    lines.extend(list);
    if more > 0 {
        lines.push(format!("- and {more} more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, required: bool) -> v1::Check {
        v1::Check { id: id.into(), digest: "d".into(), required, ..Default::default() }
    }

    fn verdict(check: &str, outcome: Outcome, summary: &str) -> v1::VerdictFact {
        let evidence = Some(v1::Evidence { summary: summary.into(), ..Default::default() });
        v1::VerdictFact {
            check_id: check.into(),
            check_digest: "d".into(),
            outcome: outcome as i32,
            evidence,
            ..Default::default()
        }
    }

    #[test]
    fn a_note_says_why_what_is_done_what_is_open_and_who_waits() {
        let deliverable =
            |name: &str, title: &str, checks| v1::DeliverablePlan { name: name.into(), title: title.into(), checks };
        let plan = v1::AgentPlan {
            deliverables: vec![
                deliverable("api", "GET /api", vec![check("file:api.ts", true), check("file:notes", false)]),
                deliverable("docs", "docs", vec![check("file:a.md", true), check("file:b.md", true)]),
            ],
            needed_by: vec!["frontend/page".into()],
            ..Default::default()
        };
        let (passed, failed) = (verdict("", Outcome::Passed, ""), verdict("", Outcome::Failed, "a.md: no such file"));
        let verdicts = Verdicts::from([(("api", "file:api.ts"), &passed), (("docs", "file:a.md"), &failed)]);
        assert_eq!(
            text("It used 2.1 GiB of 2.0 GiB of memory for 30 s.", Some(&plan), &verdicts),
            "# You were started again\n\
             \n\
             It used 2.1 GiB of 2.0 GiB of memory for 30 s.\n\
             \n\
             Verified already, leave it as it is:\n\
             \n\
             - api: GET /api\n\
             \n\
             Open:\n\
             \n\
             - docs\n  \
               - file:a.md fails: a.md: no such file\n  \
               - file:b.md is not known yet\n\
             \n\
             These wait for your work:\n\
             \n\
             - frontend/page\n"
        );
        // A verdict of another rule proves nothing.
        let other = v1::VerdictFact { check_digest: "other".into(), ..passed };
        let verdicts = Verdicts::from([(("api", "file:api.ts"), &other)]);
        assert!(text("x", Some(&plan), &verdicts).contains("- file:api.ts is not known yet"));
    }

    #[test]
    fn without_a_plan_it_says_why_at_least() {
        assert_eq!(
            text("An operator asked.", None, &Verdicts::new()),
            "# You were started again\n\nAn operator asked.\n"
        );
        assert_eq!(file_name(4), "RESUME-4.md");
    }

    #[test]
    fn a_note_is_bounded() {
        let waiting = (0..1_000).map(|n| format!("a{n}/d")).collect();
        let plan = v1::AgentPlan { needed_by: waiting, ..Default::default() };
        let text = text("x", Some(&plan), &Verdicts::new());
        assert!(text.lines().count() < 60 && text.contains("and 950 more"), "{text}");
    }
}
