//! Who carries it: the one door out, and the carriers of messages.

pub mod egress;
pub mod pen;
#[cfg(test)]
mod stub;
mod template;
