#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Writes the tables of the documents again from the CSV files of results/, so that no number in them is typed. In a document, a table stands between
#   <!-- table NAME results/FILE.csv [MODEL] -->   and   <!-- end of table -->      (NAME as in results/tables.awk)
# usage: tables.sh [--check] FILE.md...      --check: changes nothing, fails when a table differs from its CSV file
set -eu
cd "$(dirname "$0")/.."
check=no
if [ "${1:-}" = --check ]; then check=yes; shift; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
stale=0
for document in "$@"; do
    awk '/^<!-- table .* -->$/ { print }' "$document" | sort -u | while read -r _ _ name csv model _; do
        [ "$model" = "-->" ] && model=
        awk -v table="$name" -v model="$model" -f results/tables.awk "$csv" > "$scratch/$name.$model.$(echo "$csv" | tr / _)"
    done
    awk -v scratch="$scratch" '
        /^<!-- end of table -->$/ { inside = 0 }
        !inside { print }
        /^<!-- table .* -->$/ {
            if (inside) { print "tables.sh: a table of " FILENAME " has no end" > "/dev/stderr"; exit 1 }
            inside = 1
            file = $4
            gsub("/", "_", file)
            file = scratch "/" $3 "." ($5 == "-->" ? "" : $5) "." file
            while ((getline line < file) > 0) print line
            close(file)
        }
        END { if (inside) { print "tables.sh: a table of " FILENAME " has no end" > "/dev/stderr"; exit 1 } }' "$document" > "$scratch/new"
    if ! cmp -s "$scratch/new" "$document"; then
        if [ $check = yes ]; then echo "$document: a table is not that of its CSV file: make tables"; stale=1; else cat "$scratch/new" > "$document"; echo "  TABLES $document"; fi
    fi
done
exit $stale
