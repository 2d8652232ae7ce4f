//! `docs/operations.md` says of every drop reason what it means and what to do; names and meanings are held to
//! `drop.rs` here.

use weft_wire::DropReason;

const DOCUMENT: &str = include_str!("../../../docs/operations.md");

#[test]
fn the_document_has_every_drop_reason_with_its_meaning_and_a_remedy() {
    let rows: Vec<Vec<&str>> = DOCUMENT
        .lines()
        .skip_while(|line| !line.starts_with("| reason "))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let written: Vec<(String, &str)> =
        rows.iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1])).collect();
    let reasons: Vec<(String, &str)> =
        DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), reason.text())).collect();
    assert_eq!(written, reasons);
    for row in rows {
        assert!(row.len() == 3 && row[2].len() > 10, "{}: what is to be done?", row[0]);
    }
}
