//! `countersign key`: the master key.

use super::{Desk, count};
use crate::cli;
use crate::household::{Household, shut};
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
    if let Some(shut) = shut(&all, |it| home.core.opened_by(it) != OpenedBy::Nobody) {
        return Err(No::refused(format!("neither master key opens {shut}"))
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
        let done = match it.rotated {
            0 => format!("{tenants}: all are wrapped with the present master key already."),
            some => format!("{some} of {tenants} wrapped with the present master key."),
        };
        format!(
            "{done} Now take secrets.old_master_key_file out on every node and restart them one by one; keep the old key with the \
             backups that were made before."
        )
    })?)
}
