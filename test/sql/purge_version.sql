-- D3: purge_version: a version that should never have been goes, from the speed table and from datasets, and
-- stays away whoever brings it again.
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE ROLE regress_purge_owner LOGIN;
CREATE ROLE regress_purge_other LOGIN;
CREATE SCHEMA purge AUTHORIZATION regress_purge_owner;
GRANT USAGE ON SCHEMA purge TO regress_purge_other;
ALTER SEQUENCE guest_context._dataset_id_seq RESTART 7101;
SET guest_context.max_future_skew = '20000d';
SET SESSION AUTHORIZATION regress_purge_owner;
SET search_path = purge;
CREATE TYPE shape AS (ref text, name text, modified_at timestamptz);
SELECT guest_context.create_entity('things', 'shape');
-- what the view says, and whether plain SQL says the same
CREATE FUNCTION truth(entity regclass, OUT truth text, OUT as_oracle boolean) LANGUAGE plpgsql AS $$
DECLARE oracle text;
BEGIN
	EXECUTE format('SELECT string_agg(t::text, '' '' ORDER BY t::text) FROM %s t', entity) INTO truth;
	EXECUTE format('SELECT string_agg(t::text, '' '' ORDER BY t::text) FROM (%s) t', guest_context.truth_sql(entity, portable => true)) INTO oracle;
	as_oracle := truth IS NOT DISTINCT FROM oracle;
END$$;

-- a clock that is ahead: no honest record could replace it for forty years
SELECT guest_context.apply('things', '[{"ref": "a", "name": "right", "modified_at": "2024-01-01T00:00:00Z"},
	{"ref": "a", "name": "ahead", "modified_at": "2066-01-01T00:00:00Z"},
	{"ref": "b", "name": "other key", "modified_at": "2066-01-01T00:00:00Z"}]');
SELECT guest_context.apply('things', '{"ref": "a", "name": "ahead again", "modified_at": "2066-01-01T00:00:00Z"}');
SELECT * FROM truth('things');
SELECT guest_context.purge_version('things', 'a', '2066-01-01 00:00:00+00', 'a clock was ahead');
SELECT * FROM truth('things');
SELECT entity, key, version, role, reason FROM guest_context.purged_version;
SELECT role, verb, object, reason, detail FROM guest_context.audit WHERE verb = 'purge_version';

-- it does not come back, and is not counted; its neighbours are written
SELECT guest_context.apply('things', '{"ref": "a", "name": "ahead", "modified_at": "2066-01-01T00:00:00Z"}');
SELECT guest_context.apply('things', '[{"ref": "a", "name": "ahead", "modified_at": "2066-01-01T01:00:00+01:00"},
	{"ref": "a", "name": "newer", "modified_at": "2024-02-01T00:00:00Z"},
	{"ref": "c", "name": "of that time", "modified_at": "2066-01-01T00:00:00Z"}]');
SELECT * FROM truth('things');
SELECT count(*) FROM things_versions WHERE name LIKE 'ahead%';
-- in a transaction whose snapshot is older too
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM things;
SELECT guest_context.apply('things', '{"ref": "a", "name": "ahead", "modified_at": "2066-01-01T00:00:00Z"}');
COMMIT;
-- again: nothing is there any more
SELECT guest_context.purge_version('things', 'a', '2066-01-01 00:00:00+00');
-- one that has not come yet
SELECT guest_context.purge_version('things', 'd', '2066-01-01 00:00:00+00');
SELECT guest_context.apply('things', '{"ref": "d", "name": "ahead", "modified_at": "2066-01-01T00:00:00Z"}');

-- a tombstone: what it had deleted is there again
SELECT guest_context.apply('things', '{"ref": "b", "modified_at": "2067-01-01T00:00:00Z"}', deleted => true);
SELECT * FROM truth('things');
SELECT guest_context.purge_version('things', 'b', '2067-01-01 00:00:00+00', 'deleted by mistake');
SELECT * FROM truth('things');

-- a snapshot does not bring it back
SELECT guest_context.create_dataset('things', now()) AS d \gset
SELECT guest_context.load_dataset(:d, 'things', $$SELECT * FROM (VALUES ('a', 'ahead', '2066-01-01Z'::timestamptz), ('a', 'loaded', '2024-01-15Z'),
	('b', 'wrong', '2068-01-01Z'), ('d', 'ahead', '2066-01-01Z'), ('e', 'loaded', '2024-01-15Z'), ('g', 'newest', '2067-01-01Z')) v (ref, name, modified_at) $$);
SELECT guest_context.seal_dataset(:d);
SELECT rows, superseded FROM guest_context.dataset WHERE dataset = :d;
SELECT check_name, value FROM guest_context.verify_dataset(:d) WHERE NOT ok ORDER BY 1;
SELECT guest_context.activate_dataset(:d, force => true);
-- and what a dataset has of it already goes too: the verdict counts no more, nor does what the catalogue said
SELECT guest_context.purge_version('things', 'b', '2068-01-01 00:00:00+00', 'in the snapshot');
SELECT dataset, rows, verified_at IS NULL AS to_verify FROM guest_context.dataset WHERE dataset = :d;
RESET SESSION AUTHORIZATION;
SELECT max_version, recent_rows FROM guest_context._dataset_entity WHERE dataset_id = :d;
SET SESSION AUTHORIZATION regress_purge_owner;
SELECT guest_context.purge_version('things', 'g', '2067-01-01 00:00:00+00');
RESET SESSION AUTHORIZATION;
SELECT max_version, recent_rows FROM guest_context._dataset_entity WHERE dataset_id = :d;
SET SESSION AUTHORIZATION regress_purge_owner;
SET search_path = purge;
SELECT * FROM truth('things');
-- the leaf refuses everybody else as before
DELETE FROM things_versions WHERE gc_dataset <> 0;

