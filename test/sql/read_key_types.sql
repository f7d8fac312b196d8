-- Keys are compared as their type compares them: what the type holds equal is one entity, however it is written,
-- and the state that won is shown as it was written. Other comparisons in a query mean what they say.
SET client_min_messages = error;
CREATE SCHEMA keys;
CREATE COLLATION keys.no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

CREATE FUNCTION keys.portable(entity regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM ((SELECT v::text FROM %1$s v EXCEPT ALL SELECT p::text FROM (%2$s) p) UNION ALL (SELECT p::text FROM (%2$s) p EXCEPT ALL SELECT v::text FROM %1$s v)) d',
				   entity, guest_context.truth_sql(entity, true)) INTO n;
	RETURN n;
END $$;

-- a collation that knows no case: Bob, BOB and bob are one guest
CREATE TYPE keys.guest_shape AS (ref text COLLATE keys.no_case, name text, modified_at timestamptz);
CREATE TYPE keys.order_shape AS (ref numeric, guest_ref text COLLATE keys.no_case, note text, modified_at timestamptz);
SELECT guest_context.create_entity('keys.guests', 'keys.guest_shape');
SELECT guest_context.create_entity('keys.orders', 'keys.order_shape', parent => 'keys.guests', parent_ref => '{guest_ref}');
SELECT guest_context.apply('keys.guests', '[
	{"ref": "Bob", "name": "first", "modified_at": "2020-01-01T00:00:00Z"}, {"ref": "BOB", "name": "third", "modified_at": "2020-01-03T00:00:00Z"},
	{"ref": "bob", "name": "second", "modified_at": "2020-01-02T00:00:00Z"}, {"ref": "Bøb", "name": "somebody else", "modified_at": "2020-01-01T00:00:00Z"},
	{"ref": "ANN", "name": "gone", "modified_at": "2020-01-01T00:00:00Z"}]');
SELECT guest_context.apply('keys.guests', '{"ref": "ann", "modified_at": "2020-01-01T00:00:00Z"}', deleted => true);
-- 1, 1.0 and 1.00 are one order
SELECT guest_context.apply('keys.orders', '[
	{"ref": 1, "guest_ref": "bob", "note": "one", "modified_at": "2020-01-01T00:00:00Z"}, {"ref": 1.00, "guest_ref": "bOb", "note": "one again", "modified_at": "2020-01-02T00:00:00Z"},
	{"ref": "2.50", "guest_ref": "Ann", "note": "two and a half", "modified_at": "2020-01-02T00:00:00Z"}, {"ref": 2.5, "guest_ref": "ann", "note": "too old", "modified_at": "2020-01-01T00:00:00Z"},
	{"ref": 3, "guest_ref": "BOB", "note": "moved away", "modified_at": "2020-01-01T00:00:00Z"}, {"ref": 3.0, "guest_ref": "bøb", "note": "moved here", "modified_at": "2020-01-02T00:00:00Z"}]');
