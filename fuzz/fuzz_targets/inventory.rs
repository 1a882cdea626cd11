//! `hosts.toml`.
#![no_main]

use std::path::Path;

use dunlin::inventory::Inventory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let loaded = Inventory::parse_hosts_toml(Path::new("inventories/fuzz/hosts.toml"), text);
    let _ = loaded.diagnostics.render(false);
    let _ = loaded.diagnostics.to_json();
    assert_eq!(loaded.inventory.is_none(), loaded.diagnostics.has_errors());
});
