-- context_merge(document): one document out of several of one root.
CREATE SCHEMA context_merge_test;
SET search_path = context_merge_test, guest_context, public;

--
-- The worked example: speed view over batch view, times in both forms
--
CREATE TABLE example (form text, document jsonb);
INSERT INTO example VALUES
('iso', '{"ref": "1", "firstName": "John", "modifiedAt": "2017-03-24T12:18:19.100Z", "orders": [
	{"ref": "123", "status": "PURCHASED", "modifiedAt": "2017-03-24T12:20:01.000Z"},
	{"ref": "456", "status": "PURCHASED", "modifiedAt": "2016-12-10T22:20:15.000Z"}]}'),
('iso', '{"ref": "1", "firstName": "Johnny", "modifiedAt": "2017-03-26T16:42:59.250Z", "orders": [
	{"ref": "123", "status": "CANCELLED", "modifiedAt": "2017-03-26T16:42:00.000Z"}]}'),
('iso', '{"ref": "1", "firstName": "John", "modifiedAt": "2017-03-26T16:38:19.100Z"}'),
('ms', '{"ref": "1", "firstName": "John", "modifiedAt": 1490357899100, "orders": [
	{"ref": "123", "status": "PURCHASED", "modifiedAt": 1490358001000},
	{"ref": "456", "status": "PURCHASED", "modifiedAt": 1481408415000}]}'),
('ms', '{"ref": "1", "firstName": "Johnny", "modifiedAt": 1490546579250, "orders": [
	{"ref": "123", "status": "CANCELLED", "modifiedAt": 1490546520000}]}'),
('ms', '{"ref": "1", "firstName": "John", "modifiedAt": 1490546299100}');
SELECT form, jsonb_pretty(context_merge(document)) FROM example GROUP BY form ORDER BY form;
SELECT jsonb_pretty(context_merge(document)) AS mixed FROM example
WHERE form = 'iso' AND document->>'firstName' = 'John' OR form = 'ms' AND document->>'firstName' = 'Johnny';

--
-- The rules, one by one
--
-- merges JSON texts in the order given and backwards: one line when both agree
CREATE FUNCTION merged(VARIADIC documents text[]) RETURNS SETOF jsonb LANGUAGE sql AS $$
	SELECT DISTINCT unnest(ARRAY[context_merge(d::jsonb ORDER BY i), context_merge(d::jsonb ORDER BY i DESC)])
	FROM unnest(documents) WITH ORDINALITY x(d, i)
$$;
-- times: what is equal in any form, and what is newer by a microsecond
SELECT merged('{"ref": 1, "n": 1, "modifiedAt": "2017-03-26T16:42:59.250Z"}', '{"ref": 1, "n": 2, "modifiedAt": "2017-03-26T18:42:59.250001+02:00"}');
SELECT merged('{"ref": 1, "n": 1, "modifiedAt": 1490546579}', '{"ref": 1, "n": 2, "modifiedAt": 1490546579001}');
SELECT merged('{"ref": 1, "n": 1, "modifiedAt": 1490546579000001}', '{"ref": 1, "n": 2, "modifiedAt": "1490546579000"}');
-- context() writes modified_at when it is not asked for camelCase
SELECT merged('{"ref": 1, "n": 1, "modified_at": "2017-03-26T16:42:59Z"}', '{"ref": 1, "n": 2, "modified_at": "2017-03-26T16:42:58Z"}');
-- a ref is a string or a number
SELECT merged('{"ref": 1, "n": 1, "modifiedAt": 1490000001}', '{"ref": "1", "n": 2, "modifiedAt": 1490000002}');
-- the winner wins whole: what it does not have is gone
SELECT merged('{"ref": 1, "a": 1, "b": {"c": 1}, "tags": [1, 2], "modifiedAt": 1490000001}',
			  '{"ref": 1, "b": {"d": 2}, "modifiedAt": 1490000002}');
