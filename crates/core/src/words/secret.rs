//! Secrets: codes, keys, sealed values and keyed hashes. None of them can be printed by accident (invariant 7).
//!
//! The order of keys: a *master key* (the operator's) wraps each tenant's *data keys*; from a data key two keys
//! are derived, one that seals (AES-256-GCM) and one that hashes (HMAC-SHA-256, RFC 2104). A backup has keys of its own,
//! derived from the master key and a salt (HKDF-SHA-256, RFC 5869); what is done with them is [`super::archive`].

use crate::ports::Chance;
use crate::words::address::Fingerprint;
use crate::words::id::{ChallengeId, KeyId, TenantId};
use crate::words::variables::Variables;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Something that must not be seen: a client secret, a password of a provider. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes the text into custody.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Draws a UUID of version 4 (RFC 9562 §5.4): what callers of some dialects know tokens and codes to look like. 122 random bits.
    #[must_use]
    pub fn draw_uuid(chance: &dyn Chance) -> Self {
        let mut random = [0; 16];
        chance.fill(&mut random);
        Self(uuid::Builder::from_random_bytes(random).into_uuid().to_string())
    }

    /// The text itself. Whoever writes this word has a reason.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

/// A one-time code: decimal digits (NIST SP 800-63B §3.1.3.2 asks for at least six).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Code(String);

impl Code {
    /// Draws `length` digits without bias: bytes from 250 up are thrown away.
    #[must_use]
    pub fn draw(length: u8, chance: &dyn Chance) -> Self {
        let mut digits = String::with_capacity(usize::from(length));
        let mut bytes = [0u8; 16];
        while digits.len() < usize::from(length) {
            chance.fill(&mut bytes);
            let fair = bytes.iter().filter(|byte| **byte < 250).map(|byte| char::from(b'0' + byte % 10));
            digits.extend(fair.take(usize::from(length) - digits.len()));
        }
        bytes.zeroize();
        Self(digits)
    }

    /// The digits themselves, for the message that carries them.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(…)")
    }
}

/// What somebody typed. Whether it is right is judged by the challenge.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Answer(String);

/// The answer cannot be a code, so it is no guess and costs no attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code has {length} digits")]
pub struct BadAnswer {
    /// How many digits a code has.
    pub length: u8,
}

impl Answer {
    /// Takes `length` ASCII digits; nothing else is a guess (no blanks, no other script's digits).
    ///
    /// # Errors
    /// [`BadAnswer`] for any other text.
    pub fn parse(text: &str, length: u8) -> Result<Self, BadAnswer> {
        if text.len() == usize::from(length) && text.bytes().all(|byte| byte.is_ascii_digit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadAnswer { length })
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer(…)")
    }
}

/// What somebody offers as proof: a code, and whatever else the application sent with it. A provider that checks its own codes may ask
/// for the rest (Pryv contract §5).
#[derive(Debug, Clone)]
pub struct Offered {
    /// The code, as it was typed.
    pub code: Secret,
    /// Everything that was sent, the code included.
    pub with: Variables,
}

impl Offered {
    /// A code and nothing else.
    #[must_use]
    pub fn code(text: &str) -> Self {
        Self { code: Secret::new(text), with: Variables::of([("code".to_owned(), text.into())]) }
    }
}

/// A recovery code as it is kept: a keyed hash of ours, or the code itself where another product has left it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeptCode(String);

impl KeptCode {
    /// What a keyed hash begins with.
    const HASHED: &'static str = "countersign:";

    /// The keyed hash of a code.
    #[must_use]
    pub fn hashed(mac: &Mac) -> Self {
        Self(format!("{}{}", Self::HASHED, hex::write(&mac.0)))
    }

    /// Takes what is kept elsewhere.
    #[must_use]
    pub fn found(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The form in which it is kept.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `code`, whose keyed hash is `mac`, is the one. Takes the same time whichever character differs.
    #[must_use]
    pub fn is(&self, code: &Secret, mac: &Mac) -> bool {
        match self.0.strip_prefix(Self::HASHED) {
            Some(hash) => hex::read(hash).is_some_and(|kept| Mac(kept) == *mac),
            None => !self.0.is_empty() && Secret::new(self.0.as_str()) == *code,
        }
    }
}

impl fmt::Debug for KeptCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptCode(…)")
    }
}

