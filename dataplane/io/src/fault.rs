//! What an `errno` of the packet path means: for the packet, and for the queue.

use weft_wire::DropReason;

use crate::queue::QueueFault;

/// What is wrong with a kernel-device queue, as its system calls have told so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum FaultState {
    #[default]
    Works,
    Down,
    Gone,
    Other(i32),
}

impl FaultState {
    /// A call has succeeded. A device that was gone stays so: its queue has to be opened again.
    #[inline]
    pub(crate) fn works(&mut self) {
        if *self != FaultState::Gone {
            *self = FaultState::Works;
        }
    }

    /// A call has failed.
    #[cold]
    pub(crate) fn failed(&mut self, errno: i32) {
        match (errno, &self) {
            (_, FaultState::Gone) => {}
            (libc::EBADFD | libc::ENODEV | libc::ENXIO, _) => *self = FaultState::Gone,
            // What a tun device says, and what a packet socket says.
            (libc::EIO | libc::ENETDOWN, _) => *self = FaultState::Down,
            // The moment's or the packet's trouble, not the queue's.
            (
                libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM | libc::EINVAL | libc::EMSGSIZE,
                _,
            ) => {}
            _ => *self = FaultState::Other(errno),
        }
    }

    pub(crate) fn is_gone(self) -> bool {
        self == FaultState::Gone
    }

    pub(crate) fn is_down(self) -> bool {
        self == FaultState::Down
    }

    pub(crate) fn fault(self) -> Option<QueueFault> {
        match self {
            FaultState::Works => None,
            FaultState::Down => Some(QueueFault::DeviceDown),
            FaultState::Gone => Some(QueueFault::DeviceGone),
            FaultState::Other(errno) => {
                Some(QueueFault::Os(std::io::Error::from_raw_os_error(errno).to_string()))
            }
        }
    }
}

/// Why a packet that the kernel didn't take is dropped.
pub(crate) fn tx_drop_reason(errno: i32) -> DropReason {
    match errno {
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => DropReason::TxRingFull,
        libc::EMSGSIZE => DropReason::TxTooBig,
        libc::EBADFD | libc::ENODEV | libc::ENXIO | libc::EIO | libc::ENETDOWN => DropReason::TxPortDown,
        _ => DropReason::TxError,
    }
}
