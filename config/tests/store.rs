//! The state file survives a process that is killed at any moment, and is never taken for what it is not.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weft_config::model::Bridge;
use weft_config::{Bounded, Config, Store, StoreError};
use weft_wire::PortName;

/// A folder of its own for each test, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A configuration that holds a number and is large enough to take several writes.
fn numbered(number: u32) -> Result<Config, String> {
    let mut config = Config::default();
    for index in 0..200 {
        let name = PortName::new(&format!("br{index}")).map_err(|error| error.to_string())?;
        let fdb_size = Bounded::new(number).map_err(|error| error.to_string())?;
        config.bridges.push(Bridge { fdb_size, ..Bridge::new(name) });
    }
    Ok(config)
}

fn number(config: &Config) -> u32 {
    let numbers: Vec<u32> = config.bridges.iter().map(|bridge| bridge.fdb_size.get()).collect();
    assert!(
        numbers.len() == 200 && numbers.iter().all(|number| *number == numbers[0]),
        "a mixture: {numbers:?}"
    );
    numbers[0]
}

const CHILD: &str = "WEFT_STORE_TEST_FOLDER";

/// Not a test of its own: what the process that is killed does.
#[test]
fn child_that_saves_forever() -> Result<(), Box<dyn std::error::Error>> {
    let Ok(folder) = std::env::var(CHILD) else { return Ok(()) };
    let store = Store::open(Path::new(&folder))?;
    let start = store.load()?.map_or(1, |config| number(&config));
    for next in start + 1.. {
        store.save(&numbered(next)?)?;
        println!("\nsaved {next}");
    }
    Ok(())
}

fn spawn(folder: &Folder) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["--exact", "child_that_saves_forever", "--nocapture"])
        .env(CHILD, &folder.0)
        .stdout(Stdio::piped())
        .spawn()
}

#[test]
fn killing_a_writer_loses_nothing_that_was_acknowledged() {
    let folder = Folder::new("kill");
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut rounds = 0u32;
    let mut before = 0;
    while rounds < 10 || rounds < 40 && Instant::now() < deadline {
        let mut child = spawn(&folder).unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("saved ")?.parse::<u32>().ok());
        let first = lines.next().unwrap();
        // Not a wait for something: it varies the moment of the kill.
        std::thread::sleep(Duration::from_micros(u64::from(rounds) * 733));
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = lines.last().unwrap_or(first);
        let store = Store::open(&folder.0).unwrap();
        let found = number(&store.load().unwrap().unwrap());
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "acknowledged {acknowledged}, found {found}"
        );
        assert!(first > before);
        before = found;
        rounds += 1;
    }
}

#[test]
fn a_second_owner_is_refused_with_one_line() {
    let folder = Folder::new("lock");
    let first = Store::open(&folder.0).unwrap();
    let error = Store::open(&folder.0).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }));
    let expected = format!(
        "the state folder {} is in use by another weftd (process {})",
        folder.0.display(),
        std::process::id()
    );
    assert_eq!(error.to_string(), expected);
    drop(first);
    // A process that another test starts holds a copy of the lock until it executes its program.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut again = Store::open(&folder.0);
    while matches!(again, Err(StoreError::InUse { .. })) && Instant::now() < deadline {
        again = Store::open(&folder.0);
    }
    again.unwrap();
}

#[test]
fn a_damaged_file_is_an_error_wherever_it_is_cut_or_changed() {
    let folder = Folder::new("damage");
    let store = Store::open(&folder.0).unwrap();
    assert!(store.load().unwrap().is_none());
    let mut config = numbered(7).unwrap();
    config.bridges.truncate(3);
    store.save(&config).unwrap();
    let good = fs::read(store.path()).unwrap();
    for cut in 0..good.len() {
        fs::write(store.path(), &good[..cut]).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Damaged { .. })), "cut at {cut}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        fs::write(store.path(), &bad).unwrap();
        assert!(store.load().is_err(), "changed at {at}");
    }
    fs::write(store.path(), [0xff, 0xfe]).unwrap();
    assert!(store.load().unwrap_err().to_string().contains("not UTF-8"));
    fs::write(store.path(), &good).unwrap();
    assert_eq!(store.load().unwrap(), Some(config));
}

#[test]
fn a_seed_is_used_once() {
    let folder = Folder::new("seed");
    let store = Store::open(&folder.0).unwrap();
    let seed = folder.0.join("weft.toml");
    fs::write(&seed, "[[bridge]]\nname = 'br0'\n[[bridge.port]]\nname = 'vm1'\nvlan = 5000\n").unwrap();
    let error = store.load_or_seed(Some(&seed)).unwrap_err().to_string();
    assert!(
        error.ends_with("weft.toml:5: bridge[br0].port[vm1].vlan: VLAN 5000 is out of range: 0 to 4095"),
        "{error}"
    );
    assert!(store.load().unwrap().is_none());
    fs::write(&seed, "[[bridge]]\nname = 'br0'\n[[bridge.port]]\nname = 'vm1'\n").unwrap();
    let seeded = store.load_or_seed(Some(&seed)).unwrap();
    assert_eq!(seeded.bridges[0].ofport_of("vm1").map(|number| number.0), Some(1));
    fs::write(&seed, "[[bridge]]\nname = 'br1'\n").unwrap();
    assert_eq!(store.load_or_seed(Some(&seed)).unwrap(), seeded);
}
