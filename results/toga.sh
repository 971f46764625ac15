#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Rows of results/toga.csv: TOGA, what it is compared with, and ours at no more bytes, all judged by our engine on the same windows (docs/toga.md).
# usage: toga.sh NAME MODEL.gguf WORK TABLE CALIB EVAL,EVAL... [JOB...]      JOB: names of rows below; none: all
#   NAME   the model in the table; CALIB: the text that masks are learned on, matrices calibrated on, and ours searched and calibrated on
# LEARN_Q, LEARN: options of learning, of TOGA-q and of what prunes; WINDOWS a text (64), CALIB_WINDOWS (64); BITBUDGET; OURS: a directory of `sweep --effort quick` with these
# texts and sizes of the table, else made here. tokens: forwarded to learn (a backward pass counts two) and to calibrate; empty of ours.
# seconds: processor time of everything but judging, empty where learning went on from a state; of ours of the whole sweep. A row that is there is not made again; interrupted learning goes on.
set -euo pipefail
name=$1 model=$2 work=$3 table=$4 calib=$5 texts=$6
shift 6
: "${LEARN_Q:=--steps 2000}" "${LEARN:=--steps 1000}" "${WINDOWS:=64}" "${CALIB_WINDOWS:=64}" "${BITBUDGET:=./bitbudget}" "${OURS:=$work/ours}"
mkdir -p "$work"
[ -s "$table" ] || echo "model,method,size_bytes,bpw,pruned_fraction,text,ppl,ppl_se,kl_nats,kl_se,tokens,seconds" > "$table"
wanted=" $* "
is_wanted() { [ "$wanted" = "  " ] || [[ "$wanted" == *" $1 "* ]]; }
full=$(stat -c %s "$model")
share() { awk -v f="$full" -v s="$1" 'BEGIN { printf "%d", f * s }'; }
toga() { # JOB LABEL OPTIONS...
    local job=$1 label=$2
    shift 2
    is_wanted "$job" && ! grep -qF "$name,$label," "$table" || return 0
    local state=()
    local seen=0
    [[ " $* " == *" --steps "* ]] && state=(--state "$work/$job.state")
    [ ! -s "$work/$job.state" ] || seen=1
    "$BITBUDGET" toga "$model" --text "$calib" --calib-windows "$CALIB_WINDOWS" --eval "$texts" --eval-windows "$WINDOWS" --embedding Q4_0 --name "$label" \
        --policy "$work/$job.policy.csv" "${state[@]}" "$@" > "$work/$job.csv" 2> "$work/$job.log" || { tail -3 "$work/$job.log" >&2; exit 1; }
    awk -F, -v OFS=, -v m="$name" -v seen=$seen 'NR > 1 { $1 = m; if (seen) $NF = ""; print }' "$work/$job.csv" >> "$table"
}
value() { awk -F'[:,]' -v k="\"$1\"" '{ gsub(/ /, "", $1) } $1 == k { printf "%.6f", $2 }' "$work/json"; }
ours() { # LABEL SIZE: of the sweep the largest plan within the size
    local label=$1 size=$2 hash pruned bytes
    is_wanted ours && ! grep -qF "$name,$label," "$table" || return 0
    [ -s "$OURS/front.csv" ] || "$BITBUDGET" sweep "$model" --sizes "$sizes" --effort quick --calib "$calib" --out "$OURS" -q > /dev/null
    IFS=, read -r hash pruned <<< "$(tr -d '\r' < "$OURS/front.csv" | awk -F, -v s="$size" 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; next }
        length($1) == 16 && $c["size_bytes"] <= s && $c["size_bytes"] > most { most = $c["size_bytes"]; found = $1 "," $c["pruned_fraction"] } END { print found }')"
    bytes=$(stat -c %s "$OURS/models/$hash.gguf")
    for text in ${texts//,/ }; do
        "$BITBUDGET" eval "$OURS/models/$hash.gguf" --text "$text" --ctx 256 --chunks "$WINDOWS" --spread --reference "$model" --json -q > "$work/json"
        echo "$name,$label,$bytes,$(awk -F, -v b="$bytes" '$3 > 0 && $4 > 0 && !a { a = $3 / $4 } END { printf "%.5f", b / a }' "$table"),$pruned,$(basename "${text%.*}"),$(value ppl),$(value ppl_se),$(value kl_nats),$(value kl_se),,$(tr -d '\r' < "$OURS/timing.csv" | awk -F, 'NR > 1 && $1 != "evaluate" { s += $4 } END { printf "%.0f", s }')" >> "$table"
    done
}

a=$(share 0.15) b=$(share 0.2)
toga u2 "GPTQ Q2_0" --salience none --low Q2_0
toga u1 "GPTQ Q1_0" --salience none --low Q1_0
toga b12 "BiLLM-like: Hessian 10 % Q2_0 + Q1_0" --salience hessian --high Q2_0 --salient 0.1
toga h16 "Hessian 20 % Q4_0 + Q1_0" --salience hessian
toga a16 "PTQ1.61-like: activations 20 % Q4_0 + Q1_0" --salience activations
# shellcheck disable=SC2086
{
    toga q "TOGA-q 20 % Q4_0 + Q1_0" $LEARN_Q
    toga j15 "TOGA joint Q4_0 + Q1_0 at 15 %" $LEARN --prune all --target-size "$a"
    toga f15 "TOGA fixed sparsity 20 % Q4_0 + Q1_0 at 15 %" $LEARN --prune all --target-size "$a" --kept 0.8
    toga s15 "sequential prune then Q2_0 at 15 %" $LEARN --prune all --target-size "$a" --salience none --low Q2_0 --prune-on whole
    toga j20 "TOGA joint Q4_0 + Q2_0 at 20 %" $LEARN --prune all --target-size "$b" --low Q2_0
    toga f20 "TOGA fixed sparsity 20 % Q4_0 + Q2_0 at 20 %" $LEARN --prune all --target-size "$b" --low Q2_0 --kept 0.8
    toga s20 "sequential prune then Q4_0 at 20 %" $LEARN --prune all --target-size "$b" --salience none --low Q4_0 --prune-on whole
}
q=$(awk -F, -v n="$name" '$1 == n && $2 ~ /^PTQ1.61-like/ { print $3; exit }' "$table") # what TOGA-q may take
sizes=$q,$a,$b
ours "ours at most TOGA-q's bytes" "${q:-0}"
ours "ours at 15 %" "$a"
ours "ours at 20 %" "$b"
