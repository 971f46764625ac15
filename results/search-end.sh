#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/search-end.csv: how many windows to measure the options on, and how many tokens to search with: wiki8m at five sizes of a sweep, or at one size with `run`, everything else as by
# default but for finalise, which is the rebuild alone. Calibrated on WikiText-2 valid, evaluated on 206 windows of test, which nothing else sees. tokens: forwarded by the search;
# measure_cpu_s, search_cpu_s: processor time of the whole search, for all sizes.
# usage: search-end.sh DATA WORK > search-end.csv    WORK holds what is finished: a call that was interrupted goes on.
# BITBUDGET: the program; CONFIGS: WINDOWS:MILLIONS...; SIZES: of `sweep`, or one for `run`.
set -eu
data=$1 work=$2
: "${BITBUDGET:=./bitbudget}" "${CONFIGS:=4:1 8:4}" "${SIZES:=1354432,1787904,2157632,2957696,3530304}"
text=$data/corpora/wikitext-2-raw
mkdir -p "$work"
echo "model,command,measure_windows,search_millions,size_bytes,kl_nats,kl_se,tokens,measure_cpu_s,search_cpu_s,commit"
case $SIZES in *,*) command=sweep sizes="--sizes $SIZES" ;; *) command=run sizes="--target-size $SIZES" ;; esac
for config in $CONFIGS; do
    windows=${config%:*} millions=${config#*:}
    out=$work/$command-$SIZES-$windows-$millions
    if [ ! -e "$out.done" ]; then
        # shellcheck disable=SC2086
        "$BITBUDGET" $command "$data/models/wiki8m/wiki8m-f16.gguf" $sizes --calib "$text/wiki.valid.raw" --eval "$text/wiki.test.raw" --eval-windows 206 --finalise-steps rebuild \
            --database "$work/database" --measure-windows "$windows" --search-tokens "$millions" --out "$out" > "$out.txt"
        "$BITBUDGET" --version | sed -E 's/.*\(([^,]*),.*/\1/' > "$out.done"
    fi
    tokens=$(sed -n 's/.*search: \([0-9.]*\) million tokens for .*/\1/p' "$out/log.txt" | tail -n 1 | awk '{ printf "%.0f", $1 * 1e6 }')
    stage() { tr -d '\r' < "$out/timing.csv" | awk -F, -v s="$1" '$1 == s { printf "%.0f", $4 }'; }
    hash=$(sed -n 's/.*"plan_hash": "\([0-9a-f]*\)".*/\1/p' "$out/plan.json")
    tr -d '\r' < "$out/front.csv" | awk -F, -v OFS=, -v c="$command" -v w="$windows" -v m="$millions" -v t="$tokens" -v a="$(stage measure)" -v b="$(stage search)" -v v="$(cat "$out.done")" -v only="$([ $command = run ] && echo "$hash")" '
        NR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next }
        $col["plan_hash"] != "-" && (only == "" || $col["plan_hash"] == only) { print "wiki8m", c, w, m, $col["size_bytes"], $col["kl_nats"], $col["kl_se"], t, a, b, v }'
done
