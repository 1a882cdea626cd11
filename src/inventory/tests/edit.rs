//! Adding hosts to a text.

use super::{ByteSize, parse_inventory};
use crate::inventory::{HostEditError, HostKey, NewHost, add_host};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

const HOSTS_TOML: &str = r#"# our fleet
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

fn new_host(name: &str, groups: &[&str]) -> NewHost {
    NewHost {
        name: name.into(),
        address: "10.99.0.13".into(),
        groups: groups.iter().map(ToString::to_string).collect(),
        ..NewHost::default()
    }
}

#[test]
fn comments_and_order_are_preserved() {
    let host = NewHost {
        host_keys: vec![KEY.parse::<HostKey>().unwrap()],
        zone: Some("b".into()),
        memory: Some(ByteSize(16 << 30)),
        port: Some(2222),
        ..new_host("redis-03", &["redis", "app", "empty"])
    };
    let after = add_host(HOSTS_TOML, &host).unwrap();
    let expected = HOSTS_TOML
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
    let loaded = parse_inventory(&after);
    let loaded = loaded.find_host("redis-03").unwrap();
    assert_eq!((loaded.port, loaded.memory), (Some(2222), Some(ByteSize(16 << 30))));
}

#[test]
fn ranges_cover_their_names() {
    let after =
        add_host(HOSTS_TOML, &NewHost { address: "10.99.0.12".into(), ..new_host("redis-02", &["redis"]) }).unwrap();
    assert_eq!(after, HOSTS_TOML);
}

#[test]
fn first_hosts_of_a_file_are_added() {
    let after = add_host("", &new_host("a", &[])).unwrap();
    assert_eq!(parse_inventory(&after).find_host("a").unwrap().address, "10.99.0.13");
    let inline = "groups = { g = { hosts = [] } }\n\n[hosts]\nb = { address = \"10.0.0.1\" }\n";
    let after = add_host(inline, &new_host("a", &["g"])).unwrap();
    assert_eq!(parse_inventory(&after).hosts_in("g").unwrap()[0].name, "a");
}

#[test]
fn multi_line_lists_keep_their_comments() {
    for (list, expected) in [
        ("[\n  \"a\" # one\n]", "[\n  \"a\", # one\n  \"n\",\n]"),
        ("[\n  # above\n  \"a\",\n]", "[\n  # above\n  \"a\",\n  \"n\",\n]"),
        ("[\n  \"a\",\n  # below\n]", "[\n  \"a\",\n  # below\n  \"n\",\n]"),
        ("[\"a\", \"b\"]", "[\"a\", \"b\", \"n\"]"),
        ("[]", "[\"n\"]"),
    ] {
        let before = format!("[groups.g]\nhosts = {list}\n");
        let after = add_host(&before, &new_host("n", &["g"])).unwrap();
        assert!(after.starts_with(&format!("[groups.g]\nhosts = {expected}\n")), "{after}");
        assert!(parse_inventory(&after).hosts_in("g").unwrap().iter().any(|host| host.name == "n"));
    }
}

#[test]
fn rejected_hosts_name_the_reason() {
    let error = |host: &NewHost| add_host(HOSTS_TOML, host).unwrap_err().to_string();
    assert_eq!(error(&new_host("a", &["rediss"])), "no group `rediss`; did you mean `redis`?");
    assert_eq!(
        error(&new_host("redis-01", &[])),
        "host `redis-01` is there already, with another `address`: \"10.99.0.11\"   # rack 3"
    );
    assert!(error(&new_host("-oProxyCommand=x", &[])).starts_with("`name`: a host name must not begin with `-`"));
    let address = NewHost { address: "x\n[defaults]".into(), ..new_host("a", &[]) };
    assert!(matches!(add_host(HOSTS_TOML, &address), Err(HostEditError::InvalidField { field: "address", .. })));
    let jump = NewHost { jump: Some("-oX".into()), ..new_host("a", &[]) };
    assert!(matches!(add_host(HOSTS_TOML, &jump), Err(HostEditError::InvalidField { field: "jump", .. })));
    assert!(matches!(add_host("[hosts", &new_host("a", &[])), Err(HostEditError::Syntax(_))));
    assert!(matches!(add_host("hosts = {}\n", &new_host("a", &[])), Err(HostEditError::UnsupportedLayout(_))));
}
