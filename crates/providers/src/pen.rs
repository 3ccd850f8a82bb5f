//! The pen: words with the values in them.
//!
//! Owns what the words of a tenant may name and how long they may become. It is on the way of every request, so compiled
//! templates are kept, by their source: a changed template is another template.

use crate::template::{Landing, Sheet};
use countersign_core::ports::Pen;
use countersign_core::words::wording::{Values, Wording};
use minijinja::value::{Object, Value};
use quick_cache::sync::Cache;
use std::sync::Arc;

/// The longest text of a letter, in bytes.
const LETTER_MOST: usize = 64 * 1024;

/// The longest text message or call: ten parts of a long SMS (3GPP TS 23.040), in characters.
const TEXT_MOST_CHARS: usize = 1_600;

/// The longest subject: what a line of a header may have (RFC 5322 §2.1.1), less its name, in characters.
const SUBJECT_MOST_CHARS: usize = 900;

/// Compiled templates that are kept of each kind.
const KEPT: usize = 4_096;

/// Fills in words. One for the whole house.
#[derive(Debug)]
pub struct Quill {
    plain: Cache<Box<str>, Arc<Sheet>>,
    markup: Cache<Box<str>, Arc<Sheet>>,
}

impl Default for Quill {
    fn default() -> Self {
        Self::new()
    }
}

impl Quill {
    /// A pen that has written nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { plain: Cache::new(KEPT), markup: Cache::new(KEPT) }
    }

    fn fill(&self, field: &str, source: &str, landing: Landing, values: &Value) -> Result<String, String> {
        let kept = match landing {
            Landing::Markup => &self.markup,
            _ => &self.plain,
        };
        let sheet = match kept.get(source) {
            Some(sheet) => sheet,
            None => {
                let sheet = Arc::new(Sheet::compile(source, landing, LETTER_MOST).map_err(|why| format!("{field}: {why}"))?);
                // Also where a condition leaves it out today.
                if let Some(unknown) = sheet.names().iter().find(|name| !NAMES.contains(&name.as_str())) {
                    return Err(format!("{field}: `{unknown}` has no value; it is none of {}", NAMES.join(", ")));
                }
                kept.insert(source.into(), sheet.clone());
                sheet
            }
        };
        sheet.fill(values).map(std::borrow::Cow::into_owned).map_err(|blot| format!("{field}: {blot}"))
    }
}

impl Pen for Quill {
    fn write(&self, wording: &Wording, values: &Values<'_>) -> Result<Wording, String> {
        let letter = wording.subject.is_some() || wording.html.is_some();
        let values = Value::from_object(Filling {
            code: values.code.reveal().into(),
            minutes: values.minutes,
            tenant: values.tenant.into(),
            application: values.application.into(),
            user: values.user.into(),
        });
        let subject = match &wording.subject {
            Some(source) => Some(one_line(&self.fill("subject", source, Landing::Plain, &values)?)),
            None => None,
        };
        if subject.as_ref().is_some_and(|it| it.chars().count() > SUBJECT_MOST_CHARS) {
            return Err(format!("subject: it becomes longer than {SUBJECT_MOST_CHARS} characters"));
        }
        let text = self.fill("text", &wording.text, Landing::Plain, &values)?;
        if !letter && text.chars().count() > TEXT_MOST_CHARS {
            return Err(format!("text: it becomes longer than {TEXT_MOST_CHARS} characters"));
        }
        let html = wording.html.as_ref().map(|source| self.fill("html", source, Landing::Markup, &values)).transpose()?;
        Ok(Wording { subject, text, html })
    }
}

/// Line breaks would end the header; other control characters have no business in one.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// The names that words may use: [`Values`] is the reference.
const NAMES: [&str; 6] = ["code", "spoken_code", "minutes", "tenant", "application", "user"];

