#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# The hash of the smallest plan of a front. usage: smallest.sh FRONT.csv
set -eu
awk -F, '
    { sub(/\r$/, "") }
    NR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next }
    $col["plan_hash"] != "-" && (plan == "" || $col["size_bytes"] + 0 < least) { plan = $col["plan_hash"]; least = $col["size_bytes"] + 0 }
    END { if (plan == "") exit 1; print plan }' "$1"
