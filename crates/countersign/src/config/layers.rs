//! Where settings come from: the reference, the file, the environment, each over the one before.
//!
//! Owns names, types and places; what a value means is told in [`super::Reader`]. The reference file gives each setting its
//! type, so that the environment, which has only text, can be read by it.

use super::{COPY_FROM, COPY_TO, LOG, MASTER_KEY, Problem, Problems, REFERENCE, Written};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// The environment, as it was when the program began.
pub type Environment = BTreeMap<String, String>;

/// The variable that names the settings file.
pub const CONFIG: &str = "COUNTERSIGN_CONFIG";

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default holds.
    Nobody,
    /// In a file.
    File {
        /// Which.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// In a variable of the environment.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// The settings as they were written, and where.
pub(super) struct Layers {
    pub(super) written: Written,
    pub(super) origins: BTreeMap<String, Origin>,
    pub(super) strangers: Vec<String>,
}

/// Lays the file and the environment over the reference.
pub(super) fn read(text: &str, file: Option<&Path>, environment: &Environment) -> Result<Layers, Problems> {
    let (reference, defaults) = reference();
    let types = leaves(&reference);
    let mut values = leaves(&defaults);
    let mut origins = BTreeMap::new();
    let mut problems = Vec::new();

    for (setting, value, line) in in_file(text, file)? {
        let origin = Origin::File { path: file.map(Path::to_owned).unwrap_or_default(), line };
        match check(&setting, &value, &types) {
            Ok(()) => {
                origins.insert(setting.clone(), origin);
                values.insert(setting, value);
            }
            Err(why) => problems.push(Problem { origin, setting, why }),
        }
    }

    let named: BTreeMap<String, &String> = types.keys().map(|setting| (variable(setting), setting)).collect();
    let mut strangers = Vec::new();
    for (name, text) in environment.iter().filter(|(name, _)| name.starts_with("COUNTERSIGN_")) {
        let Some(setting) = named.get(name.as_str()) else {
            if ![MASTER_KEY, LOG, CONFIG, COPY_FROM, COPY_TO].contains(&name.as_str()) {
                strangers.push(name.clone());
            }
            continue;
        };
        let origin = Origin::Variable(name.clone());
        match from_text(text, &types[*setting]) {
            Ok(value) => {
                origins.insert((*setting).clone(), origin);
                values.insert((*setting).clone(), value);
            }
            Err(why) => problems.push(Problem { origin, setting: (*setting).clone(), why }),
        }
    }

    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let written = nested(values).try_into().map_err(|why: toml::de::Error| {
        Problems(vec![Problem { origin: Origin::Nobody, setting: String::new(), why: why.message().to_owned() }])
    })?;
    Ok(Layers { written, origins, strangers })
}

/// The reference with every setting in it, and with only those that hold when nothing is said.
pub(super) fn reference() -> (Table, Table) {
    // `#name = value` is a setting without a default; `# words` is prose.
    let whole = REFERENCE.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
        _ => line,
    });
    let whole = whole.collect::<Vec<_>>().join("\n");
    (whole.parse().expect("a test reads the reference"), REFERENCE.parse().expect("a test reads the reference"))
}

/// `server.tls.key` is COUNTERSIGN_SERVER_TLS_KEY.
fn variable(setting: &str) -> String {
    format!("COUNTERSIGN_{}", setting.replace('.', "_").to_ascii_uppercase())
}

fn in_file(text: &str, file: Option<&Path>) -> Result<Vec<(String, Value, usize)>, Problems> {
    let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let broken = |why: toml::de::Error| {
        let line = why.span().map_or(1, |span| line_of(span.start));
        let origin = Origin::File { path: file.map(Path::to_owned).unwrap_or_default(), line };
        Problems(vec![Problem { origin, setting: String::new(), why: why.message().to_owned() }])
    };
    let table: Table = text.parse().map_err(broken)?;
    let spans = DeTable::parse(text).map_err(broken)?;
    let mut places = BTreeMap::new();
    note_places("", spans.get_ref(), &mut places);
    Ok(leaves(&table)
        .into_iter()
        .map(|(setting, value)| (setting.clone(), value, line_of(places.get(&setting).copied().unwrap_or(0))))
        .collect())
}

fn note_places(path: &str, table: &DeTable<'_>, places: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let setting = join(path, name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => note_places(&setting, inner, places),
            _ => {
                places.insert(setting, name.span().start);
            }
        }
    }
}

