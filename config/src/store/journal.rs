//! What has changed since the state file was written: one line for each transaction, in the order in which they were
//! acknowledged. A transaction appended is some hundred octets written and flushed; the state file is all of the configuration,
//! and takes three flushes to replace.
//!
//! ```text
//! # changes of a weft switch since state 7 crc32=89abcdef     the state file that it goes on from: its number and checksum
//! 01234567 [{"acl_member_add":{"group":"web","member":"10.0.0.7"}}]
//! ```
//!
//! A line holds the checksum of its changes. The last one may be torn: nobody was told that it is kept. So may one behind which
//! only lines with a `~` in place of the blank follow, which were to be flushed soon: those are lost with it. A journal that goes on
//! from another state file is an old one, and says nothing. What is appended can be flushed before anybody is told, or soon
//! after: a thread of the journal's own does that, within the time that the disk takes.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use super::{Flush, crc32};
use crate::change::Change;

/// Octets that a journal may have at least: some thousand changes. With more, it may be as long as the state file: so what
/// it takes to write that anew is shared by as many changes as it is large.
const SHORT: u64 = 64 * 1024;
/// Octets that it may have at most. Even these are read again in well under a second.
const MAX: u64 = 1024 * 1024;
const START: &str = "# changes of a weft switch since state ";

/// Which state file a journal goes on from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Base {
    /// Its number.
    pub number: u64,
    /// Its checksum.
    pub sum: u32,
}

/// A journal that is written to.
#[derive(Debug)]
pub(super) struct Journal {
    file: Arc<File>,
    length: u64,
    /// How long it was when nothing was in it.
    empty: u64,
    /// How long it may get.
    limit: u64,
    /// Asks the thread for a flush; none is asked for twice.
    flusher: SyncSender<()>,
    /// A flush has failed: what was appended may not be on the disk.
    failed: Arc<AtomicBool>,
}

/// What a journal says.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Transactions, in order.
    pub transactions: Vec<Vec<Change>>,
    /// Octets at its end that are no whole line.
    pub torn: usize,
}

/// Why a journal can't be believed.
pub(super) const GAP: &str = "a line in its middle is damaged";
/// The same.
pub(super) const STRANGE: &str = "it has a change that this version of weft doesn't know";

/// What the journal `octets` says of the state file `base`.
pub(super) fn read(octets: &[u8], base: Base) -> Result<Read, &'static str> {
    let Some(start) = octets.iter().position(|octet| *octet == b'\n') else { return Ok(Read::default()) };
    let (first, lines) = octets.split_at(start + 1);
    if first != header(base).as_bytes() {
        return Ok(Read::default());
    }
    let mut found = Read::default();
    for line in lines.split_inclusive(|octet| *octet == b'\n') {
        match transaction(line) {
            // A disk writes in its own order what it was not told to write at once.
            Some((Flush::Soon, _)) if found.torn > 0 => found.torn += line.len(),
            Some(_) if found.torn > 0 => return Err(GAP),
            Some((_, changes)) => found.transactions.push(changes.ok_or(STRANGE)?),
            None => found.torn += line.len(),
        }
    }
    Ok(found)
}

/// The changes of a whole line, and when it was flushed; no changes if they are right, and not understood.
fn transaction(line: &[u8]) -> Option<(Flush, Option<Vec<Change>>)> {
    let (sum, changes) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    let (sum, flush) = match sum.split_last()? {
        (b' ', sum) => (sum, Flush::First),
        (&SOON, sum) => (sum, Flush::Soon),
        _ => return None,
    };
    let right = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()? == crc32(changes);
    right.then(|| (flush, serde_json::from_slice(changes).ok()))
}

/// What stands behind the checksum of a line that is on the disk soon; of others it is a blank.
const SOON: u8 = b'~';

fn header(Base { number, sum }: Base) -> String {
    format!("{START}{number} crc32={sum:08x}\n")
}

impl Journal {
    /// Opens or makes the file, whose name is not flushed to the disk yet.
    pub fn open(path: &Path) -> io::Result<Journal> {
        let mut options = OpenOptions::new();
        let file = Arc::new(options.write(true).create(true).truncate(false).mode(0o640).open(path)?);
        let (flusher, asked) = sync_channel(1);
        let failed = Arc::new(AtomicBool::new(false));
        let (same, report) = (Arc::clone(&file), Arc::clone(&failed));
        let flush = move || {
            while asked.recv().is_ok() {
                if same.sync_data().is_err() {
                    report.store(true, Ordering::Release);
                }
            }
        };
        std::thread::Builder::new().name("weft-journal".into()).spawn(flush)?;
        Ok(Journal { file, length: 0, empty: 0, limit: SHORT, flusher, failed })
    }

    /// Empties it: it goes on from that state file, which has `size` octets and is on the disk. Needs no flush: until it is one, the old one is there,
    /// and goes on from another.
    pub fn restart(&mut self, base: Base, size: usize) -> io::Result<()> {
        self.length = 0;
        self.limit = (size as u64).clamp(SHORT, MAX);
        self.file.set_len(0)?;
        self.failed.store(false, Ordering::Release);
        self.write(header(base).as_bytes())?;
        self.empty = self.length;
        Ok(())
    }

    /// Whether there is no change in it.
    pub fn is_empty(&self) -> bool {
        self.length == self.empty && !self.has_failed()
    }

    /// Whether what was appended may not be on the disk.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether this is to be appended, or the state file to be written instead.
    pub fn takes(&self, line: &[u8]) -> bool {
        !self.has_failed() && self.length + line.len() as u64 <= self.limit
    }

