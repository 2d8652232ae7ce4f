use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::PathBuf;

use mio::{Events, Poll};
use weft_config::control::MAX_LINE;

use super::*;

/// Answers `version` with how often it was asked, and `config_show` with a long text.
#[derive(Default)]
struct Switch {
    asked: u64,
    long: usize,
    pieces: usize,
}

impl Handler for Switch {
    fn handle(&mut self, op: Op) -> Answer {
        self.asked += 1;
        Answer::Done(match op {
            Op::Version => Ok(Reply::Version { version: self.asked.to_string() }),
            Op::Show => Ok(Reply::Version { version: "x".repeat(self.long) }),
            Op::Conntrack(_) => return Answer::Unfinished(Box::default()),
            _ => Err(Refusal::new(Code::Failed, "not here")),
        })
    }

    /// Takes [`PIECES`] turns.
    fn go_on(&mut self, work: Work) -> Answer {
        self.pieces += 1;
        match self.pieces < PIECES {
            true => Answer::Unfinished(work),
            false => Answer::Done(Ok(Reply::Version { version: "at last".to_owned() })),
        }
    }
}

/// Turns that a long request takes.
const PIECES: usize = 500;

/// A server that runs only while a test waits for something.
struct Bench {
    poll: Poll,
    server: ControlServer,
    switch: Switch,
    path: PathBuf,
}

impl Bench {
    fn new(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("weft-control-{name}-{}.sock", std::process::id()));
        let socket = ControlSocket::bind(&path, None).map_err(io::Error::other)?;
        let poll = Poll::new()?;
        let server = ControlServer::new(socket, poll.registry(), Token(100))?;
        Ok(Bench { poll, server, switch: Switch { asked: 0, long: 1 << 20, pieces: 0 }, path })
    }

    fn connect(&self) -> io::Result<StdStream> {
        let stream = StdStream::connect(&self.path)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// One round of events; says how many there were.
    fn turn(&mut self) -> io::Result<usize> {
        let mut events = Events::with_capacity(16);
        self.poll.poll(&mut events, Some(Duration::from_millis(20)))?;
        for event in &events {
            assert!(self.server.owns(event.token()));
            self.server.handle(event, Instant::now(), &mut self.switch);
        }
        Ok(events.iter().count())
    }

    /// Runs the server until the client has `lines` lines or is closed.
    fn read(&mut self, client: &mut StdStream, lines: usize) -> io::Result<Vec<String>> {
        let mut text = Vec::new();
        let mut missing = lines;
        let mut chunk = vec![0; 1 << 16];
        for _ in 0..10_000 {
            match client.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => {
                    missing =
                        missing.saturating_sub(chunk[..read].iter().filter(|octet| **octet == b'\n').count());
                    text.extend_from_slice(&chunk[..read]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => drop(self.turn()?),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error),
            }
            if missing == 0 {
                break;
            }
        }
        Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    }
}

