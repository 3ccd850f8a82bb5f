//! `countersign user`: the people.

use super::{Desk, about, tenant_named};
use crate::cli;
use crate::household::Household;
use crate::no::No;
use countersign_core::words::address::{Address, Channel, EmailAddress, Login, PhoneNumber};
use serde::Serialize;

#[derive(Serialize)]
struct Unlocked {
    channels: Vec<Channel>,
    /// Counts of wrong codes that were cleared.
    cleared: usize,
}

pub async fn run(desk: &Desk, home: &Household, command: cli::User) -> Result<(), No> {
    let cli::User::Unlock { tenant, client_id, login, channel, address } = command;
    let tenant = tenant_named(&home.core, &tenant).await?;
    let address = address.map(|it| address_of(&it, tenant.policy.region.as_deref())).transpose()?;
    let tenant = tenant.id;
    let login = Login::parse(&login).map_err(|why| No::usage(why.to_string()))?;
    let channels = channel.map_or_else(|| vec![Channel::Sms, Channel::Voice, Channel::Email, Channel::Totp], |it| vec![it]);
    let mut cleared = 0;
    for channel in &channels {
        let counts = home.core.unlock(tenant, &client_id, &login, *channel, address.as_ref()).await;
        cleared += counts.map_err(|why| about("client", &client_id, why))?;
    }
    let only_person = address.is_none();
    Ok(desk.say.result(&Unlocked { channels, cleared }, |it| {
        let names: Vec<&str> = it.channels.iter().map(|it| it.as_str()).collect();
        match it.cleared {
            0 => format!("There was no wrong code to forget for that person: {}. Is the name spelled right?", names.join(", ")),
            _ if only_person => format!(
                "No wrong code of the person is counted any more: {}. Those of a number or mailbox are, unless --address names it.",
                names.join(", ")
            ),
            _ => format!("No wrong code is counted any more: {}.", names.join(", ")),
        }
    })?)
}

/// A number or a mailbox, whichever it looks like.
fn address_of(text: &str, region: Option<&str>) -> Result<Address, No> {
    if text.contains('@') {
        return EmailAddress::parse(text).map(Address::Email).map_err(|why| No::usage(why.to_string()));
    }
    PhoneNumber::parse(text, region).map(Address::Phone).map_err(|why| No::usage(why.to_string()))
}
