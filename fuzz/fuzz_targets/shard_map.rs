//! Shard maps: the one that a person writes, its edits, and the one that is published.
#![no_main]

use dunlin_shards::map::edit::{set_placements, set_replica_count};
use dunlin_shards::{Routing, ShardMap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Routing::parse(text);
    let map = match ShardMap::parse(text) {
        Ok(map) => map,
        Err(errors) => {
            assert!(!errors.is_empty(), "a map is rejected without a reason");
            for span in errors.into_iter().filter_map(|error| error.span) {
                assert!(text.get(span).is_some(), "an error's place is not in the text");
            }
            return;
        }
    };
    let placements: Vec<_> = map.shards.iter().map(|shard| shard.placement()).collect();
    let unchanged = set_placements(text, &placements, map.epoch).expect("the placements that it has");
    assert_eq!(ShardMap::parse(&unchanged).as_ref(), Ok(&map));
    if let Ok(edited) = set_replica_count(text, 1) {
        ShardMap::parse(&edited).expect("an edited map is valid");
    }
    if let Ok(routing) = Routing::from_map(&map, |_| Some("10.0.0.1".to_owned())) {
        assert_eq!(Routing::parse(&routing.to_toml()).ok().as_ref(), Some(&routing));
    }
});
