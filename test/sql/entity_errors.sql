-- What create_entity and the other verbs of entities refuse: an ERROR that says what, why and what to do,
-- and nothing half made.
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE ROLE regress_errors_owner LOGIN;
CREATE ROLE regress_errors_other LOGIN;
CREATE ROLE regress_errors_nologin NOLOGIN;
CREATE SCHEMA entity_errors AUTHORIZATION regress_errors_owner;
CREATE SCHEMA entity_errors_others AUTHORIZATION regress_errors_other;
GRANT USAGE ON SCHEMA entity_errors_others TO regress_errors_owner;
GRANT ALL ON SCHEMA entity_errors TO regress_errors_other, regress_errors_nologin;
GRANT regress_errors_nologin TO regress_errors_owner;
SET SESSION AUTHORIZATION regress_errors_owner;
SET search_path = entity_errors;
CREATE TYPE good AS (ref text, parent_ref text, status text, rest jsonb, modified_at timestamptz);

-- NULL where there must be a value
SELECT guest_context.create_entity(NULL, 'good');
SELECT guest_context.create_entity('e', NULL);
SELECT guest_context.create_entity('e', 'good', key => NULL);
SELECT guest_context.create_entity('e', 'good', version => NULL);
SELECT guest_context.create_entity('e', 'good', partition_interval => NULL);
SELECT guest_context.create_entity('e', 'good', retention => NULL);
SELECT guest_context.create_entity('e', 'good', overlap => NULL);
SELECT guest_context.create_entity('e', 'good', security_invoker => NULL);
SELECT guest_context.create_entity('e', 'good', if_not_exists => NULL);
SELECT guest_context.create_entity('e', 'good', key => '{ref,NULL}');
SELECT guest_context.create_entity('e', 'good', key => '{ref,ref}');
SELECT guest_context.create_entity('e', 'good', key => '{}');

-- names: of nothing, of too many parts, too long, with control characters, temporary, in no schema
SELECT guest_context.create_entity('', 'good');
SELECT guest_context.create_entity('a.b.c', 'good');
SELECT guest_context.create_entity('a.b.c.d', 'good');
SELECT guest_context.create_entity('no_such_schema.e', 'good');
SELECT guest_context.create_entity(repeat('x', 38), 'good');
SELECT guest_context.create_entity(repeat('x', 70), 'good');
SELECT guest_context.create_entity(E'"e\nvil"', 'good');
SELECT guest_context.create_entity(E'"e\x7fvil"', 'good');
SELECT guest_context.create_entity('pg_temp.e', 'good');
SELECT guest_context.create_entity('pg_catalog.e', 'good');
SELECT guest_context.create_entity('guest_context.e', 'good');
SET search_path = '';
SELECT guest_context.create_entity('e', 'entity_errors.good');
SET search_path = entity_errors;
-- no right to make anything in the schema
SELECT guest_context.create_entity('entity_errors_others.e', 'good');
-- the name is taken: by the view, or by a table that would be made
CREATE TABLE taken ();
SELECT guest_context.create_entity('taken', 'good');
CREATE TABLE half_speed ();
SELECT guest_context.create_entity('half', 'good');
CREATE SEQUENCE half2_offset_seq;
SELECT guest_context.create_entity('half2', 'good');
DROP TABLE taken, half_speed;
DROP SEQUENCE half2_offset_seq;
-- as long as it can be
SELECT guest_context.create_entity(repeat('x', 37), 'good');
SELECT guest_context.drop_entity(repeat('x', 37)::regclass);

-- shapes: not a table or type
CREATE VIEW a_view AS SELECT ''::text AS ref, now() AS modified_at;
SELECT guest_context.create_entity('e', 'a_view');
CREATE SEQUENCE a_sequence;
SELECT guest_context.create_entity('e', 'a_sequence');
SELECT guest_context.create_entity('e', 'no_such_shape');
SELECT guest_context.create_entity('e', 1::regclass);
-- temporary and unlogged (A8)
SET client_min_messages = warning;
CREATE TEMP TABLE temporary (ref text, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'temporary');
DROP TABLE temporary;
RESET client_min_messages;
CREATE UNLOGGED TABLE unlogged (ref text, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'unlogged');
-- of another role, who grants nothing
SET SESSION AUTHORIZATION regress_errors_other;
CREATE TABLE entity_errors_others.private (ref text, modified_at timestamptz);
SET SESSION AUTHORIZATION regress_errors_owner;
SELECT guest_context.create_entity('e', 'entity_errors_others.private');
-- no columns at all, no key, no version
CREATE TABLE nothing ();
SELECT guest_context.create_entity('e', 'nothing');
SELECT guest_context.create_entity('e', 'good', key => '{id}');
SELECT guest_context.create_entity('e', 'good', key => '{ref,id}');
SELECT guest_context.create_entity('e', 'good', version => 'changed_at');
-- the version is no timestamptz, or the key
CREATE TYPE version_1 AS (ref text, modified_at timestamp);
SELECT guest_context.create_entity('e', 'version_1');
CREATE TYPE version_2 AS (ref text, modified_at bigint);
SELECT guest_context.create_entity('e', 'version_2');
CREATE TYPE version_3 AS (ref text, modified_at timestamptz[]);
SELECT guest_context.create_entity('e', 'version_3');
SELECT guest_context.create_entity('e', 'good', key => '{ref,modified_at}');
-- key types without one equality for hashing and ordering
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TYPE point_in_row AS (n integer, p point);
DO $$
DECLARE
	type text;
	detail text;
