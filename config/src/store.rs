//! The state file: the truth about a switch between two runs of it.
//!
//! A [`Store`] owns a state folder by a lock (flock(2)) for as long as it lives; the kernel gives the lock back when the
//! process ends, however it ends. The file is replaced, never written in place: write a temporary file, flush it to
//! disk, rename it over the old one, flush the folder. Whenever the machine stops, the file is the old one or the new
//! one. When [`Store::save`] has returned, it is the new one.
//!
//! The file is the TOML of the configuration with a last line that holds its checksum: a file that was cut short can
//! still be correct TOML, and must not be taken for a switch with fewer ports.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::change::ChangeError;
use crate::model::Config;
use crate::source::ConfigError;

/// The state file's name in its folder.
pub const STATE_FILE: &str = "state.toml";
const TEMPORARY: &str = "state.toml.new";
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
    /// The state file is not one that a [`Store`] wrote.
    #[error("{}: the state file is damaged: {why}; restore a copy of it, or move it away and start with a seed", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
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

/// A state folder that is ours.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
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
        Ok(Store { folder: folder.to_owned(), _lock: lock })
    }

    /// The state file's path.
    pub fn path(&self) -> PathBuf {
        self.folder.join(STATE_FILE)
    }

    /// What was saved last; `None` when nothing ever was. A file that can't be trusted is an error.
    pub fn load(&self) -> Result<Option<Config>, StoreError> {
        let path = self.path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(StoreError::Damaged { path, why: "it is not UTF-8 text" });
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if let Err(why) = check(&text) {
            return Err(StoreError::Damaged { path, why });
        }
        Ok(Some(Config::from_toml(&text, &path.display().to_string())?))
    }

    /// What was saved last; when nothing ever was, the `seed` (nothing at all without one), which is then saved.
    pub fn load_or_seed(&self, seed: Option<&Path>) -> Result<Config, StoreError> {
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

    /// Keeps the configuration: when this returns without an error, it survives whatever stops the machine.
    pub fn save(&self, config: &Config) -> Result<(), StoreError> {
        let path = self.path();
        let temporary = self.folder.join(TEMPORARY);
        write_through(&temporary, &render(config)).map_err(failed("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(failed("replace", &path))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed("flush", &self.folder))
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

fn write_through(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn render(config: &Config) -> String {
    let mut text = format!("{HEADER}{}", config.to_toml());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let sum = crc32(text.as_bytes());
    format!("{text}{TRAILER}{sum:08x}\n")
}

/// Checks the last line against the rest.
fn check(text: &str) -> Result<(), &'static str> {
    let Some(start) = text.rfind(TRAILER).filter(|_| text.ends_with('\n')) else {
        return Err("its end is missing");
    };
    let (body, trailer) = text.split_at(start);
    let sum = trailer.trim_start_matches(TRAILER).trim_end_matches('\n');
    match u32::from_str_radix(sum, 16) {
        Ok(sum) if sum == crc32(body.as_bytes()) => Ok(()),
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
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_ethernet() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
