//! A small project with a web host, two shard hosts and a service.

use std::os::unix::fs::PermissionsExt;

use crate::program::Project;

/// The inventory. All addresses are those of documentation (RFC 5737).
pub const HOSTS: &str = r#"[defaults]
user = "deploy"
become = true

[groups.web]
hosts = ["web-1"]
vars  = { greeting = "hello" }

[groups.redis]
hosts = ["redis-[01:02]"]
vars  = { shard_maxmemory = "256MiB" }

[groups.spare]
hosts = ["spare-1"]

[hosts.web-1]
address  = "192.0.2.1"
host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPHioFyK2+ckjCSAwbhLix5/AwNtfk4OgTOaryCzfNXt"

[hosts.redis-01]
address  = "192.0.2.11"
port     = 2222
zone     = "a"
memory   = "16GiB"
host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPHioFyK2+ckjCSAwbhLix5/AwNtfk4OgTOaryCzfNXt"

[hosts.redis-02]
address  = "192.0.2.12"
zone     = "b"
memory   = "16GiB"
host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPHioFyK2+ckjCSAwbhLix5/AwNtfk4OgTOaryCzfNXt"
vars     = { greeting = "good morning" }

# Its key is not pinned.
[hosts.spare-1]
address = "192.0.2.13"
"#;

const MAP: &str = r#"cluster   = "timeline"
epoch     = 3
port_base = 7000
replicas  = 1

[[shard]]
id       = 0
slots    = "0-8191"
host     = "redis-01"
replicas = ["redis-02"]

[[shard]]
id    = 1
slots = "8192-16383"
host  = "redis-02"
"#;

const PLAYBOOK: &str = r#"[[play]]
name  = "web"
hosts = "web"

[[play.step]]
name = "greeting"
file = { dest = "/srv/greeting", content = "{{ greeting }}\n" }

[[play]]
name  = "redis"
hosts = "redis"

[[play.step]]
name     = "shard {{ item.id }}"
for_each = "shards_here"

[play.step.redis_shard]
id           = "{{ item.id }}"
port         = "{{ item.port }}"
address      = "{{ host.address }}"
conf         = "redis/shard.conf"
acl          = "redis/users.acl"
data_dir     = "/var/lib/redis/shard-{{ item.id }}"
unit         = "redis-shard@{{ item.id }}.service"
replica_of   = "{{ item.replica_of }}"
min_replicas = "{{ item.replicas | length }}"
"#;

/// The recipe of a service.
pub const RECIPE: &str = r#"service = "shop"
hosts   = "web"
root    = "/srv/shop"
keep_releases = 3
batches = ["1", "100%"]
user    = "shop"

[[file]]
source = "build/shop"
dest   = "bin/shop"
mode   = "0755"

[health]
http = "http://127.0.0.1:8080/healthz"
"#;

const SECRETS: &str = "[redis]\nadmin = \"one\"\nreplica = \"two\"\napp = \"three\"\n";

/// The project with all its files; no host of it can be reached.
pub fn project() -> Project {
    let project = Project::new(&[
        ("inventory/hosts.toml", HOSTS),
        ("inventory/shards.toml", MAP),
        ("playbooks/site.toml", PLAYBOOK),
        ("playbooks/deploy-shop.toml", RECIPE),
        ("templates/redis/shard.conf", include_str!("../../templates/redis/shard.conf")),
        ("templates/redis/users.acl", include_str!("../../templates/redis/users.acl")),
        ("build/shop", "#!/bin/sh\necho shop\n"),
    ]);
    let secrets = project.write("inventory/secrets.toml", SECRETS);
    std::fs::set_permissions(secrets, std::fs::Permissions::from_mode(0o600)).unwrap();
    project
}
