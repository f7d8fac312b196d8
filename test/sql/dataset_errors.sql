-- What datasets refuse: the SQLSTATE, the facts and the next call.
\set VERBOSITY default
SET client_min_messages = warning;
SET timezone = 'UTC';
ALTER SEQUENCE guest_context._dataset_id_seq RESTART 5001;
CREATE ROLE dataset_owner LOGIN;
CREATE ROLE dataset_stranger LOGIN;
CREATE SCHEMA de AUTHORIZATION dataset_owner;
GRANT USAGE ON SCHEMA de TO dataset_stranger;
CREATE FUNCTION de.outcome(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text)
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

SET ROLE dataset_owner;
CREATE TABLE de.guest_shape (ref text, name text CHECK (name <> 'bad'), modified_at timestamptz);
CREATE TYPE de.order_shape AS (ref text, guest_ref text, modified_at timestamptz);
SELECT guest_context.create_entity('de.guests', 'de.guest_shape', overlap => '0');
SELECT guest_context.create_entity('de.orders', 'de.order_shape', parent => 'de.guests', parent_ref => '{guest_ref}');
SELECT guest_context.create_entity('de.others', 'de.order_shape', overlap => '0');
CREATE TABLE de.plain (ref text);

\pset format unaligned
\pset fieldsep '\n  '
\pset tuples_only on
-- creating (G6: as_of)
SELECT * FROM de.outcome($$SELECT guest_context.create_dataset(NULL, now())$$);
SELECT * FROM de.outcome($$SELECT guest_context.create_dataset('de.guests', NULL)$$);
SELECT * FROM de.outcome($$SELECT guest_context.create_dataset('de.guests', now() + interval '1 hour')$$);
SELECT * FROM de.outcome($$SELECT guest_context.create_dataset('de.guests', '-infinity')$$);
SELECT * FROM de.outcome($$SELECT guest_context.create_dataset('de.orders', now())$$);
SELECT * FROM de.outcome($$SELECT guest_context.create_dataset('de.plain', now())$$);
SELECT guest_context.create_dataset('de.guests', now() - interval '1 day') AS d \gset

-- which dataset, which entity
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(99)$$);
SELECT * FROM de.outcome($$SELECT guest_context.activate_dataset(99999999999)$$);
SELECT * FROM de.outcome($$SELECT guest_context.dataset_table(5001, 'de.others')$$);
SELECT * FROM de.outcome($$SELECT guest_context.dataset_table(5001, 'de.plain')$$);
SELECT * FROM de.outcome($$SELECT guest_context.rollback_dataset('de.orders')$$);
SELECT * FROM de.outcome($$SELECT guest_context.build_dataset('de.orders')$$);

-- whose
SET ROLE dataset_stranger;
SELECT * FROM de.outcome($$SELECT guest_context.create_dataset('de.guests', now())$$);
SELECT * FROM de.outcome($$SELECT guest_context.dataset_table(5001, 'de.guests')$$);
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001)$$);
SELECT * FROM de.outcome($$SELECT guest_context.activate_dataset(5001)$$);
SELECT * FROM de.outcome($$SELECT guest_context.rollback_dataset('de.guests')$$);
SELECT * FROM de.outcome($$SELECT guest_context.drop_dataset(5001)$$);
SELECT * FROM de.outcome($$SELECT guest_context.build_dataset('de.guests')$$);
SELECT count(*) AS seen FROM guest_context.dataset;
SET ROLE dataset_owner;

-- loading
SELECT * FROM de.outcome($$SELECT guest_context.load_dataset(5001, 'de.guests', 'SELECT 1 AS ref, now() AS modified_at')$$);
SELECT * FROM de.outcome($$SELECT guest_context.load_dataset(5001, 'de.guests', 'de.nowhere')$$);
SELECT * FROM de.outcome($$SELECT guest_context.load_dataset(5001, 'de.guests', 'DELETE FROM de.plain')$$);
SELECT * FROM de.outcome($$SELECT guest_context.load_dataset(5001, 'de.guests', 'SELECT 1; SELECT 2')$$);
SELECT * FROM de.outcome($$SELECT guest_context.load_dataset(5001, 'de.guests', 'SELECT ''x'' AS ref, ''y'' AS name, ''soon'' AS modified_at')$$);
SELECT * FROM de.outcome($$SELECT guest_context.load_dataset(5001, 'de.guests', '')$$);

