# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Helpers of ./dev: progress lines and Bazel.

# HOME is missing in some CI runners, and Bazel and the cache need one.
HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
export HOME

readonly CACHE_DIR="${XDG_CACHE_HOME:-$HOME/.cache}/rehome"
# Beside the code, so that checkouts do not write over each other's; elsewhere if it is read-only.
LOG_DIR=$PWD/.cache/log
mkdir -p "$LOG_DIR" 2>/dev/null && [[ -w $LOG_DIR ]] || LOG_DIR=$(mktemp -d)
readonly LOG_DIR

# A line appears at once and grows a dot per this many seconds, so that a long build is not silent.
readonly TICK_SECONDS=10

# All progress goes to stderr: stdout belongs to the program that a command runs.
say() {
  printf '%s\n' "$*" >&2
}

# quietly LABEL LOG COMMAND...: runs COMMAND with its output in LOG, and prints one line about it.
# Returns the status of COMMAND.
quietly() {
  local label=$1 log=$2 start=$SECONDS status=0
  shift 2
  printf '%s ...' "$label" >&2
  # The last sleep outlives the ticker: it must not hold a caller's pipe open.
  (while sleep "$TICK_SECONDS" 2>/dev/null; do printf '.' >&2; done) </dev/null >/dev/null &
  local ticker=$!
  # shellcheck disable=SC2064  # the pid of now
  trap "kill $ticker 2>/dev/null || true" EXIT
  "$@" >"$log" 2>&1 </dev/null || status=$?
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  trap - EXIT
  if [[ $status -eq 0 ]]; then
    printf ' done in %d s\n' $((SECONDS - start)) >&2
  else
    printf ' FAILED after %d s\n' $((SECONDS - start)) >&2
  fi
  return "$status"
}

# The end of a log without Bazel's own chatter, and where the rest is.
show_log() {
  grep -v -E '^(INFO|DEBUG|Loading|Analyzing|Starting local Bazel|WARNING: Download)' "$1" |
    tail -n "${2:-60}" >&2 || true
  say "full log: $1"
}

# Bazel with the build cache that all checkouts of this user share. Startup options come from
# .bazelrc: arguments start with the command.
run_bazel() {
  local command=$1
  shift
  case "$command" in
    build | test | run | aquery | cquery | coverage | mobile-install)
      bazel "$command" --disk_cache="$CACHE_DIR/disk" "$@" ;;
    *) bazel "$command" "$@" ;;
  esac
}

build_quietly() {
  local log=$LOG_DIR/build.log status=0
  quietly "building $*" "$log" run_bazel build "$@" || status=$?
  if [[ $status -ne 0 ]]; then
    show_log "$log"
    exit 1
  fi
}
