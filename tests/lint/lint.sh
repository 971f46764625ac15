#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# What `make lint` checks, from the root of the tree: who includes whom, the licence line, words that library code does not use, and that each
# header compiles alone. An .inc file is C that others include: all but the last. Usage: lint.sh COMPILER FLAGS...
set -u
bad=0
sources=$(find base kernels model eval search engine cli include tests -name '*.[ch]' -o -name '*.inc' 2>/dev/null | sort)
# shellcheck disable=SC2086
awk -f tests/lint/depcheck $sources || bad=1

for f in $sources Makefile $(find tests .ci results -name '*.sh' 2>/dev/null) tests/lint/depcheck; do
    head -n 2 "$f" | grep -q 'SPDX-License-Identifier: GPL-3.0-or-later' || { echo "$f:1: the SPDX line is missing"; bad=1; }
done

# Comments and strings may name these; calls may not. Only cli/ prints and exits; tests may do both.
calls() { grep -nE "(^|[^A-Za-z0-9_.>\"])($1)[ ]*\(" $2 /dev/null | grep -vE ':[0-9]+:[ ]*(/?\*|//)' ; }
for f in $sources; do
    case $f in
    tests/*) words='strcpy|strcat|sprintf|gets' ;;
    cli/*) words='strcpy|strcat|sprintf|atoi|atof|strtok|rand|srand|system' ;;
    *) words='strcpy|strcat|sprintf|atoi|atof|strtok|rand|srand|system|exit|printf|puts' ;;
    esac
    calls "$words" "$f" && { echo "$f: uses one of $words"; bad=1; }
    case $f in base/mem.c | tests/*) ;; *) calls 'malloc|calloc|realloc' "$f" && { echo "$f: the heap is bb_alloc's (base/mem.h)"; bad=1; } ;; esac
done

# A backend is named where it is made and where it is chosen: everybody else takes it as an argument.
for f in $sources; do
    case $f in model/net/* | engine/environment.c | tests/*) ;; *) grep -nE 'bb_backend_cpu|bb_on_cpu' "$f" /dev/null && { echo "$f: names a backend"; bad=1; } ;; esac
done

for f in $(echo "$sources" | grep '\.h$'); do
    grep -q '^#ifndef BB_' "$f" || { echo "$f: no include guard BB_..."; bad=1; }
    printf '#include "%s"\ntypedef int bb_not_empty;\n' "$f" | "$@" -x c -fsyntax-only - || { echo "$f: does not compile alone"; bad=1; }
done
[ "$bad" -eq 0 ] && echo "lint: $(echo "$sources" | wc -l) files, no complaint"
exit "$bad"
