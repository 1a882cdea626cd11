//! The slot function against the server's own.

use dunlin_shards::slot_for_key;

use crate::server::{TestServer, free_port};

#[test]
fn slots_agree_with_the_server() {
    let bus = free_port().to_string();
    let server = TestServer::start_server(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    let mut connection = server.connect_admin();
    let mut keys: Vec<Vec<u8>> =
        ["", "{", "}", "{}", "{}a", "a{}b", "{a", "a}", "}{", "}a{b}", "{{a}}", "{a}{b}", "{}{a}"]
            .iter()
            .chain(&[
                "a{b}c",
                "a{b}{c}d",
                "foo{{bar}}zap",
                "{a}b{",
                "a{b\0}c",
                "tl:42",
                "tl:{42}",
                "schlüssel{ü}",
                "{ }",
            ])
            .map(|key| key.as_bytes().to_vec())
            .collect();
    keys.extend((0..500u32).map(|n| format!("tl:{}", n * 7919).into_bytes()));
    // bytes that are no text, of every value and with braces at moving places
    keys.extend((0..=255u8).map(|byte| (0..byte % 40).map(|n| byte.wrapping_mul(n).wrapping_add(123)).collect()));
    let mut pipeline = redis::pipe();
    for key in &keys {
        pipeline.cmd("CLUSTER").arg("KEYSLOT").arg(key);
    }
    let slots: Vec<u16> = pipeline.query(&mut connection).expect("the server's slots");
    assert_eq!(slots.len(), keys.len());
    for (key, slot) in keys.iter().zip(slots) {
        assert_eq!(slot_for_key(key).0, slot, "{}", String::from_utf8_lossy(key));
    }
}
