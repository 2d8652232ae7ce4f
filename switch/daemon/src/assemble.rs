//! The one place where everything is made and wired: frames, dataplane, workers on their threads, underlay, state,
//! control socket. What fails here is said in one line, and weftd ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use weft_config::Config;
use weft_config::model::Idle;
use weft_config::store::{Store, StoreError};
use weft_core::datapath::{Datapath, DatapathError};
use weft_core::key::PortId;
use weft_core::runtime;
use weft_core::snapshot::BridgeId;
use weft_core::worker::Worker;
use weft_io::FramePool;
use weft_io::netlink::NetlinkError;
use weft_io::pool::PoolError;

use crate::control::{ControlSocket, SocketError};
use crate::device::LazyXdp;
use crate::event_loop::{EventLoop, LoopError};
use crate::numbers::Numbers;
use crate::reconcile::OnAbsence;
use crate::switch::{Sample, Switch};
use crate::underlay::Underlay;

/// Where weftd finds and leaves things.
#[derive(Debug, Clone)]
pub struct Places {
    /// The TOML file that seeds an empty state, and that SIGHUP applies.
    pub config: Option<PathBuf>,
    /// The folder of the state file.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
}

/// weftd can't start, or can't go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each is another module's error")]
pub enum Fatal {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Loop(#[from] LoopError),
    #[error("worker {worker} can't run on processor {cpu}: {source}")]
    Pin { worker: usize, cpu: u16, source: std::io::Error },
    #[error("worker {worker} can't be started: {source}")]
    Thread { worker: usize, source: std::io::Error },
    #[error("{0}")]
    Refused(#[from] weft_config::control::Refusal),
}

/// Makes the switch and runs it until it's told to stop.
pub fn run(places: &Places) -> Result<(), Fatal> {
    let start = Instant::now();
    if let Err(error) = weft_io::limits::raise_descriptor_limit() {
        tracing::warn!("the limit of open descriptors stays as it is: {error}");
    }
    let mut store = Store::open(&places.state_dir)?;
    let wanted = store.load_or_seed(places.config.as_deref())?;
    if store.torn() > 0 {
        let octets = store.torn();
        tracing::warn!(
            "the journal ends with {octets} octets that never were on the disk as a whole: left out"
        );
    }
    let pins = wanted.switch.workers.pins();
    let pool = FramePool::new(wanted.switch.frames.get())?;
    let connections = crate::conntrack::settings(&wanted);
    let (datapath, workers) = Datapath::with_connections(Arc::clone(&pool), pins.len(), connections)?;
    let group = wanted.switch.socket_group.as_ref().map(|group| group.as_str());
    let socket = ControlSocket::bind(&places.socket, group)?;
    let idle = match wanted.switch.idle {
        Idle::Auto => runtime::Idle::Auto,
        Idle::Spin => runtime::Idle::Spin,
    };
    let threads = start_workers(workers, &pins, start, idle)?;
    let mut switch = Switch {
        config: Config { switch: wanted.switch.clone(), ..Config::default() },
        store,
        xdp: LazyXdp::new(Arc::clone(&pool)),
        pool,
        underlay: Underlay::open()?,
        routes: BTreeMap::new(),
        bridges: Default::default(),
        ports: Default::default(),
        bridge_numbers: Numbers::new(BridgeId::COUNT),
        port_numbers: Numbers::new(PortId::COUNT),
        start,
        rest: start,
        flow_sessions: crate::flows::Sessions::default(),
        recent: crate::why::Recent::default(),
        limit_log: crate::limits::LimitLog::default(),
        acl: crate::acl::Acl::default(),
        samples: vec![Sample::default(); datapath.workers()],
        datapath,
        pins,
    };
    switch.reconcile(wanted, None, OnAbsence::Wait)?;
    let outcome = EventLoop::new(socket, &switch)?.run(&mut switch, places.config.as_deref());
    switch.close();
    for thread in threads {
        // A worker that panicked has aborted the process already.
        let _ = thread.join();
    }
    Ok(outcome?)
}

/// One thread per worker, pinned as configured. A worker that dies takes the process down.
fn start_workers(
    workers: Vec<Worker>,
    pins: &[Option<u16>],
    start: Instant,
    idle: runtime::Idle,
) -> Result<Vec<thread::JoinHandle<()>>, Fatal> {
    let mut threads = Vec::new();
    for worker in workers {
        let index = worker.index();
        let cpu = pins.get(index).copied().flatten();
        let (report, pinned) = std::sync::mpsc::channel();
        let body = move || {
            let outcome = cpu.map_or(Ok(()), |cpu| weft_io::thread::pin(cpu.into()));
            let go_on = outcome.is_ok();
            // The starter waits for exactly this.
            let _ = report.send(outcome);
            if go_on && let Err(error) = run_worker(worker, start, idle) {
                tracing::error!("worker {index} has failed: {error}; ending");
                std::process::abort();
            }
        };
        let spawned = thread::Builder::new()
            .name(format!("weft-worker-{index}"))
            .stack_size(runtime::STACK)
            .spawn(body);
        threads.push(spawned.map_err(|source| Fatal::Thread { worker: index, source })?);
        if let (Ok(Err(source)), Some(cpu)) = (pinned.recv(), cpu) {
            return Err(Fatal::Pin { worker: index, cpu, source });
        }
    }
    Ok(threads)
}

fn run_worker(worker: Worker, start: Instant, idle: runtime::Idle) -> std::io::Result<()> {
    /// Ends the process when a worker's stack unwinds.
    struct AbortOnUnwind;
    impl Drop for AbortOnUnwind {
        fn drop(&mut self) {
            if thread::panicking() {
                std::process::abort();
            }
        }
    }
    let _guard = AbortOnUnwind;
    runtime::run(worker, start, idle)
}
