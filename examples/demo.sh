#!/usr/bin/env bash
# The worked example, on a server that exists for a minute: builds the
# extension, starts PostgreSQL in a temporary directory, runs demo.sql there and
# removes everything. Needs no rights in the system; as root it installs what
# is missing first (see tools/install-deps).
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
tools/install-deps || exit 1
. tools/server.sh

bold="" dim="" green="" reset=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$'\e[1m' dim=$'\e[36m' green=$'\e[1;32m' reset=$'\e[0m'
fi

make_work || exit 1
echo "${dim}building guest_context and starting a server in $work ...${reset}"
build_tree >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
start_server || exit 1
"${as_user[@]}" "$pgbin/createdb" demo || exit 1
own "$work"
if ! "${as_user[@]}" "$pgbin/psql" -X -q -d demo -v ON_ERROR_STOP=1 -v bold="$bold" -v dim="$dim" -v green="$green" \
	-v reset="$reset" -P pager=off -P null=- <examples/demo.sql 2>&1; then
	echo "the demo failed; the end of the server's log:"
	tail -n 20 "$work/server.log"
	exit 1
fi
stop_servers
[ -n "$KEEP" ] || { rm -rf "$work" && work="" && echo "The server is stopped, and everything that was made here is gone again."; }
