//! Tests of the module: data cases, precedence, selectors, dynamic inventories, size.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ByteSize, Inventory, LoadedInventory, ProxyJump, SelectError, Selector, SelectorError, VarData};
use crate::messages;

mod dynamic;
mod edit;

/// Loads the text of a `hosts.toml`.
fn load_text(text: &str) -> LoadedInventory {
    Inventory::parse_hosts_toml(Path::new("hosts.toml"), text)
}

fn parse_inventory(text: &str) -> Inventory {
    let loaded = load_text(text);
    loaded.inventory.unwrap_or_else(|| panic!("{}", loaded.diagnostics.render(false)))
}

/// The findings, one a line, without excerpts.
fn diagnostic_lines(text: &str) -> Vec<String> {
    load_text(text).diagnostics.iter().map(ToString::to_string).collect()
}

fn example_inventory() -> Inventory {
    Inventory::load_folder(Path::new("tests/cases/inventory/clean")).inventory.unwrap()
}

fn selected_names(inventory: &Inventory, selector: &str) -> Result<String, SelectError> {
    let hosts = inventory.select_hosts(&selector.parse().unwrap())?;
    Ok(hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(" "))
}

#[test]
fn cases_give_exactly_their_diagnostics() {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir("tests/cases/inventory").unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 4, "cases are missing");
    for folder in folders {
        let shown = Inventory::load_folder(&folder).diagnostics.render(false);
        let expected = folder.join("diagnostics.txt");
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(shown, wanted, "{} differs from what is shown:\n{shown}", expected.display());
    }
}

#[test]
fn diagnostics_render_as_json_and_color() {
    let found = load_text("[hosts.a]\nadress = \"x\"\n").diagnostics;
    assert_eq!(
        found.to_json(),
        serde_json::json!([{
            "severity": "error", "file": "hosts.toml", "line": 2, "col": 1,
            "message": "unknown key `adress` in a host", "label": null, "help": "did you mean `address`?",
        }])
    );
    assert!(found.render(true).contains('\u{1b}'));
    assert!(!found.render(false).contains('\u{1b}'));
}

