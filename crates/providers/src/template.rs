//! Templates: filling in the words of a tenant and the requests of a provider.
//!
//! Owns the one template engine of the house, and what a template may cost. Whoever writes a template is not whoever
//! runs the server, so nothing in it may grow: it has names, conditions and a few filters; loops, assignments and
//! repetition are refused when it is compiled, and what remains is linear in its own length. What is filled in is
//! escaped for where it lands, whatever the template says.

use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, UndefinedBehavior, Value};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::sync::LazyLock;

/// The longest template, in bytes.
const SOURCE_MOST: usize = 64 * 1024;

/// Instructions that one filling-in may take. There are no loops, so only a very long template comes near.
const FUEL: u64 = 50_000;

/// Where filled-in values land, and so how they are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Landing {
    /// As they are. Whoever fills in escapes the whole afterwards, or need not.
    Plain,
    /// Text and attributes of HTML and XML.
    Markup,
    /// One segment of a path, or one value of a query: all but the unreserved characters of RFC 3986 §2.3 are encoded.
    Url,
    /// Inside a string of JSON.
    Json,
    /// A value of `application/x-www-form-urlencoded`.
    Form,
}

/// Why a template was not filled in. It names no value (invariant 7).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Blot {
    /// A name in it has no value for this message.
    #[error("a name in it has no value (line {line})")]
    NoValue {
        /// Where.
        line: usize,
    },
    /// It became longer than it may.
    #[error("it becomes longer than {most} bytes")]
    TooLong {
        /// The most that it may have.
        most: usize,
    },
    /// It asks for something that cannot be done with the values.
    #[error("it cannot be filled in (line {line}): {what}")]
    Broken {
        /// Where.
        line: usize,
        /// The kind of mistake.
        what: String,
    },
}

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Sheet {
    ink: Ink,
    most: usize,
}

#[derive(Debug)]
enum Ink {
    /// Nothing is filled in.
    Fixed(String),
    /// The engine, holding this one template.
    Filled(Box<Environment<'static>>),
}

const NAME: &str = "it";

impl Sheet {
    /// Compiles `source`; what comes of it has at most `most` bytes.
    ///
    /// # Errors
    /// A sentence for whoever wrote the template, without its name.
    pub(crate) fn compile(source: &str, landing: Landing, most: usize) -> Result<Self, String> {
        if source.len() > SOURCE_MOST {
            return Err(format!("it has {} bytes; a template has at most {SOURCE_MOST}", source.len()));
        }
        if !source.contains("{{") && !source.contains("{%") && !source.contains("{#") {
            return if source.len() > most {
                Err(Blot::TooLong { most }.to_string())
            } else {
                Ok(Self { ink: Ink::Fixed(source.into()), most })
            };
        }
        screen(source)?;
        let mut engine = engine(landing).clone();
        engine.add_template_owned(NAME, source.to_owned()).map_err(|error| {
            let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            format!("line {}: {what}", error.line().unwrap_or(1))
        })?;
        Ok(Self { ink: Ink::Filled(Box::new(engine)), most })
    }

    /// The names that it uses, such as `to` and `secret.api_key`.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        match &self.ink {
            Ink::Fixed(_) => BTreeSet::new(),
            Ink::Filled(engine) => {
                engine.get_template(NAME).map(|it| it.undeclared_variables(true).into_iter().collect()).unwrap_or_default()
            }
        }
    }

    /// Its text, when nothing is filled in.
    pub(crate) fn fixed(&self) -> Option<&str> {
        match &self.ink {
            Ink::Fixed(text) => Some(text),
            Ink::Filled(_) => None,
        }
    }

    /// Fills it in.
    pub(crate) fn fill(&self, values: &Value) -> Result<Cow<'_, str>, Blot> {
        let engine = match &self.ink {
            Ink::Fixed(text) => return Ok(Cow::Borrowed(text)),
            Ink::Filled(engine) => engine,
        };
        let mut page = Page { bytes: Vec::with_capacity(256.min(self.most)), most: self.most };
        let written = engine.get_template(NAME).and_then(|it| it.render_captured_to(values.clone(), &mut page).map(|_| ()));
        written.map_err(|error| self.blot(&error))?;
        String::from_utf8(page.bytes).map(Cow::Owned).map_err(|_| Blot::Broken { line: 1, what: "not UTF-8".into() })
    }

    /// The engine's details quote values, so only the kind of a mistake is told.
    fn blot(&self, error: &Error) -> Blot {
        let line = error.line().unwrap_or(1);
        match error.kind() {
            ErrorKind::UndefinedError => Blot::NoValue { line },
            ErrorKind::WriteFailure => Blot::TooLong { most: self.most },
            kind => Blot::Broken { line, what: kind.to_string() },
        }
    }
}

