-- The life of a dataset: loaded, sealed, verified, activated, rolled back, dropped.
\set VERBOSITY default
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO';
-- numbers of datasets show in messages and names
ALTER SEQUENCE guest_context._dataset_id_seq RESTART 4001;
CREATE ROLE dataset_owner LOGIN;
CREATE SCHEMA ds AUTHORIZATION dataset_owner;
-- runs a statement and says how it ended, without the times
CREATE FUNCTION ds.outcome(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	message := 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	message := regexp_replace(message, '\d{4}-\d\d-\d\d \d\d:\d\d:[0-9.]+\+00', '<time>', 'g');
	detail := regexp_replace(detail, '\d{4}-\d\d-\d\d \d\d:\d\d:[0-9.]+\+00', '<time>', 'g');
	hint := regexp_replace(hint, '\d{4}-\d\d-\d\d \d\d:\d\d:[0-9.]+\+00', '<time>', 'g');
END $$;
-- 0 when the view says the same as the oracle in plain SQL
CREATE FUNCTION ds.differences(entity regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM ((TABLE %1$s EXCEPT ALL (%2$s)) UNION ALL ((%2$s) EXCEPT ALL TABLE %1$s)) d',
		entity, guest_context.truth_sql(entity, true)) INTO n;
	RETURN n;
END $$;

SET ROLE dataset_owner;
CREATE TYPE ds.guest_shape AS (ref text, name text, modified_at timestamptz);
CREATE TABLE ds.order_shape (ref text, guest_ref text NOT NULL, total numeric(10,2) CHECK (total >= 0),
	tags text[], modified_at timestamptz);
SELECT guest_context.create_entity('ds.guests', 'ds.guest_shape', overlap => '0');
SELECT guest_context.create_entity('ds.orders', 'ds.order_shape', parent => 'ds.guests', parent_ref => '{guest_ref}');

-- loading: staging tables of exactly the shape's columns
SELECT guest_context.create_dataset('ds.guests', now() - interval '1 day') AS d1 \gset
\d ds.orders_batch_d4001_staging
SELECT guest_context.dataset_table(:d1, 'ds.guests') AS staging \gset
COPY :staging (ref, name, modified_at) FROM STDIN;
g1	Ann	2020-01-01 10:00+00
g1	Anna	2020-01-02 10:00+00
g2	Bob	2020-01-01 10:00+00
\.
INSERT INTO :staging VALUES ('g3', 'gone', '2020-01-03 10:00+00', true);
SELECT guest_context.load_dataset(:d1, 'ds.orders',
	$$SELECT timestamptz '2020-01-01 10:00+00' + i * interval '1 s' AS modified_at, 'o' || i AS ref, i AS number,
		'g' || (i % 2 + 1) AS guest_ref, i AS total, array['a', i::text] AS tags FROM generate_series(1, 5000) i$$);

-- G2: neither loading nor merely sealed can be activated, nor sealed with a wrong count
SELECT * FROM ds.outcome('SELECT guest_context.activate_dataset(4001)') \gx
SELECT * FROM ds.outcome($$SELECT guest_context.seal_dataset(4001, '{"ds.orders": 4999, "ds.guests": 2}')$$) \gx
SELECT state FROM guest_context.dataset WHERE dataset = :d1;
SELECT guest_context.seal_dataset(:d1, '{"ds.orders": 5000, "ds.guests": 2}');
SELECT * FROM ds.outcome('SELECT guest_context.activate_dataset(4001)') \gx
SELECT state, active, rows, tombstones, superseded, built FROM guest_context.dataset WHERE dataset = :d1;

-- the leaf: attached, indexed like the tree, analyzed, frozen and all visible; staging is gone
-- (every page that holds rows: from 16 on, a bulk insert leaves empty pages behind them)
SELECT relname, relallvisible = (SELECT count(DISTINCT split_part(ctid::text, ',', 1)) FROM ds.orders_batch_d4001) AS all_visible,
	reltuples FROM pg_class
WHERE relname IN ('ds.orders_batch_d4001', 'orders_batch_d4001', 'orders_batch_d4001_staging') ORDER BY 1;
SELECT conname FROM pg_constraint WHERE conrelid = 'ds.orders_batch_d4001'::regclass AND contype = 'c' ORDER BY 1;
SELECT regexp_replace(pg_get_indexdef(indexrelid), '''.*''', '''<time>''') FROM pg_index
WHERE indrelid = 'ds.orders_batch_d4001'::regclass ORDER BY 1;
SELECT pg_get_userbyid(relowner) AS owner, relpersistence FROM pg_class WHERE oid = 'ds.orders_batch_d4001'::regclass;
SELECT attname, inherited FROM pg_stats WHERE schemaname = 'ds' AND tablename = 'orders_versions' AND attname = 'ref';
SELECT gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, ref, name FROM ds.guests_versions ORDER BY ref;

SELECT * FROM guest_context.diff_dataset(:d1);
SELECT entity, check_name, ok, value, expected FROM guest_context.verify_dataset(:d1) WHERE check_name <> 'coverage';
SELECT count(*) FROM ds.guests;
SELECT guest_context.activate_dataset(:d1, 0);
TABLE ds.guests ORDER BY ref;
SELECT count(*), sum(total) FROM ds.orders;
SELECT ds.differences('ds.guests'), ds.differences('ds.orders');

-- E11: a prepared statement goes on across activation and rollback
PREPARE p AS SELECT count(*), sum(total) FROM ds.orders;
SET plan_cache_mode = force_generic_plan;
EXECUTE p;

-- records on top: a newer version, a tombstone, a new guest, a version that the dataset has too
SELECT guest_context.apply('ds.guests', '[{"ref": "g1", "name": "Annie", "modified_at": "2020-02-01T10:00:00Z"},
	{"ref": "g4", "name": "Dan", "modified_at": "2020-02-01T10:00:00Z"},
	{"ref": "g5", "name": "Eve", "modified_at": "2020-02-01T10:00:00Z"}]');
SELECT guest_context.apply('ds.guests', '{"ref": "g2", "modified_at": "2020-02-01T10:00:00Z"}', deleted => true);
TABLE ds.guests ORDER BY ref;

-- The next dataset begins after those records. It has g4 as they left it, of g1 an old version,
-- g5 not at all, and g2 alive: three keys would go back.
SELECT guest_context.create_dataset('ds.guests', clock_timestamp()) AS d2 \gset
SELECT guest_context.load_dataset(:d2, 'ds.guests',
	$$SELECT * FROM (VALUES ('g1', 'Anna', timestamptz '2020-01-02 10:00+00'), ('g2', 'Bob', '2020-01-01 10:00+00'),
		('g4', 'Daniel', '2020-02-01 10:00+00'), ('g6', 'Fay', '2020-02-01 10:00+00')) v (ref, name, modified_at)$$);
SELECT guest_context.load_dataset(:d2, 'ds.orders', 'SELECT * FROM ds.orders WHERE total <= 4900');
SELECT guest_context.seal_dataset(:d2);
SELECT entity, check_name, ok, value, expected FROM guest_context.verify_dataset(:d2) WHERE check_name IN ('regressions', 'rows');
SELECT * FROM guest_context.diff_dataset(:d2);
SELECT * FROM ds.outcome('SELECT guest_context.activate_dataset(4002)') \gx
-- G3: expected_active tells a loser
SELECT * FROM ds.outcome('SELECT guest_context.activate_dataset(4002, 17, true)') \gx
SELECT guest_context.activate_dataset(:d2, :d1, true);
TABLE ds.guests ORDER BY ref;
EXECUTE p;
SELECT ds.differences('ds.guests'), ds.differences('ds.orders');

-- rollback widens the window again: nothing is lost; before the first there is nothing
SELECT guest_context.rollback_dataset('ds.guests');
TABLE ds.guests ORDER BY ref;
EXECUTE p;
SELECT * FROM ds.outcome($$SELECT guest_context.rollback_dataset('ds.guests')$$) \gx

-- A dataset that has what the records said, tombstone or absence alike, takes nothing back.
SELECT guest_context.create_dataset('ds.guests', clock_timestamp()) AS d3 \gset
SELECT guest_context.load_dataset(:d3, 'ds.guests', 'TABLE ds.guests');
SELECT guest_context.load_dataset(:d3, 'ds.orders', 'ds.orders');
SELECT guest_context.seal_dataset(:d3, '{"ds.guests": 3, "ds.orders": 5000}');
SELECT count(*) FILTER (WHERE NOT ok) AS failed FROM guest_context.verify_dataset(:d3);
SELECT * FROM guest_context.diff_dataset(:d3);
SELECT guest_context.activate_dataset(:d3);
-- A tombstone leaves the window; that is no regression while its key stays deleted. But a record
-- that arrives late, older than the tombstone, would come to light.
SELECT guest_context.apply('ds.guests', '{"ref": "g7", "modified_at": "2020-03-01T10:00:00Z"}', deleted => true);
SELECT guest_context.create_dataset('ds.guests', clock_timestamp()) AS d4 \gset
SELECT guest_context.load_dataset(:d4, 'ds.guests', 'TABLE ds.guests');
SELECT guest_context.load_dataset(:d4, 'ds.orders', 'TABLE ds.orders');
SELECT guest_context.seal_dataset(:d4);
SELECT value FROM guest_context.verify_dataset(:d4) WHERE check_name = 'regressions' AND entity = 'ds.guests'::regclass;
SELECT guest_context.apply('ds.guests', '{"ref": "g7", "name": "Zombie", "modified_at": "2020-02-01T10:00:00Z"}');
SELECT value FROM guest_context.verify_dataset(:d4) WHERE check_name = 'regressions' AND entity = 'ds.guests'::regclass;
SELECT guest_context.drop_dataset(:d4);

-- G6: going back in time needs force
SELECT * FROM guest_context.verify_dataset(:d1) WHERE NOT ok;
SELECT * FROM ds.outcome('SELECT guest_context.activate_dataset(4001)') \gx
SELECT guest_context.activate_dataset(:d1, force => true);
TABLE ds.guests ORDER BY ref;
-- ... and what was active before keeps its order: there is none older than this
SELECT * FROM ds.outcome($$SELECT guest_context.rollback_dataset('ds.guests')$$);
-- the verdict of before was against this very one
SELECT guest_context.activate_dataset(:d3);
SELECT guest_context.rollback_dataset('ds.guests');
SELECT guest_context.rollback_dataset('ds.guests');
SELECT dataset, state FROM guest_context.dataset WHERE root = 'ds.guests'::regclass ORDER BY 1;

-- D10, G5: nothing forces a window that begins before what is left of the records
SELECT count(*) FILTER (WHERE NOT ok) AS failed FROM guest_context.verify_dataset(:d3);
SELECT guest_context.activate_dataset(:d3);
RESET ROLE;
BEGIN;
UPDATE guest_context._window SET dropped_before = (SELECT as_of FROM guest_context._dataset WHERE dataset_id = 4002) + interval '1 us'
WHERE versions = 'ds.orders_versions'::regclass;
SELECT * FROM ds.outcome($$SELECT guest_context.rollback_dataset('ds.guests', force => true)$$) \gx
SELECT * FROM ds.outcome($$SELECT guest_context.create_dataset('ds.guests', now() - interval '2 days')$$) \gx
SELECT check_name, ok FROM guest_context.verify_dataset(4002) WHERE check_name = 'coverage';
ROLLBACK;
SET ROLE dataset_owner;

-- a dataset of the truth itself: where rows came from is kept, so are young tombstones
SELECT guest_context.apply('ds.guests', format('{"ref": "g8", "modified_at": "%s"}', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))::json, deleted => true);
-- in one transaction, since from its commit on the order is a worker's
BEGIN;
SELECT guest_context.build_dataset('ds.guests', activate => true) AS d5 \gset
SELECT * FROM ds.outcome($$SELECT guest_context.build_dataset('ds.guests')$$) \gx
SELECT * FROM ds.outcome('SELECT guest_context.seal_dataset(' || :d5 || ')') \gx
CREATE TEMP TABLE before AS TABLE ds.guests;
SELECT guest_context._build_dataset_now(:d5);
COMMIT;
SELECT ref, gc_deleted, gc_source, gc_offset > 0 AS numbered FROM ds.guests_versions WHERE gc_dataset = :d5 ORDER BY ref;
SELECT count(*) AS differences FROM ((TABLE before EXCEPT TABLE ds.guests) UNION ALL (TABLE ds.guests EXCEPT TABLE before)) d;
SELECT ds.differences('ds.guests'), ds.differences('ds.orders');
SELECT state, active, rows, built FROM guest_context.dataset WHERE dataset = :d5;

