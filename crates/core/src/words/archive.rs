//! Archives: a stream of any length, sealed with the master key, of which no byte can be changed, left out or moved unseen.
//!
//! Owns the format of backups; `docs/backup.md` describes it for those who want to read one without us. In it are
//!
//! 1. a line that says what this is, and a line of JSON that says what is in it ([`Label`]): both can be read without a key;
//! 2. 32 random bytes, the salt, and 16 bytes by which the right master key is known from another one;
//! 3. the content in chunks of 64 KiB, each sealed with AES-256-GCM, the last one marked as the last.
//!
//! The chunks follow the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption and its
//! Nonce-Reuse Misuse-Resistance", CRYPTO 2015, §7): the nonce is a prefix, the number of the chunk and whether it is the last one.
//! So a chunk opens in its place only, and an archive that was cut off has no last chunk. The prefix is zero, because
//! the key is derived for this one archive, from its salt and its first two lines: a label that was changed opens nothing.

use crate::ports::Chance;
use crate::words::secret::{MasterKey, sealing_key};
use crate::words::time::Timestamp;
use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read, Write};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// The first line.
const MAGIC: &[u8] = b"countersign-backup 1\n";
/// What the first line of every version begins with.
const NAME: &[u8] = b"countersign-backup ";
/// The longest label, with the end of its line.
const LABEL_BYTES: usize = 4096;
const SALT_BYTES: usize = 32;
const CHECK_BYTES: usize = 16;
/// Plain bytes of a chunk; the last one may have fewer, and has none when there is nothing in the archive.
const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;

/// What is in an archive. Anybody who has the file can read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// When it was made. All that was durable by then is in it.
    pub made_at: Timestamp,
    /// Which version of the program made it.
    pub made_by: String,
    /// The version of the schema of the database in it.
    pub schema: u32,
    /// Bytes of its content.
    pub bytes: u64,
}

/// Why an archive does not open.
#[derive(Debug, thiserror::Error)]
pub enum Unopened {
    /// It begins otherwise than ours do.
    #[error("it is no backup of Countersign")]
    Foreign,
    /// A newer program has made it, in a format of which we know only the name.
    #[error("its format is newer than this program")]
    NewerFormat,
    /// It was sealed with another master key.
    #[error("it was sealed with another master key")]
    OtherKey,
    /// Bytes of it were changed, moved or added.
    #[error("it is damaged")]
    Damaged,
    /// What is there is as it was written, and the end is missing.
    #[error("its end is missing")]
    CutOff,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    /// What was in it cannot be written.
    #[error("what is in it cannot be written: {0}")]
    Unwritten(io::Error),
}

