-- Entities: the verbs that make, change and drop them.

CREATE FUNCTION guest_context._refuse_write() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'gc_refuse_write';
COMMENT ON FUNCTION guest_context._refuse_write() IS 'trigger of views of truth: refuses INSERT, UPDATE and DELETE with a hint';

CREATE FUNCTION guest_context.create_entity(
	name text,
	shape regclass,
	key text[] DEFAULT '{ref}',
	version text DEFAULT 'modified_at',
	parent regclass DEFAULT NULL,
	parent_ref text[] DEFAULT NULL,
	mapping jsonb DEFAULT NULL,
	unmapped text DEFAULT NULL,
	expire_after interval DEFAULT NULL,
	partition_interval interval DEFAULT '1 day',
	retention interval DEFAULT '7 days',
	overlap interval DEFAULT '12 hours',
	rebuild_every interval DEFAULT NULL,
	security_invoker boolean DEFAULT false,
	if_not_exists boolean DEFAULT false)
	RETURNS regclass
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_create_entity';
COMMENT ON FUNCTION guest_context.create_entity(text, regclass, text[], text, regclass, text[], jsonb, text, interval, interval, interval, interval, interval, boolean, boolean)
	IS 'makes an entity: its view of truth and the tree of tables behind it';

CREATE FUNCTION guest_context.alter_entity(
	entity regclass,
	retention interval DEFAULT NULL,
	overlap interval DEFAULT NULL,
	partition_interval interval DEFAULT NULL,
	expire_after interval DEFAULT NULL,
	rebuild_every interval DEFAULT NULL,
	mapping jsonb DEFAULT NULL,
	unmapped text DEFAULT NULL,
	shape regclass DEFAULT NULL,
	security_invoker boolean DEFAULT NULL,
	reset text[] DEFAULT NULL)
	RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_alter_entity';
COMMENT ON FUNCTION guest_context.alter_entity(regclass, interval, interval, interval, interval, interval, jsonb, text, regclass, boolean, text[])
	IS 'changes options of an entity (NULL = unchanged) or adds the columns that a new shape has more';

CREATE FUNCTION guest_context.drop_entity(entity regclass) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_drop_entity';
COMMENT ON FUNCTION guest_context.drop_entity(regclass) IS 'drops an entity with its view, all its versions and, for a root, all datasets';

CREATE FUNCTION guest_context.grant_reader(entity regclass, role name) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_grant_reader';
COMMENT ON FUNCTION guest_context.grant_reader(regclass, name) IS 'grants a role what reading this entity needs';

CREATE FUNCTION guest_context.truth_sql(entity regclass, portable boolean DEFAULT false) RETURNS text
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gc_truth_sql_text';
COMMENT ON FUNCTION guest_context.truth_sql(regclass, boolean)
	IS 'the SQL of the view of truth; portable: the same answer by anti-joins, without functions of guest_context';
