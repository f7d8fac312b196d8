-- The data of the benchmarks: trees of guests and orders, and beside each the one
-- plain table that a user would have if all records had been merged by hand.
--
--   bench.make(name, rows, leaves)
--
-- makes schema `name` with a batch of `rows` orders, a window of 5 % of that, and
-- speed leaves of one hour: three of the past, the current one and those that are
-- made ahead, which all count, and older ones before the window up to `leaves`.
-- The plain table comes from plain SQL over the same versions, nothing of ours.
-- Called outside of a transaction block: it commits between its steps.

CREATE SCHEMA bench;

-- the newest version of each key in the window or in the dataset, in plain SQL
CREATE FUNCTION bench.newest(name text, columns text, key_order text DEFAULT 'ref') RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	w record;
BEGIN
	SELECT * INTO STRICT w FROM guest_context._window
	WHERE versions = format('%I.orders_versions', name)::regclass;
	RETURN format('SELECT %s FROM (SELECT DISTINCT ON (ref) * FROM %I.orders_versions'
		' WHERE gc_arrived_at >= %L AND gc_dataset IN (0, %s)'
		' ORDER BY %s, modified_at DESC, gc_source DESC, gc_partition DESC, gc_offset DESC,'
		' gc_arrived_at DESC) newest WHERE NOT gc_deleted',
		columns, name, w.window_start, w.dataset_id, key_order);
END $$;

-- a batch row: versions spread over a year before as_of
CREATE FUNCTION bench.batch(rows bigint, as_of timestamptz) RETURNS text
LANGUAGE sql AS $$
	SELECT format('SELECT ''o'' || i AS ref, ''g'' || i %% %s AS guest_ref,'
		' (ARRAY[''OPEN'', ''PAID'', ''PURCHASED'', ''SHIPPED'', ''RETURNED''])[1 + i %% 5] AS status,'
		' (i * 7919 %% 1000003)::numeric / 100 AS total,'
		' %L::timestamptz - interval ''1 s'' * (i * 48271 %% 31536000) AS modified_at'
		' FROM generate_series(1::bigint, %s) i', greatest(rows / 20, 1), as_of, rows)
$$;

-- where the oldest speed leaf of orders begins
CREATE FUNCTION bench.first_leaf(name text) RETURNS timestamptz
LANGUAGE sql AS $$
	SELECT min((regexp_match(pg_get_expr(c.relpartbound, c.oid), '''([^'']+)'''))[1]::timestamptz)
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
	WHERE i.inhparent = format('%I.orders_speed', name)::regclass
$$;

CREATE PROCEDURE bench.make(name text, rows bigint, leaves int DEFAULT 8)
LANGUAGE plpgsql AS $$
DECLARE
	hour timestamptz;
	lower timestamptz;
	at timestamptz;
	as_of timestamptz;
	start timestamptz;
	dataset bigint;
	n int;