/// Seals all that `from` gives, and writes the archive to `into`; says how many bytes that are. `going` is told after each chunk how
/// many plain bytes were sealed so far, and may stop the work with an error of its own.
///
/// # Errors
/// Those of `from`, `into` and `going`; also when `from` does not give the number of bytes that `label` says.
pub fn seal(
    label: &Label,
    master: &MasterKey,
    chance: &dyn Chance,
    mut from: impl Read,
    mut into: impl Write,
    mut going: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<u64> {
    let head = head(label)?;
    let mut salt = [0; SALT_BYTES];
    chance.fill(&mut salt);
    into.write_all(&head)?;
    into.write_all(&salt)?;
    into.write_all(&check(master, &salt))?;
    let key = key(master, &salt, &head);
    let (mut number, mut sealed, mut written) = (0, 0, head.len() + SALT_BYTES + CHECK_BYTES);
    let mut next = chunk(&mut from, CHUNK_BYTES)?;
    loop {
        let mut this = next;
        // Whether a chunk is the last one is known when nothing follows it.
        next = if this.len() < CHUNK_BYTES { Vec::new() } else { chunk(&mut from, CHUNK_BYTES)? };
        let is_last = next.is_empty();
        sealed += this.len() as u64;
        key.seal_in_place_append_tag(nonce(number, is_last), Aad::empty(), &mut this).expect("AES-GCM seals 64 KiB");
        into.write_all(&this)?;
        written += this.len();
        number += 1;
        going(sealed)?;
        if is_last {
            break;
        }
    }
    if sealed != label.bytes {
        return Err(io::Error::other(format!("{sealed} bytes came where {} were expected", label.bytes)));
    }
    into.flush()?;
    Ok(written as u64)
}

/// An archive whose label and first chunk are genuine.
pub struct Opening<R> {
    from: R,
    label: Label,
    key: LessSafeKey,
    first: Vec<u8>,
}

impl<R: Read> Opening<R> {
    /// Reads the beginning. What the label says can be believed afterwards.
    ///
    /// # Errors
    /// [`Unopened`] says what is wrong with it.
    pub fn begin(mut from: R, master: &MasterKey) -> Result<Self, Unopened> {
        let (head, label) = read_head(&mut from)?;
        let (mut salt, mut theirs) = ([0; SALT_BYTES], [0; CHECK_BYTES]);
        for part in [&mut salt[..], &mut theirs] {
            from.read_exact(part).map_err(|why| cut_off(why, Unopened::CutOff))?;
        }
        if !bool::from(check(master, &salt).ct_eq(&theirs)) {
            return Err(Unopened::OtherKey);
        }
        let key = key(master, &salt, &head);
        let first = chunk(&mut from, CHUNK_BYTES + TAG_BYTES).map_err(Unopened::Unreadable)?;
        let opening = Self { from, label, key, first };
        if first_opens(&opening) {
            Ok(opening)
        } else {
            Err(if opening.first.len() < TAG_BYTES { Unopened::CutOff } else { Unopened::Damaged })
        }
    }

    /// What is in it.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// Writes the content to `into`. It is whole and genuine when this returns, and not before: a chunk that is written may be
    /// followed by a damaged one. `going` is told after each chunk how many bytes were written so far, and may stop the work.
    ///
    /// # Errors
    /// [`Unopened`] says what is wrong with it; errors of `into` and `going` are [`Unopened::Unwritten`].
    pub fn pour(mut self, mut into: impl Write, mut going: impl FnMut(u64) -> io::Result<()>) -> Result<(), Unopened> {
        let mut this = std::mem::take(&mut self.first);
        let mut plain = vec![0; CHUNK_BYTES];
        let (mut number, mut poured) = (0, 0);
        loop {
            // A chunk that is not full has nothing behind it: asking a terminal again would make it wait.
            let next = if this.len() < CHUNK_BYTES + TAG_BYTES {
                Vec::new()
            } else {
                chunk(&mut self.from, CHUNK_BYTES + TAG_BYTES).map_err(Unopened::Unreadable)?
            };
            let is_last = next.is_empty();
            let Some(opened) = open(&self.key, number, is_last, &this, &mut plain) else {
                let was_not_last = is_last && open(&self.key, number, false, &this, &mut plain).is_some();
                return Err(if was_not_last || this.len() < TAG_BYTES { Unopened::CutOff } else { Unopened::Damaged });
            };
            into.write_all(opened).map_err(Unopened::Unwritten)?;
            poured += opened.len() as u64;
            number += 1;
            going(poured).map_err(Unopened::Unwritten)?;
            if is_last {
                plain.zeroize();
                return into.flush().map_err(Unopened::Unwritten);
            }
            this = next;
        }
    }
}

impl<R> fmt::Debug for Opening<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("label", &self.label).finish_non_exhaustive()
    }
}

/// Whether the first chunk opens, be it the last one or not. Then the key is right, and with it the label from which it is derived.
fn first_opens<R>(opening: &Opening<R>) -> bool {
    let mut plain = vec![0; CHUNK_BYTES];
    [false, true].into_iter().any(|is_last| open(&opening.key, 0, is_last, &opening.first, &mut plain).is_some())
}

/// Reads what an archive says of itself, without a key. Whoever wrote the file can have written anything there; see
/// [`Opening::begin`].
///
/// # Errors
/// [`Unopened`] where there is no label.
pub fn read_label(mut from: impl Read) -> Result<Label, Unopened> {
    read_head(&mut from).map(|(_, label)| label)
}

fn head(label: &Label) -> io::Result<Vec<u8>> {
    let mut head = MAGIC.to_vec();
    serde_json::to_writer(&mut head, label)?;
    head.push(b'\n');
    if head.len() > MAGIC.len() + LABEL_BYTES {
        return Err(io::Error::other("the label is too long"));
    }
    Ok(head)
}

fn read_head(from: &mut impl Read) -> Result<(Vec<u8>, Label), Unopened> {
    let mut head = vec![0; MAGIC.len()];
    from.read_exact(&mut head).map_err(|why| cut_off(why, Unopened::Foreign))?;
    if head != MAGIC {
        return Err(if head.starts_with(NAME) { Unopened::NewerFormat } else { Unopened::Foreign });
    }
    // One byte at a time, for what follows the line is not ours to take. It is short, and read once.
    let mut byte = [0];
    while byte != *b"\n" {
        if head.len() == MAGIC.len() + LABEL_BYTES {
            return Err(Unopened::Damaged);
        }
        from.read_exact(&mut byte).map_err(|why| cut_off(why, Unopened::CutOff))?;
        head.extend(byte);
    }
    let label = serde_json::from_slice(&head[MAGIC.len()..]).map_err(|_| Unopened::Damaged)?;
    Ok((head, label))
}

