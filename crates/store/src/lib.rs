//! Where it is kept: the engines behind the store port, and the contract that each of them keeps.

pub mod memory;
