//! A command line as it may be shown: secrets removed, control characters too, bounded. Pure. Whatever looks like a
//! secret goes; that something harmless goes with it now and then is the price.

/// Longer is cut.
pub const SHOWN_MAX: usize = 200;
const HIDDEN: &str = "***";
/// Parts of a name that make its value a secret.
const SECRET_PARTS: [&str; 11] = [
    "secret",
    "token",
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "api_key",
    "api-key",
    "credential",
    "private",
    "cookie",
];
/// Whole words within a name: `pw` alone, `AWS_ACCESS_KEY`, but no `keyboard`.
const SECRET_WORDS: [&str; 7] = ["key", "pw", "pwd", "pass", "auth", "bearer", "sig"];
/// Words after which the next is a secret: `Authorization: Bearer x`.
const SCHEMES: [&str; 4] = ["bearer", "basic", "digest", "apikey"];
/// A word of so many letters and digits without a blank, a slash or a dot is none that a person wrote.
const OPAQUE_FROM: usize = 32;

/// `words` as the kernel keeps them: each ended by a zero byte.
pub fn shown(raw: &[u8]) -> Option<String> {
    let mut out = String::new();
    // The value of the option before.
    let mut next_hidden = false;
    let mut program = None;
    let mut next_is_user = false;
    for word in raw.split(|b| *b == 0).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        if out.len() > SHOWN_MAX {
            break;
        }
        let text = String::from_utf8_lossy(word);
        let is_option = text.starts_with('-');
        if std::mem::take(&mut next_hidden) && !is_option {
            next_hidden = hide_into(&text, &mut out);
            continue;
        }
        // `curl -u name:secret`
        if std::mem::take(&mut next_is_user)
            && let Some((user, _)) = text.split_once(':')
        {
            out.push_str(user);
            out.push(':');
            out.push_str(HIDDEN);
            continue;
        }
        next_is_user = matches!(&*text, "-u" | "--user" | "--proxy-user");
        match password_option(program.as_deref().unwrap_or_default(), &text) {
            Some("") => {
                out.push_str(&text);
                next_hidden = true;
            }
            Some(_) => {
                out.push_str(&text[..2]);
                out.push_str(HIDDEN);
            }
            None => next_hidden = word_into(&text, &mut out),
        }
        program.get_or_insert_with(|| text.rsplit('/').next().unwrap_or_default().to_owned());
    }
    if out.is_empty() {
        return None;
    }
    let end = out.floor_char_boundary(SHOWN_MAX);
    if end < out.len() {
        out.truncate(out.floor_char_boundary(SHOWN_MAX - '…'.len_utf8()));
        out.push('…');
    }
    Some(out.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

/// What follows the letter of an option that is a password for this program: `mysql -psecret`, `sshpass -p secret`.
fn password_option<'a>(program: &str, text: &'a str) -> Option<&'a str> {
    let (letter, needs_value) = match program {
        "mysql" | "mysqldump" | "mysqladmin" | "mariadb" | "mariadb-dump" => ("-p", true),
        "sshpass" => ("-p", false),
        "redis-cli" => ("-a", false),
        _ => return None,
    };
    let value = text.strip_prefix(letter)?;
    // Alone, such a program asks for it.
    (!needs_value || !value.is_empty()).then_some(value)
}

/// One argument, which may hold blanks itself (`sh -c "…"`). True: the next one is a secret.
fn word_into(text: &str, out: &mut String) -> bool {
    let mut next_hidden = false;
    for (n, part) in text.split([' ', '\n', '\t']).enumerate() {
        if n > 0 {
            out.push(' ');
        }
        if part.is_empty() {
            continue;
        }
        if std::mem::take(&mut next_hidden) && !part.starts_with('-') {
            next_hidden = hide_into(part, out);
            continue;
        }
        next_hidden = part_into(part, out);
    }
    next_hidden
}

/// `Authorization: Bearer x`: the scheme is none, what follows it is.
fn hide_into(text: &str, out: &mut String) -> bool {
    let scheme = is_scheme(text);
    out.push_str(if scheme { text } else { HIDDEN });
    scheme
}

