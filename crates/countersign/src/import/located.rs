//! YAML and JSON of which every value knows where it stands.
//!
//! Owns the two syntaxes. JSON is read as the YAML that it is, but what is wrong with it is said in its own words. The bounds of
//! depth and size are the reader's; neither files nor addresses are followed.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, de};
use serde_json::{Number, Value};
use serde_saphyr::{Location, Spanned, budget, options};
use std::fmt;

/// Tables in tables, at most. A platform file has eight.
const DEEPEST: usize = 64;

/// Values, at most; what stands there once and is named again and again counts each time. A platform file has a few hundred.
const MOST: usize = 50_000;

/// A place in a file, as editors count: from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct At {
    pub line: u64,
    pub column: u64,
}

/// A value and where it stands. Not printed: it may hold credentials.
#[derive(Clone)]
pub struct Node {
    pub at: At,
    pub form: Form,
}

/// What a value is.
#[derive(Clone)]
pub enum Form {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Table(Vec<(Key, Node)>),
}

/// The name of a value in a table.
#[derive(Clone)]
pub struct Key {
    pub at: At,
    pub name: String,
}

/// Why a text cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub at: At,
    pub why: String,
}

impl Node {
    /// Reads a text. An empty one is `null`.
    ///
    /// # Errors
    /// What is wrong with the syntax, and where.
    pub fn read(text: &str) -> Result<Self, Unreadable> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if looks_like_json(text)
            && let Err(why) = serde_json::from_str::<Value>(text)
        {
            let at = At { line: why.line().max(1) as u64, column: why.column().max(1) as u64 };
            let told = why.to_string();
            let told = told.rsplit_once(" at line ").map_or(told.as_str(), |(told, _)| told);
            return Err(Unreadable { at, why: format!("this is no JSON: {told}") });
        }
        let options = options! { with_snippet: false, strict_booleans: true, budget: budget! { max_depth: DEEPEST, max_nodes: MOST } };
        serde_saphyr::from_str_with_options(text, options).map_err(|why| unreadable(&why))
    }

    /// The value in a table that has this name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.entry(name).map(|(_, value)| value)
    }

    /// The same with its name.
    pub fn entry(&self, name: &str) -> Option<&(Key, Self)> {
        self.table()?.iter().find(|(key, _)| key.name == name)
    }

    /// Names and values, if it is a table.
    pub fn table(&self) -> Option<&[(Key, Self)]> {
        if let Form::Table(all) = &self.form { Some(all) } else { None }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        if let Form::Text(text) = &self.form { Some(text) } else { None }
    }

    /// Whether there is nothing: `null`, an empty text or an empty table.
    pub fn is_empty(&self) -> bool {
        match &self.form {
            Form::Null => true,
            Form::Text(text) => text.trim().is_empty(),
            Form::Table(all) => all.is_empty(),
            Form::Bool(_) | Form::Number(_) | Form::List(_) => false,
        }
    }

    /// What it is, for a sentence that says what it should be. Never what is in it.
    pub fn is_a(&self) -> &'static str {
        match &self.form {
            Form::Null => "nothing",
            Form::Bool(_) => "true or false",
            Form::Number(_) => "a number",
            Form::Text(_) => "a text",
            Form::List(_) => "a list",
            Form::Table(_) => "a table",
        }
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        match &self.form {
            Form::Null => Value::Null,
            Form::Bool(it) => Value::Bool(*it),
            Form::Number(it) => Value::Number(it.clone()),
            Form::Text(it) => Value::String(it.clone()),
            Form::List(all) => all.iter().map(Self::json).collect(),
            Form::Table(all) => Value::Object(all.iter().map(|(key, value)| (key.name.clone(), value.json())).collect()),
        }
    }

    /// The same as if all of it stood at one place: what was a text in another text has no lines of its own.
    #[must_use]
    pub fn all_at(mut self, at: At) -> Self {
        self.at = at;
        self.form = match self.form {
            Form::List(all) => Form::List(all.into_iter().map(|it| it.all_at(at)).collect()),
            Form::Table(all) => Form::Table(all.into_iter().map(|(key, value)| (Key { at, name: key.name }, value.all_at(at))).collect()),
            plain => plain,
        };
        self
    }
}

/// A file that begins as JSON does is meant to be JSON. YAML has the same brackets, but nobody writes it with quoted names in them.
fn looks_like_json(text: &str) -> bool {
    let text = text.trim_start();
    text.strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with(['"', '}'])) || text.starts_with("[{")
}

fn unreadable(why: &serde_saphyr::Error) -> Unreadable {
    let at = why.location().map_or(At { line: 1, column: 1 }, |it| At::of(&it));
    let told = match why.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { .. } => "this name is there already in the same table".to_owned(),
        serde_saphyr::Error::MultipleDocuments { .. } => "a second document begins here (---); one is read at a time".to_owned(),
        other => {
            let told = other.to_string();
            match told.split(" at line ").next().unwrap_or_default() {
                told if told.starts_with("budget breached") || told.contains("limit exceeded") => {
                    "this is too much, or too deep, for a file of settings".to_owned()
                }
                "expected string scalar" => "a name is expected here; a text that begins with {{ stands in quotes".to_owned(),
                told => told.to_owned(),
            }
        }
    };
    Unreadable { at, why: format!("this is no YAML: {told}") }
}

