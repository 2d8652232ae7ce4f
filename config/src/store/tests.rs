#[path = "../../tests/folder/mod.rs"]
mod folder;

use folder::Folder;

use super::*;

#[test]
fn the_checksum_is_that_of_ethernet() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

fn open(folder: &Folder) -> Store {
    Store::open(&folder.0).unwrap_or_else(|error| panic!("{error}"))
}

/// What a process finds that starts now.
fn found(store: Store, folder: &Folder) -> (Option<Config>, Store) {
    drop(store);
    let mut store = open(folder);
    let config = store.load().unwrap_or_else(|error| panic!("{error}"));
    (config, store)
}

fn refuse(_: &File) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(5))
}

/// A group with that many members; the last change that has led there.
fn members(count: u32) -> (Config, [Change; 1]) {
    let change =
        |text: String| -> Change { serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}")) };
    let mut last = change(r#"{"acl_group_add": {"group": {"name": "web"}}}"#.to_owned());
    let apply = |config: Config, change: &Change| {
        config.apply(std::slice::from_ref(change)).unwrap_or_else(|error| panic!("{error}"))
    };
    let mut config = apply(Config::default(), &last);
    for member in 1..=count {
        last = change(format!(r#"{{"acl_member_add": {{"group": "web", "member": "10.0.0.{member}"}}}}"#));
        config = apply(config, &last);
    }
    (config, [last])
}

#[test]
fn a_configuration_that_was_refused_because_the_folder_is_not_flushed_is_not_found_again() {
    let folder = Folder::new("refused");
    let mut store = open(&folder);
    let [(one, _), (two, by_two), (three, by_three), (four, _)] = [1, 2, 3, 4].map(members);
    // Before there is anything.
    store.flush = refuse;
    assert!(store.save(&one).is_err());
    let (config, mut store) = found(store, &folder);
    assert!(config.is_none(), "{config:?}");
    // Behind a state file and a journal.
    store.save(&one).unwrap_or_else(|error| panic!("{error}"));
    store.keep(&by_two, &two, Flush::First).unwrap_or_else(|error| panic!("{error}"));
    store.flush = refuse;
    let error = store.save(&three).map_err(|error| error.to_string());
    let expected = format!(
        "{}: can't flush: Input/output error (os error 5); the state file before is in its place again, but until a flush succeeds a power cut may bring back what is refused now",
        folder.0.display()
    );
    assert_eq!(error, Err(expected));
    // Nobody may rely on the journal now: the disk may have the file that it doesn't go on from.
    assert!(store.is_behind() && store.keep(&by_three, &three, Flush::Soon).is_err());
    let (config, mut store) = found(store, &folder);
    assert!(config.as_ref() == Some(&two), "{config:?}");
    // The disk is well again.
    store.flush = refuse;
    assert!(store.save(&three).is_err());
    store.flush = File::sync_all;
    store.settle(&two).unwrap_or_else(|error| panic!("{error}"));
    assert!(!store.is_behind());
    store.keep(&by_three, &three, Flush::First).unwrap_or_else(|error| panic!("{error}"));
    let (config, mut store) = found(store, &folder);
    assert!(config.as_ref() == Some(&three), "{config:?}");
    store.save(&four).unwrap_or_else(|error| panic!("{error}"));
    assert!(found(store, &folder).0 == Some(four));
    let files = fs::read_dir(&folder.0).map(|files| files.flatten().map(|file| file.file_name()).collect());
    let mut files: Vec<std::ffi::OsString> = files.unwrap_or_else(|error| panic!("{error}"));
    files.sort();
    assert_eq!(files, [LOCK_FILE, JOURNAL_FILE, STATE_FILE]);
}

#[test]
fn if_there_is_no_way_back_the_error_says_so_and_the_state_is_written_anew() {
    let folder = Folder::new("no-way-back");
    let mut store = open(&folder);
    let [(one, _), (two, by_two), (three, by_three)] = [1, 2, 3].map(members);
    store.save(&one).unwrap_or_else(|error| panic!("{error}"));
    fs::create_dir_all(folder.0.join(BEFORE).join("in the way")).unwrap_or_else(|error| panic!("{error}"));
    store.flush = refuse;
    let error = store.save(&two).map_or_else(|error| error.to_string(), |()| String::new());
    assert!(
        error.ends_with("can't be put back either: a start of weftd would find what is refused now"),
        "{error}"
    );
    store.flush = File::sync_all;
    assert!(store.is_behind());
    // What is kept next isn't appended to the journal of a file that is no longer there.
    store.keep(&by_two, &two, Flush::Soon).unwrap_or_else(|error| panic!("{error}"));
    store.keep(&by_three, &three, Flush::Soon).unwrap_or_else(|error| panic!("{error}"));
    assert!(!store.is_behind());
    assert!(found(store, &folder).0 == Some(three));
}
