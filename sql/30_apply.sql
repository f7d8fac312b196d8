-- Writing from SQL: change records without Kafka.

CREATE FUNCTION guest_context.apply(entity regclass, payload json, deleted boolean DEFAULT false) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_apply';
COMMENT ON FUNCTION guest_context.apply(regclass, json, boolean)
	IS 'applies a change record, one JSON object or an array of them; deleted: they are tombstones';
