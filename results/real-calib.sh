#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# The mixture that ships with the program as one text, for llama-imatrix: about the shares that `--calib mixture` takes of it, 33 thousand tokens of SmolLM2,
# twice what --effort quick calibrates on. To be tokenized with its special tokens. usage: real-calib.sh > OUT.txt
set -eu
export LC_ALL=C
cd "$(dirname "$0")/../configs/calibration"
{ head -c 24000 prose.txt; tail -c 20000 prose.txt; echo; head -c 30000 code.txt; echo; cat dialogue.txt languages.txt; }
