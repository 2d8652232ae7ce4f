//! A command becomes operations of the control protocol, checked as far as it can be without the switch.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use weft_config::control::{Flush, Op, Scope};
use weft_config::keys::{self, Key};
use weft_config::value::Value;
use weft_config::{Bridge, Change, Port, StaticEntry, Tunnel, ValueError};
use weft_wire::{PortName, TunnelKey, TunnelKind};

use crate::args::{
    BridgeCommand, Command, ConfigCommand, FdbCommand, PortCommand, Stats, TunnelCommand, VniCommand,
};

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Not `key=value`.
    #[error("{what}: '{word}' is not KEY=VALUE: the keys are {keys}", word = .word.escape_debug())]
    NoKey {
        /// What is to be set.
        what: String,
        /// What was given.
        word: String,
        /// The keys that there are.
        keys: String,
    },
    /// No key of that kind of thing.
    #[error("{what}: there is no key '{key}': the keys are {keys}", key = .key.escape_debug())]
    UnknownKey {
        /// What is to be set.
        what: String,
        /// What was given.
        key: String,
        /// The keys that there are.
        keys: String,
    },
    /// A key twice.
    #[error("{what}: {key} is given twice")]
    Twice {
        /// What is to be set.
        what: String,
        /// The key.
        key: String,
    },
    /// A key that has to be there.
    #[error("{what}: {key}={legal} is missing")]
    Missing {
        /// What is to be set.
        what: String,
        /// The key.
        key: &'static str,
        /// What it takes.
        legal: &'static str,
    },
    /// Nothing to do.
    #[error("nothing is given: name rules, groups or meters, or --file FILE")]
    NoText,
    /// An argument of several lines.
    #[error("'{}' has several lines: give one rule an argument, or --file FILE", .text.escape_debug())]
    SeveralLines {
        /// The argument.
        text: String,
    },
    /// A value that its key or place does not take.
    #[error("{place}: {problem}")]
    Value {
        /// Where it stands.
        place: String,
        /// What is wrong, with the legal range.
        problem: String,
    },
}

/// The operations that do what the command says, in order.
pub fn operations(command: &Command) -> Result<Vec<Op>, UsageError> {
    let op = match command {
        Command::Bridge { command } => bridge(command)?,
        Command::Port { command } => port(command)?,
        Command::Tunnel { command } => tunnel(command)?,
        Command::Vni { command } => vni(command)?,
        Command::Fdb { command } => fdb(command)?,
        Command::Acl { command } => crate::acl::operation(command)?,
        Command::Stats { what: None } => {
            return Ok(vec![Op::StatsPorts, Op::StatsDrops, Op::StatsCache, Op::StatsWorkers]);
        }
        Command::Stats { what: Some(Stats::Ports) } => Op::StatsPorts,
        Command::Stats { what: Some(Stats::Drops) } => Op::StatsDrops,
        Command::Stats { what: Some(Stats::Cache) } => Op::StatsCache,
        Command::Stats { what: Some(Stats::Workers) } => Op::StatsWorkers,
        Command::Trace(_) => unreachable!("its caller reads the packet"),
        Command::Show => Op::Show,
        Command::Version => Op::Version,
        Command::Config { command: ConfigCommand::Show } => Op::ConfigShow,
        Command::Config { command: ConfigCommand::Apply { .. } | ConfigCommand::Save { .. } } => {
            unreachable!("commands with files are done by their caller")
        }
        Command::Flow { .. } | Command::Group { .. } | Command::Meter { .. } | Command::Cache { .. } => {
            unreachable!("they are asked in `crate::flow`")
        }
    };
    Ok(vec![op])
}

pub fn one(change: Change) -> Op {
    Op::Apply { changes: vec![change] }
}

fn bridge(command: &BridgeCommand) -> Result<Op, UsageError> {
    Ok(match command {
        BridgeCommand::Add { name, set } => {
            let bridge: Bridge = object("bridge", name, set, keys::BRIDGE)?;
            one(Change::BridgeAdd { bridge: Box::new(bridge) })
        }
        BridgeCommand::Set { name, set } => {
            let set = settings::<Bridge>("bridge", name, set, keys::BRIDGE)?;
            one(Change::BridgeSet { name: value("bridge", name)?, set })
        }
        BridgeCommand::Del { name } => one(Change::BridgeDel { name: value("bridge", name)? }),
        BridgeCommand::List => Op::BridgeShow(Scope::default()),
    })
}

