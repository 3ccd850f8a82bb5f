//! `countersign template`: a tenant's own words.

use super::{Desk, about, tenant_named};
use crate::cli;
use crate::household::Household;
use crate::no::No;
use crate::say::{moment, table};
use countersign_core::nouns::template::{DEFAULT, Template};
use countersign_core::nouns::user::Realm;
use countersign_core::words::address::Channel;
use countersign_core::words::wording::Wording;
use serde::Serialize;
use std::io::Read;
use std::path::Path;

#[derive(Serialize)]
struct Shown {
    name: String,
    channel: Channel,
    /// Whose it is; the whole tenant's when absent.
    client_id: Option<String>,
    #[serde(flatten)]
    wording: Wording,
    created_at: Option<String>,
}

#[derive(Serialize)]
struct Done {
    name: String,
    channel: Channel,
    done: &'static str,
}

impl Shown {
    fn text(&self) -> String {
        let mut text = String::new();
        if let Some(subject) = &self.wording.subject {
            text.push_str(&format!("Subject: {subject}\n\n"));
        }
        text.push_str(self.wording.text.trim_end());
        if let Some(html) = &self.wording.html {
            text.push_str(&format!("\n\nHTML:\n{}", html.trim_end()));
        }
        text
    }
}

pub async fn run(desk: &Desk, home: &Household, command: cli::Template) -> Result<(), No> {
    let core = &home.core;
    let (cli::Template::Put { tenant, .. }
    | cli::Template::List { tenant }
    | cli::Template::Show { tenant, .. }
    | cli::Template::Remove { tenant, .. }) = &command;
    let tenant = tenant_named(core, tenant).await?.id;
    let clients = core.clients(tenant).await?;
    let shown = |it: Template| {
        let client_id = match it.realm {
            Realm::Tenant => None,
            Realm::Client(id) => Some(clients.iter().find(|it| it.id == id).map_or_else(|| id.to_string(), |it| it.client_id.clone())),
        };
        Shown { name: it.name, channel: it.channel, client_id, wording: it.wording, created_at: Some(moment(it.created_at)) }
    };
    match command {
        cli::Template::Put { name, channel, text, html, subject, client, .. } => {
            let html = html.as_deref().map(read).transpose()?;
            let wording = Wording { subject, text: read(&text)?, html };
            let put = shown(core.put_template(tenant, client.as_deref(), &name, channel, wording).await?);
            Ok(desk.say.result(&put, |it| match it.name.as_str() {
                DEFAULT => format!("These are the words for {} from now on.", it.channel),
                name => format!("Requests for {} that name the template {name} are sent with these words from now on.", it.channel),
            })?)
        }
        cli::Template::List { tenant: name } => {
            let all: Vec<_> = core.templates(tenant).await?.into_iter().map(shown).collect();
            Ok(desk.say.result(&all, |all| {
                if all.is_empty() {
                    return format!("There are only the standard words: countersign template show {name} default sms");
                }
                let row = |it: &Shown| {
                    let whose = it.client_id.clone().unwrap_or_else(|| "all clients".to_owned());
                    [it.name.clone(), it.channel.to_string(), whose, it.created_at.clone().unwrap_or_default()]
                };
                table(["template", "channel", "for", "since"], &all.iter().map(row).collect::<Vec<_>>())
            })?)
        }
        cli::Template::Show { name, channel, client, .. } => {
            let all = core.templates(tenant).await?.into_iter().map(shown);
            let found = all.into_iter().find(|it| it.name.eq_ignore_ascii_case(&name) && it.channel == channel && it.client_id == client);
            let found = match found {
                Some(found) => found,
                None if name == DEFAULT && client.is_none() => {
                    Shown { name, channel, client_id: None, wording: Wording::standard(channel), created_at: None }
                }
                None => {
                    return Err(No::refused(format!("there is no template {name} for {channel}"))
                        .hint("`countersign template list TENANT` shows those that there are"));
                }
            };
            Ok(desk.say.result(&found, Shown::text)?)
        }
        cli::Template::Remove { name, channel, client, .. } => {
            core.remove_template(tenant, client.as_deref(), &name, channel).await.map_err(|why| about("template", &name, why))?;
            Ok(desk.say.result(&Done { name, channel, done: "removed" }, |it| {
                format!("The template {} for {} is removed.", it.name, it.channel)
            })?)
        }
    }
}

fn read(path: &Path) -> Result<String, No> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(path).map(|it| text = it)
    };
    read.map_err(|why| No::usage(format!("{} cannot be read: {why}", path.display())))?;
    Ok(text)
}
