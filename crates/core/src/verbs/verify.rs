//! Answering a challenge.

use super::{Core, Scope};
use crate::words::address::Channel;
use crate::words::id::ChallengeId;
use crate::words::refusal::Error;
use std::num::NonZeroU8;

/// What came of an answer, for the dialect to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Right.
    Passed,
    /// Wrong, and paid for.
    Wrong {
        /// How many more wrong answers the challenge takes.
        attempts_left: NonZeroU8,
    },
    /// Wrong, and the last one: the challenge is over and the factor locked.
    LastWrong,
    /// The challenge was over before: passed, spent, failed or expired.
    Over,
}

impl Core {
    /// Judges `answer`. A malformed answer costs nothing; a wrong one is paid before this returns (invariant 2).
    ///
    /// # Errors
    /// Refusals: `ChallengeUnknown` (also for another client's), `ChannelDiffers`, `AnswerMalformed`, `Locked`.
    pub async fn verify(&self, scope: &Scope, id: ChallengeId, channel: Option<Channel>, answer: &str) -> Result<Answered, Error> {
        let _ = (scope, id, channel, answer);
        todo!()
    }
}
