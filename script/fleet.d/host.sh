# shellcheck shell=bash
# One host: a folder $state/hosts/NAME with
#   number  host_key  host_key.pub  base  upper/ work/ (its disk)  root/ (its mount)  console.log
# and, while it runs, a namespace (net.sh) and a control group with all of its processes.

host_names() {
  local dir
  for dir in "$state"/hosts/*/; do
    [[ -f ${dir}number ]] && basename "$dir"
  done
  return 0
}

host_dir() { printf '%s/hosts/%s\n' "$state" "$1"; }
host_address() { printf '10.99.%s.%s\n' "$number" "$(<"$state/hosts/$1/number")"; }

# Where unified control groups are mounted: alone, or beside the older ones.
cgroup_root() {
  if [[ -f /sys/fs/cgroup/cgroup.procs ]]; then echo /sys/fs/cgroup; else echo /sys/fs/cgroup/unified; fi
}

host_cgroup() { printf '%s/dunlin%s/%s\n' "$(cgroup_root)" "$number" "$1"; }

host_runs() {
  local events
  events=$(host_cgroup "$1")/cgroup.events
  [[ -f $events ]] && grep -q '^populated 1' "$events"
}

# running, cut (running with its cable pulled) or off.
host_state() {
  local link
  link=dunlin$number-$(<"$state/hosts/$1/number")
  if ! host_runs "$1"; then
    echo off
  elif [[ $(cat "/sys/class/net/$link/operstate" 2>/dev/null) == up ]]; then
    echo running
  else
    echo cut
  fi
}

# The folder of a new host $1. Its number is written last: a folder without one is no host yet.
host_create() {
  local name=$1 dir n=11
  dir=$(host_dir "$name")
  [[ -f $dir/number ]] && return
  rm -rf --one-file-system "$dir"
  while grep -qsx "$n" "$state"/hosts/*/number; do n=$((n + 1)); done
  ((n < 255)) || die 1 "a fleet holds at most 244 hosts"
  mkdir -p "$dir"
  ssh-keygen -q -t ed25519 -N '' -C "root@$name" -f "$dir/host_key"
  echo "$n" >"$dir/number.new"
  mv "$dir/number.new" "$dir/number"
}

# A fresh disk: only what makes this host itself. Complete once it has the name `upper`.
host_make_disk() {
  local name=$1 dir disk
  dir=$(host_dir "$name")
  disk=$dir/upper.new
  [[ -d $dir/upper ]] && return
  rm -rf --one-file-system "$disk" "$dir/work"
  base_path >"$dir/base"
  mkdir -p "$dir/work" "$dir/root" "$disk/etc/ssh" "$disk/root/.ssh" "$disk/home/deploy/.ssh"
  chmod 755 "$disk"
  chmod 700 "$disk/root" "$disk/root/.ssh" "$disk/home/deploy/.ssh"
  echo "$name" >"$disk/etc/hostname"
  printf '%s' "$state/$name" | md5sum | cut -c 1-32 >"$disk/etc/machine-id"
  host_hosts_block | host_hosts_file /dev/null >"$disk/etc/hosts"
  install -m 600 "$dir/host_key" "$disk/etc/ssh/ssh_host_ed25519_key"
  install -m 644 "$dir/host_key.pub" "$disk/etc/ssh/ssh_host_ed25519_key.pub"
  install -m 600 "$state/id_ed25519.pub" "$disk/root/.ssh/authorized_keys"
  install -m 600 "$state/id_ed25519.pub" "$disk/home/deploy/.ssh/authorized_keys"
  chmod --reference="$(<"$dir/base")/home/deploy" "$disk/home/deploy"
  chown -R 1000:1000 "$disk/home/deploy"
  mv -T "$disk" "$dir/upper"
}

host_hosts_block() {
  local name
  printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n'
  for name in $(host_names); do printf '%s %s\n' "$(host_address "$name")" "$name"; done
}

# /etc/hosts on stdout: what stands in the file $1 outside of our block, then our block (stdin).
host_hosts_file() {
  sed '/^# fleet: begin$/,/^# fleet: end$/d' "$1"
  echo '# fleet: begin'
  cat
  echo '# fleet: end'
}

# Hosts that were there before know their new neighbors too.
host_update_hosts_file() {
  local dir file
  dir=$(host_dir "$1")
  file=$dir/upper/etc/hosts
  if host_runs "$1"; then file=$dir/root/etc/hosts; fi
  if [[ -f $file ]]; then
    host_hosts_block | host_hosts_file "$file" >"$dir/hosts.new"
    cmp -s "$dir/hosts.new" "$file" || cat "$dir/hosts.new" >"$file"
    rm -f "$dir/hosts.new"
  fi
}

