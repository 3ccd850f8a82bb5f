//! The templates of platform.yml: text with places of the form `{{ name }}`.
//!
//! Owns what is put into such a place, and how it is escaped for where it lands (Pryv contract §5). There is no language in them: no
//! conditions, no filters, no other spacing. Whoever writes the template is the operator; names and values are any user's, so neither may
//! do more than fill its place.

use countersign_core::words::variables::shown;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The most bytes that one value may have when everything in it is filled in. Values may name each other, so that a few short ones
/// could become very long.
const VALUE_MOST: usize = 16 * 1024;

const OPEN: &str = "{{ ";
const CLOSE: &str = " }}";

/// What was filled in became too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Where the values land.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Landing {
    /// As they are.
    Plain,
    /// In a URL, behind its host.
    Url,
    /// In JSON, of which it is known whether a place is inside of quotes.
    Json,
    /// In something that calls itself JSON and is not: as if inside of quotes.
    Quoted,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place {
        name: String,
        /// Whether a string of JSON is open here.
        quoted: bool,
    },
}

/// A template, taken apart.
pub(super) struct Stencil {
    pieces: Vec<Piece>,
    landing: Landing,
}

impl Stencil {
    /// A text in which values stand as they are.
    pub(super) fn plain(source: &str) -> Self {
        Self { pieces: pieces(source), landing: Landing::Plain }
    }

    /// What follows the host of a URL. The fragment is not part of it, for nobody sends one.
    pub(super) fn url(source: &str) -> Self {
        let mut kept = Vec::new();
        for piece in pieces(source) {
            match piece {
                Piece::Text(text) => {
                    let (before, fragment) = text.split_once('#').map_or((text.as_str(), false), |(before, _)| (before, true));
                    let mut legal = String::with_capacity(before.len());
                    push_legal(&mut legal, before);
                    kept.push(Piece::Text(legal));
                    if fragment {
                        break;
                    }
                }
                place @ Piece::Place { .. } => kept.push(place),
            }
        }
        Self { pieces: kept, landing: Landing::Url }
    }

    /// A body. `labelled` says whether its content type is JSON; whatever is JSON is escaped as such, labelled or not.
    pub(super) fn body(source: &str, labelled: bool) -> Self {
        let mut pieces = pieces(source);
        note_quotes(&mut pieces);
        let is_json = |sample: &str| {
            let mut text = String::with_capacity(source.len());
            for piece in &pieces {
                text.push_str(match piece {
                    Piece::Text(it) => it,
                    Piece::Place { quoted: true, .. } => "x",
                    Piece::Place { quoted: false, .. } => sample,
                });
            }
            serde_json::from_str::<IgnoredAny>(&text).is_ok()
        };
        // Where both a number and a string can stand, every value can: it is not half of one.
        // A number or a word alone is JSON too, but needs a label: any text could be one.
        let landing = match ((labelled || begins_as_json(&pieces)) && is_json("0") && is_json("\"\""), labelled) {
            (true, _) => Landing::Json,
            (false, true) => Landing::Quoted,
            (false, false) => Landing::Plain,
        };
        Self { pieces, landing }
    }

    /// Whether it begins as JSON does, and is none whatever is filled in.
    pub(super) fn is_broken_json(&self) -> bool {
        self.landing == Landing::Quoted && begins_as_json(&self.pieces)
    }

