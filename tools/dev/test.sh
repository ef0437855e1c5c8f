# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Helpers of ./dev: running tests and counting their cases.

# house_rules XML: runs the rules over the tracked files. What they found is in XML.
house_rules() {
  quietly "house rules" "$LOG_DIR/house_rules.log" python3 tools/house_rules.py --xml "$1" ||
    show_log "$LOG_DIR/house_rules.log"
}

# bazel_tests NAME ARGS...: runs tests; leaves their events in $LOG_DIR/NAME-events.json and Bazel's
# exit status in TESTS_STATUS.
bazel_tests() {
  local name=$1
  shift
  local log=$LOG_DIR/$name.log events=$LOG_DIR/$name-events.json
  TESTS_STATUS=0
  rm -f "$events"
  # --keep_going, because one broken target must not hide what the others say.
  quietly "building and testing$(targets_in "$@")${TESTS_HOW:-}" "$log" \
    run_bazel test --keep_going --build_event_json_file="$events" "$@" || TESTS_STATUS=$?
  # 3 is "tests failed", 4 "no tests found": the account tells those.
  if [[ $TESTS_STATUS -ne 0 && $TESTS_STATUS -ne 3 && $TESTS_STATUS -ne 4 ]]; then
    show_log "$log"
  fi
}

# run_tests NAME BAZEL_ARGS...: runs the tests and prints the account of them; the last line is
# `N passed, N failed, N skipped`. Returns 1 when anything failed or did not build.
run_tests() {
  bazel_tests "$@"
  python3 tools/test_summary.py --events "$LOG_DIR/$1-events.json" --bazel-status "$TESTS_STATUS"
}

# run_everything BAZEL_OPTIONS...: all that ./dev test promises, in one account.
run_everything() {
  local rules=$LOG_DIR/house_rules.xml fuzz=$LOG_DIR/fuzz.xml summary
  house_rules "$rules"
  bazel_tests test "$@" //...
  summary=(--events "$LOG_DIR/test-events.json" --bazel-status "$TESTS_STATUS" --xml "$rules")
  # What reads what another process wrote, once more with a sanitizer looking on.
  TESTS_HOW=" that parse foreign input, under ASan and UBSan" \
    bazel_tests foreign --config=asan --experimental_convenience_symlinks=ignore \
    --test_tag_filters=parses-foreign-input --build_tests_only "$@" //...
  summary+=(--also "ASan and UBSan" "$LOG_DIR/foreign-events.json" "$TESTS_STATUS")
  short_fuzz "$fuzz"
  summary+=(--xml "$fuzz")
  if [[ $WITH_KERNEL == true ]]; then
    # The stock kernel first: the patched one is built from its objects in half a minute.
    kernel_tests stock_kernel stock --stock
    kernel_tests patched_kernel
    summary+=(--xml "$LOG_DIR/stock_kernel.xml" --xml "$LOG_DIR/patched_kernel.xml")
  else
    say "left out, as --without-kernel says: the tests inside the patched kernel"
  fi
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
  local arg args=()
  WITH_KERNEL=true
  for arg in "$@"; do
    if [[ $arg == --without-kernel ]]; then WITH_KERNEL=false; else args+=("$arg"); fi
  done
  set -- "${args[@]}"
  # In CI nothing is taken on trust from an earlier run.
  if [[ ${CI:-} == true ]]; then set -- --nocache_test_results "$@"; fi
  # Targets named: someone works on one room and wants an answer about that.
  if [[ -n $(targets_in "$@") ]]; then
    run_tests test "$@"
  else
    require_packages fuzz
    if [[ $WITH_KERNEL == true ]]; then require_packages kernel; fi
    run_everything "$@"
  fi
}

cmd_sanitizer() {
  local name=$1
  shift
  if [[ -z $(targets_in "$@") ]]; then set -- "$@" //...; fi
  run_tests "$name" --config="$name" "$@"
}

cmd_asan() { cmd_sanitizer asan "$@"; }
cmd_ubsan() { cmd_sanitizer ubsan "$@"; }
cmd_tsan() { cmd_sanitizer tsan "$@"; }
