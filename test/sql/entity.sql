-- Entities: what create_entity makes, what alter_entity and drop_entity change, who may read.
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
\set SHOW_CONTEXT never
CREATE ROLE regress_entity_owner LOGIN;
CREATE ROLE regress_entity_reader LOGIN;
CREATE SCHEMA entity AUTHORIZATION regress_entity_owner;
CREATE SCHEMA entity_elsewhere AUTHORIZATION regress_entity_owner;
CREATE COLLATION entity.caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
-- the catalogue is nobody's but ours; here the test looks into it
GRANT SELECT ON guest_context._entity, guest_context._window, guest_context._dataset, guest_context._dataset_entity TO regress_entity_owner;
SET SESSION AUTHORIZATION regress_entity_owner;

-- rows of the catalogue that belong to nothing that is there
CREATE VIEW entity.left_over AS
SELECT (SELECT count(*) FROM guest_context._entity WHERE versions NOT IN (SELECT oid FROM pg_class)) AS entities,
       (SELECT count(*) FROM guest_context._window WHERE versions NOT IN (SELECT oid FROM pg_class)) AS windows,
       (SELECT count(*) FROM guest_context._dataset WHERE root_id NOT IN (SELECT entity_id FROM guest_context._entity)) AS datasets,
       (SELECT count(*) FROM guest_context._dataset_entity WHERE entity_id NOT IN (SELECT entity_id FROM guest_context._entity)) AS spans;

-- rows in which the view of truth and its portable form differ: always none
CREATE FUNCTION entity.differ(entity regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM ((TABLE %1$s EXCEPT ALL (%2$s)) UNION ALL ((%2$s) EXCEPT ALL TABLE %1$s)) d',
				   entity, guest_context.truth_sql(entity, true)) INTO n;
	RETURN n;
END $$;

--
-- What create_entity makes
--

-- the shortest form: a composite type as shape, every option by default
CREATE TYPE entity.guest_shape AS (ref text, first_name text, modified_at timestamptz);
SELECT guest_context.create_entity('entity.guests', 'entity.guest_shape');
-- the view shows the shape's columns in the shape's order, and refuses to be written
\d entity.guests
-- the tree has guest_context's columns in front, then version and key, and an index on these
\d entity.guests_versions
SELECT c.relname, c.relkind, pg_get_expr(c.relpartbound, c.oid) AS bound
FROM pg_class c WHERE c.relname IN ('guests_versions', 'guests_speed', 'guests_batch') ORDER BY 1 DESC;
-- leaves follow one another, the first has begun, and they reach four days ahead
WITH leaf AS (
	SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''(.*?)''\)')::timestamptz AS lower,
	       substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(.*?)''\)')::timestamptz AS upper
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'entity.guests_speed'::regclass)
SELECT count(*) IN (5, 6) AS as_many, min(lower) <= now() AS has_begun, max(upper) >= now() + interval '4 days' AS reaches,
       bool_and(upper - lower = interval '1 day') AS days,
       sum(upper - lower) = max(upper) - min(lower) AS no_gap
FROM leaf;
-- the tree and its view are the user's, not members of the extension
SELECT count(*) AS members FROM pg_depend d JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
WHERE d.deptype = 'e' AND c.relnamespace = 'entity'::regnamespace;

-- every argument given, under a parent with a key of two columns
CREATE TABLE entity.shop_shape (tenant integer, ref varchar(10), name text, modified_at timestamptz, PRIMARY KEY (ref, tenant));
SELECT guest_context.create_entity('entity.shops', 'entity.shop_shape', key => '{tenant,ref}',
	retention => '1 month', overlap => '2 days', rebuild_every => '1 day');
CREATE DOMAIN entity.amount AS numeric(12,2) CHECK (VALUE >= 0);
CREATE TABLE entity.order_shape (
	status    text NOT NULL DEFAULT 'NEW' CHECK (status <> ''),
	tenant    integer,
	number    bigint,
	shop      varchar(10),
	total     entity.amount,
	tags      text[] DEFAULT '{}',
	note      text COLLATE "C",
	rest      jsonb,
	placed_on date,
	changed   timestamptz(3),
	CONSTRAINT paid_or_open CHECK (total > 0 OR status = 'NEW'));
