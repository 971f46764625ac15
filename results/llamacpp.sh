#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Rows of results/llamacpp.csv for one model: the source, llama.cpp's own files and ours, all measured by llama-perplexity against the source on the
# same text and the same chunks. Theirs are made by llama-quantize with an importance matrix of the calibration text.
# usage: llamacpp.sh LLAMACPP MODEL.gguf CALIBRATION EVALUATION RUN WORK TABLE.csv
#   LLAMACPP  folder of llama-perplexity, llama-quantize, llama-imatrix
#   RUN       a run's folder: its front.csv and models/HASH.gguf
#   WORK      scratch; the logits of the source stay there (chunks x ctx/2 x vocabulary x 2 bytes) until all rows are done
#   TABLE     rows are appended; a row that is already there (same file, same text, same chunks) is not measured again
# IMATRIX: a folder of such matrices, MODEL.imatrix.gguf; what it lacks is made in WORK. CTX (256), CHUNKS (200), THREADS (2), TYPES: what llama-quantize is asked for. BITBUDGET: the program, for its own figures of our files.
set -eu
bin=$1 source=$2 calib=$3 text=$4 run=$5 work=$6 table=$7
: "${CTX:=256}" "${CHUNKS:=200}" "${THREADS:=2}" "${BITBUDGET:=./bitbudget}"
: "${TYPES:=IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M Q2_K IQ3_XXS IQ3_XS IQ3_M Q3_K_M IQ4_XS Q4_K_S Q4_K_M}"
model=$(basename "$source" .gguf); model=${model%-f16}
me=llamacpp.sh log=$work/log
. "$(dirname "$0")/judge.sh"
need_programs
mkdir -p "$work"
[ -s "$table" ] || echo "model,made_by,name,size_bytes,sha256,text_sha256,ctx,chunks,ppl,ppl_se,ln_ratio,ln_ratio_se,kl_nats,kl_se,kl_p99,top1,bitbudget_ppl,bitbudget_kl_nats" > "$table"

text_hash=$(sha "$text")
logits=$work/$model.logits

# Our engine on the same chunks: "ppl,kl".
ours_of() {
    $BITBUDGET eval "$1" --text "$text" --protocol gguf --ctx "$CTX" --chunks "$CHUNKS" --reference "$source" --json -q > "$work/json"
    awk -F'[:,]' '{ gsub(/[" ]/, "", $1); v[$1] = $2 + 0 } END { printf "%.6g,%.6g", v["ppl"], v["kl_nats"] }' "$work/json"
}

# row MADE_BY NAME FILE
row() {
    hash=$(sha "$3")
    key="$model,$1,$2,$(stat -Lc %s "$3"),$hash,$text_hash,$CTX,$CHUNKS"
    if ! grep -qF "$key," "$table"; then
        source_logits "$source" "$text" "$logits" "$(sha "$source")"
        compare "$3" "$logits"
        figures=$(statistics ppl ppl_se ln_ratio ln_ratio_se kl kl_se p99 top1)
        figures=${figures%,*},$(awk -v t="${figures##*,}" 'BEGIN { print t / 100 }')
        own=,
        case $1 in llama.cpp) ;; *) own=$(ours_of "$3") ;; esac
        echo "$key,$figures,$own" >> "$table"
    fi
}

row source F16 "$source"
# llama-quantize writes the name of the matrix into its file: it is the same whatever folder holds the matrix, and so are the file's bytes.
imatrix=$model.imatrix.gguf
if [ ! -s "$work/$imatrix" ]; then
    if [ -s "${IMATRIX:-/nonexistent}/$imatrix" ]; then cp "$IMATRIX/$imatrix" "$work/new.imatrix.gguf"
    else quietly "$bin/llama-imatrix" -m "$source" -f "$calib" -c "$CTX" -t "$THREADS" -o "$work/new.imatrix.gguf"
    fi
    mv "$work/new.imatrix.gguf" "$work/$imatrix"
fi
bin=$(cd "$bin" && pwd) source=$(readlink -f "$source")
for type in $TYPES; do
    (cd "$work" && "$bin/llama-quantize" --imatrix "$imatrix" "$source" "$model.$type.gguf" "$type" "$THREADS" > log 2>&1) || {
        echo "llamacpp.sh: llama-quantize failed on $type:" >&2; tail -n 3 "$work/log" >&2; exit 1; }
    row llama.cpp "$type" "$work/$model.$type.gguf"
    rm -f "$work/$model.$type.gguf"
done
for plan in $(awk -F, '{ sub(/\r$/, "") } NR == 1 { for (i = 1; i <= NF; i++) col[$i] = i; next } $col["plan_hash"] != "-" { print $col["plan_hash"] }' "$run/front.csv"); do
    [ -e "$run/models/$plan.gguf" ] || { echo "llamacpp.sh: $run/models/$plan.gguf, a plan of front.csv, is not there" >&2; exit 1; }
    row bitbudget "$plan" "$run/models/$plan.gguf"
done
rm -f "$logits" "$logits.key"
