//! What came of a run, for people and for programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::cli::{Plan, Rate};

/// The counts and rates of one run. All packet counts are exact.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The sending device.
    pub tx: String,
    /// The receiving device.
    pub rx: String,
    /// Octets per frame, tag included, FCS not.
    pub size: u16,
    /// Flows.
    pub flows: u32,
    /// The tag that was sent.
    pub vlan: Option<u16>,
    /// Packets per second that were asked for; null for as fast as it goes.
    pub asked_pps: Option<f64>,
    /// Seconds from the first packet sent to the last.
    pub seconds: f64,
    /// Packets that the kernel took from the sender.
    pub sent: u64,
    /// Different packets that arrived whole.
    pub received: u64,
    /// Packets that were sent and did not arrive whole.
    pub lost: u64,
    /// Lost of sent, in percent.
    pub lost_percent: f64,
    /// Second and further copies of a packet.
    pub duplicated: u64,
    /// Packets that came after a later one of their flow.
    pub reordered: u64,
    /// Packets of this run that arrived with a wrong length or checksum; they count as lost too.
    pub damaged: u64,
    /// Other frames that arrived meanwhile.
    pub foreign: u64,
    /// Frames that the receiving socket dropped because this program was too slow.
    pub receiver_drops: u64,
    /// Packets per second sent.
    pub tx_pps: f64,
    /// Packets per second received, from the first arrival to the last.
    pub rx_pps: f64,
    /// Gigabits per second sent, of frames without FCS, preamble and gap.
    pub tx_gbps: f64,
    /// Gigabits per second received, as above.
    pub rx_gbps: f64,
}

/// What the two threads counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Packets that the kernel took.
    pub sent: u64,
    /// From the first burst to the end of the last.
    pub sending: Duration,
    /// Different packets that arrived.
    pub received: u64,
    /// From the first arrival to the last.
    pub receiving: Duration,
    /// Further copies.
    pub duplicated: u64,
    /// Late ones.
    pub reordered: u64,
    /// Wrong ones.
    pub damaged: u64,
    /// Other frames.
    pub foreign: u64,
    /// What the receiving socket dropped.
    pub receiver_drops: u64,
}

fn per_second(packets: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { packets as f64 / time.as_secs_f64() }
}

impl Report {
    /// Puts a run's numbers together.
    pub fn new(plan: &Plan, counts: &Counts) -> Self {
        let (tx_pps, rx_pps) =
            (per_second(counts.sent, counts.sending), per_second(counts.received, counts.receiving));
        let lost = counts.sent.saturating_sub(counts.received);
        let gigabits = f64::from(plan.size) * 8.0 / 1e9;
        Report {
            tx: plan.tx.to_string(),
            rx: plan.rx.to_string(),
            size: plan.size,
            flows: plan.flows,
            vlan: plan.vlan.map(weft_wire::Vid::get),
            asked_pps: match plan.rate {
                Rate::Max => None,
                Rate::PerSecond(rate) => Some(rate),
            },
            seconds: counts.sending.as_secs_f64(),
            sent: counts.sent,
            received: counts.received,
            lost,
            lost_percent: if counts.sent == 0 { 0.0 } else { 100.0 * lost as f64 / counts.sent as f64 },
            duplicated: counts.duplicated,
            reordered: counts.reordered,
            damaged: counts.damaged,
            foreign: counts.foreign,
            receiver_drops: counts.receiver_drops,
            tx_pps,
            rx_pps,
            tx_gbps: tx_pps * gigabits,
            rx_gbps: rx_pps * gigabits,
        }
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vlan = self.vlan.map(|vid| format!(", VLAN {vid}")).unwrap_or_default();
        let flows = if self.flows == 1 { "flow" } else { "flows" };
        writeln!(out, "{} -> {}: {} octets, {} {flows}{vlan}", self.tx, self.rx, self.size, self.flows)?;
        let (sent, received) = (self.sent, self.received);
        writeln!(
            out,
            "  sent       {sent:>12} packets  {:>8.3} Mpps  {:>7.3} Gbit/s",
            self.tx_pps / 1e6,
            self.tx_gbps
        )?;
        writeln!(
            out,
            "  received   {received:>12} packets  {:>8.3} Mpps  {:>7.3} Gbit/s",
            self.rx_pps / 1e6,
            self.rx_gbps
        )?;
        writeln!(out, "  lost       {:>12} packets  {:>8.4} %", self.lost, self.lost_percent)?;
        writeln!(
            out,
            "  duplicated {:>12}   reordered {}   damaged {}",
            self.duplicated, self.reordered, self.damaged
        )?;
        write!(out, "  foreign    {:>12}", self.foreign)?;
        match self.receiver_drops {
            0 => writeln!(out),
            drops => writeln!(
                out,
                "\n  of the lost, the receiving socket dropped {drops}: weft-pktgen was too slow"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Args;
    use clap::Parser;

    fn report(receiver_drops: u64) -> Report {
        let args = [
            "weft-pktgen",
            "--tx",
            "a@left",
            "--rx",
            "b@right",
            "--vlan",
            "100",
            "--rate",
            "1M",
            "--size",
            "125",
        ];
        let second = Duration::from_secs(1);
        let counts = Counts {
            sent: 1_000_000,
            sending: second,
            received: 999_000,
            receiving: second,
            duplicated: 3,
            reordered: 2,
            damaged: 1,
            foreign: 4,
            receiver_drops,
        };
        Report::new(&Args::try_parse_from(args).unwrap().plan, &counts)
    }

    #[test]
    fn people_get_one_block() {
        assert_eq!(
            report(0).to_string(),
            "a@left -> b@right: 125 octets, 1 flow, VLAN 100\n\
            \x20 sent            1000000 packets     1.000 Mpps    1.000 Gbit/s\n\
            \x20 received         999000 packets     0.999 Mpps    0.999 Gbit/s\n\
            \x20 lost               1000 packets    0.1000 %\n\
            \x20 duplicated            3   reordered 2   damaged 1\n\
            \x20 foreign               4\n"
        );
        assert!(
            report(7).to_string().ends_with("the receiving socket dropped 7: weft-pktgen was too slow\n")
        );
    }

    #[test]
    fn programs_get_the_same_numbers() {
        let json: serde_json::Value = serde_json::from_str(&report(7).to_json()).unwrap();
        assert_eq!((json["sent"].as_u64(), json["lost"].as_u64()), (Some(1_000_000), Some(1000)));
        assert_eq!((json["vlan"].as_u64(), json["receiver_drops"].as_u64()), (Some(100), Some(7)));
        assert_eq!(json["lost_percent"].as_f64(), Some(0.1));
    }
}
