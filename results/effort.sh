#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/effort.csv: wiki8m at 2,489,440 bytes by each effort, calibrated on WikiText-2 valid, evaluated on 206 windows of test whatever the effort
# says. tokens: forwarded by search and measuring; predicted_s: foreseen for a quiet machine; seconds, cpu_seconds: of all stages (timing.csv), on the
# wall, and of all processors, which other work on the machine hardly changes.
# usage: effort.sh DATA WORK > effort.csv    WORK holds what is finished: a call that was interrupted goes on.
# BITBUDGET: the program; EFFORTS, SIZE, EVAL_WINDOWS: what is compared.
set -eu
data=$1 work=$2
: "${BITBUDGET:=./bitbudget}" "${EFFORTS:=quick normal thorough}" "${SIZE:=2489440}" "${EVAL_WINDOWS:=206}"
text=$data/corpora/wikitext-2-raw
mkdir -p "$work"
echo "effort,size_bytes,kl_nats,kl_se,ppl,tokens,predicted_s,seconds,cpu_seconds,commit"
for effort in $EFFORTS; do
    out=$work/$effort
    if [ ! -e "$out.done" ]; then
        "$BITBUDGET" run "$data/models/wiki8m/wiki8m-f16.gguf" --effort "$effort" --target-size "$SIZE" --calib "$text/wiki.valid.raw" \
            --eval "$text/wiki.test.raw" --eval-windows "$EVAL_WINDOWS" --out "$out" > "$out.txt"
        "$BITBUDGET" --version | sed -E 's/.*\(([^,]*),.*/\1/' > "$out.done"
    fi
    hash=$(sed -n 's/.*"plan_hash": "\([0-9a-f]*\)".*/\1/p' "$out/plan.json")
    times=$(awk -F, 'NR > 1 { p += $2; s += $3; c += $4 } END { printf "%.0f,%.0f,%.0f", p, s, c }' "$out/timing.csv")
    tokens=$(sed -n 's/.*search: \([0-9.]*\) million tokens for .*, after \([0-9.]*\) million.*/\1 \2/p' "$out/log.txt" | tail -n 1 | awk '{ printf "%.0f", ($1 + $2) * 1e6 }')
    awk -F, -v h="$hash" -v e="$effort" -v t="$tokens" -v s="$times" -v c="$(cat "$out.done")" '
        { sub(/\r$/, "") }
        FNR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next }
        $col["plan_hash"] == h { printf "%s,%s,%s,%s,%s,%s,%s,%s\n", e, $col["size_bytes"], $col["kl_nats"], $col["kl_se"], $col["ppl"], t, s, c; exit }
    ' "$out/front.csv" "$out/baselines.csv"
done
