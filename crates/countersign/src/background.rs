//! What the server does without being asked: deliveries that are due, retention, certificates, the upkeep of its numbers.
//!
//! Owns when; what is done is a verb of the core. Every loop ends at the stop, between two steps and never within one.

use crate::numbers::Numbers;
use crate::tls::Tls;
use countersign_core::Core;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The longest rest of a loop whose store is away.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// How often the files of a certificate are looked at.
const LOOK_AT_FILES: Duration = Duration::from_secs(3);

/// How often the numbers are folded together, so that histograms do not grow where nobody asks for them.
const FOLD_NUMBERS: Duration = Duration::from_secs(5);

/// Carries what is due, at once again while there is more, and rests for `pause` when there is nothing.
pub async fn deliver(core: Core, pause: Duration, stop: CancellationToken) {
    let mut trouble = Trouble::default();
    while !stop.is_cancelled() {
        let rest = match core.deliver_due().await {
            Ok(claimed) => {
                trouble.is_over("Deliveries are carried again");
                if claimed > 0 { Duration::ZERO } else { pause }
            }
            Err(why) => trouble.rest(pause, || tracing::error!("The delivery loop cannot go on: {why}. It tries again")),
        };
        if rests(rest, &stop).await.is_err() {
            return;
        }
    }
}

/// Removes what is over, every `every`.
pub async fn sweep(core: Core, every: Duration, stop: CancellationToken) {
    let mut trouble = Trouble::default();
    // The first round waits: a start has better things to do.
    while rests(every, &stop).await.is_ok() {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = core.sweep() => ended,
        };
        match ended {
            Ok(0) => trouble.is_over("Retention works again"),
            Ok(removed) => {
                trouble.is_over("Retention works again");
                tracing::info!(removed, "Retention removed {removed} rows");
            }
            Err(why) => {
                trouble.rest(every, || tracing::error!("Retention cannot go on: {why}. It tries again in {every:?}"));
            }
        }
    }
}

/// Reads the certificate again on SIGHUP, and when a file changes. Without TLS, SIGHUP does nothing, and kills nobody.
pub async fn renew(tls: Option<Tls>, stop: CancellationToken) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            asked = hangup.recv() => asked.is_some(),
            () = tokio::time::sleep(LOOK_AT_FILES), if tls.is_some() => false,
        };
        let Some(tls) = tls.clone() else { continue };
        let read = tokio::task::spawn_blocking(move || (asked || tls.has_changed()).then(|| tls.reload())).await;
        match read {
            Ok(Some(Ok(()))) => tracing::info!("The certificate was read again and is in use"),
            Ok(Some(Err(why))) => tracing::error!("The certificate in use stays: {why}"),
            Ok(None) | Err(_) => {}
        }
    }
}

/// Folds the numbers together, and looks how much waits.
pub async fn count(core: Core, numbers: Numbers, stop: CancellationToken) {
    let mut trouble = Trouble::default();
    while rests(FOLD_NUMBERS, &stop).await.is_ok() {
        numbers.fold();
        match numbers.look(&core).await {
            Ok(()) => trouble.is_over("The store can be looked at again"),
            Err(why) => {
                trouble.rest(FOLD_NUMBERS, || tracing::error!("The store cannot be looked at: {why}"));
            }
        }
    }
}

/// Rests, and says whether the stop came.
async fn rests(rest: Duration, stop: &CancellationToken) -> Result<(), ()> {
    if rest.is_zero() {
        return if stop.is_cancelled() { Err(()) } else { Ok(()) };
    }
    tokio::select! {
        () = stop.cancelled() => Err(()),
        () = tokio::time::sleep(rest) => Ok(()),
    }
}

/// The same mistake again and again is logged once, and its end as well.
#[derive(Default)]
struct Trouble {
    times: u32,
}

impl Trouble {
    fn rest(&mut self, pause: Duration, log: impl FnOnce()) -> Duration {
        if self.times == 0 {
            log();
        }
        self.times = self.times.saturating_add(1);
        (pause * 2u32.saturating_pow(self.times.min(16))).min(LONGEST_REST)
    }

    fn is_over(&mut self, words: &str) {
        if std::mem::take(&mut self.times) > 0 {
            tracing::info!("{words}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_logged_once_and_rests_longer_each_time() {
        let mut trouble = Trouble::default();
        let mut logged = 0;
        let pause = Duration::from_millis(250);
        let rests: Vec<_> = (0..8).map(|_| trouble.rest(pause, || logged += 1)).collect();
        assert_eq!((logged, rests[0], rests[1], rests[7]), (1, pause * 2, pause * 4, LONGEST_REST));
        trouble.is_over("again");
        trouble.rest(pause, || logged += 1);
        assert_eq!(logged, 2, "new trouble is told anew");
    }
}
