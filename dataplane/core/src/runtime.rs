//! Workers on threads: pinning is the caller's, the idle ladder is here.
//!
//! A worker without packets spins for a moment, then naps, then blocks in `epoll` until a queue or its bell wakes it. The
//! price is latency for the first packet after a silence: a nap at most for the first millisecond, then a wake-up of the
//! kernel's (some 10 to 50 us). A queue without a descriptor to wait for keeps its worker on naps.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::shared::Now;
use crate::worker::Worker;

/// What to do without packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Idle {
    /// The ladder.
    #[default]
    Auto,
    /// Spin for ever: lowest latency, a whole core.
    Spin,
}

/// Octets of stack that a worker's thread (and a trace's) is given. The deepest walk has 4096 look-ups within each other: it
/// takes 4.5 MiB when the compiler optimizes little, and a thread's usual 2 MiB would not do. As many clones between them
/// can double that. Only what is used takes memory. (test `trace`)
pub const STACK: usize = 64 << 20;

const SPIN_FOR: Duration = Duration::from_micros(50);
const NAP: Duration = Duration::from_micros(40);
const NAP_UNTIL: Duration = Duration::from_millis(1);
const LONGEST_NAP: Duration = Duration::from_millis(1);
const SLEEP: Duration = Duration::from_millis(500);
/// Time between two of a worker's [`Worker::maintain`].
pub const MAINTAIN_EVERY: Duration = Duration::from_millis(100);
const BELL: Token = Token(usize::MAX);

/// Runs a worker on this thread until it's told to stop. `start` is the process's start.
pub fn run(mut worker: Worker, start: Instant, idle: Idle) -> std::io::Result<()> {
    let mut sleeper = Sleeper::new(&worker)?;
    let mut last = Instant::now();
    let (mut idle_since, mut maintained) = (last, last);
    while worker.is_running() {
        let packets = worker.round(Now { uptime: last - start });
        let now = Instant::now();
        let nanos = (now - last).as_nanos() as u64;
        last = now;
        let counters = &worker.counters().worker;
        counters.rounds.add(1);
        if packets > 0 {
            counters.busy_rounds.add(1);
            counters.busy_nanos.add(nanos);
            idle_since = now;
        }
        if now - maintained >= MAINTAIN_EVERY {
            worker.maintain(Now { uptime: now - start });
            maintained = now;
        }
        if !worker.is_running() {
            worker.end();
        } else if packets == 0 && idle == Idle::Auto {
            sleeper.rest(&mut worker, now - idle_since)?;
            last = Instant::now();
            worker.counters().worker.idle_nanos.add((last - now).as_nanos() as u64);
        }
    }
    Ok(())
}

/// What a worker sleeps by.
struct Sleeper {
    poll: Poll,
    events: Events,
    /// The worker's queue changes that the registrations are as of.
    registered: Option<u64>,
    fds: Vec<i32>,
    /// Whether every queue has a descriptor to wait for.
    all_wake: bool,
}

impl Sleeper {
    fn new(worker: &Worker) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), BELL)?;
        if let Some(mailbox) = worker.shared().workers.get(worker.index()) {
            mailbox.bell.attach(waker);
        }
        Ok(Sleeper {
            poll,
            events: Events::with_capacity(64),
            registered: None,
            fds: Vec::new(),
            all_wake: true,
        })
    }

    fn rest(&mut self, worker: &mut Worker, idle_for: Duration) -> std::io::Result<()> {
        if idle_for < SPIN_FOR {
            std::hint::spin_loop();
            return Ok(());
        }
        if idle_for < NAP_UNTIL {
            std::thread::sleep(NAP);
            return Ok(());
        }
        if self.registered != Some(worker.queue_changes()) {
            self.register(worker);
        }
        let patience = if self.all_wake { SLEEP } else { LONGEST_NAP };
        self.sleep(worker, patience)
    }

    fn sleep(&mut self, worker: &mut Worker, patience: Duration) -> std::io::Result<()> {
        let index = worker.index();
        let armed = worker.queues().iter_mut().all(|(_, queue)| queue.arm());
        let shared = std::sync::Arc::clone(worker.shared());
        let Some(mailbox) = shared.workers.get(index).filter(|_| armed) else { return Ok(()) };
        mailbox.bell.lie_down();
        let outcome =
            if worker.has_mail() { Ok(()) } else { self.poll.poll(&mut self.events, Some(patience)) };
        mailbox.bell.get_up();
        match outcome {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            outcome => outcome,
        }
    }

    /// Waits for the queues that there are now. Registration reports what is readable at once, and from then on every
    /// change (edges); a round that found nothing lies between any two sleeps, so none is lost.
    fn register(&mut self, worker: &mut Worker) {
        for fd in self.fds.drain(..) {
            // A descriptor that was closed meanwhile is out already.
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        self.all_wake = true;
        self.registered = Some(worker.queue_changes());
        for (token, (_, queue)) in worker.queues().iter_mut().enumerate() {
            let fd = queue.wait_fd().map(|fd| fd.as_raw_fd());
            let waits = fd.is_some_and(|fd| {
                self.fds.push(fd);
                self.poll.registry().register(&mut SourceFd(&fd), Token(token), Interest::READABLE).is_ok()
            });
            self.all_wake &= waits || queue.is_transmit_only();
        }
    }
}
