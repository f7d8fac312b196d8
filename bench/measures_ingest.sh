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

		-- until all n records of the entity's topic have been read
		CREATE PROCEDURE bench.wait_read(entity regclass, n bigint)
		LANGUAGE plpgsql AS $$
		DECLARE
			give_up timestamptz := clock_timestamp() + interval '10 minutes';
		BEGIN
			WHILE (SELECT sum(next_offset) FROM guest_context.offsets(entity)) IS DISTINCT FROM n LOOP
				IF clock_timestamp() > give_up THEN
					RAISE EXCEPTION 'not read: %', (SELECT string_agg(s::text, ' ') FROM guest_context.status s);
				END IF;
				PERFORM pg_sleep(0.002);
				COMMIT;
			END LOOP;
		END $$;

		CREATE PROCEDURE bench.wait_no_worker()
		LANGUAGE plpgsql AS $$
		BEGIN
			WHILE EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'guest_context ingest') LOOP
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
	kcat -b "$ingest_broker" -P -t "$1" -K $'\t' -X linger.ms=50 -X queue.buffering.max.messages=1000000 -l "$2"
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
