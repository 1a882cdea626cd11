# shellcheck shell=bash
# Numbers and names: each fleet has a number K on this machine, recorded in $registry/K, and by it
# a bridge dunlinK with 10.99.K.1/24. Host n of it has the address 10.99.K.n, the namespace
# dunlinK-NAME and the link dunlinK-n in the bridge. Link names stay below the kernel's 15 characters.

registry=/var/lib/dunlin-fleet/.numbers

# Prints the number of the fleet whose state folder is $1, or nothing.
fleet_number() {
  local file
  for file in "$registry"/*; do
    if [[ -f $file && $(<"$file") == "$1" ]]; then
      basename "$file"
      return
    fi
  done
}

# Gives the fleet with the state folder $1 a number, the lowest free one, and prints it.
# The file is complete before it has its name; the lock keeps the number unique.
allot_number() {
  mkdir -p "$registry"
  (
    flock 8
    local k
    k=$(fleet_number "$1")
    if [[ -z $k ]]; then
      for ((k = 0; k < 256; k++)); do
        [[ ! -e $registry/$k && ! -e /sys/class/net/dunlin$k ]] && break
      done
      ((k < 256)) || die 1 "all 256 fleet networks are taken; see $registry"
      printf '%s\n' "$1" >"$registry/.new"
      mv "$registry/.new" "$registry/$k"
    fi
    printf '%s\n' "$k"
  ) 8>"$registry/.lock"
}

# With a hardware address of its own: else a bridge takes one of its ports', and changes it with them.
bridge_ensure() {
  local bridge=dunlin$number mac
  printf -v mac '02:d0:00:%02x:00:01' "$number"
  [[ -e /sys/class/net/$bridge ]] || ip link add "$bridge" address "$mac" type bridge forward_delay 0
  ip addr replace "10.99.$number.1/24" dev "$bridge"
  ip link set "$bridge" up
}

# A namespace for host $1 with the number $2, wired to the bridge. There is no default route:
# what is not in the fleet is "unreachable" at once instead of silent.
net_make() {
  local ns=dunlin$number-$1 link=dunlin$number-$2 mac
  printf -v mac '02:d0:00:%02x:00:%02x' "$number" "$2" # fixed, so that neighbors' caches stay right
  # One at a time: making /run/netns a mount of its own is not safe against others that do so.
  flock "$registry/.lock" ip netns add "$ns"
  ip link add "$link" type veth peer name eth0 address "$mac" netns "$ns"
  ip link set "$link" master "dunlin$number" up
  ip -n "$ns" link set lo up
  ip -n "$ns" addr add "10.99.$number.$2/24" dev eth0
  ip -n "$ns" link set eth0 up
}

net_remove() {
  local ns=dunlin$number-$1 link=dunlin$number-$2
  if [[ -e /sys/class/net/$link ]]; then ip link del "$link"; fi
  if [[ -e /run/netns/$ns ]]; then ip netns del "$ns"; fi
}

# Removes every kernel object with the number $1, also those left by other runs.
net_remove_all() {
  local path
  for path in /run/netns/dunlin"$1"-*; do
    if [[ -e $path ]]; then ip netns del "$(basename "$path")" || rm -f "$path"; fi
  done
  for path in /sys/class/net/dunlin"$1"-* /sys/class/net/dunlin"$1"; do
    if [[ -e $path ]]; then ip link del "$(basename "$path")"; fi
  done
}
