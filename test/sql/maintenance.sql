-- Maintenance: what it does, what it refuses, what its views show.
\set VERBOSITY default
SET client_min_messages = warning;
SET timezone = 'UTC';
-- numbers of datasets show in messages
ALTER SEQUENCE guest_context._dataset_id_seq RESTART 6001;
CREATE ROLE maint_owner LOGIN;
CREATE ROLE maint_reader;
CREATE SCHEMA maint AUTHORIZATION maint_owner;
GRANT USAGE ON SCHEMA maint TO maint_reader;
-- a partition of `days` days ago, with one record
CREATE FUNCTION maint.old_leaf(entity text, days int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE leaf text := format('%s_speed_old%s', entity, days);
	day timestamptz := date_trunc('day', now(), 'UTC') - days * interval '1 day';
BEGIN
	EXECUTE format('CREATE TABLE %s (LIKE %s_speed INCLUDING ALL)', leaf, entity);
	EXECUTE format('ALTER TABLE %s_speed ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', entity, leaf, day, day + interval '1 day');
	EXECUTE format('INSERT INTO %s (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, ref, modified_at)
		VALUES (%L, %s, 0, 0, 0, false, %L, %L)', leaf, day, -days, 'old' || days, day);
END $$;
CREATE FUNCTION maint.outcome(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	message := 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	detail := regexp_replace(detail, '\d{4}-\d\d-\d\d \d\d:\d\d:[0-9.]+\+00', '<time>', 'g');
	hint := regexp_replace(hint, '\d{4}-\d\d-\d\d \d\d:\d\d:[0-9.]+\+00', '<time>', 'g');
END $$;
-- what a cycle did; numbers of datasets and processes do not show
CREATE FUNCTION maint.run() RETURNS TABLE (entity regclass, action text, detail text) LANGUAGE sql AS $$
	SELECT entity, action, regexp_replace(regexp_replace(detail, 'dataset \d+', 'dataset <n>'), 'process \d+', 'process <pid>')
	FROM guest_context.run_maintenance() WHERE entity::text LIKE 'maint.%'
$$;
SET ROLE maint_owner;
CREATE TYPE maint.shape AS (ref text, modified_at timestamptz);
SELECT guest_context.create_entity('maint.guests', 'maint.shape', overlap => '1 hour', retention => '2 days');
SELECT guest_context.create_entity('maint.orders', 'maint.shape', parent => 'maint.guests', parent_ref => '{ref}', retention => '4 days');
SELECT maint.old_leaf(e, d) FROM unnest(array['maint.guests', 'maint.orders']) e, generate_series(2, 6) d;

-- leaves ahead: those that are missing are made
SELECT relid FROM pg_partition_tree('maint.guests_speed') WHERE isleaf ORDER BY relid::text DESC LIMIT 1 \gset
DROP TABLE :relid;
SELECT * FROM maint.run();
SELECT to_regclass(:'relid') IS NOT NULL AS made_again;
SELECT * FROM maint.run();

-- without a dataset nothing is dropped; with one, what is older than window and retention
SELECT count(*) FROM maint.guests;
-- (not by build_dataset, which wakes a worker that might come before ours)
SELECT guest_context.create_dataset('maint.guests', now()) AS d1 \gset
SELECT guest_context.load_dataset(:d1, 'maint.guests', 'TABLE maint.guests'),
	guest_context.load_dataset(:d1, 'maint.orders', 'TABLE maint.orders');
SELECT guest_context.seal_dataset(:d1);
SELECT count(*) FROM guest_context.verify_dataset(:d1) WHERE NOT ok;
SELECT guest_context.activate_dataset(:d1);
SELECT * FROM maint.run();
SELECT entity, dataset = :d1 AS active, dropped_before = date_trunc('day', now()) - CASE entity WHEN 'maint.guests'::regclass THEN 2 ELSE 4 END * interval '1 day' AS dropped
FROM guest_context.entity WHERE root = 'maint.guests'::regclass ORDER BY 1;
SELECT count(*) FROM maint.guests;
RESET ROLE;
SELECT count(*) FROM guest_context._leaving JOIN guest_context._entity USING (entity_id) WHERE view::text LIKE 'maint.%';
SET ROLE maint_owner;

-- D10, G5: a dataset that would need what was dropped is refused
SELECT * FROM maint.outcome($$SELECT guest_context.create_dataset('maint.guests', now() - interval '10 days')$$) \gx

-- a loading dataset holds what its window needs
SELECT guest_context.alter_entity('maint.orders', retention => '1 minute');
SELECT guest_context.create_dataset('maint.guests', date_trunc('day', now()) - interval '1 day 22 hours') AS d2 \gset
SELECT * FROM maint.run();
SELECT guest_context.drop_dataset(:d2);
SELECT * FROM maint.run();

-- an order is built when its transaction commits; another one for rebuild_every
SELECT guest_context.build_dataset('maint.guests', activate => true) AS d3 \gset
SELECT count(*) >= 0 AS waited FROM guest_context.run_maintenance();
SELECT state FROM guest_context.dataset WHERE dataset = :d3;
SELECT guest_context.alter_entity('maint.guests', rebuild_every => '1 hour');
SELECT * FROM maint.run();
RESET ROLE;
UPDATE guest_context._dataset SET as_of = as_of - interval '2 hours' WHERE dataset_id IN (:d1, :d3);
SET ROLE maint_owner;
SELECT * FROM maint.run();
SELECT * FROM maint.run();
SELECT count(*) AS active, min(created_by) AS created_by FROM guest_context.dataset WHERE root = 'maint.guests'::regclass AND active AND built AND dataset > :d3;

-- a build that fails: the reason is shown, and it is not ordered twice
ALTER TABLE maint.orders_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE maint.orders_versions FORCE ROW LEVEL SECURITY;
RESET ROLE;
UPDATE guest_context._dataset SET as_of = as_of - interval '2 hours' WHERE root_id = (SELECT entity_id FROM guest_context._entity WHERE view = 'maint.guests'::regclass);
SET ROLE maint_owner;
SELECT * FROM maint.run();
SELECT * FROM maint.run();
SELECT regexp_replace(message, '\d+', '<n>') AS message FROM guest_context.entity WHERE entity = 'maint.guests'::regclass;
SELECT state, message FROM guest_context.dataset WHERE root = 'maint.guests'::regclass ORDER BY dataset DESC LIMIT 1;
ALTER TABLE maint.orders_versions NO FORCE ROW LEVEL SECURITY;
ALTER TABLE maint.orders_versions DISABLE ROW LEVEL SECURITY;
SELECT action, detail FROM maint.run();
SELECT message FROM guest_context.entity WHERE entity = 'maint.guests'::regclass;
SELECT state, message FROM guest_context.dataset WHERE root = 'maint.guests'::regclass ORDER BY dataset DESC LIMIT 1;
SELECT guest_context.alter_entity('maint.guests', reset => '{rebuild_every}');

-- leaves of dropped datasets go
SELECT count(*) FROM maint.run() WHERE action = 'dataset' \g /dev/null
SELECT guest_context.drop_dataset(dataset) FROM guest_context.dataset WHERE root = 'maint.guests'::regclass AND state IN ('sealed', 'retired') \g /dev/null
SELECT count(*) >= 0 AS waited FROM guest_context.run_maintenance();
SELECT count(*) FROM pg_partition_tree('maint.guests_batch') WHERE isleaf;
RESET ROLE;
SELECT count(*) AS left FROM guest_context._dataset_entity m JOIN guest_context._dataset d USING (dataset_id) WHERE d.state = 'dropped' AND m.leaf IS NOT NULL;

SET ROLE maint_owner;

-- statistics of the tree, when its leaves have grown
SELECT count(guest_context.apply('maint.orders', json_build_object('ref', i, 'modified_at', '2020-01-01T00:00:00Z'))) FROM generate_series(1, 2000) i;
ANALYZE maint.orders_speed;
SELECT * FROM maint.run();
SELECT reltuples > 1999 AS analyzed FROM pg_class WHERE oid = 'maint.orders_versions'::regclass;
SELECT * FROM maint.run();

-- transactions
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM maint.outcome('SELECT guest_context.run_maintenance()') \gx
COMMIT;
SET client_min_messages = notice;
BEGIN;
CREATE TABLE maint.unrelated ();
SELECT * FROM maint.run();
ROLLBACK;
SET client_min_messages = warning;
-- a lock in the caller's own transaction is reported, not waited for
BEGIN;
LOCK TABLE maint.guests_speed IN ACCESS EXCLUSIVE MODE;
SELECT * FROM maint.run();
COMMIT;
SELECT count(*) FROM guest_context.entity WHERE message IS NOT NULL;
SELECT * FROM maint.run();
SELECT count(*) FROM guest_context.entity WHERE message IS NOT NULL;

-- who sees what
RESET ROLE;
SELECT guest_context.grant_reader('maint.orders', 'maint_reader');
SET ROLE maint_reader;
SELECT entity, parent, root, owner, key, retention, overlap FROM guest_context.entity WHERE entity::text LIKE 'maint.%';
SELECT count(*) FROM guest_context.audit;
SELECT count(*) FROM guest_context.pg_stat_progress_guest_context;
SELECT * FROM guest_context.run_maintenance();
SELECT * FROM maint.outcome('SELECT FROM guest_context._maintenance');
SELECT * FROM maint.outcome('SELECT FROM guest_context._leaving');
RESET ROLE;
SET ROLE maint_owner;
SELECT DISTINCT role FROM guest_context.audit;
RESET ROLE;
GRANT pg_monitor TO maint_reader;
SET ROLE maint_reader;
SELECT entity FROM guest_context.entity WHERE entity::text LIKE 'maint.%' ORDER BY 1;
SELECT count(*) > 0 AS all_audit FROM guest_context.audit;
RESET ROLE;

-- progress: a query that looks at the view while it is being loaded
SELECT guest_context.create_dataset('maint.guests', now()) AS d9 \gset
SELECT guest_context.load_dataset(:d9, 'maint.guests', $$SELECT p.command || ' ' || p.entity AS ref, now() AS modified_at
	FROM guest_context.pg_stat_progress_guest_context p WHERE p.pid = pg_backend_pid()$$);
SELECT guest_context.dataset_table(:d9, 'maint.guests') AS staging \gset
SELECT ref FROM :staging;
SELECT count(*) FROM guest_context.pg_stat_progress_guest_context;

SELECT guest_context.drop_entity('maint.orders'), guest_context.drop_entity('maint.guests');
-- notes and lists of what is gone go too
SELECT count(*) FROM guest_context._maintenance;
DROP SCHEMA maint CASCADE;
DROP ROLE maint_owner, maint_reader;
