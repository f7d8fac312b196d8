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

CREATE FUNCTION guest_context._ingest_missing(server text, owner oid, note text) RETURNS text
	LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'gc_ingest_missing';
COMMENT ON FUNCTION guest_context._ingest_missing(text, oid, text)
	IS 'why no worker reads from a server for an owner, and what to run; note: what maintenance has noted about it';

CREATE FUNCTION guest_context._ingest_heard(pid integer) RETURNS timestamptz
	LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'gc_ingest_heard';
COMMENT ON FUNCTION guest_context._ingest_heard(integer) IS 'when the ingest worker of this process has last given a sign of life';

-- Worst first, and within 120 columns: what to run is on lines of its own, to be copied. A changelog that is to be read and whose
-- worker is not there waits, whatever was noted: a worker holds a lock on its server and owner as long as it lives. So does one
-- whose worker has been at the same thing for long. While nobody looks at the topic it is not known that there is nothing more.
CREATE VIEW guest_context.status AS
SELECT t.changelog, t.state,
       CASE WHEN t.looked OR t.lag OPERATOR(pg_catalog.>) 0 THEN t.lag END AS lag,
       CASE WHEN t.looked OR t.lag OPERATOR(pg_catalog.>) 0 THEN t.behind END AS behind, t."rows/s", t.dead,
       CASE WHEN NOT t.here THEN 'paused in this copy of the database'
            WHEN t.state OPERATOR(pg_catalog.=) 'paused' THEN t.reason
            WHEN t.state OPERATOR(pg_catalog.<>) 'halted' AND NOT t.worker THEN
                 guest_context._ingest_missing(t.server, t.owner, t.note)
            WHEN t.state OPERATOR(pg_catalog.<>) 'halted' AND t.stuck THEN
                 pg_catalog.format(E'no sign of life from its worker since %s\nSELECT * FROM pg_stat_activity WHERE pid = %s;',
                                   pg_catalog.date_trunc('second', t.heard), t.pid)
            WHEN t.reason IS NOT NULL THEN pg_catalog.concat_ws(E'\n', pg_catalog.concat_ws(' ', t.reason, t.place), t.hint)
            WHEN t.state OPERATOR(pg_catalog.=) 'waiting' THEN 'has not been read yet'
            WHEN t.deletes_unproven_since IS NOT NULL
            THEN pg_catalog.format('deletes unproven since %s: load a new dataset', pg_catalog.date_trunc('second', t.deletes_unproven_since))
       END AS message
