//! The control socket's file: made for its group only, taken over from a daemon that is dead, never from one that lives.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use mio::net::UnixListener;

/// Why the control socket can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A daemon listens there.
    #[error("{}: another weftd listens on this control socket", .0.display())]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("{}: exists and is not a socket; the control socket needs a name of its own", .0.display())]
    NotASocket(PathBuf),
    /// There is no such group of users.
    #[error("there is no group '{0}' in {GROUPS}: expected a name from there, or a number")]
    NoSuchGroup(String),
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
}

const GROUPS: &str = "/etc/group";

/// A listening socket and its file, which goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: the file at `path` may be another's by the time it goes.
    file: (u64, u64),
}

impl ControlSocket {
    /// Listens at `path`, mode 0660, for `group` as well when there is one. Makes the folder if need be.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let gid = group.map(find_group).transpose()?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
        }
        check_free(path)?;
        // Made under another name, so that nobody meets a socket whose permissions are not yet what they will be.
        let hidden = path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden).map_err(failed("listen", path))?;
        let placed = place(&hidden, path, gid);
        if placed.is_err() {
            let _ = fs::remove_file(&hidden);
        }
        Ok(ControlSocket { listener, path: path.to_owned(), file: placed? })
    }

    /// The socket's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn listener(&mut self) -> &mut UnixListener {
        &mut self.listener
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("{}: can't remove the control socket: {error}", self.path.display());
        }
    }
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SocketError + 'a {
    move |source| SocketError::Io { doing, path: path.to_owned(), source }
}

/// Refuses a path where somebody listens or where something else is.
fn check_free(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look", path)(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("find out whether somebody listens", path)(error)),
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

/// Gives the file its group, mode and name; the result is its device and inode.
fn place(hidden: &Path, path: &Path, gid: Option<u32>) -> Result<(u64, u64), SocketError> {
    chown(hidden, None, gid).map_err(failed("give to the group", path))?;
    fs::set_permissions(hidden, fs::Permissions::from_mode(0o660)).map_err(failed("set the mode", path))?;
    let file = fs::symlink_metadata(hidden).map_err(failed("look", path))?;
    fs::rename(hidden, path).map_err(failed("make", path))?;
    Ok((file.dev(), file.ino()))
}

/// The group's number, by its name in /etc/group (group(5)) or as a number.
fn find_group(name: &str) -> Result<u32, SocketError> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let groups = fs::read_to_string(GROUPS).map_err(failed("read", Path::new(GROUPS)))?;
    let gid = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    gid.ok_or_else(|| SocketError::NoSuchGroup(name.to_owned()))
}
