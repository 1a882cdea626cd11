//! The authored map, read with all its mistakes at once, and the published routing made from it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

use dunlin_shards::{Epoch, MapError, Routing, ShardId, ShardMap, Slot};

const VALID_MAP: &str = r#"
cluster = "timeline"
epoch = 7
port_base = 7000

[[shard]]
id = 0
slots = "0-255,300"
host = "redis-01"
replicas = ["redis-02"]

[[shard]]
id = 1
slots = "256-299,301-16383"
host = "redis-02"
pinned = true
"#;

/// The mistakes of a text, each with the words it points at.
fn map_errors(text: &str) -> Vec<(String, String)> {
    let errors: Vec<MapError> = ShardMap::parse(text).expect_err("mistakes");
    let place = |error: &MapError| error.span.clone().map_or(String::new(), |span| text[span].to_owned());
    errors.iter().map(|error| (place(error), error.message.clone())).collect()
}

#[test]
fn valid_maps_parse() {
    let map = ShardMap::parse(VALID_MAP).expect("a map");
    assert_eq!((map.cluster.as_str(), map.epoch, map.port_base), ("timeline", Epoch(7), 7000));
    assert_eq!(map.shard_for_slot(Slot(300)).map(|shard| shard.id), Some(ShardId(0)));
    assert_eq!(map.shard_for_slot(Slot(16_383)).map(|shard| shard.id), Some(ShardId(1)));
    assert_eq!(map.shards_on("redis-01").map(|shard| shard.id).collect::<Vec<_>>(), [ShardId(0)]);
    assert_eq!(map.replicas_on("redis-02").map(|shard| shard.id).collect::<Vec<_>>(), [ShardId(0)]);
    assert_eq!(map.port_of(ShardId(1)), 7001);
    assert!(map.shards[1].pinned && !map.shards[0].pinned);
    assert_eq!(ShardId(17).acl_user(), "s017");
}

#[test]
fn all_errors_are_reported_with_their_place() {
    let text = r#"
cluster = "time line"
port_base = 65500
epocj = 3

[[shard]]
id = 3
slots = "0-99"
host = "redis-01"
replicas = ["redis-01", "redis-02", "redis-02"]
pinnd = true

[[shard]]
id = 3
slots = "50-149"
host = "-oProxyCommand=x"

[[shard]]
id = 40
slots = "200-16000,16002-16383"
host = 5
"#;
    let wanted = [
        ("\"time line\"", "\"time line\" is not a name"),
        ("epocj", "unknown key \"epocj\""),
        ("\"redis-01\"", "the replica is on redis-01, the host of the primary"),
        ("\"redis-02\"", "redis-02 is named twice"),
        ("pinnd", "unknown key \"pinnd\""),
        ("3", "there is a shard 3 already"),
        ("\"50-149\"", "slots 50-99 belong to shard 3 and to shard 3"),
        ("\"50-149\"", "no shard owns the slots 150-199,16001 (51 slots)"),
        ("\"-oProxyCommand=x\"", "\"-oProxyCommand=x\" is not a name"),
        ("40", "shard 40 would listen on port 65540"),
        ("5", "host must be a string, not a value of type integer"),
        ("", "the map has no epoch"),
    ];
    let found = map_errors(text);
    let found: Vec<(&str, &str)> = found.iter().map(|(place, message)| (place.as_str(), message.as_str())).collect();
    assert_eq!(found, wanted);
}

#[test]
fn each_error_has_its_message() {
    for (from, to, message) in [
        ("epoch = 7", "epoch = -1", "epoch must be between 0 and 9223372036854775807, not -1"),
        ("epoch = 7", "epoch = \"7\"", "epoch must be an integer, not a value of type string"),
        ("port_base = 7000", "port_base = 0", "port_base must be at least 1"),
        ("epoch = 7", "epoch = 7\nreplicas = 99", "replicas must be between 0 and 16, not 99"),
        ("port_base = 7000", "port_base = 70000", "port_base must be between 0 and 65535, not 70000"),
        ("\"0-255,300\"", "\"0-255;300\"", "\"0-255;300\" is not a slot or a range of slots"),
        ("\"0-255,300\"", "\"255-0\"", "the range \"255-0\" ends before it starts"),
        ("301-16383", "301-16384", "\"301-16384\" is outside the slots 0-16383"),
        ("301-16383", "301-400,401-16383,400", "shard 1 names slots 400 twice"),
        ("[\"redis-02\"]", "\"redis-02\"", "replicas must be an array of host names, not a value of type string"),
        ("pinned = true", "pinned = \"yes\"", "pinned must be true or false, not a value of type string"),
        ("host = \"redis-01\"", "", "this shard has no host"),
        ("slots = \"0-255,300\"", "", "this shard has no slots"),
    ] {
        assert!(VALID_MAP.contains(from), "{from} stands in the map");
        let found = map_errors(&VALID_MAP.replacen(from, to, 1));
        let messages: Vec<&str> = found.iter().map(|(_, message)| message.as_str()).collect();
        assert_eq!(messages, [message], "{to}");
    }
    let messages: Vec<String> =
        map_errors("cluster = \"a\"\nepoch = 1\nport_base = 1\n").into_iter().map(|m| m.1).collect();
    assert_eq!(messages, ["the map has no shards"]);
    assert!(!map_errors("cluster = \n epoch = [").is_empty());
}

#[test]
fn unknown_keys_get_a_suggestion() {
    let errors = ShardMap::parse(&VALID_MAP.replace("pinned", "pined")).expect_err("an unknown key");
    assert_eq!(errors[0].help.as_deref(), Some("did you mean \"pinned\"?"));
}

#[test]
fn routing_round_trips() {
    let map = ShardMap::parse(VALID_MAP).expect("a map");
    let routing = Routing::from_map(&map, |host| match host {
        "redis-01" => Some("10.0.0.1".to_owned()),
        _ => Some("fd00::2".to_owned()),
    })
    .expect("a routing");
    let text = routing.to_toml();
    assert_eq!(
        text,
        r#"# published by dunlin; edits are overwritten
cluster = "timeline"
epoch = 7
shard = [
  { id = 0, slots = "0-255,300", primary = "10.0.0.1:7000", replicas = ["[fd00::2]:7000"], user = "s000" },
  { id = 1, slots = "256-299,301-16383", primary = "[fd00::2]:7001", replicas = [], user = "s001" },
]
"#
    );
    assert_eq!(Routing::parse(&text).expect("the same routing"), routing);
    let newer = text.replace("user = \"s000\"", "user = \"s000\", weight = 3").replace("epoch", "format = 2\nepoch");
    assert_eq!(Routing::parse(&newer).expect("unknown keys are left alone"), routing);
    for wrong in [
        text.replace("256-299", "257-299"),
        text.replace("301-16383", "300-16383"),
        text.replace("id = 1", "id = 0"),
        text.replace("10.0.0.1:7000", "10.0.0.1"),
        text.replace("epoch = 7\n", ""),
        text[..text.len() / 2].to_owned(),
    ] {
        assert!(Routing::parse(&wrong).is_err(), "{wrong}");
    }
    let missing = Routing::from_map(&map, |_| None).expect_err("no address");
    assert_eq!(missing.to_string(), "host redis-01 of shard 0 has no address");
}
