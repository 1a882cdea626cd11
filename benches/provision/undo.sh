#!/usr/bin/env bash
# Takes everything back that site.toml and by-hand.sh make, and dunlin's own files: the next run is a first run.
set -eu
systemctl disable --now --quiet bench-a bench-b 2>/dev/null || true
rm -rf /srv/bench* /etc/systemd/system/bench-{a,b}.service /var/lib/dunlin
for n in {1..5}; do
  if id "bench$n" &>/dev/null; then userdel "bench$n"; fi
done
systemctl daemon-reload
