//! What a compose file says of its services, as far as it matters beside agents. Both ways of writing lists and tables are
//! understood, variables by their defaults; what cannot be known from the file is absent, and no guess is made of it.
use crate::plan::node::{Node, Place, Value};

pub struct File<'a> {
    pub services: Vec<Service<'a>>,
    /// Names and files of the secrets that come from one.
    pub secrets: Vec<(String, String)>,
}

pub struct Service<'a> {
    pub name: String,
    pub place: Place,
    body: &'a Node,
}

/// One entry of `volumes`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    /// Empty: an anonymous volume.
    pub source: String,
    pub target: String,
    pub read_only: bool,
    pub tmpfs: bool,
    pub place: Place,
}

impl Node {
    /// Of a table: the last of that name counts, after what `<<` brings.
    fn entry(&self, key: &str) -> Option<&Node> {
        let Value::Table(entries) = &self.value else { return None };
        let named = entries.iter().rev().find(|(k, _)| k.text().as_deref() == Some(key)).map(|(_, v)| v);
        named.or_else(|| {
            let merged = entries.iter().filter(|(k, _)| k.text().as_deref() == Some("<<")).map(|(_, v)| v);
            merged
                .flat_map(|v| if let Value::List(all) = &v.value { all.iter().collect() } else { vec![v] })
                .find_map(|v| v.entry(key))
        })
    }

    /// Any scalar, with its variables replaced by their defaults.
    fn text(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(defaults(text)),
            Value::Integer(n) => Some(n.to_string()),
            Value::Number(n) => Some(n.to_string()),
            Value::Bool(b) => Some(b.to_string()),
            Value::Null | Value::List(_) | Value::Table(_) => None,
        }
    }

    fn items(&self) -> &[Node] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }
}

/// `${NAME:-default}`, `${NAME-default}`; without a default a variable is nothing.
pub fn defaults(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else { break };
        let inner = &rest[at + 2..at + end];
        let default = inner.split_once(":-").or_else(|| inner.split_once('-')).map_or("", |(_, d)| d);
        out.push_str(default);
        rest = &rest[at + end + 1..];
    }
    out + rest
}

/// `None`: no table of services.
pub fn read(tree: &Node) -> Option<File<'_>> {
    let Value::Table(services) = &tree.entry("services")?.value else { return None };
    let of = |(key, body)| -> Option<Service<'_>> {
        let (key, body): (&Node, &Node) = (key, body);
        Some(Service { name: key.text()?, place: key.place, body })
    };
    let secrets = match tree.entry("secrets").map(|node| &node.value) {
        Some(Value::Table(all)) => {
            all.iter().filter_map(|(name, body)| Some((name.text()?, body.entry("file")?.text()?))).collect()
        }
        _ => Vec::new(),
    };
    Some(File { secrets, services: services.iter().filter_map(|(k, v)| of((k, v))).collect() })
}

impl File<'_> {
    pub fn service(&self, name: &str) -> Option<&Service<'_>> {
        self.services.iter().find(|s| s.name == name)
    }
}

