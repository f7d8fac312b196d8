-- Reading all of a view of truth (TruthScan): the same as the portable form says, whatever the key,
-- the layout of the leaves, the memory for the window, the number of processes, and where the reading stops.
\set SHOW_CONTEXT never
SET client_min_messages = error;
SET jit = off;
CREATE SCHEMA whole;
SET search_path = whole, public;
CREATE TYPE guest_shape AS (ref text, name text, modified_at timestamptz);
CREATE TYPE order_shape AS (tenant text, id bigint, guest_ref text, total numeric, modified_at timestamptz);
SELECT guest_context.create_entity('guests', 'guest_shape', overlap => '0');
SELECT guest_context.create_entity('orders', 'order_shape', key => '{tenant, id}', parent => 'guests', parent_ref => '{guest_ref}');

-- rows that one form has and the other has not
CREATE FUNCTION differ(entity regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM ((SELECT t::text FROM %1$s t EXCEPT ALL SELECT p::text FROM (%2$s) p)
		UNION ALL (SELECT p::text FROM (%2$s) p EXCEPT ALL SELECT t::text FROM %1$s t)) d',
		entity, guest_context.truth_sql(entity, portable => true)) INTO n;
	RETURN n;
END $$;
CREATE FUNCTION plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || query; END $$;

-- history: keys both short and longer than a cell of the map holds
SELECT guest_context.create_dataset('guests', clock_timestamp() - interval '1 hour') AS d \gset
SELECT guest_context.load_dataset(:d, 'guests', $$
	SELECT CASE WHEN i % 3 = 0 THEN 'guest with a long reference, number ' || i ELSE 'g' || i END AS ref, 'old' AS name,
	       timestamptz '2020-01-01Z' + i * interval '1 hour' AS modified_at FROM generate_series(1, 3000) i $$);
SELECT guest_context.load_dataset(:d, 'orders', $$
	SELECT 't' || i % 2 AS tenant, i AS id, 'g1' AS guest_ref, i AS total, timestamptz '2020-01-01Z' AS modified_at FROM generate_series(1, 3000) i $$);
SELECT guest_context.seal_dataset(:d);
SELECT count(*) FILTER (WHERE NOT ok) AS failed FROM guest_context.verify_dataset(:d);
SELECT guest_context.activate_dataset(:d) IS NULL AS first;
-- the window: newer versions in turn with older ones that the dataset beats, equal ones, deletes, new keys, and some twice
INSERT INTO guests_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, modified_at, ref, name)
SELECT clock_timestamp(), i, 0, 0, 0, i % 10 = 4,
       CASE i % 5 WHEN 0 THEN timestamptz '2019-01-01Z' WHEN 1 THEN timestamptz '2020-01-01Z' + n * interval '1 hour' ELSE timestamptz '2021-01-01Z' + i * interval '1 s' END,
       CASE WHEN n % 3 = 0 THEN 'guest with a long reference, number ' || n ELSE 'g' || n END, 'new'
FROM (SELECT i, 1 + i * 7 % 3300 AS n FROM generate_series(1, 1200) i) r;
INSERT INTO orders_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, modified_at, tenant, id, guest_ref, total)
SELECT clock_timestamp(), i, 0, 0, 0, i % 7 = 0, CASE WHEN i % 4 = 0 THEN timestamptz '2019-01-01Z' ELSE timestamptz '2021-01-01Z' END, 't' || i % 2, 1 + i % 900, 'g2', -i
FROM generate_series(1, 1000) i;
ANALYZE guests_versions;
ANALYZE orders_versions;
SELECT plan_of('SELECT name, count(*) FROM guests WHERE name <> ''x'' GROUP BY 1');
SELECT name, count(*) FROM guests GROUP BY 1 ORDER BY 1;
SELECT count(*), sum(total) FROM orders;
SELECT differ('guests'), differ('orders');

-- no room for a map
SET guest_context.window_memory = '64kB';
SELECT differ('guests'), differ('orders');

-- several processes, with and without
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT differ('guests'), differ('orders');
RESET guest_context.window_memory;
SELECT plan_of('SELECT name, count(*) FROM guests GROUP BY 1');
SELECT differ('guests'), differ('orders');
SELECT name, count(*) FROM guests GROUP BY 1 ORDER BY 1;
SELECT count(*), sum(total) FROM orders;
-- without the leader, and without any worker
SET parallel_leader_participation = off;
SELECT differ('guests'), differ('orders');
RESET parallel_leader_participation;
SET max_parallel_workers = 0;
SELECT differ('guests'), differ('orders');
RESET max_parallel_workers;
-- again and again in one statement: the inner side of a nested loop
SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off;
SELECT i, count(g.name), min(g.ref), max(g.ref) FROM generate_series(1, 3) i LEFT JOIN guests g ON g.name <> 'x' || i GROUP BY 1 ORDER BY 1;
RESET enable_hashjoin; RESET enable_mergejoin; RESET enable_material;
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size;

-- one that stops early and one that goes on, in one statement
SELECT (SELECT count(*) FROM (SELECT FROM guests LIMIT 5) few) AS few, (SELECT count(*) FROM guests) AS "all",
       (SELECT count(*) FROM guests a JOIN guests b ON a.ref = b.ref AND a.name = b.name) AS twice;
