use super::*;
use crate::stub::{email, loopback, text};
use countersign_core::ports::test::Script;
use countersign_core::words::time::Timestamp;
use serde_json::{Value as Json, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};

/// What a server does with a line.
enum Act {
    Say(&'static str),
    Hang,
    Drop,
}

use Act::{Drop as HangUp, Hang, Say};

type Script1 = Arc<dyn Fn(&str, usize) -> Option<Act> + Send + Sync>;

/// An SMTP server that does as the script says, and otherwise what a server does.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    letters: Arc<Mutex<Vec<String>>>,
    lines: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// `script` is asked with each line (`GREETING` and `LETTER` for what is no command), and the number of the connection.
    async fn new(script: impl Fn(&str, usize) -> Option<Act> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (connections, most, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (letters, lines) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let script: Script1 = Arc::new(script);
        let (count, peak, kept, noted) = (connections.clone(), most.clone(), letters.clone(), lines.clone());
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                peak.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let (script, kept, noted, open) = (script.clone(), kept.clone(), noted.clone(), open.clone());
                tasks.spawn(async move {
                    serve(stream, number, script, kept, noted).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, connections, most, letters, lines, task }
    }

    async fn plain() -> Self {
        Self::new(|_, _| None).await
    }

    fn provider(&self) -> Smtp {
        self.with(json!({}), &[])
    }

    fn with(&self, more: Json, secrets: &[(&str, &str)]) -> Smtp {
        let mut settings = json!({"host": "127.0.0.1", "port": self.port, "tls": "none", "from": "Acme <codes@acme.example>"});
        settings.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Smtp::build(&settings, &kept(secrets), loopback()).expect("good settings")
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn letters(&self) -> Vec<String> {
        self.letters.lock().expect("no panic while held").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, number: usize, script: Script1, letters: Arc<Mutex<Vec<String>>>, lines: Arc<Mutex<Vec<String>>>) {
    let mut line = BufReader::new(stream);
    let mut asked = "GREETING".to_owned();
    loop {
        let verb = asked.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let usual = match verb.as_str() {
            "GREETING" => "220 mail.example ESMTP\r\n",
            "EHLO" => "250-mail.example\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n",
            "DATA" => "354 go on\r\n",
            "LETTER" => "250 2.0.0 Ok: queued as 4WxYz123\r\n",
            "QUIT" => "221 bye\r\n",
            "AUTH" => "235 2.7.0 welcome\r\n",
            _ => "250 fine\r\n",
        };
        let said = match script(&asked, number).unwrap_or(Say(usual)) {
            Say(text) => text,
            Hang => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                return;
            }
            HangUp => return,
        };
        if line.write_all(said.as_bytes()).await.is_err() || verb == "QUIT" {
            return;
        }
        asked.clear();
        if verb == "DATA" && said.starts_with('3') {
            let mut letter = String::new();
            while !letter.ends_with("\r\n.\r\n") {
                if !matches!(line.read_line(&mut letter).await, Ok(1..)) {
                    return;
                }
            }
            letters.lock().expect("no panic while held").push(letter);
            asked.push_str("LETTER");
            continue;
        }
        if !matches!(line.read_line(&mut asked).await, Ok(1..)) {
            return;
        }
        asked.truncate(asked.trim_end().len());
        lines.lock().expect("no panic while held").push(asked.clone());
    }
}

fn kept(secrets: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    secrets.iter().map(|(name, it)| ((*name).to_owned(), Secret::new(*it))).collect()
}

/// 1 January 2030, noon.
fn id() -> DeliveryId {
    DeliveryId::new(Timestamp::from_millis(1_893_499_200_000), &Script::default())
}

async fn sent(provider: &Smtp, message: Message) -> Result<Receipt, SendError> {
    provider.send(id(), Arc::new(message)).await
}

async fn scripted(verb: &'static str, reply: &'static str) -> Result<Receipt, SendError> {
    let server = Server::new(move |line, _| line.starts_with(verb).then_some(Say(reply))).await;
    sent(&server.provider(), email("Your code is 523471")).await
}

fn broken(why: &str) -> SendError {
    SendError::Unavailable { why: why.into(), retry_after: None }
}

#[tokio::test]
async fn a_letter_has_the_headers_that_it_should() {
    let server = Server::plain().await;
    let mut message = email("Your code is 523471.\nIt is yours alone – keep it.");
    message.html = Some("<p>Your code is <b>523471</b> – keep it</p>".into());
    message.subject = Some("523471 ist dein Müller-Code".into());
    let provider = server.with(json!({"reply_to": "help@acme.example"}), &[]);
    assert_eq!(sent(&provider, message.clone()).await, Ok(Receipt(Some("4WxYz123".into()))));
    assert_eq!(sent(&provider, message).await, Ok(Receipt(Some("4WxYz123".into()))));
    let letters = server.letters();
    assert_eq!(letters[0], letters[1], "every try is the same letter");
    let letter = &letters[0];
    for line in [
        "From: Acme <codes@acme.example>\r\n",
        "To: jdoe@example.com\r\n",
        "Reply-To: help@acme.example\r\n",
        "Date: Tue, 01 Jan 2030 12:00:00 +0000\r\n",
        &format!("Message-ID: <{}@acme.example>\r\n", id()),
        "Auto-Submitted: auto-generated\r\n",
        "MIME-Version: 1.0\r\n",
        &format!("boundary=\"={}=\"", id()),
        "Content-Type: text/plain; charset=utf-8\r\n",
        "Content-Type: text/html; charset=utf-8\r\n",
    ] {
        assert!(letter.contains(line), "{line} is not in\n{letter}");
    }
    let head = letter.split("\r\n\r\n").next().expect("a head");
    assert!(head.contains("Content-Type: multipart/alternative;") && head.is_ascii() && !head.contains("List-"), "{head}");
    assert!(letter.find("text/plain") < letter.find("text/html"), "the best part comes last (RFC 2046 §5.1.4)");
    assert!(!letter.replace("\r\n", "").contains(['\r', '\n']), "lines end with CRLF");
    let lines = server.lines.lock().expect("no panic while held").clone();
    assert_eq!(lines[..4], ["EHLO [127.0.0.1]", "MAIL FROM:<codes@acme.example>", "RCPT TO:<jdoe@example.com>", "DATA"]);
}

#[tokio::test]
async fn a_letter_without_html_is_plain_text() {
    let server = Server::plain().await;
    assert!(sent(&server.provider(), email("Your code is 523471\n.\n..\nend")).await.is_ok());
    let letter = server.letters().concat();
    assert!(letter.contains("Content-Type: text/plain; charset=utf-8\r\n") && !letter.contains("multipart"));
    assert!(
        letter.ends_with("\r\n\r\nYour code is 523471\r\n..\r\n...\r\nend\r\n\r\n.\r\n"),
        "dots are doubled (RFC 5321 §4.5.2): {letter}"
    );
}

#[tokio::test]
async fn nothing_in_a_message_makes_a_header() {
    let server = Server::plain().await;
    let mut message = email("x");
    message.subject = Some("a\r\nBcc: evil@example.com\r\n\r\nbody".into());
    assert!(sent(&server.provider(), message.clone()).await.is_ok());
    let letter = server.letters().concat();
    assert!(!letter.contains("\r\nBcc:") && letter.contains("Subject: a"), "{letter}");
    for from in ["x\r\nBcc: evil@example.com <a@example.com>", "no mailbox", "ä@example.com", ""] {
        message.from = Some(from.into());
        assert_eq!(
            sent(&server.provider(), message.clone()).await,
            Err(SendError::Refused("the sender of the message is no mailbox".into()))
        );
    }
    message.from = Some("Tenant, Inc. <mfa@tenant.example>".into());
    let told = sent(&server.provider(), message.clone()).await;
    assert!(told.is_err(), "a comma outside of quotes would be two mailboxes");
    message.from = Some("\"Tenant, Inc.\" <mfa@tenant.example>".into());
    assert!(sent(&server.provider(), message).await.is_ok());
    let letter = server.letters().pop().expect("a letter");
    assert!(
        letter.contains("@tenant.example>\r\n") && letter.contains("From: =?utf-8?b?VGVuYW50LCBJbmMu?= <mfa@tenant.example>\r\n"),
        "{letter}"
    );
}

#[tokio::test]
async fn who_has_no_sender_or_no_mailbox_is_told_so() {
    let server = Server::plain().await;
    let nobody = Smtp::build(&json!({"host": "127.0.0.1", "port": server.port, "tls": "none"}), &kept(&[]), loopback()).expect("good");
    assert!(matches!(sent(&nobody, email("x")).await, Err(SendError::Refused(why)) if why.contains("set `from` of the provider")));
    assert!(matches!(sent(&server.provider(), text("x")).await, Err(SendError::Refused(why)) if why.contains("telephones")));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_reply_means_what_the_protocol_says() {
    let refused = |why: &str| SendError::Refused(why.into());
    let nobody = |why: &str| SendError::NoSuchAddress(why.into());
    for (verb, reply, expected) in [
        ("RCPT", "450 4.2.1 canary jdoe@example.com\r\n", broken("reply 450 4.2.1 to RCPT")),
        ("RCPT", "451 later\r\n", broken("reply 451 to RCPT")),
        ("RCPT", "550 canary jdoe@example.com unknown\r\n", nobody("reply 550 to RCPT")),
        ("RCPT", "550-5.1.1 one\r\n550 5.1.1 two\r\n", nobody("reply 550 5.1.1 to RCPT")),
        ("RCPT", "551 moved\r\n", nobody("reply 551 to RCPT")),
        ("RCPT", "553 bad\r\n", nobody("reply 553 to RCPT")),
        ("RCPT", "501 5.1.3 bad\r\n", nobody("reply 501 5.1.3 to RCPT")),
        ("RCPT", "550 5.7.1 no relay\r\n", refused("reply 550 5.7.1 to RCPT")),
        ("RCPT", "550 5.1.8 sender\r\n", refused("reply 550 5.1.8 to RCPT")),
        ("RCPT", "552 5.2.2 full\r\n", refused("reply 552 5.2.2 to RCPT")),
        ("RCPT", "554 no\r\n", refused("reply 554 to RCPT")),
        ("MAIL", "550 5.1.1 odd\r\n", nobody_is_asked("reply 550 5.1.1 to MAIL")),
        ("MAIL", "550 no\r\n", refused("reply 550 to MAIL")),
        ("MAIL", "452 4.3.1 full\r\n", broken("reply 452 4.3.1 to MAIL")),
        ("DATA", "554 no\r\n", refused("reply 554 to DATA")),
        ("LETTER", "554 5.7.1 spam\r\n", refused("reply 554 5.7.1 to the letter")),
        ("LETTER", "550 5.1.1 nobody\r\n", nobody("reply 550 5.1.1 to the letter")),
        ("LETTER", "451 4.7.1 grey\r\n", broken("reply 451 4.7.1 to the letter")),
        ("GREETING", "554 go away\r\n", refused("reply 554 to EHLO")),
        ("GREETING", "421 busy\r\n", broken("reply 421 to EHLO")),
        ("GREETING", "HTTP/1.1 400 Bad Request\r\n", broken("the reply to EHLO is no SMTP")),
        ("RCPT", "nonsense\r\n", broken("the reply to RCPT is no SMTP")),
    ] {
        assert_eq!(scripted(verb, reply).await, Err(expected), "{verb} {reply}");
    }
}

/// At MAIL nothing is said about the recipient.
fn nobody_is_asked(why: &str) -> SendError {
    SendError::Refused(why.into())
}

#[tokio::test]
async fn who_hangs_or_hangs_up_is_unavailable_wherever_that_happens() {
    for verb in ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "LETTER"] {
        let server = Server::new(move |line, _| line.starts_with(verb).then_some(HangUp)).await;
        let told = sent(&server.provider(), email("x")).await;
        assert!(matches!(&told, Err(SendError::Unavailable { .. })), "{verb}: {told:?}");
    }
    for verb in ["GREETING", "RCPT", "LETTER"] {
        let server = Server::new(move |line, _| line.starts_with(verb).then_some(Hang)).await;
        let told = sent(&server.with(json!({"timeout_ms": 1000}), &[]), email("x")).await;
        assert_eq!(told, Err(broken("no answer within 1s")), "{verb}");
    }
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port that is free again").port();
    let settings = json!({"host": "127.0.0.1", "port": gone, "tls": "none", "from": "a@example.com"});
    let provider = Smtp::build(&settings, &kept(&[]), loopback()).expect("good");
    assert_eq!(sent(&provider, email("x")).await, Err(broken("no connection: connection refused")));
}

#[tokio::test]
async fn a_connection_serves_again_also_after_a_refusal() {
    let server = Server::new(|line, _| line.contains("nobody@").then_some(Say("550 5.1.1 nobody\r\n"))).await;
    let provider = server.provider();
    let mut lost = email("x");
    lost.to = To::Email(countersign_core::words::address::EmailAddress::parse("nobody@example.com").expect("an address"));
    for _ in 0..3 {
        assert!(sent(&provider, email("x")).await.is_ok());
        assert!(matches!(sent(&provider, lost.clone()).await, Err(SendError::NoSuchAddress(_))));
    }
    assert_eq!((server.connections(), server.letters().len()), (1, 3));
}

#[tokio::test]
async fn one_task_watches_the_waiting_connections_however_many_letters_go() {
    let server = Server::plain().await;
    let provider = server.provider();
    for _ in 0..20 {
        assert!(sent(&provider, email("x")).await.is_ok());
    }
    // Beside it there are the server and its one connection.
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 3);
}

#[tokio::test]
async fn a_connection_that_was_hung_up_while_it_waited_is_replaced() {
    for act in [|| HangUp, || Say("421 4.4.2 idle too long\r\n")] {
        let mails = AtomicUsize::new(0);
        let script = move |line: &str, _| (line.starts_with("MAIL") && mails.fetch_add(1, Ordering::SeqCst) == 1).then(act);
        let server = Server::new(script).await;
        let provider = server.provider();
        assert!(sent(&provider, email("x")).await.is_ok());
        assert!(sent(&provider, email("x")).await.is_ok());
        assert_eq!((server.connections(), server.letters().len()), (2, 2));
    }
}

#[tokio::test]
async fn a_letter_whose_fate_is_open_is_not_said_again() {
    let server = Server::new(|line, number| (line == "LETTER" && number == 1).then_some(HangUp)).await;
    assert!(matches!(sent(&server.provider(), email("x")).await, Err(SendError::Unavailable { .. })));
    assert_eq!((server.connections(), server.letters().len()), (1, 1), "whether to try again is the core's decision");
}

#[tokio::test]
async fn no_more_connections_than_the_pool_has() {
    let server = Server::plain().await;
    let provider = server.with(json!({"pool": 3}), &[]);
    let sends: Vec<_> = (0..40).map(|_| tokio::spawn(provider.send(id(), Arc::new(email("x"))))).collect();
    for send in sends {
        assert!(send.await.expect("no panic").is_ok());
    }
    assert_eq!(server.letters().len(), 40);
    assert!(server.most.load(Ordering::SeqCst) <= 3 && server.connections() <= 3, "{} connections", server.connections());
}

#[tokio::test]
async fn credentials_are_given_and_a_no_is_told_as_such() {
    let server = Server::plain().await;
    let provider = server.with(json!({"username": "acme"}), &[("password", "s3cret")]);
    assert!(sent(&provider, email("x")).await.is_ok());
    let auth = server.lines.lock().expect("no panic while held")[1].clone();
    assert_eq!(auth, "AUTH PLAIN AGFjbWUAczNjcmV0");
    assert_eq!(provider.probe().await, Ok(format!("127.0.0.1:{} greets, it takes the credentials", server.port)));
    for (reply, expected) in [
        ("535 5.7.8 canary\r\n", SendError::Refused("credentials refused (reply 535 to AUTH)".into())),
        ("534 no\r\n", SendError::Refused("credentials refused (reply 534 to AUTH)".into())),
        ("454 4.7.0 later\r\n", broken("reply 454 4.7.0 to AUTH")),
    ] {
        let server = Server::new(move |line, _| line.starts_with("AUTH").then_some(Say(reply))).await;
        let provider = server.with(json!({"username": "acme"}), &[("password", "s3cret")]);
        assert_eq!(sent(&provider, email("x")).await, Err(expected.clone()));
        assert_eq!(provider.probe().await, Err(expected));
        assert!(!format!("{provider:?}").contains("s3cret"));
    }
    let server = Server::new(|line, _| line.starts_with("EHLO").then_some(Say("250 mail.example\r\n"))).await;
    let told = sent(&server.with(json!({"username": "acme"}), &[("password", "s3cret")]), email("x")).await;
    assert!(matches!(told, Err(SendError::Refused(why)) if why.starts_with("credentials refused: the server offers neither")));
}

#[tokio::test]
async fn without_tls_nothing_is_said_and_what_is_said_before_tls_is_not_believed() {
    const OFFER: &str = "250-mail.example\r\n250 STARTTLS\r\n";
    let starttls = |server: &Server| server.with(json!({"tls": "starttls"}), &[]);
    let server = Server::plain().await;
    let told = sent(&starttls(&server), email("x")).await;
    assert!(matches!(told, Err(SendError::Refused(why)) if why.contains("offers no STARTTLS")));
    assert!(server.letters().is_empty());
    // RFC 3207 §4.2; injected replies would answer for the letter that was never read.
    let injected = "220 go\r\n250-x\r\n250 AUTH\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n";
    for (reply, expected) in
        [(injected, "somebody spoke before TLS began"), ("220 go\r\n", "no TLS"), ("454 no\r\n", "reply 454 to STARTTLS")]
    {
        let server = Server::new(move |line, _| match line {
            "STARTTLS" => Some(Say(reply)),
            _ if line.starts_with("EHLO") => Some(Say(OFFER)),
            _ => None,
        })
        .await;
        let told = sent(&starttls(&server), email("x")).await;
        assert!(matches!(&told, Err(SendError::Unavailable { why, .. }) if why.starts_with(expected)), "{reply}: {told:?}");
        assert!(server.letters().is_empty());
    }
}

#[test]
fn a_wrong_setting_is_named_with_what_would_be_right() {
    for (settings, secrets, expected) in [
        (json!({}), &[][..], "missing field `host`"),
        (json!({"host": "mail.example.com", "prot": 25}), &[], "unknown field `prot`"),
        (json!({"host": "mail.example.com", "tls": "maybe"}), &[], "unknown variant `maybe`"),
        (json!({"host": "10.0.0.1"}), &[], "host: the address is private"),
        (json!({"host": "8.8.8.8", "tls": "none"}), &[], "tls is none, which is for hosts that the operator allows"),
        (json!({"host": "mail.example.com", "timeout_ms": 10}), &[], "timeout_ms is 10; it takes 1000 to 10000, for all providers"),
        (json!({"host": "mail.example.com", "timeout_ms": 10_001}), &[], "timeout_ms is 10001; it takes 1000 to 10000, for all providers"),
        (json!({"host": "mail.example.com", "pool": 0}), &[], "pool is 0; it takes 1 to 64"),
        (json!({"host": "mail.example.com", "username": "u"}), &[], "username needs its password"),
        (json!({"host": "mail.example.com"}), &[("password", "p")], "of no use without username"),
        (json!({"host": "mail.example.com", "helo": "a\r\nRSET"}), &[], "it takes the name of this host"),
        (json!({"host": "mail.example.com", "from": "nobody"}), &[], "from is no mailbox; write `Name <name@example.com>`"),
        (json!({"host": "mail.example.com", "reply_to": "a@b.c\r\nX: y"}), &[], "reply_to is no mailbox"),
    ] {
        let told = Smtp::build(&settings, &kept(secrets), loopback()).map(|_| ()).expect_err("it is refused");
        assert!(told.contains(expected), "{settings} told: {told}");
    }
}

#[test]
fn nobody_waits_longer_than_five_seconds_unless_told_to() {
    let provider = Smtp::build(&json!({"host": "mail.example.com"}), &kept(&[]), loopback()).expect("good settings");
    assert_eq!(provider.0.within, Duration::from_secs(5));
}

#[tokio::test]
async fn a_name_that_is_public_is_not_written_to_without_tls() {
    use crate::egress::EgressSettings;
    let lookup = crate::stub::names(&[("mail.example", &["8.8.8.8"])]);
    let egress = Egress::with_lookup(EgressSettings { allow_plain_http: true, ..EgressSettings::default() }, lookup).expect("good");
    let settings = json!({"host": "mail.example", "tls": "none", "from": "a@example.com"});
    let provider = Smtp::build(&settings, &kept(&[]), egress).expect("names are judged when they are resolved");
    assert!(matches!(sent(&provider, email("x")).await, Err(SendError::Refused(why)) if why.contains("without TLS")));
}
