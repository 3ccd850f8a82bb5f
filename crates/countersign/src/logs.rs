//! Logs: one line an event, to standard error, for machines or for people.

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Begins to write. A second call changes nothing.
pub fn begin(log: &Log) {
    // The settings were checked: what cannot be read here was said there.
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let _ = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).try_init(),
        LogFormat::Text => lines.compact().try_init(),
    };
}

/// Begins to write for a command: warnings, for people.
pub fn begin_for_commands() {
    begin(&Log { format: LogFormat::Text, level: "warn".to_owned() });
}
