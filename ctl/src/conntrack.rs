//! `weftctl conntrack`: command lines, what they ask, and the text of the answers.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::Subcommand;
use serde_json::{Value as Json, json};
use weft_config::Change;
use weft_config::conntrack::{Conntrack, Limit, TIMEOUTS, Zone, ZoneId};
use weft_config::control::{
    ConnectionStatus, ConntrackCount, ConntrackFilter, ConntrackOp, ConntrackReply, Op, Reply, ZoneCount,
    ZoneLimitStatus, ZoneTimeouts,
};
use weft_config::keys;

use crate::request::{UsageError, pairs, settings, value};
use crate::table::Table;

const FILTER: &str = "\
A filter is any of zone=N proto=tcp src=IP dst=IP sport=N dport=N reply_src=IP reply_dst=IP reply_sport=N
reply_dport=N mark=VALUE[/MASK] label=VALUE[/MASK]: what fits all that is said. src, dst and ports are those of the
packet that began the connection; those of the replies tell how it is translated.";

/// `weftctl conntrack`
#[derive(Subcommand, Debug)]
pub enum ConntrackCommand {
    /// List connections, as ovs-appctl dpctl/dump-conntrack does.
    #[command(after_help = FILTER)]
    List {
        #[arg(value_name = "KEY=VALUE")]
        filter: Vec<String>,
        /// At most so many
        #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
        limit: u32,
    },
    /// End connections: the next packet of each begins anew; all of them when no filter is given.
    #[command(after_help = FILTER)]
    Flush {
        #[arg(value_name = "KEY=VALUE")]
        filter: Vec<String>,
    },
    /// Count connections, by zone.
    #[command(after_help = FILTER)]
    Count {
        #[arg(value_name = "KEY=VALUE")]
        filter: Vec<String>,
    },
    /// Show how many connections zones may have, or set it.
    Limit {
        /// A zone (0 to 65535), or default: all that have no limit of their own
        zone: Option<String>,
        /// A number, unlimited, or - for none of its own
        #[arg(requires = "zone", allow_hyphen_values = true)]
        limit: Option<String>,
    },
    /// Show how long connections live without a packet, or set it.
    #[command(after_help = timeouts())]
    Timeout {
        /// A zone (0 to 65535), or default: what zones don't say otherwise
        zone: Option<String>,
        /// Seconds by name; NAME= puts one back
        #[arg(value_name = "NAME=SECONDS", requires = "zone")]
        set: Vec<String>,
    },
}

fn timeouts() -> String {
    let keys = timeouts_of(keys::CONNTRACK);
    let lines = keys.iter().map(|key| format!("\n  {}={}\n      {}", key.name, key.legal, key.help));
    format!("Names:{}", lines.collect::<String>())
}

/// What the command asks for.
pub fn operation(command: &ConntrackCommand) -> Result<Op, UsageError> {
    Ok(match command {
        ConntrackCommand::List { filter: words, limit } => {
            Op::Conntrack(ConntrackOp::List { filter: filter(words)?, limit: *limit, from: 0 })
        }
        ConntrackCommand::Flush { filter: words } => {
            Op::Conntrack(ConntrackOp::Flush { filter: filter(words)? })
        }
        ConntrackCommand::Count { filter: words } => {
            Op::Conntrack(ConntrackOp::Count { filter: filter(words)? })
        }
        ConntrackCommand::Limit { zone: Some(zone), limit: Some(limit) } => {
            let limit = match limit.as_str() {
                "-" | "" => Json::Null,
                text => json!(value::<Limit>("limit", text)?.to_string()),
            };
            change(zone, BTreeMap::from([("limit".to_owned(), limit)]))?
        }
        ConntrackCommand::Limit { zone, .. } => {
            zone.as_deref().map(zone_of).transpose()?;
            Op::Conntrack(ConntrackOp::Limits)
        }
        ConntrackCommand::Timeout { zone: Some(zone), set } if !set.is_empty() => {
            let id = zone_of(zone)?;
            let set = match id {
                None => settings::<Conntrack>("conntrack", zone, set, &timeouts_of(keys::CONNTRACK))?,
                Some(_) => settings::<Zone>("conntrack zone", zone, set, &timeouts_of(keys::CONNTRACK_ZONE))?,
            };
            change(zone, set)?
        }
        ConntrackCommand::Timeout { zone, .. } => {
            zone.as_deref().map(zone_of).transpose()?;
            Op::Conntrack(ConntrackOp::Timeouts)
        }
    })
}

/// Those of the keys that are timeouts, and the zone's number.
fn timeouts_of(keys: &[keys::Key]) -> Vec<keys::Key> {
    keys.iter().copied().filter(|key| key.name == "id" || TIMEOUTS.contains(&key.name)).collect()
}

fn change(zone: &str, set: BTreeMap<String, Json>) -> Result<Op, UsageError> {
    Ok(Op::Apply { changes: vec![Change::ConntrackSet { zone: zone_of(zone)?, set }] })
}

fn zone_of(text: &str) -> Result<Option<ZoneId>, UsageError> {
    if text == "default" { Ok(None) } else { value("zone", text).map(Some) }
}

