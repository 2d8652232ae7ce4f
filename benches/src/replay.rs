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
use weft_io::replay::ReplayQueue;
use weft_io::thread::{cpu_time, pin, tsc_hz};
use weft_io::{Burst, FramePool, PortQueue};

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
            serde_json::json!({ "mpps": mpps, "cycles_per_packet": cycles, "cpu_share": cpu_share, "tsc_hz": tsc })
        );
        return;
    }
    println!(
        "{:?} {}: {:.2} Mpps, {:.0} cycles/packet of CPU time ({:.2} Mpps by the clock, {:.0} % of the core)",
        options.case,
        options.pcap.display(),
        rate.per_cpu_second() / 1e6,
        tsc / rate.per_cpu_second(),
        rate.per_second() / 1e6,
        100.0 * rate.cpu_share(),
    );
}

/// Replay to null without a switch between.
fn bare(options: &Options) -> Result<Vec<Rate>, Failure> {
    let pool = FramePool::new(FramePool::DEFAULT_FRAMES)?;
    let (mut frames, mut drops) = (pool.cache(), weft_wire::DropCounts::default());
    let mut replay = replay(&options.pcap, options.burst)?;
    let (mut null, mut burst) = (NullQueue, Burst::new());
    measure(options, || {
        replay.rx_burst(&mut frames, &mut burst, &mut drops);
        null.tx_burst(&mut frames, &mut burst, &mut drops).packets
    })
}

/// Pass after pass over the packets, on a switch that knows no connection at the start of each.
fn first_packets(options: &Options) -> Result<Vec<Rate>, Failure> {
    let replay = replay(&options.pcap, options.burst)?;
    let packets = replay.frames() as u64;
    let mut switch = Switch::new(options.case, replay)?;
    let mut pass = || -> Result<Rate, Failure> {
        switch.forget_connections();
        let (start, cpu_start, mut done) = (Instant::now(), cpu_time()?, 0);
        while done < packets {
            done += switch.round();
        }
        Ok(Rate { packets: done, cpu: cpu_time()? - cpu_start, clock: start.elapsed() })
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
    let replay = replay(&options.pcap, options.burst)?;
    let mut switch = Switch::with(Setup { case: options.case, flows, inputs: vec![(IN, Box::new(replay))] })?;
    let rates = measure(options, || switch.round())?;
    switch.check()?;
    Ok(rates)
}

fn replay(path: &Path, burst: usize) -> Result<ReplayQueue, Failure> {
    let mut queue = ReplayQueue::open(path, true)?;
    queue.set_burst(burst);
    Ok(queue)
}

/// All rounds; one before them warms up.
fn measure(options: &Options, mut burst: impl FnMut() -> u64) -> Result<Vec<Rate>, Failure> {
    let rates: Result<Vec<Rate>, Failure> =
        (0..options.rounds + 1).map(|_| rate(options.seconds, &mut burst)).collect();
    Ok(rates?.split_off(1))
}

/// Bursts for at least `seconds`.
fn rate(seconds: f64, mut burst: impl FnMut() -> u64) -> Result<Rate, Failure> {
    let (start, cpu_start) = (Instant::now(), cpu_time()?);
    let mut packets = 0;
    loop {
        for _ in 0..1024 {
            packets += burst();
        }
        let clock = start.elapsed();
        if clock.as_secs_f64() >= seconds {
            return Ok(Rate { packets, cpu: cpu_time()? - cpu_start, clock });
        }
    }
}
