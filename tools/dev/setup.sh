# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Helpers of ./dev: the Debian packages of tools/packages.txt.

# packages_of GROUP...: the names, one per line.
packages_of() {
  local group
  for group in "$@"; do
    awk -v group="$group" '$1 == group { print $2 }' tools/packages.txt
  done
}

# missing_of GROUP...: the names that are not installed. Without dpkg, all of them.
missing_of() {
  local names installed
  names=$(packages_of "$@" | sort -u)  # two groups may name the same one
  # dpkg-query fails for a name it has never heard of, and prints the others all the same.
  # shellcheck disable=SC2086  # one argument per name
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $names 2>/dev/null |
    sed -n 's/^installed //p' | sort -u || true)
  comm -23 <(echo "$names") <(echo "$installed")
}

# explain_missing WHY PACKAGE...: what to do by hand; ends ./dev.
explain_missing() {
  local why=$1
  shift
  {
    echo "dev: $why"
    echo
    echo "Rehome is built on Debian 12 and needs these packages, which are not installed:"
    printf '  %s\n' "$@"
    echo
    echo "On Debian 12, as root:"
    echo "  apt-get install --no-install-recommends $*"
    echo "What each one is for: tools/packages.txt"
  } >&2
  exit 3
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 \
    --no-install-recommends install "$@"
}

# The package lists of a fresh machine are empty, those of an old one name files that are gone:
# both show as a failed install.
apt_install_fresh() {
  apt_install "$@" || {
    apt-get -q -o DPkg::Lock::Timeout=300 update
    apt_install "$@"
  }
}

# require_packages GROUP...: installs what is missing; silent when nothing is.
require_packages() {
  local missing log=$LOG_DIR/setup.log
  mapfile -t missing < <(missing_of "$@")
  if [[ ${#missing[@]} -eq 0 ]]; then return; fi

  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    explain_missing "this is not a Debian system (no apt-get or dpkg-query)." "${missing[@]}"
  fi
  if [[ $(id -u) -ne 0 ]]; then
    explain_missing "installing packages needs root." "${missing[@]}"
  fi
  local label="installing ${#missing[@]} packages (${missing[*]})"
  if ! quietly "$label" "$log" apt_install_fresh "${missing[@]}"; then
    show_log "$log" 10
    explain_missing "apt-get could not install them." "${missing[@]}"
  fi
  # A running Bazel server has already looked for the libraries.
  if command -v bazel >/dev/null; then bazel shutdown >/dev/null 2>&1 || true; fi
}

cmd_setup() {
  case "${1:-}" in
    "") require_packages build fuzz kernel ;;
    --all) require_packages build fuzz kernel lint ;;
    *)
      echo "usage: ./dev setup [--all]   (--all: also what fmt and tidy need)" >&2
      exit 2
      ;;
  esac
  say "all packages are installed"
}
