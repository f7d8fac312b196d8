# bench/measures_ingest.sh: the measures that read from Kafka, sourced by bench/run as
# bench/measures.sh is. One broker of Apache Kafka (tools/kafka.sh) serves all of them; records are in
# their topic before anybody reads them, unless a measure is about freshness.
#
# Entities have one shape, the orders of P1, below guests that stay empty. The server
# has the library preloaded, as at every user's.

ingest_broker=""

# The broker, and what the database needs to read from it: once a server.
need_broker() {
	[ -z "$ingest_broker" ] || return 0
	note "a broker"
	kafka_cache >/dev/null && kafka_start "$work/broker" --set log.segment.bytes=1073741824 || return 1
	ingest_broker=$(kafka_address "$work/broker" PLAINTEXT)
	"$pgbin/psql" -Xq -d bench -v ON_ERROR_STOP=1 \
		-c "CREATE SERVER events FOREIGN DATA WRAPPER guest_context OPTIONS (\"bootstrap.servers\" '$ingest_broker')" \
		-c "GRANT USAGE ON FOREIGN SERVER events TO bench" || return 1
	sql <<-'EOF'
		CREATE SCHEMA ingest;
		CREATE TYPE ingest.guest_shape AS (ref text, modified_at timestamptz);
		CREATE TYPE ingest.order_shape AS (ref text, guest_ref text, status text, total numeric, modified_at timestamptz);
		SELECT guest_context.create_entity('ingest.guests', 'ingest.guest_shape') \g /dev/null

		-- records as an application makes them: keys in no order, each once
		CREATE PROCEDURE bench.make_records(n bigint)
		LANGUAGE sql AS $$
			DROP TABLE IF EXISTS ingest.record;
			CREATE TABLE ingest.record AS
			SELECT 'o-' || substr(md5('o' || i), 1, 12) AS ref,
				'g-' || substr(md5('g' || i % greatest(n / 20, 1)), 1, 12) AS guest_ref,
				(ARRAY['OPEN', 'PAID', 'PURCHASED', 'SHIPPED', 'RETURNED'])[1 + i % 5] AS status,
				round((i * 7919 % 1000003)::numeric / 100, 2) AS total,
				date_trunc('second', now()) - interval '1 day' + interval '1 ms' * (i * 48271 % 36000000) AS modified_at
			FROM generate_series(1::bigint, n) i;
		$$;

		-- until all n records of the entity's topic can be seen; asleep meanwhile, for the cores have better to do
		CREATE PROCEDURE bench.wait_read(entity regclass, n bigint)
		LANGUAGE plpgsql AS $$
		DECLARE
			give_up timestamptz := clock_timestamp() + interval '10 minutes';
		BEGIN
			WHILE (SELECT sum(next_offset) FROM guest_context.offsets(entity)) IS DISTINCT FROM n LOOP
				IF clock_timestamp() > give_up THEN
					RAISE EXCEPTION 'not read: %', (SELECT string_agg(s::text, ' ') FROM guest_context.status s);
				END IF;
				PERFORM guest_context.wait_for_head(entity, '10 minutes');
				COMMIT;
			END LOOP;
		END $$;

		-- Reads the orders numbered first to first + n - 1 of ingest.fresh by their keys, each partition's one after the
		-- other, every millisecond; what it saw when goes to bench.seen.
		CREATE TABLE bench.seen (run text, ms float8);
		CREATE PROCEDURE bench.watch(run text, partitions int, first bigint, n bigint)
		LANGUAGE plpgsql AS $$
		DECLARE
			next bigint[] := ARRAY(SELECT first + i FROM generate_series(0, partitions - 1) i);
			late float8[] := '{}';
			sent timestamptz;
			give_up timestamptz;
		BEGIN
			WHILE cardinality(late) < n LOOP
				FOR p IN 1 .. partitions LOOP
					LOOP
						sent := NULL;
						SELECT modified_at INTO sent FROM ingest.fresh WHERE ref = 'o-' || next[p];
						EXIT WHEN sent IS NULL;
						late := late || extract(epoch FROM clock_timestamp() - sent)::float8 * 1000;
						next[p] := next[p] + partitions;
						give_up := clock_timestamp() + interval '1 minute';
					END LOOP;
				END LOOP;
				IF clock_timestamp() > give_up THEN
					RAISE EXCEPTION 'nothing in a minute, at %: %', next, (SELECT string_agg(s::text, ' ') FROM guest_context.status s);
				END IF;
				COMMIT;
				PERFORM pg_sleep(0.001);
			END LOOP;
			INSERT INTO bench.seen SELECT watch.run, unnest(late);
		END $$;

		-- ms from the first row of a table, which somebody else fills, until all of these keys are in it
		CREATE PROCEDURE bench.time_rows(filled regclass, keys text[], INOUT ms float8 DEFAULT NULL)
		LANGUAGE plpgsql AS $$
		DECLARE
			give_up timestamptz := clock_timestamp() + interval '10 minutes';
			began timestamptz;
			found bigint := 0;
		BEGIN
			SET enable_seqscan = off;
			WHILE found < cardinality(keys) LOOP
				IF clock_timestamp() > give_up THEN
					RAISE EXCEPTION '% of % keys in % after ten minutes', found, cardinality(keys), filled;
				END IF;
				EXECUTE format('SELECT count(*) FROM (SELECT FROM %s LIMIT 1) x', filled) INTO found;
				IF found > 0 THEN
					began := coalesce(began, clock_timestamp());
					EXECUTE format('SELECT count(*) FROM %s WHERE ref = ANY ($1)', filled) INTO found USING keys;
				END IF;
				COMMIT;
				PERFORM pg_sleep(0.005);
			END LOOP;
			ms := extract(epoch FROM clock_timestamp() - began) * 1000;
		END $$;

		CREATE PROCEDURE bench.wait_no_worker()
		LANGUAGE plpgsql AS $$
		DECLARE
			give_up timestamptz := clock_timestamp() + interval '2 minutes';
		BEGIN
			WHILE EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'guest_context ingest') LOOP
				IF clock_timestamp() > give_up THEN
					RAISE EXCEPTION 'an ingest worker stays';
				END IF;
				PERFORM pg_sleep(0.01);
				COMMIT;
			END LOOP;
		END $$;
	EOF
}

