//! The table from a call to who may make it, and the rule that applies it. A call that is not in the table is refused:
//! a test of the shell holds the table to every method that is served.
use super::{Denied, DeniedClass, Role, Subject, denied};

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Also without a certificate.
    Anyone,
    /// Sidecars only.
    Sidecar,
    /// Operators from this role on.
    From(Role),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// As in the path, without the package: `ControlService/IssueCommand`.
    pub name: &'static str,
    pub access: Access,
    /// Whether it changes something, so that it is audited whatever comes of it.
    pub mutates: bool,
}

const fn reads(name: &'static str, access: Access) -> Call {
    Call { name, access, mutates: false }
}

const fn mutates(name: &'static str, access: Access) -> Call {
    Call { name, access, mutates: true }
}

const VIEWER: Access = Access::From(Role::Viewer);
const OPERATOR: Access = Access::From(Role::Operator);
const ADMIN: Access = Access::From(Role::Admin);

pub const CALLS: [Call; 27] = [
    reads("ControlService/GetSituation", VIEWER),
    reads("ControlService/Watch", VIEWER),
    reads("ControlService/ListAgents", VIEWER),
    reads("ControlService/ListBlockers", VIEWER),
    reads("ControlService/ListFindings", VIEWER),
    reads("ControlService/ListHosts", VIEWER),
    reads("ControlService/Explain", VIEWER),
    reads("ControlService/ListCommands", VIEWER),
    reads("ControlService/ListEvents", VIEWER),
    reads("ControlService/CheckPlan", VIEWER),
    mutates("ControlService/IssueCommand", OPERATOR),
    mutates("ControlService/CancelCommand", OPERATOR),
    mutates("ControlService/AdoptSidecar", OPERATOR),
    mutates("ControlService/ApplyPlan", OPERATOR),
    // What a sidecar says is journaled, not audited.
    reads("SidecarService/Connect", Access::Sidecar),
    mutates("IdentityService/Enrol", Access::Anyone),
    // An operator's certificate ends when whoever made it said; only sidecars go on by themselves.
    mutates("IdentityService/Renew", Access::Sidecar),
    mutates("IdentityService/CreateToken", ADMIN),
    mutates("IdentityService/CreateIdentity", ADMIN),
    reads("IdentityService/ListIdentities", ADMIN),
    mutates("IdentityService/RevokeIdentity", ADMIN),
    reads("IdentityService/ListAuditEntries", ADMIN),
    // So that whatever starts the orchestrator can ask without a secret; it tells nothing but "serving".
    reads("Health/Check", Access::Anyone),
    reads("Health/List", VIEWER),
    reads("Health/Watch", VIEWER),
    reads("v1.ServerReflection/ServerReflectionInfo", VIEWER),
    reads("v1alpha.ServerReflection/ServerReflectionInfo", VIEWER),
];

const PACKAGES: [&str; 3] = ["/pitwall.v1.", "/grpc.health.v1.", "/grpc.reflection."];

/// By the path of a request: `/pitwall.v1.ControlService/IssueCommand`.
pub fn call(path: &str) -> Option<&'static Call> {
    let name = PACKAGES.iter().find_map(|package| path.strip_prefix(package))?;
    CALLS.iter().find(|call| call.name == name)
}

/// Whether `subject`, whose certificate counts, or nobody, may make the call of this path.
pub fn permit(path: &str, subject: Option<&Subject>) -> Result<&'static Call, Denied> {
    let Some(call) = call(path) else {
        let message = format!("{path} is no call that anybody may make");
        return Err(denied(DeniedClass::Forbidden, "CALL_UNKNOWN", message, "`pitwall --help` lists what there is"));
    };
    let needed = match (call.access, subject) {
        (Access::Anyone, _) | (Access::Sidecar, Some(Subject::Agent { .. })) => {
            return Ok(call);
        }
        (Access::From(least), Some(Subject::Operator { role, .. })) if *role >= least => return Ok(call),
        (needed, _) => needed,
    };
    Err(match (needed, subject) {
        (_, None) => denied(
            DeniedClass::Unauthenticated,
            "CERTIFICATE_MISSING",
            format!("{} needs a client certificate, and none was sent", call.name),
            "operators: `pitwall identity create NAME --role viewer --out DIR`; sidecars: `pitwall token create --agent NAME`",
        ),
        (Access::From(_), Some(agent @ Subject::Agent { .. })) => denied(
            DeniedClass::Forbidden,
            "OPERATOR_ONLY",
            format!("{} is for operators, and {agent} is a sidecar", call.name),
            "use an operator's identity",
        ),
        (Access::Sidecar, Some(operator)) => denied(
            DeniedClass::Forbidden,
            "SIDECAR_ONLY",
            format!("{} is for sidecars, and {operator} is an operator", call.name),
            "a sidecar joins with a token: `pitwall token create --agent NAME`",
        ),
        (Access::From(least), Some(Subject::Operator { role, name })) => denied(
            DeniedClass::Forbidden,
            "ROLE_INSUFFICIENT",
            format!("{} needs the role {least}, and {name} has {role}", call.name),
            format!("ask an admin for an identity with the role {least}"),
        ),
        // Allowed above; said for the compiler without letting anybody in.
        (Access::Anyone, Some(subject)) => {
            denied(DeniedClass::Forbidden, "CALL_UNKNOWN", format!("{subject} may not call {}", call.name), "")
        }
    })
}

