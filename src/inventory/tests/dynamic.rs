//! Executables that print Ansible's dynamic inventory.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::ByteSize;
use crate::inventory::ansible::script::run_script_with_timeout;
use crate::inventory::{Diagnostics, Inventory, LoadedInventory, VarData};

/// Writes an executable by way of a shell: a file that this process holds open for writing while another test forks
/// could not be run.
fn write_script(folder: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat > hosts && chmod 755 hosts"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

fn load_script(text: &str) -> LoadedInventory {
    let folder = tempfile::tempdir().unwrap();
    write_script(folder.path(), text);
    Inventory::load_folder(folder.path())
}

fn diagnostic_text(loaded: &LoadedInventory) -> String {
    loaded.diagnostics.iter().map(|d| format!("{} | {}\n", d.message, d.help.as_deref().unwrap_or(""))).collect()
}

const LIST: &str = r#"#!/bin/sh
[ "$1" = --list ] || exit 9
cat <<'END'
{"redis": {"hosts": ["redis-02", "redis-01", "redis-01"], "vars": {"tier": "data", "ansible_port": "2222"}},
 "app": ["app-01"],
 "production": {"children": ["redis", "app"], "vars": {"tier": "any"}},
 "all": {"children": ["production", "ungrouped"], "vars": {"region": "north", "ansible_user": "ops"}},
 "ungrouped": {},
 "_meta": {"hostvars": {
   "redis-01": {"ansible_host": "10.0.0.1", "ansible_port": 2200, "ansible_become": "yes", "zone": "a",
                "memory": "16GiB", "ansible_python_interpreter": "/usr/bin/python3", "nothing": null, "list": [1]},
   "redis-02": {"ansible_host": "10.0.0.2", "ansible_user": "root", "ansible_ssh_private_key_file": "/k"}}}}
END
"#;

#[test]
fn ansible_list_output_becomes_an_inventory() {
    let loaded = load_script(LIST);
    let inventory = loaded.inventory.as_ref().unwrap_or_else(|| panic!("{}", loaded.diagnostics.render(false)));
    let first = inventory.find_host("redis-01").unwrap();
    assert_eq!((first.address.as_str(), first.port, first.user.as_deref()), ("10.0.0.1", Some(2200), Some("ops")));
    assert!(first.become_root);
    assert_eq!((first.zone.as_deref(), first.memory), (Some("a"), Some(ByteSize(16 << 30))));
    let second = inventory.find_host("redis-02").unwrap();
    assert_eq!((second.port, second.user.as_deref()), (Some(2222), Some("root")));
    assert_eq!(second.key.as_deref(), Some(Path::new("/k")));
    assert_eq!(inventory.find_host("app-01").unwrap().address, "app-01");
    let vars = inventory.merged_vars("redis-01");
    assert_eq!(vars.keys().collect::<Vec<_>>(), ["ansible_python_interpreter", "list", "region", "tier"]);
    assert_eq!(vars["tier"].value, VarData::String("data".into()));
    assert_eq!(inventory.select_hosts(&"production:&zone_a".parse().unwrap()).unwrap().len(), 1);
    assert!(loaded.diagnostics.is_empty(), "{}", diagnostic_text(&loaded));
}

#[test]
fn hosts_toml_wins_over_the_script() {
    let folder = tempfile::tempdir().unwrap();
    write_script(folder.path(), LIST);
    let text = "[groups.redis]\nvars = { tier = \"file\" }\n[hosts.redis-01]\nport = 22\nmemory = \"1GiB\"\n";
    std::fs::write(folder.path().join("hosts.toml"), text).unwrap();
    let loaded = Inventory::load_folder(folder.path());
    let inventory = loaded.inventory.unwrap_or_else(|| panic!("{}", loaded.diagnostics.render(false)));
    let host = inventory.find_host("redis-01").unwrap();
    assert_eq!((host.port, host.memory, host.address.as_str()), (Some(22), Some(ByteSize(1 << 30)), "10.0.0.1"));
    assert_eq!(inventory.merged_vars("redis-01")["tier"].value, VarData::String("file".into()));
    assert_eq!(inventory.hosts_in("redis").unwrap().len(), 2);
}

#[test]
fn injections_are_rejected() {
    let loaded = load_script(
        r#"#!/bin/sh
cat <<'END'
{"g": ["-oProxyCommand=id"], "_meta": {"hostvars": {"h": {"ansible_host": "-x", "ansible_user": "a b",
 "ansible_port": 0, "ansible_ssh_private_key_file": "%d", "zone": "a\nb", "drain": "perhaps"}}}}
END
"#,
    );
    assert!(loaded.inventory.is_none());
    assert_eq!(loaded.diagnostics.error_count(), 6, "{}", diagnostic_text(&loaded));
}

#[test]
fn failing_scripts_are_quoted() {
    let failed = load_script("#!/bin/sh\necho 'no credentials for the cloud' >&2\nexit 3\n");
    assert_eq!(
        diagnostic_text(&failed),
        "the dynamic inventory failed (exit status: 3) | its output:\nno credentials for the cloud\n"
    );
    let garbled = load_script("#!/bin/sh\necho 'Traceback'\necho 'why' >&2\n");
    let text = diagnostic_text(&garbled);
    assert!(text.starts_with("the dynamic inventory did not print JSON: expected value at line 1"), "{text}");
    assert!(text.ends_with("its output:\nwhy\n"), "{text}");
    let missing = diagnostic_text(&load_script("#!/no/such/interpreter\n"));
    assert!(missing.starts_with("cannot be run: the interpreter"), "{missing}");
}

#[test]
fn a_file_that_is_not_executable_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hosts"), "#!/bin/sh\n").unwrap();
    let loaded = Inventory::load_folder(folder.path());
    assert!(diagnostic_text(&loaded).starts_with("a dynamic inventory must be executable | chmod +x"));
    assert_eq!(loaded.diagnostics.iter().count(), 1);
}

