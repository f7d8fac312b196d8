-- Versions that should never have been.

CREATE FUNCTION guest_context.purge_version(entity regclass, key text, version timestamptz, reason text DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_purge_version';
COMMENT ON FUNCTION guest_context.purge_version(regclass, text, timestamptz, text)
	IS 'takes a version of a key out, for good: also when it is read again; returns how many rows it had; recorded in the audit';

-- Keys are personal data: only the entity's owner, and who has his rights, sees them.
CREATE VIEW guest_context.purged_version WITH (security_barrier = true) AS
SELECT e.view AS entity, p.key, p.version, p.role, p.reason, p.at
FROM guest_context._purged p
JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) p.entity_id
JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) e.versions
WHERE pg_catalog.pg_has_role(t.relowner, 'USAGE');
COMMENT ON VIEW guest_context.purged_version IS 'versions that purge_version has taken out, and that stay away';
GRANT SELECT ON guest_context.purged_version TO PUBLIC;
