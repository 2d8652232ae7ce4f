//! Network namespaces: running something in one, and finding them.
//!
//! A device or a socket belongs to the namespace in which it was made. Entering a namespace changes the calling
//! thread, so it is done on a short-lived thread, and the caller's never changes ([`Netns::run`]). What such a thread
//! hands back (a tap's descriptor, a socket) stays in that namespace, and is used from any thread afterwards.
//!
//! Control plane only; a descriptor of a namespace keeps it alive, so hold none longer than needed.
//! References: namespaces(7), network_namespaces(7), setns(2), ip-netns(8).

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::sys;

/// Where `ip netns` keeps its names.
const NAMED: &str = "/var/run/netns";

/// A network namespace can't be found or entered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetnsError {
    /// The name can't be one of `ip netns`.
    #[error("'{0}' is not a network namespace's name: 1 to 255 characters without '/'")]
    InvalidName(String),
    /// There is none of that name, or it can't be opened.
    #[error("network namespace '{name}': {}", io::Error::from_raw_os_error(*.errno))]
    Open {
        /// The name, or the path.
        name: String,
        /// The error number (errno(3)).
        errno: i32,
    },
    /// It can't be entered, or no thread can be started for it.
    #[error("{netns} can't be entered: {}", io::Error::from_raw_os_error(*.errno))]
    Enter {
        /// Which one.
        netns: String,
        /// The error number (errno(3)).
        errno: i32,
    },
}

/// What tells two network namespaces apart (the device and inode number of their file).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
    /// The name under which it was found, if that was one of `ip netns`.
    name: Option<String>,
}

impl Netns {
    /// The namespace that `ip netns` knows as `name`.
    pub fn open(name: &str) -> Result<Self, NetnsError> {
        if name.is_empty() || name.len() > 255 || name.contains(['/', '\0']) || name == "." || name == ".." {
            return Err(NetnsError::InvalidName(name.to_owned()));
        }
        let mut netns = Self::open_path(&Path::new(NAMED).join(name))
            .map_err(|error| NetnsError::Open { name: name.to_owned(), errno: errno(&error) })?;
        netns.name = Some(name.to_owned());
        Ok(netns)
    }

    /// The namespace of `name`, or the caller's own.
    pub fn open_or_current(name: Option<&str>) -> Result<Self, NetnsError> {
        match name {
            Some(name) => Self::open(name),
            None => Self::current(),
        }
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self, NetnsError> {
        const PATH: &str = "/proc/thread-self/ns/net";
        Self::open_path(Path::new(PATH))
            .map_err(|error| NetnsError::Open { name: PATH.to_owned(), errno: errno(&error) })
    }

    /// The namespace that `fd` refers to (a file of /proc/PID/ns or of /var/run/netns).
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let meta = file.metadata()?;
        let id = NetnsId { device: meta.dev(), inode: meta.ino() };
        Ok(Netns { fd: file.into(), id, name: None })
    }