SELECT * FROM keys.guests ORDER BY ref, name;
SELECT * FROM keys.orders ORDER BY ref;
SELECT keys.portable('keys.guests') AS guests, keys.portable('keys.orders') AS orders;
-- found by any way of writing it
SELECT g.ref, g.name FROM (VALUES ('bob'), ('BoB'), ('ann'), ('BØB')) v(r) LEFT JOIN keys.guests g ON g.ref = v.r ORDER BY 2;
SELECT ref, note FROM keys.orders WHERE ref = 1.0000;
SELECT ref, note FROM keys.orders WHERE ref IN (1, 2.500, 3.00) AND guest_ref = 'BOB';
SELECT ref, note FROM keys.orders WHERE ref = 1::bigint OR ref = 3::smallint;
SELECT ref, note FROM keys.orders WHERE ref = 2.5::float8;
SELECT g.ref, count(o.ref), string_agg(o.note, ', ') FROM keys.guests g LEFT JOIN keys.orders o ON o.guest_ref = g.ref GROUP BY g.ref, g.name ORDER BY g.name;
-- by its bytes, where the query says so: the winner is BOB, and nothing that it has beaten shows
SELECT ref, name FROM keys.guests WHERE ref = 'BOB' COLLATE "C";
SELECT ref, name FROM keys.guests WHERE ref = 'Bob' COLLATE "C";
SELECT ref, name FROM keys.guests WHERE ref COLLATE "C" = 'bob';
SELECT note FROM keys.orders WHERE ref::text = '1';
SELECT note FROM keys.orders WHERE ref::text = '1.00';
-- by a prepared statement, and in a dataset
SELECT guest_context.create_dataset('keys.guests', now()) AS dataset \gset
SELECT guest_context.load_dataset(:dataset, 'keys.guests', $$SELECT * FROM (VALUES ('bOB', 'of the dataset', timestamptz '2020-01-04 00:00+00'), ('BOb', 'older there', '2020-01-02 00:00+00'), ('ANN', 'tie', '2020-01-01 00:00+00')) v(ref, name, modified_at)$$);
SELECT guest_context.load_dataset(:dataset, 'keys.orders', $$SELECT * FROM (VALUES (1.000, 'BOB', 'of the dataset', timestamptz '2020-01-02 00:00+00'), (4.10, 'bob', 'four', '2020-01-02 00:00+00'), (4.1, 'bob', 'four, newer', '2020-01-03 00:00+00')) v(ref, guest_ref, note, modified_at)$$);
SELECT guest_context.seal_dataset(:dataset, '{"keys.guests": 2, "keys.orders": 2}');
SELECT count(*) FROM guest_context.verify_dataset(:dataset);
SELECT guest_context.activate_dataset(:dataset, force => true);
SET plan_cache_mode = force_generic_plan;
PREPARE guest(text) AS SELECT ref, name FROM keys.guests WHERE ref = $1;
PREPARE "order"(numeric) AS SELECT ref, note FROM keys.orders WHERE ref = $1;
EXECUTE guest('bob'); EXECUTE guest('ann'); EXECUTE guest(NULL);
EXECUTE "order"(1); EXECUTE "order"(4.100);
DEALLOCATE ALL;
RESET plan_cache_mode;
SELECT * FROM keys.guests ORDER BY ref, name;
SELECT keys.portable('keys.guests') AS guests, keys.portable('keys.orders') AS orders;

-- several columns: a tenant and a number that is only unique within it
CREATE TYPE keys.invoice_shape AS (number integer, tenant text, amount numeric, modified_at timestamptz);
SELECT guest_context.create_entity('keys.invoices', 'keys.invoice_shape', key => '{tenant,number}');
SELECT guest_context.apply('keys.invoices', '[
	{"tenant": "a", "number": 1, "amount": 10, "modified_at": "2020-01-01T00:00:00Z"}, {"tenant": "b", "number": 1, "amount": 20, "modified_at": "2020-01-02T00:00:00Z"},
	{"tenant": "a", "number": 2, "amount": 30, "modified_at": "2020-01-03T00:00:00Z"}, {"tenant": "a", "number": 1, "amount": 11, "modified_at": "2020-01-04T00:00:00Z"}]');
SELECT guest_context.apply('keys.invoices', '{"tenant": "b", "number": 2, "modified_at": "2020-01-05T00:00:00Z"}', deleted => true);
SELECT * FROM keys.invoices ORDER BY tenant, number;
SELECT amount FROM keys.invoices WHERE tenant = 'a' AND number = 1;
SELECT amount FROM keys.invoices WHERE (tenant, number) IN (('a', 2), ('b', 1), ('b', 2)) ORDER BY 1;
SELECT sum(amount) FROM keys.invoices WHERE tenant = 'a';
SELECT sum(amount) FROM keys.invoices WHERE number = 1;
SELECT amount FROM keys.invoices WHERE tenant = 'b' AND number = 1::bigint AND amount > 5;
SELECT keys.portable('keys.invoices') AS invoices;

-- types with more than one way to write a value
CREATE TYPE keys.odd_shape AS (i interval, c char(5), n numeric[], j jsonb, note text, modified_at timestamptz);
SELECT guest_context.create_entity('keys.odd', 'keys.odd_shape', key => '{i,c,n,j}');
SELECT guest_context.apply('keys.odd', '[
	{"i": "24:00:00", "c": "x", "n": [1.0], "j": {"a": 1.0}, "note": "older", "modified_at": "2020-01-01T00:00:00Z"},
	{"i": "1 day", "c": "x  ", "n": [1.00], "j": {"a": 1.00}, "note": "newer", "modified_at": "2020-01-02T00:00:00Z"},
	{"i": "1 day", "c": "x", "n": [1], "j": {"a": 2}, "note": "other", "modified_at": "2020-01-01T00:00:00Z"}]');
