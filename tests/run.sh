#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs the Check programs given, one after the other, and closes with one line of totals.
# Threads are pinned and Check does not fork: BLAS and fork do not mix.
# A test that cannot run here says so (BB_SKIP) and is counted as skipped, never as passed.
# Waiting threads sleep: on a loaded machine spinning makes small parallel loops tens of times slower.
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=passive CK_FORK=no
passed=0; failed=0; skipped=0; skips=
for t in "$@"; do
    name=$(basename "$t")
    out=$("$t" 2>&1); rc=$?
    echo "$out" | grep -v -e '^Running suite' -e '^SKIP ' | sed "s|^|$name: |"
    line=$(echo "$out" | grep -E '^[0-9]+%: Checks: ' | tail -n 1)
    n=$(echo "$line" | sed -E 's/.*Checks: ([0-9]+).*/\1/'); f=$(echo "$line" | sed -E 's/.*Failures: ([0-9]+), Errors: ([0-9]+).*/\1+\2/')
    if [ -z "$line" ]; then n=1; f=1; echo "$name: ended with code $rc and no summary"; fi
    f=$(($f)); [ "$rc" -ne 0 ] && [ "$f" -eq 0 ] && f=1
    [ "$n" -eq 0 ] && { n=1; f=1; }
    s=$(echo "$out" | grep -c '^SKIP ')
    [ "$s" -gt 0 ] && skips="$skips$(echo "$out" | sed -n -E "s/^SKIP ([A-Za-z0-9_]+)_fn:/skipped: $name: \1:/p")
"
    passed=$((passed + n - f - s)); failed=$((failed + f)); skipped=$((skipped + s))
done
printf '%s' "$skips"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