    /// The names in it that nothing is known for.
    pub(super) fn unfilled<'a>(&'a self, values: &Values<'_>) -> impl Iterator<Item = &'a str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Place { name, .. } if !values.has(name) => Some(name.as_str()),
            Piece::Place { .. } | Piece::Text(_) => None,
        })
    }

    /// Fills it in; what comes of it has at most `most` bytes. A place that nothing is known for stays as it was written.
    pub(super) fn fill(&self, values: &Values<'_>, most: usize) -> Result<String, TooLong> {
        let mut out = String::with_capacity(256.min(most));
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Place { name, quoted } => match (values.expanded(name)?, self.landing) {
                    (Some(value), Landing::Plain) => out.push_str(&value),
                    (Some(value), Landing::Url) => push_legal(&mut out, &value),
                    (Some(value), Landing::Json) if !quoted && serde_json::from_str::<Value>(&value).is_ok() => out.push_str(&value),
                    (Some(value), Landing::Json) if !quoted => out.push_str(&Value::from(value).to_string()),
                    (Some(value), Landing::Json | Landing::Quoted) => push_escaped(&mut out, &value),
                    (None, Landing::Url) => push_legal(&mut out, &format!("{OPEN}{name}{CLOSE}")),
                    (None, _) => [OPEN, name, CLOSE].iter().for_each(|it| out.push_str(it)),
                },
            }
            if out.len() > most {
                return Err(TooLong);
            }
        }
        Ok(out)
    }
}

/// Names and what they stand for, in the order in which they are filled in.
pub(super) struct Values<'a>(Vec<(&'a str, String)>);

impl<'a> Values<'a> {
    /// Takes them in their order.
    pub(super) fn of(pairs: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name, shown(value))).collect())
    }

    /// Puts one last, in place of another of that name.
    pub(super) fn and_last(mut self, name: &'a str, text: &str) -> Self {
        self.0.retain(|(it, _)| *it != name);
        self.0.push((name, text.to_owned()));
        self
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(it, _)| *it == name)
    }

    /// What stands in the place of `name`: its value, in which those that come later are filled in, each once.
    ///
    /// The original replaces each name in the whole text, one name after the other. What is in a template and what came with a value is
    /// the same to it, so that a name like `a }}","b":"{{ c` takes the template itself away. Here a place is in the template, or is in
    /// one value; for every name without such braces that comes to the same.
    fn expanded(&self, name: &str) -> Result<Option<String>, TooLong> {
        let Some(at) = self.0.iter().position(|(it, _)| *it == name) else { return Ok(None) };
        let mut text = self.0[at].1.clone();
        for (name, value) in &self.0[at + 1..] {
            if !text.contains(OPEN) {
                break;
            }
            let place = format!("{OPEN}{name}{CLOSE}");
            let times = text.matches(&place).count();
            if times == 0 {
                continue;
            }
            if text.len() - times * place.len() + times * value.len() > VALUE_MOST {
                return Err(TooLong);
            }
            text = text.replace(&place, value);
        }
        if text.len() > VALUE_MOST { Err(TooLong) } else { Ok(Some(text)) }
    }
}

/// Takes a template apart. A place is exactly `{{ name }}`, and of several beginnings the last one counts.
fn pieces(source: &str) -> Vec<Piece> {
    let (mut pieces, mut text, mut rest) = (Vec::new(), String::new(), source);
    while let Some(end) = rest.find(CLOSE) {
        let (before, behind) = (&rest[..end], &rest[end + CLOSE.len()..]);
        // A name with braces in it would be two places, or half of one, and what is between them is the template's own.
        match before.rfind(OPEN).filter(|begin| !["{{", "}}"].iter().any(|it| before[begin + OPEN.len()..].contains(it))) {
            Some(begin) => {
                text.push_str(&before[..begin]);
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Place { name: before[begin + OPEN.len()..].to_owned(), quoted: false });
            }
            None => [before, CLOSE].iter().for_each(|it| text.push_str(it)),
        }
        rest = behind;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    pieces
}

/// Notes which places are inside of a string, were it JSON.
fn note_quotes(pieces: &mut [Piece]) {
    let (mut open, mut escaped) = (false, false);
    for piece in pieces {
        match piece {
            Piece::Place { quoted, .. } => (*quoted, escaped) = (open, false),
            Piece::Text(text) => {
                for byte in text.bytes() {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' if open => escaped = true,
                        b'"' => open = !open,
                        _ => {}
                    }
                }
            }
        }
    }
}

fn begins_as_json(pieces: &[Piece]) -> bool {
    matches!(pieces.first(), Some(Piece::Text(text)) if text.trim_start().starts_with(['{', '[']))
}