-- ... but children are merged for themselves
SELECT merged('{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000005}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "modifiedAt": 1490000002}');
SELECT merged('{"ref": 1, "orders": [{"ref": "a", "n": 1, "modifiedAt": 1490000005, "items": [{"ref": "x", "modifiedAt": 1490000001}]}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "orders": [{"ref": "a", "n": 2, "modifiedAt": 1490000004, "items": [{"ref": "y", "modifiedAt": 1490000001}]}], "modifiedAt": 1490000002}');
-- an order of two guests' documents is the same only under the same parent and member
SELECT merged('{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000001}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "returns": [{"ref": "a", "modifiedAt": 1490000002}], "modifiedAt": 1490000001}');
-- equal versions: the greatest text of the own part
SELECT merged('{"ref": 1, "n": "a", "modifiedAt": 1490000001}', '{"ref": 1, "n": "b", "modifiedAt": 1490000001}');
SELECT merged('{"ref": 1, "n": 1.0, "modifiedAt": 1490000001}', '{"ref": 1, "n": 1.00, "modifiedAt": 1490000001}');
-- children in the order of their refs
SELECT merged('{"ref": 1, "orders": [{"ref": "b", "modifiedAt": 1490000001}, {"ref": 10, "modifiedAt": 1490000001}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "orders": [{"ref": "é", "modifiedAt": 1490000001}, {"ref": 9, "modifiedAt": 1490000001}, {"ref": "B", "modifiedAt": 1490000001}], "modifiedAt": 1490000001}');
-- one ref twice in an array
SELECT merged('{"ref": 1, "orders": [{"ref": "a", "n": 2, "modifiedAt": 1490000002}, {"ref": "a", "n": 1, "modifiedAt": 1490000001}], "modifiedAt": 1490000001}');
-- a child that is an object: the newest of all refs
SELECT merged('{"ref": 1, "address": {"ref": "a", "city": "Berlin", "modifiedAt": 1490000001}, "modifiedAt": 1490000002}',
			  '{"ref": 1, "address": {"ref": "a", "city": "Bern", "modifiedAt": 1490000002}, "modifiedAt": 1490000001}');
SELECT merged('{"ref": 1, "address": {"ref": "a", "city": "Berlin", "modifiedAt": 1490000001}, "modifiedAt": 1490000002}',
			  '{"ref": 1, "address": {"ref": "b", "city": "Bern", "modifiedAt": 1490000002}, "modifiedAt": 1490000001}');
-- entities are found in plain objects, which otherwise go with their entity
SELECT merged('{"ref": 1, "shop": {"name": "old", "orders": [{"ref": "a", "modifiedAt": 1490000001}]}, "modifiedAt": 1490000001}',
			  '{"ref": 1, "shop": {"name": "new"}, "modifiedAt": 1490000002}');
SELECT merged('{"ref": 1, "shop": {"name": "old", "orders": [{"ref": "a", "modifiedAt": 1490000001}]}, "modifiedAt": 1490000001}',
			  '{"ref": 1, "modifiedAt": 1490000002}');
-- not in arrays of plain values
SELECT merged('{"ref": 1, "list": [{"order": {"ref": "a", "modifiedAt": 1490000001}}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "list": [{"order": {"ref": "b", "modifiedAt": 1490000001}}], "modifiedAt": 1490000002}');
-- without ref or version it is a plain object
SELECT merged('{"ref": 1, "a": {"ref": 1}, "b": {"modifiedAt": 1490000001}, "modifiedAt": 1490000001}',
			  '{"ref": 1, "a": {"ref": 2}, "b": {"modifiedAt": 1480000001}, "modifiedAt": 1490000002}');
-- documents that do not agree: array before entity before plain object before other values
SELECT merged('{"ref": 1, "x": [{"ref": "a", "modifiedAt": 1490000001}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "x": {"ref": "b", "modifiedAt": 1490000001}, "modifiedAt": 1490000002}');
SELECT merged('{"ref": 1, "x": {"ref": "a", "modifiedAt": 1490000001}, "modifiedAt": 1490000001}',
			  '{"ref": 1, "x": {"y": {"ref": "b", "modifiedAt": 1490000001}}, "modifiedAt": 1490000002}');
SELECT merged('{"ref": 1, "x": {"y": {"ref": "a", "modifiedAt": 1490000001}}, "modifiedAt": 1490000001}',
			  '{"ref": 1, "x": null, "modifiedAt": 1490000002}');

