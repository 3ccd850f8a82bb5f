//! `countersign user`: the people.

use super::{Desk, about, address_of, pryv, tenant_named};
use crate::cli;
use crate::household::Household;
use crate::no::No;
use crate::secrets;
use countersign_core::nouns::tenant::Tenant;
use countersign_core::verbs::Scope;
use countersign_core::words::address::{Address, Channel, Login};
use countersign_core::words::refusal::{Error, Refusal};
use serde::Serialize;

#[derive(Serialize)]
struct Unlocked {
    channels: Vec<Channel>,
    /// How many counts of wrong codes there were.
    cleared: usize,
    /// How many counts there were of what the person was sent.
    pauses: usize,
}

#[derive(Serialize)]
struct Done {
    user: String,
    tenant: String,
    done: &'static str,
}

#[derive(Serialize)]
struct Reset {
    user: String,
    tenant: String,
    /// Whether there was a second factor.
    reset: bool,
}

pub async fn run(desk: &Desk, home: &Household, command: cli::User) -> Result<(), No> {
    let core = &home.core;
    let (cli::User::Unlock { tenant, login: name, .. }
    | cli::User::Add { tenant, name, .. }
    | cli::User::Password { tenant, name, .. }
    | cli::User::Remove { tenant, name }
    | cli::User::ResetMfa { tenant, name }) = &command;
    let tenant = tenant_named(core, tenant).await?;
    let login = Login::parse(name).map_err(|why| No::usage(why.to_string()))?;
    let done = |done| Done { user: login.reveal().to_owned(), tenant: tenant.name.clone(), done };
    match command {
        cli::User::Unlock { client_id, channel, address, .. } => {
            let address = address.map(|it| address_of(&tenant, &it)).transpose()?;
            unlock(desk, home, &tenant, &client_id, &login, channel, address.as_ref()).await
        }
        cli::User::Add { password_file, language, .. } => {
            reachable(&tenant, login.reveal())?;
            let password = secrets::in_file(&password_file, "password")?;
            core.create_account(tenant.id, login.clone(), password, &language).await.map_err(|why| of_user(&login, &tenant, why))?;
            Ok(desk.say.result(&done("added"), |it| format!("{} can log in.", it.user))?)
        }
        cli::User::Password { password_file, .. } => {
            let password = secrets::in_file(&password_file, "password")?;
            core.change_password(tenant.id, &login, password).await.map_err(|why| of_user(&login, &tenant, why))?;
            Ok(desk.say.result(&done("changed"), |it| format!("{} logs in with the new password from now on.", it.user))?)
        }
        cli::User::Remove { .. } => {
            core.remove_account(tenant.id, &login).await.map_err(|why| of_user(&login, &tenant, why))?;
            Ok(desk.say.result(&done("removed"), |it| format!("{} is removed.", it.user))?)
        }
        cli::User::ResetMfa { .. } => {
            let standing = core.standing(tenant.id).await?.ok_or(Error::Refused(Refusal::Unknown("tenant")))?;
            let reset = core.remove_second_factor(&Scope::of_tenant(standing), &login).await;
            let reset = reset.map_err(|why| of_user(&login, &tenant, why))?;
            let reset = Reset { user: login.reveal().to_owned(), tenant: tenant.name.clone(), reset };
            Ok(desk.say.result(&reset, |it| match it.reset {
                true => format!("{} has no second factor any more, and logs in with the password alone.", it.user),
                false => format!("{} had no second factor.", it.user),
            })?)
        }
    }
}

async fn unlock(
    desk: &Desk,
    home: &Household,
    tenant: &Tenant,
    client_id: &str,
    login: &Login,
    channel: Option<Channel>,
    address: Option<&Address>,
) -> Result<(), No> {
    let channels = channel.map_or_else(|| Channel::ALL.to_vec(), |it| vec![it]);
    let (mut cleared, mut pauses) = (0, 0);
    for channel in &channels {
        let counts = home.core.unlock(tenant.id, (client_id != "-").then_some(client_id), login, *channel, address).await;
        let (wrong, sends) = counts.map_err(|why| about("client", client_id, why))?;
        (cleared, pauses) = (cleared + wrong, pauses + sends);
    }
    Ok(desk.say.result(&Unlocked { channels, cleared, pauses }, |it| {
        let names = it.channels.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
        match (it.cleared, it.pauses) {
            (0, 0) => format!("Nothing was counted for this person ({names}). Is the name right, as this client writes it?"),
            (0, _) => format!("No wrong code was counted for this person ({names}). Codes that were sent are not counted any more."),
            _ => format!("No wrong code is counted any more ({names}), and no code that was sent."),
        }
    })?)
}

/// Refuses a name that no log-in could say, where the tenant's people are hosts.
fn reachable(tenant: &Tenant, name: &str) -> Result<(), No> {
    let Some(settings) = pryv::settings_of(tenant)? else { return Ok(()) };
    if let Some(core) = &settings.core_url {
        return Err(No::refused(format!("the people of {} are the core's, {core}", tenant.name))
            .hint("make them there; `countersign pryv set --core-url none` would have the tenant stand alone"));
    }
    settings.check_name(name).map_err(No::refused)
}

/// Says whose name it is. The core does not repeat what it was asked; a command can.
fn of_user(login: &Login, tenant: &Tenant, why: Error) -> No {
    let (name, tenant) = (login.reveal(), &tenant.name);
    match &why {
        Error::Refused(Refusal::UserUnknown) => No::refused(format!("{tenant} has no user {name}")).hint(format!(
            "`countersign user add {name} --tenant {tenant}` makes one; of a core's people the core itself takes the second factor away: \
                 DELETE /system/users/{name}/mfa, or the button of its admin panel"
        )),
        Error::Refused(Refusal::NameTaken) => {
            No::refused(format!("{tenant} has a user {name} already")).hint("`countersign user password` changes the password")
        }
        _ => why.into(),
    }
}
