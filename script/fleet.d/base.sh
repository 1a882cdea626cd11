# shellcheck shell=bash
# The base tree that all hosts of all fleets share, read-only, below their own layers.
# Its folder is named by the hash of its recipe (what is installed, how it is built and configured),
# it is built beside its final place and renamed, so a base that is there is complete.

base_cache=/var/cache/dunlin-fleet
# Debian's releases that a fleet can run, and the one of the fleet at hand.
base_suites=(bookworm trixie)
base_suite=bookworm
# What a small Debian server has, and python3, which other tools want on their hosts.
# libpam-systemd is left out: see docs/test-fleet.md for what that saves.
base_include=systemd,systemd-sysv,dbus,openssh-server,sudo,iproute2,procps,python3

base_packages() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$fleet_lib/packages"; }

base_path() {
  local hash suite=${1:-$base_suite}
  hash=$({
    echo "$suite $base_include"
    declare -f base_build base_configure
    base_packages
  } | sha256sum)
  printf '%s/base-%s\n' "$base_cache" "${hash:0:12}"
}

# Makes sure that the base is there. Another fleet that builds it meanwhile is waited for.
base_ensure() {
  local base
  base=$(base_path)
  [[ -d $base ]] && return
  mkdir -p "$base_cache"
  (
    flock -w 1200 8 || die 1 "another fleet has been building the base for 20 minutes; see $base_cache"
    [[ -d $base ]] && exit 0
    say "building the base tree $base (once; a minute or two)"
    base_remove_unfinished
    # Not as a condition itself: that would turn `set -e` off in it.
    base_build "$base" >"$base.log" 2>&1 &
    if ! wait $!; then
      tail -n 20 "$base.log" >&2
      die 1 "the base tree could not be built; all of its log: $base.log"
    fi
    rm -f "$base.log"
  ) 8>"$base_cache/lock"
}

# Holding the lock, so whatever is unfinished was left by a killed run.
base_remove_unfinished() {
  local tree
  for tree in "$base_cache"/*.building; do
    [[ -d $tree ]] || continue
    unmount_below "$tree"
    rm -rf --one-file-system "$tree"
  done
}

# The same, unless somebody is building just now.
base_forget_unfinished() {
  mkdir -p "$base_cache"
  (
    flock --nonblock 8 || exit 0
    base_remove_unfinished
    rm -f "$base_cache"/base-*.log "$base_cache"/base-*.sources
  ) 8>"$base_cache/lock"
}

base_build() {
  local tree=$1.building sources=/etc/apt/sources.list.d/debian.sources
  local -a from=()
  # The machine's own mirror, where it has one in Debian's present format; else Debian's default.
  if [[ -f $sources ]]; then
    sed -E "/^Suites:/s/(bookworm|trixie)/$base_suite/g" "$sources" >"$1.sources"
    from=("$1.sources")
  fi
  # shellcheck disable=SC2016 # the hook is expanded by mmdebstrap's shell
  local download='APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get install --yes --download-only'
  # mmdebstrap's own apt leaves recommended packages out; a host's apt will want them.
  download+=" --option APT::Install-Recommends=true $(base_packages | paste -sd ' ')"
  mmdebstrap --mode=root --format=directory --variant=minbase \
    --skip=cleanup/apt/lists,cleanup/apt/cache \
    --aptopt='Acquire::Languages "none"' \
    --include="$base_include" \
    --customize-hook="$download" \
    "$base_suite" "$tree" "${from[@]}"
  rm -f "$1.sources"
  base_configure "$tree"
  mv -T "$tree" "$1"
}

# Run on the outside, in the tree: what a fleet needs and what would make tests depend on the hour.
base_configure() {
  local tree=$1 unit
  # All hosts share one disk here: a package that one of them installs must not hold up what the others sync.
  printf 'force-unsafe-io\n' >"$tree/etc/dpkg/dpkg.cfg.d/fleet"
  # Identities are each host's own.
  rm -f "$tree"/etc/ssh/ssh_host_* "$tree/etc/hostname" "$tree/etc/resolv.conf"
  : >"$tree/etc/machine-id"
  : >"$tree/etc/resolv.conf"
  # One key per host, given from outside; the others would only be logged as missing.
  echo 'HostKey /etc/ssh/ssh_host_ed25519_key' >"$tree/etc/ssh/sshd_config.d/fleet.conf"
  chroot "$tree" useradd --create-home --shell /bin/bash --uid 1000 deploy
  install -d -m 700 "$tree/root/.ssh"
  install -d -m 700 -o 1000 -g 1000 "$tree/home/deploy/.ssh"
  echo 'deploy ALL=(ALL:ALL) NOPASSWD: ALL' >"$tree/etc/sudoers.d/deploy"
  chmod 440 "$tree/etc/sudoers.d/deploy"
  # `apt` removes archives that it has installed, apt-get does not: keep them for both.
  echo 'Binary::apt::APT::Keep-Downloaded-Packages "true";' >"$tree/etc/apt/apt.conf.d/90fleet"
  # Masks timers that would take apt's lock or the disk at any hour, and unused terminals.
  for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    fstrim.timer console-getty.service; do
    ln -sf /dev/null "$tree/etc/systemd/system/$unit"
  done
  mkdir -p "$tree/var/log/journal"
  sync -f "$tree"
}

# Removes every base but the present one of each suite and those below hosts of a recorded fleet. `up` holds the
# same lock only while it builds, so a host made meanwhile stands on the present base, which stays.
base_prune() {
  local base file suite used
  used=$(
    for suite in "${base_suites[@]}"; do base_path "$suite"; done
    for file in "$registry"/*; do
      if [[ -f $file ]]; then cat "$(<"$file")"/hosts/*/base 2>/dev/null || true; fi
    done
  )
  mkdir -p "$base_cache"
  (
    flock 8
    base_remove_unfinished
    for base in "$base_cache"/base-*; do
      if [[ -d $base ]] && ! grep -qxF "$base" <<<"$used"; then
        say "removing $base"
        mv -T "$base" "$base.building"
        rm -rf --one-file-system "$base.building"
      fi
    done
  ) 8>"$base_cache/lock"
}
