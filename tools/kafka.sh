#!/usr/bin/env bash
# tools/kafka.sh: Apache Kafka for tests and benchmarks, from the jars that Maven
# brings; to be run, or sourced for its functions kafka_VERB.
#
#   kafka.sh cache [TEST..]       make the cache unless it is there, also for the versions that
#                                 these tests name; print its directory
#   kafka.sh cached               succeed when it is there and whole
#   kafka.sh start DIR [OPTION..] a new broker that answers, its files in DIR
#   kafka.sh again DIR            start what was stopped or killed: same ports, same data
#   kafka.sh stop DIR             end it by its pid
#   kafka.sh stop-all DIR         every broker with its files below DIR
#   kafka.sh java CLASS ARG...    one of Kafka's own tools, in a JVM that starts quickly
#
# Options of start:
#   --tls                a listener SSL, certificates made with openssl: DIR/ca.pem,
#                        and DIR/client.pem, DIR/client.key for a client that shows one
#   --user NAME=PASSWORD a listener SASL_PLAINTEXT (with --tls SASL_SSL too) with
#                        PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512, and access rules
#   --set NAME=VALUE     a setting of the broker
#   --join DIR2          a further broker of the cluster whose first one is in DIR2
#   --log FILE           its log, DIR/server.log otherwise
#
# A broker is a KRaft node, broker and controller in one, with 512 MB of heap, on free
# ports of 127.0.0.1: DIR/ports has lines `LISTENER HOST:PORT`, DIR/pid its process.
# PLAINTEXT is always there; who comes that way may do everything.
#
# KAFKA_VERSION names another version than that of the tests.
#
# The cache is $GC_CACHE/kafka-VERSION. GC_CACHE is by default guest_context in
# $XDG_CACHE_HOME, else in ~/.cache, for root in /var/cache: the servers that root's
# tests start run as somebody who cannot look into root's home.

kafka_version=${KAFKA_VERSION:-4.2.0}
kafka_log4j=2.25.3
: "${GC_CACHE:=${XDG_CACHE_HOME:-$([ "$(id -u)" -eq 0 ] && echo /var/cache || echo "${HOME:-}/.cache")}/guest_context}"
export GC_CACHE
kafka_dir=$GC_CACHE/kafka-$kafka_version
kafka_program=${JAVA_HOME:+$JAVA_HOME/bin/}java kafka_archive="" kafka_argv=()

kafka_fail() {
	echo "kafka: $*" >&2
	return 1
}

# --- the cache ------------------------------------------------------------------

