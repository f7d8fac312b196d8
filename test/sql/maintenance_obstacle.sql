-- Where no worker can run as the owner, the views say so, and so does who orders something.
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE ROLE regress_obstacle_owner LOGIN;
CREATE SCHEMA obstacle AUTHORIZATION regress_obstacle_owner;
ALTER SEQUENCE guest_context._dataset_id_seq RESTART 9001;
SET SESSION AUTHORIZATION regress_obstacle_owner;
SET search_path = obstacle;
CREATE TYPE shape AS (ref text, modified_at timestamptz);
SELECT guest_context.create_entity('things', 'shape');
CREATE FUNCTION messages() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT 'entity: ' || coalesce(replace(message, current_database(), 'DB'), 'none') FROM guest_context.entity WHERE entity = 'obstacle.things'::regclass
	UNION ALL SELECT 'dataset: ' || coalesce(replace(message, current_database(), 'DB'), 'none') FROM guest_context.dataset WHERE root = 'obstacle.things'::regclass $$;
SELECT messages();

-- it may not connect
RESET SESSION AUTHORIZATION;
REVOKE CONNECT ON DATABASE :"DBNAME" FROM PUBLIC;
SET SESSION AUTHORIZATION regress_obstacle_owner;
SELECT messages();
SET client_min_messages = error;	-- its warning names the database
SELECT guest_context.build_dataset('things');
RESET client_min_messages;
SELECT messages();
DO $$
DECLARE
	hint text;
BEGIN
	PERFORM guest_context.run_maintenance();
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '%', replace(SQLERRM || ' HINT: ' || hint, current_database(), 'DB');
END $$;
RESET SESSION AUTHORIZATION;
GRANT CONNECT ON DATABASE :"DBNAME" TO PUBLIC;
SET SESSION AUTHORIZATION regress_obstacle_owner;
SELECT count(*) > 0 AS built FROM guest_context.run_maintenance() WHERE action = 'build';
SELECT messages();

-- nor log in, before PostgreSQL 17
RESET SESSION AUTHORIZATION;
ALTER ROLE regress_obstacle_owner NOLOGIN;
SELECT CASE WHEN current_setting('server_version_num')::int >= 170000 THEN message IS NULL
       ELSE message = 'maintenance cannot run: role "regress_obstacle_owner" may not log in, and before PostgreSQL 17 no worker can run as it' END AS as_it_is
FROM guest_context.entity WHERE entity = 'obstacle.things'::regclass;
-- the remedy gives the right to log in and takes no password away
ALTER ROLE regress_obstacle_owner LOGIN;
SET SESSION AUTHORIZATION regress_obstacle_owner;
SELECT messages();

SELECT guest_context.drop_entity('things');
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA obstacle CASCADE;
DROP ROLE regress_obstacle_owner;