# What an application would send for a row of ingest.record r.
payload="format('{\"ref\":\"%s\",\"guestRef\":\"%s\",\"status\":\"%s\",\"total\":%s,\"modifiedAt\":\"%s\"}', r.ref, r.guest_ref, r.status,
	r.total, to_char(r.modified_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'))"

# A topic; `kcat -K` lines of key, tab and value on stdin or in a file go into it.
make_topic() { # topic partitions [setting...]
	local topic=$1 partitions=$2 settings=() setting
	shift 2
	for setting in "$@"; do settings+=(--config "$setting"); done
	kafka_java org.apache.kafka.tools.TopicCommand --bootstrap-server "$ingest_broker" --create --topic "$topic" \
		--partitions "$partitions" ${settings[@]+"${settings[@]}"} >"$work/topic.log" 2>&1 || { cat "$work/topic.log"; return 1; }
}

fill_topic() { # topic file
	kcat -b "$ingest_broker" -P -t "$1" -K $'\t' -X log_level=3 -X enable.idempotence=true -X linger.ms=50 -X queue.buffering.max.messages=1000000 -l "$2"
}

# An entity that has read nothing yet of a topic; resume makes it begin.
make_orders() { # entity topic [mapping]
	sql -c "SELECT guest_context.create_entity('$1', 'ingest.order_shape', parent => 'ingest.guests', parent_ref => '{guest_ref}');
		SELECT guest_context.create_changelog('$1', 'events', '$2', name => '$1'${3:+, mapping => '$3'});
		SELECT guest_context.pause('$1')" >"$work/entity.out"
}

# The worker goes when it has nothing to read: the next one begins anew.
drop_orders() { # entity
	sql -c "SELECT guest_context.drop_changelog('$1'); SELECT guest_context.drop_entity('$1')" \
		-c "CALL bench.wait_no_worker()" >"$work/entity.out"
}

# ms from the commit that lets a changelog run until the last of n records is visible, the start of
# worker and reader included. With CLOCK=cpu the worker's own, without the reader's.
ms_to_read() { # entity n
	local timing="\\timing on" after=""
	if [ "$CLOCK" = cpu ]; then timing="" after="SELECT 'Time: ' || $(cpu_of pid) || ' ms' FROM pg_stat_activity WHERE backend_type = 'guest_context ingest';"; fi
	printf '%s\n' "SELECT guest_context.resume('$1') \\g /dev/null" "$timing" "CALL bench.wait_read('$1', $2);" "$after" |
		sql | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | grep .
}

# One statement's ms.
ms_of() { # sql
	local before="\\timing on" after=""
	if [ "$CLOCK" = cpu ]; then before="SELECT $own_cpu AS t \\gset" after="SELECT 'Time: ' || $own_cpu - :t || ' ms';"; fi
	printf '%s\n' "$before" "$1;" "$after" | sql | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | grep .
}

# P1: all records of a topic into a new entity, against COPY of the same rows from a
# file of the server into a table with the same columns and the same indexes, in the same order.
measure_P1() {
	local i n what columns="ref, guest_ref, status, total, modified_at"
	n=$(rows_of 0.2)
	what="$n JSON records, Kafka -> visible"
	need_broker || return 1
	sql -c "CALL bench.make_records($n)" -c "COPY ingest.record TO '$work/p1.copy'" \
		-c "COPY (SELECT ref, $payload FROM ingest.record r) TO '$work/p1.records'" || return 1
	[ "$(sql -c "SELECT count(DISTINCT ref) FROM ingest.record")" = "$n" ] || return 1
	what+=", $(awk -F '\t' '{ n += length($2) } END { printf "%.0f", n / NR }' "$work/p1.records") bytes"
	make_topic p1 4 && fill_topic p1 "$work/p1.records" || return 1
	: >"$work/a" && : >"$work/b" && : >"$work/c"
	for ((i = 0; i <= ROUNDS; i++)); do
		make_orders ingest.orders p1 || return 1
		sql -c "DROP TABLE IF EXISTS ingest.plain, ingest.bare" \
			-c "CREATE TABLE ingest.plain ($columns) AS SELECT * FROM ingest.record LIMIT 0" \
			-c "CREATE INDEX ON ingest.plain (ref, modified_at)" -c "CREATE INDEX ON ingest.plain (guest_ref)" \
			-c "CREATE TABLE ingest.bare (LIKE ingest.plain)" -c CHECKPOINT || return 1
		ms_to_read ingest.orders "$n" >"$work/t.a" || return 1
		sql -c CHECKPOINT
		ms_of "COPY ingest.plain FROM '$work/p1.copy'" >"$work/t.b" || return 1
		sql -c CHECKPOINT
		ms_of "COPY ingest.bare FROM '$work/p1.copy'" >"$work/t.c" || return 1
		if [ "$i" -eq 0 ]; then # the first does not count, but its rows are looked at
			same P1 "$what" "SELECT $columns FROM ingest.orders" "SELECT * FROM ingest.plain" || return 0
		else
			cat "$work/t.a" >>"$work/a" && cat "$work/t.b" >>"$work/b" && cat "$work/t.c" >>"$work/c"
			[ "$(sql -c "SELECT count(*) FROM ingest.orders")" = "$n" ] || { book_failed P1 "$what" "not all rows"; return 0; }
		fi
		drop_orders ingest.orders || return 1
	done
	book P1 "$what (beside: COPY)" "$work/a" "$work/b" ">= 1.2" \
		"$(spread <"$work/b" | awk '{ printf "%.0f (%.0f–%.0f)", $1, $2, $3 }'), without indexes $(spread <"$work/c" | awk '{ printf "%.0f", $1 }')"
}

pacer() { "$repo/build/gc_pacer" "$ingest_broker" "$@"; } # TOPIC PARTITIONS RATE FIRST COUNT [BYTES]

# Percentiles of a run of p7_run, as "P50 P99 MAX" in ms; fails when records are missing.
p7_seen() { # run n
	[ "$(sql -c "SELECT count(*) FROM bench.seen WHERE run = '$1'")" = "$2" ] || return 1
	sql -F ' ' -c "SELECT round(p[1]::numeric, 3), round(p[2]::numeric, 3), round(p[3]::numeric, 3)
		FROM (SELECT percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY ms) AS p FROM bench.seen WHERE run = '$1') x"
}