fn filter(words: &[String]) -> Result<ConntrackFilter, UsageError> {
    let mut given = serde_json::Map::new();
    for (key, text) in pairs("connections", words, &ConntrackFilter::KEYS)? {
        let number = || text.parse::<u32>().map_or_else(|_| json!(text), |number| json!(number));
        let is_number = matches!(key, "zone" | "sport" | "dport" | "reply_sport" | "reply_dport");
        given.insert(key.to_owned(), if is_number { number() } else { json!(text) });
    }
    serde_path_to_error::deserialize(Json::Object(given)).map_err(|error| {
        let key = error.path().to_string();
        let problem = match key.as_str() {
            "zone" | "sport" | "dport" | "reply_sport" | "reply_dport" => {
                "not a number: 0 to 65535".to_owned()
            }
            "src" | "dst" | "reply_src" | "reply_dst" => "not an IP address".to_owned(),
            _ => error.inner().to_string(),
        };
        UsageError::Value { place: format!("connections: {key}"), problem }
    })
}

/// What asks for the rest of a long listing.
pub fn goes_on(op: &Op, reply: &Reply) -> Option<Op> {
    let Op::Conntrack(ConntrackOp::List { filter, limit, .. }) = op else { return None };
    let Reply::Conntrack(ConntrackReply::Connections { connections, next: Some(next), .. }) = reply else {
        return None;
    };
    let left = limit.saturating_sub(u32::try_from(connections.len()).unwrap_or(u32::MAX));
    Some(Op::Conntrack(ConntrackOp::List { filter: filter.clone(), limit: left, from: *next }))
}

/// The text for the answer.
pub fn render(command: &ConntrackCommand, reply: &ConntrackReply) -> String {
    match reply {
        ConntrackReply::Connections { connections, more, .. } => list(connections, *more),
        ConntrackReply::Flushed { connections } => format!("{connections} connections flushed\n"),
        ConntrackReply::Counted(count) => counted(count),
        ConntrackReply::Limits { max, default, zones } => {
            let wanted = match command {
                ConntrackCommand::Limit { zone: Some(zone), .. } => zone.parse::<u16>().ok(),
                _ => None,
            };
            limits((*max, *default), zones, wanted)
        }
        ConntrackReply::Timeouts { default, zones } => timeout_table(default, zones),
    }
}

fn list(connections: &[ConnectionStatus], more: u64) -> String {
    let mut text: String = connections.iter().map(|connection| format!("{}\n", connection.text)).collect();
    if more > 0 {
        let _ = writeln!(text, "{more} more; --limit NUMBER lists more, a filter less");
    }
    text
}

fn counted(count: &ConntrackCount) -> String {
    let mut text = format!("{} connections\n", count.connections);
    let mut zones = Table::new(&[">zone", ">connections"]);
    for ZoneCount { zone, connections } in &count.zones {
        zones.row([zone.to_string(), connections.to_string()]);
    }
    let mut totals = Table::new(&["since the start", ">connections"]);
    for (name, connections) in count.totals.iter().filter(|(_, connections)| **connections > 0) {
        totals.row([name.clone(), connections.to_string()]);
    }
    for table in [zones.render(), totals.render()].iter().filter(|table| !table.is_empty()) {
        let _ = write!(text, "\n{table}");
    }
    text
}

fn limits((max, default): (u32, Option<u32>), zones: &[ZoneLimitStatus], wanted: Option<u16>) -> String {
    let name = |limit: Option<u32>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let mut table = Table::new(&[">zone", ">connections", ">limit", "of", ">refused"]);
    for zone in zones.iter().filter(|zone| wanted.is_none_or(|wanted| wanted == zone.zone)) {
        let of = if zone.own { "its own" } else { "the default" };
        table.row([
            zone.zone.to_string(),
            zone.connections.to_string(),
            name(zone.limit),
            of.to_owned(),
            zone.refused.to_string(),
        ]);
    }
    let zones = table.render();
    let gap = if zones.is_empty() { "" } else { "\n" };
    format!("{max} connections in all; default of a zone: {}\n{gap}{zones}", name(default))
}

fn timeout_table(default: &BTreeMap<String, u32>, zones: &[ZoneTimeouts]) -> String {
    let mut text = String::from("seconds without a packet\n");
    let titles: Vec<String> = zones.iter().map(|of| format!("zone {}", of.zone)).collect();
    let width = |title: &str| title.len().max(9);
    let _ = write!(text, "{:<16}{:>9}", "", "default");
    titles.iter().for_each(|title| {
        let _ = write!(text, "  {title:>width$}", width = width(title));
    });
    text.push('\n');
    for (name, seconds) in default {
        let _ = write!(text, "{name:<16}{seconds:>9}");
        for (title, own) in titles.iter().zip(zones) {
            let own = own.seconds.get(name).filter(|own| *own != seconds);
            let cell = own.map_or_else(|| "-".to_owned(), ToString::to_string);
            let _ = write!(text, "  {cell:>width$}", width = width(title));
        }
        text.push('\n');
    }
    text
}
