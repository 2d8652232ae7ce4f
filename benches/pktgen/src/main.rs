//! The command line of `weft-pktgen`; the work is the library's.

use std::process::ExitCode;

use clap::Parser;
use weft_pktgen::cli::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    match weft_pktgen::run(&args.plan) {
        Ok(report) if args.json => {
            println!("{}", report.to_json());
            ExitCode::SUCCESS
        }
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weft-pktgen: {error}");
            ExitCode::FAILURE
        }
    }
}
