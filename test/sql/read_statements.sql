-- Reading inside statements of every kind: what a statement sees is the truth of its own snapshot,
-- whatever the session wrote, rolled back, fetched or failed at before. Nothing is kept across statements.
\set SHOW_CONTEXT never
SET client_min_messages = error;
SET jit = off;
CREATE SCHEMA reading;
CREATE TYPE reading.guest_shape AS (ref text, name text, modified_at timestamptz);
CREATE TYPE reading.order_shape AS (ref integer, guest_ref text, total numeric, modified_at timestamptz);
SELECT guest_context.create_entity('reading.guests', 'reading.guest_shape');
SELECT guest_context.create_entity('reading.orders', 'reading.order_shape', parent => 'reading.guests', parent_ref => '{guest_ref}');

-- day n of 2020
CREATE FUNCTION reading.day(n integer) RETURNS timestamptz IMMUTABLE LANGUAGE sql RETURN timestamptz '2020-01-01 00:00:00+00' + (n || ' days')::interval;
-- records as they would be ingested, many at a time
CREATE FUNCTION reading.put_orders(first integer, last integer, guest text, total numeric, day integer, deleted boolean = false) RETURNS void LANGUAGE sql AS $$
	INSERT INTO reading.orders_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, modified_at, ref, guest_ref, total)
	SELECT clock_timestamp(), nextval('reading.orders_offset_seq'), 0, 0, 0, deleted, reading.day(day), i,
	       CASE WHEN NOT deleted THEN coalesce(guest, 'g' || i % 10) END, CASE WHEN NOT deleted THEN total END
	FROM generate_series(first, last) i $$;
