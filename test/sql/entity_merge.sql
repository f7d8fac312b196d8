-- entity_merge(value, version [, tiebreak]): the newest value of a group.
CREATE SCHEMA entity_merge_test;
SET search_path = entity_merge_test, guest_context, public;

--
-- The rules, one by one
--
-- the newest version wins, whatever the order of arrival
SELECT entity_merge(v, t ORDER BY i) AS forward, entity_merge(v, t ORDER BY i DESC) AS backward
FROM (VALUES (1, 'John', '2017-03-26 16:38:19.100Z'::timestamptz),
             (2, 'Johnny', '2017-03-26 16:42:59.250Z'),
             (3, 'Jon', '2017-03-24 12:18:19.100Z')) x(i, v, t);
-- versions differ by microseconds
SELECT entity_merge(v, t) FROM (VALUES ('old', '2017-03-26 16:42:59.250001Z'::timestamptz),
                                       ('new', '2017-03-26 16:42:59.250002Z')) x(v, t);
-- infinities are versions like others
SELECT entity_merge(v, t) AS highest, entity_merge(v, t) FILTER (WHERE t < now()) AS lower
FROM (VALUES ('beginning', '-infinity'::timestamptz), ('day', '2017-03-26Z'), ('end', 'infinity')) x(v, t);
-- no rows: NULL
SELECT entity_merge(1, now()) IS NULL AS empty FROM generate_series(1, 0);
-- a row without a version is left out
SELECT entity_merge(v, t) FROM (VALUES ('no version', NULL::timestamptz), ('version', '-infinity')) x(v, t);
SELECT entity_merge('no version'::text, NULL) IS NULL AS empty;
-- a NULL value is a state like others: it wins, and it loses
SELECT entity_merge(v, t) IS NULL AS newest_is_null
FROM (VALUES ('old', '2017-03-26Z'::timestamptz), (NULL, '2017-03-27Z')) x(v, t);
SELECT entity_merge(v, t) FROM (VALUES ('new', '2017-03-27Z'::timestamptz), (NULL, '2017-03-26Z')) x(v, t);
-- equal versions: the tiebreak decides, no tiebreak is lowest
SELECT entity_merge(v, '2017-03-26Z', k)
FROM (VALUES ('lower', 1::bigint), ('higher', 2), ('none', NULL)) x(v, k);
SELECT entity_merge(v, '2017-03-26Z', k)
FROM (VALUES ('lowest number', -9223372036854775808), ('none', NULL)) x(v, k);
-- ... but never against the version
SELECT entity_merge(v, t, k)
FROM (VALUES ('old', '2017-03-26Z'::timestamptz, 9::bigint), ('new', '2017-03-27Z', 1)) x(v, t, k);
-- equal tiebreaks: the greatest value, NULL is lowest
SELECT entity_merge(v, '2017-03-26Z', 1) FROM (VALUES (9), (10), (NULL)) x(v);
SELECT entity_merge(v, '2017-03-26Z') FROM (VALUES ('9'), ('10'), (NULL)) x(v);
-- values that count as equal, and types without an order: the greatest bytes
SELECT entity_merge(v, '2017-03-26Z' ORDER BY i) AS forward, entity_merge(v, '2017-03-26Z' ORDER BY i DESC) AS backward
FROM (VALUES (1, 1.0), (2, 1.000), (3, 1.00)) x(i, v);
SELECT entity_merge(v, '2017-03-26Z' ORDER BY i) AS forward, entity_merge(v, '2017-03-26Z' ORDER BY i DESC) AS backward
FROM (VALUES (1, 0.0::float8), (2, -0.0::float8)) x(i, v);
SELECT entity_merge(v, '2017-03-26Z' ORDER BY i) AS forward, entity_merge(v, '2017-03-26Z' ORDER BY i DESC) AS backward
FROM (VALUES (1, '{"a":1}'::json), (2, '{"a": 1}')) x(i, v);
SELECT entity_merge(v, '2017-03-26Z' ORDER BY i)::text AS forward, entity_merge(v, '2017-03-26Z' ORDER BY i DESC)::text AS backward
FROM (VALUES (1, '(1,2)'::point), (2, '(2,1)')) x(i, v);
-- anonymous rows too, with columns that have no order
SELECT entity_merge(r, '2017-03-26Z' ORDER BY r.i) AS forward, entity_merge(r, '2017-03-26Z' ORDER BY r.i DESC) AS backward
FROM (VALUES (1, '[1]'::json), (2, '[2]')) r(i, v);

--
-- Where the result's type comes from
--
CREATE TYPE guest AS (ref text, name text, visits int);
SELECT (entity_merge(ROW('g1', n, 3)::guest, t)).* FROM (VALUES ('John', 1), ('Johnny', 2)) x(n, i), LATERAL to_timestamp(i) t;
CREATE DOMAIN guests AS guest[];
SELECT pg_typeof(entity_merge(ARRAY[ROW('g1', 'John', 1)]::guests, now()));
SELECT pg_typeof(entity_merge(ARRAY[1.5], now(), 1)), pg_typeof(entity_merge(int4range(1, 2), now()));
SELECT pg_typeof(entity_merge('x'::cstring, now())), entity_merge(v, to_timestamp(i)) FROM (VALUES (1, 'a'::name), (2, 'b')) x(i, v);

