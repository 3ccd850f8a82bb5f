//! `countersign key`: the master key.

use super::{Desk, count};
use crate::cli;
use crate::household::Household;
use crate::no::No;
use countersign_core::verbs::rotate::OpenedBy;
use serde::Serialize;

#[derive(Serialize)]
struct Rotated {
    /// Tenants whose keys were wrapped anew.
    rotated: u64,
    /// All of them.
    tenants: u64,
}

pub async fn run(desk: &Desk, home: &Household, command: cli::Key) -> Result<(), No> {
    let cli::Key::Rotate = command;
    let all = home.core.tenants().await?;
    // Nothing is begun that leaves some with a key that nobody has.
    let shut: Vec<_> = all.iter().filter(|it| home.core.opened_by(it) == OpenedBy::Nobody).map(|it| it.name.as_str()).collect();
    if !shut.is_empty() {
        let some = shut.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        return Err(No::refused(format!("neither master key opens {} of {} tenants: {some}", shut.len(), all.len()))
            .hint("name the key with which they were made in secrets.old_master_key_file"));
    }
    let mut it = Rotated { rotated: 0, tenants: all.len() as u64 };
    for tenant in &all {
        if home.core.rotate(tenant).await? {
            it.rotated += 1;
        }
    }
    Ok(desk.say.result(&it, |it| {
        let tenants = count(it.tenants, "tenant");
        match it.rotated {
            0 => format!("{tenants}: all are wrapped with the present master key already. Now take secrets.old_master_key_file out on every node and restart them one by one; keep the old key with the backups that were made before."),
            some => format!("{some} of {tenants} wrapped with the present master key. Now take secrets.old_master_key_file out on every node and restart them one by one; keep the old key with the backups that were made before."),
        }
    })?)
}
