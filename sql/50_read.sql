-- Reading: what the views of truth call. None of it is for direct use.

CREATE TYPE guest_context._plan;

CREATE FUNCTION guest_context._plan_in(cstring) RETURNS guest_context._plan
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_plan_in';
COMMENT ON FUNCTION guest_context._plan_in(cstring) IS 'refuses: only the planner makes values of this type';

CREATE FUNCTION guest_context._plan_out(guest_context._plan) RETURNS cstring
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_plan_out';
COMMENT ON FUNCTION guest_context._plan_out(guest_context._plan) IS 'what a plan was made with, for EXPLAIN';

CREATE TYPE guest_context._plan (INPUT = guest_context._plan_in, OUTPUT = guest_context._plan_out,
	ALIGNMENT = double, STORAGE = plain);
COMMENT ON TYPE guest_context._plan IS 'what a plan of a view of truth was made with: window floor, newest leaf, datasets';

CREATE FUNCTION guest_context._plan_support(internal) RETURNS internal
	LANGUAGE c STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_plan_support';
COMMENT ON FUNCTION guest_context._plan_support(internal) IS 'planner support of _active_dataset, _plan_ok and _is_current';

CREATE FUNCTION guest_context._floor_support(internal) RETURNS internal
	LANGUAGE c STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_floor_support';
COMMENT ON FUNCTION guest_context._floor_support(internal) IS 'planner support of _floor';

CREATE FUNCTION guest_context._ceiling_support(internal) RETURNS internal
	LANGUAGE c STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_ceiling_support';
COMMENT ON FUNCTION guest_context._ceiling_support(internal) IS 'planner support of _ceiling';

CREATE FUNCTION guest_context._plan(tree regclass) RETURNS guest_context._plan
	LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_plan_unplanned';
COMMENT ON FUNCTION guest_context._plan(regclass) IS 'stands in a view for what the planner will put there';

CREATE FUNCTION guest_context._floor(tree regclass) RETURNS timestamptz
	LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT guest_context._floor_support
	AS 'MODULE_PATHNAME', 'gc_plan_unplanned';
COMMENT ON FUNCTION guest_context._floor(regclass) IS 'a constant once planned: lowest window start of all datasets that are not dropped';

CREATE FUNCTION guest_context._ceiling(tree regclass) RETURNS timestamptz
	LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT guest_context._ceiling_support
	AS 'MODULE_PATHNAME', 'gc_plan_unplanned';
COMMENT ON FUNCTION guest_context._ceiling(regclass) IS 'a constant once planned: end of the leaf after the present one';

CREATE FUNCTION guest_context._active_dataset(plan guest_context._plan) RETURNS integer
	LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT guest_context._plan_support
	AS 'MODULE_PATHNAME', 'gc_active_dataset';
COMMENT ON FUNCTION guest_context._active_dataset(guest_context._plan) IS 'the active dataset of the tree in the statement''s snapshot, 0 = none; checks the plan';

CREATE FUNCTION guest_context._plan_ok(plan guest_context._plan) RETURNS boolean
	LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT guest_context._plan_support
	AS 'MODULE_PATHNAME', 'gc_plan_ok';
COMMENT ON FUNCTION guest_context._plan_ok(guest_context._plan) IS 'true, or a serialization error when the plan does not cover what the snapshot needs';

CREATE FUNCTION guest_context._is_current(plan guest_context._plan, dataset integer, arrived_at timestamptz,
	version timestamptz, source integer, partition integer, record_offset bigint, tid tid, VARIADIC key "any")
	RETURNS boolean
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 20 SUPPORT guest_context._plan_support
	AS 'MODULE_PATHNAME', 'gc_is_current';
COMMENT ON FUNCTION guest_context._is_current(guest_context._plan, integer, timestamptz, timestamptz, integer, integer, bigint, tid, "any")
	IS 'is this version in the active dataset or the window, and no newer version of its key there?';

CREATE FUNCTION guest_context._newest_support(internal) RETURNS internal
	LANGUAGE c STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_newest_support';
COMMENT ON FUNCTION guest_context._newest_support(internal) IS 'planner support of _is_newest';

CREATE FUNCTION guest_context._is_newest(plan guest_context._plan, version timestamptz, VARIADIC key "any")
	RETURNS boolean
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 20 SUPPORT guest_context._newest_support
	AS 'MODULE_PATHNAME', 'gc_is_newest';
COMMENT ON FUNCTION guest_context._is_newest(guest_context._plan, timestamptz, "any")
	IS 'what _is_current becomes on a leaf of one dataset: is it active, and has the window no newer version?';

-- Windows are no secret: the portable form of the view reads them.
GRANT SELECT ON guest_context._window TO PUBLIC;
