//! Playbooks, with the templates in them.
#![no_main]

use dunlin::inventory::{Diagnostics, SourceFile};
use dunlin::playbook::Playbook;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut found = Diagnostics::new();
    let _ = Playbook::parse_text(&SourceFile::new("playbooks/fuzz.toml", text), &mut found);
    let _ = found.render(false);
});