SET intervalstyle = 'postgres';
SELECT i, c, n, j, note FROM keys.odd ORDER BY note;
SELECT note FROM keys.odd WHERE i = '24 hours' AND c = 'x' AND n = '{1.000}' AND j = '{"a": 1}';
SELECT keys.portable('keys.odd') AS odd;

-- keys that are long, though small enough for an index when they are compressed: apply() refuses them, a dataset may have them
SET default_toast_compression = 'lz4';
CREATE TYPE keys.long_shape AS (ref text, note integer, modified_at timestamptz);
SELECT guest_context.create_entity('keys.long', 'keys.long_shape');
INSERT INTO keys.long_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, modified_at, ref, note)
SELECT clock_timestamp(), i, 0, 0, 0, false, timestamptz '2020-01-01 00:00+00' + i * interval '1 s', repeat(chr((65 + i % 20)::integer), 300000), i FROM generate_series(1, 60) i;
SELECT count(*), sum(note), sum(length(ref)) FROM keys.long;
SELECT note, length(ref) FROM keys.long WHERE ref = repeat('B', 300000);
SELECT keys.portable('keys.long') AS long;

SELECT guest_context.drop_entity(e::regclass) FROM unnest('{keys.orders,keys.guests,keys.invoices,keys.odd,keys.long}'::text[]) e;
DROP SCHEMA keys CASCADE;

-- what a key is compared with may be of another type that its own equality knows: integer literals for a bigint
CREATE SCHEMA read_wide;
SET search_path = read_wide;
CREATE TYPE shape AS (big bigint, small smallint, at timestamptz, val text, modified_at timestamptz);
SELECT guest_context.create_entity('wide', 'shape', key => '{big, small, at}');
SELECT guest_context.apply('wide', (SELECT json_agg(json_build_object('big', i, 'small', i % 3, 'at', timestamptz '2024-01-01 00:00:00Z' + i * interval '1 day',
	'val', 'value ' || i, 'modifiedAt', '2024-01-01T00:00:00Z')) FROM generate_series(1, 100) i));
CREATE TABLE few (i int, s bigint, d timestamptz);
INSERT INTO few VALUES (7, 1, '2024-01-08Z'), (8, 2, '2024-01-09Z'), (9, 0, '2025-01-01Z');
SET timezone = 'UTC';
CREATE FUNCTION nodes(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; found text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		found := coalesce(found, (regexp_match(line, 'KeyScan|TruthScan|Index Scan'))[1]);
	END LOOP;
	RETURN found;
END $$;
SELECT nodes($$SELECT * FROM wide WHERE big = 7 AND small = 1::smallint AND at = '2024-01-08Z'$$) AS widened,
       nodes($$SELECT * FROM wide WHERE 7 = big AND small = 1::smallint AND '2024-01-08Z' = at$$) AS turned_round,
       nodes($$SELECT * FROM wide WHERE big = 7 AND small = 1 AND at = '2024-01-08Z'$$) AS narrowed;
SELECT val FROM wide WHERE big = 7 AND small = 1::smallint AND at = '2024-01-08Z';
SELECT val FROM wide WHERE 7 = big AND small = 1 AND '2024-01-08Z' = at;
SELECT val FROM wide WHERE big = 7 AND small = 1::smallint AND at = date '5000000-01-01';
SELECT val FROM wide WHERE big = 7 AND small = 70000 AND at = '2024-01-08Z';
SELECT w.val FROM few f JOIN wide w ON w.big = f.i AND w.small = f.s AND w.at = f.d ORDER BY 1;
PREPARE by_int(int, smallint, timestamptz) AS SELECT val FROM wide WHERE big = $1 AND small = $2 AND at = $3;
EXECUTE by_int(8, 2, '2024-01-09Z');
RESET timezone;
RESET search_path;
SELECT guest_context.drop_entity('read_wide.wide');
DROP SCHEMA read_wide CASCADE;
