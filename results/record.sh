#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Notes in results/COMMIT which commit, CPU level, BLAS and compiler made the tables of a target; `make results` ends by asking that all lines agree.
# usage: record.sh BITBUDGET TARGET [NOTE]       record.sh --check      fails when the lines name more than one commit
set -eu
file=results/COMMIT
if [ "$1" = --check ]; then
    n=$(awk -F, 'NR > 1 { seen[$2] = 1 } END { for (c in seen) n++; print n + 0 }' $file)
    [ "$n" -eq 1 ] || { echo "$file: the tables are of $n commits: make results" >&2; exit 1; }
    exit 0
fi
"$1" --version --verbose | awk -v target="$2" -v note="${3:-}" '
    { i = index($0, ": "); v[substr($0, 1, i - 1)] = substr($0, i + 2) }
    END { printf "%s,%s,%s,%s,%s,%s\n", target, v["commit"], v["CPU level"], v["BLAS"], v["compiler"], note }' > $file.line
{
    echo "target,commit,cpu_level,blas,compiler,note"
    if [ -s $file ]; then awk -F, -v target="$2" 'NR > 1 && $1 != target' $file; fi
    cat $file.line
} > $file.new
{ head -n 1 $file.new; tail -n +2 $file.new | sort; } > $file
rm -f $file.new $file.line
