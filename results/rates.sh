#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Prefill and decoding of the same files by bitbudget (exact and fast) and llama.cpp, one thread, processor time (both programs alternate on a machine that
# may be busy). llama-bench prints wall time alone: its processor time is the difference of two calls of different length.
# CPU: its name in the table, where the system's is not enough. usage: rates.sh BITBUDGET LLAMACPP_FOLDER TOKENS LABEL=FILE.gguf... > rates.csv
set -eu
bb=$1 llama=$2 tokens=$3
shift 3
TIMEFORMAT=%U
user() { { time "$llama/llama-bench" -m "$1" -p "$2" -n "$3" -t 1 -r "$4" > /dev/null 2>&1; } 2>&1; }
ours() { "$bb" bench "$1" --threads 1 --cpu-time --ctx "$tokens" --windows 1 --seconds 1 --csv --precision "$2" -q; }
cpu=${CPU:-$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)}
echo "model,type,what,program,threads,tokens_per_s,gflops,peak_share,peak,cpu"
for of in "$@"; do
    model=${of%%=*} file=${of#*=}
    exact=$(ours "$file" exact) fast=$(ours "$file" fast)
    p1=$(user "$file" "$tokens" 0 1) p2=$(user "$file" "$tokens" 0 6) d1=$(user "$file" 0 32 1) d2=$(user "$file" 0 32 6)
    for name in exact fast; do
        [ $name = exact ] && text=$exact || text=$fast
        echo "$text" | awk -F, -v m="$model" -v cpu="$cpu" '$1 == "prompt" || $1 == "decode" {
            printf "%s,%s,%s,bitbudget %s,1,%.0f,%.1f,%.2f,%s,%s\n", m, $2, $1 == "prompt" ? "prefill" : $1, $3, $6, $7, $9,
                $3 == "fast" && $2 !~ /^B?F[13]/ ? "int8" : "float32", cpu }'
    done
    echo "$fast" | awk -F, -v m="$model" -v cpu="$cpu" -v prefill="$(echo "$tokens $p1 $p2" | awk '{ print 5 * $1 / ($3 - $2) }')" \
        -v decode="$(echo "32 $d1 $d2" | awk '{ print 5 * $1 / ($3 - $2) }')" '
        { type = $2; flops[$1] = $10; peak[$1] = $7 }
        END { of = type ~ /^B?F[13]/ ? "float32" : "int8"
            for (i = 0; i < 2; i++) { rate = i ? decode : prefill; gflops = rate * flops[i ? "decode" : "prompt"] * 1e-9
                printf "%s,%s,%s,llama.cpp,1,%.0f,%.1f,%.2f,%s,%s\n", m, type, i ? "decode" : "prefill", rate, gflops, gflops / peak["peak_" of], of, cpu } }'
done
