//! What is asked in each row: the three calls of the CIAM dialect, and fixed bytes for the rest.
//!
//! Every person and every number is used once, so that no limit on sends is ever met; every right code is used once,
//! because it is accepted once (invariant 1).

use crate::driver::Work;
use crate::message;
use crate::server::Doors;
use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;

/// Where challenges are opened and answered.
const CHALLENGES: &str = "/ciam-mfa/v2/deviceAuthentications";

const JSON: &str = "application/json";

/// What the CIAM dialect says of a code that is not the right one.
const WRONG_CODE: &[u8] = b"\"10008\"";

/// An id as it stands in answers: a UUID.
type Id = [u8; 36];

/// The same bytes again and again.
#[derive(Debug)]
pub struct Same {
    bytes: Vec<u8>,
}

impl Same {
    /// The body of a request for a code, to be echoed.
    #[must_use]
    pub fn echo(address: SocketAddr) -> Self {
        let body = asked(0);
        Self { bytes: [message::post(address, "/", JSON, None, body.len()), body].concat().into_bytes() }
    }

    /// A request for an access token.
    #[must_use]
    pub fn token(doors: &Doors) -> Self {
        Self { bytes: token(doors).into_bytes() }
    }
}

impl Work for Same {
    fn ask(&mut self, _: usize, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&self.bytes);
        true
    }

    fn told(&mut self, _: usize, status: u16, body: &[u8]) -> Result<()> {
        right(status, 200, body)
    }
}

/// One request for an access token at each of many doors.
#[derive(Debug)]
pub struct Tokens<'a> {
    doors: &'a mut [Doors],
    next: usize,
    asked: Vec<usize>,
}

impl<'a> Tokens<'a> {
    /// Puts a token into each of `doors`, over `connections` connections.
    #[must_use]
    pub fn new(doors: &'a mut [Doors], connections: usize) -> Self {
        Self { doors, next: 0, asked: vec![0; connections] }
    }
}

impl Work for Tokens<'_> {
    fn ask(&mut self, connection: usize, out: &mut Vec<u8>) -> bool {
        let Some(door) = self.doors.get(self.next) else { return false };
        self.asked[connection] = self.next;
        self.next += 1;
        out.extend_from_slice(token(door).as_bytes());
        true
    }

    fn told(&mut self, connection: usize, status: u16, body: &[u8]) -> Result<()> {
        right(status, 200, body)?;
        let answer: serde_json::Value = serde_json::from_slice(body)?;
        let token = answer["access_token"].as_str().context("no access_token in the answer")?;
        self.doors[self.asked[connection]].token = token.to_owned();
        Ok(())
    }
}

/// The whole request for an access token.
#[must_use]
pub fn token(doors: &Doors) -> String {
    let body = format!("grant_type=client_credentials&client_id={}&client_secret={}", doors.client_id, escaped(&doors.client_secret));
    message::post(doors.address, "/ciam-mfa/v2/get/token", "application/x-www-form-urlencoded", None, body.len()) + &body
}

/// A secret may hold punctuation that means something in a form.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// People who have not been asked for yet.
#[derive(Debug, Default)]
pub struct People(u32);

impl People {
    /// The next of them.
    pub fn next(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

/// The number of a person: possible in India's numbering plan, where mobile numbers have ten digits and may begin with 8.
#[must_use]
pub fn number(person: u32) -> u64 {
    918_000_000_000 + u64::from(person % 1_000_000_000)
}

fn asked(person: u32) -> String {
    format!("{{\"userName\":\"u{person:010}\",\"phoneNumber\":\"+{}\",\"deviceType\":\"sms\"}}", number(person))
}

/// An open challenge, and where its code went.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    id: Id,
    /// The number to which its code went.
    pub to: u64,
    /// Which of the doors it was opened at.
    door: u32,
}

/// Which of `doors` a person goes to: neighbours go to doors that are far apart, so that no door is met in bursts.
fn door_of(person: u32, doors: usize) -> usize {
    (u64::from(person) * 7919 % doors as u64) as usize
}

/// Requests for codes, each for another person, at one door or at many.
#[derive(Debug)]
pub struct Requests<'a> {
    heads: Vec<String>,
    people: &'a mut People,
    left: usize,
    asked: Vec<u32>,
    /// The challenges that were opened.
    pub opened: Vec<Opened>,
}

impl<'a> Requests<'a> {
    /// At most `most` requests over `connections` connections.
    #[must_use]
    pub fn new(doors: &[Doors], people: &'a mut People, connections: usize, most: usize) -> Self {
        let head = |door: &Doors| message::post(door.address, CHALLENGES, JSON, Some(&door.token), asked(0).len());
        Self { heads: doors.iter().map(head).collect(), people, left: most, asked: vec![0; connections], opened: Vec::new() }
    }
}

impl Work for Requests<'_> {
    fn ask(&mut self, connection: usize, out: &mut Vec<u8>) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let person = self.people.next();
        self.asked[connection] = person;
        out.extend_from_slice(self.heads[door_of(person, self.heads.len())].as_bytes());
        out.extend_from_slice(asked(person).as_bytes());
        true
    }

    fn told(&mut self, connection: usize, status: u16, body: &[u8]) -> Result<()> {
        right(status, 201, body)?;
        let id = id(body).with_context(|| format!("no authId in {}", String::from_utf8_lossy(body)))?;
        let person = self.asked[connection];
        self.opened.push(Opened { id, to: number(person), door: door_of(person, self.heads.len()) as u32 });
        Ok(())
    }
}

