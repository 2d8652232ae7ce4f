#!/usr/bin/env bash
# All tests, as CI runs them. Further words go to `cargo test` (packaging/test.sh --test harness).
#
# Ends with one line that counts everything: N passed, N failed, N skipped. A skipped test is one that lacks what it needs;
# each is listed with its reason. As root nothing but the kernel's own limits should skip anything.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

log=$(mktemp)
WEFT_SKIPS=$(mktemp)
export WEFT_SKIPS
trap 'rm -f "$log" "$WEFT_SKIPS"' EXIT

# The scenarios run the programs themselves, which `cargo test` alone need not build.
cargo build --workspace --bins || exit 1
cargo test --workspace --no-fail-fast "$@" 2>&1 | tee "$log"
code=${PIPESTATUS[0]}

if [[ -s $WEFT_SKIPS ]]; then
	echo
	sort -u "$WEFT_SKIPS"
fi
# A test that skips itself counts as passed for cargo: take it off there.
skips=$(sort -u "$WEFT_SKIPS" | wc -l)
echo
awk -v skips="$skips" '
	/^test result:/ {
		for (i = 2; i <= NF; i++) {
			if ($i ~ /^passed/) passed += $(i - 1)
			if ($i ~ /^failed/) failed += $(i - 1)
			if ($i ~ /^ignored/) ignored += $(i - 1)
		}
	}
	END { printf "%d passed, %d failed, %d skipped\n", passed - skips, failed, ignored + skips }' "$log"
exit "$code"