impl At {
    fn of(it: &Location) -> Self {
        Self { line: it.line().max(1), column: it.column().max(1) }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let it = Spanned::<Form>::deserialize(from)?;
        Ok(Self { at: At::of(&it.referenced), form: it.value })
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let it = Spanned::<String>::deserialize(from)?;
        Ok(Self { at: At::of(&it.referenced), name: it.value })
    }
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Form;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Form, E> {
        Ok(Form::Null)
    }

    fn visit_bool<E>(self, it: bool) -> Result<Form, E> {
        Ok(Form::Bool(it))
    }

    fn visit_i64<E>(self, it: i64) -> Result<Form, E> {
        Ok(Form::Number(it.into()))
    }

    fn visit_u64<E>(self, it: u64) -> Result<Form, E> {
        Ok(Form::Number(it.into()))
    }

    fn visit_f64<E: de::Error>(self, it: f64) -> Result<Form, E> {
        Number::from_f64(it).map(Form::Number).ok_or_else(|| E::custom("this number has no end"))
    }

    fn visit_str<E>(self, it: &str) -> Result<Form, E> {
        Ok(Form::Text(it.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Form, A::Error> {
        let mut all = Vec::new();
        while let Some(it) = from.next_element()? {
            all.push(it);
        }
        Ok(Form::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Form, A::Error> {
        let mut all = Vec::new();
        while let Some(it) = from.next_entry()? {
            all.push(it);
        }
        Ok(Form::Table(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str) -> (u64, u64, String) {
        let it = Node::read(text).err().unwrap_or_else(|| panic!("it was read: {text}"));
        (it.at.line, it.at.column, it.why)
    }

    #[test]
    fn every_value_and_every_name_knows_its_place() {
        let root = Node::read("a: 1\nb:\n  c: \"x\"\n  d: {e: 1.5}\n").ok().unwrap();
        let at = |it: At| (it.line, it.column);
        let (b, inner) = root.entry("b").unwrap();
        assert_eq!((at(b.at), at(inner.child("c").unwrap().at)), ((2, 1), (3, 6)));
        let (e, half) = inner.child("d").unwrap().entry("e").unwrap();
        assert_eq!((at(e.at), at(half.at), half.json()), ((4, 7), (4, 10), 1.5.into()));
    }

    #[test]
    fn yaml_means_what_it_means_to_the_product() {
        let read = |text| Node::read(text).ok().unwrap().json();
        let written = "t: true\nyes: yes\nnothing: ~\ntext: '1'\nbase: &b {x: 1}\nsame: *b\nmore: {<<: *b, y: 2}\n";
        let meant =
            r#"{"t": true, "yes": "yes", "nothing": null, "text": "1", "base": {"x": 1}, "same": {"x": 1}, "more": {"x": 1, "y": 2}}"#;
        assert_eq!(read(written), read(meant));
        assert_eq!(read("\u{feff}a: 1\r\nb: 2\r\n"), read(r#"{"a": 1, "b": 2}"#));
        let escaped = "{\n\t\"a\": \"\\ud83d\\ude00 \\/ \\u00e9\"\n}";
        assert_eq!(read(escaped), serde_json::from_str::<Value>(escaped).unwrap());
        assert_eq!(read(""), Value::Null);
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line_and_column() {
        for (text, line, column, told) in [
            ("a: 1\nb: c: d\n", 2, 5, "mapping values are not allowed"),
            ("a:\n\tb: 1\n", 2, 2, "tabs"),
            ("a: 1\na: 2\n", 2, 1, "this name is there already"),
            ("a: *x\n", 1, 4, "unknown anchor"),
            ("a: 1\n---\nb: 2\n", 3, 1, "second document"),
            ("a: {{ code }}\n", 1, 5, "stands in quotes"),
            ("a: 'x\n", 2, 1, "quoted"),
            ("a: .nan\n", 1, 4, "non-finite"),
            ("a: @x\n", 1, 4, "unexpected character"),
        ] {
            let found = why(text);
            assert!((found.0, found.1) == (line, column) && found.2.contains(told), "{text:?}: {found:?}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_in_the_words_of_json() {
        for (text, line, column, told) in [
            ("{\"a\": 1\n \"b\": 2}", 2, 2, "expected `,` or `}`"),
            ("{\"a\": 1,\n}", 2, 1, "trailing comma"),
            ("{\"a\": }", 1, 7, "expected value"),
            ("{\"a\": 1", 1, 7, "EOF while parsing"),
            ("{\"a\": 'x'}", 1, 7, "expected value"),
        ] {
            let found = why(text);
            assert!((found.0, found.1) == (line, column) && found.2.contains(told), "{text:?}: {found:?}");
        }
        assert!(why("{\"a\": 1, \"a\": 2}").2.contains("there already"), "{:?}", why("{\"a\": 1, \"a\": 2}"));
    }

    #[test]
    fn a_file_that_never_ends_does_end() {
        assert_eq!(why(&"[".repeat(100_000)).0, 1);
        assert_eq!(why(&"{\"a\":".repeat(100_000)).0, 1);
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..8 {
            let again = format!("*a{},", n - 1).repeat(10);
            bomb.push_str(&format!("a{n}: &a{n} [{again}]\n"));
        }
        assert!(why(&bomb).2.contains("too much"), "{:?}", why(&bomb));
    }
}
