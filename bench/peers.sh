#!/usr/bin/env bash
# bench/peers.sh: what people load Kafka into PostgreSQL with instead, to measure against:
# the JDBC sink of Debezium, in Kafka Connect's process for one machine. To be run, or
# sourced for peer_VERB, as bench/run does for P2. No part of `make check`.
#
#   peers.sh cache               fetch it unless it is there (57 MB); print its directory
#   peers.sh start DIR BOOTSTRAP TOPIC URL USER [NAME=VALUE...]
#                                write the records of TOPIC into the table TOPIC of the
#                                database with that JDBC URL; returns when it runs, which
#                                takes some ten seconds. NAME=VALUE changes a setting of the sink
#   peers.sh stop DIR            end it by its pid
#
# Set as for the most rows a second: large polls and batches, one write per key and batch
# (use.reduction.buffer), arrays instead of rows of VALUES. It needs records with their schema
# inside: {"schema": {...}, "payload": {...}} as key and as value, JSON. Measure from the first row
# to the last, and look at the rows too: a late older record overwrites a newer one there.
#
# It lies beside Kafka's jars, whose Connect it runs in (tools/kafka.sh).

. "$(dirname "${BASH_SOURCE[0]}")/../tools/kafka.sh"
peer_version=3.6.0.Final
peer_dir=$GC_CACHE/debezium-jdbc-$peer_version

peer_cache() {
	local log=$peer_dir.log
	kafka_cache >/dev/null || return 1
	if [ ! -e "$peer_dir/.complete" ]; then
		rm -rf "$peer_dir.new" && mkdir -p "$peer_dir.new" || return 1
		echo "peers: fetching Debezium's JDBC sink $peer_version (57 MB) with Maven into $peer_dir" >&2
		if ! mvn -B -C -q org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy \
			-Dartifact="io.debezium:debezium-connector-jdbc:$peer_version:tar.gz:plugin" \
			-DoutputDirectory="$peer_dir.new" >"$log" 2>&1 </dev/null ||
			! tar -C "$peer_dir.new" -xzf "$peer_dir.new"/*.tar.gz 2>>"$log"; then
			grep -m 1 ERROR "$log" >&2
			echo "peers: it cannot be had, $log has what Maven said" >&2
			return 1
		fi
		rm -rf "$peer_dir.new"/*.tar.gz "$log" "$peer_dir"
		chmod -R a+rX "$peer_dir.new" && touch "$peer_dir.new/.complete" && mv "$peer_dir.new" "$peer_dir" || return 1
	fi
	echo "$peer_dir"
}

peer_start() { # DIR BOOTSTRAP TOPIC URL USER NAME=VALUE...
	local dir=$1 bootstrap=$2 topic=$3 url=$4 user=$5 port pid i
	shift 5
	mkdir -p "$dir" && dir=$(cd "$dir" && pwd) && port=$(kafka_free_ports 1) || return 1
	cat >"$dir/server.properties" <<-END
		bootstrap.servers=$bootstrap
		listeners=http://127.0.0.1:$port
		plugin.path=$peer_dir
		plugin.discovery=service_load
		offset.storage.file.filename=$dir/offsets
		key.converter=org.apache.kafka.connect.json.JsonConverter
		value.converter=org.apache.kafka.connect.json.JsonConverter
		key.converter.schemas.enable=true
		value.converter.schemas.enable=true
		consumer.auto.offset.reset=earliest
		consumer.max.poll.records=20000
		consumer.fetch.min.bytes=1000000
		consumer.max.partition.fetch.bytes=16000000
		consumer.fetch.max.bytes=64000000
	END
	{
		cat <<-END
			name=sink
			connector.class=io.debezium.connector.jdbc.JdbcSinkConnector
			tasks.max=1
			topics=$topic
			connection.url=$url
			connection.username=$user
			connection.password=none
			insert.mode=upsert
			primary.key.mode=record_key
			delete.enabled=true
			schema.evolution=none
			collection.name.format=$topic
			batch.size=10000
			use.reduction.buffer=true
			dialect.postgres.unnest.insert.enabled=true
		END
		[ $# -eq 0 ] || printf '%s\n' "$@"
	} >"$dir/sink.properties"
	kafka_jvm -Dgc.level=INFO || return 1
	# it reads and writes for seconds on end: here both compilers are wanted, and more memory
	kafka_argv=(${kafka_argv[@]/-XX:TieredStopAtLevel=1/-XX:+UseParallelGC})
	kafka_argv=(${kafka_argv[@]/-XX:+UseSerialGC/-Xmx1g})
	(cd "$dir" && exec setsid "${kafka_argv[@]}" org.apache.kafka.connect.cli.ConnectStandalone \
		"$dir/server.properties" "$dir/sink.properties" >>"$dir/server.log" 2>&1 </dev/null) &
	pid=$!
	echo "$pid" >"$dir/pid"
	for i in $(seq 600); do
		kafka_alive "$pid" || break
		peer_status "$port" | grep -q '"tasks":\[{[^]]*"state":"RUNNING"' && return 0
		! peer_status "$port" | grep -q '"state":"FAILED"' || break
		sleep 0.2
	done
	grep -E 'ERROR|Caused by' "$dir/server.log" | head -n 10 >&2
	kafka_stop "$dir"
	echo "peers: the sink does not run, see $dir/server.log" >&2
	return 1
}

peer_status() { # PORT
	perl -MHTTP::Tiny -e 'print HTTP::Tiny->new(timeout => 5)->get("http://127.0.0.1:$ARGV[0]/connectors/sink/status")->{content}' "$1"
}

peer_stop() { # DIR
	kafka_stop "$1"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
	set -u
	case ${1:-} in
	cache | start | stop)
		verb=peer_$1
		shift
		"$verb" "$@"
		;;
	*)
		sed -n 's/^# \{0,1\}//p' "$0" | sed -n '/^  peers.sh/p'
		exit 2
		;;
	esac
fi