impl Service<'_> {
    pub fn text(&self, key: &str) -> Option<(String, Place)> {
        let node = self.body.entry(key)?;
        Some((node.text()?, node.place))
    }

    pub fn has(&self, key: &str) -> bool {
        self.body.entry(key).is_some()
    }

    pub fn is_true(&self, key: &str) -> bool {
        self.text(key).is_some_and(|(text, _)| text == "true")
    }

    /// Of a list of texts, or the keys of a table.
    pub fn names(&self, key: &str) -> Vec<(String, Place)> {
        let Some(node) = self.body.entry(key) else { return Vec::new() };
        let named = |n: &Node| {
            // The long form of a secret or a network.
            let text = n.text().or_else(|| n.entry("source").and_then(Node::text));
            text.map(|t| (t, n.place))
        };
        match &node.value {
            Value::List(items) => items.iter().filter_map(named).collect(),
            Value::Table(entries) => entries.iter().filter_map(|(k, _)| Some((k.text()?, k.place))).collect(),
            _ => node.text().map(|t| (t, node.place)).into_iter().collect(),
        }
    }

    /// `entrypoint` and `command` as words.
    pub fn words(&self) -> Vec<String> {
        let of = |key: &str| -> Vec<String> {
            let Some(node) = self.body.entry(key) else { return Vec::new() };
            match &node.value {
                Value::List(items) => items.iter().filter_map(Node::text).collect(),
                _ => node.text().unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
            }
        };
        let mut words = of("entrypoint");
        words.extend(of("command"));
        words
    }

    /// `""` for a variable without a value.
    pub fn variable(&self, name: &str) -> Option<String> {
        let node = self.body.entry("environment")?;
        match &node.value {
            Value::Table(_) => node.entry(name).map(|v| v.text().unwrap_or_default()),
            _ => node.items().iter().filter_map(Node::text).find_map(|line| match line.split_once('=') {
                Some((key, value)) if key == name => Some(value.to_owned()),
                None if line == name => Some(String::new()),
                _ => None,
            }),
        }
    }

    pub fn mounts(&self) -> Vec<Mount> {
        let mut all: Vec<Mount> = Vec::new();
        for node in self.body.entry("volumes").map(Node::items).unwrap_or_default() {
            all.extend(match &node.value {
                Value::Table(_) => long(node),
                _ => node.text().and_then(|text| short(&text, node.place)),
            });
        }
        for (target, place) in self.names("tmpfs") {
            let target = target.split(':').next().unwrap_or_default().to_owned();
            all.push(Mount { source: String::new(), target, read_only: false, tmpfs: true, place });
        }
        all
    }

    pub fn has_memory_limit(&self) -> bool {
        let deploy = self.body.entry("deploy").and_then(|d| d.entry("resources")).and_then(|r| r.entry("limits"));
        self.has("mem_limit") || deploy.is_some_and(|limits| limits.entry("memory").is_some())
    }

    /// Names of networks; those of `default` where nothing is said.
    pub fn networks(&self) -> Vec<String> {
        match self.text("network_mode") {
            Some(_) => Vec::new(),
            None if self.has("networks") => self.names("networks").into_iter().map(|(name, _)| name).collect(),
            None => vec!["default".into()],
        }
    }

    /// Published ports: the host's address, empty for all of them, and where it is said.
    pub fn published(&self) -> Vec<(String, Place)> {
        let Some(node) = self.body.entry("ports") else { return Vec::new() };
        let of = |port: &Node| -> Option<(String, Place)> {
            if let Value::Table(_) = port.value {
                port.entry("published")?;
                return Some((port.entry("host_ip").and_then(Node::text).unwrap_or_default(), port.place));
            }
            let text = port.text()?;
            let (host, _container) = text.rsplit_once(':')?;
            let address = host.rsplit_once(':').map_or("", |(address, _)| address);
            Some((address.trim_matches(['[', ']']).to_owned(), port.place))
        };
        node.items().iter().filter_map(of).collect()
    }
}

fn short(text: &str, place: Place) -> Option<Mount> {
    let mut parts = text.split(':');
    let first = parts.next()?.to_owned();
    let (source, target) = match parts.next() {
        Some(target) => (first, target.to_owned()),
        None => (String::new(), first),
    };
    let read_only = parts.next().is_some_and(|options| options.split(',').any(|o| o == "ro"));
    Some(Mount { source: tidy(&source), target: tidy(&target), read_only, tmpfs: false, place })
}

fn long(node: &Node) -> Option<Mount> {
    let text = |key: &str| node.entry(key).and_then(Node::text);
    let mut source = tidy(&text("source").unwrap_or_default());
    // A bind's source is a path, whatever it begins with.
    if text("type").is_some_and(|t| t == "bind") && !source.starts_with(['.', '/', '~']) {
        source.insert_str(0, "./");
    }
    Some(Mount {
        source,
        target: tidy(&text("target")?),
        read_only: text("read_only").is_some_and(|t| t == "true"),
        tmpfs: text("type").is_some_and(|t| t == "tmpfs"),
        place: node.place,
    })
}

fn tidy(path: &str) -> String {
    if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path.to_owned() }
}