CREATE FUNCTION reading.put_guest(ref text, name text, day integer) RETURNS void LANGUAGE sql AS $$
	SELECT guest_context.apply('reading.guests', json_build_object('ref', ref, 'name', name, 'modified_at', to_char(reading.day(day) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')));
	SELECT $$;
SELECT FROM generate_series(0, 9) i, LATERAL reading.put_guest('g' || i, 'name ' || i, 1);
-- 3,000 orders in three versions each, so that scans map the window; a tenth is deleted
SELECT reading.put_orders(1, 3000, NULL, 1, 1), reading.put_orders(1, 3000, NULL, 2, 3), reading.put_orders(1, 3000, NULL, 3, 2), reading.put_orders(1, 300, NULL, NULL, 4, true);
ANALYZE reading.orders_versions;
CREATE VIEW reading.now AS SELECT count(*) AS orders, sum(total) AS total, count(DISTINCT guest_ref) AS guests FROM reading.orders;
SELECT * FROM reading.now;

--
-- One statement
--

-- two entities, one of them twice, and each in a subquery too
SELECT g.ref, count(*) AS orders, sum(a.total) AS total, (SELECT count(*) FROM reading.orders c WHERE c.guest_ref = g.ref AND c.ref = ANY (array_agg(b.ref))) AS again
FROM reading.guests g JOIN reading.orders a ON a.guest_ref = g.ref JOIN reading.orders b ON b.ref = a.ref
WHERE EXISTS (SELECT FROM reading.guests x WHERE x.ref = g.ref AND x.name LIKE 'name %') GROUP BY g.ref ORDER BY 1 LIMIT 3;
-- a scan and point reads of one entity side by side: rescans of a lateral and of a correlated subquery
SELECT count(*), sum(l.total), sum((SELECT i.total FROM reading.orders i WHERE i.ref = o.ref + 1)) AS next
FROM reading.orders o, LATERAL (SELECT x.total FROM reading.orders x WHERE x.ref = o.ref OFFSET 0) l WHERE o.ref % 100 = 0;
-- a nested loop whose inner side is the whole view, read again for each outer row
SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; SET enable_memoize = off;
SELECT i, count(o.ref), sum(o.total) FROM generate_series(298, 303) i LEFT JOIN reading.orders o ON o.ref::bigint = i::bigint GROUP BY i ORDER BY i;
RESET enable_hashjoin; RESET enable_mergejoin; RESET enable_material; RESET enable_memoize;
-- an initplan, a CTE read twice, a set operation and a recursive query
WITH t AS MATERIALIZED (SELECT ref, total FROM reading.orders WHERE ref <= 310)
SELECT (SELECT count(*) FROM t), (SELECT max(ref) FROM t), (SELECT count(*) FROM (SELECT ref FROM t EXCEPT SELECT ref FROM reading.orders WHERE ref > 305) x),
       (WITH RECURSIVE r(n) AS (SELECT 301 UNION ALL SELECT o.ref + 1 FROM r JOIN reading.orders o ON o.ref = r.n WHERE n < 310) SELECT count(*) FROM r);
-- writing what is read, in one statement: it reads as of before
CREATE TABLE reading.copy AS SELECT * FROM reading.orders WHERE ref > 2990;
INSERT INTO reading.copy SELECT o.* FROM reading.orders o JOIN reading.copy c USING (ref);
UPDATE reading.copy c SET total = o.total + 1 FROM reading.orders o WHERE o.ref = c.ref AND o.ref > 2995;
DELETE FROM reading.copy c WHERE EXISTS (SELECT FROM reading.orders o WHERE o.ref = c.ref AND o.guest_ref = 'g9');
SELECT count(*), sum(total) FROM reading.copy;
MERGE INTO reading.copy c USING (SELECT * FROM reading.orders WHERE ref BETWEEN 2988 AND 2992) o ON o.ref = c.ref
	WHEN MATCHED THEN UPDATE SET total = 100 WHEN NOT MATCHED THEN INSERT VALUES (o.ref, o.guest_ref, 1000, o.modified_at);
SELECT count(*), sum(total) FROM reading.copy;
WITH put AS (SELECT reading.put_orders(5001, 5003, 'g1', 7, 5)) SELECT (SELECT count(*) FROM put), (SELECT orders FROM reading.now) AS before;
SELECT * FROM reading.now;
-- a function that reads the entity which its caller reads, with a snapshot of its own; and one that sees what the caller sees
CREATE FUNCTION reading.count_now() RETURNS bigint VOLATILE LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM reading.orders); END $$;
CREATE FUNCTION reading.count_then() RETURNS bigint STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM reading.orders); END $$;
CREATE FUNCTION reading.put_and_count(ref integer) RETURNS bigint VOLATILE LANGUAGE plpgsql AS $$
BEGIN PERFORM reading.put_orders(ref, ref, 'g2', 1, 6); RETURN reading.count_now(); END $$;
SELECT o.ref, reading.put_and_count(6000 + o.ref) AS now, reading.count_then() AS "then", (SELECT count(*) FROM reading.orders) AS here
FROM reading.orders o WHERE o.ref BETWEEN 301 AND 304 ORDER BY 1;

--
-- Cursors
--

-- what was written since a cursor was opened is not in it, by whichever way it reads
BEGIN;
DECLARE forth SCROLL CURSOR FOR SELECT ref, total FROM reading.orders ORDER BY ref;
DECLARE plain NO SCROLL CURSOR FOR SELECT ref, total FROM reading.orders WHERE ref < 2000;
DECLARE one CURSOR FOR SELECT ref, total FROM reading.orders WHERE ref = 400;
FETCH 2 FROM forth;
MOVE 1000 FROM plain;
SELECT reading.put_orders(301, 400, 'g3', 99, 7), reading.put_orders(2995, 3000, NULL, NULL, 7, true);
FETCH 2 FROM forth; FETCH LAST FROM forth; FETCH FIRST FROM forth; FETCH BACKWARD 1 FROM forth; FETCH ABSOLUTE 100 FROM forth;
FETCH ALL FROM one;
MOVE ALL FROM plain;
SELECT * FROM reading.now;
ROLLBACK;
SELECT * FROM reading.now;
-- two cursors over one entity, opened in different states and fetched in turn
BEGIN;
DECLARE early CURSOR FOR SELECT ref, total FROM reading.orders WHERE ref IN (501, 502) ORDER BY ref;
FETCH 1 FROM early;
SELECT reading.put_orders(501, 502, NULL, 50, 8);
DECLARE late CURSOR FOR SELECT ref, total FROM reading.orders WHERE ref IN (501, 502) ORDER BY ref;
FETCH 1 FROM late; FETCH 1 FROM early; FETCH 1 FROM late;
ROLLBACK;
-- held over the end of its transaction, and what comes later does not touch it
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT ref, total FROM reading.orders WHERE ref > 2990 AND ref <= 3000 ORDER BY ref;
FETCH 3 FROM held;
COMMIT;
SELECT reading.put_orders(2991, 3000, NULL, 1, 9);
FETCH 2 FROM held; FETCH FORWARD ALL FROM held;
CLOSE held;
-- and from PL/pgSQL, where each fetch is a statement of the function
CREATE FUNCTION reading.walk() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	c CURSOR FOR SELECT ref, total FROM reading.orders WHERE ref BETWEEN 701 AND 704 ORDER BY ref;
	r record;
BEGIN
	FOR r IN c LOOP
		PERFORM reading.put_orders(701, 704, NULL, r.ref, 10 + r.ref - 700);
		RETURN NEXT format('%s: %s, now %s', r.ref, r.total, (SELECT string_agg(total::text, ' ' ORDER BY ref) FROM reading.orders WHERE ref BETWEEN 701 AND 704));
	END LOOP;
END $$;
SELECT * FROM reading.walk();

--
-- A loop that writes and reads: no statement sees what another one has cached
--
DO $$
DECLARE
	wrong integer := 0;
	expected bigint;
BEGIN
	SELECT count(*) INTO expected FROM reading.orders;
	FOR i IN 1 .. 30 LOOP
		PERFORM reading.put_orders(9000 + i, 9000 + i, 'g4', i, 1);
		IF i % 3 = 0 THEN PERFORM reading.put_orders(9000 + i - 1, 9000 + i - 1, NULL, NULL, 2, true); END IF;
		expected := expected + CASE WHEN i % 3 = 0 THEN 0 ELSE 1 END;
		wrong := wrong + (SELECT (count(*) <> expected)::integer FROM reading.orders);
		wrong := wrong + (SELECT (count(*) <> 1)::integer FROM reading.orders WHERE ref = 9000 + i);
		wrong := wrong + (SELECT (count(*) <> CASE WHEN i % 3 = 0 THEN 0 ELSE 1 END)::integer FROM reading.orders WHERE ref = 9000 + i - 1 AND i > 1) * (i > 1)::integer;
	END LOOP;
	RAISE INFO '% wrong', wrong;
END $$;

--
-- ROLLBACK TO: transaction and command numbers come again, the rows behind them do not
--
BEGIN;
SELECT count(*) FROM reading.orders WHERE total = 77;
SAVEPOINT s;
SELECT reading.put_orders(1000, 1999, NULL, 77, 40);
SELECT count(*) FROM reading.orders WHERE total = 77;
ROLLBACK TO s;
SELECT count(*) FROM reading.orders WHERE total = 77;
SELECT reading.put_orders(1000, 1009, NULL, 77, 40);
SELECT count(*) FROM reading.orders WHERE total = 77;
SELECT total FROM reading.orders WHERE ref = 1005;
ROLLBACK TO s;
SELECT count(*) FROM reading.orders WHERE total = 77;
SELECT total FROM reading.orders WHERE ref = 1005;
COMMIT;
-- exceptions are savepoints too
DO $$
DECLARE
	seen text := '';
BEGIN
	FOR i IN 1 .. 3 LOOP
		BEGIN
			PERFORM reading.put_orders(1000, 1999, NULL, 77, 40 + i);
			seen := seen || (SELECT count(*) FROM reading.orders WHERE total = 77) || ' ';
			IF i < 3 THEN RAISE EXCEPTION 'undo'; END IF;
			PERFORM reading.put_orders(1000, 1999, NULL, 1, 50);
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
		seen := seen || (SELECT count(*) FROM reading.orders WHERE total = 77) || ', ';
	END LOOP;
	RAISE INFO '%', seen;
END $$;

--
-- Errors in the middle of reading; the next statement reads right
--

-- in the rows of the outer plan, before and after the window has been read into a map
SELECT sum(1 / (ref - 301)) FROM reading.orders;
SELECT sum(1 / (ref - 2800)) FROM reading.orders;
SELECT * FROM reading.now;
-- in a function called from the plan, caught there or not, with readings of its own
CREATE FUNCTION reading.fail_at(bad integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM 1 / (o.ref - bad) FROM reading.orders o WHERE o.total > 0;
	EXCEPTION WHEN division_by_zero THEN RETURN -1;
	END;
	RETURN (SELECT count(*) FROM reading.orders WHERE guest_ref = 'g1' AND ref < 400);
END $$;
SELECT reading.fail_at(CASE WHEN o.ref % 2 = 0 THEN 2802 ELSE -1 END) AS result, count(*), max(o.ref) FROM reading.orders o WHERE o.ref BETWEEN 2801 AND 2804 GROUP BY 1 ORDER BY 1;
SELECT * FROM reading.now;
-- by a timeout
BEGIN;
SET LOCAL statement_timeout = 1;
SELECT count(*) FROM reading.orders a, reading.orders b, reading.orders c WHERE a.total + b.total + c.total < 0;
ROLLBACK;
SELECT * FROM reading.now;
-- a cursor that was left open when its transaction failed, and one that outlives an error
BEGIN;
DECLARE c CURSOR FOR SELECT ref FROM reading.orders;
FETCH 1 FROM c;
SELECT 1 / 0;
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT ref FROM reading.orders WHERE ref > 400;
MOVE 5 FROM c;
SAVEPOINT s;
SELECT 1 / 0;
ROLLBACK TO s;
MOVE ALL FROM c;
COMMIT;

--
-- Prepared statements of this session across its own activations (E11)
--
SET plan_cache_mode = force_generic_plan;
PREPARE of_guest(text) AS SELECT count(*), sum(total) FROM reading.orders WHERE guest_ref = $1;
PREPARE by_ref(integer) AS SELECT ref, total FROM reading.orders WHERE ref = $1;
PREPARE by_refs(integer[]) AS SELECT count(*), sum(total) FROM reading.orders WHERE ref = ANY ($1);
EXECUTE of_guest('g5'); EXECUTE by_ref(350); EXECUTE by_ref(150); EXECUTE by_ref(NULL); EXECUTE by_refs('{350,150,351,350,NULL}');
SELECT guest_context.create_dataset('reading.guests', now()) AS first \gset
SELECT guest_context.load_dataset(:first, 'reading.guests', 'SELECT ''g5'' AS ref, ''only one'' AS name, reading.day(60) AS modified_at');
SELECT guest_context.load_dataset(:first, 'reading.orders', 'SELECT i AS ref, ''g5'' AS guest_ref, 1000 AS total, reading.day(60) AS modified_at FROM generate_series(300, 400) i');
SELECT guest_context.seal_dataset(:first);
EXECUTE of_guest('g5'); EXECUTE by_ref(350);
SELECT count(*) FROM guest_context.verify_dataset(:first);
SELECT guest_context.activate_dataset(:first, force => true);
-- the window is twelve hours longer than the dataset, so the records still count
EXECUTE of_guest('g5'); EXECUTE by_ref(350); EXECUTE by_ref(150); EXECUTE by_refs('{350,150,351,350,NULL}');
BEGIN;
SELECT guest_context.build_dataset('reading.guests') AS second \gset
SELECT guest_context._build_dataset_now(:second) = :second AS built;
SELECT count(*) FROM guest_context.verify_dataset(:second);
SELECT guest_context.activate_dataset(:second, force => true) = :first AS activated;
EXECUTE of_guest('g5'); EXECUTE by_ref(350);
ROLLBACK;
EXECUTE of_guest('g5'); EXECUTE by_ref(350); EXECUTE by_ref(2000);
DEALLOCATE ALL;
RESET plan_cache_mode;

-- the view and its portable form agree to the end
SELECT guest_context.truth_sql('reading.orders', true) AS portable \gset
SELECT count(*) AS different FROM ((TABLE reading.orders EXCEPT ALL (:portable)) UNION ALL ((:portable) EXCEPT ALL TABLE reading.orders)) d;

DROP VIEW reading.now;
SELECT guest_context.drop_entity('reading.orders'), guest_context.drop_entity('reading.guests');
DROP SCHEMA reading CASCADE;
