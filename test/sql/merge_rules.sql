-- The rules of merging, one readable case for each. Records are placed at arrival times of 2020, so that windows
-- and datasets are the same on every day; every case must agree with the portable form of the view.
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
SET jit = off;	-- discouraged scans look expensive enough for it
CREATE ROLE regress_merge_owner LOGIN;
CREATE SCHEMA merge_rules AUTHORIZATION regress_merge_owner;
SET SESSION AUTHORIZATION regress_merge_owner;
SET search_path = merge_rules;

-- a partition for arrivals of the past, before the oldest that create_entity made
CREATE FUNCTION open_past(entity text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE %1$I PARTITION OF %2$I FOR VALUES FROM (''2020-01-01'') TO (%3$L)', entity || '_past', entity || '_speed',
		(SELECT min(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''(.*?)''\)')::timestamptz)
		 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = (entity || '_speed')::regclass));
END $$;

-- a record as a changelog would bring it: when it arrived, and from where
CREATE FUNCTION arrive(entity text, arrived_at timestamptz, record json, deleted boolean DEFAULT false,
	source integer DEFAULT 0, partition integer DEFAULT 0, record_offset bigint DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	columns text = (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = entity::regclass AND attnum > 0);
BEGIN
	EXECUTE format('INSERT INTO %1$I (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, %2$s)'
		' SELECT $2, coalesce($6, nextval(%4$L)), 0, $4, $5, $3, %2$s FROM json_populate_record(NULL::%3$I, $1)',
		entity || '_versions', columns, entity, entity || '_offset_seq')
	USING record, arrived_at, deleted, source, partition, record_offset;
END $$;

-- a dataset of these rows, sealed, verified and activated; its number
CREATE FUNCTION snapshot(root text, as_of timestamptz, entity text, rows json, other text DEFAULT NULL, other_rows json DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	id bigint = guest_context.create_dataset(root::regclass, as_of);
BEGIN
	PERFORM guest_context.load_dataset(id, entity::regclass, format('SELECT p.*, coalesce((r ->> ''gc_deleted'')::boolean, false) AS gc_deleted'
		' FROM json_array_elements(%L) r, json_populate_record(NULL::%I, r) p', rows, entity));
	IF other IS NOT NULL THEN
		PERFORM guest_context.load_dataset(id, other::regclass, format('SELECT p.* FROM json_populate_recordset(NULL::%I, %L) p', other, other_rows));
	END IF;
	PERFORM guest_context.seal_dataset(id);
	PERFORM guest_context.verify_dataset(id);
	PERFORM guest_context.activate_dataset(id, force => true);
	RETURN id;
END $$;

-- does the view agree with its portable form, by map, by filter and by index?
CREATE FUNCTION agrees(entity text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	difference text = format('SELECT count(*) = 0 FROM ((TABLE %1$I EXCEPT ALL (%2$s)) UNION ALL ((%2$s) EXCEPT ALL TABLE %1$I)) d',
		entity, guest_context.truth_sql(entity::regclass, true));
	by_map boolean;
	by_filter boolean;
	by_index boolean;
BEGIN
	EXECUTE difference INTO by_map;
	SET LOCAL guest_context.window_memory = '64kB';
	EXECUTE difference INTO by_filter;
	RESET guest_context.window_memory;
	SET LOCAL enable_seqscan = off;
	EXECUTE difference INTO by_index;
	SET LOCAL enable_seqscan = on;
	RETURN by_map AND by_filter AND by_index;
END $$;

CREATE TYPE guest_shape AS (ref text, first_name text, modified_at timestamptz);
CREATE TYPE order_shape AS (ref text, guest_ref text, status text, total numeric, modified_at timestamptz);
SELECT guest_context.create_entity('guests', 'guest_shape');
SELECT guest_context.create_entity('orders', 'order_shape', parent => 'guests', parent_ref => '{guest_ref}');
SELECT open_past('guests'), open_past('orders');

-- February's dataset: window from 31 January 12:00
SELECT snapshot('guests', '2020-02-01', 'guests',
	'[{"ref": "A", "first_name": "Ada", "modified_at": "2020-01-02T00:00:00Z"}, {"ref": "B", "first_name": "Bob", "modified_at": "2020-01-02T00:00:00Z"}]',
	'orders', '[
	{"ref": "moves",   "guest_ref": "A", "status": "NEW",  "total": 10,  "modified_at": "2020-01-10T00:00:00Z"},
	{"ref": "stays",   "guest_ref": "A", "status": "NEW",  "total": 5,   "modified_at": "2020-01-10T00:00:00Z"},
	{"ref": "late 1",  "guest_ref": "B", "status": "old",  "total": 1,   "modified_at": "2020-01-20T00:00:00Z"},
	{"ref": "late 2",  "guest_ref": "B", "status": "new",  "total": 1,   "modified_at": "2020-01-31T00:00:00Z"},
	{"ref": "correct", "guest_ref": "B", "status": "NEW",  "total": 100, "modified_at": "2020-01-10T00:00:00Z"},
	{"ref": "tie",     "guest_ref": "B", "status": "batch","total": 1,   "modified_at": "2020-01-31T18:00:00Z"},
	{"ref": "tie 2",   "guest_ref": "B", "status": "batch","total": 1,   "modified_at": "2020-01-31T18:00:00Z"},
	{"ref": "twice",   "guest_ref": "B", "status": "older","total": 1,   "modified_at": "2020-01-10T00:00:00Z"},
	{"ref": "twice",   "guest_ref": "B", "status": "newer","total": 1,   "modified_at": "2020-01-11T00:00:00Z"},
	{"ref": "ahead",   "guest_ref": "B", "status": "batch","total": 1,   "modified_at": "2020-02-20T00:00:00Z"}]') AS february \gset

--
-- Rule 4: latest wins per key, before any filter
--

-- an order that moves from guest A to B is gone under A, wherever the filter stands
SELECT arrive('orders', '2020-02-02', '{"ref": "moves", "guest_ref": "B", "status": "NEW", "total": 10, "modified_at": "2020-02-02T00:00:00Z"}');
SELECT ref FROM orders WHERE guest_ref = 'A';
SELECT ref FROM orders WHERE guest_ref = 'B' AND ref = 'moves';
SELECT ref FROM (SELECT * FROM orders OFFSET 0) o WHERE guest_ref = 'A';
-- through a join, an outer join, a subquery for each row, a semijoin, an aggregate and top-N
SELECT g.ref AS guest, o.ref AS order FROM guests g JOIN orders o ON o.guest_ref = g.ref WHERE g.ref = 'A';
SELECT g.ref AS guest, o.ref AS order FROM guests g LEFT JOIN orders o ON o.guest_ref = g.ref AND o.total = 10 ORDER BY 1;
SELECT g.ref AS guest, (SELECT count(*) FROM orders o WHERE o.guest_ref = g.ref) AS orders FROM guests g ORDER BY 1;
SELECT g.ref AS guest FROM guests g WHERE EXISTS (SELECT FROM orders o WHERE o.guest_ref = g.ref AND o.total = 10);
SELECT guest_ref, count(*) FROM orders WHERE total = 10 GROUP BY guest_ref;
SELECT ref, guest_ref FROM orders ORDER BY total DESC, ref LIMIT 2;
-- by the index on guest_ref, by a generic plan, and in the middle of a cursor
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT ref FROM orders WHERE guest_ref = 'A';
SELECT g.ref AS guest, o.ref AS order FROM guests g JOIN orders o ON o.guest_ref = g.ref WHERE g.ref = 'A';
RESET enable_seqscan;
RESET enable_bitmapscan;
SET plan_cache_mode = force_generic_plan;
PREPARE orders_of AS SELECT ref FROM orders WHERE guest_ref = $1 ORDER BY ref;
EXECUTE orders_of('A');
RESET plan_cache_mode;
SELECT agrees('orders');

--
-- Rules 1 and 5: the newest version wins, the window goes by arrival
--

-- a record three days late lands in the window and is seen, if nothing newer is there
SELECT arrive('orders', '2020-02-03', '{"ref": "late 1", "guest_ref": "B", "status": "late", "total": 1, "modified_at": "2020-01-30T00:00:00Z"}');
SELECT arrive('orders', '2020-02-03', '{"ref": "late 2", "guest_ref": "B", "status": "late", "total": 1, "modified_at": "2020-01-30T00:00:00Z"}');
SELECT ref, status FROM orders WHERE ref LIKE 'late _' ORDER BY ref;
-- what arrived before the window does not count, however new it is
SELECT arrive('orders', '2020-01-31 11:59:59', '{"ref": "stays", "guest_ref": "B", "status": "early", "total": 5, "modified_at": "2020-02-09T00:00:00Z"}');
SELECT ref, status FROM orders WHERE ref = 'stays';
-- at the window's start it does
SELECT arrive('orders', '2020-01-31 12:00:00', '{"ref": "stays", "guest_ref": "A", "status": "in time", "total": 5, "modified_at": "2020-01-31T00:00:00Z"}');
SELECT ref, status FROM orders WHERE ref = 'stays';
-- of two loaded versions of one key seal keeps the newer
SELECT ref, status FROM orders WHERE ref = 'twice';
-- a row of the dataset that is dated ahead wins until it is overtaken
SELECT arrive('orders', '2020-02-10', '{"ref": "ahead", "guest_ref": "B", "status": "speed", "total": 1, "modified_at": "2020-02-10T00:00:00Z"}');
SELECT status FROM orders WHERE ref = 'ahead';
SELECT arrive('orders', '2020-02-21', '{"ref": "ahead", "guest_ref": "B", "status": "speed", "total": 1, "modified_at": "2020-02-21T00:00:00Z"}');
SELECT status FROM orders WHERE ref = 'ahead';
SELECT agrees('orders');

--
-- Rule 2: the order is total
--

-- at equal version speed beats batch, and so does a tombstone
SELECT arrive('orders', '2020-02-04', '{"ref": "tie", "guest_ref": "B", "status": "speed", "total": 1, "modified_at": "2020-01-31T18:00:00Z"}');
SELECT arrive('orders', '2020-02-04', '{"ref": "tie 2", "modified_at": "2020-01-31T18:00:00Z"}', deleted => true);
SELECT ref, status FROM orders WHERE ref LIKE 'tie%';
-- a delete and a re-insert in one millisecond: the later offset wins, whichever arrived first
SELECT arrive('orders', '2020-02-04', '{"ref": "ms 1", "status": "alive", "modified_at": "2020-02-04T00:00:00.001Z"}', false, 1, 0, 10);
SELECT arrive('orders', '2020-02-04', '{"ref": "ms 1", "modified_at": "2020-02-04T00:00:00.001Z"}', true, 1, 0, 9);
SELECT arrive('orders', '2020-02-04', '{"ref": "ms 2", "modified_at": "2020-02-04T00:00:00.001Z"}', true, 1, 0, 12);
SELECT arrive('orders', '2020-02-05', '{"ref": "ms 2", "status": "dead", "modified_at": "2020-02-04T00:00:00.001Z"}', false, 1, 0, 11);
SELECT ref, status FROM orders WHERE ref LIKE 'ms _';
-- version, source, partition, offset, arrival: each decides when those before it are equal
SELECT arrive('orders', '2020-02-05', json_build_object('ref', 'total order', 'status', concat_ws(' ', v, s, p, o, a), 'modified_at', timestamptz '2020-02-05' + v * interval '1 us'),
	source => s, partition => p, record_offset => o) FROM generate_series(0, 1) v, generate_series(0, 1) s, generate_series(0, 1) p, generate_series(0, 1) o, (VALUES (0)) x(a);
SELECT arrive('orders', '2020-02-06', json_build_object('ref', 'total order', 'status', concat_ws(' ', v, s, p, o, a), 'modified_at', timestamptz '2020-02-05' + v * interval '1 us'),
	source => s, partition => p, record_offset => o) FROM generate_series(0, 1) v, generate_series(0, 1) s, generate_series(0, 1) p, generate_series(0, 1) o, (VALUES (1)) x(a);
SELECT status FROM orders WHERE ref = 'total order';
-- take the winner away, 31 times: the next best in that order is what shows
CREATE FUNCTION ranking(key text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	winner text;
	ranking text;
BEGIN
	LOOP
		SELECT status INTO winner FROM orders WHERE ref = key;
		EXIT WHEN NOT FOUND;
		ranking = concat_ws(', ', ranking, replace(winner, ' ', ''));
		DELETE FROM orders_versions WHERE ref = key AND status = winner;
	END LOOP;
	RETURN ranking;
END $$;
BEGIN;
SELECT ranking('total order');
ROLLBACK;
-- a record read twice, or three times, shows once; so does one that came twice at the same moment
SELECT arrive('orders', a, '{"ref": "replayed", "status": "once", "modified_at": "2020-02-06T00:00:00Z"}', false, 1, 3, 77)
FROM (VALUES (timestamptz '2020-02-06'), ('2020-02-07'), ('2020-02-07'), ('2020-02-08')) v(a);
SELECT ref, status FROM orders WHERE ref = 'replayed';
SELECT count(*) AS versions FROM orders_versions WHERE ref = 'replayed';
SELECT agrees('orders');

--
-- Rule 3: a tombstone is a version like any other
--

-- it beats older records and loses to newer ones, whatever came first
SELECT arrive('orders', '2020-02-08', '{"ref": "dead 1", "modified_at": "2020-02-08T00:00:00Z"}', deleted => true);
SELECT arrive('orders', '2020-02-09', '{"ref": "dead 1", "status": "older", "modified_at": "2020-02-07T00:00:00Z"}');
SELECT arrive('orders', '2020-02-08', '{"ref": "dead 2", "modified_at": "2020-02-08T00:00:00Z"}', deleted => true);
SELECT arrive('orders', '2020-02-09', '{"ref": "dead 2", "status": "newer", "modified_at": "2020-02-09T00:00:00Z"}');
SELECT ref, status FROM orders WHERE ref LIKE 'dead _';
-- it carries no parent, and yet its order is gone under the parent
SELECT arrive('orders', '2020-02-09', '{"ref": "moves", "modified_at": "2020-02-09T00:00:00Z"}', deleted => true);
SELECT ref FROM orders WHERE guest_ref IN ('A', 'B') AND total = 10;
SELECT agrees('orders');

--
-- Rule 6: totals are computed over merged children
--

-- 100 corrected to 40 is 40, not 140; an order that moves takes its total along
SELECT arrive('orders', '2020-02-10', '{"ref": "correct", "guest_ref": "B", "status": "NEW", "total": 40, "modified_at": "2020-02-10T00:00:00Z"}');
SELECT sum(total) FROM orders WHERE ref = 'correct';
SELECT g.ref AS guest, sum(o.total) AS lifetime_value FROM guests g LEFT JOIN orders o ON o.guest_ref = g.ref GROUP BY g.ref ORDER BY 1;
SELECT arrive('orders', '2020-02-11', '{"ref": "correct", "guest_ref": "A", "status": "NEW", "total": 40, "modified_at": "2020-02-11T00:00:00Z"}');
SELECT g.ref AS guest, sum(o.total) AS lifetime_value FROM guests g LEFT JOIN orders o ON o.guest_ref = g.ref GROUP BY g.ref ORDER BY 1;
SELECT agrees('orders');

--
-- Rule 7, and rollback: one dataset and one window in a statement
--

-- March's dataset: window from 29 February 12:00. What arrived in February comes from the dataset now
PREPARE status_of AS SELECT ref, status, total FROM orders WHERE ref = ANY ($1) ORDER BY ref;
EXECUTE status_of('{correct,"late 1","only in february",stays}');
SELECT snapshot('guests', '2020-03-01', 'guests', '[{"ref": "A", "first_name": "Ada", "modified_at": "2020-02-02T00:00:00Z"}]',
	'orders', '[
	{"ref": "correct", "guest_ref": "A", "status": "march", "total": 41, "modified_at": "2020-02-11T00:00:00Z"},
	{"ref": "late 1",  "guest_ref": "B", "status": "march", "total": 1,  "modified_at": "2020-02-25T00:00:00Z"}]') AS march \gset
SELECT arrive('orders', '2020-02-20', '{"ref": "only in february", "status": "out of the window", "modified_at": "2020-02-20T00:00:00Z"}');
EXECUTE status_of('{correct,"late 1","only in february",stays}');
SELECT ref FROM guests;
SELECT agrees('orders'), agrees('guests');
-- a rollback widens the window in the same moment: what arrived since is seen again
BEGIN;
SELECT guest_context.rollback_dataset('guests') = :february AS back;
EXECUTE status_of('{correct,"late 1","only in february",stays}');
SELECT ref FROM guests ORDER BY ref;
SELECT agrees('orders'), agrees('guests');
ROLLBACK;
EXECUTE status_of('{correct,"late 1","only in february",stays}');
SELECT guest_context.rollback_dataset('guests') = :february AS back;
EXECUTE status_of('{correct,"late 1","only in february",stays}');
SELECT agrees('orders'), agrees('guests');
-- an open cursor stays with the dataset that its snapshot saw
BEGIN;
DECLARE reader CURSOR FOR SELECT ref, total FROM orders WHERE ref = 'correct';
SELECT guest_context.verify_dataset(:march) IS NOT NULL AS verified LIMIT 1;
SELECT guest_context.activate_dataset(:march, force => true) = :february AS from_february;
FETCH reader;
SELECT ref, total FROM orders WHERE ref = 'correct';
ROLLBACK;

--
-- Rule 9: a tombstone keeps the dead dead after the window has passed it
--

-- an external dataset brings its tombstones
SELECT snapshot('guests', '2020-04-01', 'guests',
	'[{"ref": "gone", "first_name": "not kept", "modified_at": "2020-03-20T00:00:00Z", "gc_deleted": true}, {"ref": "C", "modified_at": "2020-03-20T00:00:00Z"}]',
	'orders', '[{"ref": "o", "guest_ref": "C", "modified_at": "2020-03-20T00:00:00Z"}]') AS april \gset
SELECT arrive('guests', '2020-04-02', '{"ref": "gone", "first_name": "late", "modified_at": "2020-03-19T00:00:00Z"}');
SELECT ref, first_name FROM guests;
-- an even later version may raise it
SELECT arrive('guests', '2020-04-03', '{"ref": "gone", "first_name": "back", "modified_at": "2020-03-21T00:00:00Z"}');
SELECT ref, first_name FROM guests ORDER BY ref;
SELECT agrees('guests');

-- sealing takes over those that its window does not reach, from `retention` before as_of on: for keys that the
-- snapshot does not have, or has a tombstone of. A key that it has alive is its own word.
SELECT guest_context.create_entity('tablets', 'guest_shape', retention => '7 days');
SELECT open_past('tablets');
SELECT arrive('tablets', '2020-04-20', json_build_object('ref', r, 'modified_at', v), deleted => true) FROM (VALUES
	('dead', '2020-04-20T00:00:00Z'), ('long dead', '2020-03-01T00:00:00Z'), ('dead twice', '2020-04-20T00:00:00Z'),
	('denied', '2020-04-20T00:00:00Z'), ('undead', '2020-04-19T00:00:00Z')) x(r, v);
SELECT arrive('tablets', '2020-04-20', '{"ref": "undead", "modified_at": "2020-04-20T00:00:00Z"}');
SELECT arrive('tablets', '2020-04-21 18:00', '{"ref": "in the window", "modified_at": "2020-04-21T00:00:00Z"}', deleted => true);
SELECT guest_context.create_dataset('tablets', '2020-04-22') AS tablets \gset
SELECT guest_context.load_dataset(:tablets, 'tablets', $$SELECT * FROM (VALUES ('dead twice', NULL, timestamptz '2020-04-01', true),
	('denied', 'snapshot', '2020-04-01', false), ('undead', 'snapshot', '2020-04-20', false), ('alive', 'snapshot', '2020-04-01', false))
	v (ref, first_name, modified_at, gc_deleted)$$);
SELECT guest_context.seal_dataset(:tablets, '{"tablets": 3}');
SELECT rows, tombstones, superseded FROM guest_context.dataset WHERE dataset = :tablets;
SELECT ref, modified_at, gc_deleted, gc_source FROM tablets_batch ORDER BY ref;
SELECT check_name, value FROM guest_context.verify_dataset(:tablets) WHERE NOT ok;
-- between verify and activate, and after it, somebody is late
SELECT arrive('tablets', '2020-04-22', json_build_object('ref', r, 'first_name', 'late', 'modified_at', v)) FROM (VALUES
	('dead', '2020-04-19T00:00:00Z'), ('dead twice', '2020-04-19T00:00:00Z'), ('in the window', '2020-04-19T00:00:00Z')) x(r, v);
SELECT guest_context.activate_dataset(:tablets, force => true);
SELECT arrive('tablets', '2020-04-23', json_build_object('ref', r, 'first_name', 'later', 'modified_at', v)) FROM (VALUES
	('dead', '2020-04-19T12:00:00Z'), ('long dead', '2020-02-01T00:00:00Z')) x(r, v);
SELECT ref, first_name FROM tablets ORDER BY ref;
SELECT agrees('tablets');
-- from dataset to dataset they go on, for as long
SELECT guest_context.create_dataset('tablets', '2020-04-26') AS tablets \gset
SELECT guest_context.load_dataset(:tablets, 'tablets', 'SELECT * FROM tablets');
SELECT guest_context.seal_dataset(:tablets);
SELECT ref FROM tablets_batch WHERE gc_dataset = :tablets AND gc_deleted ORDER BY ref;

-- a built dataset keeps them, from `retention` before now on: what arrives late stays dead
SELECT guest_context.create_entity('devices', 'guest_shape', retention => '7 days');
SELECT open_past('devices');
SELECT arrive('devices', now() - interval '3 days', json_build_object('ref', 'dead',    'modified_at', now() - interval '4 days'));
SELECT arrive('devices', now() - interval '2 days', json_build_object('ref', 'dead',    'modified_at', now() - interval '2 days'), deleted => true);
SELECT arrive('devices', now() - interval '2 days', json_build_object('ref', 'long dead', 'modified_at', now() - interval '8 days'), deleted => true);
SELECT arrive('devices', now() - interval '2 days', json_build_object('ref', 'alive', 'first_name', 'kept', 'modified_at', now() - interval '100 days'), false, 3, 2, 1);
SELECT guest_context.build_dataset('devices') AS built \gset
SELECT guest_context._build_dataset_now(:built) = :built AS built_now;
SELECT rows, tombstones FROM guest_context.dataset WHERE dataset = :built;
SELECT bool_and(ok) AS verified FROM guest_context.verify_dataset(:built);
SELECT guest_context.activate_dataset(:built);
-- rows keep where they came from
SELECT ref, gc_deleted, gc_source, gc_partition, gc_dataset = :built AS built FROM devices_batch WHERE ref = 'alive';
SELECT guest_context.apply('devices', json_agg(json_build_object('ref', r, 'firstName', 'late', 'modifiedAt', v))) FROM (VALUES
	('dead', now() - interval '3 days'), ('long dead', now() - interval '9 days'), ('alive', now() - interval '101 days')) x(r, v);
-- later than retention is not promised: that one comes back
SELECT ref, first_name FROM devices ORDER BY ref;
SELECT agrees('devices');
-- the record that the dataset was built from, read again: it shows once
SELECT arrive('devices', now(), json_build_object('ref', 'alive', 'first_name', 'kept', 'modified_at', (SELECT modified_at FROM devices WHERE ref = 'alive')), false, 3, 2, 1);
SELECT ref, first_name FROM devices WHERE ref = 'alive';
SELECT agrees('devices');

--
-- Expiry: entities whose newest version is older are hidden, not resurrected in an older state
--
SELECT guest_context.create_entity('sessions', 'guest_shape', expire_after => '1 hour');
SELECT guest_context.apply('sessions', json_build_array(
	json_build_object('ref', 'fresh', 'modifiedAt', now() - interval '10 min'),
	json_build_object('ref', 'stale', 'modifiedAt', now() - interval '2 hours'),
	json_build_object('ref', 'ended', 'modifiedAt', now() - interval '5 min', 'gc_deleted', true),
	json_build_object('ref', 'ended', 'modifiedAt', now() - interval '50 min')));
SELECT ref FROM sessions;
SELECT guest_context.apply('sessions', json_build_object('ref', 'stale', 'modifiedAt', now()));
SELECT ref FROM sessions ORDER BY ref;
SELECT agrees('sessions');
SELECT guest_context.alter_entity('sessions', expire_after => '1 min');
SELECT ref FROM sessions;
SELECT agrees('sessions');
SELECT guest_context.alter_entity('sessions', reset => '{expire_after}');
SELECT ref FROM sessions ORDER BY ref;

--
-- An entity made after a dataset has all of its records as window, though the root's window is shorter
--
SELECT guest_context.create_entity('visits', 'order_shape', parent => 'guests', parent_ref => '{guest_ref}');
SELECT open_past('visits');
SELECT arrive('visits', '2020-01-02', '{"ref": "v1", "guest_ref": "A", "modified_at": "2020-01-02T00:00:00Z"}');
SELECT arrive('visits', '2020-06-02', '{"ref": "v2", "guest_ref": "A", "modified_at": "2020-06-02T00:00:00Z"}');
SELECT ref FROM visits ORDER BY ref;
SELECT guest_context.rollback_dataset('guests') IS NOT NULL AS back;
SELECT ref FROM visits ORDER BY ref;
SELECT agrees('visits'), agrees('orders'), agrees('guests');

--
-- Keys
--

-- several columns: one ref in two tenants is two entities
CREATE TYPE product_shape AS (tenant integer, ref text, name text, modified_at timestamptz);
SELECT guest_context.create_entity('products', 'product_shape', key => '{tenant,ref}');
SELECT guest_context.apply('products', '[
	{"tenant": 1, "ref": "x", "name": "one, old", "modified_at": "2020-01-01T00:00:00Z"},
	{"tenant": 2, "ref": "x", "name": "two",      "modified_at": "2020-01-03T00:00:00Z"},
	{"tenant": 1, "ref": "x", "name": "one, new", "modified_at": "2020-01-02T00:00:00Z"},
	{"tenant": 1, "ref": "y", "gc_deleted": true, "modified_at": "2020-01-02T00:00:00Z"},
	{"tenant": 2, "ref": "y", "name": "two",      "modified_at": "2020-01-01T00:00:00Z"}]');
SELECT tenant, ref, name FROM products ORDER BY 1, 2;
SELECT name FROM products WHERE (tenant, ref) = (1, 'x');
SELECT name FROM products WHERE tenant = 1;
SELECT agrees('products');
-- equality is the type's: 1.0 and 1.00 are one key, in speed, in batch and between them
CREATE TYPE priced_shape AS (ref numeric, name text, modified_at timestamptz);
SELECT guest_context.create_entity('priced', 'priced_shape');
SELECT open_past('priced');
SELECT snapshot('priced', '2020-02-01', 'priced', '[
	{"ref": 1.0, "name": "batch, older", "modified_at": "2020-01-01T00:00:00Z"}, {"ref": 1.000, "name": "batch, newer", "modified_at": "2020-01-02T00:00:00Z"},
	{"ref": 2.0, "name": "batch", "modified_at": "2020-01-02T00:00:00Z"}]') IS NOT NULL AS active;
SELECT * FROM priced ORDER BY ref;
SELECT arrive('priced', '2020-02-02', '{"ref": 1.00, "name": "speed", "modified_at": "2020-02-02T00:00:00Z"}');
SELECT arrive('priced', '2020-02-02', '{"ref": 2, "modified_at": "2020-02-02T00:00:00Z"}', deleted => true);
SELECT arrive('priced', '2020-02-02', '{"ref": 2.000, "name": "older", "modified_at": "2020-02-01T00:00:00Z"}');
SELECT * FROM priced ORDER BY ref;
SELECT name FROM priced WHERE ref = 1;
SELECT agrees('priced');

RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA merge_rules CASCADE;
DROP OWNED BY regress_merge_owner;
DROP ROLE regress_merge_owner;
