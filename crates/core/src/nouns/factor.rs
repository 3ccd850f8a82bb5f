//! Factors: what a person has enrolled and can prove.

use crate::nouns::totp::StepNumber;
use crate::words::address::fold;
use crate::words::id::{ChallengeId, FactorId, UserId};
use crate::words::secret::{KeptCode, Sealed};
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that a person has enrolled. Removing it removes the record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Factor {
    /// Its id.
    pub id: FactorId,
    /// Whose it is.
    pub user: UserId,
    /// What its owner calls it; unique among the owner's factors of one kind.
    pub name: String,
    /// What it is.
    pub kind: FactorKind,
    /// Whether it counts yet.
    pub stage: FactorStage,
    /// Since when.
    pub created_at: Timestamp,
}

/// What kind of factor, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FactorKind {
    /// An authenticator that shows time-based codes (RFC 6238).
    Totp {
        /// The shared seed, sealed.
        seed: Sealed,
        /// The last step that was accepted. No value up to it is accepted again.
        burnt: Option<StepNumber>,
    },
    /// A way to the person that only the tenant's provider knows.
    External {
        /// What the application says of the person ([`Variables`](crate::words::variables::Variables)), sealed.
        data: Sealed,
        /// The codes that take its place once each, as they are kept ([`KeptCode`](crate::words::secret::KeptCode)).
        recovery: Vec<KeptCode>,
    },
}

/// Whether a factor counts yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FactorStage {
    /// Enrolled, and not yet proven by the challenge named.
    Pending {
        /// The challenge whose right answer makes it active.
        challenge: ChallengeId,
    },
    /// Proven, and in use.
    Active {
        /// Since when.
        since: Timestamp,
    },
}

impl Factor {
    /// Whether it can be asked for.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.stage, FactorStage::Active { .. })
    }

    /// Whether its owner calls it so, in whichever spelling.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        fold(&self.name) == fold(name)
    }

    /// The longest name, in characters.
    pub const NAME_MAX: usize = 100;

    /// Takes the name of a device, without blanks around it; nothing when it has none or too many visible characters.
    #[must_use]
    pub fn check_name(text: &str) -> Option<&str> {
        let text = text.trim();
        let fits = !fold(text).is_empty() && text.chars().count() <= Self::NAME_MAX && !text.chars().any(char::is_control);
        fits.then_some(text)
    }

    /// The factor after `step` was accepted: active, and the step burnt.
    #[must_use]
    pub fn proven(self, step: StepNumber, now: Timestamp) -> Self {
        let stage = match self.stage {
            FactorStage::Pending { .. } => FactorStage::Active { since: now },
            active @ FactorStage::Active { .. } => active,
        };
        Self { stage, ..self }.burnt_up_to(step)
    }

    /// The factor, of which no value up to `step` is accepted any more. What was burnt stays burnt.
    #[must_use]
    pub fn burnt_up_to(self, step: StepNumber) -> Self {
        let kind = match self.kind {
            FactorKind::Totp { seed, burnt } => FactorKind::Totp { seed, burnt: Some(burnt.map_or(step, |before| before.max(step))) },
            it @ FactorKind::External { .. } => it,
        };
        Self { kind, ..self }
    }
}
