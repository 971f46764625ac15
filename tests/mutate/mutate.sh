#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Do the tests notice? Applies each one-line patch of tests/mutate/*.txt, alone, to a copy of the working tree, builds what its tests need
# and runs them. usage: mutate.sh COPY [NAME ...]   COPY: a scratch folder, kept for the next time; NAME: a patch, or the start of its name
#        mutate.sh --check            builds nothing: only says which patches the code has moved away from (part of `make lint`)
# JOBS: compilers at once (all processors)
#
# A patch, fields of one line each, patches separated by empty lines; # begins a comment line:
#   name:   unique
#   file:   the file it changes
#   after:  (optional) the first `find` at or below the first line that has this text; else `find` must occur once in the file
#   find:   text inside one line
#   with:   what stands there instead
#   tests:  programs of tests/, at least one of which must fail; "none yet REASON" leaves the patch out, and says so
#
# One line a patch: KILLED (and by which test), SURVIVED, DOES NOT APPLY, DOES NOT BUILD. Exit code 1 when any of the last three occurs.
set -u
check=no
if [ "$1" = --check ]; then check=yes; copy=$(mktemp -d) || exit 2; trap 'rm -rf "$copy"' EXIT
else copy=$1; fi
shift
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
[ "${CC:-cc}" = cc ] && command -v ccache >/dev/null && export CC="ccache cc"
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=passive CK_FORK=no BB_BUILD=build CI=
unset MAKEFLAGS MFLAGS MAKELEVEL BUILD
list=$copy/patches tree=$copy/tree
mkdir -p "$list" "$tree" || exit 2
copy=$(cd "$copy" && pwd) && list=$copy/patches tree=$copy/tree

if [ -f "$copy/pid" ] && kill -0 "$(cat "$copy/pid")" 2>/dev/null; then echo "mutate: process $(cat "$copy/pid") works in $copy" >&2; exit 2; fi
echo $$ >"$copy/pid"

rm -f "$list"/*
awk -v dir="$list" '
    FNR == 1 || /^[ \t]*$/ { at = "" }
    /^#/ || /^[ \t]*$/ { next }
    { key = $0; sub(/:.*/, "", key); value = $0; sub(/^[a-z]+: ?/, "", value)
      if (at == "") at = sprintf("%s/%04d", dir, ++n)
      print value > (at "." key); close(at "." key) }' tests/mutate/*.txt

field() { cat "$list/$1.$2" 2>/dev/null; }
# The file of patch $1, under the folder $2, with the patch; fails when it does not apply or changes nothing.
patched()
{
    FIND=$(field "$1" find) WITH=$(field "$1" with) AFTER=$(field "$1" after) awk '
        BEGIN { find = ENVIRON["FIND"]; after = ENVIRON["AFTER"]; on = after == "" }
        !on && index($0, after) { on = 1 }
        on && find != "" && (i = index($0, find)) && !(n && after != "") {
            n++
            if (index(substr($0, i + 1), find)) n += after == ""
            print substr($0, 1, i - 1) ENVIRON["WITH"] substr($0, i + length(find)); next
        }
        { print }
        END { exit n != 1 || find == ENVIRON["WITH"] }' "$2/$(field "$1" file)" 2>/dev/null
}