/// A page that is full at some point.
struct Page {
    bytes: Vec<u8>,
    most: usize,
}

impl io::Write for Page {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + more.len() > self.most {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "full"));
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a template is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// Written as it is.
    Text(&'a str),
    /// Something is filled in.
    Value,
    /// The word that a `{% %}` begins with.
    Statement(&'a str),
    /// Nothing.
    Comment,
}

/// Refuses what would let a template grow beyond its own length.
///
/// The engine counts instructions, not bytes, so a few assignments or nested loops that double a text, or one `*`, would
/// fill the memory of the server.
fn screen(source: &str) -> Result<(), String> {
    parts(source, |part| match part {
        Part::Statement("if" | "elif" | "else" | "endif") | Part::Text(_) | Part::Value | Part::Comment => Ok(()),
        Part::Statement(word) => Err(format!("`{word}` is not known here; a template has names, filters and {{% if %}}")),
    })
}

/// Shows `each` what `source` is made of. It reads tags as the engine's own lexer does; where that is hard (maps, raw blocks),
/// the construct itself is refused.
///
/// # Errors
/// What `each` says against a part, with its line.
pub(crate) fn parts<'a>(source: &'a str, mut each: impl FnMut(Part<'a>) -> Result<(), String>) -> Result<(), String> {
    let mut rest = source;
    while !rest.is_empty() {
        let before = source.len() - rest.len();
        let told = |what: String| format!("line {}: {what}", 1 + source[..before].matches('\n').count());
        rest = if let Some(value) = rest.strip_prefix("{{") {
            each(Part::Value).map_err(told)?;
            inside(value, "}}").map_err(told)?
        } else if let Some(statement) = rest.strip_prefix("{%") {
            let words = statement.trim_start_matches(['-', '+']).trim_start();
            let end = words.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(words.len());
            each(Part::Statement(&words[..end])).map_err(told)?;
            inside(statement, "%}").map_err(told)?
        } else if let Some(comment) = rest.strip_prefix("{#") {
            each(Part::Comment).map_err(told)?;
            comment.find("#}").map_or("", |end| &comment[end + 2..])
        } else {
            let begins = |at: &usize| rest[at + 1..].starts_with(['{', '%', '#']);
            let end = rest.match_indices('{').map(|(at, _)| at).find(begins).unwrap_or(rest.len());
            each(Part::Text(&rest[..end])).map_err(told)?;
            &rest[end..]
        };
    }
    Ok(())
}

/// What follows the tag that ends with `close`.
fn inside<'a>(tag: &'a str, close: &str) -> Result<&'a str, String> {
    let bytes = tag.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'*' => return Err("`*` is not known here".into()),
            b'{' => return Err("maps are not known here".into()),
            _ if bytes[at..].starts_with(close.as_bytes()) => return Ok(&tag[at + close.len()..]),
            _ => {}
        }
        at += 1;
    }
    Ok("")
}