/// A keyed hash of something that must be recognised and not be known. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Mac([u8; 32]);

impl PartialEq for Mac {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
impl Eq for Mac {}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac(…)")
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::write(&self.0))
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        hex::read(&std::borrow::Cow::<str>::deserialize(d)?).map(Self).ok_or_else(|| serde::de::Error::custom("not a keyed hash"))
    }
}

/// A value that only its tenant's key opens, and only in the place for which it was sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    key: KeyId,
    nonce: [u8; NONCE_LEN],
    bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(…)")
    }
}

impl Serialize for Sealed {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let whole = [&self.key.as_bytes()[..], &self.nonce, &self.bytes].concat();
        s.serialize_str(&STANDARD.encode(whole))
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bad = || serde::de::Error::custom("not a sealed value");
        let whole = STANDARD.decode(std::borrow::Cow::<str>::deserialize(d)?.as_bytes()).map_err(|_| bad())?;
        let (key, rest) = whole.split_first_chunk::<16>().ok_or_else(bad)?;
        let (nonce, bytes) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(bad)?;
        Ok(Self { key: KeyId::from_bytes(*key), nonce: *nonce, bytes: bytes.to_vec() })
    }
}

/// The value cannot be opened: another key, another place, or damaged bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value does not open: it was sealed with another key, for another place, or is damaged")]
pub struct DoesNotOpen;

/// The place for which a value is sealed. Moving a sealed value to another row or column makes it useless.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// What kind of thing holds it.
    pub noun: &'static str,
    /// Which one.
    pub id: &'a [u8],
    /// In which field.
    pub field: &'a str,
}

/// The operator's key. It wraps every tenant's data keys, seals backups, and touches nothing else.
///
/// While it is being replaced, the one before it is at its side: that one opens data keys which are not wrapped anew yet, and wraps and
/// seals nothing any more.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey {
    present: [u8; 32],
    old: Option<[u8; 32]>,
}

impl MasterKey {
    /// Draws a new one.
    #[must_use]
    pub fn draw(chance: &dyn Chance) -> Self {
        let mut bytes = [0; 32];
        chance.fill(&mut bytes);
        Self { present: bytes, old: None }
    }

    /// Reads 64 hexadecimal digits, as the key file and the environment hold them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hex::read(text.trim()).map(|present| Self { present, old: None })
    }

    /// The same key, with the one before it at its side.
    #[must_use]
    pub fn with_old(self, old: &Self) -> Self {
        Self { present: self.present, old: Some(old.present) }
    }

    /// The form for the key file.
    #[must_use]
    pub fn reveal(&self) -> Secret {
        Secret::new(hex::write(&self.present))
    }

    fn wrapper(&self) -> LessSafeKey {
        sealing_key(&derive(&self.present, "wrap"))
    }

    /// Opens a data key of `tenant`, and says whether the present key was the one that did.
    fn open(&self, tenant: TenantId, key: &WrappedKey) -> Result<(Vec<u8>, bool), DoesNotOpen> {
        let place = data_key_place(&tenant);
        if let Ok(plain) = open(&self.wrapper(), tenant, place, &key.wrapped) {
            return Ok((plain, true));
        }
        let old = self.old.as_ref().ok_or(DoesNotOpen)?;
        open(&sealing_key(&derive(old, "wrap")), tenant, place, &key.wrapped).map(|plain| (plain, false))
    }

    /// A key for one `purpose`, one `salt` and nothing else (HKDF-SHA-256, RFC 5869). The parts of the purpose follow each other
    /// without a mark between them, so only the last may vary in length.
    pub(super) fn expand(&self, salt: &[u8], purpose: &[&[u8]]) -> [u8; 32] {
        let mut key = [0; 32];
        let extracted = Salt::new(HKDF_SHA256, salt).extract(&self.present);
        let expanded = extracted.expand(purpose, HKDF_SHA256).and_then(|it| it.fill(&mut key));
        expanded.expect("HKDF-SHA-256 gives 32 bytes (RFC 5869 §2.3: up to 8,160)");
        key
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// Where a tenant's data keys are kept.
fn data_key_place(tenant: &TenantId) -> Place<'_> {
    Place { noun: "tenant", id: tenant.as_bytes(), field: "data_key" }
}

