#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# usage: run.sh WORK [CONVERTER [PERPLEXITY]]: the packages of tests/oracle/hf.py into WORK/env, then the comparison. PYTHON: an environment that has them.
set -eu
work=$1
mkdir -p "$work/models"
if [ -z "${PYTHON-}" ]; then
    PYTHON=$work/env/bin/python
    [ -x "$PYTHON" ] || python3 -m venv "$work/env"
    "$PYTHON" -c 'import torch, transformers, gguf' 2>/dev/null || "$PYTHON" -m pip install -q torch transformers tokenizers numpy safetensors gguf sentencepiece protobuf compressed-tensors
fi
rm -rf "$work/models"
mkdir "$work/models"
exec "$PYTHON" "$(dirname "$0")/hf.py" ./bitbudget "$work/models" ${2+"$2"} ${3+"$3"}
