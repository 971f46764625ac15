#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Rivals that llama.cpp does not have, made with the same calibration text as all others and judged as all others (real.sh): rows of results/real.csv.
# usage: real-rivals.sh search    LLAMA-QUANTIZE LLAMACPP MODEL-F16.gguf CALIB.txt TEXTS WORK TABLE.csv   the search of llama.cpp's pull request 15550 at SIZES
#        real-rivals.sh ours      LLAMA-QUANTIZE LLAMACPP MODEL-F16.gguf CALIB.txt TEXTS WORK TABLE.csv   our sweep of SIZES with the types that the branch adds (IQ2_NL, IQ3_NL)
#        real-rivals.sh mixtures  LLAMA-QUANTIZE LLAMACPP MODEL-F16.gguf CALIB.txt TEXTS WORK TABLE.csv   mixtures of another llama-quantize's types, those of RIVALS
#        real-rivals.sh autoround PYTHON         LLAMACPP MODEL-F16.gguf CALIB.txt TEXTS WORK TABLE.csv   AutoRound's GGUF export, RUNS
#        real-rivals.sh small     LLAMA-QUANTIZE LLAMACPP MODEL-F16.gguf CALIB.txt TEXT  WORK TABLE.csv   mixtures judged on one text: rows of results/llamacpp.csv
#   LLAMA-QUANTIZE  the program of that branch or fork; a file of types that LLAMACPP lacks is judged as the F16 that it makes of it
#   PYTHON          of an environment with auto_round
#   LLAMACPP, TEXTS, WORK, TABLE as in real.sh; the importance matrix is WORK/calibration.imatrix.gguf
# NAME: what the method is called. SIZES (47711648 69484384). RIVALS: a list (configs/reproduce/smollm2-ik.txt). RUNS: what AutoRound is asked for, SCHEME:ITERS:SAMPLES:TOKENS:BATCH.
set -euo pipefail
here=$(dirname "$0")
what=$1 program=$(realpath -s "$2") llamacpp=$(cd "$3" && pwd) source=$(readlink -f "$4") calib=$(readlink -f "$5") texts=$(readlink -f "$6") work=$7 table=$8
: "${THREADS:=2}" "${SIZES:=47711648 69484384}" "${RIVALS:=configs/reproduce/smollm2-ik.txt}" "${RUNS:=gguf:q4_0:0:32:512:4 gguf:q2_k_s:0:32:512:4 gguf:q4_0:20:32:512:2 gguf:q2_k_s:20:32:512:2}"
mkdir -p "$work/rivals"
work=$(cd "$work" && pwd)
log=$work/made.$$.log
trap 'rm -f "$log" "$work"/new.$$*' EXIT
none=$work/none.txt # no files of llama.cpp's own: only the importance matrix
: > "$none"
RIVALS=$none bash "$here/real.sh" rivals "$llamacpp" "$source" "$calib" "$work"

# made FILE COMMAND...: runs a command whose last but one or two words are FILE.new, unless FILE is there
made() {
    local file=$1
    shift
    [ -s "$file" ] && return
    "$@" > "$log" 2>&1 || { echo "real-rivals.sh: $1 failed:" >&2; tail -n 3 "$log" >&2; exit 1; }
    mv "$work/new.$$.gguf" "$file"
}
judge() { bash "$here/real.sh" judge "$llamacpp" "$source" "$texts" "$work" "$table" "$@"; }

# The matrix in the form that ik_llama.cpp reads.
old_matrix() {
    [ -s "$work/calibration.imatrix.dat" ] || "$llamacpp/llama-imatrix" -m "$source" --in-file "$work/calibration.imatrix.gguf" -o "$work/new.$$.dat" --output-format dat > "$log" 2>&1
    [ -s "$work/calibration.imatrix.dat" ] || mv "$work/new.$$.dat" "$work/calibration.imatrix.dat"
}
mixtures() { # COMMAND...: called with each file
    local name type options file
    old_matrix
    while read -r name type options; do
        file="$work/rivals/${NAME:-ik_llama.cpp} $name.gguf"
        # shellcheck disable=SC2086
        made "$file" "$program" --imatrix "$work/calibration.imatrix.dat" $options "$source" "$work/new.$$.gguf" "$type" "$THREADS"
        "$@" "$file" < /dev/null
    done < <(grep -v '^#' "$RIVALS")
}

