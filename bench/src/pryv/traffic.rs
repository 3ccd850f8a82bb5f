//! What is asked in each row: the three calls of a log-in in front of a core, and the one of a log-in alone.
//!
//! In front of a core every person logs in once. Log-ins feed challenges, and challenges feed answers, so each token is used once for
//! either.

use crate::driver::Work;
use crate::traffic::{People, number, right};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;

/// The password of everybody.
pub const PASSWORD: &str = "correct horse battery staple";

/// A token of a log-in that waits for its code: a UUID.
type Token = [u8; 36];

/// A log-in that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// To which number its code goes.
    pub to: u64,
    token: Token,
}

/// What the person with this number is called.
fn username(number: u64) -> String {
    format!("u{number}")
}

/// One whole request, as clients of the product send it: the token is all of its header.
fn post(out: &mut Vec<u8>, address: SocketAddr, username: &str, method: &str, token: Option<&Token>, body: &str) {
    let mut put = |text: &[u8]| out.extend_from_slice(text);
    put(format!("POST /{username}/{method} HTTP/1.1\r\nHost: {address}\r\n").as_bytes());
    if let Some(token) = token {
        put(b"Authorization: ");
        put(token);
        put(b"\r\n");
    }
    put(format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
}

fn login(out: &mut Vec<u8>, address: SocketAddr, username: &str) {
    let body = format!(r#"{{"username":"{username}","password":"{PASSWORD}","appId":"bench"}}"#);
    post(out, address, username, "auth/login", None, &body);
}

/// Log-ins in front of a core, each of another person.
#[derive(Debug)]
pub struct Logins<'a> {
    address: SocketAddr,
    people: &'a mut People,
    left: usize,
    asked: Vec<u64>,
    /// The log-ins that have begun.
    pub begun: Vec<Begun>,
}

impl<'a> Logins<'a> {
    /// At most `most` log-ins over `connections` connections.
    #[must_use]
    pub fn new(address: SocketAddr, people: &'a mut People, connections: usize, most: usize) -> Self {
        Self { address, people, left: most, asked: vec![0; connections], begun: Vec::new() }
    }
}

impl Work for Logins<'_> {
    fn ask(&mut self, connection: usize, out: &mut Vec<u8>) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.asked[connection] = number(self.people.next());
        login(out, self.address, &username(self.asked[connection]));
        true
    }

    fn told(&mut self, connection: usize, status: u16, body: &[u8]) -> Result<()> {
        right(status, 302, body)?;
        let token = token(body).with_context(|| format!("no mfaToken in {}", String::from_utf8_lossy(body)))?;
        self.begun.push(Begun { to: self.asked[connection], token });
        Ok(())
    }
}

/// The value of `mfaToken` in an answer.
fn token(body: &[u8]) -> Option<Token> {
    const NAME: &[u8] = b"\"mfaToken\":\"";
    let at = body.windows(NAME.len()).position(|it| it == NAME)? + NAME.len();
    body.get(at..)?.first_chunk().copied()
}

/// Requests for codes, one for each log-in that has begun.
#[derive(Debug)]
pub struct Challenges<'a> {
    address: SocketAddr,
    begun: &'a mut Vec<Begun>,
    left: usize,
    asked: Vec<Option<Begun>>,
    /// The log-ins whose codes are on their way.
    pub sent: Vec<Begun>,
}

impl<'a> Challenges<'a> {
    /// At most `most` of those that have `begun`, which are taken away, over `connections` connections.
    #[must_use]
    pub fn new(address: SocketAddr, begun: &'a mut Vec<Begun>, connections: usize, most: usize) -> Self {
        Self { address, begun, left: most, asked: vec![None; connections], sent: Vec::new() }
    }
}

impl Work for Challenges<'_> {
    fn ask(&mut self, connection: usize, out: &mut Vec<u8>) -> bool {
        if self.left == 0 {
            return false;
        }
        let Some(begun) = self.begun.pop() else { return false };
        self.left -= 1;
        self.asked[connection] = Some(begun);
        post(out, self.address, &username(begun.to), "mfa/challenge", Some(&begun.token), "{}");
        true
    }

    fn told(&mut self, connection: usize, status: u16, body: &[u8]) -> Result<()> {
        right(status, 200, body)?;
        self.sent.extend(self.asked[connection]);
        Ok(())
    }
}

/// Right codes, each once.
#[derive(Debug)]
pub struct Codes<I> {
    address: SocketAddr,
    codes: I,
}

impl<I: Iterator<Item = (Begun, u32)>> Codes<I> {
    /// Log-ins and the codes that finish them.
    pub fn new(address: SocketAddr, codes: I) -> Self {
        Self { address, codes }
    }
}