-- setting keep_datasets: what is older than two retired ones goes
SELECT dataset, state FROM guest_context.dataset WHERE root = 'ds.guests'::regclass ORDER BY 1;
-- the floor is the lowest window start of those that are left
SELECT bool_and(w.floor = (SELECT min(window_start) FROM guest_context.dataset
                           WHERE root = 'ds.guests'::regclass AND state <> 'dropped')) AS floor_is_lowest
FROM guest_context._window w WHERE w.versions IN ('ds.guests_versions'::regclass, 'ds.orders_versions'::regclass);

-- D1, D11: what seal keeps depends on the rows alone, not on their order or on settings
CREATE TABLE ds.rows AS SELECT 'g' || i % 50 AS ref, md5(i::text) AS name,
	timestamptz '2020-01-01 10:00+00' + i % 3 * interval '1 s' AS modified_at, i % 7 = 0 AS gc_deleted
FROM generate_series(1, 2000) i;
CREATE FUNCTION ds.sealed(source text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE d bigint; result text;
BEGIN
	d := guest_context.create_dataset('ds.guests', clock_timestamp());
	PERFORM guest_context.load_dataset(d, 'ds.guests', source);
	PERFORM guest_context.seal_dataset(d, '{"ds.orders": 0, "ds.guests": 42}');
	EXECUTE format('SELECT md5(string_agg(v, '','' ORDER BY v)) FROM (SELECT concat_ws(''|'', ref, name, extract(epoch FROM modified_at), gc_deleted) AS v
		FROM ds.guests_versions WHERE gc_dataset = %s) x', d) INTO result;
	PERFORM guest_context.drop_dataset(d);
	RETURN result;
END $$;
SELECT ds.sealed('TABLE ds.rows') AS ascending \gset
SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'; SET enable_sort = off; SET enable_incremental_sort = off;
SELECT ds.sealed('SELECT * FROM ds.rows ORDER BY md5(name || ref)') = :'ascending' AS same;
SET datestyle = 'ISO'; SET timezone = 'UTC'; RESET enable_sort; RESET enable_incremental_sort;
SELECT ds.sealed('SELECT * FROM ds.rows ORDER BY name DESC') = :'ascending' AS same;

-- all of it in one transaction
BEGIN;
SELECT guest_context.create_dataset('ds.guests', clock_timestamp()) AS d9 \gset
SELECT guest_context.load_dataset(:d9, 'ds.guests', 'TABLE ds.guests') > 0 AS loaded;
SELECT guest_context.load_dataset(:d9, 'ds.orders', 'TABLE ds.orders') > 0 AS loaded;
SELECT guest_context.seal_dataset(:d9) > 0 AS sealed;
SELECT count(*) FILTER (WHERE NOT ok) AS failed FROM guest_context.verify_dataset(:d9);
SELECT guest_context.activate_dataset(:d9);
SELECT count(*) FROM ds.orders;
ROLLBACK;
SELECT count(*) FROM ds.orders;
SELECT to_regclass('ds.orders_batch_d' || :d9) AS leaf;

-- columns that the shape got after the dataset was created are NULL in it
SELECT guest_context.create_dataset('ds.guests', clock_timestamp()) AS d10 \gset
ALTER TYPE ds.guest_shape ADD ATTRIBUTE city text;
SELECT guest_context.alter_entity('ds.guests', shape => 'ds.guest_shape');
SELECT guest_context.load_dataset(:d10, 'ds.guests', 'SELECT ref, name, modified_at FROM ds.guests');
SELECT guest_context.seal_dataset(:d10, '{"ds.orders": 0, "ds.guests": 3}');
SELECT ref, city FROM ds.guests_versions WHERE gc_dataset = :d10 ORDER BY ref;

-- an entity that the active dataset does not span has its whole speed table as window
CREATE TYPE ds.visit_shape AS (ref text, guest_ref text, modified_at timestamptz);
SELECT guest_context.create_entity('ds.visits', 'ds.visit_shape', parent => 'ds.guests', parent_ref => '{guest_ref}');
SELECT guest_context.apply('ds.visits', '{"ref": "v1", "guest_ref": "g1", "modified_at": "2020-02-01T10:00:00Z"}');
SELECT * FROM ds.outcome('SELECT guest_context.dataset_table(' || :d10 || $$, 'ds.visits')$$) \gx
SELECT check_name FROM guest_context.verify_dataset(:d10) WHERE NOT ok;
SELECT guest_context.activate_dataset(:d10, force => true);
SELECT ref FROM ds.visits;
SELECT versions, dataset_id, window_start = '-infinity' AS whole, floor = '-infinity' AS no_floor
FROM guest_context._window WHERE versions::text LIKE 'ds.%' ORDER BY 1;

