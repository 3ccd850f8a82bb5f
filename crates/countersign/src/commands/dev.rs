//! `countersign dev`: everything embedded, a demo tenant, and an inbox instead of real messages.
//!
//! Owns the demo and its words. It is the same server as `serve`, with settings of its own in its data folder; what is made
//! there stays from one start to the next.

use super::{Desk, all_cores};
use crate::cli;
use crate::config::{Config, Environment, LogFormat, MasterKeySource};
use crate::logs;
use crate::master::{self, make_folder, write_private};
use crate::no::No;
use crate::ports::OsChance;
use crate::say::{Say, print, quoted};
use crate::serve;
use countersign_core::Core;
use countersign_core::nouns::route::Route;
use countersign_core::nouns::tenant::{Policy, Tenant};
use countersign_core::verbs::manage::{NewClient, NewProvider, TenantChange};
use countersign_core::words::address::{Channel, Login};
use countersign_core::words::refusal::{Error, Refusal};
use countersign_core::words::secret::Secret;
use countersign_web::pryv;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// The settings of a trial. A file, so that every other command finds the same database.
const SETTINGS: &str = "\
# Made by `countersign dev`, and read by it. Every setting: countersign serve --reference

[egress]
# Providers that you try may run on this machine. The rest of your network stays out of reach.
allow = [\"127.0.0.0/8\", \"::1/128\"]
allow_plain_http = true

[log]
format = \"text\"
level = \"warn\"

[development]
# Messages are shown on a page, and sent to nobody.
allow_inbox = true
";

const TENANT: &str = "demo";
const PROVIDER: &str = "inbox";

/// Who logs in as with Pryv.io, and with what.
const PERSON: &str = "jane-doe";
const PASSWORD: &str = "demo-password";

/// Where the secret of the demo client is kept: the database has only its hash.
const CLIENT_FILE: &str = "demo-client.json";

/// The client that the lines on the screen use.
#[derive(Serialize, Deserialize)]
struct DemoClient {
    client_id: String,
    client_secret: String,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Ready<'a> {
    base_url: &'a str,
    tenant: &'a str,
    token_url: String,
    client_id: String,
    client_secret: String,
    inbox_url: String,
}

pub fn run(desk: &Desk, command: cli::Dev) -> Result<(), No> {
    let folder = match command.data {
        Some(folder) => folder,
        None => default_folder(&desk.environment),
    };
    make_folder(&folder)
        .map_err(|why| No::refused(format!("{} cannot be made: {why}", folder.display())).hint("name another folder with --data"))?;
    let folder = folder.canonicalize().map_err(|why| No::refused(format!("{}: {why}", folder.display())))?;
    let file = folder.join(crate::config::FILE);
    if !file.exists() {
        write_private(&file, SETTINGS.trim_end()).map_err(|why| No::refused(format!("{} cannot be written: {why}", file.display())))?;
    }
    let mut config = Config::read(Some(&file), &desk.environment)?;
    if let Some(listen) = command.listen {
        config.server.listen = listen;
    }
    if config.is_reachable_from_elsewhere() {
        return Err(No::usage("a trial is for this machine only: its inbox shows every code to whoever can reach it")
            .hint("listen on a loopback address such as 127.0.0.1:8080; for others there is `countersign serve`"));
    }
    super::serve::refuse_dangers(&config)?;
    logs::begin(&config.log);
    if let MasterKeySource::File(key) = &config.master_key
        && !key.exists()
        && config.storage.file().is_some_and(|it| !it.exists())
    {
        master::make(key, &OsChance)?;
        // A trial holds nothing that must not be lost, so nobody is warned.
        tracing::info!("A master key was made in {}", key.display());
    }
    let say = desk.say;
    let quiet = config.log.format == LogFormat::Json;
    all_cores()?.block_on(serve::run(config, async |home, base_url| {
        let client = settle(&home.core, &folder).await?;
        let ready = Ready {
            base_url,
            tenant: TENANT,
            token_url: format!("{base_url}/ciam-mfa/v2/get/token"),
            client_id: client.client_id,
            client_secret: client.client_secret,
            inbox_url: format!("{base_url}/inbox"),
        };
        let text = match say {
            Say::Json => serde_json::to_string(&ready).map_err(io::Error::other)?,
            Say::Text if quiet => format!("Countersign is at {base_url}"),
            Say::Text => banner(&ready, &program(), &file),
        };
        Ok(print(&text)?)
    }))
}

/// `$XDG_DATA_HOME/countersign/dev`, or what stands for it (XDG Base Directory Specification 0.8).
fn default_folder(environment: &Environment) -> PathBuf {
    let absolute = |name: &str| environment.get(name).map(PathBuf::from).filter(|it| it.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|it| it.join(".local/share")));
    data.map_or_else(|| PathBuf::from("countersign-dev"), |it| it.join("countersign/dev"))
}