# Boots host $1 from its disk, where it is off, and returns at once; host_wait waits for it.
# nspawn comes last: where it runs, everything below it is complete.
host_boot() {
  local name=$1 dir base cgroup
  if host_runs "$name"; then
    # A killed test may have left it cut off.
    ip link set "dunlin$number-$(<"$state/hosts/$name/number")" up
    return
  fi
  host_clear "$name"
  dir=$(host_dir "$name")
  host_make_disk "$name"
  base=$(<"$dir/base")
  [[ -d $base ]] || die 1 "$name stands on $base, which is missing: $hint reset $name"
  bridge_ensure
  net_make "$name" "$(<"$dir/number")"
  mount -t overlay "dunlin$number" -o "lowerdir=$base,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
  cgroup=$(host_cgroup "$name")
  mkdir -p "$cgroup"
  cgroup_delegate "$cgroup"
  # In a process of its own: no lock may stay with it, and it must outlive this shell.
  (
    exec 8>&- 9>&-
    echo "$BASHPID" >"$cgroup/cgroup.procs"
    # net.* settings are a namespace's own, so a host may change them, as a server may.
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
    exec setsid systemd-nspawn --quiet --directory="$dir/root" \
      --machine="dunlin$number-$name" --hostname="$name" --boot --register=no --keep-unit \
      --network-namespace-path="/run/netns/dunlin$number-$name" --capability=CAP_NET_ADMIN \
      --link-journal=no --resolv-conf=off --timezone=off --console=read-only \
      </dev/null >"$dir/console.log" 2>&1
  ) &
  until host_runs "$name"; do
    kill -0 $! 2>/dev/null || die 1 "$name does not start; its console: $dir/console.log"
    sleep 0.01
  done
}

# All hosts' root is one user to the kernel, and each host takes about six inotify instances of his:
# the usual 128 end at twenty hosts, where units begin to fail.
inotify_ensure() {
  local limit=/proc/sys/fs/inotify/max_user_instances wanted=4096
  (($(<"$limit") < wanted)) || return 0
  if echo "$wanted" 2>/dev/null >"$limit"; then
    say "set fs.inotify.max_user_instances to $wanted until the next boot of this machine"
  fi
}

# Lets the hosts' own systemd use those controllers that the machine has in this hierarchy.
cgroup_delegate() {
  local dir controller
  for dir in "$(cgroup_root)" "$(dirname "$1")"; do
    for controller in $(<"$dir/cgroup.controllers"); do
      echo "+$controller" >"$dir/cgroup.subtree_control" 2>/dev/null || true
    done
  done
}

# Waits until host $1 is up: sshd answers, systemd says that the start is over. 120 s at most.
host_wait() {
  local name=$1 address end=$((SECONDS + 120)) verdict
  address=$(host_address "$name")
  until timeout 1 bash -c "read -r banner <'/dev/tcp/$address/22' && [[ \$banner == SSH-* ]]" 2>/dev/null; do
    host_runs "$name" || die 1 "$name went off while it started; its console: $(host_dir "$name")/console.log"
    ((SECONDS < end)) || die 1 "$name: no sshd at $address within 120 s; its console: $(host_dir "$name")/console.log"
    sleep 0.05
  done
  # `degraded` and others are an exit status of their own; the words say which.
  verdict=$(fleet_ssh root "$name" 'timeout 60 systemctl is-system-running --wait' </dev/null) || true
  if [[ $verdict == degraded ]]; then
    say "$name: degraded, these units failed:"
    fleet_ssh root "$name" 'systemctl list-units --failed --no-legend --plain' </dev/null >&2 || true
  elif [[ $verdict != running ]]; then
    die 1 "$name: systemd is '${verdict:-unknown}' instead of running; its console: $(host_dir "$name")/console.log"
  fi
}

# Releases all resources of a running or partly started host $1, except its disk. The link first, so
# that peers see silence, as when the power goes, and not the kernel closing sockets.
host_clear() {
  local name=$1 dir lock
  dir=$(host_dir "$name")
  net_unplug "dunlin$number-$(<"$dir/number")"
  cgroup_kill "$(host_cgroup "$name")"
  if mountpoint -q "$dir/root"; then
    lock=/run/systemd/nspawn/locks/inode-$(stat -c %d:%i "$dir/root")
    unmount_below "$dir/root"
    rm -f "$lock"
  fi
  if [[ -d /run/systemd/nspawn/propagate/dunlin$number-$name ]]; then
    rmdir "/run/systemd/nspawn/propagate/dunlin$number-$name"
  fi
  net_remove "$name" "$(<"$dir/number")"
}

net_unplug() { if [[ -e /sys/class/net/$1 ]]; then ip link set "$1" down; fi; }

# Kills all processes of the control group $1 and removes it from every hierarchy that has it.
cgroup_kill() {
  local group=$1 end=$((SECONDS + 20)) root hierarchy
  root=$(cgroup_root)
  if [[ -d $group ]]; then
    echo 1 >"$group/cgroup.kill"
    until grep -q '^populated 0' "$group/cgroup.events"; do
      ((SECONDS < end)) || die 1 "processes in $group do not die"
      sleep 0.02
    done
  fi
  for hierarchy in "$root" /sys/fs/cgroup/systemd; do
    if [[ -d $hierarchy/${group#"$root"/} ]]; then
      find "$hierarchy/${group#"$root"/}" -depth -type d -exec rmdir {} +
    fi
  done
}

# Everything mounted at $1 or below it, the deepest first.
unmount_below() {
  local target
  while read -r target; do
    umount "$target" 2>/dev/null || umount --lazy "$target"
  done < <(awk -v at="$1" '$5 == at || index($5, at "/") == 1 { print $5 }' /proc/self/mountinfo | tac)
}
