-- context_merge(document): one document out of several of one root, every
-- entity in it by its own newest version.
--
--   SELECT guest_context.context_merge(document)
--   FROM (SELECT document FROM batch_view UNION ALL SELECT document FROM speed_view) d
--   GROUP BY document->>'ref';
--
-- The rules:
--
--  1. An object with "ref" and "modifiedAt" (or "modified_at") is an entity. Its
--     ref is a string or a number; 123 and "123" are the same. Its version is a
--     time as in a changelog: ISO 8601 with a zone, or a number since 1970 whose
--     magnitude tells s, ms or µs. Both forms may be mixed.
--  2. The document itself is an entity, the root, and all documents have one root.
--  3. Every entity is merged for itself: its newest version wins, whole, also when
--     it says less than an older one. At equal versions a deletion wins, then the
--     greater one as jsonb text, by bytes.
--  4. What is in an entity and is no entity belongs to it and comes and goes with
--     its version: values, arrays of them, objects without ref or version.
--  5. An entity in a member of another one is its child, known by that member and
--     its ref. Children are collected from all documents, also from those whose
--     version of the parent has lost.
--  6. An array with an entity in it holds nothing else. It becomes the array of all
--     such children, in the order of their refs' bytes. A member that is such
--     an array in any document is one in the answer, if only an empty one.
--  7. A member that is one entity stays one: the newest that any document has
--     there, whatever its ref. When that is deleted there is none.
--  8. Plain objects in an entity are searched for children, other arrays are not.
--  9. "deleted": true makes a version a tombstone: it beats older versions, loses
--     to newer ones, and neither it nor its children are shown. When the root is
--     deleted the answer is NULL.
-- 10. Computed totals are dropped: members "measures" and "totals" of an entity. The
--     total of one document is not that of the merged one, and neither is
--     the sum of two. Compute them over the merged children.
--
-- Documents that are NULL are left out; without any the answer is NULL. The answer
-- has the same bytes for the same set of documents: in any order, in any plan, with
-- any of them twice. Merge documents, not answers: an answer carries no tombstones.

CREATE FUNCTION guest_context._context_merge_step(state internal, document jsonb) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_context_merge_step';
COMMENT ON FUNCTION guest_context._context_merge_step(internal, jsonb) IS 'internal: a part of context_merge';

CREATE FUNCTION guest_context._context_merge_combine(state internal, other internal) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_context_merge_combine';
COMMENT ON FUNCTION guest_context._context_merge_combine(internal, internal) IS 'internal: a part of context_merge';

CREATE FUNCTION guest_context._context_merge_serialize(state internal) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_context_merge_serialize';
COMMENT ON FUNCTION guest_context._context_merge_serialize(internal) IS 'internal: a part of context_merge';

CREATE FUNCTION guest_context._context_merge_deserialize(bytes bytea, unused internal) RETURNS internal
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_context_merge_deserialize';
COMMENT ON FUNCTION guest_context._context_merge_deserialize(bytea, internal) IS 'internal: a part of context_merge';

CREATE FUNCTION guest_context._context_merge_final(state internal) RETURNS jsonb
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_context_merge_final';
COMMENT ON FUNCTION guest_context._context_merge_final(internal) IS 'internal: a part of context_merge';

CREATE AGGREGATE guest_context.context_merge(document jsonb)
(
	SFUNC = guest_context._context_merge_step,
	STYPE = internal,
	SSPACE = 4096,
	FINALFUNC = guest_context._context_merge_final,
	COMBINEFUNC = guest_context._context_merge_combine,
	SERIALFUNC = guest_context._context_merge_serialize,
	DESERIALFUNC = guest_context._context_merge_deserialize,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE guest_context.context_merge(jsonb) IS
	'one document out of several of one root: every object with "ref" and "modifiedAt" by its newest version, children by ref, deleted ones and computed totals ("measures", "totals") left out';
