//! `weft-replay`: the whole switch from a preloaded pcap to a null port, on one core.
//!
//! Each packet is copied into a frame of the pool, switched, and freed by the null port, as OVS-DPDK's net_pcap
//! (infinite_rx) and net_null do it. `benches/compare.py` runs both in turn on the same files.
//!
//! Rates are per second of the thread's own CPU time, because machines are shared; the rate by the clock is printed
//! beside it. In JSON, `mpps` and `cycles_per_packet` are by the clock, and `cpu_share` is the part of it that the
//! thread had the core: `mpps / cpu_share` is the rate per second of CPU time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser;
use weft_benches::Failure;
use weft_benches::case::{self, Case, IN, OUT};
use weft_benches::groups::{self, Protocol};
use weft_benches::switch::{Setup, Switch};
use weft_benches::talker::{Talker, Turn};
use weft_core::key::PortId;
use weft_io::null::NullQueue;
use weft_io::queue::Sent;
use weft_io::replay::ReplayQueue;
use weft_io::thread::{cpu_time, pin, tsc_hz};
use weft_io::{BURST, Burst, FrameCache, FramePool, PortQueue};
use weft_wire::DropCounts;

/// Switches a pcap from memory to nowhere, as fast as one core can.
#[derive(Parser, Debug)]
#[command(about)]
struct Options {
    /// What the switch does with the packets.
    #[arg(long, value_enum)]
    case: Case,
    /// The packets; of the cases with groups, --connections says which.
    #[arg(long, required_unless_present = "connections")]
    pcap: Option<PathBuf>,
    /// How many connections there are between the two ports, in the cases with groups.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: Option<u32>,
    /// What they carry.
    #[arg(long, value_enum, default_value_t = Protocol::Udp)]
    protocol: Protocol,
    /// Packets that come in once, before: what begins TCP connections.
    #[arg(long)]
    before: Option<PathBuf>,
    /// The bridge's rules, as flow text, in place of the case's. Ports are in0 and out0.
    #[arg(long)]
    rules: Option<PathBuf>,
    /// How long a measurement takes, by the clock.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How many measurements; the median is printed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The core to run on.
    #[arg(long)]
    core: Option<usize>,
    /// Packets per burst: as many as a busy port gives, unless told otherwise.
    #[arg(long, default_value_t = BURST)]
    burst: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn pcap(&self) -> Result<&Path, Failure> {
        self.pcap.as_deref().ok_or_else(|| "this case needs a --pcap".into())
    }