SELECT i, (SELECT count(*) FROM (SELECT g.name FROM guests g WHERE g.name <> i::text OFFSET 0 LIMIT i * 1000) part) FROM generate_series(1, 4) i;
BEGIN;
DECLARE part NO SCROLL CURSOR FOR SELECT ref FROM guests;
MOVE 2500 FROM part;
SELECT guest_context.apply('guests', '{"ref": "g1", "name": "newest", "modifiedAt": "2025-01-01T00:00:00Z"}');
MOVE 1000 FROM part;
SELECT count(*) FROM guests WHERE name = 'newest';
ROLLBACK;
-- whole rows, nothing but the number of rows, expressions, and the least and greatest of a column that an index knows
CREATE INDEX ON guests_versions (modified_at);
SELECT count(DISTINCT g::text), count(*) FROM guests g;
SELECT sum(length(ref || coalesce(name, ''))) FROM guests WHERE length(ref) + length(name) > 6;
SELECT min(modified_at) AS least, max(modified_at) AS greatest, count(DISTINCT name) FROM guests;
SELECT min(modified_at) AS least, max(modified_at) AS greatest FROM guests;
-- system columns of the tree, for those who read it themselves
SELECT count(DISTINCT tableoid) > 1 AS leaves, count(ctid) > 1 AS places FROM guests_versions;

-- leaves of another access method than PostgreSQL's own: their places say nothing
CREATE ACCESS METHOD other_heap TYPE TABLE HANDLER heap_tableam_handler;
DO $$ DECLARE leaf regclass; BEGIN
	FOR leaf IN SELECT relid FROM pg_partition_tree('guests_speed') WHERE isleaf LOOP
		EXECUTE format('ALTER TABLE %s SET ACCESS METHOD other_heap', leaf);
	END LOOP; END $$;
SELECT differ('guests');
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT differ('guests');
-- several processes that are stopped early, again and again
CREATE TEMP TABLE truth AS SELECT ref, name FROM guests;
SET enable_material = off;
SELECT plan_of('SELECT FROM generate_series(1, 5) i LEFT JOIN (SELECT ref, name FROM guests LIMIT 2960) part ON true');
SELECT count(*), count(DISTINCT (i, p.ref)), count(t.ref) FROM (SELECT i, ref, name FROM generate_series(1, 5) i LEFT JOIN (SELECT ref, name FROM guests LIMIT 2960) part ON true OFFSET 0) p
	LEFT JOIN truth t ON t.ref = p.ref AND t.name = p.name;
DO $$ DECLARE leaf regclass; BEGIN
	FOR leaf IN SELECT relid FROM pg_partition_tree('guests_speed') WHERE isleaf LOOP
		EXECUTE format('ALTER TABLE %s SET ACCESS METHOD heap', leaf);
	END LOOP; END $$;
SELECT count(*), count(DISTINCT (i, p.ref)), count(t.ref) FROM (SELECT i, ref, name FROM generate_series(1, 5) i LEFT JOIN (SELECT ref, name FROM guests LIMIT 2960) part ON true OFFSET 0) p
	LEFT JOIN truth t ON t.ref = p.ref AND t.name = p.name;
DROP ACCESS METHOD other_heap;
RESET enable_material;
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size;

-- leaves whose columns stand in other places than in the tree
ALTER TABLE guests_versions ADD COLUMN scratch int;
ALTER TABLE guests_versions DROP COLUMN scratch;
CREATE TYPE guest_shape_2 AS (ref text, name text, modified_at timestamptz, email text);
SELECT guest_context.alter_entity('guests', shape => 'guest_shape_2');
SELECT guest_context.apply('guests', '{"ref": "g2", "name": "mail", "email": "g2@example.org", "modifiedAt": "2025-01-01T00:00:00Z"}');
SELECT guest_context.create_dataset('guests', clock_timestamp() - interval '30 minutes') AS d \gset
SELECT guest_context.load_dataset(:d, 'guests', 'SELECT ref, name, modified_at, ref || ''@example.org'' AS email FROM guests');
SELECT guest_context.load_dataset(:d, 'orders', 'SELECT * FROM orders');
SELECT guest_context.seal_dataset(:d);
SELECT count(*) FILTER (WHERE NOT ok) AS failed FROM guest_context.verify_dataset(:d);
SELECT guest_context.activate_dataset(:d) IS NULL AS first;
SELECT count(*), count(email), count(name) FROM guests;
SELECT count(DISTINCT g::text) FROM guests g;
SELECT differ('guests'), differ('orders');

-- row security of the reader
CREATE ROLE regress_whole_reader;
SELECT guest_context.grant_reader('guests', 'regress_whole_reader');
SELECT guest_context.grant_reader('orders', 'regress_whole_reader');
GRANT USAGE ON SCHEMA whole TO regress_whole_reader;
GRANT SELECT ON orders_versions TO regress_whole_reader;
ALTER VIEW orders SET (security_invoker = true);
ALTER TABLE orders_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON orders_versions USING (tenant = 't1');
SET ROLE regress_whole_reader;
SELECT plan_of('SELECT sum(total) FROM orders WHERE total > 0');
SELECT tenant, count(*), sum(total) FROM orders GROUP BY 1;
RESET ROLE;
DROP OWNED BY regress_whole_reader;
DROP ROLE regress_whole_reader;

SELECT guest_context.drop_entity('orders');
SELECT guest_context.drop_entity('guests');
DROP SCHEMA whole CASCADE;