#[test]
fn a_file_that_is_not_a_program_is_never_run() {
    let folder = tempfile::tempdir().unwrap();
    for (text, format) in [
        ("# our hosts\n[web]\ntouch ansible_host=192.0.2.1\n", "Ansible INI inventory"),
        ("touch ansible_host=192.0.2.1\n", "Ansible INI inventory"),
        ("all:\n  hosts:\n    touch:\n", "Ansible YAML inventory"),
        ("touch was-run\n", "is not a program"),
    ] {
        // Executable or not, the answer is the same, and no advice to make it so.
        for mode in [0o755, 0o644] {
            write_script(folder.path(), text);
            std::fs::set_permissions(folder.path().join("hosts"), PermissionsExt::from_mode(mode)).unwrap();
            let loaded = Inventory::load_folder(folder.path());
            let said = diagnostic_text(&loaded);
            assert!(loaded.inventory.is_none() && said.contains(format) && !said.contains("chmod"), "{said}");
            let files = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(files, 1, "a line of the inventory was run");
        }
    }
}

#[test]
fn a_script_that_prints_for_ever_is_ended() {
    let begin = Instant::now();
    let said = diagnostic_text(&load_script("#!/bin/sh\nexec yes 0123456789\n"));
    assert!(said.starts_with("the dynamic inventory printed more than 16777216 bytes"), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_script_gets_few_variables_of_the_environment() {
    // Cargo sets CARGO_MANIFEST_DIR for every test.
    let loaded = load_script(
        r#"#!/bin/sh
[ -z "$CARGO_MANIFEST_DIR" ] && [ -n "$PATH" ] || exit 9
echo '{"web": ["a"]}'
"#,
    );
    assert!(loaded.inventory.is_some(), "{}", diagnostic_text(&loaded));
}

#[test]
fn names_that_only_ansible_allows_are_left_out_with_a_warning() {
    let loaded = load_script(
        r#"#!/bin/sh
cat <<'END'
{"web servers": ["web-01"], "web": {"hosts": ["web-01", "web 2"], "vars": {"http-port": 80, "tier": "front"}},
 "site": {"children": ["web", "web servers"]},
 "_meta": {"hostvars": {"web-01": {"ec2 tags": {"Name": "web 1"}, "ansible_host": "10.0.0.1"}, "web 2": {}}}}
END
"#,
    );
    let inventory = loaded.inventory.as_ref().unwrap_or_else(|| panic!("{}", loaded.diagnostics.render(false)));
    assert_eq!(inventory.hosts().iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["web-01"]);
    assert_eq!(inventory.merged_vars("web-01").keys().collect::<Vec<_>>(), ["tier"]);
    assert_eq!(inventory.hosts_in("site").unwrap().len(), 1);
    let said = diagnostic_text(&loaded);
    for wanted in [
        "host `web 2` is ignored: a host name must not contain ` `",
        "group `web servers` is ignored",
        "variable `http-port` of `web` is ignored",
        "variable `ec2 tags` of `web-01` is ignored",
    ] {
        assert_eq!(said.matches(wanted).count(), 1, "{said}");
    }
}

#[test]
fn known_hosts_pins_the_keys_of_a_dynamic_inventory() {
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvSm1VhP6sYdXQ7H3RhNjSVJdF8CkmSzUDZtzmLYhQd";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAvSm1VhP6sYdXQ7H3RhNjSVJdF8CkmSzUDZtzmLYhQd";
    let folder = tempfile::tempdir().unwrap();
    let hosts = r#"{"_meta": {"hostvars": {"a": {"ansible_host": "10.0.0.1"}, "b": {"ansible_host": "10.0.0.2",
 "ansible_port": 2222}, "c": {"ansible_host": "10.0.0.3"}, "d": {"ansible_host": "10.0.0.4", "host_key": "OWN"}}}}"#;
    write_script(folder.path(), &format!("#!/bin/sh\ncat <<'END'\n{}\nEND\n", hosts.replace("OWN", OTHER)));
    let lines = format!(
        "# pinned\na,z {KEY} operator@desk\n[10.0.0.2]:2222 {KEY}\n10.0.0.4 {KEY}\n|1|x= {KEY}\n* {KEY}\n@revoked c {KEY}\n"
    );
    std::fs::write(folder.path().join("known_hosts"), lines).unwrap();
    let loaded = Inventory::load_folder(folder.path());
    let inventory = loaded.inventory.as_ref().unwrap_or_else(|| panic!("{}", loaded.diagnostics.render(false)));
    let keys = |name: &str| {
        inventory.find_host(name).unwrap().host_keys.iter().map(|key| key.value.to_string()).collect::<Vec<_>>()
    };
    assert_eq!([keys("a"), keys("b"), keys("c"), keys("d")], [vec![KEY], vec![KEY], vec![], vec![OTHER]]);
    assert_eq!(loaded.diagnostics.iter().count(), 3, "{}", diagnostic_text(&loaded));
    std::fs::write(folder.path().join("known_hosts"), "a ssh-ed25519 AAAA\n").unwrap();
    let loaded = Inventory::load_folder(folder.path());
    assert!(loaded.inventory.is_none() && loaded.diagnostics.render(false).contains("known_hosts:1:1"));
}

#[test]
fn hanging_scripts_are_killed_with_their_children() {
    let folder = tempfile::tempdir().unwrap();
    write_script(folder.path(), "#!/bin/sh\nsleep 600 & echo $! > child\nwait\n");
    let mut found = Diagnostics::new();
    let start = Instant::now();
    run_script_with_timeout(&folder.path().join("hosts"), folder.path(), Duration::from_secs(1), &mut found);
    assert!(start.elapsed() < Duration::from_secs(60));
    let message = &found.iter().next().unwrap().message;
    assert_eq!(message, "the dynamic inventory did not finish within 1 s");
    let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
    let state = Path::new("/proc").join(child.trim()).join("stat");
    let gone = || std::fs::read_to_string(&state).map_or(true, |stat| stat.contains(") Z"));
    while !gone() {
        assert!(start.elapsed() < Duration::from_secs(60), "the child still runs");
        std::thread::yield_now();
    }
}