    /// The namespace in which the device of an attached tap is now.
    pub fn of_tap(tap: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: TUNGETDEVNETNS takes no argument.
        let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETDEVNETNS) };
        // SAFETY: it returns an error or a new descriptor of the namespace.
        Self::from_fd(unsafe { sys::own(result) }?)
    }

    /// The namespace in which a socket was made.
    pub fn of_socket(socket: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: SIOCGSKNS takes no argument.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGSKNS as libc::Ioctl) };
        // SAFETY: it returns an error or a new descriptor of the namespace.
        Self::from_fd(unsafe { sys::own(result) }?)
    }

    /// Whether the caller, a name of `ip netns` or a process has it: if not, only descriptors keep it alive. Reads /proc.
    pub fn is_inhabited(&self) -> bool {
        all().any(|other| other.id == self.id)
    }

    /// What tells it apart from others.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The name that `ip netns` has for it, if any.
    pub fn name(&self) -> Option<String> {
        self.name.clone().or_else(|| named().find(|named| named.id == self.id)?.name)
    }

    /// Runs `work` on a thread of its own in this namespace and returns its result. The caller's thread stays where
    /// it is.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let failed = |error: io::Error| NetnsError::Enter { netns: self.to_string(), errno: errno(&error) };
        std::thread::scope(|scope| {
            let inside = || self.enter().map(|()| work());
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside);
            match thread.map_err(failed)?.join() {
                Ok(result) => result.map_err(failed),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs `work` in `netns`, or where the caller is when that is `None`.
    pub(crate) fn run_in<T: Send>(
        netns: Option<&Netns>,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, NetnsError> {
        match netns {
            Some(netns) => netns.run(work),
            None => Ok(work()),
        }
    }

    /// Moves the calling thread into the namespace.
    fn enter(&self) -> io::Result<()> {
        // SAFETY: setns() has no memory arguments; it changes nothing but the calling thread's namespace.
        sys::check(unsafe { libc::setns(self.fd.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
    }

    fn open_path(path: &Path) -> io::Result<Self> {
        // Non-blocking: opening must return even if somebody put a FIFO there.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        Self::from_fd(file.into())
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(out, "network namespace '{name}'"),
            None => write!(out, "network namespace {}", self.id.inode),
        }
    }
}

/// What `ip netns` knows as `name` now; `None` if it knows no such namespace.
pub fn id_of_name(name: &str) -> Option<NetnsId> {
    let meta = std::fs::metadata(Path::new(NAMED).join(name)).ok()?;
    Some(NetnsId { device: meta.dev(), inode: meta.ino() })
}

/// The names that `ip netns` has, sorted.
fn list_named() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(NAMED)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// The named namespaces that can be opened, in the order of their names.
fn named() -> impl Iterator<Item = Netns> {
    list_named().into_iter().filter_map(|name| Netns::open(&name).ok())
}

/// Every namespace that can be found, each once: the caller's own, the named ones, those of all processes.
///
/// One that cannot be opened, or that goes at this moment, is passed over.
pub fn all() -> impl Iterator<Item = Netns> {
    let mut seen = std::collections::HashSet::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        Netns::open_path(&entry.path().join("ns/net")).ok()
    });
    Netns::current().into_iter().chain(named()).chain(processes).filter(move |netns| seen.insert(netns.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Sandbox, root};

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["", ".", "..", "../../etc/passwd", "a/b", "a\0b", &"x".repeat(256)] {
            assert!(matches!(Netns::open(name), Err(NetnsError::InvalidName(_))), "{name}");
        }
        let absent = Netns::open("kn-no-such-namespace").expect_err("it isn't there");
        assert!(absent.to_string().contains("'kn-no-such-namespace': No such file"), "{absent}");
    }

    #[test]
    fn work_runs_inside_and_the_caller_stays_outside() {
        if !root("work_runs_inside_and_the_caller_stays_outside") {
            return;
        }
        let sandbox = Sandbox::new(&["in"]);
        let before = Netns::current().unwrap().id();
        let netns = Netns::open(&sandbox.name("in")).unwrap();
        let inside = netns.run(|| Netns::current().unwrap()).unwrap();
        assert_eq!((inside.id(), inside.name()), (netns.id(), Some(sandbox.name("in"))));
        assert_ne!(netns.id(), before);
        assert_eq!(Netns::current().unwrap().id(), before);
        let socket = netns.run(|| sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)).unwrap().unwrap();
        assert_eq!(Netns::of_socket(socket.as_fd()).unwrap().id(), netns.id());
        assert_eq!(all().filter(|found| found.id() == netns.id()).count(), 1);
        assert_eq!(all().filter(|found| found.id() == before).count(), 1);
    }

    #[test]
    fn a_file_that_is_no_namespace_cannot_be_entered() {
        let file = File::open("/dev/null").unwrap();
        let netns = Netns::from_fd(file.into()).unwrap();
        let refused = netns.run(|| ()).unwrap_err();
        assert!(matches!(refused, NetnsError::Enter { .. }));
        assert!(refused.to_string().contains("can't be entered: Invalid argument"), "{refused}");
    }
}