fn engine(landing: Landing) -> &'static Environment<'static> {
    static ENGINES: LazyLock<[Environment<'static>; 5]> =
        LazyLock::new(|| [Landing::Plain, Landing::Markup, Landing::Url, Landing::Json, Landing::Form].map(prepared));
    &ENGINES[landing as usize]
}

fn prepared(landing: Landing) -> Environment<'static> {
    let mut it = Environment::empty();
    it.set_undefined_behavior(UndefinedBehavior::Strict);
    it.set_fuel(Some(FUEL));
    it.add_filter("default", |value: Value, other: Option<Value>| if value.is_undefined() { other.unwrap_or_default() } else { value });
    it.add_filter("upper", |text: Cow<'_, str>| text.to_uppercase());
    it.add_filter("lower", |text: Cow<'_, str>| text.to_lowercase());
    it.add_filter("trim", |text: Cow<'_, str>| text.trim().to_owned());
    it.add_filter("length", |text: Cow<'_, str>| text.chars().count());
    it.add_filter("xml", |text: Cow<'_, str>| {
        let mut out = String::with_capacity(text.len() + 16);
        markup(&text, &mut |part| {
            out.push_str(part);
            Ok(())
        })
        .map(|()| out)
    });
    it.add_test("defined", |value: &Value| !value.is_undefined());
    it.add_test("undefined", |value: &Value| value.is_undefined());
    it.add_test("gsm7", |text: Cow<'_, str>| text.chars().all(is_gsm7));
    match landing {
        Landing::Plain => it.set_auto_escape_callback(|_| AutoEscape::None),
        // Not the engine's own escaping: that one lets through what a template marks as safe.
        Landing::Markup => it.set_formatter(|out, _, value| escaped(out, value, |text, write| markup(text, write))),
        Landing::Url => it.set_formatter(|out, _, value| escaped(out, value, |text, write| percent(text, false, write))),
        Landing::Form => it.set_formatter(|out, _, value| escaped(out, value, |text, write| percent(text, true, write))),
        Landing::Json => it.set_formatter(|out, _, value| {
            escaped(out, value, |text, write| {
                let quoted = serde_json::to_string(text).map_err(|_| Error::new(ErrorKind::BadSerialization, "not a string"))?;
                write(&quoted[1..quoted.len() - 1])
            })
        }),
    }
    it
}

type Write<'a> = &'a mut dyn FnMut(&str) -> Result<(), Error>;

fn escaped(out: &mut Output<'_>, value: &Value, escape: impl Fn(&str, Write<'_>) -> Result<(), Error>) -> Result<(), Error> {
    let mut write = |part: &str| out.write_str(part).map_err(|_| Error::new(ErrorKind::WriteFailure, "full"));
    match value.as_str() {
        Some(text) => escape(text, &mut write),
        None => escape(&value.to_string(), &mut write),
    }
}

/// HTML and XML alike: `&#39;` and `&#34;` are known to both. What XML 1.0 cannot hold (§2.2) becomes a blank.
fn markup(text: &str, write: Write<'_>) -> Result<(), Error> {
    let special = |c: char| matches!(c, '&' | '<' | '>' | '"' | '\'' | '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}');
    let mut rest = text;
    while let Some(at) = rest.find(special) {
        let (before, from) = rest.split_at(at);
        write(before)?;
        write(match from.as_bytes()[0] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&#34;",
            b'\'' => "&#39;",
            _ => " ",
        })?;
        rest = &from[1..];
    }
    write(rest)
}

/// Everything but the unreserved characters (RFC 3986 §2.3); a blank becomes `+` in a form, `%20` in a URL.
fn percent(text: &str, form: bool, write: Write<'_>) -> Result<(), Error> {
    let mut out = String::with_capacity(text.len() + 16);
    push_percent(&mut out, text, form);
    write(&out)
}

/// Appends `text`, percent-encoded.
pub(crate) fn push_percent(out: &mut String, text: &str, form: bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(byte)),
            b'~' if !form => out.push('~'),
            b' ' if form => out.push('+'),
            _ => out.extend(['%', char::from(HEX[usize::from(byte >> 4)]), char::from(HEX[usize::from(byte & 15)])]),
        }
    }
}

