# bench/measures.sh: one function per measure, sourced by bench/run. A measure checks
# that both sides answer the same, runs them in turn, and books a row for each thing
# measured. A status other than 0 books a failure.

# An aggregate over everything, as an analyst asks it.
aggregate() { echo "SELECT status, count(*), sum(total) FROM $1 GROUP BY status"; }

# How many workers a plan starts.
workers_of() { # settings query
	printf '%s\nEXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) %s;\n' "$1" "$2" | sql | sed -n 's/^.*Workers Launched: //p' | head -n 1
}

# P3: full scan and aggregate over the view against one plain merged table.
measure_P3() {
	local serial="SET max_parallel_workers_per_gather = 0;" parallel="SET max_parallel_workers_per_gather = 2;"
	local ours theirs a b
	need main 1
	ours=$(aggregate main.orders) theirs=$(aggregate main.plain_orders)
	same P3 "all rows" "SELECT * FROM main.orders" "SELECT * FROM main.plain_orders" || return 0
	same P3 "aggregate" "$ours" "$theirs" || return 0
	in_turn "$serial" "$ours" "$theirs" || return 1
	book P3 "scan + aggregate, serial" "$work/a" "$work/b" "<= 1.6"
	# what a server with default settings does
	in_turn "$serial SET jit = on;" "$ours" "$theirs" || return 1
	book P3 "scan + aggregate, serial, jit on" "$work/a" "$work/b" "<= 1.6"
	if [ "$CLOCK" = cpu ]; then return 0; fi # workers have clocks of their own
	a=$(workers_of "$parallel" "$ours") b=$(workers_of "$parallel" "$theirs")
	if [ "$a" != "$b" ]; then
		book_failed P3 "scan + aggregate, parallel" "different workers: ${a:-none}, ${b:-none}"
		return 0
	fi
	in_turn "$parallel" "$ours" "$theirs" || return 1
	book P3 "scan + aggregate, ${a:-0} workers" "$work/a" "$work/b" "<= 1.6"
}

# P4: the same against what people write in SQL over the same tree, in the best form
# known: window and dataset are constants, so that leaves are pruned when planning, and
# an index of their own has all columns of the order, so that nothing need be sorted
# (twice as fast as without it).
measure_P4() {
	local ours dataset start settings n
	need main 1
	dataset=$(sql -c "SELECT dataset_id FROM guest_context._window WHERE versions = 'main.orders_versions'::regclass")
	start=$(sql -c "SELECT window_start FROM guest_context._window WHERE versions = 'main.orders_versions'::regclass")
	sql <<-EOF || return 1
		DROP VIEW IF EXISTS main.distinct_on, main.anti_join;
		SELECT 'CREATE VIEW main.distinct_on AS ' || bench.newest('main', 'ref, guest_ref, status, total, modified_at') \gexec
		-- History is beaten by the window only, the window by itself and by history;
		-- at equal version the window wins.
		CREATE VIEW main.anti_join AS
		SELECT ref, guest_ref, status, total, modified_at FROM main.orders_batch_d$dataset b
		WHERE NOT gc_deleted
		  AND NOT EXISTS (SELECT FROM main.orders_speed s
			WHERE s.gc_arrived_at >= '$start' AND s.ref = b.ref AND s.modified_at >= b.modified_at)
		UNION ALL
		SELECT ref, guest_ref, status, total, modified_at
		FROM (SELECT DISTINCT ON (ref) * FROM main.orders_speed WHERE gc_arrived_at >= '$start'
			ORDER BY ref, modified_at DESC, gc_source DESC, gc_partition DESC, gc_offset DESC, gc_arrived_at DESC) s
		WHERE NOT gc_deleted
		  AND NOT EXISTS (SELECT FROM main.orders_batch_d$dataset b WHERE b.ref = s.ref AND b.modified_at > s.modified_at);
		DROP INDEX IF EXISTS main.p4_order;
		CREATE INDEX p4_order ON main.orders_versions (ref, modified_at DESC, gc_source DESC,
			gc_partition DESC, gc_offset DESC, gc_arrived_at DESC);
		VACUUM ANALYZE main.orders_versions;
	EOF
	ours=$(aggregate main.orders)
	same P4 "DISTINCT ON view" "$ours" "$(aggregate main.distinct_on)" || return 0
	same P4 "anti-join view" "$ours" "$(aggregate main.anti_join)" || return 0
	# as P3: serial, and with workers, which each side uses as its plan can
	for n in 0 2; do
		[ "$CLOCK$n" = cpu2 ] && continue # workers have clocks of their own
		settings="SET max_parallel_workers_per_gather = $n;"
		in_turn "$settings" "$ours" "$(aggregate main.distinct_on)" || return 1
		book P4 "scan + aggregate, DISTINCT ON view, $n workers" "$work/a" "$work/b" ">= 4"
		in_turn "$settings" "$ours" "$(aggregate main.anti_join)" || return 1
		book P4 "scan + aggregate, anti-join view, $n workers" "$work/a" "$work/b" ">= 3"
	done
	sql -c "DROP INDEX main.p4_order"
}