BEGIN
	FOREACH type IN ARRAY '{point,json,xml,circle,box,polygon,path,json[],tsvector,tsquery,txid_snapshot,point_in_row,aclitem,cid,pg_lsn,money,mood,int4range,inet,bytea,text[],jsonb,uuid,interval}'::text[]
	LOOP
		EXECUTE format('CREATE TYPE key_shape AS (ref %s, modified_at timestamptz)', type);
		BEGIN
			PERFORM guest_context.create_entity('e', 'key_shape');
			PERFORM guest_context.drop_entity('e');
			RAISE NOTICE '% can be a key', type;
		EXCEPTION WHEN invalid_object_definition THEN
			GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
			RAISE NOTICE '%: %: %', type, SQLERRM, detail;
		END;
		DROP TYPE key_shape;
	END LOOP;
END $$;
-- more key columns than an index has
DO $$
BEGIN
	EXECUTE 'CREATE TYPE wide AS (modified_at timestamptz' || (SELECT string_agg(format(', k%s int', i), '') FROM generate_series(1, 32) i) || ')';
END $$;
SELECT guest_context.create_entity('e', 'wide', key => (SELECT array_agg('k' || i) FROM generate_series(1, 32) i));
-- names that are ours or the server's
CREATE TYPE name_1 AS (ref text, gc_offset integer, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'name_1');
CREATE TYPE name_2 AS (ref text, gc_anything integer, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'name_2');
CREATE TYPE name_3 AS (ref text, tableoid integer, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'name_3');
CREATE TYPE name_4 AS (ref text, "a
b" integer, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'name_4');
CREATE TABLE name_5 (ref text, n integer CONSTRAINT "a
b" CHECK (n > 0), modified_at timestamptz);
SELECT guest_context.create_entity('e', 'name_5');
-- values that are made up, constraints between rows
CREATE TABLE made_1 (ref text, n integer GENERATED ALWAYS AS IDENTITY, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'made_1');
CREATE TABLE made_2 (ref text, n integer GENERATED ALWAYS AS (1) STORED, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'made_2');
CREATE TABLE made_3 (ref text, n bigserial, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'made_3');
CREATE TABLE made_4 (ref text, modified_at timestamptz, n integer DEFAULT nextval('entity_errors.a_sequence'));
SELECT guest_context.create_entity('made_4s', 'made_4');
SELECT guest_context.alter_entity('made_4s', shape => 'made_3');
SELECT guest_context.drop_entity('made_4s');
CREATE TABLE between_1 (ref text PRIMARY KEY, n integer UNIQUE, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'between_1');
CREATE TABLE between_2 (ref text, n text REFERENCES between_1, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'between_2');
CREATE TABLE between_3 (ref text, n integer, modified_at timestamptz, EXCLUDE USING btree (n WITH =));
SELECT guest_context.create_entity('e', 'between_3');
CREATE TABLE between_4 (tenant integer, ref text, modified_at timestamptz, PRIMARY KEY (ref));
SELECT guest_context.create_entity('e', 'between_4', key => '{tenant,ref}');
CREATE DOMAIN never_null AS text NOT NULL;
CREATE TYPE domain_1 AS (ref text, name never_null, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'domain_1');

-- unmapped: no column, not jsonb, the key
SELECT guest_context.create_entity('e', 'good', unmapped => 'remains');
SELECT guest_context.create_entity('e', 'good', unmapped => 'status');
CREATE TYPE json_key AS (ref jsonb, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'json_key', unmapped => 'ref');
-- mapping: the hint names the nearest column; paths, units and zones are checked
SELECT guest_context.create_entity('e', 'good', mapping => '{"statsu": "$.s"}');
SELECT guest_context.create_entity('e', 'good', mapping => '{"gc_delete": "$.s"}');
SELECT guest_context.create_entity('e', 'good', mapping => '[]');
SELECT guest_context.create_entity('e', 'good', mapping => '{"status": "s"}');
SELECT guest_context.create_entity('e', 'good', mapping => '{"status": "$."}');
SELECT guest_context.create_entity('e', 'good', mapping => '{"status": "$.a[x]"}');
SELECT guest_context.create_entity('e', 'good', mapping => '{"status": 1}');
SELECT guest_context.create_entity('e', 'good', mapping => '{"status": {"path": "$.s", "unit": "ms"}}');
SELECT guest_context.create_entity('e', 'good', mapping => '{"modified_at": {"path": "$.s", "unit": "minutes"}}');
SELECT guest_context.create_entity('e', 'good', mapping => '{"modified_at": {"path": "$.s", "zone": "Europe/Berlin"}}');
SELECT guest_context.create_entity('e', 'good', mapping => '{"modified_at": {"path": "$.s", "until": 1}}');
SELECT guest_context.create_entity('e', 'good', mapping => '{"ref": null}');
SELECT guest_context.create_entity('e', 'good', mapping => '{"rest": "$.r"}', unmapped => 'rest');

-- intervals
SELECT guest_context.create_entity('e', 'good', partition_interval => '0');
SELECT guest_context.create_entity('e', 'good', partition_interval => '-1 day');
SELECT guest_context.create_entity('e', 'good', partition_interval => '59 seconds');
SELECT guest_context.create_entity('e', 'good', partition_interval => '1 month');
SELECT guest_context.create_entity('e', 'good', partition_interval => '1 month -1 day');
SELECT guest_context.create_entity('e', 'good', partition_interval => '2 days -24 hours');
SELECT guest_context.create_entity('e', 'good', retention => '0');
SELECT guest_context.create_entity('e', 'good', retention => '-1 month');
SELECT guest_context.create_entity('e', 'good', overlap => '-1 second');
SELECT guest_context.create_entity('e', 'good', expire_after => '0');
SELECT guest_context.create_entity('e', 'good', expire_after => '1 month -40 days');
SELECT guest_context.create_entity('e', 'good', rebuild_every => '1 second');
SELECT guest_context.create_entity('e', 'good', partition_interval => '100000000 days');
SELECT guest_context.create_entity('e', 'good', retention => '178000000 years');
SELECT guest_context.create_entity('e', 'good', overlap => '178000000 years');

-- parents: alone, none, not an entity, another role's, another type, collation, number of columns
SELECT guest_context.create_entity('p', 'good');
SELECT guest_context.create_entity('e', 'good', parent => 'p');
SELECT guest_context.create_entity('e', 'good', parent_ref => '{parent_ref}');
SELECT guest_context.create_entity('e', 'good', parent => 'between_1', parent_ref => '{parent_ref}');
SELECT guest_context.create_entity('e', 'good', parent => 'p', parent_ref => '{}');
SELECT guest_context.create_entity('e', 'good', parent => 'p', parent_ref => '{parent_ref,status}');
SELECT guest_context.create_entity('e', 'good', parent => 'p', parent_ref => '{nobody}');
SELECT guest_context.create_entity('e', 'good', parent => 'p', parent_ref => '{modified_at}');
SELECT guest_context.create_entity('e', 'good', parent => 'p', parent_ref => '{NULL}');
CREATE TYPE child_1 AS (ref text, parent_ref text COLLATE "C", modified_at timestamptz);
SELECT guest_context.create_entity('e', 'child_1', parent => 'p', parent_ref => '{parent_ref}');
CREATE TYPE child_2 AS (ref text, parent_ref varchar, modified_at timestamptz);
SELECT guest_context.create_entity('e', 'child_2', parent => 'p', parent_ref => '{parent_ref}');
SET SESSION AUTHORIZATION regress_errors_other;
SET search_path = entity_errors;
SELECT guest_context.create_entity('e', 'good', parent => 'p', parent_ref => '{parent_ref}');
SET SESSION AUTHORIZATION regress_errors_owner;
-- options of the root, given to a child
SELECT guest_context.create_entity('e', 'good', parent => 'p', parent_ref => '{parent_ref}', overlap => '1 day');
SELECT guest_context.create_entity('e', 'good', parent => 'p', parent_ref => '{parent_ref}', rebuild_every => '1 day');

-- before PostgreSQL 17 the owner must be able to log in, for workers run as the owner
SET ROLE regress_errors_nologin;
DO $$
DECLARE
	hint text;
BEGIN
	PERFORM guest_context.create_entity('e', 'good');
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	IF SQLSTATE = 'ZZ000' AND current_setting('server_version_num')::int >= 170000
		OR SQLSTATE = '55000' AND current_setting('server_version_num')::int < 170000
			AND SQLERRM = 'role "regress_errors_nologin" cannot own an entity'
			AND hint = 'ALTER ROLE regress_errors_nologin LOGIN;'
	THEN
		RAISE NOTICE 'as this version of PostgreSQL has it';
	ELSE
		RAISE;
	END IF;
END $$;
RESET ROLE;

-- a superuser is warned (X14)
RESET SESSION AUTHORIZATION;
BEGIN;
SELECT guest_context.create_entity('entity_errors.e', 'entity_errors.good');
ROLLBACK;
SET SESSION AUTHORIZATION regress_errors_owner;

-- what is no entity is none for any verb
CREATE TABLE plain (ref text, modified_at timestamptz);
SELECT guest_context.alter_entity('plain', retention => '1 day');
SELECT guest_context.drop_entity('plain');
SELECT guest_context.grant_reader('plain', 'regress_errors_other');
SELECT guest_context.truth_sql('plain');
SELECT guest_context.apply('plain', '{}');
SELECT guest_context.create_dataset('plain', '2026-01-01');
SELECT guest_context.build_dataset('plain');
SELECT guest_context.rollback_dataset('plain');
SELECT guest_context.drop_entity('p_speed');
SELECT guest_context.alter_entity(NULL);
SELECT guest_context.drop_entity(NULL);
SELECT guest_context.grant_reader('p', 'regress_errors_nobody');
SELECT guest_context.grant_reader(NULL, 'regress_errors_other');
SELECT guest_context.grant_reader('p', NULL);
SELECT guest_context.truth_sql(NULL);
SELECT guest_context.truth_sql('p', NULL);
SELECT guest_context.apply(NULL, '{}');
SELECT guest_context.apply('p', NULL);
SELECT guest_context.apply('p', '{}', NULL);
-- an OID of nothing
SELECT guest_context.drop_entity(1::regclass);
-- options of alter_entity
SELECT guest_context.alter_entity('p', reset => '{NULL}');
SELECT guest_context.alter_entity('p', reset => '{key}');
SELECT guest_context.alter_entity('p', partition_interval => '1 month');
SELECT guest_context.alter_entity('p', shape => 'unlogged');
SELECT guest_context.alter_entity('p', shape => 'name_1');
SELECT guest_context.alter_entity('p', mapping => '1');

-- nothing of all this is left
SELECT relname FROM pg_class WHERE relnamespace = 'entity_errors'::regnamespace AND relname ~ '^(e|half|half2|taken|x+|p)(_|$)'
  AND relname !~ '_p[0-9]{8}' ORDER BY 1;
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM guest_context._entity WHERE view IN (SELECT oid FROM pg_class WHERE relnamespace = 'entity_errors'::regnamespace);

-- the SQLSTATEs, one of a kind
SET SESSION AUTHORIZATION regress_errors_owner;
SET search_path = entity_errors;
\set VERBOSITY sqlstate
SELECT guest_context.create_entity(NULL, 'good');
SELECT guest_context.create_entity('e', 'good', key => '{ref,ref}');
SELECT guest_context.create_entity('e', 'good', key => '{}');
SELECT guest_context.create_entity('a.b.c', 'good');
SELECT guest_context.create_entity('no_such_schema.e', 'good');
SELECT guest_context.create_entity(repeat('x', 38), 'good');
SELECT guest_context.create_entity(E'"e\nvil"', 'good');
SELECT guest_context.create_entity('pg_temp.e', 'good');
SELECT guest_context.create_entity('entity_errors_others.e', 'good');
SELECT guest_context.create_entity('p', 'good');
SELECT guest_context.create_entity('e', 'a_view');
SELECT guest_context.create_entity('e', 'unlogged');
SELECT guest_context.create_entity('e', 'good', key => '{id}');
SELECT guest_context.create_entity('e', 'version_1');
SELECT guest_context.create_entity('e', 'good', key => '{ref,modified_at}');
SELECT guest_context.create_entity('e', 'wide', key => (SELECT array_agg('k' || i) FROM generate_series(1, 32) i));
SELECT guest_context.create_entity('e', 'good', unmapped => 'status');
SELECT guest_context.create_entity('e', 'good', mapping => '{"statsu": "$.s"}');
SELECT guest_context.create_entity('e', 'good', partition_interval => '1 month');
SELECT guest_context.create_entity('e', 'good', parent => 'p');
SELECT guest_context.create_entity('e', 'good', parent => 'between_1', parent_ref => '{parent_ref}');
SELECT guest_context.create_entity('e', 'child_1', parent => 'p', parent_ref => '{parent_ref}');
SELECT guest_context.alter_entity('p', reset => '{key}');
SET SESSION AUTHORIZATION regress_errors_other;
SELECT guest_context.alter_entity('entity_errors.p', retention => '1 day');

RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA entity_errors, entity_errors_others CASCADE;
DROP ROLE regress_errors_owner, regress_errors_other, regress_errors_nologin;