# A row of llamacpp.csv.
small() { # FILE
    local f16=$work/new.$$.f16.gguf key
    key="$model,${NAME:-ik_llama.cpp},$(basename "${1#*"${NAME:-ik_llama.cpp} "}" .gguf),$(stat -Lc %s "$1"),$(sha "$1"),$(sha "$texts"),$CTX,$CHUNKS"
    grep -qF "$key," "$table" && return
    source_logits "$source" "$texts" "$work/$model.logits" "$(sha "$source")"
    quietly "$program" --allow-requantize "$1" "$f16" F16 1
    compare "$f16" "$work/$model.logits"
    figures=$(statistics ppl ppl_se ln_ratio ln_ratio_se kl kl_se p99 top1)
    echo "$key,${figures%,*},$(awk -v t="${figures##*,}" 'BEGIN { print t / 100 }'),," >> "$table"
    rm -f "$f16"
}

case $what in
search)
    for size in $SIZES; do
        file="$work/rivals/${NAME:-llama.cpp PR 15550} $size.gguf"
        made "$file" "$program" --state-file "$work/${NAME:-llama.cpp PR 15550}.state" --imatrix "$work/calibration.imatrix.gguf" --target-size "$size" "$source" "$work/new.$$.gguf" "$THREADS"
        DEQUANTIZE=$program judge "${NAME:-llama.cpp PR 15550}" "mixture; no activations in the matrix" "$file"
    done
    ;;
ours)
    "${BITBUDGET:-./bitbudget}" sweep "$source" --config configs/reproduce/smollm2.yaml --experimental-formats --formats Q2_0,IQ2_NL,IQ3_NL,IQ4_NL,Q5_0,Q8_0,IQ3_XXS,Q3_K \
        --embd-formats Q2_0,IQ3_NL,IQ4_NL,Q5_0,Q8_0 --sizes "${SIZES// /,}" --threads "$THREADS" --out "$work/ours-block-32"
    tr -d '\r' < "$work/ours-block-32/front.csv" | awk -F, 'NR > 1 && $1 != "-" { print $1 }' | while read -r plan; do
        DEQUANTIZE=$program judge "ours with block-32" "mixture; 65536 tokens" "$work/ours-block-32/models/$plan.gguf" < /dev/null
    done
    ;;
mixtures)
    each() { DEQUANTIZE=$program judge "$(basename "$1" .gguf)" mixture "$1"; }
    mixtures each
    ;;
autoround)
    for run in $RUNS; do
        IFS=: read -r gguf scheme iters samples tokens batch <<< "$run"
        file="$work/rivals/AutoRound $scheme $iters.gguf"
        [ -s "$file" ] || made "$file" "$program" "$here/autoround.py" "$source" "$calib" "$gguf:$scheme" "$iters" "$samples" "$tokens" "$batch" "$work/autoround" "$work/new.$$.gguf"
        judge "AutoRound $scheme$([ "$iters" = 0 ] || echo " ($iters steps)")" "mixture; $iters steps a block; $samples x $tokens tokens; batch $batch" "$file"
    done
    ;;
small)
    : "${CTX:=256}" "${CHUNKS:=200}"
    bin=$llamacpp me=real-rivals.sh
    . "$here/judge.sh"
    model=$(basename "$source" .gguf) model=${model%-f16}
    mixtures small
    ;;
*) echo "real-rivals.sh: $what is none of search, ours, mixtures, autoround, small" >&2; exit 2 ;;
esac
