#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Rows of results/calibration.csv: the two small models in one type, calibrated without a corpus in three ways (--calib self; mixture; mixture,self, the default), judged on texts of
# several kinds. usage: calibration.sh DATA TEXTS WORK TABLE.csv
#   DATA: the folder of models and corpora; TEXTS: the folder that real-texts.sh made; WORK: scratch. THREADS (2), BITBUDGET. A row that is there is not made again.
set -euo pipefail
data=$1 texts=$2 work=$3 table=$4
: "${THREADS:=2}" "${BITBUDGET:=./bitbudget}"
mkdir -p "$work"
[ -s "$table" ] || echo "model,format,calibration,text,windows,ctx,kl_nats,kl_se" > "$table"
value() { awk -F'[:,]' -v k="\"$1\"" '{ gsub(/ /, "", $1) } $1 == k { printf "%.6g", $2 }' "$work/json"; }
for pair in wiki8m:IQ2_S stories3M-p256:Q3_K; do
    model=${pair%:*} format=${pair#*:}
    source=$data/models/$model/$model-f16.gguf
    for calib in self mixture mixture,self; do
        key=$model,$format,${calib/,/+}
        [ "$(grep -cF "$key," "$table")" -lt 5 ] || continue
        file=$work/$model-$calib.gguf
        [ -s "$file" ] || "$BITBUDGET" quantize "$source" --format "$format" --embd-format Q4_K --effort quick --calib "$calib" --threads "$THREADS" --out "$file" -q > /dev/null
        for text in "WikiText-2 test=$data/corpora/wikitext-2-raw/wiki.test.raw" "TinyStories=$data/corpora/tinystories/tinystories_valid_a.clean.txt" "C4=$texts/web.txt" \
            "GSM8K=$texts/dialogue.txt" "Python=$texts/code.txt"; do
            grep -qF "$key,${text%%=*}," "$table" && continue
            "$BITBUDGET" eval "$file" --text "${text#*=}" --ctx 256 --chunks 32 --spread --reference "$source" --threads "$THREADS" --json -q > "$work/json"
            echo "$key,${text%%=*},32,256,$(value kl_nats),$(value kl_se)" >> "$table"
        done
    done
done
