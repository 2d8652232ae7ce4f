//! Helpers in the walk: a packet of a connection that has one (`ct(commit,alg=ftp)`) is shown to it, by the `ct` that translates it,
//! or by the first of its zone if nothing does.
//!
//! What the packet announces is expected at once; what has to be changed in it becomes a step of the verdict, which is for this packet only.
//! The octets are those that came in: where two zones had a helper for one packet, the second would not see what the first has changed,
//! so it reads nothing then.

use weft_conntrack::{Before, Direction, Facts, Helper, Skew, State, Tracked};
use weft_io::Packet;
use weft_wire::DropReason;

use super::Walk;
use super::trace::Tracer;
use crate::edit::stream::{self, Rewrite};
use crate::helper::ftp::{self, Announcement, Lines, Reading};
use crate::helper::{Control, Expectation, tftp};
use crate::verdict::Op;

impl<T: Tracer> Walk<'_, T> {
    /// Shows the packet to the helper of its connection. `facts` are as they were before its translation.
    pub(super) fn assist(
        &mut self,
        tracked: &mut Tracked,
        facts: &Facts,
        before: Option<Before>,
    ) -> Result<(), DropReason> {
        let (Some(helper), Some(packet)) = (tracked.helper, self.occasion.packet) else { return Ok(()) };
        let is_own = facts.inner.is_none() && !tracked.state.has(State::INV) && self.whole().is_none();
        if !self.occasion.effects || !is_own || self.reworded || !self.is_its_turn(tracked, before) {
            return Ok(());
        }
        let Some(direction) = tracked.connection.direction() else { return Ok(()) };
        self.verdict.fleeting = true;
        let control = Control::of(direction, &facts.tuple, tracked.translation.as_ref());
        match helper {
            Helper::Ftp => self.assist_ftp((tracked, direction), &control, facts, packet),
            Helper::Tftp => {
                let data = stream::datagram(packet).unwrap_or_default();
                if direction == Direction::Original && tftp::is_request(data) {
                    self.expect(tracked, &tftp::expectation(&control));
                }
                Ok(())
            }
        }
    }

    fn is_its_turn(&self, tracked: &Tracked, before: Option<Before>) -> bool {
        let seen = before.is_some_and(|before| {
            before.connection.is_connection() && before.connection.place == tracked.connection.place
        });
        match self.occasion.connections.translation(tracked.connection) {
            Some(_) => tracked.translation.is_some(),
            None => !seen,
        }
    }

    fn expect(&self, tracked: &Tracked, expectation: &Expectation) {
        // One that is expected already is; that there are too many is counted; without parent there is nothing to expect.
        let expected = expectation.expected(tracked.connection);
        let _ = self.occasion.connections.expect(&expected, self.occasion.second);
    }

    fn assist_ftp(
        &mut self,
        (tracked, direction): (&mut Tracked, Direction),
        control: &Control,
        facts: &Facts,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        let Some(segment) = facts.tcp else { return Ok(()) };
        let data = stream::data(packet).unwrap_or_default();
        let reading = self.read_ftp((tracked, direction), facts, (segment.seq, data));
        let replace = match reading {
            Reading::Nothing => None,
            Reading::Malformed => {
                tracked.state |= State::INV;
                None
            }
            Reading::Announcement(found) => match found.expectation(control) {
                Some(expectation) => {
                    self.expect(tracked, &expectation);
                    self.reword(found, control, packet)?
                }
                None => {
                    tracked.state |= State::INV;
                    None
                }
            },
        };
        let change = replace.as_ref().map_or(0, |(span, text)| text.len() as i32 - span.len() as i32);
        let skews = self.occasion.connections.with_stream(tracked.connection, |stream| {
            let [own, other] = by_sender(&mut stream.skews, direction);
            own.add(segment.seq, change);
            (*own, *other)
        });
        let Some((own, other)) = skews else {
            // Nobody would renumber what follows.
            return if replace.is_some() { Err(DropReason::ConnectionGone) } else { Ok(()) };
        };
        if replace.is_some() || !own.is_none() || !other.is_none() {
            self.reworded = true;
            self.flush();
            self.verdict.ops.push(Op::Rewrite(Box::new(Rewrite { replace, own, other })));
        }
        Ok(())
    }

    /// What the data says, if it starts a line.
    fn read_ftp(
        &self,
        (tracked, direction): (&Tracked, Direction),
        facts: &Facts,
        (seq, data): (u32, &[u8]),
    ) -> Reading {
        if data.is_empty() {
            return Reading::Nothing;
        }
        let starts = self.occasion.connections.with_stream(tracked.connection, |stream| {
            let mut lines = Lines(stream.lines);
            let starts = lines.starts_line(direction, seq, data);
            stream.lines = lines.0;
            starts
        });
        if starts == Some(true) { ftp::read(direction, facts.tuple.family, data) } else { Reading::Nothing }
    }

    /// What the peer has to read instead.
    fn reword(
        &self,
        found: Announcement,
        control: &Control,
        packet: &Packet,
    ) -> Result<Option<(std::ops::Range<usize>, ftp::Text)>, DropReason> {
        let Some(text) = found.translated(control) else { return Ok(None) };
        let longer = text.len().saturating_sub(found.span.len());
        if packet.continuations() > 0 || longer > packet.tailroom() {
            return Err(DropReason::HelperNoRoom);
        }
        Ok(Some((found.span, text)))
    }
}

/// A direction's own, and the other's.
fn by_sender(skews: &mut [Skew; 2], direction: Direction) -> [&mut Skew; 2] {
    let [original, reply] = skews;
    if direction == Direction::Original { [original, reply] } else { [reply, original] }
}
