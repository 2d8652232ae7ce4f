//! `weftctl` drives a weft switch over its control socket.
//!
//! A command line becomes requests of the control protocol ([`request`]), the switch answers them ([`client`]), and the
//! answers become text for people ([`text`]) or are printed as they came (`--json`).
//!
//! Exit status: 0 done, 1 the switch refused or can't be reached, 2 the command line is wrong (nothing was sent).
//! Every error is one line on standard error.

#![forbid(unsafe_code)]

mod acl;
mod args;
mod client;
mod conntrack;
mod flow;
mod request;
mod table;
mod text;
mod top;
mod trace;
mod why;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use weft_config::control::{FlowOp, Op, Outcome, Refusal, Reply, Response};

use args::{Args, Command, ConfigCommand};
use client::{Client, ClientError};
use flow::Asks;
use request::UsageError;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Text(#[from] flow::ReadError),
    #[error("{}: can't {doing}: {source}", .path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: {problem}", .path.display())]
    Capture { path: PathBuf, problem: trace::CaptureError },
    #[error("can't write the output: {0}")]
    Output(#[source] io::Error),
}

impl Error {
    fn status(&self) -> ExitCode {
        match self {
            Error::Usage(_) | Error::Capture { .. } => ExitCode::from(2),
            _ => ExitCode::from(1),
        }
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weftctl: {error}");
            error.status()
        }
    }
}

/// Help and version go to standard output; what is wrong becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return if error.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) };
    }
    let text = error.render().to_string();
    if !text.starts_with("error: ") {
        eprint!("{text}");
        return ExitCode::from(2);
    }
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    eprintln!("weftctl: {}; see 'weftctl --help'", first.join(" ").trim_start_matches("error: "));
    ExitCode::from(2)
}

fn run(args: Args) -> Result<(), Error> {
    if let Command::Config { command: ConfigCommand::Save { file } } = &args.command {
        return save(&args, file);
    }
    match &args.command {
        Command::Why(subject) => return why::run(&args, subject),
        Command::Top(how) => return top::run(&args, how),
        _ => {}
    }
    if let Some(asks) = flow::asks(&args.command)? {
        return about_flows(&args, asks);
    }
    let requests = match &args.command {
        Command::Config { command: ConfigCommand::Apply { file } } => vec![apply(file)?],
        Command::Trace(packet) => vec![trace::request(packet)?],
        command => request::operations(command)?,
    };
    let mut client = Client::connect(&args.socket)?;
    let mut output = String::new();
    for op in requests {
        let gap = if output.is_empty() || args.json { "" } else { "\n" };
        output.push_str(gap);
        let mut rest = Some(op);
        while let Some(op) = rest {
            let (line, response) = client.ask(op.clone())?;
            let reply = accepted(&args, &line, response)?;
            output.push_str(&if args.json { line } else { text::render(&args.command, &reply) });
            rest = conntrack::goes_on(&op, &reply);
            if rest.is_some() {
                print(&std::mem::take(&mut output))?;
            }
        }
    }
    print(&output)
}

/// Commands about flow tables: texts go, and dumps come, in pieces. Each piece is printed as it comes.
fn about_flows(args: &Args, asks: Asks) -> Result<(), Error> {
    let (mut source, mut op) = match asks {
        Asks::One(op) => (None, op),
        Asks::Text(mut source) => {
            let first = source.next(None)?;
            (Some(source), Op::Flow(FlowOp::Change(first)))
        }
    };
    let mut client = Client::connect(&args.socket)?;
    loop {
        let (line, response) = client.ask(op)?;
        let reply = accepted(args, &line, response)?;
        let next = flow::goes_on(&reply);
        match (&mut source, next) {
            (Some(source), Some(bundle)) => {
                op = Op::Flow(FlowOp::Change(source.next(Some(bundle))?));
                continue;
            }
            _ => print(&if args.json { line } else { text::render(&args.command, &reply) })?,
        }
        let Some(dump) = next else { return Ok(()) };
        op = Op::Flow(FlowOp::Next { dump });
    }
}

/// The result in a response; with `--json` a refusal is printed as it came as well.
fn accepted(args: &Args, line: &str, response: Response) -> Result<Reply, Error> {
    match response.outcome {
        Outcome::Result(reply) => Ok(reply),
        Outcome::Error(refusal) => {
            if args.json {
                print(line)?;
            }
            Err(refusal.into())
        }
    }
}

fn apply(file: &Path) -> Result<Op, Error> {
    if file == Path::new("-") {
        let mut toml = String::new();
        let read = io::stdin().read_to_string(&mut toml);
        read.map_err(|source| Error::File { doing: "read", path: "standard input".into(), source })?;
        return Ok(Op::ConfigApply { toml, file: "standard input".to_owned() });
    }
    let read = std::fs::read_to_string(file);
    let toml = read.map_err(|source| Error::File { doing: "read", path: file.to_owned(), source })?;
    Ok(Op::ConfigApply { toml, file: file.display().to_string() })
}

/// Writes the configuration to a file: a new one beside it first, so that a full disk leaves the old one whole.
fn save(args: &Args, file: &Path) -> Result<(), Error> {
    let (line, response) = Client::connect(&args.socket)?.ask(Op::ConfigShow)?;
    let Reply::Config { toml, .. } = accepted(args, &line, response)? else {
        return Err(ClientError::Unexpected.into());
    };
    if file == Path::new("-") {
        return print(&toml);
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    let written = std::fs::write(&beside, &toml).and_then(|()| std::fs::rename(&beside, file));
    written.map_err(|source| {
        let _ = std::fs::remove_file(&beside);
        Error::File { doing: "write", path: file.to_owned(), source }
    })
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
}
