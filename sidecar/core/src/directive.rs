//! A directive as the agent finds it in its inbox: a file name that says how urgent it is, and a text that says what is
//! asked, what it is about, and what will prove it done.
use pitwall_proto::v1::{self, Priority, check::Rule};

const NAME_ID_BYTES: usize = 100;

/// `URGENT-c12-ab.md`. What an id may not hold in a file name becomes `_`.
pub fn file_name(id: &str, directive: &v1::Directive) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let id: String = id.chars().take(NAME_ID_BYTES).map(|c| if fits(c) { c } else { '_' }).collect();
    let prefix = match directive.priority() {
        Priority::Urgent => "URGENT",
        Priority::Normal | Priority::Unspecified => "NOTE",
    };
    format!("{prefix}-{id}.md")
}

pub fn text(id: &str, directive: &v1::Directive, plan: Option<&v1::AgentPlan>) -> String {
    let about = plan.and_then(|p| p.deliverables.iter().find(|d| d.name == directive.about));
    let urgent = directive.priority() == Priority::Urgent;
    let mut lines = Vec::new();
    let subject = match about {
        Some(d) => d.title.clone(),
        None if !directive.about.is_empty() => directive.about.clone(),
        None => "a message for you".into(),
    };
    lines.push(format!("# {}{subject}", if urgent { "URGENT: " } else { "" }));
    lines.push(String::new());
    lines.push(directive.text.trim_end().to_owned());
    if !directive.about.is_empty() {
        lines.push(String::new());
        lines.push(format!("About your deliverable: {}", directive.about));
    }
    if let Some(deliverable) = about.filter(|d| !d.checks.is_empty()) {
        lines.push(String::new());
        lines.push("It counts as done when these hold (they are checked; what you say of it does not count):".into());
        lines.push(String::new());
        lines.extend(deliverable.checks.iter().map(|check| format!("- {}", proof(check))));
    }
    lines.push(String::new());
    lines.push(format!("(command {id})"));
    lines.push(String::new());
    lines.join("\n")
}

fn quoted(texts: &[String]) -> String {
    texts.iter().map(|t| format!("`{t}`")).collect::<Vec<_>>().join(", ")
}

fn proof(check: &v1::Check) -> String {
    let optional = if check.required { "" } else { " (not required)" };
    let rule = match &check.rule {
        Some(Rule::File(file)) => {
            let glob = file.path.contains(['*', '?', '[', '{']);
            let mut text = format!("{} `{}` exists", if glob { "a file that fits" } else { "the file" }, file.path);
            match (file.min_bytes, file.max_bytes) {
                (Some(min), Some(max)) => text += &format!(", has {min} to {max} bytes"),
                (Some(min), None) if min > 1 => text += &format!(", has at least {min} bytes"),
                (None, Some(max)) => text += &format!(", has at most {max} bytes"),
                (Some(_) | None, None) => text += ", is not empty",
            }
            if !file.contains.is_empty() {
                text += &format!(", contains {}", quoted(&file.contains));
            }
            if !file.forbids.is_empty() {
                text += &format!(", and does not contain {}", quoted(&file.forbids));
            }
            text
        }
        Some(Rule::Directory(directory)) => {
            let files = if directory.min_files == 1 { "file" } else { "files" };
            format!("the directory `{}` holds at least {} {files}", directory.path, directory.min_files)
        }
        Some(Rule::Http(http)) => {
            let mut text = format!("GET {} answers with status {}", http.url, http.status);
            for condition in &http.json {
                text += &match condition.equals_json.as_str() {
                    "" => format!(", its JSON has `{}`", condition.pointer),
                    value => format!(", its JSON has {value} at `{}`", condition.pointer),
                };
            }
            text
        }
        Some(Rule::Tcp(tcp)) => format!("something listens on {}", tcp.address),
        Some(Rule::Process(process)) => format!("a process `{}` of yours runs", process.name),
        Some(Rule::Grpc(grpc)) if grpc.service.is_empty() => {
            format!("{} serves, as its gRPC health says", grpc.address)
        }
        Some(Rule::Grpc(grpc)) => format!("{} serves `{}`, as its gRPC health says", grpc.address, grpc.service),
        None => format!("the check {}", check.id),
    };
    format!("{rule}{optional}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directive_reads_well() {
        let file = v1::FileCheck {
            path: "app/api/talents/route.ts".into(),
            contains: vec!["export async function GET".into()],
            forbids: vec!["TODO".into()],
            ..Default::default()
        };
        let http = v1::HttpCheck {
            url: "http://backend:3000/api/talents".into(),
            status: 200,
            json: vec![v1::JsonCondition { pointer: "/talents/0/id".into(), equals_json: String::new() }],
        };
        let check = |rule| v1::Check { required: true, rule: Some(rule), ..Default::default() };
        let deliverable = v1::DeliverablePlan {
            name: "talents-api".into(),
            title: "GET /api/talents".into(),
            checks: vec![check(Rule::File(file)), check(Rule::Http(http))],
        };
        let plan = v1::AgentPlan { deliverables: vec![deliverable], ..Default::default() };
        let directive = v1::Directive {
            text: "Frontend waits for this. Please create the route now.\n".into(),
            about: "talents-api".into(),
            priority: Priority::Urgent as i32,
        };
        assert_eq!(file_name("c3-ab", &directive), "URGENT-c3-ab.md");
        assert_eq!(
            text("c3-ab", &directive, Some(&plan)),
            "# URGENT: GET /api/talents\n\
             \n\
             Frontend waits for this. Please create the route now.\n\
             \n\
             About your deliverable: talents-api\n\
             \n\
             It counts as done when these hold (they are checked; what you say of it does not count):\n\
             \n\
             - the file `app/api/talents/route.ts` exists, is not empty, contains `export async function GET`, and does not contain `TODO`\n\
             - GET http://backend:3000/api/talents answers with status 200, its JSON has `/talents/0/id`\n\
             \n\
             (command c3-ab)\n"
        );
    }

    #[test]
    fn an_id_cannot_leave_the_inbox() {
        let directive = v1::Directive { text: "x".into(), ..Default::default() };
        assert_eq!(file_name("../../etc/passwd", &directive), "NOTE-.._.._etc_passwd.md");
        assert_eq!(text("c1", &directive, None), "# a message for you\n\nx\n\n(command c1)\n");
    }
}
