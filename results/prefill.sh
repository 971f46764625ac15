#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Prefill of the same files by bitbudget (exact and fast) and llama.cpp, one thread, processor time (both programs alternate on a machine that may be busy).
# llama-bench prints wall time alone: its processor time is the difference of two calls of different length.
# usage: prefill.sh BITBUDGET LLAMACPP_FOLDER TOKENS LABEL=FILE.gguf... > prefill.csv
set -eu
bb=$1 llama=$2 tokens=$3
shift 3
TIMEFORMAT=%U
user() { { time "$llama/llama-bench" -m "$1" -p "$tokens" -n 0 -t 1 -r "$2" > /dev/null 2>&1; } 2>&1; }
echo "model,type,program,threads,tokens_per_s,gflops,peak_share"
for of in "$@"; do
    model=${of%%=*} file=${of#*=}
    rows=$("$bb" bench "$file" --threads 1 --cpu --ctx "$tokens" --seconds 1 --csv -q)
    fast=$("$bb" bench "$file" --threads 1 --cpu --ctx "$tokens" --seconds 1 --csv --precision fast -q)
    short=$(user "$file" 1) long=$(user "$file" 6)
    for name in exact fast; do
        [ $name = exact ] && text=$rows || text=$fast
        echo "$text" | awk -F, -v m="$model" '$1 == "prompt" { printf "%s,%s,bitbudget %s,1,%.0f,%.1f,%.2f\n", m, $2, $3, $6, $7, $9 }'
    done
    echo "$rows" | awk -F, -v m="$model" -v t="$tokens" -v s="$short" -v l="$long" '$1 == "peak_float32" { peak = $7 }
        $1 == "prompt" { rate = 5 * t / (l - s); printf "%s,%s,llama.cpp,1,%.0f,%.1f,%.2f\n", m, $2, rate, rate * $10 * 1e-9, rate * $10 * 1e-9 / peak }'
done
