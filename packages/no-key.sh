#!/bin/sh
# At the start of a session: one hint where no key is set, and one where the server can't be started. Reads; changes nothing.
# What it prints is added to the session. It never fails one.

config="${XDG_CONFIG_HOME:-$HOME/.config}/runapi/config.json"
if ! command -v @COMMAND@ >/dev/null 2>&1; then
  echo "FLUX.2: @COMMAND@ is not on the PATH, so the flux-2 tools can't start. @SETUP@"
elif [ -z "${RUNAPI_API_KEY:-}${RUNAPI_KEY:-}${CLAUDE_PLUGIN_OPTION_API_KEY:-}" ] &&
  ! grep -Eqs '"api_?[kK]ey"[[:space:]]*:[[:space:]]*"[^"]' "$config"; then
  echo "FLUX.2: no RunAPI key is set, so generate draws SANDBOX pictures on this machine, free of charge. For real images: flux2-mcp login, RUNAPI_API_KEY, or this plugin's own setting."
fi
exit 0