--
-- Deletions
--
-- beats older versions, loses to newer ones, whatever comes first
SELECT merged('{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000002, "deleted": true}, {"ref": "b", "modifiedAt": 1490000001}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000001}], "modifiedAt": 1490000001}');
SELECT merged('{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000002, "deleted": true}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000003}], "modifiedAt": 1490000001}');
-- at equal versions it wins
SELECT merged('{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000002, "deleted": true}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000002, "z": 1}], "modifiedAt": 1490000001}');
-- its children go with it, and come back with it
SELECT merged('{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000002, "deleted": true}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000001, "items": [{"ref": "x", "modifiedAt": 1490000009}]}], "modifiedAt": 1490000001}');
SELECT merged('{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000002, "deleted": true}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000001, "items": [{"ref": "x", "modifiedAt": 1490000009}]}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000003}], "modifiedAt": 1490000001}');
-- a child that is an object
SELECT merged('{"ref": 1, "address": {"ref": "a", "modifiedAt": 1490000002, "deleted": true}, "modifiedAt": 1490000002}',
			  '{"ref": 1, "address": {"ref": "b", "modifiedAt": 1490000001}, "shop": {"x": {"ref": "a", "modifiedAt": 1490000001, "deleted": true}}, "modifiedAt": 1490000001}');
-- a deleted root: nothing is left of the document, until it comes back
SELECT merged('{"ref": 1, "modifiedAt": 1490000002, "deleted": true}',
			  '{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000009}], "modifiedAt": 1490000001}') IS NULL AS gone;
SELECT merged('{"ref": 1, "modifiedAt": 1490000002, "deleted": true}',
			  '{"ref": 1, "orders": [{"ref": "a", "modifiedAt": 1490000009}], "modifiedAt": 1490000001}',
			  '{"ref": 1, "modifiedAt": 1490000003, "deleted": false}');

--
-- Computed totals: dropped where an entity has them, and only there
--
SELECT merged('{"ref": 1, "total": 7, "totals": {"spent": 7}, "measures": {"orders": 1}, "prefs": {"measures": "metric"}, "modifiedAt": 1490000001,
				"orders": [{"ref": "a", "total": 7, "totals": 7, "modifiedAt": 1490000001}]}');

--
-- No documents
--
SELECT context_merge(d) IS NULL AS empty FROM (SELECT '{}'::jsonb WHERE false) x(d);
SELECT context_merge(NULL) IS NULL AS empty;
SELECT context_merge(d) FROM (VALUES (NULL), ('{"ref": 1, "modifiedAt": 1490000001}'::jsonb), (NULL)) x(d);

--
-- Errors
--
\set SHOW_CONTEXT never
SELECT merged('{"ref": "g1", "modifiedAt": 1490000001}', '{"ref": "g2", "modifiedAt": 1490000001}');
\echo :LAST_ERROR_SQLSTATE
SELECT merged('{"ref": "g1"}');
\echo :LAST_ERROR_SQLSTATE
SELECT merged('[]');
SELECT merged('null');
SELECT merged('{"ref": "g1", "orders": [{"ref": 1, "modifiedAt": 1490000001}, 5, {"ref": 2}], "modifiedAt": 1490000001}');
SELECT merged('{"ref": "g1", "shop": {"orders": [{"ref": null, "modifiedAt": 1490000001}]}, "modifiedAt": 1490000001}');
SELECT merged('{"ref": "g1", "orders": [{"ref": 7, "items": [{"ref": "x", "modifiedAt": null}], "modifiedAt": 1490000001}], "modifiedAt": 1490000001}');
SELECT merged('{"ref": "g1", "modifiedAt": "2017-02-30T00:00:00Z"}');
\echo :LAST_ERROR_SQLSTATE
SELECT merged('{"ref": "g1", "modifiedAt": "yesterday"}');
\echo :LAST_ERROR_SQLSTATE
SELECT merged('{"ref": "g1", "modifiedAt": "2017-03-26T16:42:59"}');
SELECT merged('{"ref": "g1", "modifiedAt": 17}');
SELECT length(context_merge((repeat('{"ref": 1, "modifiedAt": 1490000001, "c": ', n) || '1' || repeat('}', n))::jsonb)::text) FROM (VALUES (128), (129)) x(n);
-- plain arrays are not walked: as deep as jsonb can be
SELECT length(context_merge(('{"ref": 1, "modifiedAt": 1490000001, "c": ' || repeat('[', 500) || repeat(']', 500) || '}')::jsonb)::text);

