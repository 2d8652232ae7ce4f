//! `docs/operations.md` has every key with what it takes: the tables there are made from `keys.rs`, and held to it here.

use std::fmt::Write;

use weft_config::keys::{self, Key};

const DOCUMENT: &str = include_str!("../../docs/operations.md");

/// The table of these keys, as the document has it.
fn table(title: &str, keys: &[Key]) -> String {
    let mut text =
        format!("### `{title}`\n\n| key | takes | default | what it does |\n| --- | --- | --- | --- |\n");
    for key in keys {
        let default = match key.default {
            "" => "*required*",
            "none" => "-",
            default => &format!("`{default}`"),
        };
        let legal = key.legal.replace('|', " \\| ");
        let _ = writeln!(text, "| `{}` | {legal} | {default} | {} |", key.name, key.help);
    }
    text
}

#[test]
fn the_document_has_every_key_with_its_range_and_default() {
    let tables = [
        table("[switch]", keys::SWITCH),
        table("[[bridge]]", keys::BRIDGE),
        table("[[bridge.port]]", keys::PORT),
        table("[[bridge.tunnel]]", keys::TUNNEL),
        table("[[acl.group]]", keys::ACL_GROUP),
        table("[[acl.group.rule]]", keys::ACL_RULE),
    ];
    for table in tables {
        assert!(DOCUMENT.contains(&table), "docs/operations.md lacks this table:\n\n{table}");
    }
}

#[test]
fn the_documents_example_is_a_configuration() {
    let example = DOCUMENT.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let example = example.expect("a TOML example in docs/operations.md");
    weft_config::Config::from_toml(example, "docs/operations.md").unwrap();
}
