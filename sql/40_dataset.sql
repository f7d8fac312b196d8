-- Datasets: snapshots of a whole context, loaded, sealed, verified, activated.

CREATE FUNCTION guest_context._refuse_change() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'gc_refuse_change';
COMMENT ON FUNCTION guest_context._refuse_change() IS 'trigger of partitions of datasets: they are immutable';

CREATE FUNCTION guest_context.create_dataset(root regclass, as_of timestamptz) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_create_dataset';
COMMENT ON FUNCTION guest_context.create_dataset(regclass, timestamptz)
	IS 'begins a dataset: a snapshot of a root and everything under it, cut at as_of';

CREATE FUNCTION guest_context.dataset_table(dataset bigint, entity regclass) RETURNS regclass
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_dataset_table';
COMMENT ON FUNCTION guest_context.dataset_table(bigint, regclass)
	IS 'the staging table of an entity in a dataset that is loading: COPY into it';

CREATE FUNCTION guest_context.load_dataset(dataset bigint, entity regclass, source text) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_load_dataset';
COMMENT ON FUNCTION guest_context.load_dataset(bigint, regclass, text)
	IS 'loads the rows of a query or table, columns matched by name; returns how many';

CREATE FUNCTION guest_context.seal_dataset(dataset bigint, expected jsonb DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_seal_dataset';
COMMENT ON FUNCTION guest_context.seal_dataset(bigint, jsonb)
	IS 'makes what was loaded immutable: newest version per key, counts as expected, indexed; returns the live rows';

CREATE FUNCTION guest_context.verify_dataset(dataset bigint)
	RETURNS TABLE (entity regclass, check_name text, ok boolean, value text, expected text)
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_verify_dataset';
COMMENT ON FUNCTION guest_context.verify_dataset(bigint)
	IS 'finds what activation would break, and stores the verdict that activation demands';

CREATE FUNCTION guest_context.diff_dataset(dataset bigint)
	RETURNS TABLE (entity regclass, added bigint, removed bigint, changed bigint, older bigint)
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_diff_dataset';
COMMENT ON FUNCTION guest_context.diff_dataset(bigint)
	IS 'how many entities would appear, vanish, change or go back to an older version on activation';

CREATE FUNCTION guest_context.activate_dataset(
	dataset bigint,
	expected_active bigint DEFAULT NULL,
	force boolean DEFAULT false)
	RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_activate_dataset';
COMMENT ON FUNCTION guest_context.activate_dataset(bigint, bigint, boolean)
	IS 'makes a verified dataset the active one; returns the one before';

CREATE FUNCTION guest_context.rollback_dataset(root regclass, force boolean DEFAULT false) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_rollback_dataset';
COMMENT ON FUNCTION guest_context.rollback_dataset(regclass, boolean)
	IS 'makes the next older dataset the active one again; returns it';

CREATE FUNCTION guest_context.drop_dataset(dataset bigint) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_drop_dataset';
COMMENT ON FUNCTION guest_context.drop_dataset(bigint)
	IS 'drops a dataset that is not active: at once for readers, its leaves by maintenance';

CREATE FUNCTION guest_context.build_dataset(root regclass, activate boolean DEFAULT false) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_build_dataset';
COMMENT ON FUNCTION guest_context.build_dataset(regclass, boolean)
	IS 'orders a dataset of the current truth, built in the background';

CREATE FUNCTION guest_context._build_dataset_now(dataset bigint) RETURNS bigint
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_build_dataset_now';
COMMENT ON FUNCTION guest_context._build_dataset_now(bigint)
	IS 'builds a dataset that build_dataset ordered, in this transaction';

CREATE FUNCTION guest_context._maintenance_obstacle(owner oid) RETURNS text
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_maintenance_obstacle';
COMMENT ON FUNCTION guest_context._maintenance_obstacle(oid)
	IS 'why no worker can run as the owner of entities in this database; NULL when one can';

-- One row per dataset of the roots that the reader may read; pg_monitor sees all.
CREATE VIEW guest_context.dataset AS
SELECT d.dataset_id::pg_catalog.int8 AS dataset,
       e.view AS root,
       d.state,
       d.as_of,
       d.state OPERATOR(pg_catalog.=) 'active' AS active,
       m.rows,
       m.tombstones,
       m.superseded,
       m.window_start,
       d.built,
       d.created_at,
       d.created_by,
       d.sealed_at,
       d.verified_at,
       d.verified_active::pg_catalog.int8 AS verified_active,
       d.verified_ok AND d.regressions OPERATOR(pg_catalog.=) 0 AS verified_ok,
       d.regressions,
       d.activated_at,
       d.retired_at,
       d.dropped_at,
       nullif(pg_catalog.concat_ws('; ', lost.message, d.message,
        (SELECT 'maintenance cannot run: ' OPERATOR(pg_catalog.||) guest_context._maintenance_obstacle(c.relowner)
         FROM pg_catalog.pg_class c
         WHERE c.oid OPERATOR(pg_catalog.=) e.versions AND d.built
           AND d.state OPERATOR(pg_catalog.=) 'loading')), '') AS message
FROM guest_context._dataset d
JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) d.root_id
LEFT JOIN LATERAL (
	SELECT pg_catalog.sum(de.rows)::pg_catalog.int8 AS rows,
	       pg_catalog.sum(de.tombstones)::pg_catalog.int8 AS tombstones,
	       pg_catalog.sum(de.superseded)::pg_catalog.int8 AS superseded,
	       pg_catalog.min(de.window_start) AS window_start
	FROM guest_context._dataset_entity de
	WHERE de.dataset_id OPERATOR(pg_catalog.=) d.dataset_id) m ON true
LEFT JOIN LATERAL (
	-- dropped or detached by hand
	SELECT pg_catalog.string_agg(pg_catalog.format('its partition of %s is gone', me.view), '; ' ORDER BY me.entity_id) AS message
	FROM guest_context._dataset_entity de
	JOIN guest_context._entity me ON me.entity_id OPERATOR(pg_catalog.=) de.entity_id
	WHERE de.dataset_id OPERATOR(pg_catalog.=) d.dataset_id
	  AND d.state OPERATOR(pg_catalog.=) ANY ('{sealed,active,retired}')
	  AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i
	                  WHERE i.inhrelid OPERATOR(pg_catalog.=) de.leaf AND NOT i.inhdetachpending)) lost ON true
WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE')
   OR pg_catalog.has_table_privilege(e.view, 'SELECT');
COMMENT ON VIEW guest_context.dataset IS 'one row per dataset: state, as_of, rows, verdict, window';
GRANT SELECT ON guest_context.dataset TO PUBLIC;
