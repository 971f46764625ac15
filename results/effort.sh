#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# results/effort.csv: wiki8m at 2,489,440 bytes by each effort, calibrated on WikiText-2 valid, evaluated on 206 windows of test whatever the effort
# says. tokens: forwarded by search and measuring; seconds: as the log's times say; cpu_seconds: of all threads, also where other work shares the machine.
# usage: effort.sh DATA WORK > effort.csv    WORK holds what is finished: a call that was interrupted goes on (its times are then those of the last session).
# BITBUDGET: the program; EFFORTS, SIZE, EVAL_WINDOWS: what is compared.
set -eu
data=$1 work=$2
: "${BITBUDGET:=./bitbudget}" "${EFFORTS:=quick normal thorough}" "${SIZE:=2489440}" "${EVAL_WINDOWS:=206}"
text=$data/corpora/wikitext-2-raw
mkdir -p "$work"
TIMEFORMAT='%U %S'
echo "effort,size_bytes,kl_nats,kl_se,ppl,tokens,seconds,cpu_seconds,commit"
for effort in $EFFORTS; do
    out=$work/$effort
    if [ ! -e "$out.done" ]; then
        { time "$BITBUDGET" run "$data/models/wiki8m/wiki8m-f16.gguf" --effort "$effort" --target-size "$SIZE" --calib "$text/wiki.valid.raw" \
            --eval "$text/wiki.test.raw" --eval-windows "$EVAL_WINDOWS" --out "$out" > "$out.txt" 2> "$out.err"; } 2> "$out.time"
        "$BITBUDGET" --version | sed -E 's/.*\(([^,]*),.*/\1/' > "$out.done"
    fi
    hash=$(sed -n 's/.*"plan_hash": "\([0-9a-f]*\)".*/\1/p' "$out/plan.json")
    cpu=$(tail -n 1 "$out.time" | awk '{ printf "%.0f", $1 + $2 }')
    first=$(date -d "$(head -n 1 "$out/log.txt" | cut -d' ' -f1)" +%s) last=$(date -d "$(tail -n 1 "$out/log.txt" | cut -d' ' -f1)" +%s)
    tokens=$(sed -n 's/.*search: \([0-9.]*\) million tokens for .*, after \([0-9.]*\) million.*/\1 \2/p' "$out/log.txt" | tail -n 1 | awk '{ printf "%.0f", ($1 + $2) * 1e6 }')
    awk -F, -v h="$hash" -v e="$effort" -v t="$tokens" -v s=$((last - first)) -v cpu="$cpu" -v c="$(cat "$out.done")" '
        { sub(/\r$/, "") }
        FNR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next }
        $col["plan_hash"] == h { printf "%s,%s,%s,%s,%s,%s,%s,%s,%s\n", e, $col["size_bytes"], $col["kl_nats"], $col["kl_se"], $col["ppl"], t, s, cpu, c; exit }
    ' "$out/front.csv" "$out/baselines.csv"
done