--
-- The law, against the oracle: any order, any split, any repetition
--
-- random documents of 40 guests; few versions, so that many are equal
SELECT setseed(0.5);
CREATE FUNCTION entity(ref text, version int, deleted boolean, iso boolean, n int) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('ref', ref, 'n', n, 'modifiedAt',
			CASE WHEN iso THEN to_jsonb(to_char(to_timestamp(1490000000 + version) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
				 ELSE to_jsonb((1490000000 + version) * 1000::bigint) END)
		|| CASE WHEN deleted THEN '{"deleted": true}' ELSE '{}' END::jsonb
$$;
CREATE TABLE part AS
SELECT document, document % 40 AS guest, path, version, deleted, entity(coalesce(path[cardinality(path)], 'g'), version, deleted, random() < 0.5, n) AS own
FROM (SELECT document, path, (random() * 12)::int AS version, random() < 0.1 AS deleted, (random() * 20)::int AS n
	  FROM generate_series(1, 800) document,
		   LATERAL (SELECT '{}'::text[] UNION ALL SELECT ARRAY['address', 'a' || document % 3] WHERE document % 2 = 0) x(path)
	  UNION ALL
	  SELECT document, ARRAY['orders', 'o' || o], (random() * 12)::int, random() < 0.3, (random() * 20)::int
	  FROM generate_series(1, 800) document, LATERAL generate_series(document / 40 % 5, 8, 1 + document % 7) o
	  UNION ALL
	  SELECT document, ARRAY['orders', 'o' || o, 'items', 'i' || i], (random() * 12)::int, random() < 0.3, (random() * 20)::int
	  FROM generate_series(1, 800) document, LATERAL generate_series(document / 40 % 5, 8, 1 + document % 7) o, generate_series(1, (document + o) % 4) i) p;
CREATE FUNCTION member(name text, value jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT CASE WHEN value IS NULL THEN '{}' ELSE jsonb_build_object(name, value) END
$$;
-- puts parts together: those of a document, or the ones that the oracle chose
CREATE FUNCTION composed(source text) RETURNS TABLE (id int, document jsonb) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format($sql$
		WITH p AS %s,
		items AS (SELECT p.id, path[1:2] AS parent, coalesce(jsonb_agg(own ORDER BY path[4] COLLATE "C") FILTER (WHERE shown), '[]') AS list
				  FROM p WHERE path[3] = 'items' GROUP BY 1, 2),
		orders AS (SELECT p.id, coalesce(jsonb_agg(own || member('items', list) ORDER BY path[2] COLLATE "C") FILTER (WHERE shown), '[]') AS list
				   FROM p LEFT JOIN items ON p.id = items.id AND path = parent WHERE path[1] = 'orders' AND cardinality(path) = 2 GROUP BY 1)
		SELECT p.id, p.own || member('orders', list) || member('address', a.own)
		FROM p LEFT JOIN orders USING (id) LEFT JOIN p a ON p.id = a.id AND a.path[1] = 'address' AND a.shown
		WHERE p.path = '{}' AND p.shown
	$sql$, source);
END $$;
CREATE TABLE document WITH (parallel_workers = 2) AS
SELECT id % 40 AS guest, document FROM composed('(SELECT document AS id, path, own, true AS shown FROM part)');
-- DISTINCT ON is the whole merge, in SQL
CREATE TABLE oracle AS
SELECT id AS guest, document FROM composed($$(
	SELECT DISTINCT ON (guest, place) guest AS id, path, own, NOT deleted AS shown
	FROM part, LATERAL (SELECT CASE WHEN path[1] = 'address' THEN '{address}' ELSE path END) x(place)
	ORDER BY guest, place, version DESC, deleted DESC, own::text COLLATE "C" DESC)$$);
SELECT count(*) AS guests, sum(length(document::text)) > 10000 AS enough FROM oracle;
CREATE FUNCTION differences(clause text, source text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	result bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM (SELECT guest, context_merge(document %s) AS got FROM %s d GROUP BY guest) m
		FULL JOIN oracle USING (guest) WHERE got::text IS DISTINCT FROM document::text', clause, source) INTO result;
	RETURN result;
END $$;
SELECT differences('', 'document') AS as_is, differences('ORDER BY random()', 'document') AS shuffled,
	   differences('ORDER BY random()', '(TABLE document UNION ALL TABLE document UNION ALL TABLE document)') AS repeated;
-- in parallel
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0.01;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT guest, context_merge(document) FROM document GROUP BY guest;
SELECT count(*) FROM (SELECT guest, context_merge(document) AS got FROM document GROUP BY guest) m
FULL JOIN oracle USING (guest) WHERE got::text IS DISTINCT FROM document::text;
SET parallel_leader_participation = off;
SELECT count(*) FROM (SELECT guest, context_merge(document) AS got FROM document GROUP BY guest) m
FULL JOIN oracle USING (guest) WHERE got::text IS DISTINCT FROM document::text;
RESET parallel_leader_participation;
-- without rows in some or all workers
SELECT context_merge(document) IS NOT NULL AS one FROM document WHERE ctid::text = '(0,1)';
SELECT context_merge(document) IS NULL AS none FROM document WHERE guest < 0;
-- two roots that may meet in the leader only
\set VERBOSITY sqlstate
SELECT context_merge(jsonb_set(document, '{ref}', to_jsonb(guest))) FROM document;
\set VERBOSITY default
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
-- as a moving window, and with FILTER and grouping sets
SELECT count(*) FROM (SELECT context_merge(document) OVER w AS got, array_agg(document) OVER w AS documents
	FROM document WHERE guest = 1 WINDOW w AS (ORDER BY document ROWS 3 PRECEDING)) m
WHERE got::text IS DISTINCT FROM (SELECT context_merge(d)::text FROM unnest(documents) d);
SELECT guest, context_merge(document) FILTER (WHERE document ? 'address') IS NULL AS a, context_merge(DISTINCT document) = (SELECT o.document FROM oracle o WHERE o.guest = d.guest) AS b
FROM document d WHERE guest = 1 GROUP BY ROLLUP (guest) ORDER BY guest;
-- groups that do not fit into memory
SET work_mem = '64kB';
SET enable_sort = off;
SELECT count(*), count(DISTINCT got) FROM (SELECT context_merge(document) AS got FROM document, generate_series(1, 50) i GROUP BY guest, i) m;
RESET work_mem;
RESET enable_sort;
-- documents that do not agree on anything: whatever comes out, it is always the same
CREATE FUNCTION members(depth int) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN coalesce(jsonb_object_agg(name, anything(depth + 1)), '{}') FROM unnest('{a,b,c}'::text[]) name WHERE random() < 0.7;
END $$;
CREATE FUNCTION thing(depth int, ref text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN members(depth) || entity(ref, (random() * 3)::int, random() < 0.1, random() < 0.5, (random() * 2)::int);
END $$;
CREATE FUNCTION anything(depth int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	kind int := random() * 5;
BEGIN
	RETURN CASE
		WHEN kind = 0 OR depth > 4 THEN (ARRAY['1', '1.0', '"x"', 'null', '[]', '[[1], {}]', '{}'])[1 + (random() * 6)::int]::jsonb
		WHEN kind < 3 THEN coalesce((SELECT jsonb_agg(thing(depth, 'r' || (random() * 3)::int)) FROM generate_series(1, (random() * 3)::int)), '[]')
		WHEN kind = 3 THEN thing(depth, 'r' || (random() * 3)::int)
		ELSE members(depth) END;
END $$;
CREATE TABLE anything WITH (parallel_workers = 2) AS
SELECT i % 100 AS guest, thing(0, 'g' || i % 100) AS document FROM generate_series(1, 500) i;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0.01;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT guest, context_merge(document)::text AS document FROM anything GROUP BY guest;
CREATE TABLE result AS SELECT guest, context_merge(document)::text AS document FROM anything GROUP BY guest;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
INSERT INTO result SELECT guest, context_merge(document)::text FROM anything GROUP BY guest;
INSERT INTO result SELECT guest, context_merge(document ORDER BY random())::text FROM anything GROUP BY guest;
INSERT INTO result SELECT guest, context_merge(document ORDER BY random())::text FROM (TABLE anything UNION ALL TABLE anything) a GROUP BY guest;
SELECT count(*), count(DISTINCT guest) AS guests, count(DISTINCT (guest, document)) AS documents FROM result;

SET client_min_messages = warning;
DROP SCHEMA context_merge_test CASCADE;