SELECT guest_context.create_entity(
	name => 'entity.orders',
	shape => 'entity.order_shape',
	key => '{tenant,number}',
	version => 'changed',
	parent => 'entity.shops',
	parent_ref => '{tenant,shop}',
	mapping => '{"total": "$.money.total", "changed": {"path": "$.ts", "unit": "ms"}}',
	unmapped => 'rest',
	expire_after => '100 years',
	partition_interval => '6 hours',
	retention => '3 days',
	overlap => '12 hours',
	rebuild_every => NULL,
	security_invoker => true,
	if_not_exists => true);
\d entity.orders_versions
\d entity.orders
SELECT reloptions FROM pg_class WHERE oid = 'entity.orders'::regclass;
SELECT view, root_id = (SELECT entity_id FROM guest_context._entity WHERE view = 'entity.shops'::regclass) AS root_is_shops,
       parent_columns, key_columns, version_column, shape_columns, mapping, unmapped_column,
       expire_after, partition_interval, retention, overlap, rebuild_every, security_invoker
FROM guest_context._entity WHERE view IN ('entity.shops'::regclass, 'entity.orders'::regclass) ORDER BY entity_id;
-- leaves of six hours stand on the clock's grid
SELECT bool_and(extract(epoch FROM substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''(.*?)''\)')::timestamptz) % 21600 = 0) AS on_grid
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'entity.orders_speed'::regclass;
-- the shape is copied and not needed any more
DROP TABLE entity.shop_shape;

-- if_not_exists: the entity that is there, and a notice; not for any other relation, its tree included
SELECT guest_context.create_entity('entity.guests', 'entity.guest_shape', if_not_exists => true);
SELECT guest_context.create_entity('entity.guests_versions', 'entity.guest_shape', if_not_exists => true);
SELECT guest_context.create_entity('entity.order_shape', 'entity.guest_shape', if_not_exists => true);

-- names need quotes where SQL needs them, and the search_path says where an unqualified name goes
CREATE TYPE entity."Odd Shape" AS ("select" text, "Na""me" text, "v" integer, "n" integer, "w" integer, "m o d" timestamptz);
SET search_path = entity, pg_catalog;
SELECT guest_context.create_entity('"Odd ''Name"', '"Odd Shape"', key => '{select,"Na\"me"}', version => 'm o d');
SELECT guest_context.apply('"Odd ''Name"', '{"select": "a", "Na\"me": "b", "v": 1, "n": 2, "w": 3, "m o d": "2026-01-01T00:00:00Z"}');
RESET search_path;
SELECT * FROM entity."Odd 'Name";
SELECT entity.differ('entity."Odd ''Name"');

-- an entity under a child: its root is the top of the tree
CREATE TYPE entity.line_shape AS (ref text, tenant integer, number bigint, modified_at timestamptz);
SELECT guest_context.create_entity('entity.lines', 'entity.line_shape', parent => 'entity.orders', parent_ref => '{tenant,number}');
SELECT e.view, r.view AS root FROM guest_context._entity e JOIN guest_context._entity r ON r.entity_id = e.root_id
WHERE r.view = 'entity.shops'::regclass ORDER BY e.entity_id;

--
-- NOT NULL, CHECK, DEFAULT, domains: they hold for states, not for tombstones
--

-- defaults fill what a record leaves out
SELECT guest_context.apply('entity.orders', '{"tenant": 1, "number": 1, "ts": 1700000000000}');
SELECT status, tags, total FROM entity.orders;
-- an explicit null is a null, and NOT NULL refuses it
SELECT guest_context.apply('entity.orders', '{"tenant": 1, "number": 1, "ts": 1700000000001, "tags": null}');
SELECT status, tags FROM entity.orders;
\set VERBOSITY sqlstate
SELECT guest_context.apply('entity.orders', '{"tenant": 1, "number": 1, "ts": 1700000000002, "status": null}');
-- so do the CHECKs of column, table and domain
SELECT guest_context.apply('entity.orders', '{"tenant": 1, "number": 1, "ts": 1700000000002, "status": ""}');
SELECT guest_context.apply('entity.orders', '{"tenant": 1, "number": 1, "ts": 1700000000002, "status": "PAID", "money": {"total": 0}}');
SELECT guest_context.apply('entity.orders', '{"tenant": 1, "number": 1, "ts": 1700000000002, "money": {"total": -1}}');
\set VERBOSITY default
-- a tombstone has its key and its version and nothing else: no default, and no constraint minds
SELECT guest_context.apply('entity.orders', '{"tenant": 1, "number": 1, "ts": 1700000000003}', deleted => true);
SELECT status, tags, total, gc_deleted, changed FROM entity.orders_versions ORDER BY changed;
SELECT count(*) FROM entity.orders;
-- of a dataset too, whatever its rows hold
SELECT guest_context.create_dataset('entity.shops', '2023-11-15') AS ds \gset
SELECT guest_context.dataset_table(:ds, 'entity.orders') AS staging \gset
INSERT INTO :staging (status, tenant, number, total, changed, gc_deleted)
VALUES ('', 2, 1, 0, '2023-11-14', true);
BEGIN;
SELECT guest_context.seal_dataset(:ds, '{"entity.shops": 0, "entity.orders": 0, "entity.lines": 0}');
SELECT status, tenant, number, tags, total, gc_deleted FROM entity.orders_batch;
ROLLBACK;
-- and NOT NULL of key, version and column are checked by seal
\set VERBOSITY sqlstate
TRUNCATE :staging;
INSERT INTO :staging (status, tenant, number, changed) VALUES ('NEW', NULL, 1, '2023-11-14');
SELECT guest_context.seal_dataset(:ds);
TRUNCATE :staging;
INSERT INTO :staging (status, tenant, number, changed) VALUES (NULL, 2, 1, '2023-11-14');
SELECT guest_context.seal_dataset(:ds);
TRUNCATE :staging;
INSERT INTO :staging (status, tenant, number, changed) VALUES ('PAID', 2, 1, '2023-11-14'), ('', 2, 2, '2023-11-14');
SELECT guest_context.seal_dataset(:ds);
\set VERBOSITY default
SELECT guest_context.drop_dataset(:ds);

-- a domain may be the key and the version
CREATE DOMAIN entity.code AS text NOT NULL CHECK (VALUE ~ '^[A-Z]+$');
CREATE DOMAIN entity.moment AS timestamptz CHECK (VALUE > '2000-01-01');
CREATE TYPE entity.country_shape AS (code entity.code, name text, since entity.moment);
SELECT guest_context.create_entity('entity.countries', 'entity.country_shape', key => '{code}', version => 'since');
SELECT guest_context.apply('entity.countries', '[
	{"code": "DE", "name": "old", "since": "2026-01-01T00:00:00Z"},
	{"code": "DE", "name": "new", "since": "2026-01-02T00:00:00Z"}]');
\set VERBOSITY sqlstate
SELECT guest_context.apply('entity.countries', '{"code": "de", "name": "bad", "since": "2026-01-02T00:00:00Z"}');
SELECT guest_context.apply('entity.countries', '{"code": "DE", "name": "bad", "since": "1999-01-02T00:00:00Z"}');
\set VERBOSITY default
SELECT * FROM entity.countries;
SELECT name FROM entity.countries WHERE code = 'DE';
SELECT entity.differ('entity.countries');
SELECT guest_context.drop_entity('entity.countries');

--
-- Collations: equality is the column's
--

CREATE TABLE entity.word_shape (ref text COLLATE entity.caseless, meaning text, modified_at timestamptz);
SELECT guest_context.create_entity('entity.words', 'entity.word_shape');
SELECT guest_context.apply('entity.words', '[
	{"ref": "Apfel", "meaning": "old", "modified_at": "2026-01-01T00:00:00Z"},
	{"ref": "APFEL", "meaning": "new", "modified_at": "2026-01-02T00:00:00Z"},
	{"ref": "Birne", "meaning": "old", "modified_at": "2026-01-01T00:00:00Z"}]');
-- one word in two spellings is one entity, in a scan, by point read and by the portable form
SELECT * FROM entity.words ORDER BY ref;
SELECT meaning FROM entity.words WHERE ref = 'apfel';
SELECT guest_context.apply('entity.words', '{"ref": "bIRNE"}', deleted => true);
SELECT ref FROM entity.words;
SELECT entity.differ('entity.words');
-- seal keeps one of two spellings
SELECT guest_context.create_dataset('entity.words', '2026-01-03') AS ds \gset
SELECT guest_context.load_dataset(:ds, 'entity.words',
	$$SELECT * FROM (VALUES ('kirsche', 'new', timestamptz '2026-01-02'), ('KIRSCHE', 'old', '2026-01-01')) v(ref, meaning, modified_at)$$);
SELECT guest_context.seal_dataset(:ds, '{"entity.words": 1}');

--
-- alter_entity
--

-- each option, then each back to its default
SELECT guest_context.alter_entity('entity.shops', retention => '10 days', overlap => '1 day', partition_interval => '12 hours',
	expire_after => '1 year', rebuild_every => '6 hours', mapping => '{"name": "$.label"}');
SELECT retention, overlap, partition_interval, expire_after, rebuild_every, mapping FROM guest_context._entity WHERE view = 'entity.shops'::regclass;
SELECT guest_context.truth_sql('entity.shops') LIKE '%v.modified_at >= pg_catalog.now() - ''1 year''::pg_catalog.interval' AS expires,
       pg_get_viewdef('entity.shops') LIKE '%''1 year''::interval%' AS in_the_view;
SELECT guest_context.alter_entity('entity.shops', reset => '{retention,overlap,partition_interval,expire_after,rebuild_every,mapping,unmapped}');
SELECT retention, overlap, partition_interval, expire_after, rebuild_every, mapping FROM guest_context._entity WHERE view = 'entity.shops'::regclass;
SELECT pg_get_viewdef('entity.shops') LIKE '%interval%' AS in_the_view;
-- NULL leaves an option as it is, and what is set together with its reset is set
-- readers wait only for what changes the view
BEGIN;
SELECT guest_context.alter_entity('entity.orders', retention => '8 days', mapping => '{}');
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'entity.orders'::regclass AND mode = 'AccessExclusiveLock';
SELECT guest_context.alter_entity('entity.orders', expire_after => '8 days');
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'entity.orders'::regclass AND mode = 'AccessExclusiveLock';
ROLLBACK;
SELECT guest_context.alter_entity('entity.orders', retention => '9 days', reset => '{retention,mapping}');
SELECT guest_context.alter_entity('entity.orders', retention => '9 days', reset => '{mapping}');
SELECT retention, mapping, unmapped_column, expire_after FROM guest_context._entity WHERE view = 'entity.orders'::regclass;
-- another column may take what is not mapped
SELECT guest_context.alter_entity('entity.orders', reset => '{unmapped}');
SELECT unmapped_column FROM guest_context._entity WHERE view = 'entity.orders'::regclass;
SELECT guest_context.alter_entity('entity.orders', unmapped => 'rest');
-- a new mapping is checked against the columns
SELECT guest_context.alter_entity('entity.orders', mapping => '{"stutus": "$.s"}');
-- what is wrong leaves everything as it was
SELECT guest_context.alter_entity('entity.shops', retention => '1 day', overlap => '-1 hour');
SELECT guest_context.alter_entity('entity.orders', overlap => '1 day');
SELECT guest_context.alter_entity('entity.shops', reset => '{retention,color}');
SELECT guest_context.alter_entity('entity.orders', unmapped => 'status');
SELECT guest_context.alter_entity('entity.orders', unmapped => 'nowhere');
SELECT retention FROM guest_context._entity WHERE view = 'entity.shops'::regclass;

-- shape: new columns appear on a live tree, in speed and batch
SELECT guest_context.apply('entity.guests', '[
	{"ref": "1", "firstName": "Ada",  "modifiedAt": "2026-01-05T00:00:00Z"},
	{"ref": "2", "firstName": "Dead", "modifiedAt": "2026-01-05T00:00:00Z", "gc_deleted": true}]');
SELECT guest_context.create_dataset('entity.guests', '2026-01-03') AS one \gset
SELECT guest_context.load_dataset(:one, 'entity.guests',
	$$SELECT * FROM (VALUES ('3', 'Eve', timestamptz '2026-01-02')) v(ref, first_name, modified_at)$$);
SELECT guest_context.seal_dataset(:one);
SELECT count(*) FILTER (WHERE NOT ok) AS failed FROM guest_context.verify_dataset(:one);
SELECT guest_context.activate_dataset(:one);
SELECT guest_context.create_dataset('entity.guests', '2026-01-04') AS two \gset
CREATE TABLE entity.guest_shape_2 (ref text, email text, first_name text, tier integer DEFAULT 1 CHECK (tier BETWEEN 1 AND 3),
	modified_at timestamptz);
SELECT guest_context.alter_entity('entity.guests', shape => 'entity.guest_shape_2');
-- the view has them at its end, and the default fills what is stored
\d entity.guests
SELECT * FROM entity.guests ORDER BY ref;
SELECT guest_context.apply('entity.guests', '{"ref": "3", "firstName": "Eve", "email": "eve@example.com", "tier": 3, "modifiedAt": "2026-01-06T00:00:00Z"}');
SELECT * FROM entity.guests ORDER BY ref;
-- the constraint that came with a new column holds
\set VERBOSITY sqlstate
SELECT guest_context.apply('entity.guests', '{"ref": "3", "tier": 9, "modifiedAt": "2026-01-07T00:00:00Z"}');
\set VERBOSITY default
-- in the dataset that was loading they are null
SELECT guest_context.load_dataset(:two, 'entity.guests',
	$$SELECT * FROM (VALUES ('4', 'Bob', timestamptz '2026-01-02')) v(ref, first_name, modified_at)$$);
SELECT guest_context.seal_dataset(:two);
SELECT count(*) FILTER (WHERE NOT ok) AS failed FROM guest_context.verify_dataset(:two);
SELECT guest_context.activate_dataset(:two) = :one AS instead_of_the_first;
SELECT * FROM entity.guests ORDER BY ref;
SELECT entity.differ('entity.guests');
-- any other difference is refused and named: type, a column less, NOT NULL, a constraint on what is there
CREATE TYPE entity.bad_1 AS (ref text, email text, first_name varchar(3), tier integer, modified_at timestamptz);
SELECT guest_context.alter_entity('entity.guests', shape => 'entity.bad_1');
SELECT guest_context.alter_entity('entity.guests', shape => 'entity.guest_shape');
CREATE TABLE entity.bad_2 (LIKE entity.guest_shape_2, phone text NOT NULL);
SELECT guest_context.alter_entity('entity.guests', shape => 'entity.bad_2');
CREATE TABLE entity.bad_3 (LIKE entity.guest_shape_2, phone text, CONSTRAINT named CHECK (first_name <> ''));
SELECT guest_context.alter_entity('entity.guests', shape => 'entity.bad_3');
CREATE TYPE entity.bad_4 AS (ref text COLLATE "C", email text, first_name text, tier integer, modified_at timestamptz);
SELECT guest_context.alter_entity('entity.guests', shape => 'entity.bad_4');
-- the same shape again changes nothing
SELECT guest_context.alter_entity('entity.guests', shape => 'entity.guest_shape_2');
SELECT count(*) FROM pg_attribute WHERE attrelid = 'entity.guests'::regclass;

--
-- What users do to the tree by hand
--

-- renaming view and tables and moving the view changes nothing for readers and writers
ALTER VIEW entity.words RENAME TO vocabulary;
ALTER VIEW entity.vocabulary SET SCHEMA entity_elsewhere;
ALTER TABLE entity.words_versions RENAME TO words_all;
ALTER TABLE entity.words_speed RENAME TO words_fast;
ALTER TABLE entity.words_batch RENAME TO words_slow;
SELECT guest_context.apply('entity_elsewhere.vocabulary', '{"ref": "Quitte", "meaning": "new", "modified_at": "2026-01-02T00:00:00Z"}');
SELECT * FROM entity_elsewhere.vocabulary ORDER BY ref;
SELECT entity.differ('entity_elsewhere.vocabulary');
-- a reader is granted what he needs where the view is now
SELECT guest_context.grant_reader('entity_elsewhere.vocabulary', 'regress_entity_reader');
SELECT has_schema_privilege('regress_entity_reader', 'entity_elsewhere', 'USAGE') AS there,
       has_schema_privilege('regress_entity_reader', 'entity', 'USAGE') AS here;
-- the root of the tree alone in another schema: a new dataset is made beside it
ALTER TABLE entity.words_all SET SCHEMA entity_elsewhere;
SELECT guest_context.create_dataset('entity_elsewhere.vocabulary', '2026-01-04') AS ds \gset
SELECT guest_context.load_dataset(:ds, 'entity_elsewhere.words_all',
	$$SELECT * FROM (VALUES ('Rübe', 'new', timestamptz '2026-01-02')) v(ref, meaning, modified_at)$$);
SELECT guest_context.seal_dataset(:ds);
SELECT count(*) FILTER (WHERE NOT ok) AS failed FROM guest_context.verify_dataset(:ds);
SELECT guest_context.activate_dataset(:ds);
SELECT * FROM entity_elsewhere.vocabulary ORDER BY ref;
SELECT entity.differ('entity_elsewhere.vocabulary');

-- without its key index a leaf cannot be asked for a key, and says so; a scan of the whole does without
BEGIN;
DROP INDEX entity_elsewhere.words_versions_ref_modified_at_idx;
\set VERBOSITY sqlstate
SAVEPOINT indexed;
SELECT count(*) FROM entity_elsewhere.vocabulary;
ROLLBACK TO indexed;
SELECT * FROM entity_elsewhere.vocabulary WHERE ref = 'apfel';
\set VERBOSITY default
ROLLBACK;
-- a renamed column still shows, but nothing can be written until its name is back
ALTER TABLE entity_elsewhere.words_all RENAME COLUMN meaning TO sense;
SELECT ref, meaning FROM entity_elsewhere.vocabulary WHERE ref = 'apfel';
SELECT guest_context.apply('entity_elsewhere.vocabulary', '{"ref": "Quitte", "modified_at": "2026-01-03T00:00:00Z"}');
SELECT guest_context.alter_entity('entity_elsewhere.vocabulary', retention => '1 day');
SELECT guest_context.truth_sql('entity_elsewhere.vocabulary');
SELECT guest_context.create_dataset('entity_elsewhere.vocabulary', '2026-01-05');
ALTER TABLE entity_elsewhere.words_all RENAME COLUMN sense TO meaning;
SELECT guest_context.apply('entity_elsewhere.vocabulary', '{"ref": "Quitte", "modified_at": "2026-01-03T00:00:00Z"}');
-- a column that the view shows cannot be dropped
\set VERBOSITY sqlstate
ALTER TABLE entity_elsewhere.words_all DROP COLUMN meaning;
\set VERBOSITY default
-- a view dropped by hand: readers are told, alter_entity makes it again
ALTER TABLE entity_elsewhere.words_all RENAME TO words_versions;
DROP VIEW entity_elsewhere.vocabulary;
SELECT guest_context.grant_reader('entity_elsewhere.words_versions', 'regress_entity_reader');
SELECT guest_context.alter_entity('entity_elsewhere.words_versions');
SELECT count(*) FROM entity_elsewhere.words;
INSERT INTO entity_elsewhere.words VALUES ('a', 'b', now());
-- without its view it can be dropped like any other
DROP VIEW entity_elsewhere.words;
SELECT guest_context.drop_entity('entity_elsewhere.words_versions');
SELECT count(*) FROM pg_class WHERE relname ~ '^words' AND relkind <> 'c' AND relname <> 'word_shape';

--
-- Readers
--

-- under the owner's view SELECT on the view is all that a reader needs
SELECT guest_context.apply('entity.orders', '[
	{"tenant": 1, "number": 7, "shop": "a", "changed": "2026-01-01T00:00:00Z"},
	{"tenant": 2, "number": 7, "shop": "b", "changed": "2026-01-01T00:00:00Z"}]');
SELECT guest_context.grant_reader('entity.guests', 'regress_entity_reader');
SET SESSION AUTHORIZATION regress_entity_reader;
SELECT count(*) FROM entity.guests;
SELECT count(*) FROM entity.guests_versions;
SELECT count(*) FROM entity.orders;
SELECT guest_context.apply('entity.guests', '{"ref": "1", "modified_at": "2026-01-09T00:00:00Z"}');
SELECT guest_context.alter_entity('entity.guests', retention => '1 day');
SELECT guest_context.drop_entity('entity.guests');
SELECT guest_context.grant_reader('entity.guests', 'public');
SELECT guest_context.truth_sql('entity.guests') IS NOT NULL AS anybody_may_see_the_sql;
INSERT INTO entity.guests (ref) VALUES ('9');
-- with security_invoker he needs SELECT on the tree too, and grant_reader knows
SET SESSION AUTHORIZATION regress_entity_owner;
SELECT guest_context.grant_reader('entity.orders', 'regress_entity_reader');
SELECT has_table_privilege('regress_entity_reader', 'entity.orders_versions', 'SELECT') AS invoker_needs,
       has_table_privilege('regress_entity_reader', 'entity.guests_versions', 'SELECT') AS definer_does_not;
-- row security of the tree holds for him, and not for the owner
ALTER TABLE entity.orders_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_1 ON entity.orders_versions TO regress_entity_reader USING (tenant = 1);
SELECT tenant, number, shop FROM entity.orders ORDER BY 1, 2;
SET SESSION AUTHORIZATION regress_entity_reader;
SELECT tenant, number, shop FROM entity.orders ORDER BY 1, 2;
RESET SESSION AUTHORIZATION;
-- a newer version that the policy hides still wins: what moved to another shop is gone from this one
DROP POLICY tenant_1 ON entity.orders_versions;
CREATE POLICY shop_a ON entity.orders_versions TO regress_entity_reader USING (shop = 'a');
SET SESSION AUTHORIZATION regress_entity_owner;
SELECT guest_context.apply('entity.orders', '{"tenant": 1, "number": 7, "shop": "c", "changed": "2026-01-02T00:00:00Z"}');
SET SESSION AUTHORIZATION regress_entity_reader;
SELECT tenant, number, shop FROM entity.orders WHERE tenant = 1;
SELECT tenant, number, shop FROM entity.orders ORDER BY 1, 2;
-- nor does he reach the C function by another way
SELECT guest_context._is_current(guest_context._plan('entity.orders_versions'::regclass), 0, now(), now(), 0, 0, 0, '(0,1)', 1);
SELECT guest_context._plan('entity.orders_versions'::regclass);
SELECT count(guest_context._is_current(guest_context._plan('entity.orders_versions'::regclass), 0, v.placed_on, v.changed, 0, 0, 0, v.ctid, v.tenant)) FROM entity.orders_versions v;
-- not with more keys than there can be either
SELECT 'SELECT guest_context._is_current(guest_context._plan(''entity.orders_versions''::regclass), v.gc_dataset, v.gc_arrived_at, v.changed,
  v.gc_source, v.gc_partition, v.gc_offset, v.ctid' || repeat(', v.tenant', 90) || ') FROM entity.orders_versions v' \gexec
