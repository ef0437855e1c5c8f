# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Helpers of ./dev: the kernel under test; docs/kernel.md.

# build_kernel ARGS...: builds the image unless it is there. ARGS are those of kernel/build.py.
build_kernel() {
  if python3 -B kernel/build.py --where "$@" >/dev/null; then return; fi
  local log=$LOG_DIR/kernel.log
  if ! quietly "building the kernel${*:+ ($*)}, some minutes" "$log" \
    python3 -B kernel/build.py "$@"; then
    show_log "$log" 30
    exit 1
  fi
}

# flavour_of ARGS...: the options among ARGS that choose a kernel.
flavour_of() {
  local arg
  for arg in "$@"; do
    if [[ $arg == --stock || $arg == --debug ]]; then printf '%s\n' "$arg"; fi
  done
}

# build_kernel_tests ARGS...: the programs that a test run with ARGS needs.
build_kernel_tests() {
  local needed
  mapfile -t needed < <(python3 -B kernel/run.py targets "$@")
  if [[ ${#needed[@]} -gt 0 && -n ${needed[0]} ]]; then build_quietly "${needed[@]}"; fi
}

# kernel_tests NAME ARGS...: a part of ./dev test: builds kernel and programs and runs
# `kernel/run.py test ARGS`. The verdicts are in $LOG_DIR/NAME.xml; without it something went wrong.
kernel_tests() {
  local name=$1 log=$LOG_DIR/$1.log flavour
  shift
  rm -f "$LOG_DIR/$name.xml"
  mapfile -t flavour < <(flavour_of "$@")
  # In subshells, because these two end ./dev when they fail.
  (build_kernel "${flavour[@]}") || return 0
  (build_kernel_tests "$@") || return 0
  if quietly "testing inside the kernel${*:+ ($*)}" "$log" \
    python3 -B kernel/run.py test "$@" --xml="$LOG_DIR/$name.xml"; then
    tail -n 1 "$log"
  else
    show_log "$log"
  fi
}

kernel_usage() {
  echo "usage: ./dev kernel build [--stock] [--debug]" >&2
  echo "       ./dev kernel test [FILTER] [--stock] [--debug] [--json]" >&2
  echo "       ./dev kernel shell [--stock] [--debug]" >&2
  exit 2
}

cmd_kernel() {
  local what=${1:-} flavour
  shift || true
  mapfile -t flavour < <(flavour_of "$@")
  case "$what" in
    build)
      if [[ $# -ne ${#flavour[@]} ]]; then kernel_usage; fi
      build_kernel "$@"
      python3 -B kernel/build.py --where "$@"
      ;;
    test)
      build_kernel "${flavour[@]}"
      build_kernel_tests "$@"
      exec python3 -B kernel/run.py test "$@"
      ;;
    shell)
      build_kernel "${flavour[@]}"
      exec python3 -B kernel/run.py shell "$@"
      ;;
    *) kernel_usage ;;
  esac
}
