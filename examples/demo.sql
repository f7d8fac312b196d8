-- The worked example of guest_context: run by demo.sh, or by hand in an empty
-- database, as a superuser: psql -f examples/demo.sql. The last statement checks the story.
\set ECHO none
\if :{?bold} \else
  \set bold ''
  \set green ''
  \set reset ''
\endif
SET timezone = 'UTC';
SET client_min_messages = warning;

\echo
\echo :bold'1. Two kinds of things that change: guests, and the orders below them.':reset
\set ECHO queries
CREATE EXTENSION guest_context;
CREATE ROLE shop_owner LOGIN;
CREATE SCHEMA shop AUTHORIZATION shop_owner;
SET SESSION AUTHORIZATION shop_owner;
CREATE TYPE shop.guest_shape AS (ref text, first_name text, modified_at timestamptz);
CREATE TYPE shop.order_shape AS (ref text, guest_ref text, status text, modified_at timestamptz);
SELECT guest_context.create_entity('shop.guests', 'shop.guest_shape');
SELECT guest_context.create_entity('shop.orders', 'shop.order_shape',
                                   parent => 'shop.guests', parent_ref => '{guest_ref}');
\set ECHO none

\echo
\echo :bold'2. Last night''s batch, as some job has left it in two tables.':reset
\set ECHO queries
CREATE TEMP TABLE nightly_guests (ref text, first_name text, modified_at timestamptz);
INSERT INTO nightly_guests VALUES ('1', 'John', '2017-03-24T12:18:19.100Z');
CREATE TEMP TABLE nightly_orders (ref text, guest_ref text, status text, modified_at timestamptz);
INSERT INTO nightly_orders VALUES
    ('123', '1', 'PURCHASED', '2017-03-24T12:20:01.000Z'),
    ('456', '1', 'PURCHASED', '2016-12-10T22:20:15.000Z');
\set ECHO none

\echo
\echo :bold'3. It becomes a dataset: loaded beside, sealed, verified, activated.':reset
\set ECHO queries
SELECT guest_context.create_dataset('shop.guests', as_of => '2017-03-25T00:00:00Z') AS dataset;
\set ECHO none
SELECT max(dataset) AS monday FROM guest_context.dataset \gset
\set ECHO queries
SELECT guest_context.load_dataset(:monday, 'shop.guests', 'nightly_guests') AS guests,
       guest_context.load_dataset(:monday, 'shop.orders', 'nightly_orders') AS orders;
SELECT guest_context.seal_dataset(:monday, expected => '{"shop.guests": 1, "shop.orders": 2}') AS rows;
SELECT entity, check_name, ok FROM guest_context.verify_dataset(:monday) ORDER BY 1, 2;
SELECT guest_context.activate_dataset(:monday) AS active_before;
SELECT * FROM shop.orders ORDER BY ref;
\set ECHO none

\echo
\echo :bold'4. Today''s changes stream in, out of order: the guest becomes Johnny, order 123 is cancelled.':reset
\set ECHO queries
SELECT guest_context.apply('shop.guests', '[
  {"ref": "1", "firstName": "Johnny", "modifiedAt": "2017-03-26T16:42:59.250Z"},
  {"ref": "1", "firstName": "John",   "modifiedAt": "2017-03-26T16:38:19.100Z"}]');
SELECT guest_context.apply('shop.orders',
  '{"ref": "123", "guestRef": "1", "status": "CANCELLED", "modifiedAt": "2017-03-26T16:42:00.000Z"}');
\set ECHO none

\echo
\echo :bold'5. The view of truth: the newest version of every entity has already won.':reset
\set ECHO queries
SELECT g.first_name, o.ref AS order, o.status, o.modified_at
FROM shop.guests g JOIN shop.orders o ON o.guest_ref = g.ref
WHERE g.ref = '1' ORDER BY o.ref;
\set ECHO none

\echo
\echo :bold'6. Winner and losers: every version of both tiers is still there.':reset
\set ECHO queries
SELECT v.ref AS order, v.status, v.modified_at, CASE v.gc_dataset WHEN 0 THEN 'speed' ELSE 'batch' END AS tier,
       CASE WHEN v.modified_at = t.modified_at THEN 'wins' ELSE 'older, loses' END AS verdict
FROM shop.orders_versions v JOIN shop.orders t USING (ref)
ORDER BY v.ref, v.modified_at DESC;
\set ECHO none

\echo
\echo :bold'7. The next dataset is wrong (a broken job marks every order LOST), and goes live ...':reset
\set ECHO queries
SELECT guest_context.create_dataset('shop.guests', as_of => '2017-03-27T00:00:00Z') AS dataset;
\set ECHO none
SELECT max(dataset) AS tuesday FROM guest_context.dataset \gset
\set ECHO queries
SELECT guest_context.load_dataset(:tuesday, 'shop.guests', 'SELECT * FROM shop.guests') AS guests,
       guest_context.load_dataset(:tuesday, 'shop.orders', $$
           SELECT ref, guest_ref, 'LOST' AS status, modified_at + interval '1 second' AS modified_at FROM shop.orders $$) AS orders;
SELECT guest_context.seal_dataset(:tuesday) AS rows;
SELECT entity, check_name, ok FROM guest_context.verify_dataset(:tuesday) WHERE NOT ok ORDER BY 1, 2;
SELECT guest_context.activate_dataset(:tuesday) AS active_before;
SELECT ref, status, modified_at FROM shop.orders ORDER BY ref;
\set ECHO none

\echo
\echo :bold'8. ... and one call takes it back. No reader waits, no view is replaced.':reset
\set ECHO queries
SELECT guest_context.rollback_dataset('shop.guests') AS active_now;
SELECT ref, status, modified_at FROM shop.orders ORDER BY ref;
\set ECHO none

DO $$
BEGIN
    IF (SELECT string_agg(g.first_name || ' ' || o.ref || ' ' || o.status, ', ' ORDER BY o.ref)
        FROM shop.guests g JOIN shop.orders o ON o.guest_ref = g.ref)
       IS DISTINCT FROM 'Johnny 123 CANCELLED, Johnny 456 PURCHASED'
    THEN
        RAISE EXCEPTION 'the worked example came out wrong';
    END IF;
END $$;
\echo
\echo :green'Johnny; order 123 CANCELLED, order 456 PURCHASED: as it should be.':reset
