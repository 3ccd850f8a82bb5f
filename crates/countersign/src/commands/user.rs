//! `countersign user`: the people.

use super::{Desk, about, tenant_named};
use crate::cli;
use crate::household::Household;
use crate::no::No;
use countersign_core::words::address::{Channel, Login};
use serde::Serialize;

#[derive(Serialize)]
struct Unlocked {
    channels: Vec<Channel>,
}

pub async fn run(desk: &Desk, home: &Household, command: cli::User) -> Result<(), No> {
    let cli::User::Unlock { tenant, client_id, login, channel } = command;
    let tenant = tenant_named(&home.core, &tenant).await?.id;
    let login = Login::parse(&login).map_err(|why| No::usage(why.to_string()))?;
    let channels = channel.map_or_else(|| vec![Channel::Sms, Channel::Voice, Channel::Email, Channel::Totp], |it| vec![it]);
    for channel in &channels {
        home.core.unlock(tenant, &client_id, &login, *channel, None).await.map_err(|why| about("client", &client_id, why))?;
    }
    Ok(desk.say.result(&Unlocked { channels }, |it| {
        let names: Vec<&str> = it.channels.iter().map(|it| it.as_str()).collect();
        format!("No wrong code is counted any more: {}.", names.join(", "))
    })?)
}
