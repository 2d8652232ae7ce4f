//! A run: look at the devices, start the receiver, send, wait for stragglers, count.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft_wire::{Mac, Malformed};

use crate::af_packet::PacketPort;
use crate::af_xdp::{MAX_SIZE, XdpPort};
use crate::cli::{Backend, Plan, Rate};
use crate::device::{Device, Endpoint};
use crate::frame::{Seen, Shape, Template, announcement};
use crate::port::{BURST, Port};
use crate::report::{Counts, Report};
use crate::track::Tracker;

/// Packets of a run at most: the receiver keeps a bit for each, 512 MiB in all.
const MAX_PACKETS: u64 = 1 << 32;
/// How long the receiver waits for a packet before it looks whether the run is over.
const WAIT: Duration = Duration::from_millis(5);
/// When the device takes nothing for so long, the run has failed.
const STUCK: Duration = Duration::from_secs(2);

/// Why there was no run, or no end to one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something about a device.
    #[error("{endpoint}: can't {what}: {error}")]
    Device {
        /// Which.
        endpoint: Endpoint,
        /// What we wanted.
        what: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// A device is down.
    #[error("{0}: the device is down (ip link set {name} up)", name = .0.name)]
    Down(Endpoint),
    /// The frames do not fit.
    #[error("{endpoint}: frames of {size} octets do not fit: {max} at most")]
    TooBig {
        /// Where.
        endpoint: Endpoint,
        /// What was asked for, in octets.
        size: usize,
        /// What fits, in octets.
        max: usize,
    },
    /// The device has taken no packet for two seconds.
    #[error("{0}: the device has taken no packet for 2 seconds")]
    Stuck(Endpoint),
    /// The frame is too small for its number.
    #[error("the frame is too small: {0}")]
    Frame(#[from] Malformed),
    /// A thread ended without a result.
    #[error("the {0} thread ended without a result")]
    Thread(&'static str),
}

/// What both threads look at.
struct Shared {
    /// No packet with this number or a higher one has been handed to the kernel yet.
    announced: AtomicU64,
    /// The sender has ended.
    ended: AtomicBool,
}

/// Runs `plan` to its end: `plan.seconds`, the settling time, and some fractions of a second.
///
/// # Errors
/// See [`Error`]; a run that has lost packets is not an error.
pub fn run(plan: &Plan) -> Result<Report, Error> {
    let (tx_device, rx_device) = (probe(&plan.tx)?, probe(&plan.rx)?);
    check_sizes(plan, &tx_device, &rx_device)?;
    let shape = Shape {
        size: plan.size.into(),
        flows: plan.flows,
        vlan: plan.vlan,
        smac: plan.smac.unwrap_or(tx_device.mac),
        dmac: plan.dmac.unwrap_or(rx_device.mac),
        sip: plan.sip,
        dip: plan.dip,
        stream: stream_id(),
    };
    let template = Template::new(shape)?;
    let shared = Shared { announced: AtomicU64::new(0), ended: AtomicBool::new(false) };
    let mut counts = Counts::default();
    thread::scope(|scope| {
        let (ready, wait_ready) = mpsc::channel();
        let announce = (!plan.no_announce).then_some((shape.dmac, plan.dip));
        let (template, shared, tx_device, rx_device) = (&template, &shared, &tx_device, &rx_device);
        let receiver = scope.spawn(move || receive(plan, rx_device, template, shared, (announce, ready)));
        let sender = scope.spawn(move || match wait_ready.recv() {
            Ok(()) => send(plan, tx_device, template, shared),
            Err(mpsc::RecvError) => Ok((0, Duration::ZERO)),
        });
        let sent = sender.join();
        shared.ended.store(true, Ordering::Release);
        let received = receiver.join().map_err(|_| Error::Thread("receiving"))?;
        let (sent, sending) = sent.map_err(|_| Error::Thread("sending"))??;
        counts = Counts { sent, sending, ..received? };
        Ok::<(), Error>(())
    })?;
    Ok(Report::new(plan, &counts))
}

/// Looks at a device in a thread of its own, so that the caller's namespace stays what it is.
fn probe(endpoint: &Endpoint) -> Result<Device, Error> {
    let look = || endpoint.enter().and_then(|()| endpoint.probe());
    thread::scope(|scope| scope.spawn(look).join()).map_err(|_| Error::Thread("probing"))?
}

fn check_sizes(plan: &Plan, tx: &Device, rx: &Device) -> Result<(), Error> {
    let tag = if plan.vlan.is_some() { 4 } else { 0 };
    for (endpoint, device) in [(&plan.tx, tx), (&plan.rx, rx)] {
        let ethernet = device.mtu + 14 + tag;
        let max = if plan.backend == Backend::AfXdp { ethernet.min(MAX_SIZE) } else { ethernet };
        let size = usize::from(plan.size);
        if size > max {
            return Err(Error::TooBig { endpoint: endpoint.clone(), size, max });
        }
    }
    Ok(())
}

/// A number that two runs on one machine do not share.
fn stream_id() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.subsec_nanos() ^ (now.as_secs() as u32).rotate_left(16) ^ std::process::id().rotate_left(8)
}

/// Opens a socket on the device, from within its namespace.
fn open(plan: &Plan, endpoint: &Endpoint, device: &Device) -> Result<Box<dyn Port>, Error> {
    endpoint.enter()?;
    let opened: io::Result<Box<dyn Port>> = match plan.backend {
        Backend::AfPacket => PacketPort::open(device).map(|port| Box::new(port) as _),
        Backend::AfXdp => XdpPort::open(&endpoint.name).map(|port| Box::new(port) as _),
    };
    opened.map_err(|error| endpoint.error("open a socket", error))
}

/// Says when the next burst is due.
struct Pace {
    start: Instant,
    rate: Rate,
}

impl Pace {
    /// How many packets may go now, at most a burst, when `sent` have gone.
    fn due(&self, sent: u64) -> usize {
        match self.rate {
            Rate::Max => BURST,
            Rate::PerSecond(rate) => {
                let by_now = (self.start.elapsed().as_secs_f64() * rate) as u64 + 1;
                by_now.saturating_sub(sent).min(BURST as u64) as usize
            }
        }
    }
}

/// The sending thread. Returns how many packets went, and how long it took.
fn send(
    plan: &Plan,
    device: &Device,
    template: &Template,
    shared: &Shared,
) -> Result<(u64, Duration), Error> {
    let mut port = open(plan, &plan.tx, device)?;
    let failed = |error| plan.tx.error("send", error);
    let size = template.bytes().len();
    let mut burst = template.bytes().repeat(BURST);
    let start = Instant::now();
    let (pace, mut last_taken, mut sent) = (Pace { start, rate: plan.rate }, start, 0);
    while start.elapsed() < plan.seconds && sent < MAX_PACKETS {
        let due = pace.due(sent);
        if due == 0 {
            thread::sleep(Duration::from_micros(20));
            continue;
        }
        for (frame, sequence) in burst.chunks_exact_mut(size).take(due).zip(sent..) {
            template.stamp(frame, sequence)?;
        }
        shared.announced.store(sent + due as u64, Ordering::Release);
        let taken = port.send(burst.get(..due * size).unwrap_or_default(), size).map_err(failed)?;
        sent += taken as u64;
        if taken > 0 {
            last_taken = Instant::now();
        } else if last_taken.elapsed() > STUCK && pace.due(sent) > 0 {
            return Err(Error::Stuck(plan.tx.clone()));
        } else {
            thread::yield_now();
        }
    }
    let sending = start.elapsed();
    port.flush().map_err(failed)?;
    Ok((sent, sending))
}

/// The receiving thread: tells `ready` that it listens, and counts until the sender has ended and nothing has come for
/// the settling time. Traffic that never ends does not keep it: ten settling times and a second are its limit.
fn receive(
    plan: &Plan,
    device: &Device,
    template: &Template,
    shared: &Shared,
    (announce, ready): (Option<(Mac, Ipv4Addr)>, mpsc::Sender<()>),
) -> Result<Counts, Error> {
    let mut port = open(plan, &plan.rx, device)?;
    if let Some((mac, ip)) = announce {
        let frame = announcement(mac, ip, plan.vlan)?;
        port.send(&frame, frame.len()).map_err(|error| plan.rx.error("send an announcement", error))?;
    }
    // A sender that is gone has its own error to tell.
    let _ = ready.send(());
    let failed = |error| plan.rx.error("receive", error);
    let mut tracker = Tracker::new(plan.flows);
    let (mut counts, mut first, mut last) = (Counts::default(), None, None);
    let settle = Duration::from_millis(plan.settle.into());
    let mut ended: Option<Instant> = None;
    loop {
        let before = tracker.received;
        port.receive(WAIT, &mut |frame| match template.recognise(frame) {
            Seen::Numbered(sequence) if sequence < shared.announced.load(Ordering::Acquire) => {
                tracker.insert(sequence)
            }
            Seen::Numbered(_) | Seen::Damaged => counts.damaged += 1,
            Seen::Foreign => counts.foreign += 1,
        })
        .map_err(failed)?;
        let now = Instant::now();
        if tracker.received > before {
            first.get_or_insert(now);
            last = Some(now);
        }
        if ended.is_none() && shared.ended.load(Ordering::Acquire) {
            ended = Some(now);
        }
        let Some(end) = ended else { continue };
        let quiet_since = last.map_or(end, |last| last.max(end));
        if now - quiet_since >= settle || now - end > settle * 10 + Duration::from_secs(1) {
            break;
        }
    }
    let receiving = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first);
    let Tracker { received, duplicated, reordered, .. } = tracker;
    let receiver_drops = port.receiver_drops().map_err(failed)?;
    Ok(Counts { received, receiving, duplicated, reordered, receiver_drops, ..counts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_lets_a_packet_go_at_once_and_never_more_than_a_burst() {
        let start = Instant::now();
        let slow = Pace { start, rate: Rate::PerSecond(1.0) };
        assert_eq!((slow.due(0), slow.due(1)), (1, 0));
        let late = Pace { start: start - Duration::from_secs(1), rate: Rate::PerSecond(1e6) };
        assert_eq!(late.due(0), BURST);
        assert_eq!(late.due(2_000_000_000), 0);
        assert_eq!(Pace { start, rate: Rate::Max }.due(u64::MAX), BURST);
    }
}