# Produces records at a rate while a session reads each by its key as soon as it is there.
p7_run() { # run topic partitions rate first n what
	local watcher ours theirs p=()
	sql -c "CALL bench.watch('$1', $3, $5, $6)" & watcher=$!
	theirs=$(pacer "$2" "$3" "$4" "$5" "$6") || { kill $watcher; wait $watcher; return 1; }
	wait $watcher && ours=$(p7_seen "$1" "$6") || return 1
	p=($ours $theirs)
	book_count P7 "$7, p50 / p99 / max (beside: plain consumer)" "${p[0]} / ${p[1]} / ${p[2]}" "${p[3]} / ${p[4]} / ${p[5]}" \
		"<= 20, <= 100 ms" "$(awk -v a="${p[0]}" -v b="${p[1]}" 'BEGIN { print a <= 20 && b <= 100 ? "pass" : "fail" }')"
}

# Lets a changelog of ingest.fresh run with records 0 to 9,999, which warm up the broker.
p7_begin() { # topic partitions
	make_topic "$1" "$2" && make_orders ingest.fresh "$1" && pacer "$1" "$2" 5000 0 10000 >"$work/begin" &&
		ms_to_read ingest.fresh 10000 >"$work/begin"
}

# Has a new worker read records of p7s from one to the one before another, which wait for it, under these settings of the
# server: NAME=VALUE, or NAME for the default.
p7_read_with() { # from to setting...
	local from=$1 to=$2 setting commands=()
	shift 2
	for setting in "$@"; do
		if [[ $setting == *=* ]]; then commands+=(-c "ALTER SYSTEM SET ${setting%%=*} = '${setting#*=}'")
		else commands+=(-c "ALTER SYSTEM RESET $setting"); fi
	done
	sql -c "SELECT guest_context.pause('ingest.fresh')" -c "CALL bench.wait_no_worker()" >"$work/pause.out" &&
		"$pgbin/psql" -XqAt -v ON_ERROR_STOP=1 "${commands[@]}" -c "SELECT pg_reload_conf()" >"$work/configure.out" &&
		pacer p7s 1 0 "$from" $((to - from)) && ms_to_read ingest.fresh "$to" >"$work/read"
}