/// What an end means where there should be none.
fn cut_off(why: io::Error, means: Unopened) -> Unopened {
    if why.kind() == io::ErrorKind::UnexpectedEof { means } else { Unopened::Unreadable(why) }
}

/// The key of one archive: of this salt, and of these first two lines.
fn key(master: &MasterKey, salt: &[u8; SALT_BYTES], head: &[u8]) -> LessSafeKey {
    let mut bytes = master.expand(salt, &[b"countersign backup content\0", head]);
    let key = sealing_key(&bytes);
    bytes.zeroize();
    key
}

/// By which a master key is known from another one. It says nothing about the key, and is another one in every archive.
fn check(master: &MasterKey, salt: &[u8; SALT_BYTES]) -> [u8; CHECK_BYTES] {
    let whole = master.expand(salt, &[b"countersign backup check\0"]);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&whole[..CHECK_BYTES]);
    check
}

fn nonce(number: u64, is_last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 9..NONCE_LEN - 1].copy_from_slice(&number.to_be_bytes());
    nonce[NONCE_LEN - 1] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}

/// Opens one chunk into `plain`, or says nothing of what is in it.
fn open<'a>(key: &LessSafeKey, number: u64, is_last: bool, sealed: &[u8], plain: &'a mut [u8]) -> Option<&'a [u8]> {
    let (body, tag) = sealed.split_at(sealed.len().checked_sub(TAG_BYTES)?);
    let plain = plain.get_mut(..body.len())?;
    key.open_separate_gather(nonce(number, is_last), Aad::empty(), body, tag, plain).ok()?;
    Some(plain)
}

