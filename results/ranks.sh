#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# results/ranks.csv: the same run of wiki8m at one size by 1, 2 and 4 ranks of one thread on this machine, whose cores are counted beside it: what is written
# must be the same bytes, and is compared. seconds: of all stages, on the wall (timing.csv); cpu_seconds: of all ranks; efficiency: seconds of one rank over
# ranks times seconds (other work on the machine, load_1min, decides it); cpu_ratio: cpu_seconds over those of one rank, what the ranks do twice; forwards: scores of plans and options, windows of tokens (--ctx) each, as search and measuring count them.
# usage: ranks.sh DATA WORK > ranks.csv    WORK holds what is finished: a call that was interrupted goes on.
# BITBUDGET: the program, built with MPI; RANKS, SIZE, OPTIONS: what is run.
set -eu
data=$1 work=$2
: "${BITBUDGET:=./bitbudget}" "${RANKS:=1 2 4}" "${SIZE:=2489440}" "${OPTIONS:=--effort quick --calib-windows 16 --screen 4 --sweeps 1 --search-tokens 0.1 --finalise-steps rebuild --eval-windows 16}"
text=$data/corpora/wikitext-2-raw
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mkdir -p "$work"
echo "ranks,cores,seconds,cpu_seconds,efficiency,cpu_ratio,forwards,model_sha256,load_1min,commit"
for n in $RANKS; do
    out=$work/$n
    if [ ! -e "$out.done" ]; then
        # shellcheck disable=SC2086
        mpirun --oversubscribe --bind-to none -n "$n" "$BITBUDGET" run "$data/models/wiki8m/wiki8m-f16.gguf" $OPTIONS --target-size "$SIZE" --threads 1 \
            --calib "$text/wiki.valid.raw" --eval "$text/wiki.test.raw" --out "$out" > "$out.txt"
        cut -d ' ' -f 1 /proc/loadavg > "$out.load"
        "$BITBUDGET" --version | sed -E 's/.*\(([^,]*),.*/\1/' > "$out.done"
    fi
    for f in front.csv plans.csv sensitivity.csv finalise.csv model.gguf; do cmp "$work/${RANKS%% *}/$f" "$out/$f" >&2; done
    forwards=$(sed -n 's/.*search: \([0-9.]*\) million tokens for .*, after \([0-9.]*\) million.*/\1 \2/p' "$out/log.txt" | tail -n 1 |
        awk -v ctx="$(sed -n 's/^ctx: *//p' "$out/config.resolved.yaml")" '{ printf "%.0f", ($1 + $2) * 1e6 / ctx }')
    sha=$(sha256sum "$out/model.gguf" | cut -c 1-12)
    awk -F, 'NR > 1 { s += $3; c += $4 } END { printf "%.3f %.3f\n", s, c }' "$out/timing.csv" > "$out.times"
    read -r first first_cpu < "$work/${RANKS%% *}.times"
    read -r seconds cpu < "$out.times"
    echo "$n $(nproc) $seconds $cpu $first $first_cpu $forwards $sha $(cat "$out.load") $(cat "$out.done")" |
        awk '{ printf "%s,%s,%.0f,%.0f,%.2f,%.2f,%s,%s,%s,%s\n", $1, $2, $3, $4, $5 / ($1 * $3), $4 / $6, $7, $8, $9, $10 }'
done
