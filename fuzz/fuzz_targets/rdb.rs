//! Redis snapshots.
#![no_main]

use dunlin::rebalance::host::verify::rdb::read_rdb;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = read_rdb(data, |_| Ok(()));
});