# A pgbench script that reads one random order.
point_script() { # file relation rows
	printf '\\set i random(1, %s)\nSELECT * FROM %s WHERE ref = '"'o'"' || :i;\n' "$3" "$2" >"$work/$1.pgb"
}

# Do 2,000 point reads, windowed keys among them, give the same from both?
same_points() { # id what schema rows
	local differ
	differ=$(sql <<-EOF
		DO \$\$
		DECLARE
			k text;
			a record;
			b record;
		BEGIN
			FOR k IN SELECT 'o' || 1 + (i * 104729 + 7 * (i / 2)) % $4 FROM generate_series(0, 1999) i LOOP
				a := NULL; b := NULL;
				SELECT * INTO a FROM $3.orders WHERE ref = k;
				SELECT * INTO b FROM $3.plain_orders WHERE ref = k;
				IF a IS DISTINCT FROM b THEN
					RAISE EXCEPTION 'key %: % and %', k, a, b;
				END IF;
			END LOOP;
		END \$\$;
	EOF
	) 2>"$work/differ" && return 0
	book_failed "$1" "$2" "answers differ: $(head -n 1 "$work/differ")"
	return 1
}

# P5: point reads by key through one connection.
measure_P5() {
	need main 1
	same_points P5 "point read" main "$(rows_of 1)" || return 0
	point_script ours main.orders "$(rows_of 1)"
	point_script theirs main.plain_orders "$(rows_of 1)"
	bench_in_turn prepared "$work/ours.pgb" "$work/theirs.pgb" $((2 * ROUNDS)) || return 1
	book P5 "point read, prepared" "$work/a" "$work/b" "<= 2.0"
	bench_in_turn simple "$work/ours.pgb" "$work/theirs.pgb" $((2 * ROUNDS)) || return 1
	book P5 "point read, unprepared" "$work/a" "$work/b" "<= 3.5"
}

# Readers of P8 until $work/stop is there: each read must see one dataset only.
p8_readers() { # mode
	while [ ! -e "$work/stop" ]; do
		"$pgbin/pgbench" -n -M "$1" -T 2 -c 2 -U bench -f "$work/p8.pgb" bench 2>&1
	done >"$work/p8.$1.log"
}