/// Sees to it that the demo is there, and leaves alone what somebody has changed since.
async fn settle(core: &Core, folder: &Path) -> Result<DemoClient, No> {
    let tenant = match core.tenant_named(TENANT).await {
        Ok(tenant) => tenant,
        Err(Error::Refused(Refusal::Unknown(_))) => core.create_tenant(TENANT, "Demo", roomy()).await?,
        Err(error) => return Err(error.into()),
    };
    if tenant.routes.is_empty() {
        lead_to_inbox(core, &tenant).await?;
    }
    if !tenant.dialects.contains_key(pryv::DIALECT) {
        settle_person(core, &tenant).await?;
    }
    settle_client(core, &tenant, &folder.join(CLIENT_FILE)).await
}

/// Whoever tries something asks for many codes, for one person, in a short time.
fn roomy() -> Policy {
    Policy { sends: 1000, ..Policy::default() }
}

/// By which words this program was started, so that the lines on the screen start it again.
fn program() -> String {
    std::env::args_os().next().map_or_else(|| "countersign".to_owned(), |it| it.to_string_lossy().into_owned())
}

async fn lead_to_inbox(core: &Core, tenant: &Tenant) -> Result<(), No> {
    let inbox = NewProvider {
        name: PROVIDER.to_owned(),
        channels: Channel::SENT.to_vec(),
        kind: "inbox".to_owned(),
        settings: serde_json::json!({}),
        secrets: Default::default(),
    };
    let inbox = core.put_provider(tenant.id, inbox).await?.id;
    let route = |channel| Route { channel, destination: String::new(), legs: vec![inbox] };
    let routes = Some(Channel::SENT.map(route).to_vec());
    core.change_tenant(tenant.id, TenantChange { routes, ..TenantChange::default() }).await?;
    Ok(())
}

