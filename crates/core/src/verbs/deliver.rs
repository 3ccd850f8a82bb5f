//! Delivering: carrying what was promised.

use super::Core;
use crate::words::refusal::Fault;

impl Core {
    /// One round of the delivery loop: claims what is due and carries it. Gives how many it claimed.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn deliver_due(&self) -> Result<usize, Fault> {
        todo!()
    }
}
