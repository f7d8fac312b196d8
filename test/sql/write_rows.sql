-- How rows are written: all kinds of indexes, triggers, defaults and constraints on the tree, many rows at a time.
CREATE SCHEMA write_rows;
SET search_path = write_rows;
SET timezone = 'UTC';
\set SHOW_CONTEXT never
CREATE EXTENSION amcheck SCHEMA write_rows;
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TABLE shape
(
	ref text NOT NULL,
	parent_ref text,
	n positive,
	ratio numeric DEFAULT 1.5,
	at timestamptz,
	day date,
	words text[],
	kind name,
	modified_at timestamptz NOT NULL,
	CHECK (n IS NULL OR n < 100000)
);
SELECT guest_context.create_entity('things', 'shape');

-- more than are written at a time, in no order, with NULLs, long and short keys, ties
CREATE FUNCTION records(first int, last int) RETURNS json LANGUAGE sql AS $$
	SELECT json_agg(json_build_object('ref', CASE WHEN i % 7 = 0 THEN repeat('long', 100) ELSE 'k' END || (i * 7919 % 10007),
		'parent_ref', CASE WHEN i % 5 > 0 THEN 'p' || i % 50 END,
		'n', CASE WHEN i % 3 > 0 THEN 1 + i % 1000 END,
		'at', to_timestamp(1e9 - i * 1000),
		'day', CASE WHEN i % 11 > 0 THEN date '2026-01-01' - i % 100 END,
		'words', ARRAY['w' || i % 10, 'x' || i % 3],
		'kind', 'kind' || i % 4,
		'modified_at', timestamptz '2026-01-01' + i * interval '1 s'))
	FROM generate_series(first, last) i
$$;
CREATE INDEX ON things_versions (parent_ref);
CREATE INDEX ON things_versions (n);
CREATE INDEX ON things_versions (at, ref);
CREATE INDEX ON things_versions (day);
CREATE INDEX ON things_versions (kind);
CREATE INDEX ON things_versions (ratio);
CREATE INDEX ON things_versions USING gin (words);
CREATE INDEX ON things_versions USING brin (modified_at);
CREATE INDEX ON things_versions USING hash (parent_ref);
SELECT guest_context.apply('things', records(1, 2500));
SELECT count(*), count(n), sum(n), min(ratio), max(ratio), count(DISTINCT day) FROM things;

-- each index has all rows: the B-trees by themselves, the others by what they find
CREATE FUNCTION check_indexes() RETURNS TABLE (method name, indexes bigint, rows bigint) LANGUAGE plpgsql AS $$
DECLARE
	i record;
BEGIN
	FOR i IN SELECT x.indexrelid, a.amname FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_am a ON a.oid = c.relam
		JOIN pg_inherits h ON h.inhrelid = x.indrelid WHERE h.inhparent = 'things_speed'::regclass AND a.amname = 'btree' LOOP
		PERFORM bt_index_check(i.indexrelid, true);
	END LOOP;
	RETURN QUERY SELECT a.amname, count(*), NULL::bigint FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_am a ON a.oid = c.relam
		WHERE x.indrelid = (SELECT min(inhrelid::oid) FROM pg_inherits WHERE inhparent = 'things_speed'::regclass) GROUP BY 1 ORDER BY 1;
	SET LOCAL enable_seqscan = off;
	SET LOCAL enable_indexscan = off;
	RETURN QUERY SELECT name 'found', NULL::bigint, (SELECT count(*) FROM things_speed WHERE words && '{w1,w2}')
		+ (SELECT count(*) FROM things_speed WHERE parent_ref = 'p7')
		+ (SELECT count(*) FROM things_speed WHERE modified_at > '2026-01-01 00:10:00');
	SET LOCAL enable_seqscan = on;
	SET LOCAL enable_bitmapscan = off;
	RETURN QUERY SELECT name 'there', NULL::bigint, (SELECT count(*) FROM things_speed WHERE words && '{w1,w2}')
		+ (SELECT count(*) FROM things_speed WHERE parent_ref = 'p7')
		+ (SELECT count(*) FROM things_speed WHERE modified_at > '2026-01-01 00:10:00');
	RESET enable_seqscan;
	RESET enable_indexscan;
	RESET enable_bitmapscan;
