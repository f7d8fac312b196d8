-- A partition of a dataset is dropped or detached by hand: no verb switches to what is not
-- there, everybody is told, and there is a way out.
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE ROLE regress_lost_owner LOGIN;
CREATE SCHEMA lost AUTHORIZATION regress_lost_owner;
ALTER SEQUENCE guest_context._dataset_id_seq RESTART 8001;
SET SESSION AUTHORIZATION regress_lost_owner;
SET search_path = lost;
CREATE TYPE shape AS (ref text, name text, modified_at timestamptz);
CREATE TYPE child_shape AS (ref text, guest_ref text, modified_at timestamptz);
SELECT guest_context.create_entity('guests', 'shape');
SELECT guest_context.create_entity('orders', 'child_shape', parent => 'guests', parent_ref => '{guest_ref}');
CREATE FUNCTION add_dataset(hours int, what text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	d bigint := guest_context.create_dataset('lost.guests', now() - make_interval(hours => hours));
BEGIN
	PERFORM guest_context.load_dataset(d, 'lost.guests', format('SELECT ''g1'' AS ref, %L AS name, now() - make_interval(hours => %s) AS modified_at', what, hours));
	PERFORM guest_context.seal_dataset(d, '{"lost.guests": 1, "lost.orders": 0}');
	RETURN d;
END $$;
CREATE FUNCTION switch(d bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM guest_context.verify_dataset(d);
	PERFORM guest_context.activate_dataset(d);
END $$;
SELECT add_dataset(5, 'one'), add_dataset(4, 'two'), add_dataset(3, 'three');
SELECT switch(8001);
SELECT switch(8002);
SELECT dataset, message FROM guest_context.dataset ORDER BY 1;

-- the one to go back to
DROP TABLE guests_batch_d8001;
SELECT dataset, state, message FROM guest_context.dataset ORDER BY 1;
SELECT guest_context.rollback_dataset('guests');
SELECT guest_context.rollback_dataset('guests', force => true);
SELECT guest_context.verify_dataset(8001);
SELECT guest_context.diff_dataset(8001);
SELECT guest_context.activate_dataset(8001, force => true);
SELECT name FROM guests;
-- one that was only detached can come back
ALTER TABLE orders_batch DETACH PARTITION orders_batch_d8003;
SELECT guest_context.verify_dataset(8003);
SELECT dataset, message FROM guest_context.dataset WHERE dataset = 8003;
ALTER TABLE lost.orders_batch ATTACH PARTITION lost.orders_batch_d8003 FOR VALUES IN (8003);
SELECT count(*) FROM guest_context.verify_dataset(8003);
SELECT dataset, message FROM guest_context.dataset WHERE dataset = 8003;

-- the active one: a view that cannot answer, and says so; whoever compares with it is refused
SELECT entity, message FROM guest_context.entity ORDER BY entity::text;
DROP TABLE guests_batch_d8002;
SELECT entity, message FROM guest_context.entity ORDER BY entity::text;
SELECT dataset, state, message FROM guest_context.dataset ORDER BY 1;
SELECT guest_context.verify_dataset(8003);
SELECT guest_context.diff_dataset(8003);
SELECT guest_context.build_dataset('guests');
SELECT guest_context.activate_dataset(8003);
-- with force another one is activated, without a verdict
SELECT guest_context.activate_dataset(8003, force => true);
SELECT name FROM guests;
SELECT entity, message FROM guest_context.entity ORDER BY entity::text;
SELECT guest_context.rollback_dataset('guests');
SELECT guest_context.drop_dataset(8001), guest_context.drop_dataset(8002);
SELECT dataset, state, message FROM guest_context.dataset ORDER BY 1;
SELECT count(*) >= 0 AS maintained FROM guest_context.run_maintenance();
SELECT to_regclass('orders_batch_d8001') AS one, to_regclass('orders_batch_d8002') AS two;
-- force does not excuse from a verdict otherwise
SELECT add_dataset(2, 'four');
SELECT guest_context.activate_dataset(8004, force => true);
SELECT switch(8004);
SELECT name FROM guests;
-- rolling back away from one that is broken needs nothing of it
DROP TABLE guests_batch_d8004;
SELECT guest_context.rollback_dataset('guests');
SELECT name FROM guests;

-- with no other dataset a new one is loaded; deletes among the records are taken over into it
SELECT guest_context.drop_dataset(8004);
DROP TABLE guests_batch_d8003;
SELECT guest_context.rollback_dataset('guests');
SELECT guest_context.apply('guests', json_build_object('ref', 'g2', 'modified_at', now() - interval '30 minutes'), deleted => true);
SELECT guest_context.alter_entity('guests', overlap => '0');
SELECT pg_sleep(0.01);
SELECT guest_context.create_dataset('guests', clock_timestamp()) AS d \gset
SELECT guest_context.load_dataset(:d, 'guests', $$SELECT 'g1' AS ref, 'five' AS name, now() AS modified_at$$);
SELECT guest_context.seal_dataset(:d, '{"lost.guests": 1, "lost.orders": 0}');
SELECT guest_context.activate_dataset(:d, force => true);
SELECT name FROM guests;
SELECT ref, gc_deleted FROM guests_versions WHERE gc_dataset = :d ORDER BY 1;

SELECT guest_context.drop_entity('orders'), guest_context.drop_entity('guests');
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA lost CASCADE;
DROP ROLE regress_lost_owner;
