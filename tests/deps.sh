#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs what the build, the tests and the report need on Debian or Ubuntu; says nothing when all is there.
set -eu
packages="gcc make pkg-config libgsl-dev libopenblas-dev liblapacke-dev libcsv-dev libjansson-dev libyaml-dev
libsqlite3-dev libpcre2-dev check gnuplot-nox"
missing=""
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
command -v apt-get >/dev/null || { echo "deps: please install:$missing" >&2; exit 1; }
sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo apt-get install -y -qq --no-install-recommends $missing
