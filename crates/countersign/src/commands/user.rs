//! `countersign user`: the people.

use super::{Desk, about, address_of, tenant_named};
use crate::cli;
use crate::household::Household;
use crate::no::No;
use countersign_core::words::address::{Channel, Login};
use serde::Serialize;

#[derive(Serialize)]
struct Unlocked {
    channels: Vec<Channel>,
    /// How many counts of wrong codes there were.
    cleared: usize,
}

pub async fn run(desk: &Desk, home: &Household, command: cli::User) -> Result<(), No> {
    let cli::User::Unlock { tenant, client_id, login, channel, address } = command;
    let tenant = tenant_named(&home.core, &tenant).await?;
    let address = address.map(|it| address_of(&tenant, &it)).transpose()?;
    let login = Login::parse(&login).map_err(|why| No::usage(why.to_string()))?;
    let channels = channel.map_or_else(|| vec![Channel::Sms, Channel::Voice, Channel::Email, Channel::Totp], |it| vec![it]);
    let mut cleared = 0;
    for channel in &channels {
        let to = address.as_ref();
        cleared += home.core.unlock(tenant.id, &client_id, &login, *channel, to).await.map_err(|why| about("client", &client_id, why))?;
    }
    Ok(desk.say.result(&Unlocked { channels, cleared }, |it| {
        let names = it.channels.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
        match it.cleared {
            0 => format!("No wrong code was counted for this person ({names}). Is the name right, as this client writes it?"),
            _ => format!("No wrong code is counted any more ({names})."),
        }
    })?)
}
