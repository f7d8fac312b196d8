-- entity_merge(value, version [, tiebreak]): the newest value of a group, the
-- rule of merging as an aggregate for any query and any type.
--
--   SELECT ref, guest_context.entity_merge(o, o.modified_at, o.record_offset)
--   FROM all_versions_of_orders o GROUP BY ref;
--
-- Greatest version wins; at equal version the greatest tiebreak, NULL being
-- lowest; then the greatest value by its type's default order, NULL being lowest;
-- then, for types without an order and values that only count as equal, the
-- greatest bytes. So the answer depends on the set of rows alone: not on their
-- order, not on the plan, not on rows that come twice. As plain SQL:
--
--   ORDER BY version DESC, tiebreak DESC NULLS LAST, value DESC NULLS LAST, ROW(value) USING *> LIMIT 1
--
-- A row without a version is left out. A NULL value that has a version is a
-- state like others, and NULL is the answer when it is the newest. No rows: NULL.

CREATE FUNCTION guest_context._entity_merge_step(state internal, value anyelement, version timestamptz) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_entity_merge_step';
COMMENT ON FUNCTION guest_context._entity_merge_step(internal, anyelement, timestamptz) IS 'internal: a part of entity_merge';

CREATE FUNCTION guest_context._entity_merge_step(state internal, value anyelement, version timestamptz, tiebreak bigint) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_entity_merge_step';
COMMENT ON FUNCTION guest_context._entity_merge_step(internal, anyelement, timestamptz, bigint) IS 'internal: a part of entity_merge';

CREATE FUNCTION guest_context._entity_merge_combine(state internal, other internal) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_entity_merge_combine';
COMMENT ON FUNCTION guest_context._entity_merge_combine(internal, internal) IS 'internal: a part of entity_merge';

CREATE FUNCTION guest_context._entity_merge_serialize(state internal) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_entity_merge_serialize';
COMMENT ON FUNCTION guest_context._entity_merge_serialize(internal) IS 'internal: a part of entity_merge';

CREATE FUNCTION guest_context._entity_merge_deserialize(bytes bytea, unused internal) RETURNS internal
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_entity_merge_deserialize';
COMMENT ON FUNCTION guest_context._entity_merge_deserialize(bytea, internal) IS 'internal: a part of entity_merge';

CREATE FUNCTION guest_context._entity_merge_final(state internal, value anyelement, version timestamptz) RETURNS anyelement
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_entity_merge_final';
COMMENT ON FUNCTION guest_context._entity_merge_final(internal, anyelement, timestamptz) IS 'internal: a part of entity_merge';

CREATE FUNCTION guest_context._entity_merge_final(state internal, value anyelement, version timestamptz, tiebreak bigint) RETURNS anyelement
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_entity_merge_final';
COMMENT ON FUNCTION guest_context._entity_merge_final(internal, anyelement, timestamptz, bigint) IS 'internal: a part of entity_merge';

CREATE AGGREGATE guest_context.entity_merge(value anyelement, version timestamptz)
(
	SFUNC = guest_context._entity_merge_step,
	STYPE = internal,
	SSPACE = 128,
	FINALFUNC = guest_context._entity_merge_final,
	FINALFUNC_EXTRA,
	COMBINEFUNC = guest_context._entity_merge_combine,
	SERIALFUNC = guest_context._entity_merge_serialize,
	DESERIALFUNC = guest_context._entity_merge_deserialize,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE guest_context.entity_merge(anyelement, timestamptz) IS
	'the value with the newest version; ties: greatest value, then greatest bytes; rows without a version are left out, a NULL value can win';

CREATE AGGREGATE guest_context.entity_merge(value anyelement, version timestamptz, tiebreak bigint)
(
	SFUNC = guest_context._entity_merge_step,
	STYPE = internal,
	SSPACE = 128,
	FINALFUNC = guest_context._entity_merge_final,
	FINALFUNC_EXTRA,
	COMBINEFUNC = guest_context._entity_merge_combine,
	SERIALFUNC = guest_context._entity_merge_serialize,
	DESERIALFUNC = guest_context._entity_merge_deserialize,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE guest_context.entity_merge(anyelement, timestamptz, bigint) IS
	'the value with the newest version; ties: greatest tiebreak (NULL is lowest), greatest value, greatest bytes; rows without a version are left out, a NULL value can win';