-- sealing: constraints of the shape, key, version; what fails leaves the dataset loading
INSERT INTO de.guests_batch_d5001_staging VALUES (NULL, 'x', '2020-01-01');
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001)$$);
UPDATE de.guests_batch_d5001_staging SET ref = 'g1', modified_at = NULL;
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001)$$);
UPDATE de.guests_batch_d5001_staging SET modified_at = 'infinity';
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001)$$);
UPDATE de.guests_batch_d5001_staging SET modified_at = '2020-01-01', name = 'bad';
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001)$$);
-- ... but a tombstone has a key and a version and nothing else
UPDATE de.guests_batch_d5001_staging SET gc_deleted = true;
INSERT INTO de.guests_batch_d5001_staging VALUES ('g2', 'two', '2020-01-01');
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001, '{"de.guests": 1, "de.other": 2}')$$);
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001, '{"de.guests": 1, "de.others": 2}')$$);
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001, '{"de.guests": "1"}')$$);
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001, '{"de.guests": 1.5}')$$);
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001, '[1]')$$);
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001, '{"de.guests": 2, "de.orders": 0}')$$);
-- an empty entity must be expected, once somebody counts
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001, '{"de.guests": 1}')$$);
SELECT dataset, state FROM guest_context.dataset;
SELECT guest_context.seal_dataset(5001, '{"de.guests": 1, "de.orders": 0}');
SELECT name IS NULL AS nothing_else FROM de.guests_versions WHERE gc_deleted;

-- G1, G2: each verb in the wrong state
SELECT * FROM de.outcome($$SELECT guest_context.load_dataset(5001, 'de.guests', 'de.plain')$$);
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5001)$$);
SELECT check_name FROM guest_context.verify_dataset(5001) WHERE NOT ok;
SELECT guest_context.activate_dataset(5001);
SELECT * FROM de.outcome($$SELECT guest_context.activate_dataset(5001)$$);
SELECT * FROM de.outcome($$SELECT * FROM guest_context.verify_dataset(5001)$$);
SELECT * FROM de.outcome($$SELECT * FROM guest_context.diff_dataset(5001)$$);
SELECT * FROM de.outcome($$SELECT guest_context.drop_dataset(5001)$$);
SELECT guest_context.create_dataset('de.guests', now() - interval '1 hour') AS d2 \gset
SELECT * FROM de.outcome($$SELECT guest_context._build_dataset_now(5002)$$);
-- ... or the active dataset has rows of it
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5002)$$);
SELECT guest_context.drop_dataset(5002);
SELECT * FROM de.outcome($$SELECT guest_context.load_dataset(5002, 'de.guests', 'de.plain')$$);
SELECT to_regclass('de.guests_batch_d5002_staging') IS NULL AS staging_gone;

-- a verdict against another active dataset is none
SELECT guest_context.create_dataset('de.guests', now() - interval '1 hour') AS d3 \gset
SELECT guest_context.seal_dataset(:d3, '{"de.guests": 0, "de.orders": 0}');
SELECT count(*) FROM guest_context.verify_dataset(:d3);
SELECT guest_context.create_dataset('de.guests', now() - interval '30 minutes') AS d4 \gset
SELECT guest_context.seal_dataset(:d4, '{"de.guests": 0, "de.orders": 0}');
SELECT count(*) FROM guest_context.verify_dataset(:d4);
SELECT guest_context.activate_dataset(:d4);
SELECT * FROM de.outcome($$SELECT guest_context.activate_dataset(5003)$$);

-- checks that fail: versions from a clock that is ahead, orphans
SELECT guest_context.create_dataset('de.guests', now() - interval '10 minutes') AS d5 \gset
SELECT guest_context.load_dataset(:d5, 'de.guests', $$SELECT 'g1' AS ref, 'a' AS name, now() + interval '1 year' AS modified_at$$);
SELECT guest_context.load_dataset(:d5, 'de.orders', $$SELECT 'o1' AS ref, 'nobody' AS guest_ref, now() - interval '1 day' AS modified_at$$);
SELECT guest_context.seal_dataset(:d5);
SELECT entity, check_name, value, expected FROM guest_context.verify_dataset(:d5) WHERE NOT ok;
SELECT * FROM de.outcome($$SELECT guest_context.activate_dataset(5005)$$);

-- a window that has not begun: what leaves it may still arrive
SELECT guest_context.create_dataset('de.guests', now() + interval '4 minutes') AS d6 \gset
SELECT guest_context.seal_dataset(:d6, '{"de.guests": 0, "de.orders": 0}');
SELECT * FROM de.outcome($$SELECT * FROM guest_context.verify_dataset(5006)$$);

-- decisions rest on the latest commits
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM de.outcome($$SELECT guest_context.seal_dataset(5006)$$);
SELECT * FROM de.outcome($$SELECT * FROM guest_context.verify_dataset(5006)$$);
SELECT * FROM de.outcome($$SELECT guest_context.activate_dataset(5005)$$);
SELECT * FROM de.outcome($$SELECT guest_context.rollback_dataset('de.guests')$$);
COMMIT;

\pset format aligned
\pset tuples_only off
RESET ROLE;
SELECT guest_context.drop_entity('de.orders'), guest_context.drop_entity('de.guests'), guest_context.drop_entity('de.others');
DROP SCHEMA de CASCADE;
DROP ROLE dataset_owner;
DROP ROLE dataset_stranger;