fn port(command: &PortCommand) -> Result<Op, UsageError> {
    Ok(match command {
        PortCommand::Add { bridge, name, set } => {
            let bridge = value("bridge", bridge)?;
            let port: Port = object("port", name, set, keys::PORT)?;
            one(Change::PortAdd { bridge, port: Box::new(port) })
        }
        PortCommand::Set { name, set } => {
            let set = settings::<Port>("port", name, set, keys::PORT)?;
            one(Change::PortSet { name: value("port", name)?, set })
        }
        PortCommand::Del { name } => one(Change::PortDel { name: value("port", name)? }),
        PortCommand::Show { name } => Op::PortShow(Scope { bridge: None, name: Some(value("port", name)?) }),
        PortCommand::List { bridge } => Op::PortShow(Scope { bridge: maybe("bridge", bridge)?, name: None }),
    })
}

fn tunnel(command: &TunnelCommand) -> Result<Op, UsageError> {
    Ok(match command {
        TunnelCommand::Add { bridge, name, set } => {
            let bridge = value("bridge", bridge)?;
            let tunnel: Tunnel = object("tunnel", name, set, keys::TUNNEL)?;
            one(Change::TunnelAdd { bridge, tunnel: Box::new(tunnel) })
        }
        TunnelCommand::Set { name, set } => {
            let set = settings::<Tunnel>("tunnel", name, set, keys::TUNNEL)?;
            one(Change::TunnelSet { name: value("tunnel", name)?, set })
        }
        TunnelCommand::Del { name } => one(Change::TunnelDel { name: value("tunnel", name)? }),
        TunnelCommand::Show { name } => {
            Op::TunnelShow(Scope { bridge: None, name: Some(value("tunnel", name)?) })
        }
        TunnelCommand::List { bridge } => {
            Op::TunnelShow(Scope { bridge: maybe("bridge", bridge)?, name: None })
        }
    })
}

fn vni(command: &VniCommand) -> Result<Op, UsageError> {
    Ok(match command {
        VniCommand::Map { bridge, vlan, vni } => {
            let (bridge, vlan) = (value("bridge", bridge)?, value("vlan", vlan)?);
            let Vni(vni) = value("vni", vni)?;
            one(Change::VniMap { bridge, vlan, vni })
        }
        VniCommand::Unmap { bridge, vlan } => {
            one(Change::VniUnmap { bridge: value("bridge", bridge)?, vlan: value("vlan", vlan)? })
        }
        VniCommand::List { bridge } => Op::VniShow { bridge: maybe("bridge", bridge)? },
    })
}

struct Vni(TunnelKey);

impl Value for Vni {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let key = TunnelKey::parse(text).map_or(u64::MAX, |key| key.0.into());
        let range = ValueError::Number {
            value: weft_config::value::Quoted::new(text),
            min: 0,
            max: TunnelKind::Vxlan.max_key().into(),
        };
        TunnelKey::new(TunnelKind::Vxlan, key).map(Vni).map_err(|_| range)
    }
}

fn fdb(command: &FdbCommand) -> Result<Op, UsageError> {
    Ok(match command {
        FdbCommand::Show { bridge } => Op::FdbShow { bridge: maybe("bridge", bridge)? },
        FdbCommand::Add { bridge, port, vlan, mac } => {
            let entry = StaticEntry {
                vlan: value("vlan", vlan)?,
                mac: value("mac", mac)?,
                port: value("port", port)?,
            };
            one(Change::FdbAdd { bridge: value("bridge", bridge)?, entry })
        }
        FdbCommand::Del { bridge, vlan, mac } => {
            let (vlan, mac) = (value("vlan", vlan)?, value("mac", mac)?);
            one(Change::FdbDel { bridge: value("bridge", bridge)?, vlan, mac })
        }
        FdbCommand::Flush { what } => Op::FdbFlush(flush(what)?),
    })
}

fn flush(words: &[String]) -> Result<Flush, UsageError> {
    let named = words.first().filter(|word| !word.contains('='));
    let rest = words.get(usize::from(named.is_some())..).unwrap_or_default();
    let bridge = named.map(|bridge| value("bridge", bridge)).transpose()?;
    let mut flush = Flush { bridge, ..Flush::default() };
    for (key, text) in pairs("flush", rest, &["port", "vlan"])? {
        match key {
            "port" => flush.port = Some(value("port", &text)?),
            _ => flush.vlan = Some(value("vlan", &text)?),
        }
    }
    Ok(flush)
}