    /// What the packets are, for people.
    fn traffic(&self) -> String {
        match (&self.pcap, self.connections) {
            (Some(path), _) => path.display().to_string(),
            (None, connections) => format!("{:?}, {} connections", self.protocol, connections.unwrap_or(0)),
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Rate {
    packets: u64,
    /// Packets whose flow was not cached.
    misses: u64,
    /// Those among them that began a connection as others had before.
    begun: u64,
    cpu: Duration,
    clock: Duration,
}

impl Rate {
    fn per_cpu_second(&self) -> f64 {
        self.packets as f64 / self.cpu.as_secs_f64()
    }

    fn per_second(&self) -> f64 {
        self.packets as f64 / self.clock.as_secs_f64()
    }

    fn miss_percent(&self) -> f64 {
        100.0 * self.misses as f64 / self.packets as f64
    }

    fn begun_percent(&self) -> f64 {
        100.0 * self.begun as f64 / self.packets as f64
    }

    fn cpu_share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.clock.as_secs_f64()
    }
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    if let Some(core) = options.core {
        pin(core)?;
    }
    let mut rates = match options.case {
        Case::Bare => bare(&options)?,
        case if case.forgets() => first_packets(&options)?,
        _ => switched(&options)?,
    };
    rates.sort_by(|one, other| one.per_cpu_second().total_cmp(&other.per_cpu_second()));
    let median = rates.get(rates.len() / 2).copied().ok_or("nothing was measured: --rounds is 0")?;
    print(&options, &median);
    Ok(())
}

fn print(options: &Options, rate: &Rate) {
    let tsc = tsc_hz();
    if options.json {
        let (mpps, cycles) = (rate.per_second() / 1e6, tsc / rate.per_second());
        let cpu_share = rate.cpu_share();
        println!(
            "{}",
            serde_json::json!({
                "mpps": mpps,
                "cycles_per_packet": cycles,
                "cpu_share": cpu_share,
                "tsc_hz": tsc,
                "miss_percent": rate.miss_percent(),
                "begun_percent": rate.begun_percent(),
            })
        );
        return;
    }
    println!(
        "{:?} {}: {:.2} Mpps, {:.0} cycles/packet of CPU time ({:.2} Mpps by the clock, {:.0} % of the core), {:.2} % misses, {:.2} % begun",
        options.case,
        options.traffic(),
        rate.per_cpu_second() / 1e6,
        tsc / rate.per_cpu_second(),
        rate.per_second() / 1e6,
        100.0 * rate.cpu_share(),
        rate.miss_percent(),
        rate.begun_percent(),
    );
}

/// Replay to null without a switch between.
fn bare(options: &Options) -> Result<Vec<Rate>, Failure> {
    let pool = FramePool::new(FramePool::DEFAULT_FRAMES)?;
    let (mut frames, mut drops) = (pool.cache(), DropCounts::default());
    let mut replay = replay(options.pcap()?, options.burst)?;
    let (mut null, mut burst) = (NullQueue, Burst::new());
    measure(options, || {
        replay.rx_burst(&mut frames, &mut burst, &mut drops);
        (null.tx_burst(&mut frames, &mut burst, &mut drops).packets, [0; 2])
    })
}

/// Pass after pass over the packets, on a switch that knows no connection at the start of each.
fn first_packets(options: &Options) -> Result<Vec<Rate>, Failure> {
    let input = match options.case.groups() {
        // Who is answered has no first packets.
        Some(_) => vec![talk(options, IN)?],
        None => inputs(options)?,
    };
    let packets = input.iter().map(|input| input.again.frames() as u64).sum();
    let mut switch = set_up(options, input.into_iter().map(Input::into_queue).collect())?;
    let mut pass = || -> Result<Rate, Failure> {
        switch.forget_connections();
        let (before, start, cpu_start) = (missed(&switch), Instant::now(), cpu_time()?);
        let done = receive(&mut switch, packets);
        let (cpu, clock, after) = (cpu_time()? - cpu_start, start.elapsed(), missed(&switch));
        let [misses, begun] = [after[0] - before[0], after[1] - before[1]];
        Ok(Rate { packets: done, misses, begun, cpu, clock })
    };
    let rates: Result<Vec<Rate>, Failure> = (0..options.rounds + 1).map(|_| pass()).collect();
    switch.check()?;
    if u64::from(switch.connections()) != packets {
        return Err(format!("{} connections after {packets} packets", switch.connections()).into());
    }
    Ok(rates?.split_off(1))
}

fn switched(options: &Options) -> Result<Vec<Rate>, Failure> {
    let mut switch = match options.case.groups() {
        Some(_) => talking(options)?,
        None => {
            let input = inputs(options)?;
            let before = input.iter().filter_map(|input| input.before.as_ref());
            let once: u64 = before.map(|queue| queue.frames() as u64).sum();
            let mut switch = set_up(options, input.into_iter().map(Input::into_queue).collect())?;
            receive(&mut switch, once);
            switch
        }
    };
    let rates = measure(options, || {
        let before = missed(&switch);
        let (packets, after) = (switch.work(), missed(&switch));
        (packets, [after[0] - before[0], after[1] - before[1]])
    })?;
    switch.check()?;
    Ok(rates)
}

/// A switch that knows all connections of the two ports. They are begun by one port at a time: of two that are busy, both
/// with new flows, neither may have them all ([`weft_core::budget`]).
fn talking(options: &Options) -> Result<Switch, Failure> {
    let turn = Arc::new(Turn::default());
    let talks = [IN, OUT].map(|port| talk(options, port));
    let (mut once, mut inputs) = (Vec::new(), Vec::new());
    for (own, talk) in talks.into_iter().enumerate() {
        let Input { port, before, again } = talk?;
        once.push(again.frames() as u64);
        let stages = [before.map_or_else(|| pass(options, port), Ok)?, pass(options, port)?];
        let talker = Talker { own, turn: Arc::clone(&turn), stages, again };
        inputs.push((port, Box::new(talker) as Box<dyn PortQueue>));
    }
    let mut switch = set_up(options, inputs)?;
    for stage in 0..2 * once.len() {
        turn.store(stage, Ordering::Relaxed);
        receive(&mut switch, once[stage % once.len()]);
        // The other port is idle by then.
        std::thread::sleep(Duration::from_millis(20));
        switch.maintain();
    }
    turn.store(Talker::ALL, Ordering::Relaxed);
    Ok(switch)
}

/// One pass over what comes in by one of the two ports that talk, once both have been heard.
fn pass(options: &Options, port: PortId) -> Result<ReplayQueue, Failure> {
    let [_, again] = groups::talk(port, options.connections.unwrap_or(1), options.protocol);
    queue(options, &again, false)
}

/// Rounds until at least so many packets have come in; how many.
fn receive(switch: &mut Switch, packets: u64) -> u64 {
    let mut done = 0;
    while done < packets {
        done += switch.work();
    }
    done
}

/// Packets whose flow was not cached, and those among them that began a connection as others had before.
fn missed(switch: &Switch) -> [u64; 2] {
    [switch.misses(), switch.counters().begun.get()]
}

fn set_up(options: &Options, inputs: Vec<(PortId, Box<dyn PortQueue>)>) -> Result<Switch, Failure> {
    let flows = match &options.rules {
        Some(path) => case::tables(path)?,
        None => options.case.flows()?,
    };
    Switch::with(Setup { case: options.case, flows, inputs })
}

/// What comes in by a port.
struct Input {
    port: PortId,
    /// Once.
    before: Option<ReplayQueue>,
    /// And then over and over.
    again: ReplayQueue,
}

impl Input {
    fn into_queue(self) -> (PortId, Box<dyn PortQueue>) {
        let Input { port, before, again } = self;
        match before {
            Some(first) => (port, Box::new(Succession { first: Some(first), again })),
            None => (port, Box::new(again)),
        }
    }
}

/// All that comes in, of the cases without groups.
fn inputs(options: &Options) -> Result<Vec<Input>, Failure> {
    let before = options.before.as_deref().map(|path| ReplayQueue::open(path, false)).transpose()?;
    Ok(vec![Input { port: IN, before, again: replay(options.pcap()?, options.burst)? }])
}

/// What comes in by one of the two ports that talk.
fn talk(options: &Options, port: PortId) -> Result<Input, Failure> {
    let connections = options.connections.ok_or("how many --connections?")?;
    let [before, again] = groups::talk(port, connections, options.protocol);
    Ok(match (before.is_empty(), options.case.forgets()) {
        (true, _) => Input { port, before: None, again: queue(options, &again, true)? },
        (false, true) => Input { port, before: None, again: queue(options, &before, true)? },
        (false, false) => {
            let before = Some(queue(options, &before, false)?);
            Input { port, before, again: queue(options, &again, true)? }
        }
    })
}

fn queue(options: &Options, frames: &[Vec<u8>], repeat: bool) -> Result<ReplayQueue, Failure> {
    let mut queue = ReplayQueue::from_frames(frames.iter().map(Vec::as_slice), repeat)?;
    queue.set_burst(options.burst);
    Ok(queue)
}

fn replay(path: &Path, burst: usize) -> Result<ReplayQueue, Failure> {
    let mut queue = ReplayQueue::open(path, true)?;
    queue.set_burst(burst);
    Ok(queue)
}

/// One file once, and then another one over and over.
#[derive(Debug)]
struct Succession {
    first: Option<ReplayQueue>,
    again: ReplayQueue,
}

impl PortQueue for Succession {
    fn rx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) {
        if let Some(first) = &mut self.first {
            first.rx_burst(frames, burst, drops);
            if !burst.is_empty() {
                return;
            }
            self.first = None;
        }
        self.again.rx_burst(frames, burst, drops);
    }

    fn tx_burst(&mut self, frames: &mut FrameCache, burst: &mut Burst, drops: &mut DropCounts) -> Sent {
        NullQueue.tx_burst(frames, burst, drops)
    }
}

/// All rounds; one before them warms up. `burst` says how many packets there were, and how many of them [`missed`].
fn measure(options: &Options, mut burst: impl FnMut() -> (u64, [u64; 2])) -> Result<Vec<Rate>, Failure> {
    let rates: Result<Vec<Rate>, Failure> =
        (0..options.rounds + 1).map(|_| rate(options.seconds, &mut burst)).collect();
    Ok(rates?.split_off(1))
}

/// Bursts for at least `seconds`.
fn rate(seconds: f64, mut burst: impl FnMut() -> (u64, [u64; 2])) -> Result<Rate, Failure> {
    let (start, cpu_start) = (Instant::now(), cpu_time()?);
    let (mut packets, mut misses, mut begun) = (0, 0, 0);
    loop {
        for _ in 0..1024 {
            let (more, missed) = burst();
            packets += more;
            misses += missed[0];
            begun += missed[1];
        }
        let clock = start.elapsed();
        if clock.as_secs_f64() >= seconds {
            return Ok(Rate { packets, misses, begun, cpu: cpu_time()? - cpu_start, clock });
        }
    }
}
