//! Time-based codes (RFC 6238 over RFC 4226): what an authenticator shows, and by which step.

use crate::words::secret::Answer;
use crate::words::time::Timestamp;
use hmac::{Hmac, KeyInit, Mac as _};
use sha1::Sha1;
use subtle::ConstantTimeEq;

/// Seconds of a step (RFC 6238 §4.1, the default X).
pub const STEP_S: u64 = 30;
/// Digits of a value.
pub const DIGITS: u8 = 6;
/// Bytes of a seed: 160 bits, as RFC 4226 §4 R6 recommends.
pub const SEED_BYTES: usize = 20;
/// Steps before and after the present one that are looked at (RFC 6238 §5.2 recommends at most one for delay).
const DRIFT: u64 = 1;

/// A step of time: RFC 6238's T. Each is accepted once (RFC 6238 §5.2).
pub type StepNumber = u64;

/// The HOTP value of `counter` (RFC 4226 §5.3), with six digits.
#[must_use]
pub fn hotp(seed: &[u8], counter: u64) -> String {
    let mut hash = Hmac::<Sha1>::new_from_slice(seed).expect("HMAC takes keys of any length");
    hash.update(&counter.to_be_bytes());
    let digest = hash.finalize().into_bytes();
    let offset = usize::from(digest[19] & 0x0f);
    let mut word = [0; 4];
    word.copy_from_slice(&digest[offset..offset + 4]);
    format!("{:06}", (u32::from_be_bytes(word) & 0x7fff_ffff) % 1_000_000)
}

/// The step that `now` is in.
#[must_use]
pub fn step_at(now: Timestamp) -> StepNumber {
    now.as_secs().max(0).unsigned_abs() / STEP_S
}

/// The newest step of which a value may have been accepted by `now`.
#[must_use]
pub fn newest_at(now: Timestamp) -> StepNumber {
    step_at(now) + DRIFT
}

/// The step whose value `answer` is, among those near `now` that come after `burnt`. Every candidate is compared,
/// in constant time.
#[must_use]
pub fn matching(seed: &[u8], answer: &Answer, now: Timestamp, burnt: Option<StepNumber>) -> Option<StepNumber> {
    let present = step_at(now);
    let mut found = None;
    for step in present.saturating_sub(DRIFT)..=present + DRIFT {
        let right: bool = hotp(seed, step).as_bytes().ct_eq(answer.as_str().as_bytes()).into();
        if right && burnt.is_none_or(|last| step > last) {
            found = Some(step)
        }
    }
    found
}

/// The seed as people type it: RFC 4648 base32 without padding.
#[must_use]
pub fn base32(seed: &[u8]) -> String {
    data_encoding::BASE32_NOPAD.encode(seed)
}

/// The address that authenticators read from a picture: `otpauth://totp/LABEL?secret=SEED`. Everything else has its
/// default value (SHA-1, six digits, 30 s), as in CIAM contract §4.1.
#[must_use]
pub fn uri(label: &str, seed: &[u8]) -> String {
    let mut escaped = String::with_capacity(label.len());
    for byte in label.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'$' | b'@' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    format!("otpauth://totp/{escaped}?secret={}", base32(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &[u8] = b"12345678901234567890";

    #[test]
    fn the_values_of_rfc_4226_appendix_d() {
        let expected = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"];
        for (counter, value) in (0u64..).zip(expected) {
            assert_eq!(hotp(SEED, counter), value)
        }
    }

    #[test]
    fn the_values_of_rfc_6238_appendix_b_in_six_digits() {
        for (seconds, value) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(hotp(SEED, step_at(Timestamp::from_millis(seconds * 1000))), value);
        }
    }

    #[test]
    fn a_value_is_taken_one_step_early_or_late_and_no_further() {
        let answer = Answer::parse(&hotp(SEED, 100), DIGITS).expect("six digits");
        let at = |step: i64| Timestamp::from_millis(step * 30_000);
        for (step, found) in [(98, None), (99, Some(100)), (100, Some(100)), (101, Some(100)), (102, None)] {
            assert_eq!(matching(SEED, &answer, at(step), None), found, "at step {step}");
        }
    }

    #[test]
    fn a_burnt_step_and_all_before_it_are_never_taken_again() {
        let answer = Answer::parse(&hotp(SEED, 100), DIGITS).expect("six digits");
        let now = Timestamp::from_millis(100 * 30_000);
        assert_eq!(matching(SEED, &answer, now, Some(99)), Some(100));
        assert_eq!(matching(SEED, &answer, now, Some(100)), None);
        assert_eq!(matching(SEED, &answer, now, Some(101)), None);
    }

    #[test]
    fn no_value_that_could_be_accepted_by_now_is_newer_than_the_newest() {
        let now = Timestamp::from_millis(100 * 30_000 + 29_999);
        for step in 95..105 {
            let answer = Answer::parse(&hotp(SEED, step), DIGITS).expect("six digits");
            assert_eq!(matching(SEED, &answer, now, Some(newest_at(now))), None, "{step}");
        }
        let answer = Answer::parse(&hotp(SEED, 102), DIGITS).expect("six digits");
        let later = Timestamp::from_millis(101 * 30_000);
        assert_eq!(matching(SEED, &answer, later, Some(newest_at(now))), Some(102), "half a minute later the next one is taken");
    }

    #[test]
    fn the_address_for_authenticators_escapes_its_label() {
        assert_eq!(uri("APM0000003$j doe?", SEED), "otpauth://totp/APM0000003$j%20doe%3F?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
    }
}
