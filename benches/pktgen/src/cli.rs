//! What to send, where, and for how long: the command line, checked.

use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use weft_wire::{Mac, Vid};

use crate::device::Endpoint;

/// Sends numbered UDP packets into one network device, receives them at another, and counts exactly what was lost,
/// duplicated or reordered on the way.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-pktgen", version)]
pub struct Args {
    /// What to do.
    #[command(flatten)]
    pub plan: Plan,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// One run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Device to send from, DEV or DEV@NETNS.
    #[arg(long, value_name = "DEV[@NETNS]")]
    pub tx: Endpoint,
    /// Device to receive at, DEV or DEV@NETNS.
    #[arg(long, value_name = "DEV[@NETNS]")]
    pub rx: Endpoint,
    /// How to reach the devices; AF_XDP uses queue 0 only, so the receiving device must have one queue.
    #[arg(long, value_enum, default_value_t = Backend::AfPacket)]
    pub backend: Backend,
    /// Octets per frame, without FCS, VLAN tag included.
    #[arg(long, default_value_t = 60, value_name = "OCTETS", value_parser = clap::value_parser!(u16).range(60..=9000))]
    pub size: u16,
    /// Number of flows; they differ in UDP source port and, above 60000, in source address.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub flows: u32,
    /// Send frames with this VLAN tag.
    #[arg(long, value_name = "VID")]
    pub vlan: Option<Vid>,
    /// Packets per second in all (10000, 250k, 1.5M), or max.
    #[arg(long, default_value = "max", value_name = "PPS")]
    pub rate: Rate,
    /// How long to send.
    #[arg(long, default_value = "5", value_name = "S", value_parser = seconds)]
    pub seconds: Duration,
    /// How long to wait for stragglers after the last packet was sent, in milliseconds.
    #[arg(long, default_value_t = 500, value_name = "MS", value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub settle: u16,
    /// Source MAC address [default: the sending device's].
    #[arg(long, value_name = "MAC")]
    pub smac: Option<Mac>,
    /// Destination MAC address [default: the receiving device's].
    #[arg(long, value_name = "MAC")]
    pub dmac: Option<Mac>,
    /// Source IPv4 address of the first flow.
    #[arg(long, default_value = "198.18.0.1", value_name = "IP")]
    pub sip: Ipv4Addr,
    /// Destination IPv4 address.
    #[arg(long, default_value = "198.19.0.1", value_name = "IP")]
    pub dip: Ipv4Addr,
    /// Do not send the one ARP announcement by which switches learn where the destination MAC address is.
    #[arg(long)]
    pub no_announce: bool,
}

/// How a device is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Backend {
    /// Packet sockets.
    AfPacket,
    /// AF_XDP sockets, in the mode that libxdp finds for the device.
    AfXdp,
}

/// Packets per second.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rate {
    /// As fast as it goes.
    Max,
    /// So many, above 0.
    PerSecond(f64),
}

/// The text is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a rate: expected 'max' or 1 to 1000M packets per second, as in 10000, 250k or 1.5M")]
pub struct InvalidRate(pub String);

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        if text == "max" {
            return Ok(Rate::Max);
        }
        let (digits, unit) = match text.strip_suffix(['k', 'K']) {
            Some(digits) => (digits, 1e3),
            None => text.strip_suffix('M').map_or((text, 1.0), |digits| (digits, 1e6)),
        };
        let rate = digits.parse::<f64>().map(|number| number * unit);
        rate.ok()
            .filter(|rate| (1.0..=1e9).contains(rate))
            .map(Rate::PerSecond)
            .ok_or(InvalidRate(text.to_owned()))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.01..=600.0).contains(number));
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("'{text}' is out of range: 0.01 to 600 seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["weft-pktgen", "--tx", "a0@left", "--rx", "b0"].iter().chain(extra))
    }

    #[test]
    fn defaults_are_the_smallest_frame_and_one_flow() {
        let plan = parse(&[]).unwrap().plan;
        assert_eq!((plan.size, plan.flows, plan.rate), (60, 1, Rate::Max));
        assert_eq!((plan.tx.netns.as_deref(), plan.rx.netns.as_deref()), (Some("left"), None));
    }

    #[test]
    fn rates_take_a_unit() {
        assert_eq!("250k".parse(), Ok(Rate::PerSecond(250e3)));
        assert_eq!("1.5M".parse(), Ok(Rate::PerSecond(1.5e6)));
        for text in ["0", "-5", "nan", "inf", "2G", "", "k", "1e10"] {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate(text.to_owned())));
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        for (option, value, range) in [
            ("--size", "59", "60..=9000"),
            ("--size", "9001", "60..=9000"),
            ("--flows", "0", "1..=1000000"),
            ("--vlan", "4096", "0 to 4095"),
            ("--seconds", "0", "0.01 to 600"),
            ("--rate", "0", "1 to 1000M"),
        ] {
            let error = parse(&[option, value]).unwrap_err().to_string();
            assert!(error.contains(range), "{option} {value}: {error}");
        }
    }
}