/// A tenant's data key as it is kept: wrapped by the master key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WrappedKey {
    /// What sealed values call it by.
    pub id: KeyId,
    wrapped: Sealed,
}

impl WrappedKey {
    /// Draws a new data key for `tenant` and wraps it.
    #[must_use]
    pub fn draw(tenant: TenantId, id: KeyId, master: &MasterKey, chance: &dyn Chance) -> Self {
        let mut key = [0; 32];
        chance.fill(&mut key);
        let wrapped = seal(&master.wrapper(), id, tenant, data_key_place(&tenant), &key, chance);
        key.zeroize();
        Self { id, wrapped }
    }

    /// The same data key wrapped by the present master key; nothing where it is already.
    ///
    /// # Errors
    /// [`DoesNotOpen`] when neither the present key nor the old one has wrapped it.
    pub fn wrapped_anew(&self, tenant: TenantId, master: &MasterKey, chance: &dyn Chance) -> Result<Option<Self>, DoesNotOpen> {
        let (mut plain, by_present) = master.open(tenant, self)?;
        let anew = (!by_present).then(|| {
            let wrapped = seal(&master.wrapper(), self.id, tenant, data_key_place(&tenant), &plain, chance);
            Self { id: self.id, wrapped }
        });
        plain.zeroize();
        Ok(anew)
    }

    /// Whether the present master key opens it, without the help of the old one.
    #[must_use]
    pub fn is_of_present(&self, tenant: TenantId, master: &MasterKey) -> bool {
        master.open(tenant, self).is_ok_and(|(mut plain, by_present)| {
            plain.zeroize();
            by_present
        })
    }
}

/// A tenant's keys, opened. They live in memory only.
pub struct TenantKeys {
    tenant: TenantId,
    newest: KeyId,
    sealing: BTreeMap<KeyId, LessSafeKey>,
    hashing: Hmac<Sha256>,
}

impl TenantKeys {
    /// Unwraps the keys of `tenant`. The first one hashes for ever, the last one seals from now on.
    ///
    /// # Errors
    /// [`DoesNotOpen`] when the master key is not the one that wrapped them, or there is none.
    pub fn open(tenant: TenantId, keys: &[WrappedKey], master: &MasterKey) -> Result<Self, DoesNotOpen> {
        let mut sealing = BTreeMap::new();
        let mut hashing = None;
        for key in keys {
            let (mut plain, _) = master.open(tenant, key)?;
            sealing.insert(key.id, sealing_key(&derive(&plain, "seal")));
            hashing.get_or_insert_with(|| hasher(&derive(&plain, "hash")));
            plain.zeroize();
        }
        let newest = keys.last().ok_or(DoesNotOpen)?.id;
        Ok(Self { tenant, newest, sealing, hashing: hashing.ok_or(DoesNotOpen)? })
    }

    /// Seals `plain` for `place`.
    ///
    /// # Panics
    /// Never: the newest key is among the keys.
    #[must_use]
    pub fn seal(&self, place: Place<'_>, plain: &[u8], chance: &dyn Chance) -> Sealed {
        seal(&self.sealing[&self.newest], self.newest, self.tenant, place, plain, chance)
    }

    /// Opens what was sealed for `place`.
    ///
    /// # Errors
    /// [`DoesNotOpen`] when it was sealed for another place or tenant, or is damaged.
    pub fn open_sealed(&self, place: Place<'_>, sealed: &Sealed) -> Result<Vec<u8>, DoesNotOpen> {
        open(self.sealing.get(&sealed.key).ok_or(DoesNotOpen)?, self.tenant, place, sealed)
    }

