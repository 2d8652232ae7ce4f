//! The command line. What keys take is listed from `weft_config::keys`, the same list that differences use.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use weft_config::control::DEFAULT_SOCKET;
use weft_config::keys::{self, Key};

/// Drives a weft switch.
#[derive(Parser, Debug)]
#[command(name = "weftctl", version, about, arg_required_else_help = true)]
pub struct Args {
    /// The switch's control socket.
    #[arg(long, value_name = "PATH", env = "WEFT_SOCKET", hide_env_values = true, default_value = DEFAULT_SOCKET, global = true)]
    pub socket: PathBuf,
    /// Print the switch's responses as JSON, one on a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Bridges.
    Bridge {
        #[command(subcommand)]
        command: BridgeCommand,
    },
    /// Ports of bridges.
    Port {
        #[command(subcommand)]
        command: PortCommand,
    },
    /// Tunnels to other nodes.
    Tunnel {
        #[command(subcommand)]
        command: TunnelCommand,
    },
    /// The map between VLANs of a bridge and VNIs of its tunnels.
    Vni {
        #[command(subcommand)]
        command: VniCommand,
    },
    /// Stations: which MAC address is behind which port.
    Fdb {
        #[command(subcommand)]
        command: FdbCommand,
    },
    /// The rules of a bridge, in ovs-ofctl's syntax (see ovs-fields(7) and ovs-actions(7)).
    Flow {
        #[command(subcommand)]
        command: crate::flow::FlowCommand,
    },
    /// The groups that rules send packets to.
    Group {
        #[command(subcommand)]
        command: crate::flow::GroupCommand,
    },
    /// The meters that rules send packets through.
    Meter {
        #[command(subcommand)]
        command: crate::flow::MeterCommand,
    },
    /// Security groups: what ports that are bound to them may send and receive.
    Acl {
        #[command(subcommand)]
        command: crate::acl::AclCommand,
    },
    /// What workers remember of the flows of a port.
    Cache {
        #[command(subcommand)]
        command: crate::flow::CacheCommand,
    },
    /// Counters; all of them when none is named.
    Stats { what: Option<Stats> },
    /// The whole switch on one screen.
    Show,
    /// What the switch would do with a packet, step by step, and why; nothing comes of it.
    #[command(after_help = crate::trace::HELP)]
    Trace(crate::trace::TraceArgs),
    /// The switch's configuration as a whole.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// The version of the switch.
    Version,
}

/// `weftctl bridge`
#[derive(Subcommand, Debug)]
pub enum BridgeCommand {
    /// Add a bridge.
    #[command(after_help = list(keys::BRIDGE))]
    Add {
        name: String,
        #[arg(value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Change a bridge; KEY= puts a key back to its default.
    #[command(after_help = list(keys::BRIDGE))]
    Set {
        name: String,
        #[arg(value_name = "KEY=VALUE", required = true)]
        set: Vec<String>,
    },
    /// Remove a bridge with its ports and tunnels.
    Del { name: String },
    /// List all bridges.
    List,
}

/// `weftctl port`
#[derive(Subcommand, Debug)]
pub enum PortCommand {
    /// Add a port to a bridge.
    #[command(after_help = list(keys::PORT))]
    Add {
        bridge: String,
        name: String,
        #[arg(value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Change a port; KEY= puts a key back to its default.
    #[command(after_help = list(keys::PORT))]
    Set {
        name: String,
        #[arg(value_name = "KEY=VALUE", required = true)]
        set: Vec<String>,
    },
    /// Remove a port.
    Del { name: String },
    /// Show all about one port.
    Show { name: String },
    /// List the ports of a bridge, or of all.
    List { bridge: Option<String> },
}

/// `weftctl tunnel`
#[derive(Subcommand, Debug)]
pub enum TunnelCommand {
    /// Add a tunnel to a bridge.
    #[command(after_help = list(keys::TUNNEL))]
    Add {
        bridge: String,
        name: String,
        #[arg(value_name = "KEY=VALUE", required = true)]
        set: Vec<String>,
    },
    /// Change a tunnel; KEY= puts a key back to its default.
    #[command(after_help = list(keys::TUNNEL))]
    Set {
        name: String,
        #[arg(value_name = "KEY=VALUE", required = true)]
        set: Vec<String>,
    },
    /// Remove a tunnel.
    Del { name: String },
    /// Show all about one tunnel.
    Show { name: String },
    /// List the tunnels of a bridge, or of all.
    List { bridge: Option<String> },
}

/// `weftctl vni`
#[derive(Subcommand, Debug)]
pub enum VniCommand {
    /// Map a VLAN (0 to 4095) of a bridge to a VNI (0 to 16777215).
    Map { bridge: String, vlan: String, vni: String },
    /// Take a VLAN out of the map.
    Unmap { bridge: String, vlan: String },
    /// List the map of a bridge, or of all.
    List { bridge: Option<String> },
}

/// `weftctl fdb`
#[derive(Subcommand, Debug)]
pub enum FdbCommand {
    /// Show the stations of a bridge, or of all.
    Show { bridge: Option<String> },
    /// Add a static entry: a station that is always behind this port.
    Add { bridge: String, port: String, vlan: String, mac: String },
    /// Remove a static entry.
    Del { bridge: String, vlan: String, mac: String },
    /// Forget what was learned, by a bridge or by all; static entries stay.
    Flush {
        /// A bridge, port=PORT, vlan=0 to 4095: what matches all that is given
        #[arg(value_name = "BRIDGE|KEY=VALUE")]
        what: Vec<String>,
    },
}

/// `weftctl config`
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Print the configuration as TOML.
    Show,
    /// Make the switch equal to a TOML file (- is standard input), and print what changed.
    Apply { file: PathBuf },
    /// Write the configuration to a TOML file (- is standard output).
    Save { file: PathBuf },
}

/// `weftctl stats`
#[derive(Clone, Copy, ValueEnum, Debug, PartialEq, Eq)]
pub enum Stats {
    /// Packets, bytes and drops by port.
    Ports,
    /// Drops by reason.
    Drops,
    /// The workers' flow caches.
    Cache,
    /// The workers.
    Workers,
}

/// The keys of a table for a command's help.
pub fn list(keys: &[Key]) -> String {
    let mut text = "Keys:".to_owned();
    for key in keys.iter().filter(|key| key.name != "name") {
        let default = match key.default {
            "" => " (required)".to_owned(),
            "none" => String::new(),
            default => format!(" [default: {default}]"),
        };
        text.push_str(&format!("\n  {}={}\n      {}{default}", key.name, key.legal, key.help));
    }
    text
}