#[test]
fn hosts_merge_defaults_groups_and_own_fields() {
    let inventory = example_inventory();
    let order: Vec<&str> = inventory.hosts().iter().map(|host| host.name.as_str()).collect();
    assert_eq!(order, ["redis-01", "redis-02", "redis-03", "app-01"]);
    let first = inventory.find_host("redis-01").unwrap();
    assert_eq!((first.address.as_str(), first.user.as_deref()), ("10.99.0.11", Some("deploy")));
    assert!(first.become_root && first.port.is_none() && first.jump.is_none());
    assert!(first.key.as_deref().is_some_and(|key| key.is_absolute() && key.ends_with("clean/keys/id_ed25519")));
    assert_eq!(first.connect_timeout, Some(Duration::from_secs(10)));
    assert_eq!((first.memory, first.weight, first.drain), (Some(ByteSize(16 << 30)), 1.0, false));
    assert_eq!(first.host_keys[0].value.algorithm(), "ssh-ed25519");
    assert_eq!(first.host_keys[0].origin.to_string(), "tests/cases/inventory/clean/hosts.toml:21:12");
    let second = inventory.find_host("redis-02").unwrap();
    assert_eq!((second.weight, second.drain), (2.0, true));
    assert_eq!(inventory.find_host("redis-03").unwrap().jump, Some(ProxyJump::Host("app-01".to_owned())));
    let app = inventory.find_host("app-01").unwrap();
    assert_eq!((app.user.as_deref(), app.become_root, app.port), (Some("admin"), false, Some(2222)));
    let jump = ProxyJump::Address { user: Some("ops".into()), host: "2001:db8::1".into(), port: Some(2022) };
    assert_eq!(app.jump, Some(jump));
    assert_eq!(inventory.groups_of("redis-01"), ["production", "redis"]);
    assert_eq!(inventory.zones().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn narrower_scopes_win_and_keep_their_origin() {
    let text = r#"
[defaults]
vars = { v = "defaults", only_defaults = 1 }
[groups.all]
vars = { v = "all", only_all = 1 }
[groups.parent]
children = ["child-a", "child-b"]
vars = { v = "parent", only_parent = 1, p = "parent" }
[groups.child-a]
hosts = ["x", "y"]
vars = { v = "child-a", p = "child-a", q = "a" }
[groups.child-b]
hosts = ["x"]
vars = { v = "child-b", q = "b" }
[hosts.x]
vars = { v = "host" }
"#;
    let loaded = load_text(text);
    let inventory = loaded.inventory.unwrap();
    let text_of = |host: &str, name: &str| match &inventory.merged_vars(host)[name].value {
        VarData::String(text) => text.clone(),
        other => format!("{other:?}"),
    };
    assert_eq!(text_of("x", "v"), "host");
    assert_eq!(text_of("y", "v"), "child-a");
    assert_eq!(text_of("y", "p"), "child-a");
    assert_eq!(text_of("x", "q"), "b", "at equal depth the later name wins");
    assert_eq!(inventory.merged_vars("x").len(), 6);
    assert_eq!(inventory.merged_vars("x")["v"].origin.to_string(), "hosts.toml:16:14");
    assert_eq!(inventory.merged_vars("y")["only_all"].origin.to_string(), "hosts.toml:5:32");
    assert!(inventory.merged_vars("nobody").is_empty());
    let warnings: Vec<String> = loaded.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["hosts.toml:14:29: warning: `q` has two values on `x`: group `child-b` wins over `child-a` by its name only"]
    );
}

#[test]
fn values_keep_their_types() {
    let inventory = parse_inventory(
        "[hosts.a]\nvars = { s = \"x\", i = 0x10, f = 1.5, b = true, l = [1, \"a\"], t = { k = 2 } }\n",
    );
    let vars: serde_json::Map<String, serde_json::Value> =
        inventory.merged_vars("a").iter().map(|(name, var)| (name.clone(), (&var.value).into())).collect();
    let json = serde_json::Value::Object(vars.clone());
    assert_eq!(json, serde_json::json!({"s": "x", "i": 16, "f": 1.5, "b": true, "l": [1, "a"], "t": {"k": 2}}));
    assert_eq!(serde_json::to_value(&inventory.merged_vars("a")["t"].value).unwrap(), vars["t"]);
}

#[test]
fn selectors_evaluate_as_in_ansible() {
    let inventory = example_inventory();
    for (selector, hosts) in [
        ("all", "redis-01 redis-02 redis-03 app-01"),
        ("redis", "redis-01 redis-02 redis-03"),
        ("app-01:redis-02", "redis-02 app-01"),
        ("app,redis-02", "redis-02 app-01"),
        ("redis-*", "redis-01 redis-02 redis-03"),
        ("*-01", "redis-01 app-01"),
        ("redis-0?", "redis-01 redis-02 redis-03"),
        ("redis-[02:03]", "redis-02 redis-03"),
        ("zone_a", "redis-01 redis-03"),
        ("redis:&zone_a:!redis-01", "redis-03"),
        ("!redis-01:redis:&zone_a", "redis-03"),
        ("redis:&redis-[01:02]", "redis-01 redis-02"),
        ("!redis", "app-01"),
        ("&zone_b", "redis-02"),
        ("*:!zone_*", "app-01"),
        ("redis:!redis-01:redis-01", "redis-02 redis-03"),
    ] {
        assert_eq!(selected_names(&inventory, selector).as_deref(), Ok(hosts), "{selector}");
    }
}

#[test]
fn selectors_without_hosts_name_the_reason() {
    let inventory = example_inventory();
    let unknown = |selector: &str| selected_names(&inventory, selector).unwrap_err().to_string();
    assert_eq!(unknown("reddis"), "no host, group or zone `reddis`; did you mean `redis`?");
    assert_eq!(unknown("redis:!zone_c"), "no host, group or zone `zone_c`; did you mean `zone_a`, `zone_b`?");
    assert_eq!(unknown("web-*"), "no host, group or zone `web-*`");
    assert_eq!(selected_names(&inventory, "app:&redis"), Err(SelectError::NoHosts("app:&redis".into())));
    assert_eq!("".parse::<Selector>(), Err(SelectorError::Empty));
    assert_eq!("a::b".parse::<Selector>(), Err(SelectorError::EmptyTerm("a::b".into())));
    assert_eq!("a:!".parse::<Selector>(), Err(SelectorError::EmptyTerm("a:!".into())));
    for bad in ["a b", "r[3:1]", "-o$x", "a/b"] {
        assert!(matches!(bad.parse::<Selector>(), Err(SelectorError::InvalidTerm { .. })), "{bad}");
    }
}

#[test]
fn globs_match_in_linear_time() {
    let stars = "a*".repeat(40) + "b";
    let inventory = parse_inventory(&format!("[hosts.{}]\n", "a".repeat(200)));
    assert!(matches!(selected_names(&inventory, &stars), Err(SelectError::UnknownTerm { .. })));
}

#[test]
fn jumps_are_resolved() {
    let text = "[defaults]\njump = \"b\"\n[hosts.a]\n[hosts.b]\n[hosts.c]\njump = false\n";
    let fleet = parse_inventory(text);
    assert_eq!(fleet.find_host("a").unwrap().jump, Some(ProxyJump::Host("b".into())));
    assert_eq!(fleet.find_host("b").unwrap().jump, None, "the jump host does not go over itself");
    assert_eq!(fleet.find_host("c").unwrap().jump, None);
    assert_eq!(
        diagnostic_lines("[hosts.a]\njump = \"b\"\n[hosts.b]\njump = \"a\"\n"),
        ["hosts.toml:2:8: error: jump hosts form a cycle: a → b → a"]
    );
    assert_eq!(diagnostic_lines("[hosts.a]\njump = \"alias\"\n"), ["hosts.toml:2:8: error: unknown jump host `alias`"]);
    assert!(diagnostic_lines("[hosts.a]\njump = \"alias\"\nssh_config = \"config\"\n").is_empty());
}

#[test]
fn likely_mistakes_are_warnings() {
    assert_eq!(
        diagnostic_lines("[groups.g]\nhosts = [\"h[1:2]\"]\n[hosts.h1]\naddress = \"10.0.0.1\"\n"),
        ["hosts.toml:2:10: warning: host `h2` has no address, so `h2` itself is taken for it"]
    );
    assert_eq!(
        diagnostic_lines("[hosts.a]\naddress = \"10.0.0.1\"\n[hosts.b]\naddress = \"10.0.0.1\"\n"),
        ["hosts.toml:3:8: warning: `b` has the address of `a`"]
    );
    assert!(
        diagnostic_lines("[groups.g]\nhosts = [\"h[1:2]\"]\n").is_empty(),
        "names from DNS or the ssh config are fine"
    );
    let ports = "[hosts.a]\naddress = \"::1\"\nport = 1\n[hosts.b]\naddress = \"::1\"\nport = 2\n";
    assert!(diagnostic_lines(ports).is_empty());
}

#[test]
fn folders_without_an_inventory_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = Inventory::load_folder(folder.path());
    assert!(loaded.inventory.is_none());
    assert!(loaded.diagnostics.has_errors());
    messages::check("inventory-missing", [("an empty folder", loaded.diagnostics.render(false))]);
}