    /// The keyed hash of `parts`, for the purpose `label`. Lengths are part of it, so parts cannot shift.
    #[must_use]
    pub fn mac(&self, label: &'static str, parts: &[&[u8]]) -> Mac {
        let mut hash = self.hashing.clone();
        hash.update(label.as_bytes());
        for part in parts {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Mac(hash.finalize().into_bytes().into())
    }

    /// The hash of a code, bound to its challenge: the same digits elsewhere hash to something else.
    #[must_use]
    pub fn code(&self, challenge: ChallengeId, digits: &str) -> Mac {
        self.mac("code", &[challenge.as_bytes(), digits.as_bytes()])
    }

    /// A name or address as something that can be looked up and not read.
    #[must_use]
    pub fn fingerprint(&self, label: &'static str, parts: &[&[u8]]) -> Fingerprint {
        let Mac(whole) = self.mac(label, parts);
        let mut short = [0; 16];
        short.copy_from_slice(&whole[..16]);
        Fingerprint(short)
    }
}

impl fmt::Debug for TenantKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantKeys(…)")
    }
}

fn hasher(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn derive(key: &[u8], label: &str) -> [u8; 32] {
    let mut hash = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    hash.update(label.as_bytes());
    hash.finalize().into_bytes().into()
}

pub(super) fn sealing_key(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes"))
}

fn associated(tenant: TenantId, place: Place<'_>) -> Aad<Vec<u8>> {
    let mut data = tenant.as_bytes().to_vec();
    for part in [place.noun.as_bytes(), place.id, place.field.as_bytes()] {
        data.extend_from_slice(&(part.len() as u64).to_be_bytes());
        data.extend_from_slice(part);
    }
    Aad::from(data)
}

fn seal(key: &LessSafeKey, id: KeyId, tenant: TenantId, place: Place<'_>, plain: &[u8], chance: &dyn Chance) -> Sealed {
    let mut nonce = [0; NONCE_LEN];
    chance.fill(&mut nonce);
    let mut bytes = plain.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), associated(tenant, place), &mut bytes)
        .expect("AES-GCM seals values of less than 64 GiB");
    Sealed { key: id, nonce, bytes }
}

fn open(key: &LessSafeKey, tenant: TenantId, place: Place<'_>, sealed: &Sealed) -> Result<Vec<u8>, DoesNotOpen> {
    let mut bytes = sealed.bytes.clone();
    let plain = key
        .open_in_place(Nonce::assume_unique_for_key(sealed.nonce), associated(tenant, place), &mut bytes)
        .map_err(|_| DoesNotOpen)?
        .len();
    bytes.truncate(plain);
    Ok(bytes)
}

/// Lower-case hexadecimal digits.
pub(crate) mod hex {
    pub(crate) fn write(bytes: &[u8]) -> String {
        data_encoding::HEXLOWER.encode(bytes)
    }

