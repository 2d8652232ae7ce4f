//! The state: the truth about a switch between two runs of it.
//!
//! A [`Store`] owns a state folder by a lock (flock(2)) for as long as it lives; the kernel gives the lock back when the
//! process ends, however it ends. In it are the *state file* and its *journal* (`store/journal.rs`): changes since the file was
//! written. The file is replaced, never written in place: write a temporary file, flush it to disk, rename it over the old one,
//! flush the folder. Whenever the machine stops, the file is the old one or the new one. A change is a line appended to the
//! journal, until that is long; then, best while nobody asks for anything, the file is written anew, and the journal begins again. If the folder can't be flushed,
//! the old file takes its place again, because what was refused is not to come back.
//!
//! When [`Store::save`] or [`Store::keep`] has returned, the change survives this process, however it ends. It survives the
//! machine as well, but for [`Flush::Soon`]: that says that it does as soon as the disk has followed.
//!
//! The file is the TOML of the configuration with its number in front and a last line that holds its checksum: a file that was
//! cut short can still be correct TOML, and must not be taken for a switch with fewer ports.

mod journal;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::change::{Change, ChangeError};
use crate::model::Config;
use crate::source::ConfigError;
use journal::{Base, Journal};

/// The state file's name in its folder.
pub const STATE_FILE: &str = "state.toml";
/// The journal's name in its folder.
pub const JOURNAL_FILE: &str = "state.journal";
const NUMBER: &str = "# state ";
const TEMPORARY: &str = "state.toml.new";
/// The state file before, while another takes its place.
const BEFORE: &str = "state.toml.old";
const LOCK_FILE: &str = "lock";
const HEADER: &str =
    "# The state of a weft switch. Change it by 'weftctl', not here: the last line is a checksum.\n";
const TRAILER: &str = "# end crc32=";

/// Why the state can't be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the folder.
    #[error("the state folder {} is in use by another weftd{}", .folder.display(), holder(.pid))]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The other process, when it left its number.
        pid: Option<u32>,
    },
    /// The system refused.
    #[error("{}: can't {doing}: {source}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk has not confirmed a state file that was in its place already.
    #[error("{}: can't flush: {source}; {}", .folder.display(), aftermath(*.undone))]
    Unconfirmed {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
        /// Whether the file before is in its place again.
        undone: bool,
    },
    /// The state file is not one that a [`Store`] wrote.
    #[error("{}: the state file is damaged: {why}; restore a copy of it, or move it away and start with a seed", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The journal is not one that a [`Store`] wrote.
    #[error("{}: the journal is damaged: {why}; moved away, the switch is as the state file beside it says", .path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The state file, or the file that seeds it, is not a configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file that seeds the state has too many ports.
    #[error(transparent)]
    Seed(#[from] ChangeError),
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or(String::new(), |pid| format!(" (process {pid})"))
}

fn aftermath(undone: bool) -> &'static str {
    match undone {
        true => {
            "the state file before is in its place again, but until a flush succeeds a power cut may bring back what is refused now"
        }
        false => {
            "the state file before can't be put back either: a start of weftd would find what is refused now"
        }
    }
}

/// When a change has to be on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Before anybody is told.
    First,
    /// As soon as the disk can. A machine that stops before that, for want of power, say, loses it.
    Soon,
}

/// A state folder that is ours.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// The state file that is there.
    base: Base,
    /// None before something is saved, or if it can't be had: then everything is saved whole.
    journal: Option<Journal>,
    /// What was found at the journal's end.
    torn: usize,
    /// The disk may have another state file than the one that is there: everything is saved whole until one is confirmed.
    doubtful: bool,
    /// Something was kept since [`Store::rest`] was called.
    stirred: bool,
    /// Something was kept since [`Store::rest`] has looked at the journal.
    unseen: bool,
    /// Flushes the folder. Tests have a disk that refuses.
    flush: fn(&File) -> io::Result<()>,
    /// Closing it gives the lock back.
    _lock: File,
}

