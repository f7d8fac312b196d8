-- Operations: maintenance, and the views that say what there is.

-- Leaves on their way out: nobody needs them any more, and they go when nobody can
-- reach them. Rows are never updated: a row's xmin is the transaction that decided it.
CREATE TABLE guest_context._leaving
(
	leaf		regclass PRIMARY KEY,
	entity_id	integer NOT NULL,
	dataset_id	integer NOT NULL,	-- 0 = a leaf of the speed table
	ends_at		timestamptz,		-- upper bound of that
	since		timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE guest_context._leaving IS 'partitions that maintenance has decided to drop';
SELECT pg_catalog.pg_extension_config_dump('guest_context._leaving', '');

-- Not in dumps: it says what happens in this database, now.
CREATE TABLE guest_context._maintenance
(
	entity_id	integer NOT NULL,
	action		text NOT NULL,
	message		text NOT NULL,
	failures	integer NOT NULL,		-- errors in a row, 0 = it only waits
	retry_at	timestamptz NOT NULL,
	since		timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	PRIMARY KEY (entity_id, action)
);
COMMENT ON TABLE guest_context._maintenance IS 'what maintenance could not do yet, and why; rows go when it could';

CREATE FUNCTION guest_context.run_maintenance()
	RETURNS TABLE (entity regclass, action text, detail text)
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_run_maintenance';
COMMENT ON FUNCTION guest_context.run_maintenance()
	IS 'has a worker make partitions ahead, drop old ones, analyze, build what was ordered; waits, and says what it did';

CREATE FUNCTION guest_context._stat_progress(
	OUT pid integer, OUT datid oid, OUT command text, OUT dataset bigint, OUT entity oid,
	OUT done bigint, OUT total bigint)
	RETURNS SETOF record
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'gc_stat_progress';
COMMENT ON FUNCTION guest_context._stat_progress() IS 'what processes publish about long commands of guest_context';

CREATE VIEW guest_context.pg_stat_progress_guest_context AS
SELECT p.pid, p.datid, d.datname, p.command, p.dataset,
       -- a name only where its number means something
       CASE WHEN d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() THEN p.entity::regclass END AS entity,
       p.done, p.total
FROM guest_context._stat_progress() p
LEFT JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) p.datid;
COMMENT ON VIEW guest_context.pg_stat_progress_guest_context IS 'load, seal, build, replay, diff: rows done, of how many';
GRANT SELECT ON guest_context.pg_stat_progress_guest_context TO PUBLIC;

-- One row per entity that the reader may read; pg_monitor sees all.
CREATE VIEW guest_context.entity AS
SELECT e.view AS entity,
       p.view AS parent,
       r.view AS root,
       c.relowner::pg_catalog.regrole AS owner,
       e.key_columns AS key,
       e.version_column AS version,
       e.parent_columns AS parent_ref,
       e.shape_columns AS columns,
       e.mapping,
       e.unmapped_column AS unmapped,
       e.expire_after,
       e.partition_interval,
       e.retention,
       r.overlap,
       r.rebuild_every,
       CASE WHEN v.oid IS NULL THEN e.security_invoker ELSE
        coalesce((SELECT o.option_value::pg_catalog.bool FROM pg_catalog.pg_options_to_table(v.reloptions) o
                  WHERE o.option_name OPERATOR(pg_catalog.=) 'security_invoker'), false) END AS security_invoker,
       nullif(w.dataset_id, 0)::pg_catalog.int8 AS dataset,
       w.window_start,
       w.dropped_before,
       w.covered_since,
       w.leaves_until,
       e.created_at,
       nullif(pg_catalog.concat_ws('; ',
        (SELECT pg_catalog.format('reading: the partition of active dataset %s is gone', de.dataset_id)
         FROM guest_context._dataset_entity de
         WHERE de.dataset_id OPERATOR(pg_catalog.=) w.dataset_id AND de.entity_id OPERATOR(pg_catalog.=) e.entity_id
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i
                           WHERE i.inhrelid OPERATOR(pg_catalog.=) de.leaf AND NOT i.inhdetachpending)),
        'maintenance cannot run: ' OPERATOR(pg_catalog.||) guest_context._maintenance_obstacle(c.relowner),
        (SELECT pg_catalog.string_agg(m.action OPERATOR(pg_catalog.||) ': ' OPERATOR(pg_catalog.||) m.message, '; ' ORDER BY m.since)
         FROM guest_context._maintenance m WHERE m.entity_id OPERATOR(pg_catalog.=) e.entity_id)), '') AS message
FROM guest_context._entity e
JOIN guest_context._entity r ON r.entity_id OPERATOR(pg_catalog.=) e.root_id
JOIN guest_context._window w ON w.entity_id OPERATOR(pg_catalog.=) e.entity_id
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) e.versions
LEFT JOIN pg_catalog.pg_class v ON v.oid OPERATOR(pg_catalog.=) e.view
LEFT JOIN guest_context._entity p ON p.entity_id OPERATOR(pg_catalog.=) e.parent_id
WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE')
   OR pg_catalog.has_table_privilege(e.view, 'SELECT');
COMMENT ON VIEW guest_context.entity IS 'one row per entity: its options, its window, and what keeps maintenance waiting';
GRANT SELECT ON guest_context.entity TO PUBLIC;

-- Everybody sees what he did, or a role that he has the rights of; pg_monitor sees all.
CREATE VIEW guest_context.audit AS
SELECT a.audit_id, a.at, a.role, a.verb, a.object, a.reason, a.detail
FROM guest_context._audit a
LEFT JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) a.role
WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE')
   OR (r.oid IS NOT NULL AND pg_catalog.pg_has_role(r.oid, 'USAGE'));
COMMENT ON VIEW guest_context.audit IS 'acts of operators that cannot be undone: who, what, why';
GRANT SELECT ON guest_context.audit TO PUBLIC;
