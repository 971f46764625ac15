#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Rows of results/qat.csv: a file of few bits trained on more and more tokens, judged on text that nothing was chosen on.
# usage: qat.sh MODEL WORK TABLE SOURCE.gguf START.gguf BITS TRAIN OTHER METHOD:ESTIMATOR:SCHEDULE:MTOKENS... -- NAME=EVAL...
#   MODEL     the name in the table; BITS: bits of the file per weight of the source
#   START     the file that is trained; made once, kept by the caller
#   TRAIN     texts to train on, OTHER: texts on which the result may be no worse (lists, as --text and --other)
#   METHOD    start: nothing; end-to-end: what the step of that name does (batches of 4 windows, its rates) for as many tokens; qat: the defaults of `bitbudget qat` but for the windows a step (BATCH, 4); qat+self: on
#             what the model writes itself as well; qat@RATE, qat+self@RATE: at that highest rate of weights
#   EVAL      held-out texts: WINDOWS windows each, evenly spaced
# EXTRA: options of qat (--precision fast --threads 2); BITBUDGET; SECONDS are processor time. A row that is there is not made again; an interrupted training goes on.
set -euo pipefail
TIMEFORMAT="%U %S"
model=$1 work=$2 table=$3 source=$4 start=$5 bits=$6 train=$7 other=$8
shift 8
jobs=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do jobs+=("$1"); shift; done
shift
: "${BATCH:=4}" "${WINDOWS:=64}" "${EXTRA:=--precision fast}" "${BITBUDGET:=./bitbudget}"
mkdir -p "$work"
[ -s "$table" ] || echo "model,plan_bpw,method,estimator,schedule,tokens,text,kl_nats,kl_se,ppl,ppl_se,top1,seconds" > "$table"
value() { awk -F'[:,]' -v k="\"$1\"" '{ gsub(/ /, "", $1) } $1 == k { printf "%.6g", $2 }' "$work/json"; }
for job in "${jobs[@]}"; do
    IFS=: read -r method estimator schedule tokens <<< "$job"
    key="$model,$bits,$method,$estimator,$schedule,$(awk -v t="$tokens" 'BEGIN { printf "%.0f", t * 1e6 }')"
    [ "$(grep -cF "$key," "$table")" -lt $# ] || continue
    file=$work/$(echo "$key" | tr -c 'A-Za-z0-9.\n' -).gguf
    case $method in
    start) file=$start rates= ;;
    end-to-end) rates="--batch 4 --rate 0.03 --scale-rate 0.002" ;;
    *@*) rates="--batch $BATCH --rate ${method#*@}" ;;
    *) rates="--batch $BATCH" ;;
    esac
    text=$train
    case $method in qat+self*) text=$train,self ;; esac
    if [ ! -s "$file" ]; then
        # shellcheck disable=SC2086
        { time "$BITBUDGET" qat "$start" --reference "$source" --text "$text" --other "$other" --tokens "$tokens" --estimator "$estimator" --schedule "$schedule" \
            $rates $EXTRA --out "$file" > "$file.csv" 2> "$file.log"; } 2> "$file.times" || { tail -3 "$file.log" >&2; exit 1; }
    fi
    seconds=$([ -s "$file.times" ] && awk '{ s = $1 + $2 } END { printf "%.0f", s }' "$file.times" || echo 0)
    for text in "$@"; do
        grep -qF "$key,${text%%=*}," "$table" && continue
        "$BITBUDGET" eval "$file" --text "${text#*=}" --ctx 256 --chunks "$WINDOWS" --spread --precision fast --reference "$source" --json -q > "$work/json"
        echo "$key,${text%%=*},$(value kl_nats),$(value kl_se),$(value ppl),$(value ppl_se),$(value top1),$seconds" >> "$table"
    done
done
