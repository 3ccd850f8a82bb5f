//! What a refusal of the database means.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// Three kinds of no.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Somebody else was faster: with fresh reads it may go.
    Overtaken,
    /// The database cannot do its work now: it is stopping, read-only, full, or has no connection to spare.
    Away(String),
    /// It would say the same again.
    Damaged(String),
}

impl Trouble {
    pub(super) fn of(error: &Error) -> Self {
        let Some(said) = error.as_db_error() else { return Self::Away(fault_of(error)) };
        let code = said.code();
        // A division by zero is how our own statements say that a row is not as it was read.
        let overtaken =
            [SqlState::DIVISION_BY_ZERO, SqlState::UNIQUE_VIOLATION, SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
        if overtaken.contains(code) {
            return Self::Overtaken;
        }
        match &code.code()[..2] {
            // Data, constraints, statements and limits of the program: asking again is of no use.
            "22" | "23" | "42" | "54" => Self::Damaged(fault_of(error)),
            // Connection, resources, operator, system, read-only, and whatever else may pass.
            _ => Self::Away(fault_of(error)),
        }
    }
}

/// What an operator may read of an error: never what a statement carried (invariant 7).
pub(super) fn fault_of(error: &Error) -> String {
    let Some(said) = error.as_db_error() else {
        // The causes name hosts and what the system said of them.
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(it) = cause {
            text.push_str(&format!(": {it}"));
            cause = it.source();
        }
        return text;
    };
    let code = said.code().code();
    // Complaints about data quote the data.
    if code.starts_with("22") || code.starts_with("23") {
        return format!("the database refused what it was to keep ({code})");
    }
    format!("{} ({code})", said.message())
}
