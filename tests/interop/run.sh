#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Loads our exports with llama.cpp and compares logits. usage: run.sh INTEROP DATA WORK
# INTEROP: the built program; DATA: ../shared/data; WORK: a scratch folder, where npm packages (about 60 MB) are put and kept.
# INTEROP_CASES="name name" runs only these. INTEROP_RUN=DIR takes the files that a run exported instead (DIR/models/*.gguf).
set -eu
program=$1 data=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
version=3.22.1
mkdir -p "$work/cases"
if [ ! -d "$work/node_modules/node-llama-cpp" ]; then
    case $(uname -m) in x86_64) machine=linux-x64 ;; aarch64) machine=linux-arm64 ;; *) echo "interop: no prebuilt llama.cpp for $(uname -m)" >&2; exit 1 ;; esac
    echo "interop: fetching node-llama-cpp $version" >&2
    npm install --prefix "$work" --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error \
        "node-llama-cpp@$version" "@node-llama-cpp/$machine@$version" >&2
fi
if [ -n "${INTEROP_RUN:-}" ]; then
    names=$("$program" files "$work/cases" "${INTEROP_TEXT:-$data/corpora/wikitext-2-raw/wiki.test.raw}" "$INTEROP_RUN"/models/*.gguf)
else
    names=$("$program" make "$work/cases" "$data")
fi
failed=0 n=0
for name in $names; do
    n=$((n + 1))
    if node "$here/llama_logits.mjs" "$work" "$work/cases" "$name" 2>"$work/cases/$name.log"; then
        if "$program" compare "$work/cases" "$name"; then rm -f "$work/cases/$name.gguf"; else failed=$((failed + 1)); fi
    else
        failed=$((failed + 1))
        echo "$name FAIL: llama.cpp did not load or run it"
        grep -v '^ *at ' "$work/cases/$name.log" | head -n 5
    fi
    rm -f "$work/cases/$name.ours" "$work/cases/$name.theirs"
done
echo "interop: $((n - failed)) of $n agree with llama.cpp (node-llama-cpp $version)"
[ "$failed" -eq 0 ] && [ "$n" -gt 0 ]
