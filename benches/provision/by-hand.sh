#!/usr/bin/env bash
# What an operator would write by hand for the workload of site.toml: idempotent, no step done that is not due.
# `script/bench provision` sends it over plain ssh to all hosts at once: ssh HOST sudo bash -s HOST ZONE < by-hand.sh
set -euo pipefail
host=$1 zone=$2 port=7000
reload=

# put PATH: writes standard input there unless it stands there already; true if it did.
put() {
  local new=$1.new
  cat >"$new"
  if cmp -s "$new" "$1"; then
    rm "$new"
    return 1
  fi
  chmod 0644 "$new"
  mv "$new" "$1"
}

for folder in /srv/bench /srv/bench/{1..4}; do
  [[ -d $folder ]] || install -d -m 0755 "$folder"
done
for n in {1..5}; do
  id "bench$n" &>/dev/null || useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin "bench$n"
done
for n in {1..20}; do
  put "/srv/bench/1/service-$n.conf" <<END || true
# Service $n of $host, zone $zone.
[service-$n]
setting.01 = "$host $n $((port + n)) value 1"
setting.02 = "$host $n $((port + n)) value 2"
setting.03 = "$host $n $((port + n)) value 3"
setting.04 = "$host $n $((port + n)) value 4"
setting.05 = "$host $n $((port + n)) value 5"
setting.06 = "$host $n $((port + n)) value 6"
setting.07 = "$host $n $((port + n)) value 7"
setting.08 = "$host $n $((port + n)) value 8"
setting.09 = "$host $n $((port + n)) value 9"
setting.10 = "$host $n $((port + n)) value 10"
setting.11 = "$host $n $((port + n)) value 11"
setting.12 = "$host $n $((port + n)) value 12"
setting.13 = "$host $n $((port + n)) value 13"
setting.14 = "$host $n $((port + n)) value 14"
setting.15 = "$host $n $((port + n)) value 15"
setting.16 = "$host $n $((port + n)) value 16"
setting.17 = "$host $n $((port + n)) value 17"
setting.18 = "$host $n $((port + n)) value 18"
setting.19 = "$host $n $((port + n)) value 19"
setting.20 = "$host $n $((port + n)) value 20"
setting.21 = "$host $n $((port + n)) value 21"
setting.22 = "$host $n $((port + n)) value 22"
setting.23 = "$host $n $((port + n)) value 23"
setting.24 = "$host $n $((port + n)) value 24"
setting.25 = "$host $n $((port + n)) value 25"
setting.26 = "$host $n $((port + n)) value 26"
setting.27 = "$host $n $((port + n)) value 27"
setting.28 = "$host $n $((port + n)) value 28"
setting.29 = "$host $n $((port + n)) value 29"
setting.30 = "$host $n $((port + n)) value 30"
setting.31 = "$host $n $((port + n)) value 31"
setting.32 = "$host $n $((port + n)) value 32"
END
done
[[ -e /srv/bench/limits.conf ]] || install -m 0644 /dev/null /srv/bench/limits.conf
for line in "nofile 65536" "nproc 4096" "memlock unlimited"; do
  grep -qxF -- "* - $line" /srv/bench/limits.conf || printf '* - %s\n' "$line" >>/srv/bench/limits.conf
done
for link in current previous; do
  [[ $(readlink "/srv/bench/$link") == /srv/bench/2 ]] || ln -sfn /srv/bench/2 "/srv/bench/$link"
done
for n in a b; do
  if put "/etc/systemd/system/bench-$n.service" <<END; then reload=yes; fi
[Unit]
Description=Bench $n of $host

[Service]
ExecStart=/bin/sleep infinity
Restart=on-failure

[Install]
WantedBy=multi-user.target
END
done
[[ -z $reload ]] || systemctl daemon-reload
for n in a b; do
  systemctl is-enabled --quiet "bench-$n" 2>/dev/null || systemctl enable --quiet "bench-$n"
  systemctl is-active --quiet "bench-$n" || systemctl start "bench-$n"
done
[[ -e /srv/bench/3/index ]] || ls /srv/bench/1 >/srv/bench/3/index