/// Reads `bytes`, or fewer where there are no more.
fn chunk(from: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(bytes + TAG_BYTES);
    from.by_ref().take(bytes as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::test::Script;

    fn label(bytes: usize) -> Label {
        Label { made_at: Timestamp::from_millis(1_893_499_200_000), made_by: "0.1.0".into(), schema: 1, bytes: bytes as u64 }
    }

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at / 7 + at / CHUNK_BYTES) as u8).collect()
    }

    fn master() -> MasterKey {
        MasterKey::draw(&Script::default())
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let mut archive = Vec::new();
        let written = seal(&label(plain.len()), &master(), &Script::default(), plain, &mut archive, |_| Ok(())).expect("sealed");
        assert_eq!(written, archive.len() as u64);
        archive
    }

    fn opened(archive: &[u8], master: &MasterKey) -> Result<Vec<u8>, Unopened> {
        let mut plain = Vec::new();
        Opening::begin(archive, master)?.pour(&mut plain, |_| Ok(()))?;
        Ok(plain)
    }

    fn head_bytes(archive: &[u8]) -> usize {
        read_head(&mut &*archive).expect("a head").0.len() + SALT_BYTES + CHECK_BYTES
    }

    const SIZES: [usize; 7] = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5];

    #[test]
    fn what_was_sealed_opens_whatever_its_length_and_its_label_needs_no_key() {
        for size in SIZES {
            let (plain, archive) = (content(size), sealed(&content(size)));
            assert_eq!(opened(&archive, &master()).expect("opens"), plain, "{size}");
            assert_eq!(read_label(&*archive).expect("a label"), label(size));
            let chunks = size.div_ceil(CHUNK_BYTES).max(1);
            assert_eq!(archive.len() - head_bytes(&archive), size + chunks * TAG_BYTES, "{size}: no chunk too many");
        }
        assert!(sealed(&[]).starts_with(b"countersign-backup 1\n{\"made_at\":1893499200000,\"made_by\":\"0.1.0\",\"schema\":1,"));
    }

    #[test]
    fn another_master_key_opens_nothing_and_is_told_from_damage() {
        let chance = Script::default();
        let (first, second) = (MasterKey::draw(&chance), MasterKey::draw(&chance));
        assert!(opened(&sealed(b"words"), &first).is_ok());
        assert!(matches!(opened(&sealed(b"words"), &second), Err(Unopened::OtherKey)));
    }

    #[test]
    fn no_byte_can_be_changed() {
        let archive = sealed(&content(1000));
        for at in 0..archive.len() {
            let mut changed = archive.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(opened(&changed, &master()).is_err(), "byte {at} of {}", archive.len());
        }
        // Of a longer one, a byte of each chunk and each tag.
        let archive = sealed(&content(2 * CHUNK_BYTES + 9));
        for at in (head_bytes(&archive)..archive.len()).step_by(4093).chain(archive.len() - TAG_BYTES..archive.len()) {
            let mut changed = archive.clone();
            changed[at] ^= 0x80;
            assert!(matches!(opened(&changed, &master()), Err(Unopened::Damaged)), "byte {at}");
        }
    }

    #[test]
    fn a_label_that_was_changed_opens_nothing() {
        let archive = sealed(b"words");
        let text = String::from_utf8_lossy(&archive).into_owned();
        let at = text.find("\"schema\":1").expect("a schema") + "\"schema\":".len();
        let mut changed = archive.clone();
        changed[at] = b'2';
        assert_eq!(read_label(&*changed).expect("readable").schema, 2);
        assert!(matches!(Opening::begin(&*changed, &master()), Err(Unopened::Damaged)));
    }

    #[test]
    fn it_can_be_cut_nowhere() {
        let archive = sealed(&content(1000));
        for length in 0..archive.len() {
            let why = opened(&archive[..length], &master()).expect_err("cut");
            let means =
                if length < MAGIC.len() { matches!(why, Unopened::Foreign) } else { matches!(why, Unopened::CutOff | Unopened::Damaged) };
            assert!(means, "{length} of {}: {why}", archive.len());
        }
        let archive = sealed(&content(3 * CHUNK_BYTES + 5));
        for chunks in 0..=3 {
            let end = head_bytes(&archive) + chunks * (CHUNK_BYTES + TAG_BYTES);
            assert!(matches!(opened(&archive[..end], &master()), Err(Unopened::CutOff)), "after {chunks} chunks");
            assert!(opened(&archive[..end + 1], &master()).is_err());
        }
    }

    #[test]
    fn chunks_can_neither_be_swapped_nor_repeated_nor_left_out() {
        let archive = sealed(&content(4 * CHUNK_BYTES));
        let (head, body) = archive.split_at(head_bytes(&archive));
        let chunks: Vec<_> = body.chunks(CHUNK_BYTES + TAG_BYTES).collect();
        assert_eq!(chunks.len(), 4);
        for order in [&[1, 0, 2, 3][..], &[0, 2, 1, 3], &[0, 1, 3, 2], &[0, 1, 1, 2, 3], &[0, 2, 3], &[1, 2, 3], &[3], &[0, 1, 2, 3, 3]] {
            let moved = [head.to_vec(), order.iter().flat_map(|at| chunks[*at].to_vec()).collect()].concat();
            assert!(opened(&moved, &master()).is_err(), "{order:?}");
        }
    }

    #[test]
    fn a_chunk_of_another_archive_does_not_fit_in() {
        let chance = Script::default();
        let both = [0u8, 1].map(|fill| {
            let mut archive = Vec::new();
            seal(&label(CHUNK_BYTES), &master(), &chance, &*vec![fill; CHUNK_BYTES], &mut archive, |_| Ok(())).expect("sealed");
            archive
        });
        let head = head_bytes(&both[0]);
        assert!(opened(&[&both[0][..head], &both[1][head..]].concat(), &master()).is_err());
    }

    #[test]
    fn nothing_can_be_appended() {
        for size in SIZES {
            for more in [&[0][..], &[0; TAG_BYTES], &[7; CHUNK_BYTES + TAG_BYTES]] {
                let appended = [sealed(&content(size)), more.to_vec()].concat();
                assert!(matches!(opened(&appended, &master()), Err(Unopened::Damaged)), "{size} and {}", more.len());
            }
        }
    }

    #[test]
    fn what_is_no_archive_and_what_a_newer_program_made_are_told_apart() {
        for foreign in [&b""[..], b"SQLite format 3\0 and so on", &[0; 4096]] {
            assert!(matches!(opened(foreign, &master()), Err(Unopened::Foreign)));
        }
        assert!(matches!(opened(b"countersign-backup 2\n{}\n", &master()), Err(Unopened::NewerFormat)));
        let endless = [MAGIC, &vec![b' '; 1 << 20]].concat();
        assert!(matches!(opened(&endless, &master()), Err(Unopened::Damaged)), "a label is not read for ever");
    }

    #[test]
    fn who_is_told_of_the_progress_may_stop_it() {
        let stop = |_| Err(io::Error::other("stopped"));
        let plain = content(CHUNK_BYTES + 1);
        assert!(seal(&label(plain.len()), &master(), &Script::default(), &*plain, io::sink(), stop).is_err());
        let archive = sealed(&plain);
        let opening = Opening::begin(&*archive, &master()).expect("begins");
        assert!(matches!(opening.pour(io::sink(), stop), Err(Unopened::Unwritten(_))));
    }

    #[test]
    fn content_of_another_length_than_its_label_says_is_not_sealed() {
        let plain = content(10);
        assert!(seal(&label(11), &master(), &Script::default(), &*plain, io::sink(), |_| Ok(())).is_err());
    }
}
