//! The verbs, one file each, on the model engine: rules only, no network, no disk.

mod account;
mod deliver;
mod enroll;
mod external;
mod faults;
mod manage;
mod recover;
mod request;
mod resend;
mod sign_in;
mod standing;
mod verify;
