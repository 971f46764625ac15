#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs the Check programs given, as many at a time as there are cores (CHECK_JOBS), and closes with one line of totals.
# Threads are pinned and Check does not fork: BLAS and fork do not mix.
# A test that cannot run here says so (BB_SKIP) and is counted as skipped, never as passed.
# Waiting threads sleep: on a loaded machine spinning makes small parallel loops tens of times slower.
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=passive CK_FORK=no
jobs=${CHECK_JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
trap 'exit 130' INT TERM
# Each program's lines come out together when it ends.
printf '%s\n' "$@" | xargs -P "$jobs" -I '{}' sh -c '
    name=$(basename "$1"); "$1" >"$2/$name" 2>&1 </dev/null; echo $? >"$2/$name.rc"
    lines=$(grep -v -e "^Running suite" -e "^SKIP " "$2/$name" | sed "s|^|$name: |"); printf "%s\n" "$lines"' _ '{}' "$out"
passed=0; failed=0; skipped=0; skips=
for t in "$@"; do
    name=$(basename "$t"); rc=$(cat "$out/$name.rc" 2>/dev/null || echo 1)
    line=$(grep -E '^[0-9]+%: Checks: ' "$out/$name" | tail -n 1)
    n=$(echo "$line" | sed -E 's/.*Checks: ([0-9]+).*/\1/'); f=$(echo "$line" | sed -E 's/.*Failures: ([0-9]+), Errors: ([0-9]+).*/\1+\2/')
    if [ -z "$line" ]; then n=1; f=1; echo "$name: ended with code $rc and no summary"; fi
    f=$(($f)); [ "$rc" -ne 0 ] && [ "$f" -eq 0 ] && f=1
    [ "$n" -eq 0 ] && { n=1; f=1; }
    [ -n "$line" ] || echo "$name: ended with exit code $rc before it had run its tests"
    s=$(grep -c '^SKIP ' "$out/$name")
    [ "$s" -gt 0 ] && skips="$skips$(sed -n -E "s/^SKIP ([A-Za-z0-9_]+)_fn:/skipped: $name: \1:/p" "$out/$name")
"
    passed=$((passed + n - f - s)); failed=$((failed + f)); skipped=$((skipped + s))
done
printf '%s' "$skips"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