-- a built one has what is left
SELECT guest_context._build_dataset_now(guest_context.build_dataset('things'));
SELECT guest_context.purge_version('things', 'c', '2066-01-01 00:00:00+00', 'in the speed table and in a dataset that is not active');
SELECT check_name, value FROM guest_context.verify_dataset(7102) WHERE NOT ok ORDER BY 1;
SELECT guest_context.activate_dataset(7102, force => true);
SELECT * FROM truth('things');

-- keys of several columns, and of types that write equal keys in several ways
CREATE TYPE pair_shape AS (tenant varchar(10), ref uuid, name text, modified_at timestamptz);
SELECT guest_context.create_entity('pairs', 'pair_shape', key => '{tenant,ref}');
SELECT guest_context.apply('pairs', '[{"tenant": "a, b", "ref": "5bb9ae2a-5a2b-4c59-a8a7-5cdd6bd3ae0d", "name": "wrong", "modified_at": "2066-01-01T00:00:00Z"},
	{"tenant": "a", "ref": "5bb9ae2a-5a2b-4c59-a8a7-5cdd6bd3ae0d", "name": "right", "modified_at": "2066-01-01T00:00:00Z"}]');
SELECT guest_context.purge_version('pairs', ROW('a, b', '5BB9AE2A-5A2B-4C59-A8A7-5CDD6BD3AE0D')::text, '2066-01-01Z');
SELECT guest_context.apply('pairs', '{"tenant": "a, b", "ref": "5BB9AE2A5A2B4C59A8A75CDD6BD3AE0D", "name": "wrong", "modified_at": "2066-01-01T00:00:00Z"}');
SELECT * FROM truth('pairs');
SELECT key FROM guest_context.purged_version WHERE entity = 'pairs'::regclass;
SELECT guest_context.purge_version('pairs', 'a', '2066-01-01Z');
SELECT guest_context.purge_version('pairs', '(a,)', '2066-01-01Z');
SELECT guest_context.purge_version('pairs', '(a,b)', '2066-01-01Z');
CREATE TYPE code_shape AS (ref char(3), n numeric, modified_at timestamptz);
SELECT guest_context.create_entity('codes', 'code_shape', key => '{ref,n}');
SELECT guest_context.apply('codes', '[{"ref": "ab", "n": 1.0, "modified_at": "2066-01-01T00:00:00Z"}, {"ref": "abc", "n": 1, "modified_at": "2066-01-01T00:00:00Z"}]');
SELECT guest_context.purge_version('codes', '("ab ",1)', '2066-01-01Z');
SELECT guest_context.apply('codes', '[{"ref": "ab ", "n": 1.00, "modified_at": "2066-01-01T00:00:00Z"}]');
SELECT * FROM truth('codes');

-- refused
SELECT guest_context.purge_version('things', NULL, '2066-01-01Z');
SELECT guest_context.purge_version('things', 'a', NULL);
SELECT guest_context.purge_version('things', 'a', 'infinity');
SELECT guest_context.purge_version('guest_context.audit', 'a', '2066-01-01Z');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT guest_context.purge_version('things', 'a', '2066-01-01Z');
ROLLBACK;
BEGIN READ ONLY;
SELECT guest_context.purge_version('things', 'a', '2066-01-01Z');
ROLLBACK;
GRANT SELECT, INSERT ON things TO regress_purge_other;
SET SESSION AUTHORIZATION regress_purge_other;
SELECT guest_context.purge_version('purge.things', 'a', '2024-01-15Z');
SELECT count(*) FROM guest_context.purged_version;
-- who may apply does not bring it back either
SELECT guest_context.apply('purge.things', '{"ref": "a", "name": "ahead", "modified_at": "2066-01-01T00:00:00Z"}');

-- what is undone was not
SET SESSION AUTHORIZATION regress_purge_owner;
BEGIN;
SELECT guest_context.apply('things', '{"ref": "f", "name": "ahead", "modified_at": "2066-01-01T00:00:00Z"}');
SELECT guest_context.purge_version('things', 'f', '2066-01-01Z');
ROLLBACK;
SELECT guest_context.apply('things', '{"ref": "f", "name": "not ahead", "modified_at": "2066-01-01T00:00:00Z"}');
-- and it goes with the entity
SELECT guest_context.drop_entity('codes');
SELECT guest_context.drop_entity('pairs');
SELECT guest_context.drop_entity('things');
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM guest_context._purged;
DROP SCHEMA purge CASCADE;
DROP ROLE regress_purge_owner, regress_purge_other;
