-- Promise 2, X29: anybody may call any function of the extension with a NULL anywhere. None may crash the server or fail with an internal
-- error. Whatever it does is undone.
CREATE SCHEMA null_arguments;
CREATE TYPE null_arguments.shape AS (ref text, modified_at timestamptz);
SELECT guest_context.create_entity('null_arguments.e', 'null_arguments.shape');
CREATE SERVER null_arguments TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '/nowhere');
SELECT guest_context.create_changelog('null_arguments.e', 'null_arguments', 't', name => 'null_arguments');
CREATE TABLE null_arguments.calls (call text, sqlstate text);
SET client_min_messages = error;
DO $$
DECLARE
	f record;
	arguments text[];
	call text;
	state text;
BEGIN
	FOR f IN SELECT p.proname, p.pronargs, p.proargtypes::oid[] AS types FROM pg_proc p
		WHERE p.pronamespace = 'guest_context'::regnamespace AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
		  AND 'internal'::regtype <> ALL (p.proargtypes::oid[])
	LOOP
		-- the number of the argument that is NULL; 0: none, -1: all
		FOR missing IN -1 .. f.pronargs LOOP
			SELECT array_agg((CASE WHEN missing IN (-1, n) THEN 'NULL' ELSE
				coalesce(('{"regclass": "''null_arguments.e''", "text": "''null_arguments''", "name": "''null_arguments''", "integer": "0", "bigint": "1", "timestamp with time zone": "now()",
				"interval": "''10 ms''", "jsonb": "''{}''", "json": "''{}''", "boolean": "false", "text[]": "''{ref}''", "bigint[]": "''{1}''", "oid": "10"}'::jsonb)->>format_type(t, NULL), 'NULL') END)
				|| '::' || CASE WHEN t = '"any"'::regtype THEN 'text' ELSE format_type(t, NULL) END ORDER BY n)
			INTO arguments FROM unnest(f.types) WITH ORDINALITY AS u (t, n);
			call := format('SELECT guest_context.%I(%s)', f.proname, array_to_string(arguments, ', '));
			BEGIN
				EXECUTE call;
				RAISE EXCEPTION USING ERRCODE = 'P0099';
			EXCEPTION WHEN OTHERS THEN
				state := SQLSTATE;
			END;
			INSERT INTO null_arguments.calls VALUES (call, state);
		END LOOP;
	END LOOP;
END $$;
SELECT count(*) > 150 AS many, count(*) FILTER (WHERE sqlstate = 'P0099') > 20 AS that_succeed FROM null_arguments.calls;
SELECT * FROM null_arguments.calls WHERE sqlstate LIKE 'XX%';
RESET client_min_messages;
SELECT guest_context.drop_entity('null_arguments.e');
DROP SERVER null_arguments;
DROP SCHEMA null_arguments CASCADE;