/// The value of `authId` in an answer.
fn id(body: &[u8]) -> Option<Id> {
    const NAME: &[u8] = b"\"authId\":\"";
    let at = body.windows(NAME.len()).position(|it| it == NAME)? + NAME.len();
    body.get(at..)?.first_chunk().copied()
}

/// A code that is ready to be sent to its challenge.
#[derive(Debug, Clone, Copy)]
pub struct Guess {
    id: Id,
    code: u32,
    door: u32,
}

impl Guess {
    /// The right code of each challenge: `codes` are in the order of `opened`.
    #[must_use]
    pub fn right(opened: &[Opened], codes: &[u32]) -> Vec<Self> {
        opened.iter().zip(codes).map(|(it, code)| Self { id: it.id, code: *code, door: it.door }).collect()
    }

    /// Two wrong codes for each challenge, far enough apart that they are never on their way together. A third would end
    /// the challenge and lock the factor, which is another row.
    #[must_use]
    pub fn wrong(right: &[Self]) -> Vec<Self> {
        let off = |by: u32| right.iter().map(move |it| Self { code: (it.code + by) % 1_000_000, ..*it });
        off(1).chain(off(2)).collect()
    }

    /// A guess at nothing, for a ceiling, which does not look.
    #[must_use]
    pub fn none() -> Self {
        Self { id: *b"01890000-0000-7000-8000-000000000000", code: 0, door: 0 }
    }
}

/// Answers to challenges, each at the door where its challenge was opened.
pub struct Answers<I> {
    rests_of_heads: Vec<String>,
    guesses: I,
    status: u16,
}

impl<I: Iterator<Item = Guess>> Answers<I> {
    /// Answers that are right (200), or wrong (400, and the words for a wrong code).
    pub fn new(doors: &[Doors], guesses: I, status: u16) -> Self {
        let head = |door: &Doors| message::post(door.address, "", JSON, Some(&door.token), ANSWER.len());
        Self { rests_of_heads: doors.iter().map(|door| head(door).trim_start_matches("POST ").to_owned()).collect(), guesses, status }
    }
}

const ANSWER: &str = r#"{"otp":"000000"}"#;

impl<I: Iterator<Item = Guess>> Work for Answers<I> {
    fn ask(&mut self, _: usize, out: &mut Vec<u8>) -> bool {
        let Some(guess) = self.guesses.next() else { return false };
        for part in [b"POST ", CHALLENGES.as_bytes(), b"/", &guess.id, self.rests_of_heads[guess.door as usize].as_bytes()] {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(format!("{{\"otp\":\"{:06}\"}}", guess.code).as_bytes());
        true
    }

    fn told(&mut self, _: usize, status: u16, body: &[u8]) -> Result<()> {
        right(status, self.status, body)?;
        if status == 400 {
            ensure!(body.windows(WRONG_CODE.len()).any(|it| it == WRONG_CODE), "another refusal: {}", String::from_utf8_lossy(body));
        }
        Ok(())
    }
}

/// Whether the answer has the status that it should have.
///
/// # Errors
/// It has another.
pub fn right(status: u16, expected: u16, body: &[u8]) -> Result<()> {
    if status == expected {
        return Ok(());
    }
    bail!("answered {status} instead of {expected}: {}", String::from_utf8_lossy(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_the_answer_and_nowhere_else() {
        let body = br#"{"status":"SUCCESS","authId":"0063f27c-787b-4046-8b8e-a75e241b5ea6"}"#;
        assert_eq!(id(body).as_ref().map(|it| &it[..8]), Some(&b"0063f27c"[..]));
        assert_eq!(id(br#"{"authId":"0063f27c"#), None);
        assert_eq!(id(b"{}"), None);
    }

    #[test]
    fn a_wrong_code_is_never_the_right_one_and_comes_twice_per_challenge() {
        let right: Vec<_> = [0, 999_998, 999_999].map(|code| Guess { code, ..Guess::none() }).into();
        let wrong = Guess::wrong(&right);
        assert_eq!(wrong.len(), 6);
        assert!(wrong.iter().enumerate().all(|(at, it)| it.code != right[at % 3].code && it.code < 1_000_000));
        assert!((0..3).all(|at| wrong[at].code != wrong[at + 3].code));
    }

    #[test]
    fn every_request_has_the_length_that_its_head_says() {
        let doors = Doors {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            client_id: "id".into(),
            client_secret: "a&b=c%".into(),
            token: "t".into(),
        };
        let mut people = People::default();
        let doors = [doors];
        let mut requests = Requests::new(&doors, &mut people, 1, 1);
        let mut answers = Answers::new(&doors, std::iter::once(Guess::none()), 200);
        let mut bytes = [Vec::new(), Vec::new(), token(&doors[0]).into_bytes()];
        assert!(requests.ask(0, &mut bytes[0]) && answers.ask(0, &mut bytes[1]));
        assert!(!requests.ask(0, &mut Vec::new()) && !answers.ask(0, &mut Vec::new()), "both have an end");
        for bytes in bytes {
            let head = message::head(&bytes).ok().flatten().expect("a whole head");
            assert_eq!(head.length + head.body, bytes.len(), "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
