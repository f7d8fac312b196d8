-- Reading by key: conditions that the planner rewrites, and direct calls of what
-- the views of truth are made of.
\set VERBOSITY terse
SET client_min_messages = error;
CREATE SCHEMA read_keys;
SET search_path = read_keys;

CREATE TYPE thing_shape AS (id bigint, name text, extra json, modified_at timestamptz);
SELECT guest_context.create_entity('read_keys.things', 'thing_shape', key => '{id}');
SELECT guest_context.apply('things',
	'[{"id":5,"name":"five","modified_at":"2026-01-01T00:00:00Z"},{"id":6,"name":"six","modified_at":"2026-01-01T00:00:00Z"}]');
SET client_min_messages = notice;
CREATE TABLE others (id int, seen text);
INSERT INTO others VALUES (5), (6);

-- Equal constants of several types: which one the planner compares with is its affair.
SELECT id, name FROM things WHERE id = 5::int4 AND id = 5::int8;
SELECT id, name FROM things WHERE id = 5::int8 AND id = 5::int4;
SELECT id, name FROM things WHERE id = 5::int4 AND id = 6::int8;
SELECT t.id, name FROM things t JOIN others o ON o.id = t.id AND o.id = 5 WHERE t.id = 5::int8;
SET plan_cache_mode = force_generic_plan;
PREPARE both_types(bigint) AS SELECT id, name FROM things WHERE id = $1 AND id = 5;
EXECUTE both_types(5);
EXECUTE both_types(6);
EXECUTE both_types(NULL);
RESET plan_cache_mode;

-- Beside the target of an UPDATE.
UPDATE others o SET seen = t.name FROM things t WHERE t.id = 5::int8 AND t.id = o.id RETURNING o.*;

-- One key after the other, over records that were undone: what the index notes of those is kept for the next key.
CREATE FUNCTION json_of(first int, last int, name text) RETURNS json LANGUAGE sql AS $$
	SELECT json_agg(json_build_object('id', i, 'name', name, 'modified_at', '2026-02-01T00:00:00Z')) FROM generate_series(first, last) i $$;
SELECT guest_context.apply('things', json_of(1000, 1999, 'right')) IS NOT NULL AS applied;
BEGIN;
SELECT guest_context.apply('things', json_of(1, 2500, 'undone')) IS NOT NULL AS applied;
SELECT guest_context.apply('things', json_of(1, 2500, 'undone again')) IS NOT NULL AS applied;
ROLLBACK;
SELECT count(*), count(name), min(name), max(name), count(DISTINCT name) FROM generate_series(1000, 3000) i,
	LATERAL (SELECT t.name FROM things t WHERE t.id = i OFFSET 0) t;
SELECT count(*), count(name), min(name), max(name), count(DISTINCT name) FROM generate_series(1000, 3000) i,
	LATERAL (SELECT t.name FROM things t WHERE t.id = i OFFSET 0) t;

-- Called directly, with what is no key.
\set position 'v.gc_dataset, v.gc_arrived_at, v.modified_at, v.gc_source, v.gc_partition, v.gc_offset, v.ctid'
\set plan 'guest_context._plan(''things_versions''::regclass)'
SELECT count(*) FROM things_versions v WHERE guest_context._is_current(:plan, :position, v.id);
SELECT count(*) FROM things_versions v WHERE guest_context._is_current(:plan, :position, v.extra);
SELECT count(*) FROM things_versions v WHERE guest_context._is_current(:plan, :position, v.*);
SELECT count(*) FROM things_versions v WHERE guest_context._is_current(:plan, :position, v.tableoid);
SELECT count(*) FROM things_versions v WHERE guest_context._is_current(:plan, v.tableoid::int4,
	v.gc_arrived_at, v.modified_at, v.gc_source, v.gc_partition, v.gc_offset, v.ctid, v.id);
SELECT count(*) FROM things_versions v
	WHERE guest_context._is_current(:plan, :position, v.id) AND guest_context._is_current(:plan, :position, v.name);

-- A tree that is changed itself is read leaf by leaf, and so is a sample of it.
BEGIN;
UPDATE things_versions v SET name = name || '!' WHERE guest_context._is_current(:plan, :position, v.id);
DELETE FROM things_versions v WHERE guest_context._is_current(:plan, :position, v.id) AND v.id = 5;
SELECT count(*) AS sampled FROM things_versions v TABLESAMPLE BERNOULLI (0) WHERE guest_context._is_current(:plan, :position, v.id);
ROLLBACK;
SELECT guest_context._refuse_write();
SET client_min_messages = warning;
DROP SCHEMA read_keys CASCADE;