fn part_into(part: &str, out: &mut String) -> bool {
    let bare = part.trim_matches(['"', '\'', '(', ')', ';', ',']);
    if is_scheme(bare) {
        out.push_str(part);
        return true;
    }
    // `NAME=value`, `--name=value`, `name:value`, and such a name further on: `--env=KEY=value`, `{"password":"value"}`.
    let named = part.match_indices(['=', ':']).map(|(at, _)| at).find(|at| {
        let from = part[..*at].rfind(|c: char| !(c.is_alphanumeric() || "_-\"'.".contains(c))).map_or(0, |i| i + 1);
        is_secret_name(part.get(from..*at).unwrap_or_default())
    });
    if let Some(at) = named {
        out.push_str(&part[..=at]);
        let value = &part[at + 1..];
        if value.is_empty() || is_scheme(value.trim_matches(['"', '\''])) {
            out.push_str(value);
            return true;
        }
        out.push_str(HIDDEN);
        return false;
    }
    if let Some(at) = part.find("://") {
        url_into(part, at + 3, out);
        return false;
    }
    if is_opaque(part.rsplit_once('=').map_or(bare, |(_, value)| value)) {
        if let Some((name, _)) = part.rsplit_once('=') {
            out.push_str(name);
            out.push('=');
        }
        out.push_str(HIDDEN);
        return false;
    }
    out.push_str(part);
    part.starts_with('-') && is_secret_name(part)
}

/// User and password go, and so do the values of its query that have a secret's name.
fn url_into(part: &str, host_at: usize, out: &mut String) {
    let (before, rest) = part.split_at(host_at);
    // What names a variable stays visible, as the address itself is none.
    out.push_str(before);
    let authority_ends = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let rest = match rest[..authority_ends].rfind('@') {
        Some(at) => {
            out.push_str(HIDDEN);
            &rest[at..]
        }
        None => rest,
    };
    let Some((path, query)) = rest.split_once(['?', '#']) else { return out.push_str(rest) };
    out.push_str(path);
    out.push('?');
    for (n, pair) in query.split('&').enumerate() {
        if n > 0 {
            out.push('&');
        }
        match pair.split_once('=') {
            Some((name, value)) if is_secret_name(name) || is_opaque(value) => {
                out.push_str(name);
                out.push('=');
                out.push_str(HIDDEN);
            }
            _ => out.push_str(pair),
        }
    }
}

fn is_scheme(word: &str) -> bool {
    SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

fn is_secret_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    SECRET_PARTS.iter().any(|part| lower.contains(part))
        || words.any(|word| SECRET_WORDS.contains(&word) || word == "authorization")
}

