//! Reading and writing meters: `meter=1,kbps,burst,stats,band=type=drop,rate=1000,burst_size=100`.

use std::fmt::Write;
use std::time::Duration;

use super::error::{Error, Problem};
use super::number;
use super::token::{Item, Token};
use crate::message::{Band, BandKind, MeterCommand, MeterMod, MeterSpec};

/// Reserved meters and their names.
const RESERVED: [(&str, u32); 3] =
    [("slowpath", MeterMod::SLOWPATH), ("controller", MeterMod::CONTROLLER), ("all", MeterMod::ALL)];

/// A band in the making.
struct BandReader<'a> {
    token: Token<'a>,
    remark: bool,
    rate: Option<u32>,
    burst_size: Option<(u32, Token<'a>)>,
    level: Option<(u8, Token<'a>)>,
}

/// Reads a meter.
pub(super) fn parse(line: Token<'_>, command: MeterCommand) -> Result<MeterMod, Error> {
    let mut meter = MeterSpec::default();
    if command == MeterCommand::Delete && line.trim().is_empty() {
        meter.id = MeterMod::ALL;
        return Ok(MeterMod { command, meter });
    }
    let mut unit = None;
    // From the first band on, all settings are bands'.
    let mut bands: Option<Vec<BandReader<'_>>> = None;
    for item in line.items() {
        let item = item?;
        match (&mut bands, item.key.text) {
            (_, "band" | "bands") if command != MeterCommand::Delete => {
                let bands = bands.get_or_insert_default();
                for item in item.value.items() {
                    band_setting(bands, &item?)?;
                }
            }
            (Some(bands), _) => band_setting(bands, &item)?,
            (None, _) => setting(&mut meter, &mut unit, command, &item)?,
        }
    }
    if meter.id == 0 {
        return line.fail(Problem::Missing("meter="));
    }
    if command != MeterCommand::Delete {
        meter.packets = unit.ok_or_else(|| line.error(Problem::Missing("kbps or pktps")))?;
        let bands = bands.filter(|bands| !bands.is_empty());
        let bands = bands.ok_or_else(|| line.error(Problem::Missing("band=type=..")))?;
        meter.bands = bands.iter().map(|band| band.finish(meter.burst)).collect::<Result<_, _>>()?;
    }
    Ok(MeterMod { command, meter })
}

fn setting(
    meter: &mut MeterSpec,
    unit: &mut Option<bool>,
    command: MeterCommand,
    item: &Item<'_>,
) -> Result<(), Error> {
    let word = item.key.text;
    match word {
        "meter" if meter.id != 0 => return item.whole.fail(Problem::Twice),
        "meter" => meter.id = meter_id(item.value)?,
        "kbps" | "pktps" | "burst" | "stats" if command == MeterCommand::Delete => {
            return item.whole.fail(Problem::NotHere);
        }
        "kbps" | "pktps" => {
            if unit.replace(word == "pktps").is_some() {
                return item.whole.fail(Problem::Excludes("another kbps or pktps"));
            }
        }
        "burst" => meter.burst = true,
        "stats" => meter.stats = true,
        _ => return item.key.fail(Problem::UnknownKeyword),
    }
    Ok(())
}

fn meter_id(value: Token<'_>) -> Result<u32, Error> {
    let reserved = RESERVED.iter().find(|(name, _)| *name == value.text);
    match reserved {
        Some((_, id)) => Ok(*id),
        None => value.number_in("the meter", 1, MeterMod::MAX.into()).map(|id| id as u32),
    }
}

fn band_setting<'a>(bands: &mut Vec<BandReader<'a>>, item: &Item<'a>) -> Result<(), Error> {
    let value = item.value;
    if item.key.text == "type" {
        let remark = match value.text {
            "drop" => false,
            "dscp_remark" => true,
            _ => return value.fail(Problem::Expected("drop or dscp_remark")),
        };
        bands.push(BandReader { token: item.whole, remark, rate: None, burst_size: None, level: None });
        return Ok(());
    }
    let Some(band) = bands.last_mut() else {
        return item.whole.fail(Problem::Expected("type=, which a band starts with"));
    };
    let twice = match item.key.text {
        "rate" => band.rate.replace(value.number_in("the rate", 1, u32::MAX.into())? as u32).is_some(),
        "burst_size" => {
            let size = value.number_in("the burst size", 1, u32::MAX.into())? as u32;
            band.burst_size.replace((size, item.whole)).is_some()
        }
        "prec_level" => {
            let level = value.number_in("the precedence level", 1, u8::MAX.into())? as u8;
            band.level.replace((level, item.whole)).is_some()
        }
        _ => return item.key.fail(Problem::UnknownKeyword),
    };
    if twice { item.whole.fail(Problem::Twice) } else { Ok(()) }
}

