//! A packet put together from pieces of any length, in as many frames as it takes.

use weft_wire::DropReason;

use crate::packet::Packet;
use crate::pool::FrameCache;

/// A packet being put together. Its last frame is not yet in the chain, because more may go into it.
#[derive(Debug)]
pub(crate) struct Assembly {
    head: Packet,
    tail: Option<Packet>,
}

impl Assembly {
    /// Goes on behind what `head` has.
    pub(crate) fn new(head: Packet) -> Self {
        Assembly { head, tail: None }
    }

    /// Appends octets. After an error the packet is as it was, or has some of them; give it back by
    /// [`Assembly::abandon`].
    #[inline]
    pub(crate) fn append(&mut self, octets: &[u8], frames: &mut FrameCache) -> Result<(), DropReason> {
        let mut rest = octets;
        loop {
            // A frame with continuations has no place for more.
            let open = self.tail.is_some() || self.head.continuations() == 0;
            let frame = self.tail.as_mut().unwrap_or(&mut self.head);
            let room = if open { frame.tailroom() } else { 0 };
            let (now, later) = rest.split_at(rest.len().min(room));
            if open {
                // It fits: now is no longer than the tailroom.
                let _ = frame.append(now);
            }
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
            self.close_tail(frames)?;
            self.tail = Some(whole_frame(frames).ok_or(DropReason::RxNoFrame)?);
        }
    }

    /// The packet.
    #[inline]
    pub(crate) fn finish(mut self, frames: &mut FrameCache) -> Result<Packet, DropReason> {
        match self.close_tail(frames) {
            Ok(()) => Ok(self.head),
            Err(reason) => {
                frames.free(self.head);
                Err(reason)
            }
        }
    }

    /// Gives the frames back.
    pub(crate) fn abandon(self, frames: &mut FrameCache) {
        frames.free(self.head);
        if let Some(tail) = self.tail {
            frames.free(tail);
        }
    }

    fn close_tail(&mut self, frames: &mut FrameCache) -> Result<(), DropReason> {
        match self.tail.take() {
            Some(tail) => push(&mut self.head, tail, frames),
            None => Ok(()),
        }
    }
}

/// An empty packet whose data starts where its frame does: continuation frames need no headroom.
pub(crate) fn whole_frame(frames: &mut FrameCache) -> Option<Packet> {
    let mut packet = frames.alloc()?;
    packet.push_front(packet.headroom());
    packet.truncate(0);
    Some(packet)
}

/// Puts a continuation frame behind `head`, or gives it back.
pub(crate) fn push(head: &mut Packet, tail: Packet, frames: &mut FrameCache) -> Result<(), DropReason> {
    head.push_continuation(tail).map_err(|tail| {
        frames.free(tail);
        DropReason::RxTooBig
    })
}
