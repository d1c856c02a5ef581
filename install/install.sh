#!/bin/sh
# From nothing to a working flux2-mcp in the agent hosts on this machine; with --uninstall, back.
#
#   sh install/install.sh                     from the checkout that it stands in
#   sh install/install.sh --from SOURCE       from another folder or a git URL (git+https://...); also through a pipe:
#   curl ... | sh -s -- --from SOURCE
#   --tool-only      no host entries: for those who add the plugin instead
#   --uninstall      takes out the entries (yours, and those of the folder you are in), the tool, and uv where this script
#                    brought it; images and the journal stay
#
# It needs Python 3.11 or later. uv is used where it is found, else fetched from the package index by pip or pipx. Nothing is
# downloaded from anywhere else.
#
# All of it is one function, called on the last line: of a script that was cut on its way, nothing runs.

main() {
  set -eu
  PUBLISHED='no'
  TOOL=flux2-mcp
  MINE="${XDG_DATA_HOME:-${HOME:?is not set}/.local/share}/flux2-mcp-uv" # the uv that this script brought
  export UV_PYTHON_DOWNLOADS=never                                       # not from the index
  STEP='' BROUGHT_UV='' BROUGHT_TOOL=''

  action=install_it source='' hosts=yes
  while [ $# -gt 0 ]; do
    case $1 in
      --from) [ $# -gt 1 ] || usage "--from needs a folder or a git URL"; source=$2; shift ;;
      --tool-only) hosts='' ;;
      --uninstall) action=uninstall_it ;;
      -h | --help) help; exit 0 ;;
      *) usage "$1 is not known" ;;
    esac
    shift
  done
  [ -d "$HOME" ] || usage "HOME is no folder"
  trap 'stopped $?' EXIT
  trap 'exit 130' INT TERM HUP
  "$action"
  trap - EXIT
}

help() {
  cat <<END
sh install.sh [--from FOLDER_OR_GIT_URL] [--tool-only] [--uninstall]

Installs $TOOL with uv, puts it into the agent hosts that are found, and looks whether it works.
--tool-only  no host entries    --uninstall  takes back what this script did; images and the journal stay
END
}

usage() {
  echo "install.sh: $1. Nothing was done. See --help." >&2
  exit 2
}

say() { printf '%s\n' "- $*"; }

# What was begun and did not end is taken back; what was there before stays.
stopped() {
  [ "$1" -ne 0 ] && [ -n "$STEP" ] || exit "$1"
  echo "install.sh: stopped while $STEP; see above." >&2
  [ -z "$BROUGHT_TOOL" ] || { "$UV" tool uninstall --quiet "$TOOL" 2>/dev/null && echo "$TOOL was taken back." >&2; } || :
  [ -z "$BROUGHT_UV" ] || { "$UV" cache clean --quiet 2>/dev/null || :; rm -rf "$MINE" && echo "uv was taken back." >&2; }
  exit "$1"
}

install_it() {
  [ -n "$source" ] || source=$(own_source)
  [ -n "$source" ] || usage "it does not stand in a checkout, and $TOOL is on no index yet. Tell where it is with --from"

  STEP="looking for uv"
  if find_uv; then say "uv: $UV"; else bring_uv; fi
  STEP="looking for Python 3.11 or later"
  "$UV" python find --no-project '>=3.11' >/dev/null

  STEP="installing $TOOL"
  "$UV" tool list 2>/dev/null | grep -q "^$TOOL " || BROUGHT_TOOL=yes
  "$UV" tool install --quiet --compile-bytecode --force --reinstall-package "$TOOL" --python '>=3.11' "$source"
  program=$("$UV" tool dir --bin)/$TOOL
  "$program" --version >/dev/null
  say "$TOOL $("$program" --version): $program"

  # From here on there is a working tool, and nothing to take back: a host that can't be changed is told and left alone.
  STEP='' failed=''
  if [ -n "$hosts" ]; then
    "$program" install --detect 2>&1 || failed=$?
    echo
    "$program" doctor || say "doctor found what is named above; $TOOL works without a key in its sandbox"
  fi
  case ":$PATH:" in
    *":${program%/*}:"*) ;;
    *) say "${program%/*} is not on your PATH: \"$UV\" tool update-shell puts it there" ;;
  esac
  [ -z "$failed" ] || { echo "install.sh: $TOOL is installed, but not in every host; see above." >&2; exit 1; }
  say "done. It is taken back by: install.sh --uninstall"
}

uninstall_it() {
  if ! find_uv; then
    say "there is no uv here, so nothing that this script installed"
    return
  fi
  program=$("$UV" tool dir --bin)/$TOOL
  if "$UV" tool list 2>/dev/null | grep -q "^$TOOL "; then
    failed=''
    # A project's entries can be found in the folder alone that this runs in.
    for scope in user project; do
      said=$("$program" install --detect --uninstall --scope "$scope" 2>&1) || failed=yes
      case $scope$said in
        project"No agent host found"*) said='' ;;
      esac
      [ -z "$said" ] || printf '%s\n' "$said"
    done
    if [ -n "$failed" ]; then
      echo "install.sh: a host still starts $TOOL, so it stays. Mend what is named above and try again." >&2
      exit 1
    fi
    "$UV" tool uninstall --quiet "$TOOL"
    say "$TOOL is gone"
  else
    say "$TOOL was not installed"
  fi
  if [ -d "$MINE" ]; then
    if "$UV" tool list 2>/dev/null | grep -q '^[a-z0-9]'; then
      say "uv stays in $MINE: other tools were installed with it"
    else
      "$UV" cache clean --quiet
      rm -rf "$MINE"
      say "uv, which this script had brought, is gone with its cache"
    fi
  fi
  say "images, journal and key stay where they are"
}

# The checkout around this script, or the plain name once there is one.
own_source() {
  if [ -f "$0" ] && around=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) &&
    grep -qs "^name = \"$TOOL\"" "$around/pyproject.toml"; then
    printf '%s\n' "$around"
  elif [ "$PUBLISHED" = yes ]; then
    echo "$TOOL"
  fi
}

find_uv() {
  for UV in "$(command -v uv || :)" "$MINE/bin/uv" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do
    [ -x "$UV" ] && return
  done
  return 1
}

bring_uv() {
  STEP="fetching uv from the package index"
  BROUGHT_UV=yes
  # Into a folder of its own: that works where the system's Python may not be changed, and is easily taken back.
  if python3 -m pip --version >/dev/null 2>&1; then
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --target "$MINE" uv
  elif command -v pipx >/dev/null 2>&1; then
    PIPX_HOME="$MINE/pipx" PIPX_BIN_DIR="$MINE/bin" pipx install --quiet uv
  else
    echo "install.sh: there is neither uv, nor pip, nor pipx. Install one of them (Debian: apt install python3-pip)." >&2
    exit 1
  fi
  UV="$MINE/bin/uv"
  say "uv, from the package index: $UV"
}

# In braces, so that not even this line runs in part.
{ main "$@"; }
