# shellcheck shell=bash
# What a fleet leaves in its state folder for others to read: keys, ssh_config, inventory.

state_make() {
  rm -rf --one-file-system "$state.removed"
  if [[ ! -f $state/.dunlin-fleet ]]; then
    # `down` removes this folder, so it must be nobody else's.
    [[ ! -e $state ]] || rmdir "$state" 2>/dev/null || die 1 "$state exists and is no fleet's folder"
    mkdir -p "$(dirname "$state")"
    mkdir "$state"
    touch "$state/.dunlin-fleet"
  fi
  mkdir -p "$state/hosts" "$state/inventory"
  if [[ ! -f $state/id_ed25519.pub ]]; then
    rm -f "$state/id_ed25519"
    ssh-keygen -q -t ed25519 -N '' -C "fleet-$fleet" -f "$state/id_ed25519"
  fi
}

files_write() {
  write_atomically "$state/known_hosts" known_hosts_text
  write_atomically "$state/ssh_config" ssh_config_text
  write_atomically "$state/inventory/hosts.toml" inventory_text
}

# Readers see the old file or the new one. An unchanged file keeps its time.
write_atomically() {
  "$2" >"$1.new"
  if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv -T "$1.new" "$1"; fi
}

known_hosts_text() {
  local name
  for name in $(host_names); do
    printf '%s,%s %s\n' "$name" "$(host_address "$name")" "$(cut -d ' ' -f 1,2 "$state/hosts/$name/host_key.pub")"
  done
}

ssh_config_text() {
  local name
  for name in $(host_names); do
    printf 'Host %s\n  HostName %s\n\n' "$name" "$(host_address "$name")"
  done
  cat <<END
Host *
  User deploy
  IdentityFile $state/id_ed25519
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile $state/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  BatchMode yes
  ConnectTimeout 5
END
}

inventory_text() {
  local name names=()
  mapfile -t names < <(host_names)
  cat <<END
# Written by script/fleet for its fleet "$fleet", and again whenever hosts are added.
# Copy it before you change it.

[defaults]
user = "deploy"
become = true
key = "$state/id_ed25519"

[groups.fleet]
hosts = [$(printf '"%s", ' "${names[@]}" | sed 's/, $//')]
END
  for name in "${names[@]}"; do
    printf '\n[hosts.%s]\naddress = "%s"\nhost_key = "%s"\n' "$name" "$(host_address "$name")" \
      "$(cut -d ' ' -f 1,2 "$state/hosts/$name/host_key.pub")"
  done
}

# A command on host $2 as user $1.
fleet_ssh() {
  local user=$1 name=$2
  shift 2
  ssh -F "$state/ssh_config" -l "$user" "$name" "$@"
}