/// Whether a text message can carry it in the GSM 7-bit alphabet or its extension (3GPP TS 23.038 §6.2.1).
fn is_gsm7(c: char) -> bool {
    const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà^{}\\[~]|€\u{c}";
    c.is_ascii_alphanumeric() || BASIC.contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;
    use proptest::prelude::*;

    fn fill(source: &str, landing: Landing, values: &Value) -> Result<String, String> {
        Sheet::compile(source, landing, 10_000)?.fill(values).map(Cow::into_owned).map_err(|blot| blot.to_string())
    }

    #[test]
    fn values_are_escaped_for_where_they_land() {
        let values = context! { v => "a b&c=\"d\"<é>\n/'~" };
        for (landing, expected) in [
            (Landing::Plain, "a b&c=\"d\"<é>\n/'~"),
            (Landing::Markup, "a b&amp;c=&#34;d&#34;&lt;é&gt;\n/&#39;~"),
            (Landing::Url, "a%20b%26c%3D%22d%22%3C%C3%A9%3E%0A%2F%27~"),
            (Landing::Form, "a+b%26c%3D%22d%22%3C%C3%A9%3E%0A%2F%27%7E"),
            (Landing::Json, "a b&c=\\\"d\\\"<é>\\n/'~"),
        ] {
            assert_eq!(fill("{{ v }}", landing, &values).as_deref(), Ok(expected), "{landing:?}");
        }
    }

    #[test]
    fn a_name_without_a_value_is_an_error_and_can_be_asked_about() {
        let values = context! { a => "1" };
        assert_eq!(fill("x\n{{ b }}", Landing::Plain, &values).expect_err("it is refused"), "a name in it has no value (line 2)");
        assert_eq!(fill("x\n{{ b }}", Landing::Json, &values).expect_err("it is refused"), "a name in it has no value (line 2)");
        assert_eq!(
            fill("{{ b | default('-') }}{% if b is defined %}b{% else %}none{% endif %}", Landing::Plain, &values).expect("it is taken"),
            "-none"
        );
    }

    #[test]
    fn what_could_grow_is_refused_when_it_is_compiled() {
        for source in [
            "{% set a = 'x' %}",
            "{%- for a in b %}{% endfor %}",
            "{% with a = 1 %}{% endwith %}",
            "{% macro a() %}{% endmacro %}",
            "{% raw %}{{ \" {% endraw %}{{ 'a' * 9 }}",
            "{{ 'a' * 100000000 }}",
            "{{ '}}' * 100000000 }}",
            "{{ \"\\\"}}\" * 100000000 }}",
            "{{ {'a': {}} ['a' * 100000000] }}",
            "{# {{ #}{{ 'a' * 9 }}",
            "{% include 'x' %}",
            "{{ a | safe }}",
            "{{ a | replace('a', 'aa') }}",
            "{{ range(10) }}{{ a",
        ] {
            let told = Sheet::compile(source, Landing::Plain, 1000).map(|it| it.fill(&context! { a => "a" }).map(Cow::into_owned));
            assert!(!matches!(told, Ok(Ok(_))), "{source} gave {told:?}");
        }
    }

    #[test]
    fn a_page_is_full_at_its_bound_and_the_fuel_ends() {
        let sheet = Sheet::compile("{{ a }}{{ a }}", Landing::Plain, 7).expect("it is taken");
        assert_eq!(sheet.fill(&context! { a => "abc" }).expect("it is taken"), "abcabc");
        assert_eq!(sheet.fill(&context! { a => "abcd" }), Err(Blot::TooLong { most: 7 }));
        let long = "{{ a }}".repeat(SOURCE_MOST / 7);
        assert!(Sheet::compile(&format!("{long}{long}"), Landing::Plain, 10).is_err());
        let costly = "{{a+a+a+a+a+a+a+a+a+a+a+a+a+a+a+a+a+a+a+a+a}}".repeat(SOURCE_MOST / 46);
        let told =
            Sheet::compile(&costly, Landing::Plain, SOURCE_MOST).expect("it is taken").fill(&context! { a => 0 }).map(Cow::into_owned);
        assert!(matches!(told, Err(Blot::Broken { .. })), "{told:?}");
    }

    #[test]
    fn an_error_never_quotes_a_value() {
        for source in ["{{ v + 1 }}", "{{ v.x.y }}", "{{ v() }}", "{{ v | upper(1) }}", "{{ v < 3 }}{{ v | nofilter }}", "{{ -v }}"] {
            if let Err(told) = fill(source, Landing::Plain, &context! { v => "canary" }) {
                assert!(!told.contains("canary"), "{source}: {told}");
            }
        }
    }

    #[test]
    fn the_alphabet_of_text_messages_is_known() {
        let gsm = |text: &str| fill("{{ 'text' if v is gsm7 else 'unicode' }}", Landing::Plain, &context! { v => text });
        assert_eq!(gsm("523471 is your Ärger & Söhne code @ 5€ [x]").as_deref(), Ok("text"));
        assert_eq!(gsm("код 523471").as_deref(), Ok("unicode"));
        assert_eq!(gsm("`").as_deref(), Ok("unicode"));
    }

    proptest! {
        #[test]
        fn whatever_the_value_markup_holds_no_tag_and_json_one_string(v in any::<String>()) {
            let values = context! { v => v.clone() };
            let markup = fill("{{ v }}", Landing::Markup, &values).unwrap_or_default();
            prop_assert!(!markup.contains(['<', '>', '"', '\'']));
            let json = fill("{\"a\": \"{{ v }}\"}", Landing::Json, &values).unwrap_or_default();
            let parsed: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            prop_assert_eq!(parsed, serde_json::json!({ "a": v }));
        }

        #[test]
        fn whatever_the_template_compiling_and_filling_end(source in "[{}%#\"' \\n*~|a-c\\\\]{0,60}") {
            let _ = fill(&source, Landing::Plain, &context! { a => "1" });
        }
    }
}
