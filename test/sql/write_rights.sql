-- Who may write what: records by apply alone, rows of a sealed dataset nobody.
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE ROLE regress_rights_owner LOGIN;
CREATE ROLE regress_rights_writer LOGIN;
CREATE SCHEMA rights AUTHORIZATION regress_rights_owner;
ALTER SEQUENCE guest_context._dataset_id_seq RESTART 7001;
SET SESSION AUTHORIZATION regress_rights_owner;
SET search_path = rights;
CREATE TYPE shape AS (ref text, name text, modified_at timestamptz);
SELECT guest_context.create_entity('things', 'shape');
SELECT guest_context.create_dataset('things', now() - interval '1 hour') AS d \gset
SELECT guest_context.load_dataset(:d, 'things', $$SELECT 't' || i AS ref, 'n' || i AS name, timestamptz '2026-01-01' AS modified_at FROM generate_series(1, 2) i$$);
SELECT guest_context.seal_dataset(:d);
SELECT count(*) FROM guest_context.verify_dataset(:d);
SELECT guest_context.activate_dataset(:d);

-- a second row of a key in a leaf would show twice: no way into it, not for the owner either
INSERT INTO things_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, ref, name, modified_at)
	VALUES ('infinity', 0, 7001, -1, 0, false, 't1', 'second', '2026-02-01');
INSERT INTO things_batch_d7001 (gc_deleted, ref, name, modified_at) VALUES (false, 't1', 'second', '2026-02-01');
COPY things_batch_d7001 (gc_deleted, ref, name, modified_at) FROM stdin;
f	t1	second	2026-02-01
\.
UPDATE things_versions SET name = 'changed' WHERE ref = 't1';
DELETE FROM things_versions WHERE ref = 't1';
TRUNCATE things_batch_d7001;
TRUNCATE things_versions;
SELECT ref, name FROM things ORDER BY ref;
-- the speed table is his to mend: rows that he takes away are gone
SELECT guest_context.apply('things', '{"ref": "t3", "name": "three", "modified_at": "2026-01-01T00:00:00Z"}');
DELETE FROM things_versions WHERE ref = 't3';
SELECT ref, name FROM things ORDER BY ref;

-- a writer needs the schema and INSERT on the view, which lets him apply and nothing else
GRANT USAGE ON SCHEMA rights TO regress_rights_writer;
SET SESSION AUTHORIZATION regress_rights_writer;
SET search_path = rights;
SELECT guest_context.apply('things', '{"ref": "t4", "name": "four", "modified_at": "2026-01-01T00:00:00Z"}');
SET SESSION AUTHORIZATION regress_rights_owner;
GRANT INSERT ON things TO regress_rights_writer;
SET SESSION AUTHORIZATION regress_rights_writer;
SELECT guest_context.apply('things', '{"ref": "t4", "name": "four", "modified_at": "2026-01-01T00:00:00Z"}');
INSERT INTO things (ref, name, modified_at) VALUES ('t5', 'five', '2999-01-01');
INSERT INTO things_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, ref, name, modified_at)
	VALUES (now(), 0, 0, 0, 0, false, 't5', 'five', '2999-01-01');
SELECT * FROM things;
-- INSERT on the tree is more, and so it is enough
SET SESSION AUTHORIZATION regress_rights_owner;
REVOKE INSERT ON things FROM regress_rights_writer;
GRANT INSERT ON things_versions TO regress_rights_writer;
SET SESSION AUTHORIZATION regress_rights_writer;
SELECT guest_context.apply('things', '{"ref": "t4", "name": "vier", "modified_at": "2026-01-02T00:00:00Z"}');
SET SESSION AUTHORIZATION regress_rights_owner;
SELECT ref, name FROM things WHERE ref > 't2';

-- readers: a role, or everybody
SELECT guest_context.grant_reader('things', 'nobody_of_that_name');
SELECT guest_context.grant_reader('things', 'public');
SET SESSION AUTHORIZATION regress_rights_writer;
SELECT count(*) FROM things;
SET SESSION AUTHORIZATION regress_rights_owner;

-- what was built is as immutable as what was loaded, and both can be dropped
BEGIN;
SELECT guest_context.build_dataset('things') AS built \gset
SELECT guest_context._build_dataset_now(:built);
COMMIT;
DELETE FROM things_batch_d7002;
SELECT guest_context.drop_dataset(7002);

-- another owner: of one piece is not enough, of all of it is
RESET SESSION AUTHORIZATION;
GRANT CREATE ON SCHEMA rights TO regress_rights_writer;
ALTER VIEW rights.things OWNER TO regress_rights_writer;
SET SESSION AUTHORIZATION regress_rights_writer;
SELECT count(*) FROM things;
RESET SESSION AUTHORIZATION;
-- the leaf that was dropped goes first: REASSIGN OWNED fails when one goes under its hands
SELECT count(*) >= 0 AS maintained FROM guest_context.run_maintenance();
REASSIGN OWNED BY regress_rights_owner TO regress_rights_writer;
SET SESSION AUTHORIZATION regress_rights_writer;
SELECT guest_context.apply('things', '{"ref": "t6", "name": "six", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT count(*) FROM things;
SELECT owner FROM guest_context.entity WHERE entity = 'things'::regclass;
BEGIN;
SELECT guest_context.build_dataset('things', activate => true) AS built \gset
SELECT guest_context._build_dataset_now(:built);
COMMIT;
SELECT dataset, state FROM guest_context.dataset WHERE root = 'things'::regclass ORDER BY 1;
SELECT count(*) FROM things;
SELECT guest_context.drop_entity('things');
RESET SESSION AUTHORIZATION;
DROP SCHEMA rights CASCADE;
DROP ROLE regress_rights_owner, regress_rights_writer;
