//! `countersign client`: the applications that call the API.

use super::tenant::given_or_taken;
use super::{Desk, about, tenant_named};
use crate::cli;
use crate::household::Household;
use crate::no::No;
use crate::say::{moment, table};
use countersign_core::nouns::client::Client;
use countersign_core::verbs::manage::{ClientChange, NewClient};
use serde::Serialize;
use std::io;

/// A client, as it may be shown.
#[derive(Serialize)]
struct Shown {
    client_id: String,
    name: String,
    application: String,
    email_from: Option<String>,
    disabled: bool,
    /// How many secrets work at the moment.
    secrets: usize,
    created_at: String,
}

/// A client with its new secret.
#[derive(Serialize)]
struct Told {
    client_id: String,
    client_secret: String,
    name: String,
    application: String,
}

#[derive(Serialize)]
struct Done {
    client_id: String,
    done: &'static str,
}

impl Shown {
    fn of(it: Client) -> Self {
        Self {
            client_id: it.client_id,
            name: it.name,
            application: it.application,
            email_from: it.email_from,
            disabled: it.disabled,
            secrets: it.secrets.len(),
            created_at: moment(it.created_at),
        }
    }

    fn row(&self) -> [String; 5] {
        let state = match (self.disabled, self.secrets) {
            (true, _) => "disabled",
            (false, 1) => "enabled",
            (false, _) => "enabled, two secrets",
        };
        [self.client_id.clone(), self.name.clone(), self.application.clone(), state.to_owned(), self.created_at.clone()]
    }
}

const COLUMNS: [&str; 5] = ["client_id", "name", "application", "state", "since"];

pub async fn run(desk: &Desk, home: &Household, command: cli::Client) -> Result<(), No> {
    let core = &home.core;
    let (cli::Client::Create { tenant, .. }
    | cli::Client::List { tenant }
    | cli::Client::Set { tenant, .. }
    | cli::Client::Rotate { tenant, .. }
    | cli::Client::Disable { tenant, .. }
    | cli::Client::Enable { tenant, .. }
    | cli::Client::Remove { tenant, .. }) = &command;
    let tenant = tenant_named(core, tenant).await?.id;
    let show = |it: Client| Ok(desk.say.result(&Shown::of(it), |it| table(COLUMNS, &[it.row()]))?);
    match command {
        cli::Client::Create { name, client_id, application, email_from, secrets, .. } => {
            secrets.prompt();
            let mut given = secrets.read(&desk.environment, io::stdin())?;
            let secret = given.remove("client_secret");
            if let Some(other) = given.keys().next() {
                return Err(No::usage(format!("a client has no secret {other}; its one secret is called client_secret")));
            }
            let asked = client_id.clone().unwrap_or_default();
            let new = NewClient { name, client_id, secret, application, email_from };
            let (client, secret) = core.create_client(tenant, new).await.map_err(|why| about("client", &asked, why))?;
            let told = Told {
                client_id: client.client_id,
                client_secret: secret.reveal().to_owned(),
                name: client.name,
                application: client.application,
            };
            Ok(desk.say.result(&told, |it| {
                format!(
                    "client_id      {}\nclient_secret  {}\n\nThe secret is told this once: it is kept as a hash only.",
                    it.client_id, it.client_secret
                )
            })?)
        }
        cli::Client::List { tenant: name } => {
            let all: Vec<_> = core.clients(tenant).await?.into_iter().map(Shown::of).collect();
            Ok(desk.say.result(&all, |all| {
                if all.is_empty() {
                    return format!("There is no client yet. Make one:\n  countersign client create {name} \"My application\"");
                }
                table(COLUMNS, &all.iter().map(Shown::row).collect::<Vec<_>>())
            })?)
        }
        cli::Client::Set { client_id, name, email_from, no_email_from, .. } => {
            let change = ClientChange { name, email_from: given_or_taken(email_from, no_email_from), disabled: None };
            show(core.change_client(tenant, &client_id, change).await.map_err(|why| about("client", &client_id, why))?)
        }
        cli::Client::Rotate { client_id, keep_old, .. } => {
            let secret = core.rotate_client_secret(tenant, &client_id, keep_old).await.map_err(|why| about("client", &client_id, why))?;
            let client = core.clients(tenant).await?.into_iter().find(|it| it.client_id == client_id);
            let (name, application) = client.map(|it| (it.name, it.application)).unwrap_or_default();
            let told = Told { client_id, client_secret: secret.reveal().to_owned(), name, application };
            Ok(desk.say.result(&told, |it| {
                let before =
                    if keep_old { "The secret before works as well, until the next rotation." } else { "The secret before works no more." };
                format!("client_secret  {}\n\nThe secret is told this once. {before}", it.client_secret)
            })?)
        }
        cli::Client::Disable { client_id, .. } => {
            let change = ClientChange { disabled: Some(true), ..ClientChange::default() };
            show(core.change_client(tenant, &client_id, change).await.map_err(|why| about("client", &client_id, why))?)
        }
        cli::Client::Enable { client_id, .. } => {
            let change = ClientChange { disabled: Some(false), ..ClientChange::default() };
            show(core.change_client(tenant, &client_id, change).await.map_err(|why| about("client", &client_id, why))?)
        }
        cli::Client::Remove { client_id, .. } => {
            core.remove_client(tenant, &client_id).await.map_err(|why| about("client", &client_id, why))?;
            Ok(desk.say.result(&Done { client_id, done: "removed" }, |it| format!("The client {} is removed.", it.client_id))?)
        }
    }
}
