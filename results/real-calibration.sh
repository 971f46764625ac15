#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Rows of results/real-calibration.csv: every linear Q2_0, embedding Q4_0, by error feedback through the compressed prefix, calibrated on one text and judged on
# four: the KL of our engine on the first windows of the held-out texts.
# usage: real-calibration.sh MODEL-F16.gguf TEXTS WORK TABLE.csv SET:KTOKENS...
#   TEXTS  the folder that real-texts.sh made; WORK: scratch
#   SET    encyclopedia, web, dialogue, code: the calibration text of this name; four: equal shares of the four; self: text that the model writes; mixture: the
#          texts that ship with the program; self,mixture and so on: what --calib takes
# WINDOWS: windows of 256 tokens a domain (20, evenly spaced); EXTRA: options of quantize (--effort quick --precision fast); SEED; KEEP=1: the files
# stay in WORK. A row that is there is not made again.
set -euo pipefail
TIMEFORMAT="%U %S"
source=$1 texts=$2 work=$3 table=$4
shift 4
: "${WINDOWS:=20}" "${EXTRA:=--effort quick --precision fast}" "${BITBUDGET:=./bitbudget}" "${SEED:=1}"
mkdir -p "$work"
[ -s "$table" ] || echo "calibration,tokens,options,seed,text,windows,ctx,kl_nats,kl_se,ppl,ln_ratio,top1,of_mean,cpu_seconds" > "$table"
for d in encyclopedia web dialogue code; do
    [ -s "$work/$d.u32" ] || "$BITBUDGET" tokenize "$source" --parse-special --text "$texts/$d.txt" --out "$work/$d.u32" -q > /dev/null
    [ -s "$work/calib-$d.u32" ] || "$BITBUDGET" tokenize "$source" --parse-special --text "$texts/calib/$d.txt" --out "$work/calib-$d.u32" -q > /dev/null
done
value() { awk -F'[:,]' -v k="\"$1\"" '{ gsub(/ /, "", $1) } $1 == k { printf "%.6g", $2 }' "$work/json"; }
for job in "$@"; do
    set=${job%:*} k=${job##*:} windows=$((${job##*:} * 4))
    key="$(echo "$set" | tr , +),$((k * 1024)),$(echo "$EXTRA" | tr , ' '),$SEED,"
    [ "$(grep -cF "$key" "$table")" -lt 4 ] || continue
    case $set in
    encyclopedia|web|dialogue|code) calib=$work/calib-$set.u32 ;;
    four)
        calib=$work/four.u32 # 48 thousand tokens of each
        for d in encyclopedia web dialogue code; do head -c 196608 "$work/calib-$d.u32"; done > "$calib" ;;
    *) calib=$set ;;
    esac
    file=$work/$(echo "$set" | tr -c 'a-z0-9\n' _)-$k.gguf
    # shellcheck disable=SC2086
    if [ ! -s "$file" ]; then
        { time "$BITBUDGET" quantize "$source" --format Q2_0 --embd-format Q4_0 --method sequential $EXTRA --seed "$SEED" --calib "$calib" --calib-windows "$windows" \
            --out "$file" -q > /dev/null 2> "$work/log"; } 2> "$file.times" || { cat "$work/log" >&2; exit 1; }
    fi
    rm -f "$work/rows"
    for d in encyclopedia web dialogue code; do
        "$BITBUDGET" eval "$file" --text "$work/$d.u32" --ctx 256 --chunks "$WINDOWS" --spread --precision fast --reference "$source" --json -q > "$work/json"
        echo "$key$d,$WINDOWS,256,$(value kl_nats),$(value kl_se),$(value ppl),$(value ln_ratio),$(value top1)" >> "$work/rows"
    done
    awk -F, '{ line[NR] = $0; kl[NR] = $8; sum += $8 } END { for (i = 1; i <= NR; i++) printf "%s,%.3f,%.0f\n", line[i], kl[i] / (sum / NR), cpu }' cpu="$(awk '{ s = $1 + $2 } END { print s }' "$file.times")" "$work/rows" >> "$table"
    [ "${KEEP:-0}" = 1 ] || rm -f "$file" "$file.times"
done
