-- The options of a view of truth: what holds is what the view has, and no verb resets it.
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE ROLE regress_options_owner LOGIN;
CREATE ROLE regress_options_tenant LOGIN;
CREATE SCHEMA view_options AUTHORIZATION regress_options_owner;
SET SESSION AUTHORIZATION regress_options_owner;
SET search_path = view_options;
CREATE TYPE shape AS (tenant text, ref text, modified_at timestamptz);
SELECT guest_context.create_entity('contacts', 'shape', key => '{tenant,ref}');
SELECT guest_context.apply('contacts', '[{"tenant": "a", "ref": "1", "modified_at": "2026-01-01T00:00:00Z"},
	{"tenant": "b", "ref": "1", "modified_at": "2026-01-01T00:00:00Z"}]');
ALTER TABLE contacts_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_a ON contacts_versions USING (tenant = 'a');
CREATE FUNCTION options() RETURNS TABLE (options text[], shown boolean) LANGUAGE sql AS
	$$SELECT c.reloptions, e.security_invoker FROM pg_class c JOIN guest_context.entity e ON e.entity = c.oid
	  WHERE c.relname = 'contacts' AND c.relnamespace = 'view_options'::regnamespace$$;

-- set by hand: it is shown, grant_reader heeds it
ALTER VIEW contacts SET (security_invoker = on, security_barrier = true);
SELECT * FROM options();
SELECT guest_context.grant_reader('contacts', 'regress_options_tenant');
SELECT has_table_privilege('regress_options_tenant', 'contacts_versions', 'SELECT');
SET SESSION AUTHORIZATION regress_options_tenant;
SELECT tenant, ref FROM view_options.contacts;
SET SESSION AUTHORIZATION regress_options_owner;

-- and replacing the query of the view, for another expiry or new columns, keeps it
SELECT guest_context.alter_entity('contacts', expire_after => '100 years');
SELECT * FROM options();
CREATE TYPE shape_2 AS (tenant text, ref text, modified_at timestamptz, name text);
SELECT guest_context.alter_entity('contacts', shape => 'shape_2');
SELECT * FROM options();
SET SESSION AUTHORIZATION regress_options_tenant;
SELECT tenant, ref FROM view_options.contacts;
SET SESSION AUTHORIZATION regress_options_owner;

-- said to the verb: alone, and together with what replaces the query
SELECT guest_context.alter_entity('contacts', security_invoker => false);
SELECT * FROM options();
SELECT guest_context.alter_entity('contacts', security_invoker => true, reset => '{expire_after}');
SELECT * FROM options();
-- as it is already: nothing is done that readers would wait for
BEGIN;
SELECT guest_context.alter_entity('contacts', security_invoker => true, retention => '3 days');
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'contacts'::regclass AND mode = 'AccessExclusiveLock';
ROLLBACK;
SELECT guest_context.alter_entity('contacts', reset => '{security_invoker}');

-- a view that was dropped is made again as it was known last, or as said, and either is said
ALTER VIEW contacts RESET (security_barrier);
DROP VIEW contacts;
SELECT guest_context.alter_entity('contacts_versions');
SELECT * FROM options();
DROP VIEW contacts;
SELECT guest_context.alter_entity('contacts_versions', security_invoker => false);
SELECT * FROM options();

SELECT guest_context.drop_entity('contacts');
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA view_options CASCADE;
DROP ROLE regress_options_owner, regress_options_tenant;