--
-- The law, against the oracle: any type, any order, any split, any repetition
--
CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TYPE visit AS (page text, took numeric, at timestamptz);
CREATE TYPE message AS (id int, body json);
-- name: the type, expression: 60 different values from x, of which some count as equal
CREATE TABLE candidate_type (name text, ordered boolean, expression text);
INSERT INTO candidate_type VALUES
	('integer', true, 'x'),
	('text', true, $$repeat(chr(97 + x % 26), 1 + x)$$),
	('text COLLATE entity_merge_test.ignore_case', true, $$CASE WHEN x % 2 = 0 THEN upper(chr(97 + x / 2)) ELSE chr(97 + x / 2) END$$),
	('numeric', true, $$round((x / 4)::numeric, x % 4)$$),
	('float8', true, $$CASE x % 3 WHEN 0 THEN '-0' WHEN 1 THEN 0 ELSE x END$$),
	('bytea', true, $$decode(repeat(to_hex(16 + x), 1 + x % 5), 'hex')$$),
	('jsonb', true, $$jsonb_build_object('a', round((x / 4)::numeric, x % 4))$$),
	('json', false, $$format('{"a":%s%s}', repeat(' ', x % 3), x)::json$$),
	('xml', false, $$xmlelement(name a, x)$$),
	('point', false, $$point(x % 7, x)$$),
	('timestamptz', true, $$to_timestamp(x)$$),
	('boolean', true, $$x % 2 = 0$$),
	('name', true, $$('n' || x)::name$$),
	('uuid', true, $$md5(x::text)::uuid$$),
	('numeric[]', true, $$ARRAY[round((x / 4)::numeric, x % 4), NULL]$$),
	('json[]', false, $$ARRAY[to_json(x)]$$),
	('numrange', true, $$numrange(round((x / 4)::numeric, x % 4), 100)$$),
	('entity_merge_test.visit', true, $$ROW('p' || x % 3, round((x / 4)::numeric, x % 4), to_timestamp(x / 8))::entity_merge_test.visit$$),
	('entity_merge_test.message', false, $$ROW(x % 5, to_json(x))::entity_merge_test.message$$),
	('text[]', true, $$ARRAY['a', repeat(md5(x::text), 200)]$$);

-- every way to compute it; the answer is how many groups differ from the oracle, to the bit
CREATE FUNCTION differences(name text, ordered boolean, expression text,
							OUT hashed bigint, OUT sorted bigint, OUT parallel bigint, OUT in_workers boolean, OUT shuffled bigint, OUT repeated bigint)
LANGUAGE plpgsql AS $$
DECLARE
	compare text := 'SELECT count(*) FROM (SELECT g, entity_merge(v, t, k%s) AS got FROM %s s GROUP BY g) a
					 FULL JOIN oracle USING (g) WHERE record_image_ne(ROW(got), ROW(want))';
	plan json;
BEGIN
	PERFORM setseed(0.5);
	EXECUTE format('CREATE TABLE candidate (g int, v %s, t timestamptz, k bigint) WITH (parallel_workers = 2)', name);
	EXECUTE format('INSERT INTO candidate
		SELECT (random() * 50)::int, CASE WHEN x < 58 THEN %s END,
			   CASE WHEN y < 4 THEN to_timestamp(y / 2) END, CASE WHEN z < 2 THEN z END
		FROM (SELECT (random() * 59)::int, (random() * 4)::int, (random() * 2)::int FROM generate_series(1, 2000)) r(x, y, z)',
		expression);
	EXECUTE format('CREATE TABLE oracle AS SELECT DISTINCT ON (g) g, v AS want FROM candidate WHERE t IS NOT NULL
		ORDER BY g, t DESC, k DESC NULLS LAST, %s', CASE WHEN ordered THEN 'v DESC NULLS LAST, ' ELSE '(v IS NULL), ' END
		|| CASE WHEN name LIKE 'entity%' THEN 'v USING *>' ELSE 'ROW(v) USING *>' END);
	PERFORM set_config('max_parallel_workers_per_gather', '0', true), set_config('enable_sort', 'off', true);
	EXECUTE format(compare, '', 'candidate') INTO hashed;
	PERFORM set_config('enable_sort', 'on', true), set_config('enable_hashagg', 'off', true);
	EXECUTE format(compare, '', 'candidate') INTO sorted;
	EXECUTE format(compare, ' ORDER BY random()', 'candidate') INTO shuffled;
	EXECUTE format(compare, '', '(TABLE candidate UNION ALL TABLE candidate UNION ALL TABLE candidate)') INTO repeated;
	PERFORM set_config('max_parallel_workers_per_gather', '2', true), set_config('enable_hashagg', 'on', true),
			set_config('parallel_setup_cost', '0', true), set_config('parallel_tuple_cost', '0.01', true),
			set_config('min_parallel_table_scan_size', '0', true);
	EXECUTE format(compare, '', 'candidate') INTO parallel;
	EXECUTE 'EXPLAIN (FORMAT json) ' || format(compare, '', 'candidate') INTO plan;
	in_workers := plan::text LIKE '%Partial%';
	DROP TABLE candidate, oracle;
