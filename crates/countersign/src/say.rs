//! What commands print: tables and sentences for people, JSON for machines.
//!
//! Owns the look. Results go to standard output and nothing else does, so that a pipe gets what it asked for.

use countersign_core::words::time::Timestamp;
use serde::Serialize;
use std::io::{self, Write};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// To whom results are told.
#[derive(Debug, Clone, Copy)]
pub enum Say {
    /// To a person.
    Text,
    /// To a machine.
    Json,
}

impl Say {
    /// Whether a machine listens.
    #[must_use]
    pub fn is_json(self) -> bool {
        matches!(self, Self::Json)
    }

    /// Tells `result` to a machine, or what `text` makes of it to a person.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn result<T: Serialize>(self, result: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
        match self {
            Self::Json => print(&serde_json::to_string(result).map_err(io::Error::other)?),
            Self::Text => print(text(result).trim_end()),
        }
    }
}

/// Prints a text and the end of its line.
///
/// # Errors
/// When it cannot be written. A reader that has seen enough is none.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // `… | head` has seen enough.
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => told,
    }
}

/// Columns that stand below their names. A last column is as wide as it is.
#[must_use]
pub fn table<const N: usize>(names: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = names.map(|it| it.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(names.map(str::to_uppercase).each_ref().map(String::as_str))];
    lines.extend(rows.iter().map(|row| line(row.each_ref().map(String::as_str))));
    lines.join("\n")
}

/// A moment as RFC 3339 has it, in whole seconds.
#[must_use]
pub fn moment(at: Timestamp) -> String {
    OffsetDateTime::from_unix_timestamp(at.as_secs()).ok().and_then(|it| it.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{at:?}"))
}

/// `text` as one word of a shell, whatever is in it (POSIX.1-2024 §2.2.2).
#[must_use]
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_names() {
        let rows = [["demo".to_owned(), "Démo".to_owned()], ["a-longer-one".to_owned(), "x".to_owned()]];
        assert_eq!(table(["name", "shown as"], &rows), "NAME          SHOWN AS\ndemo          Démo\na-longer-one  x");
    }

    #[test]
    fn a_word_survives_the_shell() {
        assert_eq!(quoted("http://127.0.0.1:8080/inbox"), "http://127.0.0.1:8080/inbox");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_moment_is_told_in_whole_seconds() {
        assert_eq!(moment(Timestamp::from_millis(1_893_499_200_123)), "2030-01-01T12:00:00Z");
    }
}
