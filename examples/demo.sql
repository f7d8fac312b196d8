-- The worked example of guest_context: run by demo.sh, or by hand, in this directory, as a superuser in an
-- empty database, with a broker that has two empty topics, guests and orders, of one partition each:
--   psql -v brokers=localhost:9092 -f demo.sql
-- The last statement checks the story.
\set ECHO none
\if :{?bold} \else
  \set bold ''
  \set dim ''
  \set green ''
  \set reset ''
\endif
\setenv BROKERS :brokers
SET timezone = 'UTC';
SET client_min_messages = warning;

\echo
\echo :bold'1. Two kinds of things that change, guests and the orders below them, and two topics that say how.':reset
\set ECHO queries
CREATE EXTENSION guest_context;
CREATE ROLE shop_owner LOGIN;
CREATE SCHEMA shop AUTHORIZATION shop_owner;
CREATE SERVER events FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" :'brokers');
GRANT USAGE ON FOREIGN SERVER events TO shop_owner;
SET SESSION AUTHORIZATION shop_owner;
CREATE TYPE shop.guest_shape AS (ref text, first_name text, modified_at timestamptz);
CREATE TYPE shop.order_shape AS (ref text, guest_ref text, status text, modified_at timestamptz);
SELECT guest_context.create_entity('shop.guests', 'shop.guest_shape') AS guests;
SELECT guest_context.create_entity('shop.orders', 'shop.order_shape', parent => 'shop.guests', parent_ref => '{guest_ref}') AS orders;
SELECT guest_context.create_changelog('shop.guests', 'events', 'guests') AS guests,
       guest_context.create_changelog('shop.orders', 'events', 'orders') AS orders;
\set ECHO none

\echo
\echo :bold'2. A producer writes to them, as producers do:':reset
\echo :dim'guests':reset
\! cat guests.records
\echo :dim'orders':reset
\! cat orders.records
\! for t in guests orders; do sed 's/ *# .*//' $t.records | kcat -P -b "$BROKERS" -t $t -K '|' -Z; done

\echo
\echo :bold'3. A moment later the view of truth has them, and the newest version of each has won.':reset
\set ECHO queries
SELECT guest_context.wait_for('shop.guests', 'guests', 0, 2, timeout => '30 s') AS guests,
       guest_context.wait_for('shop.orders', 'orders', 0, 6, timeout => '30 s') AS orders;
SELECT g.first_name, o.ref AS order, o.status, o.modified_at
FROM shop.guests g JOIN shop.orders o ON o.guest_ref = g.ref ORDER BY o.ref;
\set ECHO none

\echo
\echo :bold'4. The poison record stopped nobody. It is kept whole, with the reason.':reset
\set ECHO queries
SELECT changelog, state, lag, dead FROM guest_context.status ORDER BY changelog;
SELECT partition, record_offset, convert_from(value, 'UTF8') AS value, message FROM guest_context.dead_letter;
\set ECHO none

\echo
\echo :bold'5. History comes as a snapshot: a dataset, loaded beside, sealed, verified, activated.':reset
\set ECHO queries
SELECT guest_context.create_dataset('shop.guests', as_of => '2017-03-25T00:00:00Z') AS dataset;
\set ECHO none
SELECT max(dataset) AS monday FROM guest_context.dataset \gset
\set ECHO queries
SELECT guest_context.load_dataset(:monday, 'shop.guests', $$
           SELECT '1' AS ref, 'John' AS first_name, timestamptz '2017-03-24T12:18:19.1Z' AS modified_at $$) AS guests,
       guest_context.load_dataset(:monday, 'shop.orders', $$
           SELECT '100' AS ref, '1' AS guest_ref, 'PURCHASED' AS status, timestamptz '2015-01-10T10:00:00Z' AS modified_at UNION ALL
           SELECT '123', '1', 'PURCHASED', '2017-03-24T12:20:01Z' $$) AS orders;
SELECT guest_context.seal_dataset(:monday, expected => '{"shop.guests": 1, "shop.orders": 2}') AS rows;
SELECT bool_and(ok) AS ok FROM guest_context.verify_dataset(:monday);
SELECT guest_context.activate_dataset(:monday) AS active_before;
SELECT v.ref AS order, v.status, v.modified_at, CASE v.gc_dataset WHEN 0 THEN 'speed' ELSE 'batch' END AS tier,
       CASE WHEN v.modified_at = t.modified_at THEN 'wins' ELSE 'older, loses' END AS verdict
FROM (SELECT DISTINCT ref, status, modified_at, gc_dataset FROM shop.orders_versions) v JOIN shop.orders t USING (ref)
ORDER BY v.ref, v.modified_at DESC, tier;
\set ECHO none

\echo
\echo :bold'6. The next dataset is wrong (a broken job marks every order LOST), and goes live ...':reset
\set ECHO queries
SELECT guest_context.create_dataset('shop.guests', as_of => '2017-03-27T00:00:00Z') AS dataset;
\set ECHO none
SELECT max(dataset) AS tuesday FROM guest_context.dataset \gset
\set ECHO queries
SELECT guest_context.load_dataset(:tuesday, 'shop.guests', 'SELECT * FROM shop.guests') AS guests,
       guest_context.load_dataset(:tuesday, 'shop.orders', $$
           SELECT ref, guest_ref, 'LOST' AS status, modified_at + interval '1 second' AS modified_at FROM shop.orders $$) AS orders;
SELECT guest_context.seal_dataset(:tuesday) AS rows;
SELECT bool_and(ok) AS ok FROM guest_context.verify_dataset(:tuesday);
SELECT guest_context.activate_dataset(:tuesday) AS active_before;
SELECT ref, status, modified_at FROM shop.orders ORDER BY ref;
\set ECHO none

\echo
\echo :bold'7. ... and one call takes it back. No reader waits, no view is replaced, and the topics are read all the while.':reset
\set ECHO queries
SELECT guest_context.rollback_dataset('shop.guests') AS active_now;
SELECT ref, status, modified_at FROM shop.orders ORDER BY ref;
\set ECHO none

DO $$
BEGIN
    IF (SELECT string_agg(g.first_name || ' ' || o.ref || ' ' || o.status, ', ' ORDER BY o.ref)
        FROM shop.guests g JOIN shop.orders o ON o.guest_ref = g.ref)
       IS DISTINCT FROM 'Johnny 100 PURCHASED, Johnny 123 CANCELLED, Johnny 456 PURCHASED'
       OR (SELECT string_agg(record_offset::text, ',') FROM guest_context.dead_letter) IS DISTINCT FROM '6'
       OR (SELECT string_agg(state || ' ' || lag, ', ') FROM guest_context.status) IS DISTINCT FROM 'running 0, running 0'
    THEN
        RAISE EXCEPTION 'the worked example came out wrong';
    END IF;
END $$;
\echo
\echo :green'Johnny; order 123 CANCELLED, orders 100 and 456 PURCHASED, one dead letter: as it should be.':reset
