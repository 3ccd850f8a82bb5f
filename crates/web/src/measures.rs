//! What the doors count. The names are those of OpenTelemetry where it has one, in Prometheus' spelling.
//!
//! Handles are looked up once and kept: finding one by its labels costs more than counting.

use axum::http::{Method, StatusCode};
use countersign_core::words::address::Channel;
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};
use std::collections::HashMap;
use std::sync::RwLock;
use std::time::Duration;

const DURATION: &str = "http_server_request_duration_seconds";
const OPENED: &str = "countersign_challenges_opened_total";
const ANSWERS: &str = "countersign_answers_total";
const TOKENS: &str = "countersign_tokens_issued_total";

/// Bodies that were turned away because there was no room for more.
pub(crate) const NO_ROOM: &str = "countersign_bodies_refused_total";

/// The bounds for the histogram of durations: OpenTelemetry's advice for `http.server.request.duration`, and two finer ones.
pub const DURATION_BUCKETS_S: [f64; 16] = [0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Tells the recorder what the measures mean. Call it once, after a recorder was installed.
pub fn describe() {
    describe_histogram!(DURATION, Unit::Seconds, "How long answers took, by method, route and status");
    describe_counter!(OPENED, Unit::Count, "Challenges that were opened, by channel");
    describe_counter!(ANSWERS, Unit::Count, "Answers that were judged, by verdict");
    describe_counter!(NO_ROOM, Unit::Count, "Requests that were turned away because too many bodies were being read");
    describe_counter!(TOKENS, Unit::Count, "Access tokens that were issued");
}

/// What came of an answer, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Wrong,
    LastWrong,
    Over,
    Refused,
}

/// By method and status of one route.
type ByStatus = HashMap<(Method, StatusCode), Histogram>;

/// The handles.
pub(crate) struct Measures {
    durations: RwLock<HashMap<String, ByStatus>>,
    opened: [Counter; 5],
    answers: [Counter; 5],
    pub tokens: Counter,
}

impl Measures {
    pub fn new() -> Self {
        let opened = |channel: Channel| counter!(OPENED, "channel" => channel.as_str());
        let answers = |verdict: &'static str| counter!(ANSWERS, "verdict" => verdict);
        Self {
            durations: RwLock::default(),
            opened: Channel::ALL.map(opened),
            answers: ["passed", "wrong", "last_wrong", "over", "refused"].map(answers),
            tokens: counter!(TOKENS),
        }
    }

    pub fn opened(&self, channel: Channel) {
        let at = match channel {
            Channel::Sms => 0,
            Channel::Voice => 1,
            Channel::Email => 2,
            Channel::External => 3,
            Channel::Totp => 4,
        };
        self.opened[at].increment(1);
    }

    pub fn judged(&self, verdict: Verdict) {
        let at = match verdict {
            Verdict::Passed => 0,
            Verdict::Wrong => 1,
            Verdict::LastWrong => 2,
            Verdict::Over => 3,
            Verdict::Refused => 4,
        };
        self.answers[at].increment(1);
    }

    /// Routes are patterns, so there are as many as doors; methods that no door takes count as one.
    pub fn answered(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let method = if is_known(method) { method.clone() } else { other() };
        let key = (method, status);
        let known = self.durations.read().expect("nobody panics while holding it");
        if let Some(histogram) = known.get(route).and_then(|it| it.get(&key)) {
            return histogram.record(took.as_secs_f64());
        }
        drop(known);
        let made = histogram!(
            DURATION,
            "http_request_method" => key.0.as_str().to_owned(),
            "http_route" => route.to_owned(),
            "http_response_status_code" => status.as_str().to_owned(),
        );
        made.record(took.as_secs_f64());
        self.durations.write().expect("nobody panics while holding it").entry(route.to_owned()).or_default().insert(key, made);
    }
}

/// A method as it may be told: callers can write anything there, a secret for one.
pub(crate) fn method_name(method: &Method) -> &str {
    if is_known(method) { method.as_str() } else { OTHER }
}

fn is_known(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS)
}

/// OpenTelemetry's word for a method that is none of the known ones.
const OTHER: &str = "_OTHER";

fn other() -> Method {
    Method::from_bytes(OTHER.as_bytes()).expect("it is a token")
}
