# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Helpers of ./dev: formatting, clang-tidy, compile_commands.json.

# Our C and C++ files, NUL-terminated: tracked, or new and not ignored.
our_sources() {
  local file
  git ls-files -z --cached --others --exclude-standard -- "$@" ':!third_party' |
    while IFS= read -r -d '' file; do
      if [[ -f $file ]]; then printf '%s\0' "$file"; fi
    done
}

cmd_fmt() {
  case "${1:-}" in
    "") our_sources '*.cc' '*.h' '*.c' | xargs -0 -r clang-format -i ;;
    --check)
      local log=$LOG_DIR/fmt.log
      if ! our_sources '*.cc' '*.h' '*.c' |
        xargs -0 -r clang-format --dry-run -Werror >"$log" 2>&1; then
        say "not formatted (./dev fmt does it):"
        sed -n 's/^\([^: ][^:]*\):[0-9]*:[0-9]*: error:.*/  \1/p' "$log" | sort -u >&2
        exit 1
      fi
      ;;
    *)
      echo "usage: ./dev fmt [--check]" >&2
      exit 2
      ;;
  esac
}

cmd_compdb() {
  # Generated headers have to exist, and bazel-out has to point at them.
  build_quietly //...
  quietly "writing compile_commands.json" "$LOG_DIR/compdb.log" python3 tools/compdb.py || {
    show_log "$LOG_DIR/compdb.log"
    exit 1
  }
}

run_tidy() {
  printf '%s\0' "$@" | xargs -0 -r -n 1 -P "$(nproc)" clang-tidy --quiet -p .
}

cmd_tidy() {
  local files=("$@") log=$LOG_DIR/tidy.log
  if [[ ${#files[@]} -eq 0 ]]; then
    mapfile -d '' -t files < <(our_sources '*.cc')
  fi
  cmd_compdb
  if ! quietly "clang-tidy over ${#files[@]} files" "$log" run_tidy "${files[@]}"; then
    grep -E -A 3 '(error|warning):' "$log" >&2 || true
    say "full log: $log"
    exit 1
  fi
}