impl BandReader<'_> {
    fn finish(&self, burst: bool) -> Result<Band, Error> {
        let kind = match (self.remark, self.level) {
            (true, Some((level, _))) => BandKind::DscpRemark(level),
            (true, None) => return self.token.fail(Problem::Needs("prec_level")),
            (false, Some((_, token))) => return token.fail(Problem::Needs("type=dscp_remark")),
            (false, None) => BandKind::Drop,
        };
        let burst_size = match (burst, self.burst_size) {
            (true, Some((size, _))) => size,
            (true, None) => return self.token.fail(Problem::Needs("burst_size, as the meter has burst")),
            (false, Some((_, token))) => return token.fail(Problem::Needs("burst before the bands")),
            (false, None) => 0,
        };
        let rate = self.rate.ok_or_else(|| self.token.error(Problem::Needs("rate")))?;
        Ok(Band { kind, rate, burst_size })
    }
}

/// `meter=1` or `meter:1`
fn print_id(out: &mut String, id: u32, separator: char) {
    // A String takes all that is written.
    let _ = match RESERVED.iter().find(|(_, reserved)| *reserved == id) {
        Some((name, _)) => write!(out, "meter{separator}{name} "),
        None => write!(out, "meter{separator}{id} "),
    };
}

/// Writes a meter.
pub(super) fn print(meter: &MeterSpec) -> String {
    let mut out = String::new();
    print_id(&mut out, meter.id, '=');
    out.push_str(if meter.packets { "pktps " } else { "kbps " });
    out.push_str(if meter.burst { "burst " } else { "" });
    out.push_str(if meter.stats { "stats " } else { "" });
    out.push_str("bands=");
    for band in &meter.bands {
        let kind = if band.kind == BandKind::Drop { "drop" } else { "dscp_remark" };
        let _ = write!(out, "\ntype={kind} rate={}", band.rate);
        if meter.burst {
            let _ = write!(out, " burst_size={}", band.burst_size);
        }
        if let BandKind::DscpRemark(level) = band.kind {
            let _ = write!(out, " prec_level={level}");
        }
    }
    out.push('\n');
    out
}

/// What `ovs-ofctl meter-stats` says of a meter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MeterStats {
    /// How many rules use it.
    pub flows: u32,
    /// Packets that came to it.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// How long it has been there.
    pub duration: Duration,
    /// Packets and octets of each band.
    pub bands: Vec<(u64, u64)>,
}

/// Writes a meter's statistics: a line, and one for each band.
pub fn print_meter_stats(id: u32, stats: &MeterStats) -> String {
    let mut out = String::new();
    print_id(&mut out, id, ':');
    let MeterStats { flows, packets, bytes, .. } = stats;
    let _ = write!(out, "flow_count:{flows} packet_in_count:{packets} byte_in_count:{bytes} duration:");
    number::duration(&mut out, stats.duration);
    out.push_str(" bands:\n");
    for (at, (packets, bytes)) in stats.bands.iter().enumerate() {
        let _ = writeln!(out, "{at}: packet_count:{packets} byte_count:{bytes}");
    }
    out
}
