//! Adding hosts to a text.

use super::{Bytes, inventory};
use crate::inventory::{EditError, HostKey, NewHost, add_host};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

const BEFORE: &str = r#"# our fleet
[groups.redis] # shards
hosts = ["redis-[01:02]"]   # grows

[groups.app]
hosts = [
    "app-01", # the first
]

[groups.empty]

[hosts.redis-01]
address  = "10.99.0.11"   # rack 3

# the second
[hosts.redis-02]
address  = "10.99.0.12"

[hosts.redis-02.vars]
x = 1

# what comes last
[defaults]
user = "deploy"
"#;

fn new(name: &str, groups: &[&str]) -> NewHost {
    NewHost {
        name: name.into(),
        address: "10.99.0.13".into(),
        groups: groups.iter().map(ToString::to_string).collect(),
        ..NewHost::default()
    }
}

#[test]
fn comments_and_order_stay() {
    let host = NewHost {
        host_keys: vec![KEY.parse::<HostKey>().unwrap()],
        zone: Some("b".into()),
        memory: Some(Bytes(16 << 30)),
        port: Some(2222),
        ..new("redis-03", &["redis", "app", "empty"])
    };
    let after = add_host(BEFORE, &host).unwrap();
    let expected = BEFORE
        .replace("\"redis-[01:02]\"]", "\"redis-[01:02]\", \"redis-03\"]")
        .replace("    \"app-01\", # the first\n", "    \"app-01\", # the first\n    \"redis-03\",\n")
        .replace("[groups.empty]\n", "[groups.empty]\nhosts = [\"redis-03\"]\n")
        .replace(
            "x = 1\n",
            &format!(
                "x = 1\n\n[hosts.redis-03]\naddress = \"10.99.0.13\"\nhost_key = \"{KEY}\"\nport = 2222\n\
                 zone = \"b\"\nmemory = \"16GiB\"\n"
            ),
        );
    assert_eq!(after, expected);
    assert_eq!(add_host(&after, &host).as_deref(), Ok(after.as_str()), "a second time changes nothing");
    let loaded = inventory(&after);
    let loaded = loaded.host("redis-03").unwrap();
    assert_eq!((loaded.port, loaded.memory), (Some(2222), Some(Bytes(16 << 30))));
}

#[test]
fn a_range_covers_its_names() {
    let after = add_host(BEFORE, &NewHost { address: "10.99.0.12".into(), ..new("redis-02", &["redis"]) }).unwrap();
    assert_eq!(after, BEFORE);
}

#[test]
fn the_first_host_of_a_file_is_added_too() {
    let after = add_host("", &new("a", &[])).unwrap();
    assert_eq!(inventory(&after).host("a").unwrap().address, "10.99.0.13");
    let inline = "groups = { g = { hosts = [] } }\n\n[hosts]\nb = { address = \"10.0.0.1\" }\n";
    let after = add_host(inline, &new("a", &["g"])).unwrap();
    assert_eq!(inventory(&after).hosts_in("g").unwrap()[0].name, "a");
}

#[test]
fn lists_over_several_lines_keep_their_comments() {
    for (list, expected) in [
        ("[\n  \"a\" # one\n]", "[\n  \"a\", # one\n  \"n\",\n]"),
        ("[\n  # above\n  \"a\",\n]", "[\n  # above\n  \"a\",\n  \"n\",\n]"),
        ("[\n  \"a\",\n  # below\n]", "[\n  \"a\",\n  # below\n  \"n\",\n]"),
        ("[\"a\", \"b\"]", "[\"a\", \"b\", \"n\"]"),
        ("[]", "[\"n\"]"),
    ] {
        let before = format!("[groups.g]\nhosts = {list}\n");
        let after = add_host(&before, &new("n", &["g"])).unwrap();
        assert!(after.starts_with(&format!("[groups.g]\nhosts = {expected}\n")), "{after}");
        assert!(inventory(&after).hosts_in("g").unwrap().iter().any(|host| host.name == "n"));
    }
}

#[test]
fn what_cannot_be_added_says_why() {
    let error = |host: &NewHost| add_host(BEFORE, host).unwrap_err().to_string();
    assert_eq!(error(&new("a", &["rediss"])), "no group `rediss`; did you mean `redis`?");
    assert_eq!(
        error(&new("redis-01", &[])),
        "host `redis-01` is there already, with another `address`: \"10.99.0.11\"   # rack 3"
    );
    assert!(error(&new("-oProxyCommand=x", &[])).starts_with("`name`: a host name must not begin with `-`"));
    let address = NewHost { address: "x\n[defaults]".into(), ..new("a", &[]) };
    assert!(matches!(add_host(BEFORE, &address), Err(EditError::Field { field: "address", .. })));
    let jump = NewHost { jump: Some("-oX".into()), ..new("a", &[]) };
    assert!(matches!(add_host(BEFORE, &jump), Err(EditError::Field { field: "jump", .. })));
    assert!(matches!(add_host("[hosts", &new("a", &[])), Err(EditError::Syntax(_))));
    assert!(matches!(add_host("hosts = {}\n", &new("a", &[])), Err(EditError::Shape(_))));
}