if [ "$check" = yes ]; then
    bad=0
    for f in "$list"/*.name; do
        k=$(basename "$f" .name) name=$(cat "$f") file=$(field "$k" file)
        if [ ! -f "$file" ]; then echo "mutate: $name: there is no file $file"; bad=1
        elif ! patched "$k" . >/dev/null; then echo "mutate: $name: what it replaces is not exactly once in $file"; bad=1; fi
        case $(field "$k" tests) in "none yet"*) continue ;; "") echo "mutate: $name: names no tests"; bad=1 ;; esac
        for t in $(field "$k" tests); do [ -f "tests/$t.c" ] || { echo "mutate: $name: there is no tests/$t.c"; bad=1; }; done
    done
    exit "$bad"
fi

# The working tree as it is; times are kept, so that only what changed is built again.
git ls-files -co --exclude-standard 2>/dev/null | grep -v '^results/' | while IFS= read -r f; do [ -f "$f" ] && echo "$f"; done | sort >"$copy/files"
[ -s "$copy/files" ] || { echo "mutate: this is no git checkout" >&2; exit 2; }
tar -cf - -T "$copy/files" | tar -xf - -C "$tree" || exit 2
(cd "$tree" && find . -type f ! -path './build/*' | sed 's|^\./||' | sort | comm -23 - "$copy/files" | xargs -r rm -f)
# What was ever mutated is compiled again: its object may be the mutant's, and newer than the file's own time.
[ -f "$copy/touched" ] && sort -u "$copy/touched" | while IFS= read -r f; do [ -f "$tree/$f" ] && touch "$tree/$f"; done
rm -f "$copy/mutated"

wanted() # patch number, names...
{
    name=$(field "$1" name); shift
    [ $# -eq 0 ] && return 0
    for w in "$@"; do case $name in "$w"*) return 0 ;; esac; done
    return 1
}
build() { for t in $1; do case $t in test_cli_*) echo build/bitbudget ;; esac; echo "build/tests/$t"; done | sort -u | (cd "$tree" && xargs make -s -j"$jobs") >"$copy/make.log" 2>&1; }
runs() { (cd "$tree" && timeout 300 "build/tests/$1" >"$copy/test.log" 2>&1 || exit 1) 2>/dev/null; }

patches=; tests=
for f in "$list"/*.name; do
    k=$(basename "$f" .name)
    wanted "$k" "$@" || continue
    patches="$patches $k"
    case $(field "$k" tests) in "none yet"*) ;; *) tests="$tests $(field "$k" tests)" ;; esac
done
[ -n "$patches" ] || { echo "mutate: no patch is named $*" >&2; exit 2; }
tests=$(printf '%s\n' $tests | sort -u)
build "$tests" || { tail -n 20 "$copy/make.log" >&2; echo "mutate: the tests do not build" >&2; exit 2; }
for t in $tests; do runs "$t" || { tail -n 5 "$copy/test.log" >&2; echo "mutate: $t fails without any mutation" >&2; exit 2; }; done

restore() { [ -f "$copy/mutated" ] && cp "$copy/original" "$tree/$(cat "$copy/mutated")"; rm -f "$copy/mutated"; }
trap restore EXIT
trap 'exit 130' INT TERM
killed=0; bad=0; waiting=0
for k in $patches; do
    name=$(field "$k" name) file=$(field "$k" file) verdict=SURVIVED
    case $(field "$k" tests) in "none yet"*) waiting=$((waiting + 1)); printf '%-15s %s: %s\n' "NO TEST" "$name" "$(field "$k" tests | sed 's/none yet *//')"; continue ;; esac
    cp "$tree/$file" "$copy/original" 2>/dev/null && echo "$file" >"$copy/mutated" && echo "$file" >>"$copy/touched"
    if ! patched "$k" "$tree" >"$copy/changed"; then
        verdict="DOES NOT APPLY"
    else
        cp "$copy/changed" "$tree/$file"
        if ! build "$(field "$k" tests)"; then
            verdict="DOES NOT BUILD"
        else
            for t in $(field "$k" tests); do runs "$t" || { verdict=KILLED; by=$t; break; }; done
        fi
    fi
    restore
    if [ "$verdict" = KILLED ]; then killed=$((killed + 1)); printf '%-15s %s (%s)\n' KILLED "$name" "$by"
    else bad=$((bad + 1)); printf '%-15s %s: %s\n' "$verdict" "$name" "$file"; fi
done
echo "$killed killed, $bad not, $waiting without a test"
[ "$bad" -eq 0 ]
