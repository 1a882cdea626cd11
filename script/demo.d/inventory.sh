# Writes the demo's project: what a user would have in a repository of their own. Sourced by script/demo.
# shellcheck shell=bash

# demo_project FOLDER: playbooks and templates as shipped, an inventory of the demo's hosts, a map of 64 shards.
demo_project() {
    local project=$1 inventory=$1/inventories/demo
    rm -rf "$project"
    mkdir -p "$inventory"
    cp -r playbooks templates "$project/"
    printf 'inventory = "inventories/demo"\n' >"$project/dunlin.toml"
    # The recipe names what cargo builds; the demo's project has no source tree of its own.
    ln -s "$PWD/target" "$project/target"
    demo_hosts >"$inventory/hosts.toml"
    demo_shards >"$inventory/shards.toml"
    (
        umask 077
        printf '[redis]\nadmin   = "%s"\nreplica = "%s"\napp     = "%s"\n' "$(demo_word)" "$(demo_word)" "$(demo_word)" \
            >"$inventory/secrets.toml"
    )
}

demo_word() { od -An -N20 -tx1 /dev/urandom | tr -d ' \n'; }

demo_hosts() {
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
hosts = ["app-01"]
EOT
    local host zone=a
    for host in redis-01 redis-02 app-01; do
        printf '\n[hosts.%s]\naddress  = "%s"\nhost_key = "%s"\nzone     = "%s"\n' \
            "$host" "$(script/fleet address "$host")" "$(script/fleet host-key "$host" | cut -d' ' -f1,2)" "$zone"
        [[ $host == app-* ]] || printf 'memory   = "4GiB"\n'
        zone=b
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
