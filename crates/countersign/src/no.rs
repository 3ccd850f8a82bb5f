//! How a command ends when it does not end well: a sentence, what to do, and an exit code that scripts can rely on.

use crate::config::Problems;
use countersign_core::words::refusal::{Error, Fault, Refusal};
use std::fmt;
use std::process::ExitCode;

/// Which kind of no: the exit codes that `--help` promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Refused, or found wrong.
    Refused = 1,
    /// The command line or a setting is wrong.
    Usage = 2,
    /// Something is away; trying again may help.
    Unavailable = 3,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub struct No {
    /// Which kind.
    pub kind: Kind,
    /// What happened.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl No {
    /// It was refused, or found wrong.
    pub fn refused(what: impl Into<String>) -> Self {
        Self { kind: Kind::Refused, what: what.into(), hint: None }
    }

    /// It cannot be meant.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, what: what.into(), hint: None }
    }

    /// Something is away.
    pub fn unavailable(what: impl Into<String>) -> Self {
        Self { kind: Kind::Unavailable, what: what.into(), hint: None }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<Problems> for No {
    fn from(problems: Problems) -> Self {
        Self::usage(problems.to_string()).hint("`countersign serve --reference` prints all settings and what they mean")
    }
}

impl From<Error> for No {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => {
                let hint = match &refusal {
                    Refusal::Unknown("tenant") => Some("`countersign tenant list` shows those that there are"),
                    Refusal::Unknown("client") => Some("`countersign client list TENANT` shows those that there are"),
                    Refusal::Unknown("provider") => Some("`countersign provider list TENANT` shows those that there are"),
                    Refusal::Unknown("template") => Some("`countersign template list TENANT` shows those that there are"),
                    Refusal::NameTaken => Some("choose another name, or change what is there"),
                    _ => None,
                };
                Self { kind: Kind::Refused, what: refusal.to_string(), hint: hint.map(str::to_owned) }
            }
            Error::Fault(fault) => fault.into(),
        }
    }
}

impl From<Fault> for No {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable { .. } | Fault::Contended => Self::unavailable(fault.to_string()),
            Fault::Corrupt(_) => Self::refused(fault.to_string()).hint("`countersign doctor` looks for the reason"),
        }
    }
}