/// Whether a stream of `subject` may carry a hello for this agent: a certificate names one agent of one project.
pub fn speaks_for(subject: &Subject, project: &str, agent: &str) -> Result<(), Denied> {
    match subject {
        Subject::Agent { project: own, name } if own == project && name == agent => Ok(()),
        Subject::Agent { .. } | Subject::Operator { .. } => Err(denied(
            DeniedClass::Forbidden,
            "AGENT_FOREIGN",
            format!("the certificate is for {subject}, which cannot speak for agent {agent} of project {project}"),
            format!("start the sidecar with --agent {}, or let it join with a token for {agent}", subject.name()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_what_those_before_it_may_and_sidecars_only_their_own() {
        let agent = Subject::agent("p", "a").unwrap();
        let [viewer, operator, admin] = Role::ALL.map(|role| Subject::operator(role, "n").unwrap());
        // Nobody, sidecar, viewer, operator, admin: empty means allowed.
        let table = [
            ("pitwall.v1.ControlService/GetSituation", ["CERTIFICATE_MISSING", "OPERATOR_ONLY", "", "", ""]),
            ("pitwall.v1.ControlService/Watch", ["CERTIFICATE_MISSING", "OPERATOR_ONLY", "", "", ""]),
            (
                "pitwall.v1.ControlService/IssueCommand",
                ["CERTIFICATE_MISSING", "OPERATOR_ONLY", "ROLE_INSUFFICIENT", "", ""],
            ),
            (
                "pitwall.v1.ControlService/ApplyPlan",
                ["CERTIFICATE_MISSING", "OPERATOR_ONLY", "ROLE_INSUFFICIENT", "", ""],
            ),
            (
                "pitwall.v1.SidecarService/Connect",
                ["CERTIFICATE_MISSING", "", "SIDECAR_ONLY", "SIDECAR_ONLY", "SIDECAR_ONLY"],
            ),
            ("pitwall.v1.IdentityService/Enrol", ["", "", "", "", ""]),
            (
                "pitwall.v1.IdentityService/Renew",
                ["CERTIFICATE_MISSING", "", "SIDECAR_ONLY", "SIDECAR_ONLY", "SIDECAR_ONLY"],
            ),
            (
                "pitwall.v1.IdentityService/CreateToken",
                ["CERTIFICATE_MISSING", "OPERATOR_ONLY", "ROLE_INSUFFICIENT", "ROLE_INSUFFICIENT", ""],
            ),
            (
                "pitwall.v1.IdentityService/RevokeIdentity",
                ["CERTIFICATE_MISSING", "OPERATOR_ONLY", "ROLE_INSUFFICIENT", "ROLE_INSUFFICIENT", ""],
            ),
            (
                "pitwall.v1.IdentityService/ListAuditEntries",
                ["CERTIFICATE_MISSING", "OPERATOR_ONLY", "ROLE_INSUFFICIENT", "ROLE_INSUFFICIENT", ""],
            ),
            ("grpc.health.v1.Health/Check", ["", "", "", "", ""]),
            ("grpc.health.v1.Health/Watch", ["CERTIFICATE_MISSING", "OPERATOR_ONLY", "", "", ""]),
            (
                "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                ["CERTIFICATE_MISSING", "OPERATOR_ONLY", "", "", ""],
            ),
            ("pitwall.v1.ControlService/DropEverything", ["CALL_UNKNOWN"; 5]),
            ("other.v1.ControlService/GetSituation", ["CALL_UNKNOWN"; 5]),
        ];
        for (path, expected) in table {
            let path = format!("/{path}");
            let callers = [None, Some(&agent), Some(&viewer), Some(&operator), Some(&admin)];
            for (caller, expected) in callers.into_iter().zip(expected) {
                let reason = permit(&path, caller).map_or_else(|denied| denied.reason, |_| "");
                assert_eq!(reason, expected, "{path} by {caller:?}");
            }
        }
    }

    #[test]
    fn a_sidecar_speaks_for_its_own_agent_only() {
        let subject = Subject::agent("p", "a").unwrap();
        assert_eq!(speaks_for(&subject, "p", "a"), Ok(()));
        let operator = Subject::operator(Role::Admin, "a").unwrap();
        for (subject, project, agent) in
            [(&subject, "p", "b"), (&subject, "q", "a"), (&subject, "p", ""), (&operator, "p", "a")]
        {
            assert_eq!(speaks_for(subject, project, agent).unwrap_err().reason, "AGENT_FOREIGN");
        }
    }

    #[test]
    fn every_mutation_but_joining_needs_more_than_a_viewer() {
        for call in CALLS.iter().filter(|call| call.mutates) {
            let weak = matches!(call.access, Access::Anyone | Access::Sidecar | Access::From(Role::Viewer));
            let own = matches!(call.name, "IdentityService/Enrol" | "IdentityService/Renew");
            assert_eq!(weak, own, "{}", call.name);
        }
    }
}
