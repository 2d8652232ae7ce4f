//! Two hosts on one wire, as network namespaces, for tests. Needs root and iproute2.

use std::io::ErrorKind;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::monitor::RECEIVE_BUFFER;
use super::{Event, Monitor};
use crate::netns::Netns;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Namespaces `left` and `right`, joined by the veth pair `nla0` (10.77.0.1/24) and `nlb0` (10.77.0.2/24).
/// Dropping it deletes both.
pub(crate) struct Lab {
    pub(crate) left: String,
    pub(crate) right: String,
}

impl Lab {
    /// `None`, with a line on standard error, where namespaces can't be made.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("nl{}x{number}", std::process::id());
        let lab = Lab { left: format!("{prefix}a"), right: format!("{prefix}b") };
        if let Err(reason) = lab.build() {
            crate::testing::skip(test, &format!("needs root and iproute2: {reason}"));
            return None;
        }
        Some(lab)
    }

    fn build(&self) -> Result<(), String> {
        let Lab { left, right } = self;
        for netns in [left, right] {
            // A killed run whose process had this id may have left it.
            let _ = run("ip", &format!("netns del {netns}"));
            run("ip", &format!("netns add {netns}"))?;
            run("ip", &format!("-n {netns} link set lo up"))?;
        }
        run("ip", &format!("-n {left} link add nla0 type veth peer name nlb0 netns {right}"))?;
        for (netns, device, address) in [(left, "nla0", "10.77.0.1/24"), (right, "nlb0", "10.77.0.2/24")] {
            run("ip", &format!("-n {netns} address add {address} dev {device}"))?;
            run("ip", &format!("-n {netns} link set {device} up"))?;
        }
        Ok(())
    }

    /// `ip -n LEFT ...`, which must succeed.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        must("ip", &format!("-n {} {arguments}", self.left))
    }

    /// `ip -n RIGHT ...`, which must succeed.
    pub(crate) fn peer_ip(&self, arguments: &str) -> String {
        must("ip", &format!("-n {} {arguments}", self.right))
    }

    /// A command in the left namespace, which must succeed.
    pub(crate) fn exec(&self, command: &str) -> String {
        must("ip", &format!("netns exec {} {command}", self.left))
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::open(&self.left).unwrap()
    }

    pub(crate) fn peer_netns(&self) -> Netns {
        Netns::open(&self.right).unwrap()
    }

    /// A monitor of the left namespace, when `nla0` can be used: the kernel takes up to a second to say so.
    pub(crate) fn monitor(&self) -> Monitor {
        self.monitor_with(RECEIVE_BUFFER)
    }

    pub(crate) fn monitor_with(&self, receive_buffer: u32) -> Monitor {
        let mut monitor = Monitor::open_in(Some(self.netns()), receive_buffer).unwrap();
        follow(&mut monitor, |monitor, _| monitor.table().link_named("nla0").unwrap().is_operational());
        monitor
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for netns in [&self.left, &self.right] {
            let _ = run("ip", &format!("netns del {netns}"));
        }
    }
}

fn run(program: &str, arguments: &str) -> Result<String, String> {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{program} {arguments}: {}", text(&output.stderr)))
    }
}

pub(crate) fn must(program: &str, arguments: &str) -> String {
    run(program, arguments).unwrap_or_else(|reason| panic!("{reason}"))
}

/// Takes events in, through `mio` as the daemon does, until `done` is satisfied with monitor and events so far.
pub(crate) fn follow(
    monitor: &mut Monitor,
    mut done: impl FnMut(&mut Monitor, &[Event]) -> bool,
) -> Vec<Event> {
    use std::os::fd::AsRawFd;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut poll = Poll::new().unwrap();
    let mut ready = Events::with_capacity(4);
    let fd = monitor.as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), Token(0), Interest::READABLE).unwrap();
    let mut seen = Vec::new();
    loop {
        loop {
            let events = monitor.poll().unwrap();
            if events.is_empty() {
                break;
            }
            seen.extend(events);
        }
        if done(monitor, &seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "30 s are over; events so far: {seen:#?}");
        match poll.poll(&mut ready, Some(Duration::from_millis(200))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => panic!("{error}"),
            _ => (),
        }
    }
}