-- X14: on the way into a staging table the owner's code runs as the owner, the source as the caller
CREATE TABLE ds.seen (who text);
SELECT guest_context.create_dataset('ds.guests', clock_timestamp()) AS d11 \gset
CREATE FUNCTION ds.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO ds.seen VALUES ('trigger ' || current_user); RETURN NEW; END $$;
SELECT guest_context.dataset_table(:d11, 'ds.guests') AS staging \gset
CREATE TRIGGER note BEFORE INSERT ON :staging FOR EACH ROW EXECUTE FUNCTION ds.note();
RESET ROLE;
SELECT guest_context.load_dataset(:d11, 'ds.guests', $$SELECT 'g1' AS ref, current_user AS name, NULL AS city, now() AS modified_at$$);
SELECT name FROM :staging;
TABLE ds.seen;
SELECT guest_context.seal_dataset(:d11, '{"ds.guests": 1, "ds.orders": 0, "ds.visits": 0}');
SELECT DISTINCT pg_get_userbyid(relowner) AS owner FROM pg_class WHERE relname LIKE 'guests_batch_d%';
-- X22: a policy that would hide versions stops a build instead of making a hole
SET ROLE dataset_owner;
ALTER TABLE ds.guests_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE ds.guests_versions FORCE ROW LEVEL SECURITY;
BEGIN;
SELECT guest_context.build_dataset('ds.guests') AS d12 \gset
SELECT * FROM ds.outcome('SELECT guest_context._build_dataset_now(' || :d12 || ')') \gx
ALTER TABLE ds.guests_versions DISABLE ROW LEVEL SECURITY;
SELECT guest_context.drop_dataset(:d12);
COMMIT;
-- X23, X25: the pointer moves through verbs only, and each move is on record
SET ROLE dataset_owner;
SELECT * FROM ds.outcome('UPDATE guest_context._window SET dataset_id = 4001');
RESET ROLE;
SELECT role, verb, object, detail FROM guest_context._audit WHERE object LIKE 'dataset 4%' ORDER BY audit_id;

DEALLOCATE p;
DROP TABLE before;
RESET plan_cache_mode;
SELECT guest_context.drop_entity('ds.visits'), guest_context.drop_entity('ds.orders'), guest_context.drop_entity('ds.guests');
DROP SCHEMA ds CASCADE;
DROP ROLE dataset_owner;
