# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Helpers of ./dev: running tests and counting their cases.

# house_rules XML: runs the rules over the tracked files. What they found is in XML.
house_rules() {
  quietly "house rules" "$LOG_DIR/house_rules.log" python3 tools/house_rules.py --xml "$1" ||
    show_log "$LOG_DIR/house_rules.log"
}

# run_tests NAME XML|"" BAZEL_ARGS...: runs the tests and prints the account of them; the last line
# is `N passed, N failed, N skipped`. Returns 1 when anything failed or did not build.
run_tests() {
  local name=$1 extra_xml=$2 status=0
  shift 2
  local log=$LOG_DIR/$name.log events=$LOG_DIR/$name-events.json
  rm -f "$events"
  # --keep_going, because one broken target must not hide what the others say.
  quietly "building and testing$(targets_in "$@")" "$log" \
    run_bazel test --keep_going --build_event_json_file="$events" "$@" || status=$?
  # 3 is "tests failed", 4 "no tests found": the account tells those.
  if [[ $status -ne 0 && $status -ne 3 && $status -ne 4 ]]; then show_log "$log"; fi

  local summary=(--events "$events" --bazel-status "$status")
  if [[ -n $extra_xml ]]; then summary+=(--xml "$extra_xml"); fi
  python3 tools/test_summary.py "${summary[@]}"
}

# targets_in ARGS...: the arguments that are not options.
targets_in() {
  local arg
  for arg in "$@"; do
    if [[ $arg != -* ]]; then printf " %s" "$arg"; fi
  done
}

cmd_test() {
  local xml="" targets
  targets=$(targets_in "$@")
  # Targets named: someone works on one room and wants an answer about that.
  if [[ -z $targets ]]; then
    xml=$LOG_DIR/house_rules.xml
    house_rules "$xml"
    set -- "$@" //...
  fi
  # In CI nothing is taken on trust from an earlier run.
  if [[ ${CI:-} == true ]]; then set -- --nocache_test_results "$@"; fi
  run_tests test "$xml" "$@"
}

cmd_sanitizer() {
  local name=$1
  shift
  if [[ -z $(targets_in "$@") ]]; then set -- "$@" //...; fi
  run_tests "$name" "" --config="$name" "$@"
}

cmd_asan() { cmd_sanitizer asan "$@"; }
cmd_ubsan() { cmd_sanitizer ubsan "$@"; }
cmd_tsan() { cmd_sanitizer tsan "$@"; }