END $$;
SELECT name, d.* FROM candidate_type c, differences(c.name, c.ordered, c.expression) d;

--
-- Plans
--
CREATE TABLE versions (id int, ref int, name text, doc text, modified_at timestamptz, record_offset bigint)
	WITH (parallel_workers = 2);
ALTER TABLE versions ALTER doc SET STORAGE EXTERNAL;
INSERT INTO versions
SELECT i, i % 1000, 'name ' || i, repeat(md5(i::text), CASE WHEN i % 100 = 0 THEN 1000 ELSE 10 END), to_timestamp(i * 7919 % 10007), i
FROM generate_series(1, 10000) i;
ANALYZE versions;
CREATE TABLE newest AS SELECT DISTINCT ON (ref) * FROM versions ORDER BY ref, modified_at DESC, record_offset DESC;
-- in parallel
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0.01;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT ref, entity_merge(doc, modified_at, record_offset) FROM versions GROUP BY ref;
SELECT count(*) FROM (SELECT ref, entity_merge(doc, modified_at, record_offset) AS doc FROM versions GROUP BY ref) m
JOIN newest USING (ref) WHERE m.doc = newest.doc;
SELECT count(*) FROM (SELECT ref, (entity_merge(versions, modified_at, record_offset)).* FROM versions GROUP BY ref) m
JOIN newest USING (id) WHERE m.doc = newest.doc;
-- anonymous rows go through workers as well
SELECT count(*) FROM (SELECT ref, entity_merge(ROW(id, doc), modified_at) AS doc FROM versions GROUP BY ref) m
JOIN newest USING (ref) WHERE m.doc = ROW(id, newest.doc);
-- without rows in some or all workers
SELECT entity_merge(name, modified_at) FROM versions WHERE id = 77;
SELECT entity_merge(name, modified_at) IS NULL FROM versions WHERE id < 0;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
-- groups that do not fit into memory
SET work_mem = '64kB';
SET enable_sort = off;
SELECT count(*) FROM (SELECT ref, entity_merge(doc, modified_at) AS doc FROM versions GROUP BY ref) m
JOIN newest USING (ref) WHERE m.doc = newest.doc;
RESET work_mem;
RESET enable_sort;
-- FILTER, DISTINCT, ORDER BY, grouping sets
SELECT ref, entity_merge(name, modified_at) AS newest, entity_merge(name, modified_at) FILTER (WHERE id < 5000) AS early,
	   entity_merge(DISTINCT name, modified_at) AS once, entity_merge(name, modified_at ORDER BY id) AS ordered
FROM versions WHERE ref < 2 GROUP BY ROLLUP (ref) ORDER BY ref;
-- a moving window, where every frame is merged anew
SELECT count(*) FROM (SELECT id, entity_merge(doc, modified_at) OVER (ORDER BY id ROWS 3 PRECEDING) AS doc FROM versions WHERE id <= 500) w
WHERE doc = (SELECT v.doc FROM versions v WHERE v.id BETWEEN w.id - 3 AND w.id ORDER BY modified_at DESC LIMIT 1);
-- a growing one, where the state lives on after it was shown
SELECT count(*), count(DISTINCT doc) FROM (SELECT id, entity_merge(doc, modified_at) OVER (ORDER BY id) AS doc FROM versions WHERE id <= 500) w
WHERE doc = (SELECT v.doc FROM versions v WHERE v.id <= w.id ORDER BY modified_at DESC LIMIT 1);
-- the result outlives the table that held its toasted parts
CREATE TABLE kept AS SELECT entity_merge(ROW(id::text, doc, 1)::guest, modified_at) AS g, entity_merge(array_append(ARRAY[doc], doc), modified_at) AS a
FROM versions WHERE id % 100 = 0;
SELECT (g).ref, md5((g).name), md5(a::text) FROM kept;
DROP TABLE versions;
SELECT (g).ref, md5((g).name), md5(a::text) FROM kept;

--
-- Errors
--
-- the parts cannot be called by hand
SELECT _entity_merge_step(NULL::internal, 1, now());
-- a literal needs a type
SELECT entity_merge('unknown', now());
-- columns of different collations leave none: max() fails, here ties are ordered by bytes
CREATE TABLE collations (a text COLLATE "C", b text COLLATE "POSIX");
INSERT INTO collations VALUES ('a', 'b'), ('b', 'a');
SELECT max(a || b) FROM collations;
SELECT entity_merge(a || b, '2017-03-26Z') FROM collations;

SET client_min_messages = warning;
DROP SCHEMA entity_merge_test CASCADE;