    /// Whether it is well on its way to be written anew.
    pub fn is_long(&self) -> bool {
        self.length > self.limit / 2
    }

    /// Appends a transaction, whole or not at all.
    pub fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let before = self.length;
        let written = self.write(line);
        if written.is_err() {
            self.cut(before);
        }
        written
    }

    /// When it returns, all that was appended is on the disk.
    pub fn flush(&self) -> io::Result<()> {
        // The kernel says so once: what was to be on the disk soon may be lost as well.
        self.file.sync_data().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    /// All that was appended is on the disk soon.
    pub fn flush_soon(&self) {
        match self.flusher.try_send(()) {
            // It begins with a flush after this moment anyway.
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => self.failed.store(true, Ordering::Release),
        }
    }

    /// Takes back what was appended behind `length`.
    pub fn cut(&mut self, length: u64) {
        self.length = length;
        if self.file.set_len(length).is_err() {
            self.failed.store(true, Ordering::Release);
        }
    }

    /// How long it is.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        let mut file: &File = &self.file;
        file.seek(io::SeekFrom::Start(self.length))?;
        file.write_all(octets)?;
        self.length += octets.len() as u64;
        Ok(())
    }
}

/// A transaction as a line.
pub(super) fn line(changes: &[Change], flush: Flush) -> Vec<u8> {
    let text = match serde_json::to_string(changes) {
        Ok(text) => text,
        Err(error) => unreachable!("changes have string keys and plain numbers only: {error}"),
    };
    let mark = if flush == Flush::Soon { char::from(SOON) } else { ' ' };
    format!("{:08x}{mark}{text}\n", crc32(text.as_bytes())).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(number: u32) -> Vec<Change> {
        let text = format!(r#"[{{"acl_member_add":{{"group":"web","member":"10.0.0.{number}"}}}}]"#);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn journal(base: Base) -> Vec<u8> {
        let lines = [1, 2].map(|number| line(&changes(number), Flush::First));
        [header(base).into_bytes(), lines.concat()].concat()
    }

    const BASE: Base = Base { number: 7, sum: 0x1234 };

    #[test]
    fn wherever_a_journal_is_cut_its_whole_lines_count() {
        let whole = journal(BASE);
        let first = header(BASE).len() + line(&changes(1), Flush::First).len();
        for cut in 0..=whole.len() {
            let read = read(&whole[..cut], BASE).unwrap_or_else(|why| panic!("{cut}: {why}"));
            let expected = if cut == whole.len() { 2 } else { usize::from(cut >= first) };
            assert_eq!(read.transactions.len(), expected, "{cut}");
            let torn = cut.saturating_sub(if expected == 0 { header(BASE).len() } else { first });
            assert_eq!(read.torn, if expected == 2 { 0 } else { torn }, "{cut}");
        }
    }

    #[test]
    fn a_torn_end_is_left_out_and_a_damaged_middle_is_an_error() {
        let whole = journal(BASE);
        let first = header(BASE).len();
        for at in first..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 4;
            // Without the end of the first line, both are one.
            let end = first + line(&changes(1), Flush::First).len() - 1;
            if at == end {
                assert_eq!(read(&bad, BASE).map(|read| read.transactions.len()), Ok(0));
                continue;
            }
            let in_first = at < end;
            match read(&bad, BASE) {
                Ok(read) => assert!(!in_first && read.transactions.len() == 1 && read.torn > 0, "{at}"),
                Err(why) => assert!(in_first && why == GAP, "{at}"),
            }
        }
        let zeros = [&whole[..], &[0; 4096]].concat();
        let read = read(&zeros, BASE).unwrap_or_default();
        assert_eq!((read.transactions.len(), read.torn), (2, 4096));
    }

    #[test]
    fn behind_damage_what_was_to_be_on_the_disk_soon_is_left_out_and_what_was_there_first_shows_a_gap() {
        for (last, expected) in [(Flush::Soon, true), (Flush::First, false)] {
            let flushes = [Flush::First, Flush::Soon, last];
            let lines = flushes.map(|flush| line(&changes(1), flush));
            let mut whole = [header(BASE).into_bytes(), lines.concat()].concat();
            assert_eq!(read(&whole, BASE).unwrap_or_default().transactions.len(), 3);
            let length = whole.len();
            whole[length - lines[2].len() - 20] ^= 4;
            match read(&whole, BASE) {
                Ok(read) => assert!(
                    expected && read.transactions.len() == 1 && read.torn == 2 * lines[2].len(),
                    "{read:?}"
                ),
                Err(why) => assert!(!expected && why == GAP, "{why}"),
            }
        }
    }

    #[test]
    fn a_change_of_another_version_that_was_acknowledged_is_not_taken_for_a_torn_one() {
        let strange = r#"[{"acl_member_praise":{"group":"web"}}]"#;
        let line = format!("{:08x} {strange}\n", crc32(strange.as_bytes()));
        let whole = [journal(BASE), line.into_bytes()].concat();
        assert_eq!(read(&whole, BASE).map(|_| ()), Err(STRANGE));
    }

    #[test]
    fn a_journal_of_another_state_says_nothing() {
        for other in [Base { number: 8, ..BASE }, Base { sum: 0, ..BASE }] {
            let read = read(&journal(other), BASE).unwrap_or_default();
            assert_eq!((read.transactions.len(), read.torn), (0, 0));
        }
    }
}
