//! The inbox: messages that are shown instead of sent. Development only.
//!
//! Owns the newest messages, in memory. Whether a server may have one at all is decided where it is made
//! ([`Fleet`](crate::Fleet)); a tenant cannot bring one along.

use countersign_core::ports::{Clock, Inbox, Pending, Receipt, SendError, Sends, Shown};
use countersign_core::words::id::DeliveryId;
use countersign_core::words::wording::Message;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// How many messages are kept.
const KEPT: usize = 500;

/// The newest 500 messages of all tenants. Cloning it is cheap, and gives the same tray.
#[derive(Clone)]
pub struct Tray(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    shown: Mutex<VecDeque<Shown>>,
    /// Counts what came.
    came: watch::Sender<u64>,
}

impl fmt::Debug for Tray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tray(…)")
    }
}

impl Tray {
    /// An empty one.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { clock, shown: Mutex::default(), came: watch::Sender::new(0) }))
    }

    /// Puts a message on top. The same delivery again takes its place, as a vendor would drop the repetition.
    fn put(&self, id: DeliveryId, message: Arc<Message>) {
        let mut shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|it| it.id != id);
        shown.truncate(KEPT - 1);
        shown.push_front(Shown { id, at: self.0.clock.now(), message });
        drop(shown);
        self.0.came.send_modify(|count| *count += 1);
    }
}

impl Inbox for Tray {
    fn newest(&self) -> Vec<Shown> {
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn next(&self) -> Pending<'static, ()> {
        // Subscribed now, not when it is first polled: what comes in between counts.
        let mut came = self.0.came.subscribe();
        Box::pin(async move {
            // It ends only when the tray is gone, and then nothing comes any more.
            if came.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

impl Sends for Tray {
    fn send(&self, id: DeliveryId, message: Arc<Message>) -> Pending<'static, Result<Receipt, SendError>> {
        self.put(id, message);
        Box::pin(std::future::ready(Ok(Receipt(None))))
    }

    fn probe(&self) -> Pending<'static, Result<String, SendError>> {
        Box::pin(std::future::ready(Ok("the inbox shows messages and sends none".into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::text;
    use countersign_core::ports::test::{Script, Still};
    use countersign_core::words::time::Timestamp;
    use std::time::Duration;

    fn tray() -> Tray {
        Tray::new(Arc::new(Still::at(Timestamp::from_millis(7))))
    }

    fn id(chance: &Script) -> DeliveryId {
        DeliveryId::new(Timestamp::from_millis(0), chance)
    }

    #[tokio::test]
    async fn the_newest_come_first_and_the_oldest_go() {
        let (tray, chance) = (tray(), Script::default());
        for count in 0..KEPT + 3 {
            tray.send(id(&chance), Arc::new(text(&count.to_string()))).await.expect("it takes everything");
        }
        let newest = tray.newest();
        assert_eq!((newest.len(), newest[0].message.text.as_str(), newest[KEPT - 1].message.text.as_str()), (KEPT, "502", "3"));
        assert_eq!(newest[0].at, Timestamp::from_millis(7));
    }

    #[tokio::test]
    async fn a_repetition_is_shown_once() {
        let (tray, chance) = (tray(), Script::default());
        let same = id(&chance);
        for id in [same, id(&chance), same] {
            tray.send(id, Arc::new(text("x"))).await.expect("it takes everything");
        }
        assert_eq!(tray.newest().iter().map(|it| it.id == same).collect::<Vec<_>>(), [true, false]);
    }

    #[tokio::test]
    async fn what_comes_after_the_call_wakes_and_what_came_before_does_not() {
        let (tray, chance) = (tray(), Script::default());
        tray.send(id(&chance), Arc::new(text("before"))).await.expect("it takes everything");
        let next = tray.next();
        assert!(tokio::time::timeout(Duration::from_millis(20), tray.next()).await.is_err());
        tray.send(id(&chance), Arc::new(text("after"))).await.expect("it takes everything");
        tokio::time::timeout(Duration::from_secs(5), next).await.expect("it came before the first poll");
    }
}