/// Writes `text` so that it can stand inside of a string of JSON.
fn push_escaped(out: &mut String, text: &str) {
    let quoted = Value::from(text).to_string();
    out.push_str(&quoted[1..quoted.len() - 1]);
}

/// Writes `text` behind the host of a URL: what no URL can hold is percent-encoded (RFC 3986 §2.1, as UTF-8), and all else stays, for it
/// may be encoded already. A `#` that is left by now belongs to a value.
fn push_legal(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            // The apostrophe is legal, but HTTP clients encode it in a query, so it is better always the same.
            b'"' | b'#' | b'\'' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0..=b' ' | 0x7f.. => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
            legal => out.push(char::from(legal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::words::variables::Variables;

    fn read(json: &str) -> Variables {
        serde_json::from_str(json).expect("an object")
    }

    fn names(it: &Stencil) -> Vec<&str> {
        let places = it.pieces.iter().filter_map(|it| match it {
            Piece::Place { name, .. } => Some(name.as_str()),
            Piece::Text(_) => None,
        });
        places.collect()
    }

    fn filled(it: &Stencil, json: &str) -> String {
        it.fill(&Values::of(read(json).iter()), 10_000).expect("it is short")
    }

    #[test]
    fn a_place_is_spelled_in_one_way() {
        for (source, expected) in [
            ("{{ a }}", vec!["a"]),
            ("{{a}} {{ a}} {{a }} { { a } } {{\ta }} {{ }}", vec![]),
            ("{{  }}", vec![""]),
            ("{{  a }}{{ b  }}", vec![" a", "b "]),
            ("{{{ a }}}", vec!["a"]),
            ("{{ a {{ b }} c }}", vec!["b"]),
            ("}} {{ a.b-c d\"é }}", vec!["a.b-c d\"é"]),
        ] {
            assert_eq!(names(&Stencil::plain(source)), expected, "{source}");
            assert_eq!(filled(&Stencil::plain(source), "{}"), source, "what is not known stays");
        }
        assert_eq!(filled(&Stencil::plain("{{a}} {{ a }}{{ a }} {{ b }}"), r#"{"a":"$&$1"}"#), "{{a}} $&$1$&$1 {{ b }}");
    }

    #[test]
    fn a_value_names_those_that_come_later() {
        let it = Stencil::plain("{{ m }}|{{ n }}");
        assert_eq!(filled(&it, r#"{"n":"41","m":"to {{ n }}"}"#), "to {{ n }}|41");
        assert_eq!(filled(&it, r#"{"m":"to {{ n }}{{ n }}{{ m }}","n":"41"}"#), "to 4141{{ m }}|41");
        assert_eq!(filled(&it, r#"{"m":"{{ 1 }}","1":"x"}"#), "{{ 1 }}|{{ n }}", "numbers come first");
        assert_eq!(filled(&it, r#"{"m":"{{ n }}","n":"{{ o }}","o":["a",null,{"b":1}]}"#), "a,,[object Object]|a,,[object Object]");
    }

    #[test]
    fn no_name_takes_the_template_away() {
        let body = Stencil::body(r#"{"a":"{{ x }}","b":"{{ y }}"}"#, true);
        for (data, expected) in [
            (r#"{"x }}\",\"b\":\"{{ y":"gone","x":"1","y":"2"}"#, r#"{"a":"1","b":"2"}"#),
            (r#"{"x":"{{ ","\",\"b\":\"{{ y":"gone","y":"2"}"#, r#"{"a":"{{ ","b":"2"}"#),
            (r#"{"x":"{{ ","y":" }}","\",\"b\":\"":"gone"}"#, r#"{"a":"{{ ","b":" }}"}"#),
        ] {
            assert_eq!(filled(&body, data), expected, "{data}");
        }
    }

    #[test]
    fn values_that_name_each_other_do_not_grow_without_end() {
        let mut data = serde_json::Map::new();
        for at in 0..40 {
            data.insert(format!("v{at:02}"), format!("{{{{ v{:02} }}}}", at + 1).repeat(8).into());
        }
        let data = Variables::of(data);
        assert!(data.check().is_ok());
        assert_eq!(Stencil::plain("{{ v00 }}").fill(&Values::of(data.iter()), usize::MAX), Err(TooLong));
        assert_eq!(Stencil::plain("{{ a }}{{ a }}").fill(&Values::of(read(r#"{"a":"123"}"#).iter()), 5), Err(TooLong));
    }

    #[test]
    fn a_value_in_json_is_a_text_inside_of_quotes_and_a_value_outside() {
        let body = Stencil::body(r#"{"{{ k }}":"\"{{ s }}\\","n":{{ n }},"l":[{{ s }}]}"#, false);
        assert_eq!(filled(&body, r#"{"k":"a\"b","s":"é\n","n":41791231212}"#), r#"{"a\"b":"\"é\n\\","n":41791231212,"l":["é\n"]}"#);
        assert_eq!(filled(&body, r#"{"k":"","s":"","n":"1,\"admin\":true"}"#), r#"{"":"\"\\","n":"1,\"admin\":true","l":[""]}"#);
        assert_eq!(filled(&body, r#"{"k":"","s":"012","n":"{\"a\": 1}"}"#), r#"{"":"\"012\\","n":{"a": 1},"l":["012"]}"#);
    }

    #[test]
    fn what_is_json_is_told_by_its_label_and_by_its_looks() {
        use Landing::{Json, Plain, Quoted};
        for (source, labelled, landing) in [
            (r#"{"a":"{{ x }}"}"#, false, Json),
            (r#" [{{ x }}]"#, false, Json),
            ("{{ x }}", true, Json),
            ("{{ x }}", false, Plain),
            ("[Acme] {{ x }}", false, Plain),
            ("[Acme] {{ x }}", true, Quoted),
            ("a={{ x }}&b=1", true, Quoted),
            ("a={{ x }}&b=1", false, Plain),
            (r#"{"a":"\{{ x }}"}"#, true, Quoted),
            (r#"{"a":4{{ x }}}"#, true, Quoted),
            (r#"{"a":{{ x }}{{ x }}}"#, true, Quoted),
            (r#"{"a":"\u00{{ x }}"}"#, true, Quoted),
        ] {
            let it = Stencil::body(source, labelled);
            assert_eq!(it.landing, landing, "{source}");
            assert_eq!(it.is_broken_json(), landing == Quoted && source.starts_with(['{', '[']), "{source}");
        }
    }

    #[test]
    fn what_no_url_can_hold_is_encoded_and_what_is_encoded_stays() {
        let it = Stencil::url("/a b?x={{ x }}&y=%zz{{ unknown }}#gone {{ x }}");
        let all = (0..=0x7fu8).map(char::from).collect::<String>();
        let data = Variables::of([("x".to_owned(), Value::from(format!("{all}%20é€")))]);
        let expected = format!(
            "{}%20!%22%23$%&%27()*+,-./0123456789:;%3C=%3E?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[%5C]%5E_%60abcdefghijklmnopqrstuvwxyz%7B%7C%7D~%7F",
            (0..0x20).map(|it| format!("%{it:02X}")).collect::<String>()
        );
        let filled = it.fill(&Values::of(data.iter()), 10_000).expect("it is short");
        assert_eq!(filled, format!("/a%20b?x={expected}%20%C3%A9%E2%82%AC&y=%zz%7B%7B%20unknown%20%7D%7D"));
    }

    #[test]
    fn what_has_no_value_is_named() {
        let it = Stencil::plain("{{ a }} {{ b }} {{ code }} {{no}}");
        assert_eq!(it.unfilled(&Values::of(read(r#"{"a":"{{ x }}"}"#).iter())).collect::<Vec<_>>(), ["b", "code"]);
        assert_eq!(it.unfilled(&Values::of(read(r#"{"a":1,"b":2}"#).iter()).and_last("code", "1")).count(), 0);
    }
}
