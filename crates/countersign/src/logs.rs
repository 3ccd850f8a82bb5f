//! Logs: one line an event, to standard error, for machines or for people.

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// Begins to write. A second call changes nothing.
pub fn begin(log: &Log) {
    // The settings were checked: what cannot be read here was said there.
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let chosen = tracing_subscriber::registry().with(filter).with(filter_fn(is_discreet));
    let _ = match log.format {
        LogFormat::Json => chosen.with(lines.json().flatten_event(true).with_span_list(false)).try_init(),
        LogFormat::Text => chosen.with(lines.compact()).try_init(),
    };
}

/// What libraries tell to those who look for their mistakes is what they work on, telephone numbers for one (invariant 7). So
/// whatever level is asked for, below `info` only the house itself speaks.
fn is_discreet(it: &Metadata<'_>) -> bool {
    *it.level() <= Level::INFO || it.target().starts_with("countersign")
}

/// Begins to write for a command: warnings, for people.
pub fn begin_for_commands() {
    begin(&Log { format: LogFormat::Text, level: "warn".to_owned() });
}
