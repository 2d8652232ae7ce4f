//! `weftctl top`: how busy the switch is, from two moments' counters. On a terminal as a live screen (`screen`), with
//! `--once` as text.

mod report;
mod screen;

use std::io::IsTerminal;
use std::time::Duration;

use weft_config::control::{Op, Reply, TopStatus};

use crate::args::Args;
use crate::client::{Client, ClientError};
use crate::{Error, accepted, print};

use report::Report;

/// `weftctl top`
#[derive(clap::Args, Debug)]
pub struct TopArgs {
    /// Print it once as text, and end.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    delay: f64,
}

/// Looks until somebody presses `q`, or once.
pub(crate) fn run(args: &Args, top: &TopArgs) -> Result<(), Error> {
    // Neither less than nothing nor longer than anybody waits.
    let delay =
        Duration::from_secs_f64(if top.delay.is_finite() { top.delay.clamp(0.0, 3600.0) } else { 1.0 });
    let mut client = Client::connect(&args.socket)?;
    let mut before = ask(args, &mut client)?;
    if top.once || args.json || !std::io::stdout().is_terminal() {
        loop {
            std::thread::sleep(delay);
            let now = ask(args, &mut client)?;
            let report = Report::new(&before, &now);
            print(&if args.json { report.json() } else { report.text() })?;
            if top.once || !args.json {
                return Ok(());
            }
            before = now;
        }
    }
    screen::run(delay, |shown: &mut Option<Report>| {
        let now = ask(args, &mut client)?;
        *shown = Some(Report::new(&before, &now));
        before = now;
        Ok(())
    })
}

fn ask(args: &Args, client: &mut Client) -> Result<TopStatus, Error> {
    let (line, response) = client.ask(Op::Top)?;
    match accepted(args, &line, response)? {
        Reply::Top { top } => Ok(*top),
        _ => Err(ClientError::Unexpected.into()),
    }
}
