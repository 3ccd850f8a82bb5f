//! Letters through mail servers that others wrote: Postfix delivers them to a mailbox, and they are read there; aiosmtpd
//! asks for credentials.

use crate::server::{Caller, Place, Sink};
use crate::tools::{self, Certificates, Folder, Running};
use countersign_core::ports::test::Script;
use countersign_core::ports::{SendError, Sends};
use countersign_core::words::address::{Address, Channel, EmailAddress};
use countersign_core::words::id::DeliveryId;
use countersign_core::words::secret::Secret;
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::Message;
use countersign_providers::egress::{Egress, EgressSettings};
use countersign_providers::smtp::Smtp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

fn letter(to: &str) -> Arc<Message> {
    Arc::new(Message {
        channel: Channel::Email,
        to: Address::Email(EmailAddress::parse(to).expect("an address")),
        from: Some("Müller & Söhne <codes@acme.example>".into()),
        subject: Some("523471 ist dein Müller-Code".into()),
        text: "Dein Code ist 523471.\n.\nEr gehört dir – gib ihn nicht weiter.\n".into(),
        html: Some("<p>Dein Code ist <b>523471</b> – gib ihn nicht weiter.</p>".into()),
        code: "523471".into(),
    })
}

/// 1 January 2030, noon.
fn id(chance: &Script) -> DeliveryId {
    DeliveryId::new(Timestamp::from_millis(1_893_499_200_000), chance)
}

fn provider(settings: &Value, root: Option<&Path>, password: Option<&str>) -> Smtp {
    let roots_pem = root.map(|it| fs::read_to_string(it).expect("the certificate")).into_iter().collect();
    let allow = vec!["127.0.0.0/8".parse().expect("a network")];
    let egress = Egress::new(EgressSettings { allow, roots_pem, ..EgressSettings::default() }).expect("good settings");
    let secrets: BTreeMap<_, _> = password.map(|it| ("password".to_owned(), Secret::new(it))).into_iter().collect();
    Smtp::build(settings, &secrets, egress).expect("good settings")
}

/// A Postfix with folders and ports of its own.
struct Postfix {
    program: PathBuf,
    folder: Folder,
    port: u16,
    implicit_port: u16,
    root: PathBuf,
}