/// Writes everything to a socket that does not block, the server running meanwhile.
fn send(bench: &mut Bench, client: &mut StdStream, mut octets: &[u8]) -> io::Result<()> {
    while !octets.is_empty() {
        match client.write(octets) {
            Ok(sent) => octets = &octets[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => drop(bench.turn()?),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

const ASK: &[u8] = b"{\"id\":7,\"op\":\"version\"}\n";

fn code(line: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    json["error"]["code"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_request_is_answered_with_its_id() {
    let mut bench = Bench::new("one").unwrap();
    let mut client = bench.connect().unwrap();
    client.write_all(ASK).unwrap();
    let lines = bench.read(&mut client, 1).unwrap();
    assert_eq!(lines, [r#"{"id":7,"result":{"version":{"version":"1"}}}"#]);
}

#[test]
fn a_long_request_lets_others_pass_and_is_done_to_its_end() {
    let mut bench = Bench::new("long").unwrap();
    let [mut long, mut short] = [bench.connect().unwrap(), bench.connect().unwrap()];
    // What the same client asks behind it waits for it.
    long.write_all(b"{\"id\":1,\"op\":{\"conntrack\":{\"flush\":{}}}}\n{\"id\":2,\"op\":\"version\"}\n")
        .unwrap();
    while bench.switch.asked == 0 {
        bench.turn().unwrap();
    }
    for _ in 0..10 {
        let pieces = bench.switch.pieces;
        short.write_all(ASK).unwrap();
        assert_eq!(code(&bench.read(&mut short, 1).unwrap()[0]), "none");
        assert!(bench.switch.pieces < pieces + 8, "{pieces}, then {}", bench.switch.pieces);
    }
    assert!(bench.switch.pieces < PIECES);
    let lines = bench.read(&mut long, 2).unwrap();
    assert_eq!(lines[0], r#"{"id":1,"result":{"version":{"version":"at last"}}}"#);
    assert!(lines[1].starts_with(r#"{"id":2,"#));
    // One that doesn't wait for its answer.
    (bench.switch.pieces, bench.switch.asked) = (0, 0);
    long.write_all(b"{\"id\":3,\"op\":{\"conntrack\":{\"flush\":{}}}}\n").unwrap();
    while bench.switch.asked == 0 {
        bench.turn().unwrap();
    }
    drop(long);
    while bench.switch.pieces < PIECES {
        bench.turn().unwrap();
    }
    while bench.server.clients() > 1 {
        bench.turn().unwrap();
    }
}

#[test]
fn garbage_is_answered_and_the_client_stays() {
    let mut bench = Bench::new("garbage").unwrap();
    let mut client = bench.connect().unwrap();
    let deep = [b"[".repeat(100_000), b"\n".to_vec()].concat();
    let garbage: [&[u8]; 8] = [
        b"hello\n",
        b"\xff\xfe\x00\n",
        b"{}\n",
        b"{\"id\":3,\"op\":\"explode\"}\n",
        b"{\"id\":4,\"op\":{\"fdb_show\":{\"bridge\":\"a/b\"}}}\n",
        b"{\"id\":5,\"op\":\"version\",\"more\":1}\n",
        b"{\"id\":-1,\"op\":\"version\"}\n",
        &deep,
    ];
    for line in garbage {
        send(&mut bench, &mut client, line).unwrap();
        let lines = bench.read(&mut client, 1).unwrap();
        assert_eq!(code(&lines[0]), "bad_request", "{lines:?}");
    }
    send(&mut bench, &mut client, b"\n  \r\n").unwrap();
    send(&mut bench, &mut client, ASK).unwrap();
    assert_eq!(code(&bench.read(&mut client, 1).unwrap()[0]), "none");
    assert_eq!(bench.switch.asked, 1);
}

#[test]
fn a_value_out_of_range_is_named_with_its_place() {
    let mut bench = Bench::new("range").unwrap();
    let mut client = bench.connect().unwrap();
    let ask = br#"{"id":9,"op":{"apply":{"changes":[{"port_add":{"bridge":"br0","port":{"name":"p","vlan":5000}}}]}}}"#;
    client.write_all(&[&ask[..], b"\n"].concat()).unwrap();
    let lines = bench.read(&mut client, 1).unwrap();
    let message = "op.apply.changes[0].port_add.port.vlan: VLAN 5000 is out of range: 0 to 4095";
    assert_eq!(lines[0], format!(r#"{{"id":9,"error":{{"code":"bad_request","message":"{message}"}}}}"#));
}

#[test]
fn a_thousand_requests_at_once_are_answered_in_order_and_nobody_else_waits() {
    let mut bench = Bench::new("pipeline").unwrap();
    let mut busy = bench.connect().unwrap();
    let mut other = bench.connect().unwrap();
    let many: Vec<u8> =
        (0..1000).flat_map(|id| format!("{{\"id\":{id},\"op\":\"version\"}}\n").into_bytes()).collect();
    send(&mut bench, &mut busy, &many).unwrap();
    other.write_all(ASK).unwrap();
    let answer = bench.read(&mut other, 1).unwrap();
    let json: serde_json::Value = serde_json::from_str(&answer[0]).unwrap();
    let turn: u64 = json["result"]["version"]["version"].as_str().unwrap().parse().unwrap();
    assert!(turn < 1000, "the other client came after all thousand");
    let lines = bench.read(&mut busy, 1000).unwrap();
    let ids: Vec<u64> = lines
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, (0..1000).collect::<Vec<_>>());
}

#[test]
fn half_a_request_waits_and_is_answered_when_its_end_comes() {
    let mut bench = Bench::new("half").unwrap();
    let mut half = bench.connect().unwrap();
    let mut other = bench.connect().unwrap();
    for octet in &ASK[..ASK.len() - 1] {
        half.write_all(&[*octet]).unwrap();
        bench.turn().unwrap();
    }
    other.write_all(ASK).unwrap();
    assert_eq!(bench.read(&mut other, 1).unwrap().len(), 1);
    half.write_all(b"\n").unwrap();
    assert_eq!(code(&bench.read(&mut half, 1).unwrap()[0]), "none");
}

#[test]
fn half_a_request_at_the_end_is_answered_and_closed() {
    let mut bench = Bench::new("eof").unwrap();
    let mut client = bench.connect().unwrap();
    client.write_all(ASK).unwrap();
    client.write_all(b"{\"id\":").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let lines = bench.read(&mut client, 3).unwrap();
    assert_eq!(lines.iter().map(|line| code(line)).collect::<Vec<_>>(), ["none", "bad_request"]);
    assert_eq!(bench.server.clients(), 0);
}

#[test]
fn a_line_without_end_is_refused_and_the_client_closed() {
    let mut bench = Bench::new("long").unwrap();
    let mut client = bench.connect().unwrap();
    let mut longest = vec![b' '; MAX_LINE - ASK.len()];
    longest.extend_from_slice(ASK);
    send(&mut bench, &mut client, &longest).unwrap();
    assert_eq!(code(&bench.read(&mut client, 1).unwrap()[0]), "none");
    longest.insert(0, b' ');
    // The rest may find the connection closed.
    let _ = send(&mut bench, &mut client, &longest);
    let lines = bench.read(&mut client, 2).unwrap();
    assert_eq!(lines.iter().map(|line| code(line)).collect::<Vec<_>>(), ["too_long"]);
    assert_eq!(bench.server.clients(), 0);
}

#[test]
fn a_client_that_does_not_read_is_not_served_and_holds_nobody_up() {
    let mut bench = Bench::new("slow").unwrap();
    let mut slow = bench.connect().unwrap();
    let asks: Vec<u8> =
        (0..50).flat_map(|id| format!("{{\"id\":{id},\"op\":\"show\"}}\n").into_bytes()).collect();
    slow.write_all(&asks).unwrap();
    while bench.turn().unwrap() > 0 {}
    assert!(bench.switch.asked <= 2, "{} responses of a megabyte wait for it", bench.switch.asked);
    let mut other = bench.connect().unwrap();
    other.write_all(ASK).unwrap();
    assert_eq!(bench.read(&mut other, 1).unwrap().len(), 1);
    let lines = bench.read(&mut slow, 50).unwrap();
    assert_eq!(lines.len(), 50);
    assert!(lines.iter().all(|line| line.len() > 1 << 20));
}

#[test]
fn a_stuck_client_is_closed_in_the_end_and_an_idle_one_stays() {
    let mut bench = Bench::new("stuck").unwrap();
    let mut idle = bench.connect().unwrap();
    let mut half = bench.connect().unwrap();
    let mut deaf = bench.connect().unwrap();
    half.write_all(b"{").unwrap();
    deaf.write_all(b"{\"id\":1,\"op\":\"show\"}\n").unwrap();
    while bench.turn().unwrap() > 0 {}
    bench.server.expire(Instant::now() + PATIENCE / 2);
    assert_eq!(bench.server.clients(), 3);
    bench.server.expire(Instant::now() + PATIENCE * 2);
    assert_eq!(bench.server.clients(), 1);
    idle.write_all(ASK).unwrap();
    assert_eq!(bench.read(&mut idle, 1).unwrap().len(), 1);
}

#[test]
fn one_client_too_many_is_told_so_and_a_place_that_becomes_free_is_used() {
    let mut bench = Bench::new("many").unwrap();
    let mut clients: Vec<StdStream> = Vec::new();
    for _ in 0..MAX_CLIENTS {
        clients.push(bench.connect().unwrap());
        bench.turn().unwrap();
    }
    let mut more = bench.connect().unwrap();
    let lines = bench.read(&mut more, 2).unwrap();
    assert_eq!(lines.iter().map(|line| code(line)).collect::<Vec<_>>(), ["busy"]);
    drop(clients.pop());
    while bench.turn().unwrap() > 0 {}
    assert_eq!(bench.server.clients(), MAX_CLIENTS - 1);
    let mut next = bench.connect().unwrap();
    next.write_all(ASK).unwrap();
    assert_eq!(code(&bench.read(&mut next, 1).unwrap()[0]), "none");
}

#[test]
fn a_client_that_goes_in_the_middle_leaves_nothing() {
    let mut bench = Bench::new("gone").unwrap();
    for _ in 0..200 {
        let mut client = bench.connect().unwrap();
        client.write_all(b"{\"id\":1,\"op\":\"show\"}\n{\"id\":2").unwrap();
        drop(client);
        bench.turn().unwrap();
    }
    while bench.turn().unwrap() > 0 {}
    assert_eq!(bench.server.clients(), 0);
}

#[test]
fn the_socket_is_for_its_group_only_and_goes_with_the_server() {
    let bench = Bench::new("mode").unwrap();
    let path = bench.path.clone();
    let file = std::fs::metadata(&path).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o660);
    let error = ControlSocket::bind(&path, None).unwrap_err();
    assert!(matches!(error, SocketError::InUse(_)), "{error}");
    drop(bench);
    assert!(!path.exists());
    let error = ControlSocket::bind(&path, Some("no such group")).unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no group 'no such group' in /etc/group: expected a name from there, or a number"
    );
    let own = std::fs::metadata(std::env::temp_dir()).unwrap().gid();
    drop(ControlSocket::bind(&path, Some(&own.to_string())).unwrap());
}

#[test]
fn a_dead_daemons_socket_is_replaced_and_a_file_is_not() {
    let path = std::env::temp_dir().join(format!("weft-control-dead-{}.sock", std::process::id()));
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = ControlSocket::bind(&path, None).unwrap();
    let client = StdStream::connect(&path).unwrap();
    drop(BufReader::new(client).lines());
    drop(socket);
    std::fs::write(&path, "precious").unwrap();
    let error = ControlSocket::bind(&path, None).unwrap_err();
    assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
}
