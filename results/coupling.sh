#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Rows of results/coupling.csv: what it is worth that the rows of a rebuilt matrix answer for each other (docs/quantization.md), at the same bytes, on texts that were not calibrated on.
# usage: coupling.sh MODEL.gguf CALIB NAME=TEXT,NAME=TEXT... WORK TABLE.csv TYPE+EMBEDDING... [-- OPTIONS of quantize]     one row a type, text and number of --output-windows
# OUTPUT_WINDOWS ("0 8 64"), WINDOWS (60) of each text, CTX (256), BITBUDGET: the program, MODEL_NAME. A row that is there is not measured again.
set -euo pipefail
: "${OUTPUT_WINDOWS:=0 8 64}" "${WINDOWS:=60}" "${CTX:=256}" "${BITBUDGET:=./bitbudget}"
model=$1 calib=$2 texts=$3 work=$4 table=$5
shift 5
types=() options=(--effort quick --precision fast)
while [ $# -gt 0 ]; do
    if [ "$1" = -- ]; then shift; options=("$@"); break; fi
    types+=("$1"); shift
done
name=${MODEL_NAME:-$(basename "$model" .gguf)}
mkdir -p "$work"
[ -s "$table" ] || echo "model,format,embd_format,size_bytes,output_windows,options,calibration,text,windows,ctx,kl_nats,kl_se,ppl,cpu_seconds" > "$table"
value() { sed -n "s/.*\"$1\": *\([-0-9.e+]*\).*/\1/p" "$work/json" | head -n 1; }
TIMEFORMAT="%U %S"
for t in "${types[@]}"; do
    for w in $OUTPUT_WINDOWS; do
        file=$work/$t-$w.gguf
        key="$name,${t%%+*},${t##*+}"
        for pair in ${texts//,/ }; do
            row="$w,${options[*]},$(basename "$calib"),${pair%%=*},$WINDOWS,$CTX,"
            if awk -F, -v k="$key," -v r=",$row" 'index($0, k) == 1 && index($0, r) { found = 1 } END { exit !found }' "$table"; then continue; fi
            if [ ! -s "$file" ]; then
                { time "$BITBUDGET" quantize "$model" --format "${t%%+*}" --embd-format "${t##*+}" "${options[@]}" --output-windows "$w" --calib "$calib" --out "$file" -q > /dev/null 2> "$work/log"; } \
                    2> "$file.times" || { cat "$work/log" >&2; exit 1; }
            fi
            "$BITBUDGET" eval "$file" --text "${pair#*=}" --ctx "$CTX" --chunks "$WINDOWS" --spread --precision fast --reference "$model" --json -q > "$work/json"
            echo "$key,$(stat -Lc %s "$file"),$row$(value kl_nats),$(value kl_se),$(value ppl),$(awk '{ printf "%.0f", $1 + $2 }' "$file.times")" >> "$table"
        done
        rm -f "$file" "$file.times"
    done
done
