#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/pruning.csv: a share of the FFN channels of every block, or of all KV groups, removed from wiki8m, weights otherwise full precision (F16).
# compensated: no (columns cut), least-squares (one shot), sequential (rebuild on the inputs of the pruned prefix). removed: the share of
# the excess log-perplexity of "no" that compensation takes back.
# usage: pruning.sh DATA WORK > pruning.csv    WORK holds what is finished. BITBUDGET: the program; EVAL_WINDOWS, CALIB_WINDOWS as for quantize.
set -eu
data=$1 work=$2
: "${BITBUDGET:=./bitbudget}" "${EVAL_WINDOWS:=48}" "${CALIB_WINDOWS:=32}"
mkdir -p "$work"

# full perplexity, then kl ppl ppl_se of one model
measure() {
    out=$work/$1
    shift
    [ -s "$out" ] || $BITBUDGET quantize "$data/models/wiki8m/wiki8m-f16.gguf" "$@" --calib "$data/corpora/wikitext-2-raw/wiki.valid.raw" --calib-windows "$CALIB_WINDOWS" \
        --database "$work/database" --eval "$data/corpora/wikitext-2-raw/wiki.test.raw" --eval-windows "$EVAL_WINDOWS" --out "$out.gguf" --json -q > "$out"
    rm -f "$out.gguf"
    awk -F'[:,]' '{ gsub(/[" ]/, "", $1); v[$1] = $2 } END { print v["ppl_full"] + 0, v["kl_nats"] + 0, v["ppl"] + 0, v["ppl_se"] + 0 }' "$out"
}

echo model,unit,fraction,compensated,kl_nats,ppl,ppl_se,removed
for unit in ffn kv; do
    for fraction in 0.1 0.25 0.5; do
        cut=$(measure $unit-$fraction-no --prune-$unit $fraction --method weighted --no-compensation)
        for how in no least-squares sequential; do
            case $how in
                no) now=$cut ;;
                least-squares) now=$(measure $unit-$fraction-$how --prune-$unit $fraction --method weighted) ;;
                *) now=$(measure $unit-$fraction-$how --prune-$unit $fraction --method sequential) ;;
            esac
            echo "$cut $now" | awk -v OFS=, -v u=$unit -v f=$fraction -v h=$how \
                '{ print "wiki8m", u, f, h, $6, $7, $8, h == "no" ? "" : sprintf("%.3f", 1 - log($7 / $5) / log($3 / $1)) }'
        done
    done
done