SET SESSION AUTHORIZATION regress_entity_owner;
-- under an owner's view policies do not hold for readers
ALTER TABLE entity.guests_versions ENABLE ROW LEVEL SECURITY;
SET SESSION AUTHORIZATION regress_entity_reader;
SELECT count(*) FROM entity.guests;
SET SESSION AUTHORIZATION regress_entity_owner;

--
-- drop_entity
--

-- children first
SELECT guest_context.drop_entity('entity.shops');
SELECT guest_context.drop_entity('entity.orders');
SELECT guest_context.drop_entity('entity.lines');
SELECT guest_context.drop_entity('entity.orders');
-- what others built on the view keeps it, and nothing is half gone
CREATE VIEW entity.report AS SELECT count(*) FROM entity.shops;
SELECT guest_context.drop_entity('entity.shops');
TABLE entity.report;
SELECT count(*) FROM guest_context._entity WHERE view = 'entity.shops'::regclass;
DROP VIEW entity.report;
-- datasets go with their root, those that are loading too
SELECT guest_context.create_dataset('entity.guests', '2026-01-05') IS NOT NULL AS made;
SELECT count(*) FROM guest_context._dataset d JOIN guest_context._entity e ON e.entity_id = d.root_id WHERE e.view = 'entity.guests'::regclass;
SELECT guest_context.drop_entity('entity.shops');
SELECT guest_context.drop_entity('entity.guests');
SELECT guest_context.drop_entity('entity."Odd ''Name"');
-- nothing is left but the shapes
SELECT relname FROM pg_class WHERE relnamespace = 'entity'::regnamespace AND relkind NOT IN ('c', 'i') AND relname <> 'left_over' ORDER BY 1;
TABLE entity.left_over;

