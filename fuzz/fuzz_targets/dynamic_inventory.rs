//! What a dynamic inventory prints.
#![no_main]

use std::path::Path;

use dunlin::inventory::Inventory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|output: &[u8]| {
    let loaded = Inventory::parse_dynamic_output(Path::new("inventories/fuzz/hosts"), output);
    let _ = loaded.diagnostics.render(false);
    assert_eq!(loaded.inventory.is_none(), loaded.diagnostics.has_errors());
});
