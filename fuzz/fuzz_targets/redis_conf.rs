//! The reader of redis.conf.
#![no_main]

use dunlin::resources::redis_shard::conf::{RedisConf, remove_directive, set_directive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let conf = RedisConf::parse(text);
    let normalized = conf.normalize();
    assert!(normalized.diff_directives(&normalized).is_empty(), "a configuration differs from itself");
    // What a move appends to a new content is read as the same state.
    let runtime = RedisConf::parse(&conf.runtime_lines());
    assert_eq!(runtime.replica_of(), conf.replica_of());
    let edited = RedisConf::parse(&set_directive(text, "maxmemory", "1gb"));
    assert_eq!(edited.last_bytes("maxmemory"), Some(1 << 30));
    assert_eq!(RedisConf::parse(&remove_directive(text, "maxmemory")).last_value("maxmemory"), None);
});
