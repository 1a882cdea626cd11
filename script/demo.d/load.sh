# The demo's load: users who follow each other, writers that post as them, and the line that counts what came of it.
# Sourced by script/demo.
# shellcheck shell=bash

# demo_seed URL BIN PROJECT GRAPH: creates the users and writes them to the file GRAPH.
demo_seed() {
    local url=$1 bin=$2 project=$3 graph=$4 folder
    folder=$(dirname "$graph")
    (
        # Both files let their reader create users.
        umask 077
        sed -n 's/^token_key = "\(.*\)"$/\1/p' "$project/inventories/demo/secrets.toml" >"$folder/token-key"
        TIMELINE_TOKEN_KEY_FILE=$folder/token-key "$bin/timeline-api" token --user 0 >"$folder/registrar-token"
    )
    "$bin/timeline-load" seed --url "$url" --registrar-token-file "$folder/registrar-token" --users 400 --follows 20 \
        --graph "$graph"
}

# demo_wait_for_acknowledgements FILE: waits until the writers have had one.
demo_wait_for_acknowledgements() {
    local attempt
    for ((attempt = 0; attempt < 100; attempt++)); do
        [[ -s $1 ]] && return
        sleep 0.1
    done
    echo "no post was acknowledged within 10 s" >&2
    return 1
}

# demo_save_logs FOLDER: copies the hosts' journals, so that a failure can be looked into once they are gone.
demo_save_logs() {
    local host
    mkdir -p "$1"
    for host in redis-01 redis-02 redis-03 app-01 app-02 data-01; do
        timeout 20 script/fleet ssh --root "$host" journalctl --no-pager --quiet >"$1/$host" 2>/dev/null || true
    done
    echo "the journals of the hosts are in $1"
}

# demo_number KEY FILE: the last number of this key in a file of JSON.
demo_number() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" "$2" | tail -n 1; }

# demo_summary FOLDER: prints the demo's last line from load.json, verify.json and rebalance.jsonl. Fails if a post, a
# delivery or a request failed. The longest gap depends on the machine, whose processors all hosts share: above 50 ms,
# a line on stderr says so.
demo_summary() {
    local load=$1/load.json verify=$1/verify.json moved acked lost missing failed gap
    moved=$(grep '"event":"rebalance_finished"' "$1/rebalance.jsonl")
    acked=$(demo_number acked "$verify")
    lost=$(demo_number lost "$verify")
    missing=$(demo_number missing "$verify")
    failed=$(($(demo_number errors "$load") + $(demo_number unacknowledged "$load")))
    gap=$(demo_number longest_gap_ms "$load")
    if awk -v gap="$gap" 'BEGIN { exit !(gap > 50) }'; then
        echo "the longest gap is above 50 ms: six hosts and their clients share the processors of this machine" >&2
    fi
    printf 'demo: %s acknowledged posts, %s lost, %s deliveries missing, %s failed requests, longest gap %s ms, %s shards (%s bytes) moved in %.2f s\n' \
        "$acked" "$lost" "$missing" "$failed" "$gap" "$(demo_number moves /dev/stdin <<<"$moved")" \
        "$(demo_number bytes /dev/stdin <<<"$moved")" "$(demo_number seconds /dev/stdin <<<"$moved")"
    [[ $acked -gt 0 && $lost == 0 && $missing == 0 && $failed == 0 ]]
}
