#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Beside each file that llama.cpp made (shared baselines, measured by llama-perplexity): our best plan that is no larger.
# usage: compare.sh FRONT.csv LLAMACPP.csv > llamacpp.csv
set -eu
awk -F, '
    { sub(/\r$/, "") }
    FNR == 1 { file++; for (i = 1; i <= NF; i++) col[file, $i] = i; next }
    file == 1 { n++; hash[n] = $col[1, "plan_hash"]; size[n] = $col[1, "size_bytes"]; kl[n] = $col[1, "kl_nats"]; se[n] = $col[1, "kl_se"]; next }
    BEGIN { print "type,mixture,imatrix,embedding,their_bytes,their_kl_nats,our_plan,our_bytes,our_kl_nats,our_kl_se,kl_ratio" }
    $col[2, "mixture"] == "-" { next }
    {
        best = 0
        for (i = 1; i <= n; i++) if (size[i] <= $col[2, "size_bytes"] && (!best || kl[i] < kl[best])) best = i
        if (best)
            printf "%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%.4f\n", $1, $2, $3, $4, $5, $col[2, "kl_nats"], hash[best], size[best], kl[best], se[best], \
                   kl[best] / $col[2, "kl_nats"]
    }' "$1" "$2"