/// A value that stands by itself on the command line.
pub fn value<T: Value>(place: &str, text: &str) -> Result<T, UsageError> {
    T::parse(text).map_err(|error| UsageError::Value { place: place.to_owned(), problem: one_line(&error) })
}

fn maybe(place: &str, text: &Option<String>) -> Result<Option<PortName>, UsageError> {
    text.as_deref().map(|text| value(place, text)).transpose()
}

fn one_line(error: &impl ToString) -> String {
    error.to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `key=value` words by key, each at most once.
pub fn pairs<'a>(
    what: &str,
    words: &[String],
    keys: &[&'a str],
) -> Result<BTreeMap<&'a str, String>, UsageError> {
    let (what, list) = (what.to_owned(), keys.join(", "));
    let mut found = BTreeMap::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(UsageError::NoKey { what, word: word.clone(), keys: list });
        };
        let Some(key) = keys.iter().find(|known| **known == key) else {
            return Err(UsageError::UnknownKey { what, key: key.to_owned(), keys: list });
        };
        if found.insert(*key, value.to_owned()).is_some() {
            return Err(UsageError::Twice { what, key: (*key).to_owned() });
        }
    }
    Ok(found)
}

/// The words as JSON strings by key; the empty one is null, which stands for the default.
pub fn json_pairs(what: &str, words: &[String], keys: &[Key]) -> Result<BTreeMap<String, Json>, UsageError> {
    let names: Vec<&str> = keys.iter().map(|key| key.name).filter(|name| *name != "name").collect();
    let pairs = pairs(what, words, &names)?;
    let json = |key: &str, text: String| match (key, text.as_str()) {
        (_, "") => Json::Null,
        ("file", _) => json!(absolute(text)),
        _ => json!(text),
    };
    Ok(pairs.into_iter().map(|(key, text)| (key.to_owned(), json(key, text))).collect())
}

/// The switch has another working directory.
fn absolute(path: String) -> String {
    match std::path::absolute(&path) {
        Ok(whole) => whole.to_str().map_or(path, str::to_owned),
        Err(_) => path,
    }
}

/// A whole object with a name: what is to be added.
fn object<T: DeserializeOwned>(
    kind: &str,
    name: &str,
    words: &[String],
    keys: &[Key],
) -> Result<T, UsageError> {
    value::<PortName>(kind, name)?;
    let what = format!("{kind} {name}");
    let mut given = json_pairs(&what, words, keys)?;
    given.retain(|_, value| !value.is_null());
    given.insert("name".to_owned(), json!(name));
    if let Some(key) = keys.iter().find(|key| key.default.is_empty() && !given.contains_key(key.name)) {
        return Err(UsageError::Missing { what, key: key.name, legal: key.legal });
    }
    read(&what, given)
}

/// Keys to set, each checked by itself: how they go together, only the switch can know.
fn settings<T: DeserializeOwned>(
    kind: &str,
    name: &str,
    words: &[String],
    keys: &[Key],
) -> Result<BTreeMap<String, Json>, UsageError> {
    let what = format!("{kind} {name}");
    let set = json_pairs(&what, words, keys)?;
    let example = [("name", "x"), ("type", "gre"), ("local", "192.0.2.1"), ("remote", "192.0.2.2")];
    for (key, value) in set.iter().filter(|(_, value)| !value.is_null()) {
        let needed = example
            .iter()
            .filter(|(key, _)| keys.iter().any(|known| known.name == *key && known.default.is_empty()));
        let mut one: BTreeMap<String, Json> =
            needed.map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        one.insert(key.clone(), value.clone());
        read::<T>(&what, one)?;
    }
    Ok(set)
}

/// The object that these keys make.
pub fn read<T: DeserializeOwned>(what: &str, given: BTreeMap<String, Json>) -> Result<T, UsageError> {
    let json = Json::Object(given.into_iter().collect());
    serde_path_to_error::deserialize(json).map_err(|error| {
        let place = format!("{what}: {}", error.path());
        UsageError::Value { place, problem: one_line(error.inner()) }
    })
}
