//! `weft-replay`: the whole switch from a preloaded pcap to a null port, on one core.
//!
//! Each packet is copied into a frame of the pool, switched, and freed by the null port, as OVS-DPDK's net_pcap
//! (infinite_rx) and net_null do it. `benches/compare.py` runs both in turn on the same files.
//!
//! Rates are per second of the thread's own CPU time, because machines are shared; the rate by the clock is printed
//! beside it. In JSON, `mpps` and `cycles_per_packet` are by the clock, and `cpu_share` is the part of it that the
//! thread had the core: `mpps / cpu_share` is the rate per second of CPU time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use weft_benches::Failure;
use weft_benches::case::{self, Case, IN};
use weft_benches::switch::{Setup, Switch};
use weft_io::null::NullQueue;
use weft_io::queue::Sent;
use weft_io::replay::ReplayQueue;
use weft_io::thread::{cpu_time, pin, tsc_hz};
use weft_io::{Burst, FrameCache, FramePool, PortQueue};
use weft_wire::DropCounts;

/// Switches a pcap from memory to nowhere, as fast as one core can.
#[derive(Parser, Debug)]
#[command(about)]
struct Options {
    /// What the switch does with the packets.
    #[arg(long, value_enum)]
    case: Case,
    /// The packets.
    #[arg(long)]
    pcap: PathBuf,
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
    /// Packets per burst.
    #[arg(long, default_value_t = 32)]
    burst: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Rate {
    packets: u64,
    /// Packets whose flow was not cached.
    misses: u64,
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
        Case::NewConnections => first_packets(&options)?,
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
            })
        );
        return;
    }
    println!(
        "{:?} {}: {:.2} Mpps, {:.0} cycles/packet of CPU time ({:.2} Mpps by the clock, {:.0} % of the core), {:.2} % misses",
        options.case,
        options.pcap.display(),
        rate.per_cpu_second() / 1e6,
        tsc / rate.per_cpu_second(),
        rate.per_second() / 1e6,
        100.0 * rate.cpu_share(),
        rate.miss_percent(),
    );
}

/// Replay to null without a switch between.
fn bare(options: &Options) -> Result<Vec<Rate>, Failure> {
    let pool = FramePool::new(FramePool::DEFAULT_FRAMES)?;
    let (mut frames, mut drops) = (pool.cache(), DropCounts::default());
    let mut replay = replay(&options.pcap, options.burst)?;
    let (mut null, mut burst) = (NullQueue, Burst::new());
    measure(options, || {
        replay.rx_burst(&mut frames, &mut burst, &mut drops);
        (null.tx_burst(&mut frames, &mut burst, &mut drops).packets, 0)
    })
}

/// Pass after pass over the packets, on a switch that knows no connection at the start of each.
fn first_packets(options: &Options) -> Result<Vec<Rate>, Failure> {
    let replay = replay(&options.pcap, options.burst)?;
    let packets = replay.frames() as u64;
    let mut switch = Switch::new(options.case, replay)?;
    let mut pass = || -> Result<Rate, Failure> {
        switch.forget_connections();
        let (misses, start, cpu_start, mut done) = (switch.misses(), Instant::now(), cpu_time()?, 0);
        while done < packets {
            done += switch.round();
        }
        let (cpu, clock) = (cpu_time()? - cpu_start, start.elapsed());
        Ok(Rate { packets: done, misses: switch.misses() - misses, cpu, clock })
    };
    let rates: Result<Vec<Rate>, Failure> = (0..options.rounds + 1).map(|_| pass()).collect();
    switch.check()?;
    if u64::from(switch.connections()) != packets {
        return Err(format!("{} connections after {packets} packets", switch.connections()).into());
    }
    Ok(rates?.split_off(1))
}

fn switched(options: &Options) -> Result<Vec<Rate>, Failure> {
    let flows = match &options.rules {
        Some(path) => case::tables(path)?,
        None => options.case.flows(),
    };
    let again = replay(&options.pcap, options.burst)?;
    let first = options.before.as_deref().map(|path| ReplayQueue::open(path, false)).transpose()?;
    let once = first.as_ref().map_or(0, ReplayQueue::frames) as u64;
    let input: Box<dyn PortQueue> = match first {
        Some(first) => Box::new(Succession { first: Some(first), again }),
        None => Box::new(again),
    };
    let mut switch = Switch::with(Setup { case: options.case, flows, inputs: vec![(IN, input)] })?;
    let mut done = 0;
    while done < once {
        done += switch.round();
    }
    let rates = measure(options, || {
        let misses = switch.misses();
        (switch.round(), switch.misses() - misses)
    })?;
    switch.check()?;
    Ok(rates)
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

/// All rounds; one before them warms up. `burst` says how many packets there were, and how many of them missed.
fn measure(options: &Options, mut burst: impl FnMut() -> (u64, u64)) -> Result<Vec<Rate>, Failure> {
    let rates: Result<Vec<Rate>, Failure> =
        (0..options.rounds + 1).map(|_| rate(options.seconds, &mut burst)).collect();
    Ok(rates?.split_off(1))
}

/// Bursts for at least `seconds`.
fn rate(seconds: f64, mut burst: impl FnMut() -> (u64, u64)) -> Result<Rate, Failure> {
    let (start, cpu_start) = (Instant::now(), cpu_time()?);
    let (mut packets, mut misses) = (0, 0);
    loop {
        for _ in 0..1024 {
            let (more, missed) = burst();
            packets += more;
            misses += missed;
        }
        let clock = start.elapsed();
        if clock.as_secs_f64() >= seconds {
            return Ok(Rate { packets, misses, cpu: cpu_time()? - cpu_start, clock });
        }
    }
}
