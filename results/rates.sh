#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Prefill and decoding of the same files by bitbudget (exact and fast) and llama.cpp, one thread, processor time (both programs alternate on a machine that
# may be busy). llama-bench prints wall time alone: its processor time is the difference of two calls of different length.
# usage: rates.sh BITBUDGET LLAMACPP_FOLDER TOKENS LABEL=FILE.gguf... > rates.csv
set -eu
bb=$1 llama=$2 tokens=$3
shift 3
TIMEFORMAT=%U
user() { { time "$llama/llama-bench" -m "$1" -p "$2" -n "$3" -t 1 -r "$4" > /dev/null 2>&1; } 2>&1; }
ours() { "$bb" bench "$1" --threads 1 --cpu-time --ctx "$tokens" --windows 1 --seconds 1 --csv --precision "$2" -q; }
echo "model,type,what,program,threads,tokens_per_s,gflops,peak_share"
for of in "$@"; do
    model=${of%%=*} file=${of#*=}
    exact=$(ours "$file" exact) fast=$(ours "$file" fast)
    p1=$(user "$file" "$tokens" 0 1) p2=$(user "$file" "$tokens" 0 6) d1=$(user "$file" 0 32 1) d2=$(user "$file" 0 32 6)
    for name in exact fast; do
        [ $name = exact ] && text=$exact || text=$fast
        echo "$text" | awk -F, -v m="$model" '$1 == "prompt" || $1 == "decode" {
            printf "%s,%s,%s,bitbudget %s,1,%.0f,%.1f,%.2f\n", m, $2, $1 == "prompt" ? "prefill" : $1, $3, $6, $7, $9 }'
    done
    echo "$exact" | awk -F, -v m="$model" -v prefill="$(echo "$tokens $p1 $p2" | awk '{ print 5 * $1 / ($3 - $2) }')" \
        -v decode="$(echo "32 $d1 $d2" | awk '{ print 5 * $1 / ($3 - $2) }')" '$1 == "peak_float32" { peak = $7 }
        $1 == "prompt" || $1 == "decode" { what = $1 == "prompt" ? "prefill" : $1; rate = what == "decode" ? decode : prefill
            printf "%s,%s,%s,llama.cpp,1,%.0f,%.1f,%.2f\n", m, $2, what, rate, rate * $10 * 1e-9, rate * $10 * 1e-9 / peak }'
done