#[test]
fn secrets_are_read_and_never_shown() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hosts.toml"), "[hosts.a]\n").unwrap();
    let path = folder.path().join("secrets.toml");
    std::fs::write(&path, "token = \"hunter2-long\"\n[redis]\npassword = \"hunter2\"\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let loaded = Inventory::load_folder(folder.path());
    messages::check("secrets-open-to-others", [("mode 0644", loaded.diagnostics.render(false))]);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let loaded = Inventory::load_folder(folder.path());
    assert!(loaded.diagnostics.is_empty());
    let inventory = loaded.inventory.unwrap();
    let secrets = inventory.secrets();
    assert_eq!(secrets.find_secret("redis.password").map(super::Secret::expose), Some("hunter2"));
    let json = serde_json::json!({"token": "hunter2-long", "redis": {"password": "hunter2"}});
    assert_eq!(secrets.expose_json(), json);
    assert_eq!(secrets.redact_text("x hunter2 hunter2-long"), "x *** ***");
    assert!(!format!("{inventory:?} {}", secrets.find_secret("token").unwrap()).contains("hunter2"));

    std::fs::write(&path, "token = \"hunter2\" oops\nnumber = 31337\n").unwrap();
    let found = Inventory::load_folder(folder.path()).diagnostics;
    let shown = found.render(false) + &found.to_json().to_string() + &format!("{found:?}");
    let places: Vec<_> = found.iter().map(|finding| finding.to_json()).collect();
    assert!(found.error_count() >= 2, "{shown}");
    assert!(places.iter().any(|place| place["line"] == 2 && place["col"] == 10), "{places:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("31337"), "{shown}");
}

#[test]
fn ten_thousand_hosts_load_without_quadratic_work() {
    let mut text =
        "[groups.even]\nhosts = [\"h[0000:9998:2]\"]\n[groups.many]\nhosts = [\"h[0000:9999]\"]\n".to_owned();
    for n in 0..10_000 {
        text += &format!("[hosts.h{n:04}]\naddress = \"10.{}.{}.1\"\nzone = \"z{}\"\n", n / 250, n % 250, n % 3);
    }
    let start = std::time::Instant::now();
    let inventory = parse_inventory(&text);
    assert_eq!(inventory.hosts().len(), 10_000);
    assert_eq!(inventory.select_hosts(&"even:&zone_z0".parse().unwrap()).unwrap().len(), 1667);
    let typo = format!("[defaults]\njump = \"h00000\"\n{text}");
    assert_eq!(diagnostic_lines(&typo), ["hosts.toml:2:8: error: unknown jump host `h00000`"]);
    // Quadratic work would take minutes here; an unoptimized build on a busy machine takes about a second.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "([\\[\\]{}\"'=#,.a-c1:\\\\ \n-]|hosts|groups|vars|jump|address|é){0,60}") {
        let loaded = load_text(&text);
        let _ = loaded.diagnostics.render(false);
        let _ = loaded.diagnostics.to_json();
        // What parses as TOML is left alone by the mending, what does not has an error.
        let valid = toml::de::DeTable::parse(&text).is_ok();
        let complains = loaded.diagnostics.iter().any(|found| found.message.ends_with("is never closed"));
        proptest::prop_assert!(valid || loaded.diagnostics.has_errors());
        proptest::prop_assert!(!(valid && complains));
    }

    #[test]
    fn any_range_and_selector_is_read_without_a_panic(text in "[a-c0-9\\[\\]:!&,*?-]{0,24}") {
        let _ = super::range::expand_ranges(&text);
        if let Ok(selector) = text.parse::<Selector>() {
            let _ = example_inventory().select_hosts(&selector);
        }
    }

    #[test]
    fn globs_match_as_a_plain_definition_says(glob in "[ab*?]{0,8}", name in "[ab]{0,8}") {
        fn plain(glob: &[u8], name: &[u8]) -> bool {
            match (glob.split_first(), name.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), _) if plain(rest, name) => true,
                (Some((b'*', _)), Some((_, tail))) => plain(glob, tail),
                (Some((g, rest)), Some((n, tail))) => (*g == b'?' || g == n) && plain(rest, tail),
                _ => false,
            }
        }
        proptest::prop_assert_eq!(super::selector::matches_glob(&glob, &name), plain(glob.as_bytes(), name.as_bytes()));
    }
}
