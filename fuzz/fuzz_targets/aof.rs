//! Redis append-only files.
#![no_main]

use dunlin::rebalance::host::verify::aof::for_each_command;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = 0;
    let _ = for_each_command(data, |command| {
        bytes += command.iter().map(Vec::len).sum::<usize>();
        Ok(())
    });
    assert!(bytes <= data.len(), "commands hold more bytes than their file");
});
