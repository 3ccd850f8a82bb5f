//! Addresses: where a message can reach a person. Parsed at the door, then never again.

use crate::words::secret::hex;
use crate::words::variables::Variables;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// By which way a person is reached or asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// A text message.
    Sms,
    /// A call in which the code is spoken.
    Voice,
    /// A letter by SMTP.
    Email,
    /// A way that only the tenant's provider knows: what the application says of the person is handed on to it (Pryv contract §5).
    External,
    /// Nothing is sent: the person's own authenticator shows the code (RFC 6238).
    Totp,
}

impl Channel {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Sms, Self::Voice, Self::Email, Self::External, Self::Totp];

    /// The channels over which something is sent, in the order in which they are shown.
    pub const SENT: [Self; 4] = [Self::Sms, Self::Voice, Self::Email, Self::External];

    /// The channels over which we send words of our own, in the order in which they are shown.
    pub const CARRIED: [Self; 3] = [Self::Sms, Self::Voice, Self::Email];

    /// The word that settings and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sms => "sms",
            Self::Voice => "voice",
            Self::Email => "email",
            Self::External => "external",
            Self::Totp => "totp",
        }
    }

    /// Reads the word, in any case (CIAM contract §3.1).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not a number that could exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPhoneNumber {
    /// Letters, other scripts' digits, an extension, or nothing at all.
    #[error("a phone number has digits, blanks and + - . ( ) only")]
    Characters,
    /// No country code, and the tenant names no default region.
    #[error("write the number with + and its country code")]
    NoCountry,
    /// No numbering plan has such a number.
    #[error("no numbering plan has such a number")]
    Impossible,
    /// Numbers that cost the caller extra, or that nobody reads messages on.
    #[error("numbers of this kind are not served")]
    Kind,
}

/// What kind of line the numbering plan says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// A mobile line, or one that cannot be told from it.
    Mobile,
    /// A fixed line: can be rung, hardly ever read.
    Fixed,
    /// Anything else that can be reached, or a number that the plan does not know yet.
    Other,
}

/// A telephone number, kept in E.164.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PhoneNumber(Box<str>);

impl PhoneNumber {
    /// Understands the usual spellings of a number, so that `+91-8212345212` and `+91 82123 45212` are both `+918212345212`.
    ///
    /// `region` (ISO 3166-1, two letters) is where numbers without a country code belong. A number that is
    /// possible but not assigned is taken: numbering plans grow faster than our copy of them.
    ///
    /// # Errors
    /// [`BadPhoneNumber`] says which rule the text breaks.
    pub fn parse(text: &str, region: Option<&str>) -> Result<Self, BadPhoneNumber> {
        use rlibphonenumber::{PhoneNumber as Plan, PhoneNumberFormat, PhoneNumberType};
        let text = text.trim();
        let allowed = |c: char| c.is_ascii_digit() || matches!(c, '+' | ' ' | '-' | '.' | '(' | ')');
        if text.is_empty() || text.len() > 32 || !text.chars().all(allowed) || text.rfind('+').is_some_and(|at| at > 0) {
            return Err(BadPhoneNumber::Characters);
        }
        let region = region.and_then(|code| code.parse().ok());
        if !text.starts_with('+') && region.is_none() {
            return Err(BadPhoneNumber::NoCountry);
        }
        let plan = Plan::parse(text, region).map_err(|_| BadPhoneNumber::Impossible)?;
        // Possible within one town only is not possible from here.
        if !matches!(plan.is_possible_with_reason(), Ok(rlibphonenumber::NumberLengthType::IsPossible)) {
            return Err(BadPhoneNumber::Impossible);
        }
        // Premium lines are where SMS fraud earns its money; the others cannot be read by one person.
        if matches!(
            plan.get_type(),
            PhoneNumberType::PremiumRate
                | PhoneNumberType::SharedCost
                | PhoneNumberType::TollFree
                | PhoneNumberType::UAN
                | PhoneNumberType::Pager
                | PhoneNumberType::VoiceMail
        ) {
            return Err(BadPhoneNumber::Kind);
        }
        Ok(Self(plan.format_as(PhoneNumberFormat::E164).into_owned().into_boxed_str()))
    }

    /// The whole number in E.164. For the carrier and for looking up; never for a log.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What kind of line the numbering plan says it is.
    #[must_use]
    pub fn line(&self) -> LineKind {
        use rlibphonenumber::{PhoneNumber as Plan, PhoneNumberType};
        match Plan::parse(&*self.0, None).map(|plan| plan.get_type()) {
            Ok(PhoneNumberType::Mobile | PhoneNumberType::FixedLineOrMobile) => LineKind::Mobile,
            Ok(PhoneNumberType::FixedLine) => LineKind::Fixed,
            _ => LineKind::Other,
        }
    }

