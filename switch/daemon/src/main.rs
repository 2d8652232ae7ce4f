//! The `weftd` command.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use weft_daemon::assemble::{self, Places};

/// The weft switch. Runs in the foreground; SIGTERM stops it, SIGHUP applies the configuration file.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Flags {
    /// TOML file that seeds an empty state, and that SIGHUP applies.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the state file, which is the truth; made if need be.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft")]
    state_dir: PathBuf,
    /// Control socket, for weftctl.
    #[arg(long, value_name = "PATH", default_value = weft_config::control::DEFAULT_SOCKET, env = "WEFT_SOCKET")]
    socket: PathBuf,
    /// What to log: error, warn, info, debug or trace, or a tracing filter.
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = |text: &str| EnvFilter::try_new(text).map(|_| text.to_owned()))]
    log: String,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    // The flag's parser has accepted it already.
    let filter = EnvFilter::try_new(&flags.log).unwrap_or_default();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    log.with_ansi(std::io::stderr().is_terminal()).init();
    let places = Places { config: flags.config, state_dir: flags.state_dir, socket: flags.socket };
    match assemble::run(&places) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