# P8: activation and rollback under four readers at full speed and one open transaction.
#
# Every row of dataset A says A, every row of B says B. A's window begins an hour
# before B's, and holds 100 orders that say A and that B has in its leaf, as B. So a
# read with the dataset of one and the window of the other is seen too: it has 100 rows
# more or less, or two tags. Fifty orders are deleted in both windows.
measure_P8() {
	local flips=100 readers=() saw errors reads mixed status tag as_of
	sql <<-'EOF' || return 1
		CREATE SCHEMA p8;
		CREATE TYPE p8.guest_shape AS (ref text, tag text, modified_at timestamptz);
		CREATE TYPE p8.order_shape AS (ref text, guest_ref text, tag text, modified_at timestamptz);
		SELECT guest_context.create_entity('p8.guests', 'p8.guest_shape', partition_interval => '1 hour', overlap => '1 hour') \g /dev/null
		SELECT guest_context.create_entity('p8.orders', 'p8.order_shape', parent => 'p8.guests', parent_ref => '{guest_ref}', partition_interval => '1 hour') \g /dev/null
		CREATE TABLE bench.mixed (at timestamptz DEFAULT clock_timestamp(), what text);
		CREATE TABLE bench.tiny (n int);
		INSERT INTO bench.tiny VALUES (0);
		CREATE TABLE bench.p8_hour AS SELECT bench.first_leaf('p8') AS hour;
		SELECT 'CREATE TABLE p8.orders_speed_past (LIKE p8.orders_speed INCLUDING ALL)',
			format('ALTER TABLE p8.orders_speed ATTACH PARTITION p8.orders_speed_past FOR VALUES FROM (%L) TO (%L)',
				hour - interval '2 hours', hour) FROM bench.p8_hour \gexec
		INSERT INTO p8.orders_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted,
			modified_at, ref, guest_ref, tag)
		SELECT hour - interval '90 minutes', i, 0, 0, 0, false, hour - interval '90 minutes', 'o' || i, 'g' || i % 100, 'A'
		FROM bench.p8_hour, generate_series(1000, 1099) i
		UNION ALL
		SELECT hour, i, 0, 0, 0, true, hour, 'o' || i, NULL, NULL
		FROM bench.p8_hour, generate_series(900, 949) i;
	EOF
	for tag in A B; do
		as_of="hour - interval '$([ $tag = A ] && echo 1 || echo 0) hours'"
		sql <<-EOF || return 1
			SELECT guest_context.create_dataset('p8.guests', $as_of) AS d FROM bench.p8_hour \\gset
			SELECT guest_context.load_dataset(:d, 'p8.guests',
				'SELECT ''g'' || i AS ref, ''$tag'' AS tag, hour - interval ''1 day'' AS modified_at
				FROM bench.p8_hour, generate_series(0, 99) i') \\g /dev/null
			SELECT guest_context.load_dataset(:d, 'p8.orders',
				'SELECT ''o'' || i AS ref, ''g'' || i % 100 AS guest_ref, ''$tag'' AS tag,
				hour - CASE WHEN i < 1000 THEN interval ''1 day'' ELSE ''90 minutes'' END AS modified_at
				FROM bench.p8_hour, generate_series(0, $([ $tag = A ] && echo 999 || echo 1099)) i') \\g /dev/null
			SELECT guest_context.seal_dataset(:d) \\g /dev/null
			SELECT count(*) FROM guest_context.verify_dataset(:d) \\g /dev/null
			\\if $([ $tag = A ] && echo 1 || echo 0)
			SELECT guest_context.activate_dataset(:d) \\g /dev/null
			\\endif
		EOF
	done
	[ "$(sql -c "SELECT count(*), min(tag), max(tag) FROM p8.orders")" = "1050|A|A" ] ||
		{ sql -c "SELECT tag, count(*) FROM p8.orders GROUP BY 1"; return 1; }
	cat >"$work/p8.pgb" <<-'EOF'
		\set i random(0, 899)
		SELECT count(*) AS n, count(DISTINCT tag) AS tags FROM (SELECT tag FROM p8.guests UNION ALL SELECT tag FROM p8.orders) x \gset
		SELECT :n <> 1150 OR :tags <> 1 AS mixed \gset
		\if :mixed
		INSERT INTO bench.mixed (what) VALUES (:n || ' rows of ' || :tags || ' datasets');
		\endif
		SELECT count(*) AS n, count(*) FILTER (WHERE o.tag = g.tag) AS equal FROM p8.orders o JOIN p8.guests g ON g.ref = o.guest_ref WHERE o.ref = 'o' || :i \gset
		SELECT :n <> 1 OR :equal <> 1 AS mixed \gset
		\if :mixed
		INSERT INTO bench.mixed (what) VALUES (:n || ' joined, ' || :equal || ' of one dataset');
		\endif
	EOF
	rm -f "$work/stop"
	p8_readers prepared & readers+=($!)
	p8_readers simple & readers+=($!)
	# a transaction that stays open over all flips and must go on to see one dataset
	{
		echo "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT string_agg(DISTINCT tag, ',') FROM p8.orders;"
		while [ ! -e "$work/stop" ]; do sleep 0.2; done
		echo "SELECT string_agg(DISTINCT tag, ',') FROM p8.orders; SELECT string_agg(DISTINCT tag, ',') FROM p8.guests; COMMIT;"
	} | sql >"$work/p8.open" 2>&1 &
	readers+=($!)
	sleep 1
	{
		printf 'SELECT max(dataset) AS d FROM guest_context.dataset \\gset\n\\o /dev/null\n\\timing on\n'
		for ((i = 0; i < flips; i += 2)); do
			printf "SELECT guest_context.activate_dataset(:d);\n\\\\echo theirs\nUPDATE bench.tiny SET n = n + 1;\n"
			printf "SELECT guest_context.rollback_dataset('p8.guests');\n\\\\echo theirs\nUPDATE bench.tiny SET n = n + 1;\n"
		done
	} >"$work/flips.sql"
	: >"$work/a" && : >"$work/b"
	sql -f "$work/flips.sql" >"$work/flips.out" 2>"$work/flips.err"
	status=$?
	touch "$work/stop"
	wait "${readers[@]}"
	[ $status -eq 0 ] || { cat "$work/flips.err"; return 1; }
	awk -v a="$work/a" -v b="$work/b" '
		/^theirs/ { other = 1; next }
		/^Time: / { print $2 >(other ? b : a); other = 0 }' "$work/flips.out"
	[ "$(wc -l <"$work/a")" -eq $flips ] || return 1
	book P8 "activate and roll back, $flips flips, 4 readers (beside: one-row UPDATE)" "$work/a" "$work/b" "<= 50 ms"
	reads=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$work"/p8.*.log | awk '{ s += 2 * $1 } END { print s + 0 }')
	errors=$(awk '/^number of failed transactions: / { n += $5 } /aborted/ { n++ } END { print n + 0 }' "$work"/p8.*.log)
	[ "$errors" -eq 0 ] || grep -h -m 5 -iE 'error|aborted|failed' "$work"/p8.*.log | grep -v ': 0 ('
	book_count P8 "errors of readers" "$errors in $reads reads" - "0" "$([ "$errors" -eq 0 ] && [ "$reads" -gt 100 ] && echo pass || echo fail)"
	mixed=$(sql -c "SELECT count(*) FROM bench.mixed")
	[ "$mixed" = 0 ] || sql -c "SELECT what, count(*) FROM bench.mixed GROUP BY 1 LIMIT 5"
	book_count P8 "mixed reads" "$mixed in $reads reads" - "0" "$([ "$mixed" = 0 ] && echo pass || echo fail)"
	saw=$(paste -sd ' ' "$work/p8.open")
	book_count P8 "datasets seen by the open transaction" "$saw" - "A A A" "$([ "$saw" = "A A A" ] && echo pass || echo fail)"
}

# Locks on relations that a point read takes and holds to the end of its transaction.
locks_of() { # relation
	sql <<-EOF
		SET plan_cache_mode = force_generic_plan;
		PREPARE point(text) AS SELECT * FROM $1 WHERE ref = \$1;
		EXECUTE point('o1') \g /dev/null
		BEGIN;
		EXECUTE point('o1') \g /dev/null
		SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation <> 'pg_locks'::regclass;
	EOF
}

# P9: does a point read stay as it is while data and partitions grow?
measure_P9() {
	local mode word name locks
	local names="few many leaves60 leaves200"
	need few 0.1
	need main 1
	need leaves60 0.1 60
	need leaves200 0.1 200
	for name in few leaves60 leaves200; do
		same_points P9 "point read, $name" "$name" "$(rows_of 0.1)" || return 0
		point_script "$name" "$name.orders" "$(rows_of 0.1)"
	done
	point_script many main.orders "$(rows_of 1)"
	for mode in prepared simple; do
		word=$mode
		[ $mode = simple ] && word=unprepared
		bench_mixed $mode $names || return 1
		book P9 "point read, $word, 10x rows (beside: 1x)" "$work/t.many" "$work/t.few" "<= 1.2"
		book P9 "point read, $word, 60 partitions (beside: 8)" "$work/t.leaves60" "$work/t.few" "<= 1.3"
		book P9 "point read, $word, 200 partitions (beside: 8)" "$work/t.leaves200" "$work/t.few" "<= 1.3"
	done
	for name in few leaves60 leaves200; do locks="${locks:-} $(locks_of "$name.orders")"; done
	set -- $locks
	book_count P9 "locks of a point read, 8, 60, 200 partitions (beside: plain table)" "$1, $2, $3" \
		"$(locks_of few.plain_orders)" "no growth" "$([ $# -eq 3 ] && [ "$1" -eq "$3" ] && [ "$2" -eq "$3" ] && echo pass || echo fail)"
}

# P11: a dataset from the truth against CREATE TABLE AS and the same indexes from the
# plain tables, which have been merged already. Orders and guests, one transaction each.
# (build_dataset also analyzes what it made; the other side need not.)
measure_P11() {
	local i d
	need built 0.2
	: >"$work/a" && : >"$work/b"
	for ((i = 0; i <= ROUNDS; i++)); do
		sql >"$work/build.out" <<-'EOF' || return 1
			\timing on
			BEGIN;
			SELECT guest_context.build_dataset('built.guests') AS d \gset
			SELECT guest_context._build_dataset_now(:d) \g /dev/null
			COMMIT;
			\echo dataset :d
		EOF
		sql >"$work/ctas.out" <<-'EOF' || return 1
			\timing on
			BEGIN;
			CREATE TABLE built.copy AS SELECT * FROM built.plain_orders;
			CREATE INDEX ON built.copy (ref, modified_at);
			CREATE INDEX ON built.copy (guest_ref);
			CREATE INDEX ON built.copy (total);
			CREATE INDEX ON built.copy (modified_at) WHERE modified_at >= '2100-01-01';
			CREATE TABLE built.copy_guests AS SELECT * FROM built.plain_guests;
			CREATE INDEX ON built.copy_guests (ref, modified_at);
			CREATE INDEX ON built.copy_guests (modified_at) WHERE modified_at >= '2100-01-01';
			COMMIT;
		EOF
		d=$(sed -n 's/^dataset //p' "$work/build.out")
		if [ "$i" -eq 0 ]; then # the first does not count, but its rows are looked at
			same P11 "rows of the built dataset" "SELECT ref, guest_ref, status, total, modified_at
				FROM built.orders_batch_d$d WHERE NOT gc_deleted" "SELECT * FROM built.copy" || return 0
		else
			awk '/^Time: / { t += $2 } END { print t }' "$work/build.out" >>"$work/a"
			awk '/^Time: / { t += $2 } END { print t }' "$work/ctas.out" >>"$work/b"
		fi
		sql -c "DROP TABLE built.copy, built.copy_guests" -c "SELECT guest_context.drop_dataset($d)" >"$work/drop.out" || return 1
	done
	book P11 "build_dataset against CREATE TABLE AS + indexes" "$work/a" "$work/b" "<= 1.3"
}

# P13: joins of a few keys through the view, top-N over an index.
measure_P13() {
	local rows name
	need main 1
	rows=$(rows_of 1)
	sql <<-EOF || return 1
		DROP TABLE IF EXISTS bench.k10, bench.k1000;
		CREATE TABLE bench.k10 AS SELECT 'o' || 1 + (i::bigint * 1299709 % $rows) AS ref FROM generate_series(1, 10) i;
		CREATE TABLE bench.k1000 AS SELECT 'o' || 1 + (i::bigint * 1299709 % $rows) AS ref FROM generate_series(1, 1000) i;
		VACUUM ANALYZE bench.k10;
		VACUUM ANALYZE bench.k1000;
	EOF
	for name in orders plain_orders; do
		echo "SELECT count(*), sum(o.total) FROM bench.k10 k JOIN main.$name o ON o.ref = k.ref;" >"$work/j10.$name.pgb"
		echo "SELECT count(*), sum(o.total) FROM bench.k1000 k JOIN main.$name o ON o.ref = k.ref;" >"$work/j1000.$name.pgb"
		echo "SELECT * FROM main.$name ORDER BY total LIMIT 10;" >"$work/top.$name.pgb"
	done
	same P13 "join of 1,000 keys" "SELECT o.* FROM bench.k1000 k JOIN main.orders o ON o.ref = k.ref" \
		"SELECT o.* FROM bench.k1000 k JOIN main.plain_orders o ON o.ref = k.ref" || return 0
	same P13 "top 10" "SELECT total FROM main.orders ORDER BY total LIMIT 10" \
		"SELECT total FROM main.plain_orders ORDER BY total LIMIT 10" || return 0
	for mode in prepared simple; do
		[ $mode = simple ] && word=unprepared || word=prepared
		bench_in_turn $mode "$work/j10.orders.pgb" "$work/j10.plain_orders.pgb" || return 1
		book P13 "join of 10 keys, $word" "$work/a" "$work/b" "<= 2.0"
		bench_in_turn $mode "$work/j1000.orders.pgb" "$work/j1000.plain_orders.pgb" || return 1
		book P13 "join of 1,000 keys, $word" "$work/a" "$work/b" "<= 2.0"
		bench_in_turn $mode "$work/top.orders.pgb" "$work/top.plain_orders.pgb" || return 1
		book P13 "ORDER BY … LIMIT 10, $word" "$work/a" "$work/b" "<= 2.0"
	done
}
