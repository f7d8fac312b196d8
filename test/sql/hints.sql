-- Hints are calls that run as they stand, also for names that need quoting.
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE ROLE regress_hints_owner LOGIN;
CREATE SCHEMA "The Shop" AUTHORIZATION regress_hints_owner;
GRANT CREATE ON SCHEMA "The Shop" TO regress_hints_owner;
ALTER SEQUENCE guest_context._dataset_id_seq RESTART 10001;
SET SESSION AUTHORIZATION regress_hints_owner;
-- runs a statement that fails, shows what it said, and runs its hint from the command on
CREATE FUNCTION "The Shop".try(statement text, OUT message text, OUT detail text, OUT hint text, OUT hint_runs text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	message := 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	hint := regexp_replace(hint, '''\d{4}-\d\d-\d\d \d\d:\d\d:[0-9.]+\+00''', 'now()', 'g');
	IF hint !~ '(?:SELECT|ALTER|GRANT) .*;$' THEN
		RETURN;
	END IF;
	BEGIN
		EXECUTE substring(hint FROM '(?:SELECT|ALTER|GRANT) .*;$');
		hint_runs := 'it runs';
	EXCEPTION WHEN OTHERS THEN
		hint_runs := SQLERRM;
	END;
END $$;
SET search_path = "The Shop";
\x
-- names: an entity of capitals and blanks, and what says how to write it
CREATE TYPE shape AS (ref text, "Last Name" text, modified_at timestamptz);
CREATE TYPE child_shape AS ("Id" text, guest_ref text, "When" timestamptz);
SELECT * FROM try($$SELECT guest_context.create_entity('My Guests', 'shape')$$);
SELECT guest_context.create_entity('"Kid''s"', 'shape');
SELECT guest_context.create_entity('"Kid''s Orders"', 'child_shape', key => '{Id}', version => 'When', parent => '"Kid''s"', parent_ref => '{guest_ref}');
SELECT * FROM try($$SELECT guest_context.create_entity('"Kid''s"', 'shape')$$);
CREATE TABLE half_versions ();
SELECT * FROM try($$SELECT guest_context.create_entity('half', 'shape')$$);
SELECT * FROM try($$SELECT guest_context.drop_entity('half_versions')$$);

-- options of the root, given to a child; set and reset at once
SELECT * FROM try($$SELECT guest_context.alter_entity('"Kid''s Orders"', overlap => '13 hours', rebuild_every => '1 day')$$);
SELECT overlap, rebuild_every FROM guest_context.entity WHERE entity = '"Kid''s"'::regclass;
SELECT guest_context.alter_entity('"Kid''s"', reset => '{rebuild_every}');
SELECT * FROM try($$SELECT guest_context.alter_entity('"Kid''s"', overlap => '13 hours', reset => '{overlap}')$$);

-- a child for its root
SELECT * FROM try($$SELECT guest_context.create_dataset('"Kid''s Orders"', now() - interval '1 hour')$$);
SELECT guest_context.drop_dataset(10001);
SELECT * FROM try($$SELECT guest_context.rollback_dataset('"Kid''s Orders"')$$);

-- counts: too few, too many, forgotten
SELECT guest_context.create_dataset('"Kid''s"', now() - interval '1 hour');
INSERT INTO "Kid's_batch_d10002_staging" VALUES ('1', 'One', now() - interval '1 day'), ('2', 'Two', now() - interval '1 day');
SELECT * FROM try($$SELECT guest_context.seal_dataset(10002, '{"\"Kid''s\"": 3}')$$);
SELECT * FROM try($$SELECT guest_context.seal_dataset(10002, '{"\"Kid''s\"": 1}')$$);
BEGIN;
SELECT * FROM try($$SELECT guest_context.seal_dataset(10002, '{"\"Kid''s\"": 2}')$$);
SELECT state, rows FROM guest_context.dataset WHERE dataset = 10002;
ROLLBACK;
SELECT * FROM try($$SELECT guest_context.seal_dataset(10002, '[]')$$);

-- states: verified before it is sealed; loaded after; sealed twice; the active one
BEGIN;
SELECT * FROM try($$SELECT guest_context.verify_dataset(10002)$$);
SELECT state FROM guest_context.dataset WHERE dataset = 10002;
SELECT * FROM try($$SELECT guest_context.dataset_table(10002, '"Kid''s"')$$);
SELECT dataset, state FROM guest_context.dataset ORDER BY 1;
ROLLBACK;
SELECT guest_context.seal_dataset(10002, '{"\"Kid''s\"": 2, "\"Kid''s Orders\"": 0}');
SELECT * FROM try($$SELECT guest_context.seal_dataset(10002)$$);
SELECT guest_context.activate_dataset(10002);
SELECT * FROM try($$SELECT guest_context.drop_dataset(10002)$$);
SELECT * FROM try($$SELECT guest_context.dataset_table(10001, '"Kid''s"')$$);
SELECT * FROM try($$SELECT guest_context.seal_dataset(10999)$$);

-- the view is not for writing: the call names its entity, its key and its version
SELECT * FROM try($$UPDATE "Kid's" SET "Last Name" = 'x' WHERE ref = '1'$$);
SELECT * FROM try($$DELETE FROM "Kid's" WHERE ref = '1'$$);
SELECT guest_context.apply('"Kid''s Orders"', '{"Id": "o1", "When": "2026-01-01T00:00:00Z"}');
SELECT * FROM try($$DELETE FROM "Kid's Orders"$$);

-- the owner under his own policies
ALTER TABLE "Kid's_versions" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "Kid's_versions" FORCE ROW LEVEL SECURITY;
SELECT * FROM try($$SELECT guest_context.apply('"Kid''s"', '{"ref": "3", "modified_at": "2026-01-01T00:00:00Z"}')$$);
SELECT guest_context.apply('"Kid''s"', '{"ref": "3", "modified_at": "2026-01-01T00:00:00Z"}');

-- what others built on it: drop_entity has no CASCADE
CREATE VIEW report AS SELECT count(*) FROM "Kid's Orders";
SELECT * FROM try($$SELECT guest_context.drop_entity('"Kid''s Orders"')$$);
DROP VIEW report;
-- a view without its row in the catalogue, as a dump of the schema alone leaves it
RESET SESSION AUTHORIZATION;
BEGIN;
DELETE FROM guest_context._window WHERE versions = '"Kid''s_versions"'::regclass;
SELECT * FROM try($$SELECT * FROM "Kid's"$$);
ROLLBACK;
SET SESSION AUTHORIZATION regress_hints_owner;
-- not one of ours
SELECT * FROM try($$SELECT guest_context.drop_entity('half_versions')$$);
\x
SELECT guest_context.drop_entity('"Kid''s Orders"'), guest_context.drop_entity('"Kid''s"');
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA "The Shop" CASCADE;
DROP ROLE regress_hints_owner;