    pub(crate) fn read<const N: usize>(text: &str) -> Option<[u8; N]> {
        data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::test::Script;
    use crate::words::time::Timestamp;

    fn keys(chance: &Script, master: &MasterKey) -> (TenantId, Vec<WrappedKey>) {
        let now = Timestamp::from_millis(0);
        let tenant = TenantId::new(now, chance);
        (tenant, vec![WrappedKey::draw(tenant, KeyId::new(now, chance), master, chance)])
    }

    #[test]
    fn a_sealed_value_opens_only_in_its_place_and_with_its_key() {
        let chance = Script::default();
        let master = MasterKey::draw(&chance);
        let (tenant, wrapped) = keys(&chance, &master);
        let opened = TenantKeys::open(tenant, &wrapped, &master).expect("its own master key");
        let here = Place { noun: "delivery", id: b"1", field: "message" };
        let sealed = opened.seal(here, b"the code is 523471", &chance);
        assert_eq!(opened.open_sealed(here, &sealed).as_deref(), Ok(&b"the code is 523471"[..]));
        for other in [Place { noun: "factor", ..here }, Place { id: b"2", ..here }, Place { field: "seed", ..here }] {
            assert_eq!(opened.open_sealed(other, &sealed), Err(DoesNotOpen));
        }
        assert!(TenantKeys::open(tenant, &wrapped, &MasterKey::draw(&chance)).is_err(), "another master key");
        let text = serde_json::to_string(&sealed).expect("serialises");
        assert!(!text.contains("523471"));
        assert_eq!(serde_json::from_str::<Sealed>(&text).expect("reads"), sealed);
    }

    #[test]
    fn an_added_key_seals_and_the_first_goes_on_hashing() {
        let chance = Script::default();
        let master = MasterKey::draw(&chance);
        let (tenant, mut wrapped) = keys(&chance, &master);
        let before = TenantKeys::open(tenant, &wrapped, &master).expect("opens");
        let here = Place { noun: "delivery", id: b"1", field: "message" };
        let old = before.seal(here, b"words", &chance);
        wrapped.push(WrappedKey::draw(tenant, KeyId::new(Timestamp::from_millis(5), &chance), &master, &chance));
        let after = TenantKeys::open(tenant, &wrapped, &master).expect("opens");
        assert_eq!(after.open_sealed(here, &old).as_deref(), Ok(&b"words"[..]));
        assert_eq!(after.mac("code", &[b"1"]), before.mac("code", &[b"1"]));
        assert!(before.open_sealed(here, &after.seal(here, b"new", &chance)).is_err());
    }

    #[test]
    fn an_old_master_key_opens_until_data_keys_are_wrapped_anew_and_never_after() {
        let chance = Script::default();
        let (old, new) = (MasterKey::draw(&chance), MasterKey::draw(&chance));
        let (tenant, wrapped) = keys(&chance, &old);
        let here = Place { noun: "delivery", id: b"1", field: "message" };
        let sealed = TenantKeys::open(tenant, &wrapped, &old).expect("opens").seal(here, b"words", &chance);
        let both = new.clone().with_old(&old);
        assert_eq!(wrapped[0].wrapped_anew(tenant, &new, &chance).err(), Some(DoesNotOpen));
        assert!(TenantKeys::open(tenant, &wrapped, &both).is_ok() && !wrapped[0].is_of_present(tenant, &both));

        let anew = vec![wrapped[0].wrapped_anew(tenant, &both, &chance).expect("opens").expect("by the old key")];
        assert!(anew[0].is_of_present(tenant, &new) && anew[0].wrapped_anew(tenant, &both, &chance).expect("opens").is_none());
        assert!(TenantKeys::open(tenant, &anew, &old).is_err());
        let opened = TenantKeys::open(tenant, &anew, &new).expect("opens");
        assert_eq!(opened.open_sealed(here, &sealed).as_deref(), Ok(&b"words"[..]), "it is the same data key");
        // What is made from now on, the old key does not open.
        let fresh = [WrappedKey::draw(tenant, KeyId::new(Timestamp::from_millis(9), &chance), &both, &chance)];
        assert!(TenantKeys::open(tenant, &fresh, &old).is_err() && TenantKeys::open(tenant, &fresh, &new).is_ok());
    }

    #[test]
    fn parts_cannot_shift_into_each_other() {
        let chance = Script::default();
        let master = MasterKey::draw(&chance);
        let (tenant, wrapped) = keys(&chance, &master);
        let keys = TenantKeys::open(tenant, &wrapped, &master).expect("opens");
        assert_ne!(keys.mac("x", &[b"ab", b"c"]), keys.mac("x", &[b"a", b"bc"]));
    }

    #[test]
    fn codes_are_digits_of_every_value_and_do_not_print() {
        let chance = Script::default();
        let mut seen = [0u32; 10];
        for _ in 0..1000 {
            let code = Code::draw(6, &chance);
            assert_eq!(code.reveal().len(), 6);
            for digit in code.reveal().bytes() {
                seen[usize::from(digit - b'0')] += 1
            }
            assert_eq!(format!("{code:?}"), "Code(…)");
        }
        assert!(seen.iter().all(|count| (450..=750).contains(count)), "{seen:?}");
    }

    #[test]
    fn only_ascii_digits_of_the_right_number_are_a_guess() {
        assert!(Answer::parse("523471", 6).is_ok());
        for text in ["", "52347", "5234711", "52 471", " 52347", "５２３４７１", "52347a", "-52347", "+52347"] {
            assert!(Answer::parse(text, 6).is_err(), "{text:?}");
        }
    }
}