    /// What may be shown: `+91••••••5212`.
    #[must_use]
    pub fn hint(&self) -> String {
        let digits = &self.0;
        let tail = digits.len().saturating_sub(4).max(3);
        format!("{}{}{}", &digits[..3.min(digits.len())], "•".repeat(tail.saturating_sub(3)), &digits[tail.min(digits.len())..])
    }
}

impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PhoneNumber(…)")
    }
}

/// The text is not an e-mail address that could be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an e-mail address")]
pub struct BadEmailAddress;

/// An e-mail address (RFC 5321 `Mailbox`, without quoted local parts and address literals).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EmailAddress(Box<str>);

impl EmailAddress {
    /// Keeps the local part as written and the domain in lower case.
    ///
    /// # Errors
    /// [`BadEmailAddress`] when it is not one bare address of at most 254 ASCII characters with a domain of two labels.
    pub fn parse(text: &str) -> Result<Self, BadEmailAddress> {
        let text = text.trim();
        let options = email_address::Options::default().without_display_text().without_domain_literal().with_minimum_sub_domains(2);
        // Local parts beyond ASCII need SMTPUTF8 on every hop (RFC 6531); a message that may vanish is worse than a no.
        if text.len() > 254 || !text.is_ascii() || text.contains('"') {
            return Err(BadEmailAddress);
        }
        let address = email_address::EmailAddress::parse_with_options(text, options).map_err(|_| BadEmailAddress)?;
        let domain = address.domain().to_ascii_lowercase();
        if domain.rsplit('.').next().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit())) {
            return Err(BadEmailAddress);
        }
        Ok(Self(format!("{}@{domain}", address.local_part()).into_boxed_str()))
    }

    /// The whole address. For the carrier and for looking up; never for a log.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What may be shown: `j•••@example.com`.
    #[must_use]
    pub fn hint(&self) -> String {
        let (local, domain) = self.0.split_once('@').unwrap_or((&self.0, ""));
        format!("{}•••@{domain}", &local[..1.min(local.len())])
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmailAddress(…)")
    }
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    /// A telephone, for text messages and calls.
    Phone(PhoneNumber),
    /// A mailbox.
    Email(EmailAddress),
    /// What the application says of the person, for [`Channel::External`].
    Data(Variables),
}

impl Address {
    /// The whole address, for the carrier; data as JSON.
    #[must_use]
    pub fn reveal(&self) -> Cow<'_, str> {
        match self {
            Self::Phone(it) => it.reveal().into(),
            Self::Email(it) => it.reveal().into(),
            Self::Data(it) => serde_json::to_string(it).unwrap_or_default().into(),
        }
    }

    /// What may be shown.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Phone(it) => it.hint(),
            Self::Email(it) => it.hint(),
            Self::Data(_) => "•••".to_owned(),
        }
    }

    /// The one spelling by which sends and wrong codes are counted (invariant 2): no capital letter and no tag after a `+`
    /// (RFC 5233) makes a second mailbox.
    #[must_use]
    pub fn canonical(&self) -> String {
        match self {
            Self::Phone(number) => number.reveal().to_owned(),
            Self::Data(it) => it.canonical(),
            Self::Email(mail) => {
                let (local, domain) = mail.reveal().split_once('@').unwrap_or((mail.reveal(), ""));
                let untagged = local.split_once('+').map_or(local, |(before, _)| before);
                format!("{}@{domain}", if untagged.is_empty() { local } else { untagged }).to_ascii_lowercase()
            }
        }
    }
}

/// The name is empty, too long, or holds characters that do not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 256 visible characters")]
pub struct BadLogin;

/// What an application calls a person: a user name, an e-mail address, a number of its own.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Login(Box<str>);

impl Login {
    /// Takes what the application sends, without blanks around it.
    ///
    /// # Errors
    /// [`BadLogin`] when nothing is left, it is longer than 256 bytes, or it holds control characters.
    pub fn parse(text: &str) -> Result<Self, BadLogin> {
        let text = text.trim();
        if text.len() > 256 || text.chars().any(char::is_control) || fold(text).is_empty() {
            return Err(BadLogin);
        }
        Ok(Self(text.into()))
    }

