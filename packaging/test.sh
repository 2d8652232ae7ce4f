#!/usr/bin/env bash
# All tests, as CI runs them. Further words go to `cargo test` (packaging/test.sh --test harness).
#
# Scenarios drive the kernel's network and share the machine with whatever else runs on it. One that fails is run once more,
# by itself, when all others are through; the summary names each that passed then: failed first, passed when run again: NAME.
# Other tests that fail are not run again, and neither is anything when something does not compile or a test program dies.
#
# Random tests play the same cases each time; PROPTEST_RNG_SEED=NUMBER plays others.
#
# Ends with one line that counts each test once: N passed, N failed, N skipped. A skipped test is one that lacks what it needs;
# each is listed with its reason. As root nothing but the kernel's own limits should skip anything. The exit code is 0 when
# nothing has failed, or each test that failed was a scenario that passed when run again.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

log=$(mktemp)
WEFT_SKIPS=$(mktemp)
export WEFT_SKIPS PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-1}
trap 'rm -f "$log" "$log.again" "$WEFT_SKIPS"' EXIT

# The programs of scenarios, each with the folder that it runs in.
scenario_programs() {
	cargo test --workspace --no-run --message-format=json "$@" 2>/dev/null | sed -nE '
		s#.*"manifest_path":"([^"]*/(tests|benches/pktgen))/Cargo.toml","target":\{"kind":\["test"\].*"executable":"([^"]+)".*#\3 \1#p
		s#.*"manifest_path":"([^"]*/dataplane/io)/Cargo.toml","target":\{"kind":\["lib"\].*"executable":"([^"]+)".*#\2 \1#p'
}

# Of those, the crate of ports has unit tests as well.
is_scenario() {
	[[ $1 != */weft_io-* || $2 =~ ^(af_packet|device|netlink|netns|tap|xdp)::tests:: ||
		$2 =~ ^(netlink::neighbour|xdp::quiet):: ]]
}

# PROGRAM TEST for each test that failed: what the second list of failures, before a program's result, has.
failed_tests() {
	awk '
		/^ *Running .*\)$/ { program = $NF; gsub(/[()]/, "", program); sub(/.*\//, "", program) }
		/^ *Doc-tests / { program = "documentation" }
		/^failures:$/ { count = 0 }
		/^    [^ ]/ { names[count++] = substr($0, 5) }
		/^test result: FAILED/ { for (i = 0; i < count; i++) print program, names[i] }' "$log"
}

# Whether each program that failed came to its end and said which of its tests failed.
failures_are_known() {
	local programs
	programs=$(sed -nE 's/^error: ([0-9]+) targets? failed:$/\1/p' "$log")
	[[ -n $programs && $(grep -c '^test result: FAILED' "$log") -eq $programs ]]
}

# Runs the scenarios that failed once more (the words are cargo's). Leaves in `passed_again` those that passed, and fails unless
# that is all that had failed.
run_again() {
	local program test path where all=0
	local -A programs folders
	while read -r path where; do
		programs[${path##*/}]=$path folders[${path##*/}]=$where
	done < <(scenario_programs "$@")
	while read -r program test; do
		path=${programs[$program]:-}
		if [[ -n $path ]] && is_scenario "$path" "$test"; then
			printf '\nfailed, is run again: %s\n' "$test"
			(cd "${folders[$program]}" && "$path" --exact "$test" </dev/null) 2>&1 | tee "$log.again"
			grep -q '^test result: ok. 1 passed' "$log.again" && passed_again+=("$test") && continue
		fi
		all=1
	done < <(failed_tests)
	return "$all"
}

# The scenarios run the programs themselves, which `cargo test` alone need not build.
cargo build --workspace --bins || exit 1
cargo test --workspace --no-fail-fast "$@" 2>&1 | tee "$log"
code=${PIPESTATUS[0]}
passed_again=()
if [[ $code -ne 0 ]]; then
	if ! failures_are_known; then
		printf '\nsomething did not compile, or a test program died: see above\n'
	elif run_again "$@"; then
		code=0
	fi
fi

echo
sort -u "$WEFT_SKIPS"
for test in "${passed_again[@]}"; do
	echo "failed first, passed when run again: $test"
done
# A test that skips itself counts as passed for cargo: take it off there.
skips=$(sort -u "$WEFT_SKIPS" | wc -l)
awk -v skips="$skips" -v again="${#passed_again[@]}" '
	/^test result:/ {
		for (i = 2; i <= NF; i++) {
			if ($i ~ /^passed/) passed += $(i - 1)
			if ($i ~ /^failed/) failed += $(i - 1)
			if ($i ~ /^ignored/) ignored += $(i - 1)
		}
	}
	END { printf "%d passed, %d failed, %d skipped\n", passed + again - skips, failed - again, ignored + skips }' "$log"
exit "$code"
