-- The extension's own schema. The script makes it, so that it belongs to the
-- extension and nobody else's objects can be in it.
\echo Use "CREATE EXTENSION guest_context" to load this file. \quit

CREATE SCHEMA guest_context;
COMMENT ON SCHEMA guest_context IS 'guest_context: change records and snapshots as one view of truth';
GRANT USAGE ON SCHEMA guest_context TO PUBLIC;

CREATE FUNCTION guest_context._require_utf8() RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_require_utf8';
COMMENT ON FUNCTION guest_context._require_utf8() IS 'an error in a database that is not UTF8, where the extension cannot be';
SELECT guest_context._require_utf8();
