//! What can go wrong between weft and the kernel's netlink sockets.

use std::io;

use crate::netns::NetnsError;

/// A request that the kernel refused, or a conversation that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel understood the request and answered with an error.
    #[error("{operation}: {}", reason(*.errno, .detail))]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// The error number, positive (errno(3)).
        errno: i32,
        /// What the kernel said beside the number; often empty.
        detail: String,
    },
    /// A system call on the socket failed.
    #[error("{operation}: {}", reason(*.errno, ""))]
    Socket {
        /// The system call, or what it was for.
        operation: &'static str,
        /// The error number (errno(3)).
        errno: i32,
    },
    /// The kernel did not answer in time.
    #[error("{operation}: no answer from the kernel within {milliseconds} ms")]
    Timeout {
        /// What was asked for.
        operation: &'static str,
        /// How long the answer was waited for.
        milliseconds: u128,
    },
    /// A message is shorter than it says, or lacks what it must have.
    #[error("malformed netlink message: {what}, {length} octets")]
    Malformed {
        /// The part that is wrong.
        what: &'static str,
        /// The octets that were there.
        length: usize,
    },
    /// There is no device of that name.
    #[error("no network device '{0}'")]
    NoDevice(String),
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

impl NetlinkError {
    /// The error of the last system call.
    pub(super) fn socket(operation: &'static str, error: &io::Error) -> Self {
        NetlinkError::Socket { operation, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }

    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { errno, .. } | NetlinkError::Socket { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// An error number in words, with the kernel's own words after it.
pub(super) fn reason(errno: i32, detail: &str) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    // The standard library adds " (os error N)", which says nothing more to a reader.
    let words = text.split(" (os error").next().unwrap_or(&text);
    if detail.is_empty() { words.to_owned() } else { format!("{words} ({detail})") }
}