impl Postfix {
    fn start(test: &str) -> Option<Self> {
        let program = tools::find(test, "postfix")?;
        let openssl = tools::find(test, "openssl")?;
        // Its parts run under different users, so its master must be able to become them.
        let user = Command::new("id").arg("-u").output().expect("id runs").stdout;
        if user != b"0\n" {
            tools::missing(test, "Postfix starts for the superuser only");
            return None;
        }
        let folder = Folder::new("postfix");
        let home = folder.0.display().to_string();
        let Certificates { root, certificate, key } = tools::certificates(&openssl, &folder);
        let (port, implicit_port) = (tools::free_port(), tools::free_port());
        folder.write(
            "main.cf",
            &format!(
                "compatibility_level = 3.6\nqueue_directory = {home}/queue\ndata_directory = {home}/data\n\
                 command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\nsetgid_group = postdrop\n\
                 maillog_file = {home}/log\nmaillog_file_prefixes = {home}\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
                 myhostname = mail.example.com\nmydestination =\nmynetworks = 127.0.0.0/8\nalias_maps =\nalias_database =\n\
                 local_recipient_maps =\nvirtual_mailbox_domains = example.com\nvirtual_mailbox_base = {home}/mail\n\
                 virtual_mailbox_maps = inline:{{ jdoe@example.com=jdoe/ }}\nvirtual_uid_maps = static:65534\n\
                 virtual_gid_maps = static:65534\nsmtpd_recipient_restrictions = reject_unauth_destination\n\
                 smtpd_relay_restrictions = reject_unauth_destination\nsmtpd_tls_security_level = may\n\
                 smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\nsmtpd_tls_received_header = yes\nsmtpd_peername_lookup = no\n",
                certificate.display(),
                key.display()
            ),
        );
        let inet = format!(
            "127.0.0.1:{port} inet n - n - - smtpd\n127.0.0.1:{implicit_port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n\
             postlog unix-dgram n - n - 1 postlogd\npickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\n\
             qmgr unix n - n 300 1 qmgr\ntlsmgr unix - - n 1000? 1 tlsmgr\nrewrite unix - - n - - trivial-rewrite\n\
             bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\nverify unix - - n - 1 verify\n\
             flush unix n - n 1000? 0 flush\nproxymap unix - - n - - proxymap\nproxywrite unix - - n - 1 proxymap\n\
             showq unix n - n - - showq\nerror unix - - n - - error\nretry unix - - n - - error\ndiscard unix - - n - - discard\n\
             virtual unix - n n - - virtual\nanvil unix - - n - 1 anvil\nscache unix - - n - 1 scache\n"
        );
        folder.write("master.cf", &inet);
        for (name, owner) in [("queue", "root"), ("data", "postfix"), ("mail", "nobody")] {
            fs::create_dir_all(folder.0.join(name)).expect("a folder");
            tools::run(Command::new("chown").arg(owner).arg(folder.0.join(name)));
        }
        tools::run(Command::new(&program).arg("-c").arg(&folder.0).arg("start"));
        let it = Self { program, folder, port, implicit_port, root };
        assert!(tools::listens(port, Duration::from_secs(20)), "Postfix does not listen: {}", it.log());
        Some(it)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    /// The letters that were delivered, once there are `count`.
    fn mailbox(&self, count: usize) -> Vec<String> {
        let new = self.folder.0.join("mail/jdoe/new");
        let read = || {
            let letters: Vec<_> = fs::read_dir(&new).ok()?.filter_map(|it| fs::read_to_string(it.ok()?.path()).ok()).collect();
            (letters.len() >= count).then_some(letters)
        };
        tools::until(Duration::from_secs(20), read).unwrap_or_else(|| panic!("nothing was delivered: {}", self.log()))
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = Command::new(&self.program).arg("-c").arg(&self.folder.0).arg("stop").output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_read_from_the_mailbox_to_which_postfix_delivered_it() {
    let Some(postfix) = Postfix::start("a_letter_is_read_from_the_mailbox_to_which_postfix_delivered_it") else { return };
    let chance = Script::default();
    let roads =
        [("none", "127.0.0.1", postfix.port), ("starttls", "localhost", postfix.port), ("implicit", "localhost", postfix.implicit_port)];
    for (count, (tls, host, port)) in roads.into_iter().enumerate() {
        let provider = provider(&json!({"host": host, "port": port, "tls": tls}), Some(&postfix.root), None);
        let id = id(&chance);
        let receipt = provider.send(id, letter("jdoe@example.com")).await.unwrap_or_else(|why| panic!("{tls}: {why}; {}", postfix.log()));
        assert!(receipt.0.is_some_and(|it| postfix.log().contains(&it)), "the receipt is Postfix's queue id");
        assert!(provider.probe().await.is_ok());
        let letters = postfix.mailbox(count + 1);
        let letter = letters.iter().find(|it| it.contains(&id.to_string())).expect("this letter");
        for line in [
            "Delivered-To: jdoe@example.com\n",
            "Return-Path: <codes@acme.example>\n",
            "To: jdoe@example.com\n",
            "Date: Tue, 01 Jan 2030 12:00:00 +0000\n",
            &format!("Message-ID: <{id}@acme.example>\n"),
            "Auto-Submitted: auto-generated\n",
            "MIME-Version: 1.0\n",
            "Content-Type: multipart/alternative;",
            "Content-Type: text/plain; charset=utf-8\n",
            "Content-Type: text/html; charset=utf-8\n",
        ] {
            assert!(letter.contains(line), "{line} is not in\n{letter}");
        }
        assert_eq!(letter.matches("\nMessage-ID:").count() + letter.matches("\nMessage-Id:").count(), 1, "Postfix added none of its own");
        assert_eq!(letter.contains("(using TLSv1.3"), tls != "none", "{letter}");
        assert_eq!(letter.contains("with ESMTPS"), tls != "none", "{letter}");
        if let Some(python) = tools::find("reading a letter with Python's parser", "python3") {
            let file = postfix.folder.write("letter", letter);
            let seen = Command::new(python).arg("-c").arg(READ).arg(file).output().expect("python3 runs");
            let seen: Value = serde_json::from_slice(&seen.stdout).expect("what Python read");
            let message = self::letter("jdoe@example.com");
            assert_eq!(seen["subject"], json!(message.subject));
            assert_eq!(seen["from"], json!([["Müller & Söhne", "codes@acme.example"]]));
            assert_eq!(seen["text"].as_str().map(str::trim_end), Some(message.text.trim_end()));
            assert_eq!(seen["html"].as_str().map(str::trim_end), message.html.as_deref());
            assert_eq!((&seen["defects"], &seen["auto"]), (&json!([]), &json!("auto-generated")));
        }
    }
}

/// A letter as another implementation of RFC 5322 and MIME understands it.
const READ: &str = r#"
import email, email.policy, email.utils, json, sys
m = email.message_from_binary_file(open(sys.argv[1], "rb"), policy=email.policy.default)
parts = list(m.walk())
print(json.dumps({
    "subject": m["subject"], "from": email.utils.getaddresses([str(m["from"])]), "auto": m["auto-submitted"],
    "text": m.get_body(("plain",)).get_content(), "html": m.get_body(("html",)).get_content(),
    "defects": [str(d) for p in parts for d in p.defects],
}))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn postfix_is_understood_when_it_says_no_and_is_not_believed_without_its_certificate() {
    let Some(postfix) = Postfix::start("postfix_is_understood_when_it_says_no_and_is_not_believed_without_its_certificate") else { return };
    let chance = Script::default();
    let plain = provider(&json!({"host": "127.0.0.1", "port": postfix.port, "tls": "none"}), None, None);
    let told = plain.send(id(&chance), letter("nobody@example.com")).await;
    assert_eq!(told, Err(SendError::NoSuchAddress("reply 550 5.1.1 to RCPT".into())));
    let told = plain.send(id(&chance), letter("jdoe@elsewhere.example")).await;
    assert_eq!(told, Err(SendError::Refused("reply 554 5.7.1 to RCPT".into())));
    assert!(plain.send(id(&chance), letter("jdoe@example.com")).await.is_ok(), "the connection serves again");

    for (host, root, why) in
        [("localhost", None, "nobody whom we trust has issued it"), ("127.0.0.1", Some(postfix.root.as_path()), "it is for another name")]
    {
        let stranger = provider(&json!({"host": host, "port": postfix.port}), root, None);
        let told = stranger.send(id(&chance), letter("jdoe@example.com")).await;
        assert!(matches!(&told, Err(SendError::Unavailable { why: it, .. }) if it.contains(why)), "{told:?}");
    }
}

/// An aiosmtpd that takes letters only by TLS and with credentials.
const ASKING: &str = r#"
import asyncio, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult
from aiosmtpd.handlers import Debugging
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[2], sys.argv[3])
def judge(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"acme", "s3crét".encode()), handled=False)
def make():
    return SMTP(Debugging(open(sys.argv[4], "w", buffering=1)), authenticator=judge, auth_required=True, tls_context=context, require_starttls=True)
async def main():
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"#;

#[tokio::test(flavor = "multi_thread")]
async fn aiosmtpd_takes_a_letter_with_the_right_credentials_and_none_with_others() {
    let test = "aiosmtpd_takes_a_letter_with_the_right_credentials_and_none_with_others";
    let (Some(python), Some(openssl)) = (tools::find(test, "python3"), tools::find(test, "openssl")) else { return };
    if !Command::new(&python).args(["-c", "import aiosmtpd"]).output().is_ok_and(|it| it.status.success()) {
        return tools::missing(test, "aiosmtpd is not installed (run ./test)");
    }
    let folder = Folder::new("aiosmtpd");
    let Certificates { root, certificate, key } = tools::certificates(&openssl, &folder);
    let (port, taken) = (tools::free_port(), folder.0.join("taken"));
    let mut command = Command::new(python);
    let _running = Running::start(command.args(["-c", ASKING]).arg(port.to_string()).arg(&certificate).arg(&key).arg(&taken));
    assert!(tools::listens(port, Duration::from_secs(20)), "aiosmtpd does not listen");
    let chance = Script::default();
    let settings = json!({"host": "localhost", "port": port, "username": "acme"});
    let right = provider(&settings, Some(&root), Some("s3crét"));
    assert_eq!(right.probe().await, Ok(format!("localhost:{port} greets, its certificate is good, it takes the credentials")));
    let id = id(&chance);
    right.send(id, letter("jdoe@example.com")).await.expect("it is taken");
    let text = tools::until(Duration::from_secs(10), || fs::read_to_string(&taken).ok().filter(|it| it.contains(&id.to_string())));
    assert!(text.is_some_and(|it| it.contains("Auto-Submitted: auto-generated")));

    let wrong = provider(&settings, Some(&root), Some("guess"));
    let told = wrong.send(id, letter("jdoe@example.com")).await;
    assert_eq!(told, Err(SendError::Refused("credentials refused (reply 535 to AUTH)".into())));
    let nobody = provider(&json!({"host": "localhost", "port": port}), Some(&root), None);
    assert_eq!(nobody.send(id, letter("jdoe@example.com")).await, Err(SendError::Refused("reply 530 5.7.0 to MAIL".into())));
}

/// The whole way: asked for through the API, delivered by Postfix, read out of the mailbox, and accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_asked_for_delivered_by_postfix_read_and_accepted() {
    let Some(postfix) = Postfix::start("a_code_is_asked_for_delivered_by_postfix_read_and_accepted") else { return };
    let sink = Sink::start().await;
    let mut place = Place::new("letters", &sink.url);
    place.settings.push(("COUNTERSIGN_EGRESS_ROOTS", postfix.root.display().to_string()));
    let settings = json!({"host": "localhost", "port": postfix.port, "tls": "starttls"});
    fs::write(place.folder.path().join("post.json"), settings.to_string()).expect("a file");
    place.command(&["provider", "add", "demo", "post", "--kind", "smtp", "--channel", "email", "--file", "post.json"]);
    place.command(&["tenant", "route", "add", "demo", "email", "post"]);
    place.command(&["tenant", "set", "demo", "--email-from", "Demo <codes@mfa.acme.example>"]);
    let _server = place.start();
    let caller = Caller::new(&place).await;
    let ask = json!({"userName": "jdoe", "email": "jdoe@example.com", "deviceType": "email"});
    let (status, body) = caller.post("deviceAuthentications", ask).await.expect("an answer");
    assert_eq!(status, 201, "{body}; {}", place.log());
    let letters = postfix.mailbox(1);
    assert!(letters[0].contains("From: Demo <codes@mfa.acme.example>\n"), "the tenant's own sender: {}", letters[0]);
    let said = letters[0].lines().find_map(|it| it.strip_prefix("Subject: ")).expect("a subject");
    let code: String = said.chars().filter(char::is_ascii_digit).collect();
    let id = body["authId"].as_str().expect("an id");
    let answer = caller.post(&format!("deviceAuthentications/{id}"), json!({"otp": code, "deviceType": "EMAIL"})).await;
    assert_eq!(answer.map(|it| it.0), Some(200), "the code {code} of {said}");
}