/// Letters and digits mixed, long, and nothing between them: a key, a digest, a token.
fn is_opaque(word: &str) -> bool {
    let word = word.trim_matches(['"', '\'']);
    let all = word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '='));
    let has = |fits: fn(&char) -> bool| word.chars().any(|c| fits(&c));
    if word.len() >= OPAQUE_FROM && word.starts_with("eyJ") {
        return true;
    }
    all && word.len() >= OPAQUE_FROM
        && !word.starts_with('-')
        && has(char::is_ascii_digit)
        && has(char::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(line: &str) -> String {
        shown(line.replace('|', "\0").as_bytes()).unwrap_or_default()
    }

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (line, meant) in [
            ("node|server.js|--port|3000", "node server.js --port 3000"),
            ("tool|--token|hunter2|run", "tool --token *** run"),
            ("tool|--token=hunter2", "tool --token=***"),
            ("tool|--password=hunter2|-v", "tool --password=*** -v"),
            ("tool|--db-pass|hunter2", "tool --db-pass ***"),
            ("env|API_KEY=hunter2|npm|start", "env API_KEY=*** npm start"),
            ("env|AWS_SECRET_ACCESS_KEY=hunter2", "env AWS_SECRET_ACCESS_KEY=***"),
            ("env|GITHUB_TOKEN=hunter2|PGPASSWORD=hunter2", "env GITHUB_TOKEN=*** PGPASSWORD=***"),
            ("env|KEY=hunter2|SECRET=hunter2|HOME=/root", "env KEY=*** SECRET=*** HOME=/root"),
            ("curl|-H|Authorization: Bearer hunter2|x", "curl -H Authorization: Bearer *** x"),
            ("curl|-H|Authorization: Bearer|hunter2", "curl -H Authorization: Bearer ***"),
            ("curl|-H|X-Api-Key: hunter2", "curl -H X-Api-Key: ***"),
            ("docker|run|--env=API_KEY=hunter2|x", "docker run --env=API_KEY=*** x"),
            ("curl|--header=X-Api-Key:hunter2", "curl --header=X-Api-Key:***"),
            ("tool|Server=h;Password=hunter2", "tool Server=h;Password=***"),
            ("tool|{\"user\":\"a\",\"password\":\"hunter2\"}", "tool {\"user\":\"a\",\"password\":***"),
            ("curl|-u|ann:hunter2|https://h/x", "curl -u ann:*** https://h/x"),
            ("mysql|-phunter2|-u|root", "mysql -p*** -u root"),
            ("/usr/bin/sshpass|-p|hunter2|ssh|h", "/usr/bin/sshpass -p *** ssh h"),
            ("redis-cli|-a|hunter2|ping", "redis-cli -a *** ping"),
            ("node|-p|3000", "node -p 3000"),
            ("tool|eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "tool ***"),
            ("git|clone|https://user:hunter2@host/x.git", "git clone https://***@host/x.git"),
            ("git|clone|https://hunter2@host", "git clone https://***@host"),
            ("psql|postgres://u:hunter2@db:5432/app?sslmode=off", "psql postgres://***@db:5432/app?sslmode=off"),
            ("curl|https://host/x?a=1&access_token=hunter2", "curl https://host/x?a=1&access_token=***"),
            ("sh|-c|PASSWORD=hunter2 exec node x", "sh -c PASSWORD=*** exec node x"),
            ("sh|-c|curl -u x --token hunter2 http://h/", "sh -c curl -u x --token *** http://h/"),
            ("DATABASE_URL=mysql://r:hunter2@h/d", "DATABASE_URL=mysql://***@h/d"),
            ("x|sk0123456789abcdef0123456789abcdef", "x ***"),
            ("x|--id=0123456789abcdef0123456789abcdef", "x --id=***"),
            ("x|--token|--verbose", "x --token --verbose"),
            ("/usr/lib/keyboard|--monkey|--layout", "/usr/lib/keyboard --monkey --layout"),
            ("python|/srv/tokenize/run.py|a.b", "python /srv/tokenize/run.py a.b"),
        ] {
            assert_eq!(told(line), meant);
            assert!(!told(line).contains("hunter2"), "{line}");
        }
        assert_eq!(shown(b""), None);
        assert_eq!(shown(b"\0\0"), None);
    }

    #[test]
    fn it_is_bounded_and_harmless_to_a_terminal() {
        let long = told(&"wörd|".repeat(100));
        assert!(long.len() <= SHOWN_MAX && long.ends_with('…'), "{long}");
        assert_eq!(told("a\x1b[31m|b\n"), "a [31m b ");
    }

    proptest! {
        #[test]
        fn whatever_stands_around_it_the_secret_goes(
            before in "[a-z -]{0,30}", name in prop::sample::select(vec!["--token=", "--password ", "API_KEY=", "Bearer ", "x://u:"]),
            after in "[a-z ]{0,30}",
        ) {
            let tail = if name == "x://u:" { "@host" } else { "" };
            let line = format!("{before} {name}Zq7hunter2{tail} {after}");
            let raw = line.replace(' ', "\0");
            prop_assert!(!shown(raw.as_bytes()).unwrap_or_default().contains("hunter2"), "{line}");
            prop_assert!(!shown(line.as_bytes()).unwrap_or_default().contains("hunter2"), "{line}");
        }

        #[test]
        fn garbage_is_bounded_and_never_a_panic(raw in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(text) = shown(&raw) {
                prop_assert!(text.len() <= SHOWN_MAX && !text.chars().any(char::is_control));
            }
        }
    }
}
