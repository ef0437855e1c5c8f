# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Helpers of ./dev: fuzzing. tools/fuzz.py runs what is built here; docs/fuzzing.md is the manual.

readonly FUZZ_DIR=$PWD/.cache/fuzz
readonly FUZZ_DEFAULT_SECONDS=60

# build_fuzzers: all of them, and the list of them in $FUZZ_DIR/targets.xml.
build_fuzzers() {
  local log=$LOG_DIR/fuzz-build.log status=0 labels
  mkdir -p "$FUZZ_DIR"
  if ! run_bazel query --output=xml 'attr(tags, fuzzer, //...)' >"$FUZZ_DIR/targets.xml" 2>"$log"; then
    show_log "$log"
    return 1
  fi
  mapfile -t labels < <(sed -n 's/.*<rule class="cc_binary" [^>]*name="\([^"]*\)".*/\1/p' \
    "$FUZZ_DIR/targets.xml")
  quietly "building ${#labels[@]} fuzzers" "$log" \
    run_bazel build --config=fuzz "${labels[@]}" || status=$?
  if [[ $status -ne 0 ]]; then show_log "$log"; fi
  return "$status"
}

# run_fuzzers ARGS...: of tools/fuzz.py.
run_fuzzers() {
  local bin
  bin=$(run_bazel info --config=fuzz bazel-bin 2>/dev/null)
  python3 tools/fuzz.py --targets="$FUZZ_DIR/targets.xml" --bazel-bin="$bin" \
    --work="$FUZZ_DIR/corpus" --findings="$FUZZ_DIR/findings" "$@"
}

# short_fuzz XML: what ./dev test does. The account is in XML, failures are cases there.
short_fuzz() {
  local log=$LOG_DIR/fuzz.log
  rm -f "$1"
  build_fuzzers || return 0
  if quietly "fuzzing, a short run of each target" "$log" run_fuzzers --xml="$1"; then
    tail -n 1 "$log"
  else
    show_log "$log"
  fi
}

# write_seeds: each target's own, into its corpus in the tree.
write_seeds() {
  local label name
  mapfile -t labels < <(run_bazel query 'kind(cc_test, filter("_fuzz$", //...))' 2>/dev/null)
  build_quietly "${labels[@]}"
  for label in "${labels[@]}"; do
    name=${label##*:}
    label=${label#//}
    "bazel-bin/${label/://}" --write-seeds "tests/fuzz_corpus/$name"
  done
  say "seeds of ${#labels[@]} targets written to tests/fuzz_corpus"
}

cmd_fuzz() {
  local seconds=$FUZZ_DEFAULT_SECONDS arguments=()
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --seconds=*) seconds=${1#*=} ;;
      --seconds)
        seconds=${2:-}
        shift
        ;;
      --write-seeds)
        write_seeds
        return
        ;;
      --keep) arguments+=("$1") ;;
      -*)
        echo "usage: ./dev fuzz [TARGET...] [--seconds N] | TARGET FILE... | --keep | --write-seeds" >&2
        exit 2
        ;;
      # A file of an input is named from where the caller stands.
      *) if [[ -f $CALLER_DIR/$1 ]]; then arguments+=("$CALLER_DIR/$1"); else arguments+=("$1"); fi ;;
    esac
    shift
  done
  if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
    echo "dev: --seconds wants a number of seconds above 0" >&2
    exit 2
  fi
  build_fuzzers || exit 1
  run_fuzzers --seconds="$seconds" "${arguments[@]}"
}