/// A person who logs in as with Pryv.io. Whoever can reach a trial sees every code in its inbox, so the password is no secret.
async fn settle_person(core: &Core, tenant: &Tenant) -> Result<(), No> {
    let told = serde_json::to_value(pryv::Settings::default()).map_err(io::Error::other)?;
    core.set_dialect(tenant.id, pryv::DIALECT, Some(told)).await?;
    let login = Login::parse(PERSON).map_err(|why| No::refused(why.to_string()))?;
    match core.create_account(tenant.id, login, Secret::new(PASSWORD), "en").await {
        Ok(_) | Err(Error::Refused(Refusal::NameTaken)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn settle_client(core: &Core, tenant: &Tenant, file: &Path) -> Result<DemoClient, No> {
    let kept = std::fs::read_to_string(file).ok().and_then(|text| serde_json::from_str::<DemoClient>(&text).ok());
    if let Some(kept) = kept {
        match core.authenticate(&kept.client_id, &Secret::new(kept.client_secret.clone())).await {
            Ok(_) => return Ok(kept),
            // It was removed, switched off or given another secret: the lines on the screen need one that works.
            Err(Error::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let new = NewClient { name: "Demo application".to_owned(), client_id: None, secret: None, application: None, email_from: None };
    let (client, secret) = core.create_client(tenant.id, new).await?;
    let made = DemoClient { client_id: client.client_id, client_secret: secret.reveal().to_owned() };
    let text = serde_json::to_string(&made).map_err(io::Error::other)?;
    let gone = std::fs::remove_file(file).or_else(|why| if why.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(why) });
    gone.and_then(|()| write_private(file, &text)).map_err(|why| No::refused(format!("{} cannot be written: {why}", file.display())))?;
    Ok(made)
}

/// What a person sees. The lines are for pasting, so each of them needs nothing but those above it, curl, sed and grep. Every
/// answer is shown, for an error is one as well.
fn banner(ready: &Ready<'_>, program: &str, file: &Path) -> String {
    let Ready { base_url, token_url, client_id, client_secret, inbox_url, .. } = ready;
    let (token_url, inbox) = (quoted(token_url), quoted(inbox_url));
    let call = quoted(&format!("{base_url}/ciam-mfa/v2/deviceAuthentications"));
    let id = quoted(&format!("client_id={client_id}"));
    let secret = quoted(&format!("client_secret={client_secret}"));
    let (program, file) = (quoted(program), quoted(&file.display().to_string()));
    format!(
        r#"
Countersign is at {base_url}, for you to try. Messages are sent to nobody: the inbox shows them.

  Inbox     {inbox_url}
  Pryv.io   {base_url}/{PERSON}/auth/login, password {PASSWORD}: docs/pryv.md has lines to paste
  Commands  {program} --config {file} tenant show {TENANT}
  Stop      Ctrl-C; tenants, clients, people and limits are kept for the next start, the messages of the inbox are not

Paste these lines into a shell, one after the other. A token for the application, a code for a person, the code out of the
inbox, and the answer:

ANSWER=$(curl -sS {token_url} -d grant_type=client_credentials -d {id} --data-urlencode {secret}); printf '%s\n' "$ANSWER"
TOKEN=$(printf '%s\n' "$ANSWER" | sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p')
ANSWER=$(curl -sS {call} -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{{"userName":"jdoe","deviceType":"sms","phoneNumber":"+1 202 555 0123"}}'); printf '%s\n' "$ANSWER"
AUTH_ID=$(printf '%s\n' "$ANSWER" | sed -n 's/.*"authId":"\([^"]*\)".*/\1/p')
CODE=$(curl -sS {inbox} -H 'Accept: application/json' | grep -o '"text":"[^"]*' | sed 1q | grep -o '[0-9]\{{6\}}' | sed 1q)
curl -sS {call}/$AUTH_ID -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d "{{\"deviceType\":\"sms\",\"otp\":\"$CODE\"}}"; echo
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::household::Household;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_trial_keeps_its_things_where_the_user_keeps_data() {
        let folder =
            |pairs: &[(&str, &str)]| default_folder(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        assert_eq!(folder(&[("HOME", "/home/a"), ("XDG_DATA_HOME", "/data")]), Path::new("/data/countersign/dev"));
        assert_eq!(folder(&[("HOME", "/home/a"), ("XDG_DATA_HOME", "relative")]), Path::new("/home/a/.local/share/countersign/dev"));
        assert_eq!(folder(&[]), Path::new("countersign-dev"));
    }

    #[tokio::test]
    async fn a_trial_goes_on_with_the_client_that_it_had_as_long_as_that_one_works() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse(SETTINGS, Some(folder.path().join("countersign.toml")), &Environment::new()).unwrap();
        let home = Household::open(&config).await.unwrap();
        let first = settle(&home.core, folder.path()).await.unwrap();
        home.close_after_command().await;

        let home = Household::open(&config).await.unwrap();
        let again = settle(&home.core, folder.path()).await.unwrap();
        assert_eq!((&again.client_id, &again.client_secret), (&first.client_id, &first.client_secret));

        let tenant = home.core.tenant_named(TENANT).await.unwrap();
        assert_eq!((tenant.routes.len(), tenant.policy.sends), (Channel::SENT.len(), 1000));
        home.core.remove_client(tenant.id, &first.client_id).await.unwrap();
        let another = settle(&home.core, folder.path()).await.unwrap();
        assert_ne!(another.client_id, first.client_id);
        let secret = Secret::new(another.client_secret);
        assert!(home.core.authenticate(&another.client_id, &secret).await.is_ok());
        let mode = std::fs::metadata(folder.path().join(CLIENT_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        home.close_after_command().await;
    }

    #[test]
    fn the_settings_of_a_trial_are_right_and_safe() {
        let config = Config::parse(SETTINGS, Some("/nonexistent/countersign.toml".into()), &Environment::new()).unwrap();
        assert!(config.development.allow_inbox && !config.is_reachable_from_elsewhere());
        assert_eq!(config.dangers(), []);
    }

    #[test]
    fn the_banner_holds_each_line_whole_whatever_is_in_the_secret() {
        let ready = Ready {
            base_url: "http://[::1]:8080",
            tenant: TENANT,
            token_url: "http://[::1]:8080/ciam-mfa/v2/get/token".into(),
            client_id: "abc".into(),
            client_secret: "it's $SECRET".into(),
            inbox_url: "http://[::1]:8080/inbox".into(),
        };
        let text = banner(&ready, "target/release/countersign", Path::new("/a b/countersign.toml"));
        assert!(text.contains(r"--data-urlencode 'client_secret=it'\''s $SECRET')"), "{text}");
        assert!(text.contains("target/release/countersign --config '/a b/countersign.toml' tenant"));
        // Brackets are patterns for the shell and for curl.
        assert!(text.contains("'http://[::1]:8080/inbox'"));
        assert!(text.contains(r"grep -o '[0-9]\{6\}'"));
    }
}
