# What tests and proofs need from outside, by package name. Sourced by ./test and ./prove from the root of the project.
#
# Each function installs one thing unless it is there. What cannot be installed is named and kept in `missing`.

tools="$PWD/target/tools"
# Each test that is skipped writes a line into this file.
skipped="$tools/skipped"
missing=()

say() { printf '\n== %s\n' "$*"; }
have() {
  command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/usr/bin/$1" ] || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null
}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo; then sudo -n "$@"; else return 1; fi; }

lacks() {
  missing+=("$1")
  printf 'missing: %s\n' "$1"
}

# apt-get install, without starting what it installs: tests start their own, with settings of their own.
apt_install() (
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'as_root rm -f "$policy"' EXIT
    as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 || true
)

debian() { # debian COMMAND PACKAGE...: installs the packages unless the command is there
  local command=$1; shift
  have "$command" && return 0
  have apt-get || { lacks "$command (install: $*)"; return 0; }
  if [ -z "${apt_updated:-}" ]; then as_root apt-get update -qq >/dev/null 2>&1 || true; apt_updated=1; fi
  apt_install "$@" || true
  have "$command" || lacks "$command (Debian: $*)"
}

postgresql() { # the server, without the database that Debian makes and starts for it
  have postgres && return 0
  debian pg_lsclusters postgresql-common
  as_root sed -i 's/^#\? *create_main_cluster *=.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf 2>/dev/null || true
  debian postgres postgresql
}

python() { # python MODULE PACKAGE: into a virtual environment of the tests' own
  [ -x "$tools/venv/bin/python" ] || python3 -m venv "$tools/venv" >/dev/null 2>&1 || { lacks "python3 -m venv"; return 0; }
  "$tools/venv/bin/python" -c "import $1" 2>/dev/null && return 0
  "$tools/venv/bin/pip" install -q --disable-pip-version-check "$2" >/dev/null 2>&1 || true
  "$tools/venv/bin/python" -c "import $1" 2>/dev/null || lacks "$2 (PyPI)"
}

npm_tool() { # npm_tool BINARY PACKAGE: into a folder of the tests' own
  [ -x "$tools/node_modules/.bin/$1" ] && return 0
  have npm || { lacks "npm, for $2"; return 0; }
  npm install --silent --no-audit --no-fund --prefix "$tools" "$2" >/dev/null 2>&1 || true
  [ -x "$tools/node_modules/.bin/$1" ] || lacks "$2 (npm)"
}

npm_library() { # npm_library PACKAGE: one without a program
  [ -f "$tools/node_modules/$1/package.json" ] && return 0
  have npm || { lacks "npm, for $1"; return 0; }
  npm install --silent --no-audit --no-fund --prefix "$tools" "$1" >/dev/null 2>&1 || true
  [ -f "$tools/node_modules/$1/package.json" ] || lacks "$1 (npm)"
}

# What the proofs need: databases, what stands before them and before the nodes, and small disks that break.
install_for_proofs() {
  postgresql
  debian psql postgresql-client
  debian pgbouncer pgbouncer
  debian haproxy haproxy
  debian nginx nginx-light
  debian setpriv util-linux
  debian mkfs.ext4 e2fsprogs
  debian gcc gcc libc6-dev
  debian oathtool oathtool
}

begin_skipped() {
  mkdir -p "$tools"
  : >"$skipped"
}

list_skipped() {
  [ -s "$skipped" ] || return 0
  say "skipped"
  sort -u "$skipped"
}

# The comment at the head of a script is its help.
help_of() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "$1"; }
