# shellcheck shell=bash
# What a run of script/test owns: a folder /tmp/dunlin-test.XXXXXX, which is TMPDIR of all its steps, with
#   owner    process id and start time of script/test
#   fleets   the names of its fleets
# and, where this is allowed, a control group dunlin-test-PID with all processes of its steps. A detached process waits
# for the end of script/test, also by SIGKILL, and removes all of it; the next run removes what that process left.

run_folder=
run_group=

# The start time of process $1, or nothing: with it a process id that is used again is not taken for the old one.
process_start() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }

owner_is_alive() {
  local pid start
  read -r pid start <"$1/owner" && [[ -n $start && $(process_start "$pid") == "$start" ]]
}

run_group_path() {
  local root=/sys/fs/cgroup
  [[ -f $root/cgroup.procs ]] || root=$root/unified
  printf '%s/dunlin-test-%s\n' "$root" "$1"
}

# Creates the folder and the control group, and starts the process that removes them. $1: fleets, separated by commas.
run_begin() {
  run_folder=$(mktemp -d /tmp/dunlin-test.XXXXXX)
  # Servers of the tests may run as users of their own.
  mkdir -m 1777 "$run_folder/tmp"
  chmod 711 "$run_folder"
  tr , '\n' <<<"$1" >"$run_folder/fleets"
  printf '%s %s\n' $$ "$(process_start $$)" >"$run_folder/owner.new"
  mv "$run_folder/owner.new" "$run_folder/owner"
  run_group=$(run_group_path $$)
  mkdir "$run_group" 2>/dev/null || run_group=
  export TMPDIR=$run_folder/tmp
  setsid "$BASH" -c '. script/test.d/run.sh; while owner_is_alive "$1"; do sleep 1; done; run_remove "$1"' \
    run "$run_folder" </dev/null >/dev/null 2>&1 &
  disown
}

# Runs a command within the control group.
in_run_group() {
  if [[ -z $run_group ]]; then "$@"; return; fi
  # shellcheck disable=SC2016 # expanded by the inner shell
  "$BASH" -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$run_group" "$@"
}

# Kills what the steps of the run with folder $1 started, and removes its fleets and files. The folder goes last.
run_remove() {
  local folder=$1 pid group fleet
  [[ -f $folder/owner ]] || return 0
  read -r pid _ <"$folder/owner"
  group=$(run_group_path "$pid")
  if [[ -d $group ]]; then
    echo 1 >"$group/cgroup.kill"
    until grep -q '^populated 0' "$group/cgroup.events"; do sleep 0.05; done
    find "$group" -depth -type d -exec rmdir {} +
  fi
  while read -r fleet; do
    [[ ! -e /var/lib/dunlin-fleet/$fleet ]] || script/fleet --fleet "$fleet" down >&2 || return 1
  done <"$folder/fleets"
  rm -rf --one-file-system "$folder"
}

# Removes what earlier runs left whose script/test and whose remover were both killed.
run_sweep() {
  local folder
  for folder in /tmp/dunlin-test.*; do
    # Not a link, which any user could have put there.
    [[ ! -L $folder && -O $folder && -f $folder/owner ]] || continue
    owner_is_alive "$folder" || run_remove "$folder" || true
  done
}