END $$;
SELECT * FROM check_indexes();

-- an error leaves nothing, and says which record it was
CREATE FUNCTION fails(payload json) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	context text;
BEGIN
	PERFORM guest_context.apply('write_rows.things', payload);
	RETURN 'it does not';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
	RETURN SQLSTATE || ' ' || split_part(context, E'\n', 1);
END $$;
SELECT fails('[{"ref": "e1", "n": 1, "modified_at": "2026-01-01T00:00:00Z"}, {"ref": "e2", "n": 100000, "modified_at": "2026-01-01T00:00:00Z"}]');
SELECT fails('[{"ref": "e1", "n": 1, "modified_at": "2026-01-01T00:00:00Z"}, {"ref": "e2", "n": 0, "modified_at": "2026-01-01T00:00:00Z"}]');
-- known only when the entry is made
SELECT fails(json_build_array('{"ref": "e1", "modified_at": "2026-01-01T00:00:00Z"}'::json,
	json_build_object('ref', 'e3', 'parent_ref', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 150) i), 'modified_at', '2026-01-01T00:00:00Z')));
SELECT count(*) FROM things WHERE ref ~ '^e';

-- indexes that the executor looks after: on expressions, partial, unique
CREATE INDEX ON things_versions (lower(kind::text)) WHERE n > 500;
CREATE UNIQUE INDEX ON things_versions (gc_dataset, gc_arrived_at, gc_offset, ref);
SELECT guest_context.apply('things', records(3001, 5500));
SELECT count(*) FROM things;
SELECT * FROM check_indexes();
SET enable_seqscan = off;
SELECT count(*) FROM things_speed WHERE lower(kind::text) = 'kind1' AND n > 500;
RESET enable_seqscan;
SELECT count(*) FROM things_speed WHERE lower(kind::text) || '' = 'kind1' AND n > 500;

-- triggers: each sees what it would see at INSERT
CREATE TABLE seen (what text, n bigint);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO write_rows.seen VALUES (TG_NAME, (SELECT count(*) FROM write_rows.things_speed WHERE ref ~ '^t'));
	IF TG_LEVEL = 'ROW' AND TG_WHEN = 'BEFORE' THEN
		IF NEW.ref = 't2' THEN
			RETURN NULL;
		END IF;
		NEW.kind := 'before';
	END IF;
	RETURN NEW;
END $$;
CREATE FUNCTION look_at_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO write_rows.seen SELECT TG_NAME, count(*) FROM new_rows;
	RETURN NULL;
END $$;
CREATE TRIGGER after_row AFTER INSERT ON things_versions FOR EACH ROW EXECUTE FUNCTION look();
SELECT guest_context.apply('things', '[{"ref": "t0", "modified_at": "2026-01-01T00:00:00Z"}, {"ref": "t1", "modified_at": "2026-01-01T00:00:00Z"}]');
SELECT * FROM seen;
TRUNCATE seen;
CREATE TRIGGER before_row BEFORE INSERT ON things_versions FOR EACH ROW EXECUTE FUNCTION look();
SELECT min(inhrelid::oid)::regclass AS leaf FROM pg_inherits WHERE inhparent = 'things_speed'::regclass \gset
CREATE TRIGGER after_statement AFTER INSERT ON :leaf REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION look_at_all();
CREATE TRIGGER before_statement BEFORE INSERT ON :leaf FOR EACH STATEMENT EXECUTE FUNCTION look();
SELECT guest_context.apply('things', '[{"ref": "t2", "modified_at": "2026-01-01T00:00:00Z"}, {"ref": "t3", "modified_at": "2026-01-01T00:00:00Z"}, {"ref": "t4", "modified_at": "2026-01-01T00:00:00Z"}]');
SELECT * FROM seen;
SELECT ref, kind FROM things WHERE ref ~ '^t' ORDER BY ref;
-- not to another leaf
CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.gc_arrived_at := NEW.gc_arrived_at + interval '1 day'; RETURN NEW; END $$;
CREATE TRIGGER move BEFORE INSERT ON things_versions FOR EACH ROW EXECUTE FUNCTION move();
SELECT fails('{"ref": "t5", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT guest_context.drop_entity('things');
SET client_min_messages = warning;
DROP SCHEMA write_rows CASCADE;