FROM (SELECT c.name AS changelog, c.server, k.relowner AS owner, h.here, w.workers OPERATOR(pg_catalog.>=) n.workers AS worker,
             w.heard, w.pid, i.stuck,
             CASE WHEN NOT h.here OR s.paused THEN 'paused'
                  WHEN s.halted THEN 'halted'
                  WHEN w.workers OPERATOR(pg_catalog.<) n.workers OR i.stuck OR s.waiting OR p.partitions IS NULL THEN 'waiting'
                  WHEN p.lag OPERATOR(pg_catalog.>) 1000 THEN 'catching_up'
                  ELSE 'running' END AS state,
             h.here AND NOT s.paused AND NOT s.halted AND NOT s.waiting AND w.workers OPERATOR(pg_catalog.>=) n.workers AND NOT i.stuck AS looked,
             p.lag, p.behind, r.per_second AS "rows/s", dl.dead, s.reason, s.hint, s.deletes_unproven_since,
             CASE WHEN s.record_offset IS NOT NULL THEN pg_catalog.format('(partition %s offset %s)', s.partition, s.record_offset) END AS place,
             (SELECT m.message FROM guest_context._maintenance m
              JOIN guest_context._entity me ON me.entity_id OPERATOR(pg_catalog.=) m.entity_id
              JOIN pg_catalog.pg_class mk ON mk.oid OPERATOR(pg_catalog.=) me.versions
              WHERE m.action OPERATOR(pg_catalog.=) 'ingest' AND mk.relowner OPERATOR(pg_catalog.=) k.relowner
              ORDER BY m.since DESC LIMIT 1) AS note
      FROM guest_context._changelog c
      JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) c.entity_id
      JOIN pg_catalog.pg_class k ON k.oid OPERATOR(pg_catalog.=) e.versions
      JOIN pg_catalog.pg_database d ON d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
      LEFT JOIN guest_context._changelog_state s ON s.changelog_id OPERATOR(pg_catalog.=) c.changelog_id
      CROSS JOIN LATERAL (SELECT coalesce(s.database OPERATOR(pg_catalog.=) d.oid, false) AS here) h
      LEFT JOIN pg_catalog.pg_foreign_server f ON f.srvname OPERATOR(pg_catalog.=) c.server
      CROSS JOIN (SELECT coalesce(pg_catalog.current_setting('guest_context.workers', true)::pg_catalog.int4, 1) AS workers) n
      LEFT JOIN LATERAL (SELECT pg_catalog.count(*) AS workers, pg_catalog.min(a.heard) AS heard,
                                (pg_catalog.array_agg(l.pid ORDER BY a.heard))[1] AS pid
                 FROM pg_catalog.pg_locks l CROSS JOIN LATERAL (SELECT guest_context._ingest_heard(l.pid) AS heard) a
                 WHERE l.locktype OPERATOR(pg_catalog.=) 'object' AND l.objsubid OPERATOR(pg_catalog.>=) 7
                   AND l.objsubid OPERATOR(pg_catalog.<) (n.workers OPERATOR(pg_catalog.+) 7)
                   AND l.mode OPERATOR(pg_catalog.=) 'ExclusiveLock' AND l.granted
                   AND l.database OPERATOR(pg_catalog.=) d.oid AND l.classid OPERATOR(pg_catalog.=) f.oid
                   AND l.objid OPERATOR(pg_catalog.=) k.relowner) w ON true
      CROSS JOIN LATERAL (SELECT coalesce(w.heard OPERATOR(pg_catalog.<)
                                 (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '30 s'::pg_catalog.interval), false) AS stuck) i
      LEFT JOIN LATERAL (SELECT pg_catalog.count(*) AS partitions,
                                least(pg_catalog.sum(greatest(l.high OPERATOR(pg_catalog.-) l.to_offset, 0)), 9223372036854775807)::pg_catalog.int8 AS lag,
                                CASE WHEN pg_catalog.bool_or(l.high OPERATOR(pg_catalog.>) l.to_offset)
                                     THEN pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)
                                          pg_catalog.min(l.record_time) FILTER (WHERE l.high OPERATOR(pg_catalog.>) l.to_offset))
                                     ELSE '0' END AS behind
                         FROM guest_context._position l
                         WHERE l.changelog_id OPERATOR(pg_catalog.=) c.changelog_id
                         HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0) p ON true
      LEFT JOIN LATERAL (SELECT (coalesce(pg_catalog.sum(l.rows), 0) OPERATOR(pg_catalog./) 10)::pg_catalog.int8 AS per_second
                         FROM guest_context._ledger l
                         WHERE l.changelog_id OPERATOR(pg_catalog.=) c.changelog_id
                           AND l.at OPERATOR(pg_catalog.>) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '10 s'::pg_catalog.interval)) r ON true
      LEFT JOIN LATERAL (SELECT pg_catalog.count(*) AS dead FROM guest_context._dead_letter dl
                         WHERE dl.changelog_id OPERATOR(pg_catalog.=) c.changelog_id) dl ON true
      WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE')
         OR pg_catalog.has_table_privilege(e.view, 'SELECT')) t
ORDER BY pg_catalog.array_position('{halted,waiting,paused,catching_up,running}', t.state), t.changelog;
COMMENT ON VIEW guest_context.status IS 'one row per changelog, worst first: its state, how far behind, and what to do';
GRANT SELECT ON guest_context.status TO PUBLIC;

-- Everybody sees what he did, or a role that he has the rights of; pg_monitor sees all.
CREATE VIEW guest_context.audit AS
SELECT a.audit_id, a.at, a.role, a.verb, a.object, a.reason, a.detail
FROM guest_context._audit a
LEFT JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) a.role
WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE')
   OR (r.oid IS NOT NULL AND pg_catalog.pg_has_role(r.oid, 'USAGE'));
COMMENT ON VIEW guest_context.audit IS 'acts of operators that cannot be undone: who, what, why';
GRANT SELECT ON guest_context.audit TO PUBLIC;
