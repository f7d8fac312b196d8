-- Key filters: an index of our own access method that says which keys a partition does not have.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = error;
SET jit = off;
CREATE SCHEMA kf;
SET search_path = kf, public;

-- on any table: it can be made, and is never used by a plan
CREATE TABLE plain (a text, b int, c text);
INSERT INTO plain SELECT 'a' || i, i, nullif('c' || i % 3, 'c0') FROM generate_series(1, 100) i;
CREATE INDEX plain_a ON plain USING gc_key_filter (a);
CREATE INDEX plain_abc ON plain USING gc_key_filter (a, b, c);
CREATE INDEX plain_expr ON plain USING gc_key_filter (lower(c), (b / nullif(b % 2, 0))) WHERE b > 10;
INSERT INTO plain VALUES ('x', 1, NULL), (NULL, NULL, NULL), ('y', 2, 'z');
UPDATE plain SET a = NULL, c = NULL WHERE b = 50;
VACUUM ANALYZE plain;
REINDEX TABLE plain;
SET enable_seqscan = off;
CREATE FUNCTION nodes(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	-- newer versions say beside a node that it is disabled
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		IF line !~ 'Disabled' THEN RETURN NEXT line; END IF;
	END LOOP;
END $$;
SELECT nodes($$SELECT * FROM plain WHERE a = 'a1'$$);
SELECT nodes($$SELECT a FROM plain WHERE a = 'a1' AND b = 1 AND c = 'c1' ORDER BY a$$);
DROP FUNCTION nodes;
SELECT count(*), count(a) FROM plain WHERE a IS NULL OR a = 'a1';
RESET enable_seqscan;
-- what it is not
CREATE UNIQUE INDEX ON plain USING gc_key_filter (a);
CREATE INDEX ON plain USING gc_key_filter (a) INCLUDE (b);
CREATE INDEX ON plain USING gc_key_filter (a DESC);
CREATE INDEX ON plain USING gc_key_filter (a NULLS FIRST);
CREATE INDEX ON plain USING gc_key_filter (a) WITH (fillfactor = 50);
ALTER TABLE plain ADD EXCLUDE USING gc_key_filter (a WITH =);
ALTER TABLE plain CLUSTER ON plain_a;
-- keys that cannot be hashed, alone or inside others
ALTER TABLE plain ADD p point, ADD ps point[];
CREATE INDEX ON plain USING gc_key_filter (p);
CREATE INDEX ON plain USING gc_key_filter (a, ps);
DROP TABLE plain;

-- an old partition of an entity, `days` days ago
CREATE FUNCTION old_leaf(entity text, days int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE %1$s_speed_old%2$s (LIKE %1$s_speed INCLUDING ALL)', entity, days);
	EXECUTE format('ALTER TABLE %1$s_speed ATTACH PARTITION %1$s_speed_old%2$s FOR VALUES FROM (%3$L) TO (%4$L)',
		entity, days, date_trunc('day', now()) - days * interval '1 day', date_trunc('day', now()) - (days - 1) * interval '1 day');
END $$;
-- writes rows by hand where records arrived `days` days ago; `row` gives the key's columns and their values
CREATE FUNCTION put(entity text, days int, columns text, query text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO %1$s_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, modified_at, %3$s)
		SELECT date_trunc(''day'', now()) - %2$s * interval ''1 day'' + interval ''1 hour'', row_number() OVER (), 0, 0, 0, false, timestamptz ''2020-01-01Z'', q.* FROM (%4$s) q',
		entity, days, columns, query);
END $$;
-- how many rows a query gives, and how often it went down into the key index of a partition
CREATE FUNCTION descents(query text, leaf regclass, OUT rows bigint, OUT descents bigint) LANGUAGE plpgsql AS $$
DECLARE key_index oid := (SELECT indexrelid FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = c.relam
	WHERE indrelid = leaf AND amname = 'btree' AND indpred IS NULL);
	before bigint := coalesce(pg_stat_get_xact_numscans(key_index), 0);
BEGIN
	EXECUTE query INTO rows;
	descents := coalesce(pg_stat_get_xact_numscans(key_index), 0) - before;
END $$;
CREATE FUNCTION filters(entity text) RETURNS TABLE (filter text) LANGUAGE sql AS $$
	SELECT regexp_replace(pg_get_indexdef(i.indexrelid), '_p\d{8}', '_p<day>') FROM pg_partition_tree(entity || '_speed') t
	JOIN pg_index i ON i.indrelid = t.relid JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
	WHERE amname = 'gc_key_filter' ORDER BY pg_get_indexdef(i.indexrelid) COLLATE "C" $$;
CREATE FUNCTION maintain() RETURNS TABLE (entity regclass, detail text) LANGUAGE sql AS $$
	SELECT entity, detail FROM guest_context.run_maintenance() WHERE action = 'filters' AND entity::text ~ '^(things|types)' ORDER BY 1::text $$;

-- maintenance makes them for partitions of the past that have rows
CREATE TYPE shape AS (tenant text, ref text, name text, modified_at timestamptz);
SELECT guest_context.create_entity('things', 'shape', key => '{tenant,ref}');
SELECT old_leaf('things', d) FROM generate_series(2, 4) d;
SELECT put('things', d, 'tenant, ref, name', format($$SELECT 't' || i %% 3, 'r%s-' || i, 'old' FROM generate_series(1, 200) i$$, d)) FROM generate_series(2, 3) d;
SELECT guest_context.apply('things', '{"tenant": "t1", "ref": "new", "name": "new", "modified_at": "2020-01-01T00:00:00Z"}') IS NOT NULL AS applied;
SELECT * FROM filters('things');
SELECT * FROM maintain();
SELECT * FROM filters('things');
SELECT * FROM maintain();
-- of keys that are not there, hardly one is looked for; of those that are, each
CREATE VIEW missing AS SELECT 't' || i % 3 AS tenant, 'no' || i AS ref FROM generate_series(1, 200) i;
CREATE VIEW present AS SELECT 't' || i % 3 AS tenant, 'r2-' || i AS ref FROM generate_series(1, 200) i;
CREATE FUNCTION joined(keys text) RETURNS text LANGUAGE sql AS $$
	SELECT format('SELECT count(*) FROM %s k, LATERAL (SELECT FROM things t WHERE t.tenant = k.tenant AND t.ref = k.ref OFFSET 0) t', keys) $$;
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
SELECT * FROM descents(joined('present'), 'things_speed_old2');
SELECT rows, descents < 10 AS few FROM descents(joined('present'), 'things_speed_old3');
SELECT * FROM descents($$SELECT count(*) FROM things WHERE tenant = 't1' AND ref = 'no1'$$, 'things_speed_old2');
SELECT * FROM descents($$SELECT count(*) FROM things WHERE tenant = 't1' AND ref = 'r2-1'$$, 'things_speed_old2');
-- so does _is_current, where it probes
SET enable_seqscan = off;
SELECT rows, descents <= 3 AS few FROM descents($$SELECT count(*) FROM things WHERE ref LIKE 'r3-10_'$$, 'things_speed_old2');
DROP INDEX things_speed_old2_tenant_ref_idx;
SELECT rows, descents <= 3 AS few FROM descents($$SELECT count(*) FROM things WHERE ref LIKE 'r3-10_'$$, 'things_speed_old2');
RESET enable_seqscan;

-- filters of other columns are not asked: some of the key, another order, more, an expression, some of the rows
SELECT * FROM descents(joined('missing'), 'things_speed_old2');
CREATE FUNCTION ask(wrong text) RETURNS TABLE (filter text, missing bigint, descents bigint, present bigint) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE INDEX wrong ON things_speed_old2 USING gc_key_filter %s', wrong);
	SELECT wrong, rows, d.descents INTO ask.filter, ask.missing, ask.descents FROM descents(joined('missing'), 'things_speed_old2') d;
	SELECT rows INTO ask.present FROM descents(joined('present'), 'things_speed_old2');
	DROP INDEX wrong;
	RETURN NEXT;
END $$;
SELECT a.* FROM unnest('{(tenant),(ref),"(ref, tenant)","(tenant, ref, name)","(tenant, lower(ref))","((tenant || ref))","(tenant, ref) WHERE ref > ''r2-2''","(tenant COLLATE \"C\", ref)","(gc_offset, gc_dataset)"}'::text[]) w, ask(w) a;
-- nor by maintenance taken for the right one
CREATE INDEX wrong ON things_speed_old2 USING gc_key_filter (ref, tenant);
SELECT * FROM maintain();
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
SELECT * FROM descents(joined('present'), 'things_speed_old2');
DROP INDEX wrong;
-- a column that gets another name
ALTER TABLE things_versions RENAME COLUMN ref TO reference;
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
ALTER TABLE things_versions RENAME COLUMN reference TO ref;
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');

-- rows that come by hand when the filter is there
SELECT put('things', 2, 'tenant, ref', $$VALUES ('t1', 'no1'), ('t0', 'no3')$$);
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
UPDATE things_speed_old2 SET ref = 'no2' WHERE ref = 'r2-2';
UPDATE things_speed_old2 SET tenant = 't2', ref = 'no5' WHERE ref = 'r2-3';
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
SELECT * FROM descents(joined('present'), 'things_speed_old2');
-- what was undone, or is deleted, stays in it, and may be looked for in vain
BEGIN;
SELECT put('things', 2, 'tenant, ref', 'TABLE missing OFFSET 100');
SELECT rows, descents BETWEEN 104 AND 113 AS half FROM descents(joined('missing'), 'things_speed_old2');
ROLLBACK;
SELECT rows, descents BETWEEN 100 AND 110 AS half FROM descents(joined('missing'), 'things_speed_old2');
DELETE FROM things_speed_old2 WHERE ref = 'no1';
VACUUM things_speed_old2;
SELECT rows, descents BETWEEN 100 AND 110 AS half FROM descents(joined('missing'), 'things_speed_old2');
-- until it is made anew
REINDEX INDEX things_speed_old2_tenant_ref_idx;
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
REINDEX INDEX CONCURRENTLY things_speed_old2_tenant_ref_idx;
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
VACUUM FULL things_speed_old2;
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
SELECT * FROM descents(joined('present'), 'things_speed_old2');
-- of a table without log
ALTER TABLE things_speed_old2 SET UNLOGGED;
SELECT put('things', 2, 'tenant, ref', $$VALUES ('t2', 'no11')$$);
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
ALTER TABLE things_speed_old2 SET LOGGED;
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
-- emptied and filled again, within one transaction
BEGIN;
CREATE TABLE kept AS SELECT * FROM things_speed_old2;
TRUNCATE things_speed_old2;
SELECT rows, descents < 10 AS few FROM descents(joined('present'), 'things_speed_old2');
INSERT INTO things_speed_old2 SELECT * FROM kept;
SELECT * FROM descents(joined('present'), 'things_speed_old2');
SELECT rows FROM descents(joined('missing'), 'things_speed_old2');
COMMIT;
SELECT * FROM descents(joined('present'), 'things_speed_old2');
-- with a size that the first filter was not made for
TRUNCATE things_speed_old2;
INSERT INTO things_speed_old2 SELECT * FROM kept;
SELECT put('things', 2, 'tenant, ref', $$SELECT 't' || i % 3, 'more' || i FROM generate_series(1, 30000) i$$);
SELECT count(*) FROM generate_series(1, 30000, 10) i, LATERAL (SELECT FROM things t WHERE t.tenant = 't' || i % 3 AND t.ref = 'more' || i OFFSET 0) t;
SELECT rows FROM descents(joined('missing'), 'things_speed_old2');
REINDEX INDEX things_speed_old2_tenant_ref_idx;
SELECT rows, descents < 10 AS few FROM descents(joined('missing'), 'things_speed_old2');
SELECT count(*) FROM generate_series(1, 30000, 10) i, LATERAL (SELECT FROM things t WHERE t.tenant = 't' || i % 3 AND t.ref = 'more' || i OFFSET 0) t;
DELETE FROM things_speed_old2 WHERE ref LIKE 'more%';

-- plans that are kept, while filters come and go
SET plan_cache_mode = force_generic_plan;
PREPARE point(text, text) AS SELECT ref, name FROM things WHERE tenant = $1 AND ref = $2;
EXECUTE point('t1', 'r2-1');
EXECUTE point('t1', 'later');
DROP INDEX things_speed_old2_tenant_ref_idx;
EXECUTE point('t1', 'r2-1');
SELECT put('things', 2, 'tenant, ref', $$VALUES ('t1', 'later')$$);
EXECUTE point('t1', 'later');
SELECT * FROM maintain();
EXECUTE point('t1', 'later');
BEGIN;
EXECUTE point('t1', 'r2-1');
DROP INDEX things_speed_old2_tenant_ref_idx;
EXECUTE point('t1', 'r2-1');
CREATE INDEX ON things_speed_old2 USING gc_key_filter (tenant, ref);
EXECUTE point('t1', 'r2-1');
EXECUTE point('t1', 'even later');
SELECT put('things', 2, 'tenant, ref', $$VALUES ('t1', 'even later')$$);
EXECUTE point('t1', 'even later');
ROLLBACK;
EXECUTE point('t1', 'even later');
EXECUTE point('t1', 'r2-1');
RESET plan_cache_mode;
-- a cursor keeps what it has begun with
BEGIN;
DECLARE c CURSOR FOR SELECT k.ref FROM present k, LATERAL (SELECT FROM things t WHERE t.tenant = k.tenant AND t.ref = k.ref OFFSET 0) t;
FETCH 2 FROM c;
DROP INDEX things_speed_old2_tenant_ref_idx;
CREATE INDEX ON things_speed_old2 USING gc_key_filter (tenant, ref);
ROLLBACK;

-- of the whole tree, dataset and present included: then records go into it too
CREATE INDEX tree_filter ON things_versions USING gc_key_filter (tenant, ref);
SELECT guest_context.apply('things', json_agg(json_build_object('tenant', tenant, 'ref', ref, 'name', 'record', 'modified_at', '2020-02-01T00:00:00Z'))) IS NOT NULL AS applied
FROM (SELECT * FROM missing LIMIT 50) m;
SELECT rows FROM descents(joined('missing'), 'things_speed_old2');
SELECT guest_context.create_dataset('things', now() - interval '10 days') AS d \gset
SELECT guest_context.load_dataset(:d, 'things', $$SELECT 't' || i % 3 AS tenant, 'dataset' || i AS ref, NULL AS name, timestamptz '2020-01-01' AS modified_at FROM generate_series(1, 100) i$$);
SELECT guest_context.seal_dataset(:d);
SELECT count(*) FILTER (WHERE NOT ok) AS failed FROM guest_context.verify_dataset(:d);
SELECT guest_context.activate_dataset(:d) IS NULL AS first;
SELECT count(*), count(*) FILTER (WHERE ref LIKE 'dataset%') AS of_dataset FROM things;
SELECT count(*) FROM generate_series(1, 100) i, LATERAL (SELECT FROM things t WHERE t.tenant = 't' || i % 3 AND t.ref = 'dataset' || i OFFSET 0) t;
DROP INDEX tree_filter;
DEALLOCATE ALL;
SELECT guest_context.drop_entity('things');

-- keys of all kinds: whatever is equal to a key finds it
CREATE COLLATION no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE DOMAIN code AS numeric CHECK (VALUE > 0);
CREATE TYPE color AS ENUM ('red', 'green', 'blue');
CREATE FUNCTION try_type(name text, type text, have text, spelled text, missing text) RETURNS TABLE (key text, filters bigint, by_key bigint, by_join bigint, looked_for_in_vain boolean) LANGUAGE plpgsql AS $$
DECLARE lookup text := 'SELECT count(*) FROM (SELECT %1$s AS k FROM generate_series(1, 90) i) k, LATERAL (SELECT FROM types t WHERE t.ref = k.k OFFSET 0) t';
BEGIN
	EXECUTE format('CREATE TYPE type_shape AS (ref %s, modified_at timestamptz)', type);
	PERFORM guest_context.create_entity('types', 'type_shape');
	PERFORM old_leaf('types', 3);
	-- the filter stands before a part of the rows
	PERFORM put('types', 3, 'ref', format('SELECT (%s)::%s FROM generate_series(1, 60) i', have, regexp_replace(type, ' COLLATE .*', '')));
	EXECUTE 'CREATE INDEX ON types_speed_old3 USING gc_key_filter (ref)';
	PERFORM put('types', 3, 'ref', format('SELECT (%s)::%s FROM generate_series(61, 90) i', have, regexp_replace(type, ' COLLATE .*', '')));
	key := name;
	SELECT count(*) INTO filters FROM filters('types');
	EXECUTE format(lookup, format('(%s)::%s', spelled, regexp_replace(type, ' COLLATE .*', ''))) INTO by_key;
	EXECUTE format('SELECT count(*) FROM (SELECT (%s)::%s AS k FROM generate_series(1, 90) i) k JOIN types t ON t.ref = k.k', spelled, regexp_replace(type, ' COLLATE .*', '')) INTO by_join;
	SELECT d.rows > 0 OR d.descents > 9 INTO looked_for_in_vain FROM descents(format(lookup, format('(%s)::%s', missing, regexp_replace(type, ' COLLATE .*', ''))), 'types_speed_old3') d;
	RETURN NEXT;
	PERFORM guest_context.drop_entity('types');
	DROP TYPE type_shape;
END $$;
SELECT t.* FROM (VALUES
	(1, 'text', 'text', $$'k' || i$$, $$'k' || i$$, $$'m' || i$$),
	(2, 'long text', 'text', $$repeat('k', 3000) || i$$, $$repeat('k', 3000) || i$$, $$repeat('k', 3000) || -i$$),
	(3, 'case does not count', 'text COLLATE no_case', $$'Key' || i$$, $$'kEY' || i$$, $$'m' || i$$),
	(4, 'char', 'char(10)', $$'k' || i$$, $$'k' || i || '  '$$, $$'m' || i$$),
	(5, 'numeric', 'numeric', 'i + 0.50', 'i + 0.5', 'i + 0.25'),
	(6, 'whole numeric', 'numeric', 'i || ''.00''', 'i', 'i + 1000'),
	(7, 'domain over numeric', 'code', 'i + 0.50', 'i + 0.5', 'i + 0.25'),
	(8, 'int', 'int', 'i', 'i', '-i'),
	(9, 'smallint', 'smallint', 'i', 'i', '-i'),
	(10, 'bigint', 'bigint', 'i * 4294967296', 'i * 4294967296', 'i * 4294967297'),
	(11, 'negative bigint', 'bigint', '-i', '-i', 'i'),
	(12, 'uuid', 'uuid', 'md5(i::text)::uuid', 'upper(md5(i::text))::uuid', 'md5(''m'' || i)::uuid'),
	(13, 'date', 'date', $$date '2020-01-01' + i$$, $$date '2020-01-01' + i$$, $$date '2019-01-01' + i$$),
	(14, 'timestamptz', 'timestamptz', $$timestamptz '2020-01-01 00:00+00' + i * interval '1 h'$$, $$timestamptz '2020-01-01 03:00+03' + i * interval '1 h'$$, $$timestamptz '2021-01-01Z' + i * interval '1 h'$$),
	(15, 'interval', 'interval', $$i * interval '24 h'$$, $$i * interval '1 day'$$, $$i * interval '1 h' + interval '30 min'$$),
	(16, 'bytea', 'bytea', $$('k' || i)::bytea$$, $$('k' || i)::bytea$$, $$('m' || i)::bytea$$),
	(17, 'jsonb', 'jsonb', $$format('{"a": %s.0, "b": null}', i)::jsonb$$, $$format('{"b": null, "a": %s}', i)::jsonb$$, $$format('{"a": -%s}', i)::jsonb$$),
	(18, 'array', 'numeric[]', 'ARRAY[i, 1.0]', 'ARRAY[i, 1]', 'ARRAY[1, i + 1]'),
	(19, 'inet', 'inet', $$'10.0.0.0'::inet + i$$, $$'10.0.0.0/32'::inet + i$$, $$'10.1.0.0'::inet + i$$),
	(20, 'name', 'name', $$('k' || i)::name$$, $$'k' || i$$, $$'m' || i$$)) v(n, name, type, have, spelled, missing),
	try_type(name, type, have, spelled, missing) t ORDER BY n;
-- nothing hashes alike by its bytes alone: two kinds of columns, each spelled otherwise
CREATE TYPE pair_shape AS (tenant text COLLATE no_case, number numeric, color color, modified_at timestamptz);
SELECT guest_context.create_entity('pairs', 'pair_shape', key => '{tenant,number,color}');
SELECT old_leaf('pairs', 3);
SELECT put('pairs', 3, 'tenant, number, color', $$SELECT 'Tenant' || i % 7, (i || '.0')::numeric, CASE WHEN i % 2 = 0 THEN 'red' ELSE 'green' END::color FROM generate_series(1, 90) i$$);
CREATE INDEX ON pairs_speed_old3 USING gc_key_filter (tenant, number, color);
SELECT * FROM descents($$SELECT count(*) FROM generate_series(1, 90) i, LATERAL (SELECT FROM pairs p WHERE p.tenant = 'TENANT' || i % 7 AND p.number = i AND p.color = CASE WHEN i % 2 = 0 THEN 'red' ELSE 'green' END::color OFFSET 0) p$$, 'pairs_speed_old3');
SELECT rows, descents < 10 AS few FROM descents($$SELECT count(*) FROM generate_series(1, 90) i, LATERAL (SELECT FROM pairs p WHERE p.tenant = 'TENANT' || i % 7 AND p.number = i AND p.color = 'blue' OFFSET 0) p$$, 'pairs_speed_old3');
SELECT guest_context.drop_entity('pairs');
DROP SCHEMA kf CASCADE;
