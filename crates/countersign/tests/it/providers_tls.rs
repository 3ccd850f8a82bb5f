//! HTTP providers by TLS, with a server that others wrote: OpenSSL's.

use crate::tools::{self, Certificates, Folder, Running};
use countersign_core::ports::test::{Script, Still};
use countersign_core::ports::{Receipt, SendError, Sends};
use countersign_core::words::address::{Address, Channel, PhoneNumber};
use countersign_core::words::id::DeliveryId;
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::Message;
use countersign_providers::egress::{Egress, EgressSettings};
use countersign_providers::http::Http;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

fn provider(url: &str, root: Option<&Path>) -> Http {
    let roots_pem = root.map(|it| fs::read_to_string(it).expect("the certificate")).into_iter().collect();
    let allow = vec!["127.0.0.0/8".parse().expect("a network")];
    let egress = Egress::new(EgressSettings { allow, roots_pem, ..EgressSettings::default() }).expect("good settings");
    let clock = Arc::new(Still::at(Timestamp::from_millis(0)));
    Http::build(&json!({"method": "GET", "url": url}), &BTreeMap::new(), egress, clock).expect("good settings")
}

async fn sent(provider: &Http) -> Result<Receipt, SendError> {
    let to = Address::Phone(PhoneNumber::parse("+44 7700 900000", None).expect("a number that could exist"));
    let code = "523471".into();
    let message = Message { channel: Channel::Sms, to, from: None, subject: None, text: "523471".into(), html: None, code };
    provider.send(DeliveryId::new(Timestamp::from_millis(0), &Script::default()), Arc::new(message)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_is_believed_only_with_a_certificate_for_its_name() {
    let Some(openssl) = tools::find("a_vendor_is_believed_only_with_a_certificate_for_its_name", "openssl") else { return };
    let folder = Folder::new("tls");
    let Certificates { root, certificate, key } = tools::certificates(&openssl, &folder);
    let port = tools::free_port();
    let mut command = Command::new(&openssl);
    command.args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{port}"), "-cert"]);
    let _running = Running::start(command.arg(&certificate).arg("-key").arg(&key));
    assert!(tools::listens(port, Duration::from_secs(10)), "OpenSSL does not listen");

    let trusted = provider(&format!("https://localhost:{port}/"), Some(&root));
    assert_eq!(sent(&trusted).await, Ok(Receipt(None)));
    assert_eq!(trusted.probe().await, Ok(format!("localhost:{port} answers, and its certificate is good")));
    for (host, root, expected) in
        [("localhost", None, "nobody whom we trust has issued it"), ("127.0.0.1", Some(root.as_path()), "it is for another name")]
    {
        let stranger = provider(&format!("https://{host}:{port}/"), root);
        for told in [sent(&stranger).await.map(|_| ()), stranger.probe().await.map(|_| ())] {
            assert!(matches!(&told, Err(SendError::Unavailable { why, .. }) if why.contains(expected)), "{told:?}");
        }
    }
}