/// The values, made when they are asked for. It has no `Debug` text of its own: it holds a code.
struct Filling {
    code: Box<str>,
    minutes: u64,
    tenant: Box<str>,
    application: Box<str>,
    user: Box<str>,
}

impl std::fmt::Debug for Filling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Filling(…)")
    }
}

impl Object for Filling {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        Some(match key.as_str()? {
            "code" => Value::from(&*self.code),
            "spoken_code" => {
                let digits: Vec<String> = self.code.chars().map(String::from).collect();
                Value::from(digits.join(" "))
            }
            "minutes" => Value::from(self.minutes),
            "tenant" => Value::from(&*self.tenant),
            "application" => Value::from(&*self.application),
            "user" => Value::from(&*self.user),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::ports::test::Script;
    use countersign_core::words::address::Channel;
    use countersign_core::words::secret::Code;

    fn write(wording: &Wording, tenant: &str) -> (Code, Result<Wording, String>) {
        let code = Code::draw(6, &Script::default());
        let written = Quill::new().write(wording, &Values { code: &code, minutes: 5, tenant, application: "Portal", user: "jdoe" });
        (code, written)
    }

    fn text(text: &str) -> Wording {
        Wording { subject: None, text: text.into(), html: None }
    }

    #[test]
    fn the_standard_words_can_be_filled_in_for_every_channel() {
        for channel in Channel::CARRIED {
            let (code, written) = write(&Wording::standard(channel), "Müller & Söhne");
            let written = written.expect("our own words");
            let digits: String = written.text.chars().filter(char::is_ascii_digit).collect();
            assert!(digits.contains(code.reveal()), "{channel}");
            assert!(!format!("{written:?}").contains("{{"), "{channel}");
            if let Some(html) = written.html {
                assert!(html.contains("Müller &amp; Söhne") && html.contains(code.reveal()));
                assert!(written.subject.expect("letters have one").ends_with("is your Müller & Söhne verification code"));
                assert!(written.text.contains("Müller & Söhne"), "text is not escaped");
            }
        }
    }

    #[test]
    fn line_breaks_in_a_subject_become_blanks() {
        let wording = Wording { subject: Some("a\r\nBcc: {{ tenant }}\n".into()), ..text("x") };
        assert_eq!(write(&wording, "b\r\nc").1.expect("it is taken").subject.expect("it is taken"), "a  Bcc: b  c");
    }

    #[test]
    fn a_name_that_has_no_value_is_told_with_those_that_have() {
        for words in ["one\n{{ kode }}", "{% if code == '' %}{{ kode }}{% endif %}"] {
            let why = write(&text(words), "T").1.expect_err("it is refused");
            assert_eq!(why, "text: `kode` has no value; it is none of code, spoken_code, minutes, tenant, application, user");
        }
        assert!(write(&text("{{ code"), "T").1.expect_err("it is refused").starts_with("text: line 1: "));
    }

    #[test]
    fn a_text_message_has_an_end() {
        assert!(write(&text(&"é".repeat(1_600)), "T").1.is_ok());
        assert_eq!(write(&text(&"é".repeat(1_601)), "T").1.expect_err("it is refused"), "text: it becomes longer than 1600 characters");
        let letter = Wording { subject: Some("s".into()), ..text(&"e".repeat(1_601)) };
        assert!(write(&letter, "T").1.is_ok());
    }

    #[test]
    fn a_template_that_was_kept_writes_the_new_values() {
        let quill = Quill::new();
        let chance = Script::default();
        let wording = text("{{ code }} {{ spoken_code }}");
        for _ in 0..3 {
            let code = Code::draw(6, &chance);
            let written =
                quill.write(&wording, &Values { code: &code, minutes: 5, tenant: "T", application: "A", user: "u" }).expect("it is taken");
            let spoken: Vec<String> = code.reveal().chars().map(String::from).collect();
            assert_eq!(written.text, format!("{} {}", code.reveal(), spoken.join(" ")));
        }
    }
}
