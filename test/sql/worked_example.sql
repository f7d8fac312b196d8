-- The worked example of the Guest Context, to the byte: last night's batch and today's changes become one document,
-- with timestamps as ISO 8601 and as milliseconds since the epoch.
SET timezone = 'Asia/Tokyo';	-- the bytes depend on no session
SET datestyle = 'German, DMY';
CREATE ROLE regress_example_owner LOGIN;
CREATE SCHEMA example AUTHORIZATION regress_example_owner;
SET SESSION AUTHORIZATION regress_example_owner;
SET search_path = example;
CREATE TYPE guest_shape AS (ref text, first_name text, modified_at timestamptz);
CREATE TYPE order_shape AS (ref text, guest_ref text, status text, modified_at timestamptz);

-- 2017-03-26T16:42:59.250Z
CREATE FUNCTION moment(t timestamptz) RETURNS text LANGUAGE sql STABLE
RETURN to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

-- the same story into two contexts: one hears ISO 8601, the other milliseconds
SELECT guest_context.create_entity('guests', 'guest_shape');
SELECT guest_context.create_entity('orders', 'order_shape', parent => 'guests', parent_ref => '{guest_ref}');
SELECT guest_context.create_entity('guests_ms', 'guest_shape');
SELECT guest_context.create_entity('orders_ms', 'order_shape', parent => 'guests_ms', parent_ref => '{guest_ref}');

-- batch: guest 1 is John, orders 123 and 456 are purchased
CREATE TABLE nightly_guests AS SELECT * FROM (VALUES ('1', 'John', timestamptz '2017-03-24T12:18:19.100Z')) v(ref, first_name, modified_at);
CREATE TABLE nightly_orders AS SELECT * FROM (VALUES
	('123', '1', 'PURCHASED', timestamptz '2017-03-24T12:20:01.000Z'),
	('456', '1', 'PURCHASED', timestamptz '2016-12-10T22:20:15.000Z')) v(ref, guest_ref, status, modified_at);
SELECT guest_context.create_dataset('guests', '2017-03-25T00:00:00Z') AS batch \gset
SELECT guest_context.load_dataset(:batch, 'guests', 'nightly_guests'), guest_context.load_dataset(:batch, 'orders', 'nightly_orders');
SELECT guest_context.seal_dataset(:batch, '{"guests": 1, "orders": 2}');
SELECT bool_and(ok) AS verified FROM guest_context.verify_dataset(:batch);
SELECT guest_context.activate_dataset(:batch);
-- the same from a source that counts milliseconds
SELECT guest_context.create_dataset('guests_ms', '2017-03-25T00:00:00Z') AS batch \gset
SELECT guest_context.load_dataset(:batch, 'guests_ms',
	$$SELECT ref, first_name, to_timestamp(ms / 1000.0) AS modified_at FROM (VALUES ('1', 'John', 1490357899100)) v(ref, first_name, ms)$$);
SELECT guest_context.load_dataset(:batch, 'orders_ms',
	$$SELECT ref, guest_ref, status, to_timestamp(ms / 1000.0) AS modified_at
	  FROM (VALUES ('123', '1', 'PURCHASED', 1490358001000), ('456', '1', 'PURCHASED', 1481408415000)) v(ref, guest_ref, status, ms)$$);
SELECT guest_context.seal_dataset(:batch, '{"guests_ms": 1, "orders_ms": 2}');
SELECT bool_and(ok) AS verified FROM guest_context.verify_dataset(:batch);
SELECT guest_context.activate_dataset(:batch);

-- speed: John again, then Johnny; order 123 is cancelled
SELECT guest_context.apply('guests', '{"ref": "1", "firstName": "John", "modifiedAt": "2017-03-26T16:38:19.100Z"}');
SELECT guest_context.apply('orders', '{"ref": "123", "guestRef": "1", "status": "CANCELLED", "modifiedAt": "2017-03-26T16:42:00.000Z"}');
SELECT guest_context.apply('guests', '{"ref": "1", "firstName": "Johnny", "modifiedAt": "2017-03-26T16:42:59.250Z"}');
-- milliseconds, and in another order
SELECT guest_context.apply('orders_ms', '{"ref": "123", "guestRef": "1", "status": "CANCELLED", "modifiedAt": 1490546520000}');
SELECT guest_context.apply('guests_ms', '[
	{"ref": "1", "firstName": "Johnny", "modifiedAt": 1490546579250},
	{"ref": "1", "firstName": "John", "modifiedAt": 1490546299100}]');

-- merged: Johnny; order 123 cancelled, order 456 purchased
SELECT jsonb_build_object('ref', g.ref, 'firstName', g.first_name, 'modifiedAt', moment(g.modified_at), 'orders',
	(SELECT jsonb_agg(jsonb_build_object('ref', o.ref, 'status', o.status, 'modifiedAt', moment(o.modified_at)) ORDER BY o.ref)
	 FROM orders o WHERE o.guest_ref = g.ref))::text AS iso
FROM guests g WHERE g.ref = '1' \gset
SELECT jsonb_build_object('ref', g.ref, 'firstName', g.first_name, 'modifiedAt', moment(g.modified_at), 'orders',
	(SELECT jsonb_agg(jsonb_build_object('ref', o.ref, 'status', o.status, 'modifiedAt', moment(o.modified_at)) ORDER BY o.ref)
	 FROM orders_ms o WHERE o.guest_ref = g.ref))::text AS ms
FROM guests_ms g WHERE g.ref = '1' \gset
\echo :iso
SELECT :'iso' = :'ms' AS same_bytes, :'iso' = '{"ref": "1", "orders": [{"ref": "123", "status": "CANCELLED", "modifiedAt": "2017-03-26T16:42:00.000Z"}, {"ref": "456", "status": "PURCHASED", "modifiedAt": "2016-12-10T22:20:15.000Z"}], "firstName": "Johnny", "modifiedAt": "2017-03-26T16:42:59.250Z"}' AS as_expected;
-- and by the portable form of the views
SELECT count(*) AS differ FROM (
	(TABLE guests EXCEPT ALL TABLE guests_ms) UNION ALL (TABLE guests_ms EXCEPT ALL TABLE guests)) d;
SELECT format('SELECT jsonb_build_object(''ref'', g.ref, ''firstName'', g.first_name, ''modifiedAt'', moment(g.modified_at), ''orders'',
	(SELECT jsonb_agg(jsonb_build_object(''ref'', o.ref, ''status'', o.status, ''modifiedAt'', moment(o.modified_at)) ORDER BY o.ref)
	 FROM (%2$s) o WHERE o.guest_ref = g.ref))::text = %3$L AS portable FROM (%1$s) g WHERE g.ref = ''1''',
	guest_context.truth_sql('guests', true), guest_context.truth_sql('orders', true), :'iso') AS portable \gset
:portable;

RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA example CASCADE;
DROP ROLE regress_example_owner;
