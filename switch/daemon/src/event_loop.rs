//! The control thread: signals, control socket, underlay, and a tick each second.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use weft_config::control::{Op, Reply};

use crate::control::{ControlServer, ControlSocket};
use crate::switch::Switch;

const SIGNALS: Token = Token(0);
const UNDERLAY: Token = Token(1);
const BELL: Token = Token(2);
const CONTROL: Token = Token(16);
const TICK: Duration = Duration::from_secs(1);

/// The loop can't be set up, or can't go on.
#[derive(Debug, thiserror::Error)]
#[error("the control thread can't wait for events: {0}")]
pub struct LoopError(#[from] io::Error);

/// See the module's text.
pub struct EventLoop {
    poll: Poll,
    events: Events,
    signals: Signals,
    control: ControlServer,
}

impl EventLoop {
    /// Registers everything that the control thread waits for.
    pub fn new(socket: ControlSocket, switch: &Switch) -> Result<Self, LoopError> {
        let poll = Poll::new()?;
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        poll.registry().register(&mut SourceFd(&switch.underlay.fd()), UNDERLAY, Interest::READABLE)?;
        switch.datapath.shared().control.attach(Waker::new(poll.registry(), BELL)?);
        let control = ControlServer::new(socket, poll.registry(), CONTROL)?;
        Ok(EventLoop { poll, events: Events::with_capacity(256), signals, control })
    }

    /// Runs until SIGTERM or SIGINT. SIGHUP applies the file `config`.
    pub fn run(mut self, switch: &mut Switch, config: Option<&Path>) -> Result<(), LoopError> {
        tracing::info!("ready");
        let mut ticked = Instant::now();
        loop {
            self.wait(switch, ticked)?;
            let now = Instant::now();
            // A worker that asks while this thread is awake does not ring.
            let asked = !switch.datapath.shared().wanted.is_empty();
            let mut underlay = asked || switch.underlay.deadline().is_some_and(|deadline| now >= deadline);
            for event in &self.events {
                match event.token() {
                    SIGNALS => {}
                    UNDERLAY | BELL => underlay = true,
                    _ => self.control.handle(event, now, switch),
                }
            }
            for signal in self.signals.pending() {
                match signal {
                    SIGHUP => reload(switch, config),
                    _ => {
                        tracing::info!("stopping");
                        return Ok(());
                    }
                }
            }
            if underlay {
                switch.follow_underlay();
                switch.check_faults();
            }
            if now - ticked >= TICK {
                switch.tick((now - ticked).as_secs_f64());
                switch.follow_underlay();
                self.control.expire(now);
                ticked = now;
            }
        }
    }

    fn wait(&mut self, switch: &Switch, ticked: Instant) -> Result<(), LoopError> {
        let shared = switch.datapath.shared();
        let next = [Some(ticked + TICK), switch.underlay.deadline()].into_iter().flatten().min();
        shared.control.lie_down();
        let patience = match shared.wanted.is_empty() {
            true => next.map(|next| next.saturating_duration_since(Instant::now())),
            false => Some(Duration::ZERO),
        };
        let outcome = self.poll.poll(&mut self.events, patience);
        shared.control.get_up();
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            outcome => Ok(outcome?),
        }
    }
}

/// SIGHUP: makes the switch equal to the file.
fn reload(switch: &mut Switch, config: Option<&Path>) {
    let Some(path) = config else {
        return tracing::warn!("SIGHUP: there is no --config file to apply");
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return tracing::error!("SIGHUP: {}: {error}", path.display()),
    };
    match switch.do_at_once(Op::ConfigApply { toml: text, file: path.display().to_string() }) {
        Ok(Reply::Applied { differences }) if differences.is_empty() => {
            tracing::info!("SIGHUP: {}: nothing differs", path.display());
        }
        Ok(_) => tracing::info!("SIGHUP: {}: applied", path.display()),
        Err(refusal) => tracing::error!("SIGHUP: {refusal}; nothing was changed"),
    }
}
