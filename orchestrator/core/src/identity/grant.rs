//! What a signing request may ask for. A certificate is always written from the record behind a token, a renewal or an
//! administrator's call; a request that asks for anything else is refused, so that nobody believes to have been granted it.
use super::{Denied, DeniedClass, Subject, denied};

/// What stands in a signing request, as the shell read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The parts of its distinguished name: (`CN`, value), others by their kind.
    pub distinguished: Vec<(String, String)>,
    pub names: Vec<AskedName>,
    /// To be an authority itself.
    pub authority: bool,
    /// Extended key usages other than client authentication.
    pub usages: Vec<String>,
    /// Key usages other than digital signature.
    pub key_usages: Vec<String>,
}

/// An alternative name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedName {
    Uri(String),
    /// A host, an address, a mail address …, for people.
    Other(String),
}

/// Whether a request may become a certificate for `subject`.
pub fn check(asked: &Asked, subject: &Subject) -> Result<(), Denied> {
    let more = |what: String| {
        denied(
            DeniedClass::Forbidden,
            "REQUEST_ASKS_FOR_MORE",
            format!("the signing request asks {what}, and what is granted is {subject} as a client, nothing else"),
            "make the request with an empty subject and no extensions",
        )
    };
    if asked.authority {
        return Err(more("to be an authority".into()));
    }
    for (kind, value) in &asked.distinguished {
        if kind != "CN" || value != subject.name() {
            return Err(more(format!("for the subject {kind}={value}")));
        }
    }
    for name in &asked.names {
        match name {
            AskedName::Uri(uri) if *uri == subject.to_string() => {}
            AskedName::Uri(name) | AskedName::Other(name) => return Err(more(format!("for the name {name}"))),
        }
    }
    if let Some(usage) = asked.usages.iter().chain(&asked.key_usages).next() {
        return Err(more(format!("for the use {usage}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_ask_for_exactly_what_is_granted_or_for_nothing() {
        let subject = Subject::agent("p", "backend").unwrap();
        let uri = |text: &str| AskedName::Uri(text.into());
        let cn = |text: &str| vec![("CN".to_owned(), text.to_owned())];
        let fits = [
            Asked::default(),
            Asked { distinguished: cn("backend"), ..Default::default() },
            Asked { names: vec![uri("spiffe://pitwall/agent/p/backend")], ..Default::default() },
        ];
        for asked in fits {
            assert_eq!(check(&asked, &subject), Ok(()), "{asked:?}");
        }
        let more = [
            (Asked { authority: true, ..Default::default() }, "to be an authority"),
            (Asked { distinguished: cn("frontend"), ..Default::default() }, "CN=frontend"),
            (Asked { distinguished: vec![("O".into(), "admins".into())], ..Default::default() }, "O=admins"),
            (Asked { names: vec![uri("spiffe://pitwall/agent/p/frontend")], ..Default::default() }, "frontend"),
            (Asked { names: vec![uri("spiffe://pitwall/operator/admin/backend")], ..Default::default() }, "admin"),
            (Asked { names: vec![AskedName::Other("localhost".into())], ..Default::default() }, "localhost"),
            (Asked { usages: vec!["server authentication".into()], ..Default::default() }, "server authentication"),
            (Asked { key_usages: vec!["signing of certificates".into()], ..Default::default() }, "signing"),
        ];
        for (asked, told) in more {
            let denied = check(&asked, &subject).unwrap_err();
            assert_eq!(denied.reason, "REQUEST_ASKS_FOR_MORE");
            assert!(denied.message.contains(told), "{}", denied.message);
        }
    }
}