BEGIN
	EXECUTE format('CREATE SCHEMA %I', name);
	EXECUTE format('CREATE TYPE %I.guest_shape AS (ref text, first_name text, modified_at timestamptz)', name);
	EXECUTE format('CREATE TYPE %I.order_shape AS (ref text, guest_ref text, status text, total numeric,'
		' modified_at timestamptz)', name);
	PERFORM guest_context.create_entity(name || '.guests', (name || '.guest_shape')::regclass,
		partition_interval => '1 hour', overlap => '1 hour', retention => '30 days');
	PERFORM guest_context.create_entity(name || '.orders', (name || '.order_shape')::regclass,
		parent => (name || '.guests')::regclass, parent_ref => '{guest_ref}',
		partition_interval => '1 hour');
	EXECUTE format('CREATE INDEX ON %I.orders_versions (total)', name);
	COMMIT;

	-- leaves of the past
	hour := bench.first_leaf(name);
	SELECT count(*) INTO n FROM pg_inherits WHERE inhparent = format('%I.orders_speed', name)::regclass;
	FOR i IN 1 .. leaves - n LOOP
		lower := hour - interval '1 hour' * i;
		EXECUTE format('CREATE TABLE %I.orders_speed_p%s (LIKE %1$I.orders_speed INCLUDING ALL)',
			name, to_char(lower, 'YYYYMMDD_HH24MI'));
		EXECUTE format('ALTER TABLE %I.orders_speed ATTACH PARTITION %1$I.orders_speed_p%s'
			' FOR VALUES FROM (%L) TO (%L)', name, to_char(lower, 'YYYYMMDD_HH24MI'),
			lower, lower + interval '1 hour');
	END LOOP;
	COMMIT;

	-- the window begins seven minutes into the third leaf of the past
	start := hour - interval '3 hours' + interval '7 minutes';
	as_of := start + interval '1 hour';
	dataset := guest_context.create_dataset((name || '.guests')::regclass, as_of);
	PERFORM guest_context.load_dataset(dataset, (name || '.guests')::regclass,
		format('SELECT ''g'' || i AS ref, ''first '' || i AS first_name,'
			' %L::timestamptz - interval ''1 s'' * (i * 48271 %% 31536000) AS modified_at'
			' FROM generate_series(0::bigint, %s) i', as_of, greatest(rows / 20, 1) - 1));
	PERFORM guest_context.load_dataset(dataset, (name || '.orders')::regclass, bench.batch(rows, as_of));
	COMMIT;
	PERFORM guest_context.seal_dataset(dataset);
	COMMIT;
	PERFORM guest_context.verify_dataset(dataset);
	PERFORM guest_context.activate_dataset(dataset);
	COMMIT;

	-- The window: 85 % newer versions, 5 % new keys, 5 % tombstones, 5 % late
	-- records that history has overtaken; one key in ten has two versions.
	at := clock_timestamp();
	EXECUTE format($q$
		INSERT INTO %1$I.orders_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition,
			gc_deleted, modified_at, ref, guest_ref, status, total)
		SELECT arrived, j, 0, 0, 0, kind = 18,
			CASE WHEN kind = 19 THEN %2$L::timestamptz - interval '400 days'
				ELSE arrived - interval '1 ms' * (j %% 5000) END,
			CASE WHEN kind = 17 THEN 'n' || j ELSE 'o' || (j %% (%4$s * 9 / 10) * 104729 %% %5$s + 1) END,
			CASE WHEN kind <> 18 THEN 'g' || j %% greatest(%5$s / 20, 1) END,
			CASE WHEN kind <> 18 THEN 'CHANGED' END,
			CASE WHEN kind <> 18 THEN (j * 7907 %% 1000003)::numeric / 100 END
		FROM (SELECT j, j %% 20 AS kind, %2$L::timestamptz + (%3$L::timestamptz - %2$L::timestamptz)
				* (j::float8 / %4$s) AS arrived
			FROM generate_series(1::bigint, %4$s) j) r$q$,
		name, start, at, greatest(rows / 20, 20), rows);
	-- before it: what history has long had
	EXECUTE format($q$
		INSERT INTO %1$I.orders_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition,
			gc_deleted, modified_at, ref, guest_ref, status, total)
		SELECT arrived, -j, 0, 0, 0, false, %2$L::timestamptz - interval '500 days',
			'o' || (j * 104729 %% %3$s + 1), 'g' || j %% greatest(%3$s / 20, 1), 'PAST', (j * 7907 %% 1000003)::numeric / 100
		FROM (SELECT j, %2$L::timestamptz - interval '1 s' - (%2$L::timestamptz - %4$L::timestamptz - interval '1 s')
				* (j / 500 / greatest(%5$s - 7, 1)::float8) AS arrived
			FROM generate_series(0::bigint, 500 * greatest(%5$s - 7, 1) - 1) j) r$q$,
		name, start, rows, coalesce(lower, hour), leaves);
	COMMIT;

	-- what happens by itself every minute where the library is preloaded
	PERFORM count(*) FROM guest_context.run_maintenance();
	COMMIT;

	-- the other side
	EXECUTE format('CREATE TABLE %I.plain_orders AS %s', name,
		bench.newest(name, 'ref, guest_ref, status, total, modified_at'));
	EXECUTE format('ALTER TABLE %I.plain_orders ADD PRIMARY KEY (ref)', name);
	EXECUTE format('CREATE INDEX ON %I.plain_orders (guest_ref)', name);
	EXECUTE format('CREATE INDEX ON %I.plain_orders (total)', name);
	EXECUTE format('CREATE TABLE %I.plain_guests AS SELECT * FROM %1$I.guests ORDER BY ref', name);
	EXECUTE format('ALTER TABLE %I.plain_guests ADD PRIMARY KEY (ref)', name);
	COMMIT;
END $$;
