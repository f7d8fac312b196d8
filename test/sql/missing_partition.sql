-- A partition of today or of the days ahead that somebody took away is made again.
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE ROLE regress_missing_owner LOGIN;
CREATE SCHEMA missing AUTHORIZATION regress_missing_owner;
SET SESSION AUTHORIZATION regress_missing_owner;
SET search_path = missing;
CREATE TYPE shape AS (ref text, modified_at timestamptz);
SELECT guest_context.create_entity('things', 'shape');
-- the partition of now and of days ahead, and how many there are from now on without a gap
CREATE FUNCTION leaf(days int) RETURNS regclass LANGUAGE sql AS
	$$SELECT to_regclass('missing.things_speed_p' || to_char(now() + make_interval(days => days), 'YYYYMMDD'))$$;
CREATE FUNCTION whole() RETURNS TABLE (leaves bigint, whole boolean) LANGUAGE sql AS
	$$SELECT count(*), bool_and(coalesce(leaf(i) IN (SELECT relid FROM pg_partition_tree('missing.things_speed')), false)) FROM generate_series(0, 4) i$$;
CREATE FUNCTION take_away(how text, days int) RETURNS void LANGUAGE plpgsql AS
	$$BEGIN EXECUTE format(how, leaf(days)); END $$;
SELECT guest_context.apply('things', '{"ref": "1", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT * FROM whole();

-- the oldest, which is today's: apply makes it
SELECT take_away('DROP TABLE %s', 0);
SELECT * FROM whole();
SELECT guest_context.apply('things', '{"ref": "2", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT * FROM whole();
SELECT ref FROM things;
-- maintenance makes it, and one in the middle too, and says so
SELECT take_away('DROP TABLE %s', 0), take_away('DROP TABLE %s', 2);
SELECT action, detail FROM guest_context.run_maintenance() WHERE entity = 'things'::regclass AND action = 'leaves';
SELECT * FROM whole();
SELECT count(*) FROM guest_context.run_maintenance() WHERE entity = 'things'::regclass AND action = 'leaves';
-- after another interval too, and nothing is made before the partition of now
SELECT guest_context.alter_entity('things', partition_interval => '10 days');
SELECT take_away('DROP TABLE %s', 2);
SELECT count(*) FROM guest_context.run_maintenance() WHERE entity = 'things'::regclass AND action = 'leaves';
SELECT * FROM whole();
SELECT count(*) FROM pg_partition_tree('things_speed') WHERE isleaf AND relid::text < leaf(0)::text;

-- one that was detached keeps its name: the error and the message say how it comes back
SELECT guest_context.alter_entity('things', partition_interval => '1 day');
SELECT take_away('ALTER TABLE things_speed DETACH PARTITION %s', 0);
DO $$
DECLARE
	detail text;
	hint text;
BEGIN
	PERFORM guest_context.apply('things', '{"ref": "3", "modified_at": "2026-01-01T00:00:00Z"}');
EXCEPTION WHEN duplicate_table THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '%', regexp_replace(SQLERRM, '\d{8}', '<day>');
	RAISE NOTICE '%', detail;
	RAISE NOTICE '%', regexp_replace(regexp_replace(hint, '\d{8}', '<day>'), '\d{4}-\d\d-\d\d', '<day>', 'g');
	EXECUTE hint;
END $$;
SELECT guest_context.apply('things', '{"ref": "3", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT * FROM whole();
SELECT ref FROM things;

SELECT guest_context.drop_entity('things');
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA missing CASCADE;
DROP ROLE regress_missing_owner;