-- a child whose tree was dropped by hand does not keep the root from anything
SELECT guest_context.create_entity('entity.guests', 'entity.guest_shape');
CREATE TYPE entity.visit_shape AS (ref text, guest_ref text, modified_at timestamptz);
SELECT guest_context.create_entity('entity.visits', 'entity.visit_shape', parent => 'entity.guests', parent_ref => '{guest_ref}');
DROP TABLE entity.visits_versions CASCADE;
SELECT guest_context.create_dataset('entity.guests', '2026-01-05') AS ds \gset
SELECT guest_context.seal_dataset(:ds);
SELECT guest_context.create_entity('entity.visits', 'entity.visit_shape', parent => 'entity.guests', parent_ref => '{guest_ref}');
TABLE entity.left_over;
-- a root dropped by hand: its child says so, and can be dropped
DROP TABLE entity.guests_versions CASCADE;
\set VERBOSITY sqlstate
SELECT guest_context.apply('entity.visits', '{"ref": "1", "modified_at": "2026-01-09T00:00:00Z"}');
\set VERBOSITY default
SELECT guest_context.drop_entity('entity.visits');
-- DROP SCHEMA takes everything with it; what remains in the catalogue goes when the next entity is made
SELECT guest_context.create_entity('entity_elsewhere.guests', 'entity.guest_shape');
SELECT guest_context.create_dataset('entity_elsewhere.guests', '2026-01-05') IS NOT NULL AS made;
SET client_min_messages = warning;
DROP SCHEMA entity_elsewhere CASCADE;
SELECT guest_context.create_entity('entity.guests', 'entity.guest_shape');
TABLE entity.left_over;

