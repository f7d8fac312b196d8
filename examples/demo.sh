#!/usr/bin/env bash
# The worked example, on a server and a broker that exist for a minute: builds the
# extension, starts both in a temporary directory, runs demo.sql there and
# removes everything. Needs no rights in the system; as root it installs what
# is missing first (see tools/install-deps).
#
# The broker is librdkafka's mock cluster (mock_broker.c); with KAFKA=apache Apache's own,
# which wants Java and is fetched once (see tools/kafka.sh).
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
: "${KAFKA:=mock}"
case $KAFKA in
mock) tools/install-deps || exit 1 ;;
apache) tools/install-deps kafka || exit 1 ;;
*) echo "KAFKA is \"mock\" or \"apache\""; exit 2 ;;
esac
. tools/server.sh

bold="" dim="" green="" reset=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$'\e[1m' dim=$'\e[36m' green=$'\e[1;32m' reset=$'\e[0m'
fi

# Sets brokers. Comes after the server, which would otherwise hold the mock's input open.
start_broker() {
	if [ "$KAFKA" = apache ]; then
		kafka_cache >/dev/null && mkdir "$work/broker" && kafka_start "$work/broker" || return 1
		brokers=$(kafka_address "$work/broker" PLAINTEXT)
		kafka_java org.apache.kafka.tools.TopicCommand --bootstrap-server "$brokers" --create --topic guests &&
			kafka_java org.apache.kafka.tools.TopicCommand --bootstrap-server "$brokers" --create --topic orders
		return
	fi
	make -s build/mock_broker && mkfifo "$work/hold" "$work/brokers" || return 1
	# it ends when its input does, which is when this script ends, however that ends
	build/mock_broker guests orders <"$work/hold" >"$work/brokers" &
	exec 9>"$work/hold"
	read -r brokers <"$work/brokers"
}

make_work || exit 1
echo "${dim}building guest_context, starting a server and a broker in $work ...${reset}"
build_tree >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
{ cat "$server_conf"; echo "shared_preload_libraries = 'guest_context'"; } >"$work/demo.conf"
server_conf=$work/demo.conf
start_server || exit 1
start_broker >"$work/broker.log" 2>&1 || { cat "$work/broker.log"; exit 1; }
"${as_user[@]}" "$pgbin/createdb" demo || exit 1
mkdir "$work/demo" && cp examples/demo.sql examples/*.records "$work/demo/" && own "$work/demo" || exit 1
if ! (cd "$work/demo" && "${as_user[@]}" "$pgbin/psql" -X -q -d demo -v ON_ERROR_STOP=1 -v brokers="$brokers" -v bold="$bold" \
	-v dim="$dim" -v green="$green" -v reset="$reset" -P pager=off -P null=- -f demo.sql 2>&1); then
	echo "the demo failed; the end of the server's log:"
	tail -n 20 "$work/server.log"
	exit 1
fi
stop_servers
exec 9>&-
wait
[ -n "$KEEP" ] || { rm -rf "$work" && work="" && echo "Server and broker are stopped, and everything that was made here is gone again."; }