impl Store {
    /// Makes the folder if need be and takes it for this process.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(folder);
        made.map_err(failed("make the folder", folder))?;
        let path = folder.join(LOCK_FILE);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(&path)
            .map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { folder: folder.to_owned(), pid: read_pid(&mut lock) });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        let written =
            lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
        written.map_err(failed("write", &path))?;
        Ok(Store {
            folder: folder.to_owned(),
            base: Base::default(),
            journal: None,
            torn: 0,
            doubtful: false,
            stirred: false,
            unseen: false,
            flush: File::sync_all,
            _lock: lock,
        })
    }

    /// The state file's path.
    pub fn path(&self) -> PathBuf {
        self.folder.join(STATE_FILE)
    }

    /// What was kept last; `None` when nothing ever was. A file that can't be trusted is an error.
    pub fn load(&mut self) -> Result<Option<Config>, StoreError> {
        let path = self.path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(StoreError::Damaged { path, why: "it is not UTF-8 text" });
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let sum = check(&text).map_err(|why| StoreError::Damaged { path: path.clone(), why })?;
        self.base = Base { number: number_of(&text), sum };
        let mut config = Config::from_toml(&text, &path.display().to_string())?;
        self.go_on(&mut config)?;
        Ok(Some(config))
    }

    /// Adds what the journal says.
    fn go_on(&mut self, config: &mut Config) -> Result<(), StoreError> {
        let path = self.folder.join(JOURNAL_FILE);
        let octets = match fs::read(&path) {
            Ok(octets) => octets,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let damaged =
            |why: &dyn std::fmt::Display| StoreError::Journal { path: path.clone(), why: why.to_string() };
        let found = journal::read(&octets, self.base).map_err(|why| damaged(&why))?;
        self.torn = found.torn;
        for changes in &found.transactions {
            config.follow(changes).map_err(|error| damaged(&error))?;
        }
        config.validate().map_err(|error| damaged(&error))
    }

    /// How many octets of a change that nobody was told of were found when the state was loaded.
    pub fn torn(&self) -> usize {
        self.torn
    }

    /// What was saved last; when nothing ever was, the `seed` (nothing at all without one), which is then saved.
    pub fn load_or_seed(&mut self, seed: Option<&Path>) -> Result<Config, StoreError> {
        if let Some(config) = self.load()? {
            return Ok(config);
        }
        let seeded = match seed {
            Some(path) => {
                let text = fs::read_to_string(path).map_err(failed("read", path))?;
                Config::from_toml(&text, &path.display().to_string())?
            }
            None => Config::default(),
        };
        let config = seeded.complete(&Config::default())?;
        self.save(&config)?;
        Ok(config)
    }

    /// Keeps the configuration whole: when this returns without an error, it survives whatever stops the machine. If it
    /// returns one, what was kept last is what is found again, unless the error says otherwise.
    pub fn save(&mut self, config: &Config) -> Result<(), StoreError> {
        let number = self.base.number + 1;
        let (text, sum) = render(config, number);
        // Its name reaches the disk with the state file's.
        let fresh = match self.journal {
            Some(_) => None,
            None => Journal::open(&self.folder.join(JOURNAL_FILE)).ok(),
        };
        if let Err(error) = self.replace(&text) {
            if let StoreError::Unconfirmed { undone, .. } = error {
                self.doubtful = true;
                self.journal = self.journal.take().filter(|_| undone);
            }
            return Err(error);
        }
        self.doubtful = false;
        self.base = Base { number, sum };
        // Without a journal, the next change is saved whole as well.
        let journal = self.journal.take().or(fresh);
        self.journal =
            journal.and_then(|mut journal| journal.restart(self.base, text.len()).map(|()| journal).ok());
        Ok(())
    }

    /// Replaces the state file. An error leaves the one before in its place, or says that it doesn't.
    fn replace(&self, text: &str) -> Result<(), StoreError> {
        let path = self.path();
        let [temporary, before] = [TEMPORARY, BEFORE].map(|name| self.folder.join(name));
        write_through(&temporary, text).map_err(failed("write", &temporary))?;
        let folder = File::open(&self.folder).map_err(failed("open", &self.folder))?;
        let way_back = put_aside(&path, &before);
        fs::rename(&temporary, &path).map_err(failed("replace", &path))?;
        let Err(source) = (self.flush)(&folder) else {
            let _ = fs::remove_file(&before);
            return Ok(());
        };
        let undone = way_back.and_then(|existed| match existed {
            true => fs::rename(&before, &path),
            false => fs::remove_file(&path),
        });
        // If the disk takes this, not even a power cut brings the other one back. Nobody can rely on it.
        let _ = (self.flush)(&folder);
        Err(StoreError::Unconfirmed { folder: self.folder.clone(), source, undone: undone.is_ok() })
    }

    /// Keeps `changes`, which have made what was kept last into `next`.
    pub fn keep(&mut self, changes: &[Change], next: &Config, flush: Flush) -> Result<(), StoreError> {
        (self.stirred, self.unseen) = (true, true);
        let line = journal::line(changes, flush);
        if let Some(journal) = self.journal.as_mut().filter(|journal| !self.doubtful && journal.takes(&line))
        {
            let before = journal.length();
            let kept = journal.append(&line).and_then(|()| match flush {
                Flush::First => journal.flush(),
                Flush::Soon => {
                    journal.flush_soon();
                    Ok(())
                }
            });
            match kept {
                Ok(()) => return Ok(()),
                Err(_) => journal.cut(before),
            }
        }
        self.save(next)
    }

    /// Whether the disk has refused something that was to be on it soon, or may have what was refused: [`Store::settle`] is
    /// to try again.
    pub fn is_behind(&self) -> bool {
        self.doubtful || self.journal.as_ref().is_some_and(Journal::has_failed)
    }

    /// To be called now and then: if nothing was kept since the last time, and the journal is half as long as it may be,
    /// the state file is written anew. So nobody waits for that who changes something, unless changes come all the time.
    /// Whether it was written.
    pub fn rest(&mut self, config: &Config) -> Result<bool, StoreError> {
        if std::mem::take(&mut self.stirred) || !std::mem::take(&mut self.unseen) {
            return Ok(false);
        }
        match self.journal.as_ref().is_some_and(Journal::is_long) {
            true => self.save(config).map(|()| true),
            false => Ok(false),
        }
    }

    /// Makes the state file all that there is: for whoever reads it, or another version of weft.
    pub fn settle(&mut self, config: &Config) -> Result<(), StoreError> {
        let is_settled = !self.doubtful && self.journal.as_ref().is_some_and(Journal::is_empty);
        if is_settled { Ok(()) } else { self.save(config) }
    }
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { doing, path: path.to_owned(), source }
}

fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Gives the file a second name; false if there is none.
fn put_aside(path: &Path, before: &Path) -> io::Result<bool> {
    match fs::remove_file(before) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Some file systems have no second names.
    let kept = fs::hard_link(path, before).or_else(|_| fs::copy(path, before).map(|_| ()));
    match kept {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_through(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The text of state file `number`, and its checksum.
fn render(config: &Config, number: u64) -> (String, u32) {
    let mut text = format!("{HEADER}{NUMBER}{number}\n{}", config.to_toml());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let sum = crc32(text.as_bytes());
    (format!("{text}{TRAILER}{sum:08x}\n"), sum)
}

/// The number in a state file; one that was written without is the first.
fn number_of(text: &str) -> u64 {
    let line =
        text.lines().take_while(|line| line.starts_with('#')).find_map(|line| line.strip_prefix(NUMBER));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Checks the last line against the rest; the checksum.
fn check(text: &str) -> Result<u32, &'static str> {
    let Some(start) = text.rfind(TRAILER).filter(|_| text.ends_with('\n')) else {
        return Err("its end is missing");
    };
    let (body, trailer) = text.split_at(start);
    let sum = trailer.trim_start_matches(TRAILER).trim_end_matches('\n');
    match u32::from_str_radix(sum, 16) {
        Ok(sum) if sum == crc32(body.as_bytes()) => Ok(sum),
        _ => Err("its checksum is wrong"),
    }
}

/// The CRC of IEEE 802.3 (reflected, polynomial 0xedb88320), octet by octet: a state file may have thousands of ports.
fn crc32(octets: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut octet = 0;
        while octet < 256 {
            let (mut sum, mut bit) = (octet as u32, 0);
            while bit < 8 {
                sum = (sum >> 1) ^ (0xedb8_8320 * (sum & 1));
                bit += 1;
            }
            table[octet] = sum;
            octet += 1;
        }
        table
    };
    !octets.iter().fold(u32::MAX, |sum, octet| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ octet)])
}

#[cfg(test)]
mod tests;
