//! The inbox page as a type, with samples of everything that it can show.

use crate::moment;
use askama::Template;
use countersign_core::ports::Shown;
use countersign_core::words::address::Channel;

/// The page.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "inbox/page.html")]
pub(super) struct InboxPage {
    /// Newest first.
    pub letters: Vec<Letter>,
}

/// One message on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub id: String,
    /// The moment for machines, and the time of day for people.
    pub at: String,
    pub time: String,
    pub kind: &'static str,
    pub to: String,
    pub subject: Option<String>,
    pub text: String,
    pub code: String,
    /// Whether there is HTML to be shown in a frame.
    pub has_html: bool,
}

impl InboxPage {
    pub fn of(newest: &[Shown]) -> Self {
        Self { letters: newest.iter().map(Letter::of).collect() }
    }
}

impl Letter {
    fn of(Shown { id, at, message }: &Shown) -> Self {
        Self {
            id: id.to_string(),
            at: moment::rfc3339(*at),
            time: moment::of_day(*at),
            kind: match message.channel {
                Channel::Sms => "Text message",
                Channel::Voice => "Call",
                Channel::Email => "E-mail",
                Channel::External => "By the application",
                Channel::Totp => "Authenticator",
            },
            to: message.to.reveal().into_owned(),
            subject: message.subject.clone(),
            text: message.text.trim_end().to_owned(),
            code: message.code.clone(),
            has_html: message.html.is_some(),
        }
    }

    /// The code in groups of three, or in halves, which is how people copy and say it. Readers of the page hear digit by digit.
    fn grouped(&self) -> Vec<&str> {
        let cut = if self.code.len().is_multiple_of(3) { 3 } else { self.code.len().div_ceil(2) };
        self.code.as_bytes().chunks(cut).map(|part| std::str::from_utf8(part).unwrap_or_default()).collect()
    }
}

#[cfg(test)]
impl InboxPage {
    /// Everything that the page can show.
    pub fn samples() -> Vec<Self> {
        let text = Letter {
            id: "dlv_0190163d8694739b9c3e0e2f1a7b5c11".into(),
            at: "2030-01-01T12:00:00.000Z".into(),
            time: "12:00:00".into(),
            kind: "Text message",
            to: "+918212345212".into(),
            subject: None,
            text: "523471 is your Example verification code. It is valid for 5 minutes. Do not share it.".into(),
            code: "523471".into(),
            has_html: false,
        };
        let mail = Letter {
            id: "dlv_0190163d8694739b9c3e0e2f1a7b5c12".into(),
            time: "11:58:31".into(),
            kind: "E-mail",
            to: "jdoe@example.com".into(),
            subject: Some("190204 is your Example verification code".into()),
            text: "Your verification code is 190204\n\nIt is valid for 5 minutes and can be used once.".into(),
            code: "190204".into(),
            has_html: true,
            ..text.clone()
        };
        let call = Letter { kind: "Call", text: "Your code is 5 2 3 4 7 1 0 9.".into(), code: "52347109".into(), ..text.clone() };
        let hostile = Letter {
            subject: Some("<script>alert(1)</script>".into()),
            text: "</pre><img src=x onerror=alert(1)> \"quoted\" & a-very-long-word-without-any-blank-".repeat(8),
            to: "a.very.long.mailbox.name.that.does.not.fit.on.a.telephone@subdomain.of.a.long.example.com".into(),
            ..mail.clone()
        };
        vec![Self { letters: vec![] }, Self { letters: vec![text.clone()] }, Self { letters: vec![text, mail, call, hostile] }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_becomes_a_page_without_anything_inline() {
        for page in InboxPage::samples() {
            let html = page.render().expect("the template fits");
            assert_eq!(html.matches("<article").count(), page.letters.len());
            assert!(html.contains("lang=\"en\"") && html.contains("<main") && html.contains("aria-live=\"polite\""));
            for forbidden in ["<script>", " style=", "<style", "onerror=alert(1)>", "onclick", "javascript:"] {
                assert!(!html.contains(forbidden), "{forbidden}");
            }
            for letter in &page.letters {
                assert!(html.contains(&letter.grouped().join("</span><span>")), "the code stands there in groups");
            }
            if let Ok(folder) = std::env::var("COUNTERSIGN_PAGES") {
                std::fs::write(format!("{folder}/inbox-{}.html", page.letters.len()), html).expect("the folder is there");
            }
        }
    }

    #[test]
    fn a_code_is_shown_in_groups() {
        let mut letter = InboxPage::samples()[1].letters[0].clone();
        for (code, groups) in [("523471", "523 471"), ("5234710", "5234 710"), ("52347109", "5234 7109"), ("523471090", "523 471 090")] {
            letter.code = code.into();
            assert_eq!(letter.grouped().join(" "), groups);
        }
    }
}