/// Every value by its dotted name. Lists are values; so is an empty table, which might be a setting's mistaken value.
fn leaves(table: &Table) -> BTreeMap<String, Value> {
    fn walk(path: &str, table: &Table, found: &mut BTreeMap<String, Value>) {
        for (name, value) in table {
            let setting = join(path, name);
            match value {
                Value::Table(inner) if !inner.is_empty() => walk(&setting, inner, found),
                _ => {
                    found.insert(setting, value.clone());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    walk("", table, &mut found);
    found
}

fn nested(values: BTreeMap<String, Value>) -> Table {
    fn put(table: &mut Table, setting: &str, value: Value) {
        match setting.split_once('.') {
            None => drop(table.insert(setting.to_owned(), value)),
            Some((section, rest)) => {
                let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(inner) = inner {
                    put(inner, rest, value);
                }
            }
        }
    }
    let mut whole = Table::new();
    for (setting, value) in values {
        put(&mut whole, &setting, value);
    }
    whole
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn check(setting: &str, value: &Value, types: &BTreeMap<String, Value>) -> Result<(), String> {
    let is_section = |name: &str| types.keys().any(|it| it.starts_with(&format!("{name}.")));
    let Some(right) = types.get(setting) else {
        return match value {
            Value::Table(_) if is_section(setting) => Ok(()),
            _ if is_section(setting) => Err(format!("it is a section; write [{setting}] on a line of its own")),
            _ => Err(no_setting(setting, types)),
        };
    };
    let fits = match (right, value) {
        (Value::Integer(_), Value::Integer(number)) => *number >= 0,
        (Value::Array(_), Value::Array(items)) => items.iter().all(Value::is_str),
        (right, value) => right.same_type(value),
    };
    if fits { Ok(()) } else { Err(takes(right)) }
}

fn no_setting(setting: &str, types: &BTreeMap<String, Value>) -> String {
    let section = setting.rsplit_once('.').map_or("", |(section, _)| section);
    let beside: Vec<&str> = types
        .keys()
        .filter_map(|it| if section.is_empty() { it.split('.').next() } else { it.strip_prefix(section)?.strip_prefix('.') })
        .filter(|it| !it.contains('.'))
        .collect();
    let mut beside = beside;
    beside.dedup();
    match (section, beside.is_empty()) {
        (_, true) => "there is no such section; `countersign serve --reference` prints all settings".to_owned(),
        ("", false) => format!("there is no such setting; the sections are {}", beside.join(", ")),
        (section, false) => format!("there is no such setting; [{section}] has {}", beside.join(", ")),
    }
}

fn takes(right: &Value) -> String {
    match right {
        Value::Integer(_) => "it takes a whole number that is not negative",
        Value::Boolean(_) => "it takes true or false",
        Value::Array(_) => "it takes a list of texts, such as [\"one\", \"two\"]",
        _ => "it takes a text in quotes",
    }
    .to_owned()
}

fn from_text(text: &str, right: &Value) -> Result<Value, String> {
    match right {
        Value::Integer(_) => text
            .trim()
            .parse()
            .ok()
            .filter(|it| *it >= 0)
            .map(Value::Integer)
            .ok_or_else(|| "it takes a whole number that is not negative".to_owned()),
        Value::Boolean(_) => text.trim().parse().map(Value::Boolean).map_err(|_| "it takes true or false".to_owned()),
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|it| !it.is_empty());
            Ok(Value::Array(items.map(|it| Value::String(it.to_owned())).collect()))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, environment: &[(&str, &str)]) -> String {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        read(text, Some(Path::new("c.toml")), &environment).map(|_| String::new()).unwrap_or_else(|it| it.to_string())
    }

    #[test]
    fn the_environment_goes_before_the_file_and_the_file_before_the_default() {
        let environment = Environment::from([("COUNTERSIGN_SERVER_LISTEN".to_owned(), "[::1]:1".to_owned())]);
        let text = "[server]\nlisten = \"[::1]:2\"\n[log]\nlevel = \"debug\"";
        let layers = read(text, Some(Path::new("c.toml")), &environment).expect("right");
        assert_eq!((layers.written.server.listen.as_str(), layers.written.log.level.as_str()), ("[::1]:1", "debug"));
        assert_eq!(layers.written.log.format, "json");
        assert_eq!(layers.origins["server.listen"].to_string(), "COUNTERSIGN_SERVER_LISTEN");
        assert_eq!(layers.origins["log.level"].to_string(), "c.toml, line 4");
    }

    #[test]
    fn every_setting_can_come_from_the_environment() {
        let (whole, _) = reference();
        let environment = leaves(&whole).into_iter().map(|(setting, value)| {
            let text = match value {
                Value::String(text) => text,
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
                other => other.to_string(),
            };
            (variable(&setting), text)
        });
        let layers = read("", None, &environment.collect()).expect("each value is of its type");
        assert_eq!(layers.origins.len(), leaves(&whole).len());
        assert_eq!(layers.strangers, [""; 0]);
        assert_eq!(layers.written.secrets.master_key_command.map(|it| it.len()), Some(2));
    }

    #[test]
    fn a_setting_that_nobody_knows_is_refused_with_those_beside_it() {
        assert_eq!(
            told("[server.tls]\nkeys = \"a\"", &[]),
            "c.toml, line 2: server.tls.keys: there is no such setting; [server.tls] has certificate, key"
        );
        assert!(told("[sever]\nlisten = \"a\"", &[]).contains("no such section"));
        assert!(told("server = 3", &[]).contains("write [server]"));
    }

    #[test]
    fn a_value_of_another_type_is_refused_with_the_right_one() {
        assert_eq!(
            told("[limits]\nconnections = \"many\"", &[]),
            "c.toml, line 2: limits.connections: it takes a whole number that is not negative"
        );
        assert_eq!(
            told("", &[("COUNTERSIGN_LIMITS_CONNECTIONS", "-1")]),
            "COUNTERSIGN_LIMITS_CONNECTIONS: limits.connections: it takes a whole number that is not negative"
        );
        assert!(told("[egress]\nallow = [1]", &[]).contains("list of texts"));
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_with_its_line() {
        assert!(told("[log]\nlevel = \n", &[]).starts_with("c.toml, line 2: "), "{}", told("[log]\nlevel = \n", &[]));
    }

    #[test]
    fn variables_that_nobody_knows_are_noted_and_harm_nobody() {
        let environment = Environment::from([("COUNTERSIGN_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned())]);
        assert_eq!(read("", None, &environment).expect("a cluster sets it").strangers, ["COUNTERSIGN_SERVICE_HOST"]);
    }
}
