#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Rows of results/lattice.csv: every linear of a model at about 2 bits, embedding Q6_K: the lattice LC2 beside types of llama.cpp, before and after the same training.
# usage: lattice.sh MODEL WORK TABLE SOURCE.gguf CALIB TRAIN OTHER JOB... -- NAME=EVAL...
#   MODEL     the name in the table; CALIB, TRAIN, OTHER: texts to calibrate on, to train on, on which training may be no worse
#   JOB       TYPE:METHOD, what `bitbudget quantize` makes (rtn, feedback, sequential); TYPE:METHOD:ESTIMATOR:MTOKENS: then trained (straight, differentiable)
#   EVAL      held-out texts: WINDOWS windows each, evenly spaced
# CALIB_WINDOWS, SWEEPS, DAMPING: of quantize; SWEEPS_LC2: passes of the lattice; QUANTIZE, TRAINING: more options of quantize and of qat; EXTRA: of both and of eval; BITBUDGET. SECONDS are processor
# time of that step. A row that is there is not made again; files stay in WORK.
set -euo pipefail
TIMEFORMAT="%U %S"
model=$1 work=$2 table=$3 source=$4 calib=$5 train=$6 other=$7
shift 7
jobs=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do jobs+=("$1"); shift; done
shift
: "${WINDOWS:=40}" "${CALIB_WINDOWS:=64}" "${SWEEPS:=4}" "${DAMPING:=0.01}" "${SWEEPS_LC2:=10}" "${QUANTIZE:=}" "${TRAINING:=}" "${EXTRA:=--precision fast}" "${BITBUDGET:=./bitbudget}"
mkdir -p "$work"
[ -s "$table" ] || echo "model,type,method,damping,estimator,tokens,bytes,bpw_linears,text,kl_nats,kl_se,ppl,ppl_se,top1,seconds" > "$table"
value() { awk -F'[:,]' -v k="\"$1\"" '{ gsub(/ /, "", $1) } $1 == k { printf "%.6g", $2 }' "$work/json"; }
timed() { # FILE COMMAND...: runs it, its processor time into FILE.times
    local file=$1
    shift
    { time "$@" > "$file.csv" 2> "$file.log"; } 2> "$file.times" || { tail -3 "$file.log" >&2; exit 1; }
}
weights=$("$BITBUDGET" inspect "$source" -q | awk '$1 == "attention" || $1 == "ffn" { n += $4 } END { print n }')
# shellcheck disable=SC2086
for job in "${jobs[@]}"; do
    IFS=: read -r type method estimator tokens <<< "$job"
    damping=$DAMPING
    [ "$method" = rtn ] && damping=
    file=$work/$model-$type-$method-$damping.gguf
    sweeps="--sweeps $SWEEPS" calibration="--calib $calib --calib-windows $CALIB_WINDOWS --damping $damping"
    [ "$type" = LC2 ] && sweeps="--sweeps $SWEEPS_LC2 --experimental-formats"
    [ "$method" = rtn ] && sweeps='' calibration=''
    [ -s "$file" ] || timed "$file" "$BITBUDGET" quantize "$source" --format "$type" --method "$method" $calibration $sweeps $QUANTIZE $EXTRA --out "$file" -q
    if [ -n "${estimator:-}" ]; then
        start=$file file=$work/$model-$type-$method-$damping-$estimator-$tokens.gguf
        [ -s "$file" ] || timed "$file" "$BITBUDGET" qat "$start" --reference "$source" --text "$train" --other "$other" --tokens "$tokens" --estimator "$estimator" \
            $TRAINING $EXTRA --out "$file"
    fi
    key="$model,$type,$method,$damping,${estimator:-},$(awk -v t="${tokens:-0}" 'BEGIN { printf "%.0f", t * 1e6 }')"
    seconds=$(awk '{ s = $1 + $2 } END { printf "%.0f", s }' "$file.times")
    bits=$(awk -v n="$weights" '{ b += $2 } END { printf "%.4f", 8 * b / n }' <("$BITBUDGET" inspect "$file" -q | grep -E '^(attention|ffn) '))
    for text in "$@"; do
        grep -qF "$key,$(stat -c %s "$file"),$bits,${text%%=*}," "$table" && continue
        "$BITBUDGET" eval "$file" --text "${text#*=}" --ctx 256 --chunks "$WINDOWS" --spread $EXTRA --reference "$source" --json -q > "$work/json"
        echo "$key,$(stat -c %s "$file"),$bits,${text%%=*},$(value kl_nats),$(value kl_se),$(value ppl),$(value ppl_se),$(value top1),$seconds" >> "$table"
    done
done
