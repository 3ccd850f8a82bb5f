//! Enrolling, listing and removing the devices of a person.

use super::verify::Answered;
use super::{Core, Scope};
use crate::words::address::Login;
use crate::words::id::{ChallengeId, FactorId};
use crate::words::refusal::Error;
use crate::words::secret::Secret;
use crate::words::time::Timestamp;

/// A new authenticator, waiting for its first right value.
#[derive(Debug, Clone)]
pub struct Enrolling {
    /// The challenge whose right answer makes it active.
    pub challenge: ChallengeId,
    /// The device's name.
    pub name: String,
    /// The seed as people type it (base32).
    pub seed: Secret,
    /// The `otpauth://` address that a picture holds.
    pub uri: Secret,
}

/// A device, as it may be listed. Never with its seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: FactorId,
    /// Its name.
    pub name: String,
    /// Since when.
    pub created_at: Timestamp,
}

impl Core {
    /// Begins to enrol an authenticator (RFC 6238) for the person, who is made known by it if need be.
    ///
    /// # Errors
    /// Refusals: `DeviceNameBad`, `DeviceNameTaken` (by an active device), `TooManyDevices`, `Locked`.
    pub async fn enroll_totp(&self, scope: &Scope, login: Login, device: &str) -> Result<Enrolling, Error> {
        let _ = (scope, login, device);
        todo!()
    }

    /// Judges the first value of a new authenticator; a right one makes it active. Gives the device's name with the verdict.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`, `ChallengeUnknown`, `DeviceActive`, `AnswerMalformed`, `Locked`.
    pub async fn activate(&self, scope: &Scope, login: &Login, id: ChallengeId, answer: &str) -> Result<(Answered, String), Error> {
        let _ = (scope, login, id, answer);
        todo!()
    }

    /// The active authenticators of the person.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`.
    pub async fn devices(&self, scope: &Scope, login: &Login) -> Result<Vec<Device>, Error> {
        let _ = (scope, login);
        todo!()
    }

    /// Removes the person's authenticator of this name, active or not.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`, `DeviceUnknown`.
    pub async fn remove_device(&self, scope: &Scope, login: &Login, device: &str) -> Result<(), Error> {
        let _ = (scope, login, device);
        todo!()
    }
}