# P7: from the call that produces a record to a session that reads it by its key, at 5,000
# records a second, against a plain consumer of the same records at the same time. Then
# 30,000 batches of ten records behind the back of an old snapshot, which would slow down an
# offset that is updated in place: do the last ones take longer than the first, and how fresh
# are records after them? Commits of those batches do not wait for the disk.
measure_P7() {
	local n batches end what="5,000 records/s, produced -> read by key" holder status
	need_broker && make -s build/gc_pacer || return 1
	n=$(rows_of 0.03) batches=$(rows_of 0.006)
	p7_begin p7 4 && p7_run even p7 4 5000 10000 "$n" "$what" && drop_orders ingest.fresh || return 1

	p7_begin p7s 1 || return 1
	rm -f "$work/stop"
	{
		echo "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ingest.fresh;"
		while [ ! -e "$work/stop" ]; do sleep 0.2; done
		echo "SELECT count(*) FROM ingest.fresh; COMMIT;"
	} | sql >"$work/p7.open" 2>&1 & holder=$!
	until [ -s "$work/p7.open" ] || ! kill -0 $holder 2>/dev/null; do sleep 0.1; done
	end=$((10000 + batches * 10))
	p7_read_with 10000 $end guest_context.batch_rows=10 synchronous_commit=off &&
		p7_read_with $end $((end + 100)) guest_context.batch_rows synchronous_commit &&
		p7_run old p7s 1 5000 $((end + 100)) $((n / 3)) "$what, after $batches batches under an open snapshot"
	status=$?
	touch "$work/stop"
	wait $holder
	[ $status -eq 0 ] && [ "$(paste -sd ' ' "$work/p7.open")" = "10000 10000" ] || { cat "$work/p7.open"; return 1; }
	sql -F ' ' >"$work/thirds" <<-EOF || return 1
		SELECT third, extract(epoch FROM took) * 1000
		FROM (SELECT ntile(3) OVER (ORDER BY gc_arrived_at) AS third, gc_arrived_at - lag(gc_arrived_at) OVER (ORDER BY gc_arrived_at) AS took
			FROM (SELECT DISTINCT gc_arrived_at FROM ingest.fresh_speed WHERE gc_offset BETWEEN 10000 AND $((end - 1))) x) x
		WHERE took IS NOT NULL
	EOF
	[ "$(wc -l <"$work/thirds")" -ge $((batches - 1)) ] || { book_failed P7 "batches under an open snapshot" "larger than ten records"; return 0; }
	awk '$1 == 3 { print $2 }' "$work/thirds" >"$work/a"
	awk '$1 == 1 { print $2 }' "$work/thirds" >"$work/b"
	book P7 "a batch under an open snapshot, last third of $batches (beside: first third)" "$work/a" "$work/b" "<= 1.2"
	drop_orders ingest.fresh
}