-- everything is transactional: a rollback leaves nothing, a savepoint too
SELECT guest_context.drop_entity('entity.guests');
BEGIN;
SELECT guest_context.create_entity('entity.guests', 'entity.guest_shape');
ROLLBACK;
SELECT to_regclass('entity.guests'), to_regclass('entity.guests_versions');
BEGIN;
SAVEPOINT before;
SELECT guest_context.create_entity('entity.guests', 'entity.guest_shape');
ROLLBACK TO before;
SELECT guest_context.create_entity('entity.guests', 'entity.guest_shape');
SELECT guest_context.apply('entity.guests', '{"ref": "1", "modified_at": "2026-01-09T00:00:00Z"}');
SELECT count(*) FROM entity.guests;
COMMIT;
SELECT count(*) FROM entity.guests;
SELECT guest_context.drop_entity('entity.guests');

-- all in one statement: a function that makes an entity, writes and reads it
DO $$
DECLARE
	n bigint;
BEGIN
	PERFORM guest_context.create_entity('entity.guests', 'entity.guest_shape');
	PERFORM guest_context.apply('entity.guests', '{"ref": "1", "modified_at": "2026-01-09T00:00:00Z"}');
	SELECT count(*) INTO n FROM entity.guests WHERE ref = '1';
	PERFORM guest_context.drop_entity('entity.guests');
	RAISE WARNING '% guest', n;
END $$;

RESET SESSION AUTHORIZATION;
DROP SCHEMA entity CASCADE;
DROP OWNED BY regress_entity_owner;
DROP ROLE regress_entity_reader, regress_entity_owner;