impl<I: Iterator<Item = (Begun, u32)>> Work for Codes<I> {
    fn ask(&mut self, _: usize, out: &mut Vec<u8>) -> bool {
        let Some((begun, code)) = self.codes.next() else { return false };
        post(out, self.address, &username(begun.to), "mfa/verify", Some(&begun.token), &format!(r#"{{"code":"{code:06}"}}"#));
        true
    }

    fn told(&mut self, _: usize, status: u16, body: &[u8]) -> Result<()> {
        right(status, 200, body)?;
        logged_in(body)
    }
}

/// Log-ins of people in our own directory, in turns: nobody logs in twice at the same time.
#[derive(Debug)]
pub struct Passwords {
    address: SocketAddr,
    people: usize,
    turn: usize,
}

impl Passwords {
    /// For the people who are called [`Self::username`] of 0 to `people`.
    #[must_use]
    pub fn new(address: SocketAddr, people: usize) -> Self {
        Self { address, people, turn: 0 }
    }

    /// What one of them is called.
    #[must_use]
    pub fn username(person: usize) -> String {
        format!("person{person:05}")
    }
}

impl Work for Passwords {
    fn ask(&mut self, _: usize, out: &mut Vec<u8>) -> bool {
        login(out, self.address, &Self::username(self.turn % self.people));
        self.turn += 1;
        true
    }

    fn told(&mut self, _: usize, status: u16, body: &[u8]) -> Result<()> {
        right(status, 200, body)?;
        logged_in(body)
    }
}

fn logged_in(body: &[u8]) -> Result<()> {
    const NAME: &[u8] = b"\"token\":\"";
    ensure!(body.windows(NAME.len()).any(|it| it == NAME), "no token in {}", String::from_utf8_lossy(body));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;

    const TOLD: &[u8] = br#"{"mfaToken":"0063f27c-787b-4046-8b8e-a75e241b5ea6"}"#;

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    #[test]
    fn a_token_is_found_in_the_answer_and_nowhere_else() {
        assert_eq!(token(TOLD).as_ref().map(|it| &it[..8]), Some(&b"0063f27c"[..]));
        assert_eq!(token(br#"{"mfaToken":"0063f27c"#), None);
        assert_eq!(token(br#"{"token":"0063f27c-787b-4046-8b8e-a75e241b5ea6"}"#), None);
    }

    #[test]
    fn a_log_in_goes_its_three_steps_once_with_one_person_and_one_token() {
        let mut people = People::default();
        let mut logins = Logins::new(address(), &mut people, 1, 1);
        let mut asked = [Vec::new(), Vec::new(), Vec::new()];
        assert!(logins.ask(0, &mut asked[0]) && !logins.ask(0, &mut Vec::new()));
        logins.told(0, 302, TOLD).expect("right");
        let mut begun = logins.begun;
        let mut challenges = Challenges::new(address(), &mut begun, 1, 2);
        assert!(challenges.ask(0, &mut asked[1]) && !challenges.ask(0, &mut Vec::new()));
        challenges.told(0, 200, b"{}").expect("right");
        let sent = challenges.sent;
        assert!(begun.is_empty() && sent.len() == 1);
        let mut codes = Codes::new(address(), sent.into_iter().map(|it| (it, 23_471)));
        assert!(codes.ask(0, &mut asked[2]) && !codes.ask(0, &mut Vec::new()));

        for (bytes, method) in asked.iter().zip(["auth/login", "mfa/challenge", "mfa/verify"]) {
            let text = String::from_utf8_lossy(bytes);
            assert!(text.starts_with(&format!("POST /u{}/{method} HTTP/1.1\r\n", number(1))), "{text}");
            let head = message::head(bytes).ok().flatten().expect("a whole head");
            assert_eq!(head.length + head.body, bytes.len(), "{text}");
            let has_token = text.contains("\r\nAuthorization: 0063f27c-787b-4046-8b8e-a75e241b5ea6\r\n");
            assert_eq!(has_token, method != "auth/login", "{text}");
        }
        assert!(asked[2].ends_with(br#"{"code":"023471"}"#));
    }

    #[test]
    fn people_of_our_own_directory_log_in_in_turns() {
        let mut passwords = Passwords::new(address(), 2);
        let mut asked = [Vec::new(), Vec::new(), Vec::new()];
        assert!(asked.iter_mut().all(|it| passwords.ask(0, it)));
        assert!(asked[0] != asked[1] && asked[0] == asked[2]);
        assert!(asked[0].starts_with(format!("POST /{}/auth/login ", Passwords::username(0)).as_bytes()));
    }

    #[test]
    fn an_answer_without_a_token_ends_the_row() {
        assert!(Passwords::new(address(), 1).told(0, 200, b"{}").is_err());
        assert!(Passwords::new(address(), 1).told(0, 302, TOLD).is_err(), "somebody with a second factor is not logged in yet");
        assert!(Passwords::new(address(), 1).told(0, 200, br#"{"token":"t"}"#).is_ok());
    }
}
