//! The verbs, one file each, on the model engine: rules only, no network, no disk.

mod deliver;
mod enroll;
mod faults;
mod manage;
mod request;
mod resend;
mod standing;
mod verify;