# The same with its schema inside, as Kafka Connect's JSON converter wants it: key, tab, value.
wrapped="'{\"schema\":{\"type\":\"struct\",\"fields\":[{\"type\":\"string\",\"optional\":false,\"field\":\"ref\"}],\"optional\":false},\"payload\":'
	|| json_build_object('ref', r.ref) || '}',
	'{\"schema\":{\"type\":\"struct\",\"fields\":[{\"type\":\"string\",\"optional\":false,\"field\":\"ref\"},'
	'{\"type\":\"string\",\"optional\":true,\"field\":\"guest_ref\"},{\"type\":\"string\",\"optional\":true,\"field\":\"status\"},'
	'{\"type\":\"double\",\"optional\":true,\"field\":\"total\"},{\"type\":\"string\",\"optional\":true,\"name\":\"io.debezium.time.ZonedTimestamp\",'
	'\"version\":1,\"field\":\"modified_at\"}],\"optional\":false,\"name\":\"shop.public.orders.Value\"},\"payload\":'
	|| json_build_object('ref', r.ref, 'guest_ref', r.guest_ref, 'status', r.status, 'total', r.total,
		'modified_at', to_char(r.modified_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')) || '}'"
unwrap='{"ref":"$.payload.ref","guest_ref":"$.payload.guest_ref","status":"$.payload.status","total":"$.payload.total","modified_at":"$.payload.modified_at"}'

# The refs of the last record of each partition of a topic of wrapped records, as an array.
last_refs() { # topic partitions
	local i refs=""
	for ((i = 0; i < $2; i++)); do
		refs+=,$(kcat -b "$ingest_broker" -C -q -t "$1" -p "$i" -o -1 -c 1 -f '%k\n' | sed -n 's/.*"ref" : "\([^"]*\)".*/\1/p')
	done
	echo "{${refs#,}}"
}

# ms from the first to the last row that Debezium's sink writes of a topic into the table of that name. Each time a
# new one, and it reads the topic from its start.
sink_ms() { # topic refs
	local timer group=sink.$RANDOM.$SECONDS
	sql -c "CALL bench.time_rows('$1', '$2')" >"$work/sink.ms" & timer=$!
	peer_start "$work/$group" "$ingest_broker" "$1" "jdbc:postgresql://127.0.0.1:$PGPORT/bench" bench \
		consumer.override.group.id=$group || { kill $timer; wait $timer; return 1; }
	wait $timer || { tail -n 20 "$work/$group/server.log" >&2; peer_stop "$work/$group"; return 1; }
	peer_stop "$work/$group"
	cat "$work/sink.ms"
}

sink_table() { # name
	sql -c "DROP TABLE IF EXISTS $1" -c "CREATE TABLE $1 (ref text PRIMARY KEY, guest_ref text, status text, total numeric, modified_at timestamptz)" \
		-c "CREATE INDEX ON $1 (guest_ref)" -c CHECKPOINT
}

# P2: the same as P1 against the JDBC sink of Debezium, which upserts into a plain table with a
# primary key and an index. It reads records with their schema inside; ours are read
# without and with it. Its time goes from its first row to its last, since it takes seconds to start, ours from the
# commit that starts it. What both do with records that come in no order is counted, not timed.
measure_P2() {
	local i n what columns="ref, guest_ref, status, total, modified_at" refs wrong
	n=$(rows_of 0.2)
	what="$n JSON records, Kafka -> visible"
	need_broker && peer_cache >"$work/peer" || return 1
	sql -c "CALL bench.make_records($n)" -c "COPY (SELECT ref, $payload FROM ingest.record r) TO '$work/p2.plain'" \
		-c "COPY (SELECT $wrapped FROM ingest.record r) TO '$work/p2.wrapped'" || return 1
	make_topic p2 4 && fill_topic p2 "$work/p2.plain" && make_topic p2w 4 && fill_topic p2w "$work/p2.wrapped" || return 1
	refs=$(last_refs p2w 4)
	: >"$work/a" && : >"$work/b" && : >"$work/c"
	for ((i = 0; i < ROUNDS; i++)); do
		make_orders ingest.orders p2 && sql -c CHECKPOINT && ms_to_read ingest.orders "$n" >>"$work/a" || return 1
		[ "$i" -gt 0 ] || same P2 "$what" "SELECT $columns FROM ingest.orders" "SELECT $columns FROM ingest.record" || return 0
		drop_orders ingest.orders && sink_table p2w && sink_ms p2w "$refs" >>"$work/b" || return 1
		# its numbers come as double precision
		same P2 "$what, the sink's" "SELECT ${columns/total/trim_scale(total)} FROM p2w" \
			"SELECT ${columns/total/trim_scale(total)} FROM ingest.record" || return 0
		make_orders ingest.wrapped p2w "$unwrap" && sql -c CHECKPOINT && ms_to_read ingest.wrapped "$n" >>"$work/c" || return 1
		[ "$i" -gt 0 ] || same P2 "$what" "SELECT $columns FROM ingest.wrapped" "SELECT $columns FROM ingest.record" || return 0
		drop_orders ingest.wrapped || return 1
	done
	book P2 "$what (beside: Debezium's JDBC sink, schema inside)" "$work/a" "$work/b" ">= 4"
	book P2 "$what, schema inside for both" "$work/c" "$work/b" ">= 4"

	# two versions of each key, in no order, and one record more
	sql <<-EOF || return 1
		CREATE TABLE ingest.shuffled AS
		SELECT ref, guest_ref, status, total, modified_at + v * interval '1 minute' AS modified_at
		FROM (SELECT * FROM ingest.record LIMIT 10000) r, generate_series(0, 1) v
		ORDER BY md5(ref || v);
		INSERT INTO ingest.shuffled SELECT 'o-end', guest_ref, status, total, modified_at FROM ingest.record LIMIT 1;
		COPY (SELECT $wrapped FROM ingest.shuffled r) TO '$work/p2.shuffled';
		CREATE VIEW ingest.newest AS SELECT DISTINCT ON (ref) * FROM ingest.shuffled ORDER BY ref, modified_at DESC;
	EOF
	make_topic p2s 1 && fill_topic p2s "$work/p2.shuffled" && sink_table p2s && sink_ms p2s '{o-end}' >"$work/shuffled.ms" &&
		make_orders ingest.wrapped p2s "$unwrap" && ms_to_read ingest.wrapped "$(sql -c 'SELECT count(*) FROM ingest.shuffled')" >"$work/shuffled.ms" || return 1
	wrong="SELECT count(*) FROM ingest.newest n LEFT JOIN NAME x USING (ref) WHERE x.modified_at IS DISTINCT FROM n.modified_at"
	i=$(sql -c "${wrong/NAME/ingest.wrapped}")
	book_count P2 "of $(sql -c 'SELECT count(*) FROM ingest.newest') keys show an older record than the newest, shuffled input" "$i" "$(sql -c "${wrong/NAME/p2s}")" \
		"0" "$([ "$i" = 0 ] && echo pass || echo fail)"
	drop_orders ingest.wrapped
}

# kB of memory that a process has for itself: without the server's shared buffers, which a worker maps, and without programs.
own_kb() { awk '/^RssAnon:/ { print $2; found = 1 } END { exit !found }' "/proc/$1/status"; }

# P10: memory of the worker and of its reader program while they work off 1 GB in 64 partitions.
# Samples of the last third of the time against the first third; and against what
# the settings allow the two together.
measure_P10() {
	local n worker="" reader reading cap most ok
	need_broker && make -s build/gc_pacer && make_topic p10 64 && make_orders ingest.orders p10 || return 1
	n=$(rows_of 0.2)
	pacer p10 64 0 0 "$n" 1000 || return 1
	cap=$(sql -c "SELECT pg_size_bytes(current_setting('guest_context.reader_memory')) / 1024
		+ pg_size_bytes(current_setting('guest_context.batch_bytes')) / 1024") || return 1
	ms_to_read ingest.orders "$n" >"$work/p10.ms" & reading=$!
	: >"$work/kb"
	while kill -0 $reading 2>/dev/null; do
		if [ -z "$worker" ]; then
			worker=$(sql -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'")
			[ -z "$worker" ] || reader=$(pgrep -P "$worker") || worker=""
		else
			echo "$(own_kb "$worker") $(own_kb "$reader")" >>"$work/kb"
		fi
		sleep 0.05
	done
	wait $reading || return 1
	[ "$(sql -c 'SELECT count(*) FROM ingest.orders')" = "$n" ] || { book_failed P10 "memory" "not all rows"; return 0; }
	[ "$(awk 'NF == 2' "$work/kb" | wc -l)" -ge 15 ] || { book_failed P10 "memory" "$(wc -l <"$work/kb") samples"; return 0; }
	awk '{ sum[NR] = $1 + $2; if ($1 > w) w = $1; if ($2 > r) r = $2 }
		END {
			for (i = 1; i <= NR; i++) { third = int((i - 1) * 3 / NR) + 1; if (sum[i] > most[third]) most[third] = sum[i]; if (sum[i] > all) all = sum[i] }
			printf "%.1f %.1f %.1f %.1f %.1f\n", most[1] / 1024, most[3] / 1024, all / 1024, w / 1024, r / 1024
		}' "$work/kb" >"$work/mb" && read -r most <"$work/mb" && set -- $most
	cap=$((cap / 1024))
	ok=$(awk -v first="$1" -v last="$2" 'BEGIN { print last <= first * 1.1 ? "pass" : "fail" }')
	book_count P10 "MB of worker and reader, $n records of 1 kB, 64 partitions: last third (beside: first third)" "$2" "$1" "<= 1.1 times" "$ok"
	ok=$(awk -v all="$3" -v cap="$cap" 'BEGIN { print all <= cap ? "pass" : "fail" }')
	book_count P10 "MB of worker and reader, the most (beside: the most of each)" "$3" "$4, $5" "<= $cap" "$ok"
	drop_orders ingest.orders
}

# Starts the server on the files of the crash; ms until a query answers this.
p12_start() { # options query answer
	rm -rf "$work/data" && cp -a "$work/crashed" "$work/data" && sync -f "$work/data" || return 1
	p12_began=$(date +%s%N)
	"${as_user[@]}" "$pgbin/pg_ctl" -D "$work/data" -W -s -l "$work/server.log" -o "-k $work/sock $1" start || return 1
	p12_until "$2" "$3"
}

p12_until() { # query answer
	local give_up=$((SECONDS + 120))
	until [ "$(sql -c "$1" 2>"$work/p12.err")" = "$2" ]; do
		[ $SECONDS -lt $give_up ] || { cat "$work/p12.err"; return 1; }
		sleep 0.01
	done
	awk -v a="$p12_began" -v b="$(date +%s%N)" 'BEGIN { print (b - a) / 1000000 }'
}

p12_stop() { "${as_user[@]}" "$pgbin/pg_ctl" -D "$work/data" -s -w -t 120 -m immediate stop; }

# P12: after an immediate stop, with records to recover, how long until a read of the view of truth is answered,
# and until a record is visible that came meanwhile? Against the same files, started without the library, and a
# read of a plain table.
measure_P12() {
	local i n p12_began ours="SELECT count(*) FROM ingest.orders WHERE ref = 'o-1'" plain="SELECT count(*) FROM ingest.plain WHERE ref = 'o-1'"
	need_broker && make -s build/gc_pacer && make_topic p12 4 && make_orders ingest.orders p12 || return 1
	n=$(rows_of 0.04)
	pacer p12 4 0 0 "$n" || return 1
	sql -c "DROP TABLE IF EXISTS ingest.plain" -c CHECKPOINT && ms_to_read ingest.orders "$n" >"$work/p12.ms" || return 1
	sql -c "CREATE TABLE ingest.plain AS SELECT * FROM ingest.orders" -c "CREATE INDEX ON ingest.plain (ref)" || return 1
	p12_stop && launched="" && own "$work/server.log" && mv "$work/data" "$work/crashed" && pacer p12 4 0 "$n" 1 || return 1
	: >"$work/a" && : >"$work/b" && : >"$work/c"
	for ((i = 0; i <= ROUNDS; i++)); do
		p12_start "" "$ours" 1 >"$work/t.a" && p12_until "${ours/o-1/o-$n}" 1 >"$work/t.c" || return 1
		[ "$(sql -c 'SELECT count(*) FROM ingest.orders')" = $((n + 1)) ] || { book_failed P12 "restart" "not all rows"; return 0; }
		p12_stop && p12_start "-c shared_preload_libraries=" "$plain" 1 >"$work/t.b" && p12_stop || return 1
		[ "$i" -eq 0 ] || { cat "$work/t.a" >>"$work/a" && cat "$work/t.b" >>"$work/b" && cat "$work/t.c" >>"$work/c"; }
	done
	book P12 "restart after an immediate stop -> first read of the view (beside: of a plain table)" "$work/a" "$work/b" "+ <= 1000 ms"
	book P12 "restart after an immediate stop -> a changelog's next record is visible (beside: read of a plain table)" "$work/c" "$work/b" "+ <= 1000 ms"
	p12_start "" "$ours" 1 >"$work/t.a" && server_pid=$(head -n 1 "$work/data/postmaster.pid") && rm -rf "$work/crashed" && drop_orders ingest.orders
}
