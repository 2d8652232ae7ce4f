//! What a run needs of a socket.

use std::io;
use std::time::Duration;

/// Frames handed over at once.
pub const BURST: usize = 64;

/// A socket on one device.
pub trait Port {
    /// Sends frames of `size` octets each, which lie end to end in `frames`, at most [`BURST`] of them. Returns how many
    /// the kernel took, from the first on; 0 means "try again".
    ///
    /// # Errors
    /// What the kernel says, when trying again would not help.
    fn send(&mut self, frames: &[u8], size: usize) -> io::Result<usize>;

    /// Waits for frames, at most `wait`, and shows each of up to [`BURST`] to `each`. Returns how many there were.
    ///
    /// # Errors
    /// What the kernel says.
    fn receive(&mut self, wait: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize>;

    /// Waits, for a bounded time, until the kernel has let go of all frames that it took.
    ///
    /// # Errors
    /// What the kernel says.
    fn flush(&mut self) -> io::Result<()>;

    /// Frames that this socket lost because nobody fetched them in time, since it was opened.
    ///
    /// # Errors
    /// What the kernel says.
    fn receiver_drops(&mut self) -> io::Result<u64>;
}