kafka_check_java() {
	local version
	version=$("$kafka_program" -version 2>&1) ||
		{ kafka_fail "\"$kafka_program\" cannot be run, Java 17 or newer is needed: tools/install-deps kafka"; return 1; }
	[[ $version =~ version\ \"([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 17 ] ||
		{ kafka_fail "Java 17 or newer is needed, this is ${version%%$'\n'*}"; return 1; }
	kafka_archive=$kafka_dir/classes-$(cksum <<<"$version" | cut -d' ' -f1).jsa
}

kafka_cached() { [ -e "$kafka_dir/.complete" ]; }

kafka_cache() { # TEST...
	local version
	kafka_check_java || return 1
	if ! kafka_cached; then
		mkdir -p "$GC_CACHE" || { kafka_fail "cannot make $GC_CACHE, GC_CACHE can name another directory"; return 1; }
		# whoever waits finds it made
		(flock 9 && { kafka_cached || kafka_fetch; }) 9>"$GC_CACHE/kafka.lock" || return 1
	fi
	kafka_archive_classes
	[ $# -eq 0 ] || for version in $(sed -n "s/.*Kafka->start(.*version => '\([0-9.]*\)'.*/\1/p" "$@" | sort -u); do
		KAFKA_VERSION=$version bash "${BASH_SOURCE[0]}" cache >/dev/null || return 1
	done
	echo "$kafka_dir"
}

# Complete or not at all: made beside its place and renamed.
kafka_fetch() {
	local new=$kafka_dir.new log=$kafka_dir.log home repository=()
	command -v mvn >/dev/null ||
		{ kafka_fail "Maven (mvn) is needed to fetch Kafka's jars: tools/install-deps kafka"; return 1; }
	rm -rf "$new"
	mkdir -p "$new" || return 1
	cat >"$new/pom.xml" <<-END
		<project xmlns="http://maven.apache.org/POM/4.0.0">
		  <modelVersion>4.0.0</modelVersion>
		  <groupId>guest_context</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
		  <dependencies>
		    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_version</version></dependency>
		    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$kafka_version</version></dependency>
		    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>$kafka_log4j</version></dependency>
		    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>$kafka_log4j</version></dependency>
		  </dependencies>
		</project>
	END
	# Maven's home is that of the password file, whatever HOME says; some users have none
	home=$(getent passwd "$(id -u)" | cut -d: -f6)
	[ -w "$home" ] || repository=("-Dmaven.repo.local=$new/repository")
	echo "kafka: fetching $kafka_version (56 MB) with Maven into $kafka_dir" >&2
	if ! (cd "$new" && mvn -B -C -q ${repository[@]+"${repository[@]}"} \
		org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$new/libs") >"$log" 2>&1 </dev/null; then
		grep -m 1 -E 'ERROR|FATAL' "$log" >&2
		rm -rf "$new"
		kafka_fail "Maven could not fetch Kafka $kafka_version: is there a network, or a mirror in Maven's settings? All it said is in $log"
		return 1
	fi
	cat >"$new/log4j2.properties" <<-'END'
		status = error
		appender.out.type = Console
		appender.out.name = out
		appender.out.target = SYSTEM_ERR
		appender.out.layout.type = PatternLayout
		appender.out.layout.pattern = [%d] %p %m (%c{1})%n
		rootLogger.level = ${sys:gc.level:-WARN}
		rootLogger.appenderRef.out.ref = out
	END
	rm -rf "$new/repository"
	chmod -R a+rX "$new" && touch "$new/.complete" && rm -rf "$kafka_dir" "$log" && mv "$new" "$kafka_dir"
}

# One order of the class path always: an archive of classes is good for one only.
kafka_class_path() {
	local jar path=""
	for jar in "$kafka_dir"/libs/*.jar; do path+=${path:+:}$jar; done
	echo "$path"
}

# The arguments of every JVM. What runs for seconds is not worth the second compiler; the
# archive of loaded classes takes half of a start away.
kafka_jvm() {
	[ -n "$kafka_archive" ] || kafka_check_java || return 1
	kafka_argv=("$kafka_program" -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1
		"-Dlog4j2.configurationFile=$kafka_dir/log4j2.properties")
	[ ! -r "$kafka_archive" ] || kafka_argv+=("-XX:SharedArchiveFile=$kafka_archive" -Xshare:auto -Xlog:disable -Xlog:all=error:stderr)
	kafka_argv+=("$@" -cp "$(kafka_class_path)")
}

# Made by a broker of no other use, by whoever may write there. It is a help only.
kafka_archive_classes() {
	[ ! -e "$kafka_archive" ] && [ -w "$kafka_dir" ] || return 0
	(
		dir=$(mktemp -d) || exit
		trap 'kafka_stop "$dir/broker"; rm -rf "$dir" "$kafka_archive.$BASHPID"' EXIT
		trap 'exit 130' INT TERM HUP
		if kafka_start "$dir/broker" --archive "$kafka_archive.$BASHPID" && kafka_stop "$dir/broker"; then
			chmod a+r "$kafka_archive.$BASHPID" && mv -f "$kafka_archive.$BASHPID" "$kafka_archive"
		fi
	) >/dev/null 2>&1
	return 0
}

# --- a broker ---------------------------------------------------------------------

# Below those that the system gives to outgoing connections, so that a broker that is
# down finds its ports free when it comes back.
kafka_free_ports() { # count
	perl -MIO::Socket::INET -e '
		my ($n, @held) = @ARGV;
		for (1 .. 1000) {
			last if @held == $n;
			my $port = 11000 + int rand 21000;
			push @held, IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $port, Listen => 1, Proto => "tcp") || next;
		}
		print join(" ", map { $_->sockport } @held), "\n"; exit(@held < $n)' "$1"
}

kafka_alive() { # pid
	[ -n "$1" ] && kill -0 "$1" 2>/dev/null && ! grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"
}

kafka_address() { # DIR LISTENER
	sed -n "s/^$2 //p" "$1/ports"
}

kafka_certificates() { # DIR
	local dir=$1 name
	(
		cd "$dir" && umask 077 || exit 1
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=guest_context tests" \
			-keyout ca.key -out ca.pem || exit 1
		printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\n' >server.ext
		: >client.ext
		for name in server client; do
			openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" -keyout $name.key -out $name.csr &&
				openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile $name.ext -out $name.pem || exit 1
		done
		cat server.key server.pem ca.pem >server.store
	) >"$dir/openssl.log" 2>&1 || { cat "$dir/openssl.log" >&2; kafka_fail "openssl could not make certificates"; }
}

kafka_start() { # DIR OPTION...
	local dir=${1:?kafka_start needs a directory} try
	shift
	kafka_check_java && kafka_cached ||
		{ kafka_fail "Kafka $kafka_version is not in $kafka_dir: tools/kafka.sh cache"; return 1; }
	mkdir -p "$dir" && dir=$(cd "$dir" && pwd) || return 1
	[ ! -e "$dir/server.properties" ] || { kafka_fail "$dir has a broker already"; return 1; }
	for try in 1 2 3; do
		kafka_make "$dir" "$@" || return 1
		kafka_again "$dir" && return 0
		# somebody else was faster at one of the ports
		grep -qs 'Address already in use' "$(cat "$dir/log")" || return 1
		rm -rf "$dir/data"
	done
	return 1
}

# The files of a broker that is to be.
kafka_make() { # DIR OPTION...
	local dir=$1 tls="" join="" log=$1/server.log archive="" users=() settings=() listeners=(PLAINTEXT) \
		ports name map="" listen="" advertised="" node=1 roles=broker,controller cluster controller format=(--standalone) plain="" user
	shift
	while [ $# -gt 0 ]; do
		case $1 in
		--tls) tls=1 ;;
		--user) users+=("${2:?}"); shift ;;
		--set) settings+=("${2:?}"); shift ;;
		--join) join=$(cd "${2:?}" && pwd) || return 1; shift ;;
		--log) log=${2:?}; shift ;;
		--archive) archive=${2:?}; shift ;;
		*) kafka_fail "start: unknown option \"$1\""; return 1 ;;
		esac
		shift
	done
	[ -z "$tls" ] || listeners+=(SSL)
	[ ${#users[@]} -eq 0 ] || listeners+=(SASL_PLAINTEXT)
	[ -z "$tls" ] || [ ${#users[@]} -eq 0 ] || listeners+=(SASL_SSL)
	ports=($(kafka_free_ports $((${#listeners[@]} + 1)))) || { kafka_fail "no free ports"; return 1; }
	echo "$log" >"$dir/log"
	echo "$archive" >"$dir/archive"

	: >"$dir/ports"
	for name in "${listeners[@]}"; do
		echo "$name 127.0.0.1:${ports[0]}" >>"$dir/ports"
		listen+=$name://127.0.0.1:${ports[0]},
		map+=$name:$name,
		ports=("${ports[@]:1}")
	done
	advertised=${listen%,}
	if [ -n "$join" ]; then
		controller=$(sed -n 's/^controller.quorum.bootstrap.servers=//p' "$join/server.properties")
		cluster=$(sed -n 's/^cluster.id=//p' "$join/data/meta.properties")
		node=$(($(cat "$join/nodes") + 1))
		echo $node >"$join/nodes"
		roles=broker format=()
	else
		controller=127.0.0.1:${ports[0]}
		listen+=CONTROLLER://$controller,
		cluster=$(openssl rand -base64 16 | tr '+/' '-_') && cluster=A${cluster:1:21}
		echo 1 >"$dir/nodes"
	fi

	{
		cat <<-END
			process.roles=$roles
			node.id=$node
			controller.quorum.bootstrap.servers=$controller
			controller.listener.names=CONTROLLER
			listeners=${listen%,}
			advertised.listeners=$advertised
			listener.security.protocol.map=${map}CONTROLLER:PLAINTEXT
			inter.broker.listener.name=PLAINTEXT
			log.dirs=$dir/data
			# a single broker, small, that is back and gone quickly
			offsets.topic.replication.factor=1
			offsets.topic.num.partitions=1
			transaction.state.log.replication.factor=1
			transaction.state.log.min.isr=1
			transaction.state.log.num.partitions=1
			share.coordinator.state.topic.replication.factor=1
			share.coordinator.state.topic.min.isr=1
			share.coordinator.state.topic.num.partitions=1
			num.network.threads=2
			num.io.threads=4
			log.cleaner.dedupe.buffer.size=16777216
			group.initial.rebalance.delay.ms=0
			# one that was killed is let in again when its session is over
			broker.heartbeat.interval.ms=500
			broker.session.timeout.ms=3000
			# tests make their topics; they wait for retention and compaction
			auto.create.topics.enable=false
			# for what they ask for: records of years ago stay where a topic does not say how long
			log.retention.ms=-1
			log.initial.task.delay.ms=500
			log.retention.check.interval.ms=500
			log.cleaner.backoff.ms=500
			log.segment.delete.delay.ms=500
			transaction.abort.timed.out.transaction.cleanup.interval.ms=500
		END
		if [ -n "$tls" ]; then
			cat <<-END
				ssl.keystore.type=PEM
				ssl.keystore.location=$dir/server.store
				ssl.truststore.type=PEM
				ssl.truststore.location=$dir/ca.pem
				ssl.client.auth=requested
			END
		fi
		if [ ${#users[@]} -gt 0 ]; then
			for user in "${users[@]}"; do plain+=" user_${user%%=*}=\"${user#*=}\""; done
			echo "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
			echo "connection.failed.authentication.delay.ms=0"
			for name in sasl_plaintext ${tls:+sasl_ssl}; do
				cat <<-END
					listener.name.$name.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required$plain;
					listener.name.$name.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
					listener.name.$name.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
				END
			done
			cat <<-END
				authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
				super.users=User:ANONYMOUS
				allow.everyone.if.no.acl.found=true
			END
			for user in "${users[@]}"; do
				for name in SCRAM-SHA-256 SCRAM-SHA-512; do
					[ -n "$join" ] || format+=(--add-scram "$name=[name=${user%%=*},password=${user#*=}]")
				done
			done
		fi
		[ ${#settings[@]} -eq 0 ] || printf '%s\n' "${settings[@]}"
	} >"$dir/server.properties"

	[ -z "$tls" ] || kafka_certificates "$dir" || return 1
	kafka_java kafka.tools.StorageTool format ${format[@]+"${format[@]}"} -t "$cluster" -c "$dir/server.properties" \
		>"$dir/format.log" 2>&1 || { cat "$dir/format.log" >&2; kafka_fail "cannot format $dir/data"; return 1; }
}

kafka_again() { # DIR
	local dir=$1 pid i log archive options=()
	dir=$(cd "$dir" && pwd) && log=$(cat "$dir/log") && archive=$(cat "$dir/archive") || return 1
	! kafka_alive "$(cat "$dir/pid" 2>/dev/null)" || { kafka_fail "the broker in $dir is running"; return 1; }
	[ -z "$archive" ] || options=("-XX:ArchiveClassesAtExit=$archive")
	kafka_jvm -Dgc.level=INFO ${options[@]+"${options[@]}"} || return 1
	(cd "$dir" && exec setsid "${kafka_argv[@]}" kafka.Kafka "$dir/server.properties" >>"$log" 2>&1 </dev/null 9>&-) &
	pid=$!
	echo "$pid" >"$dir/pid"
	for i in $(seq 600); do
		kafka_alive "$pid" || break
		kcat -b "$(kafka_address "$dir" PLAINTEXT)" -L -m 1 >/dev/null 2>&1 && return 0
		sleep 0.1
	done
	tail -n 30 "$log" >&2
	if kafka_alive "$pid"; then
		kafka_stop "$dir"
		kafka_fail "the broker in $dir does not answer"
	else
		kafka_fail "the broker in $dir has not come up"
	fi
}

kafka_stop() { # DIR
	local dir=$1 pid i
	pid=$(cat "$dir/pid" 2>/dev/null) || return 0
	# a number may be somebody else's by now
	if kafka_alive "$pid" && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "$dir/server.properties"; then
		kill -CONT "$pid" 2>/dev/null
		kill -TERM "$pid" 2>/dev/null
		for i in $(seq 200); do
			kafka_alive "$pid" || break
			[ "$i" -ne 150 ] || kill -KILL "$pid" 2>/dev/null
			sleep 0.1
		done
	fi
	rm -f "$dir/pid"
}

kafka_stop_all() { # DIR
	local file
	for file in $(find "$1" -name pid -path '*/pid' 2>/dev/null); do
		[ ! -e "${file%/pid}/server.properties" ] || kafka_stop "${file%/pid}"
	done
}

kafka_java() { # CLASS ARG...
	kafka_jvm && "${kafka_argv[@]}" "$@"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
	set -u
	case ${1:-} in
	cache | cached | start | again | stop | stop-all | java)
		verb=kafka_${1//-/_}
		shift
		"$verb" "$@"
		;;
	*)
		sed -n 's/^# \{0,1\}//p' "$0" | sed -n '/^kafka.sh\|^  kafka.sh/p'
		exit 2
		;;
	esac
fi
