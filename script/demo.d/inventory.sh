# Writes the demo's project: what a user would have in a repository of their own. Sourced by script/demo.
# shellcheck shell=bash

# demo_project FOLDER BIN: playbooks and templates as shipped, an inventory of the demo's hosts, a map of 64 shards, and
# the programs in BIN where the recipe expects what cargo has built.
demo_project() {
    local project=$1 bin=$2 inventory=$1/inventories/demo
    rm -rf "$project"
    mkdir -p "$inventory"
    cp -r playbooks templates "$project/"
    printf 'inventory = "inventories/demo"\n' >"$project/dunlin.toml"
    mkdir -p "$project/target/x86_64-unknown-linux-gnu"
    ln -s "$bin" "$project/target/x86_64-unknown-linux-gnu/release"
    demo_hosts >"$inventory/hosts.toml"
    demo_shards >"$inventory/shards.toml"
    (umask 077 && demo_secrets >"$inventory/secrets.toml")
}

demo_word() { od -An -N20 -tx1 /dev/urandom | tr -d ' \n'; }

# Prints secrets.toml. The file gets the mode 0600: dunlin refuses one that others can read.
demo_secrets() {
    printf '[redis]\nadmin   = "%s"\nreplica = "%s"\napp     = "%s"\n' "$(demo_word)" "$(demo_word)" "$(demo_word)"
    printf '\n[postgres]\ntimeline = "%s"\n' "$(demo_word)"
    printf '\n[rabbitmq]\ntimeline = "%s"\n' "$(demo_word)"
    printf '\n[timeline]\ntoken_key = "%s"\n' "$(demo_word)"
}

# Prints hosts.toml: two hosts of shards, two of the service, and one for everything that the service uses besides.
demo_hosts() {
    local data
    data=$(script/fleet address data-01)
    cat <<EOT
[defaults]
user   = "deploy"
become = true
key    = "$(script/fleet path)/id_ed25519"

[groups.redis]
hosts = ["redis-01", "redis-02"]
# All of these hosts share one disk, and nobody kills them: a sync each second will do (docs/guarantees.md).
vars  = { shard_maxmemory = "64MiB", redis_appendfsync = "everysec" }

[groups.app]
hosts = ["app-01", "app-02"]

[groups.app.vars]
timeline_mode           = "push"
timeline_database_host  = "$data"
timeline_queue_host     = "$data"
timeline_memcached_host = "$data"

[groups.postgres]
hosts = ["data-01"]

[groups.rabbitmq]
hosts = ["data-01"]
vars  = { rabbitmq_disk_free_limit = "50MB" }

[groups.memcached]
hosts = ["data-01"]
vars  = { memcached_megabytes = 64 }

[groups.haproxy]
hosts = ["data-01"]
EOT
    local host zone=a
    for host in redis-01 redis-02 app-01 app-02 data-01; do
        printf '\n[hosts.%s]\naddress  = "%s"\nhost_key = "%s"\nzone     = "%s"\n' \
            "$host" "$(script/fleet address "$host")" "$(script/fleet host-key "$host" | cut -d' ' -f1,2)" "$zone"
        # Postgres sizes its caches by it.
        [[ $host == app-* ]] || printf 'memory   = "%s"\n' "$([[ $host == data-01 ]] && echo 1GiB || echo 4GiB)"
        if [[ $zone == a ]]; then zone=b; else zone=a; fi
    done
}

demo_shards() {
    printf 'cluster   = "timeline"\nepoch     = 1\nport_base = 7000\n'
    local id
    for ((id = 0; id < 64; id++)); do
        printf '\n[[shard]]\nid    = %d\nslots = "%d-%d"\nhost  = "redis-0%d"\n' \
            "$id" $((id * 256)) $((id * 256 + 255)) $((id / 32 + 1))
    done
}
