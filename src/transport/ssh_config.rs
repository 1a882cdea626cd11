//! The ssh configuration and known-hosts file of one run: the inventory said in ssh's words.

use std::fmt::Write as _;
use std::path::Path;

use super::{JumpHost, SshTarget};

/// Renders the configuration: one block per target, then the files that targets name, then the user's own.
pub fn render_config(targets: &[SshTarget], known_hosts: &Path) -> String {
    let mut text = String::new();
    for target in targets {
        write_host_block(&mut text, target, known_hosts);
    }
    let mut files: Vec<&Path> = targets.iter().filter_map(|target| target.ssh_config.as_deref()).collect();
    files.sort_unstable();
    files.dedup();
    text.push_str("Match all\n");
    for file in files {
        let _ = writeln!(text, "  Include {}", quote_path(file));
    }
    if std::env::var_os("HOME").is_some() {
        text.push_str("  Include ~/.ssh/config\n");
    }
    text.push_str("  Include /etc/ssh/ssh_config\n");
    text
}

fn write_host_block(text: &mut String, target: &SshTarget, known_hosts: &Path) {
    let mut lines: Vec<(&str, String)> = vec![("HostKeyAlias", host_key_alias(&target.name))];
    // A name from the ssh config keeps its HostName.
    if target.ssh_config.is_none() || target.address != target.name {
        lines.push(("HostName", target.address.clone()));
    }
    lines.extend(target.port.map(|port| ("Port", port.to_string())));
    lines.extend(target.user.clone().map(|user| ("User", user)));
    if let Some(key) = &target.identity_file {
        lines.push(("IdentityFile", quote_path(key)));
        lines.push(("IdentitiesOnly", "yes".to_owned()));
    }
    match &target.jump {
        Some(JumpHost::Target(name)) => lines.push(("ProxyJump", name.clone())),
        Some(JumpHost::Destination(destination)) => lines.push(("ProxyJump", destination.clone())),
        None => {}
    }
    let fixed = [
        ("UserKnownHostsFile", quote_path(known_hosts)),
        ("GlobalKnownHostsFile", "/dev/null".to_owned()),
        ("StrictHostKeyChecking", "yes".to_owned()),
        ("UpdateHostKeys", "no".to_owned()),
        ("BatchMode", "yes".to_owned()),
        ("ForwardAgent", "no".to_owned()),
        ("ForwardX11", "no".to_owned()),
        ("ConnectTimeout", target.connect_timeout.as_secs().max(1).to_string()),
    ];
    lines.extend(fixed);
    let _ = writeln!(text, "Host {}", target.name);
    for (key, value) in lines {
        let _ = writeln!(text, "  {key} {value}");
    }
}

/// Renders the known-hosts file: pinned keys under names that no address can take.
pub fn render_known_hosts(targets: &[SshTarget]) -> String {
    let mut text = String::new();
    for target in targets {
        for key in &target.host_keys {
            let _ = writeln!(text, "{} {key}", host_key_alias(&target.name));
        }
    }
    text
}

fn host_key_alias(name: &str) -> String {
    format!("dunlin.{name}")
}

fn quote_path(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn target(name: &str) -> SshTarget {
        SshTarget {
            name: name.to_owned(),
            address: "10.0.0.1".to_owned(),
            port: Some(2222),
            user: Some("deploy".to_owned()),
            identity_file: Some("/keys/with blank".into()),
            host_keys: vec!["ssh-ed25519 AAAA".to_owned()],
            jump: Some(JumpHost::Target("bastion".to_owned())),
            ssh_config: None,
            become_root: true,
            connect_timeout: Duration::from_secs(7),
        }
    }

    #[test]
    fn a_target_becomes_an_ssh_host_block() {
        let text = render_config(&[target("a")], Path::new("/tmp/known"));
        for line in [
            "Host a\n",
            "HostName 10.0.0.1",
            "Port 2222",
            "User deploy",
            "IdentityFile \"/keys/with blank\"",
            "ProxyJump bastion",
            "StrictHostKeyChecking yes",
            "ConnectTimeout 7",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(render_known_hosts(&[target("a")]), "dunlin.a ssh-ed25519 AAAA\n");
    }
}