    /// As it was written.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The one spelling by which a person is found and counted (invariant 2).
    #[must_use]
    pub fn canonical(&self) -> String {
        fold(&self.0)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

/// One spelling for all that look the same: form NFKC, without regard to case (ß is ss, and every sigma one sigma), and without
/// characters that do not show (Unicode's default ignorable code points). For comparing and counting, never for showing.
pub(crate) fn fold(text: &str) -> String {
    use unicode_normalization::UnicodeNormalization;
    let text = text.trim();
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let shown = text.nfkc().filter(|c| !is_ignorable(*c));
    let folded: String = shown.flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfkc().collect();
    folded.trim().to_owned()
}

/// Unicode's `Default_Ignorable_Code_Point`.
fn is_ignorable(c: char) -> bool {
    matches!(
        u32::from(c),
        0xAD | 0x34F | 0x61C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F
            | 0x3164 | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFF8 | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF
    )
}

/// A name, address or number as a keyed hash: it can be looked up and counted, and not read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub(crate) [u8; 16]);

impl Fingerprint {
    /// The sixteen bytes that engines keep.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Back from what an engine kept.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::write(&self.0))
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        hex::read(&std::borrow::Cow::<str>::deserialize(d)?).map(Self).ok_or_else(|| serde::de::Error::custom("not a fingerprint"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::write(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_kept_in_e164_whatever_people_write() {
        for text in ["+91-8212345212", "+91 (821) 234-5212", "+91.821.2345212", " +918212345212 "] {
            assert_eq!(PhoneNumber::parse(text, None).map(|it| it.reveal().to_owned()), Ok("+918212345212".to_owned()), "{text}");
        }
        assert_eq!(PhoneNumber::parse("082123 45212", Some("IN")).map(|it| it.reveal().to_owned()), Ok("+918212345212".to_owned()));
    }

    #[test]
    fn numbers_that_cannot_exist_are_refused_and_unassigned_ones_are_not() {
        assert_eq!(PhoneNumber::parse("+91123", None), Err(BadPhoneNumber::Impossible));
        assert_eq!(PhoneNumber::parse("+999123456789", None), Err(BadPhoneNumber::Impossible));
        assert_eq!(PhoneNumber::parse("+15551234", None), Err(BadPhoneNumber::Impossible), "within one town only");
        assert_eq!(PhoneNumber::parse("8212345212", None), Err(BadPhoneNumber::NoCountry));
        assert_eq!(PhoneNumber::parse("+9１8212345212", None), Err(BadPhoneNumber::Characters));
        assert_eq!(PhoneNumber::parse("+1-800-FLOWERS", None), Err(BadPhoneNumber::Characters));
        assert_eq!(PhoneNumber::parse("++918212345212", None), Err(BadPhoneNumber::Characters));
        assert_eq!(PhoneNumber::parse("+1 900 234 5678", None), Err(BadPhoneNumber::Kind));
        assert!(PhoneNumber::parse("999-000-9999", Some("US")).is_ok(), "the contract's own example");
    }

    #[test]
    fn a_hint_shows_neither_the_number_nor_the_mailbox() {
        let number = PhoneNumber::parse("+91-8212345212", None).expect("valid");
        assert_eq!(number.hint(), "+91••••••5212");
        let mail = EmailAddress::parse("jdoe@Example.COM").expect("valid");
        assert_eq!((mail.reveal(), mail.hint().as_str()), ("jdoe@example.com", "j•••@example.com"));
        assert_eq!(format!("{number:?} {mail:?}"), "PhoneNumber(…) EmailAddress(…)");
    }

    #[test]
    fn a_tag_or_a_capital_makes_no_second_mailbox() {
        let counted = |text| Address::Email(EmailAddress::parse(text).expect("valid")).canonical();
        assert_eq!(counted("J.Doe+shop@Example.com"), "j.doe@example.com");
        assert_eq!(counted("+only@example.com"), "+only@example.com");
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for text in [
            "",
            "jdoe",
            "jdoe@localhost",
            "a@b@c.de",
            "jdoe@[127.0.0.1]",
            "Joe <j@example.com>",
            "j\r\nBcc: x@example.com",
            "jdoe@127.0.0.1",
            "\"a b\"@example.com",
            "jdöe@example.com",
            "j@exa mple.com",
        ] {
            assert_eq!(EmailAddress::parse(text), Err(BadEmailAddress), "{text:?}");
        }
        assert!(EmailAddress::parse("o'brien+mfa@example.co.uk").is_ok());
    }

    #[test]
    fn a_login_has_one_canonical_spelling() {
        assert_eq!(Login::parse(" JDoe ").map(|it| it.canonical()), Ok("jdoe".to_owned()));
        let canonical = |text: &str| Login::parse(text).map(|it| it.canonical());
        assert_eq!(canonical("Jose\u{301}"), canonical("JOS\u{c9}"), "composed or not, capital or not");
        assert_eq!(canonical("straße"), canonical("STRASSE"));
        assert_eq!(canonical("ΣΑΣ"), canonical("σας"));
        for hidden in ["\u{200b}", "\u{ad}", "\u{200d}", "\u{feff}", "\u{2060}", "\u{fe0f}", "\u{34f}", "\u{200e}", "\u{e0041}"] {
            assert_eq!(canonical(&format!("j{hidden}doe")), canonical("jdoe"), "{hidden:?}");
            assert_eq!(Login::parse(hidden), Err(BadLogin), "nothing shows");
        }
        assert_eq!(Login::parse("  "), Err(BadLogin));
        assert_eq!(Login::parse("a\u{0}b"), Err(BadLogin));
    }
}
