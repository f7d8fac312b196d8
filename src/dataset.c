/*
 * dataset.c: datasets in the catalogue; create_dataset, dataset_table,
 * load_dataset, drop_dataset.
 *
 * A dataset is one snapshot of a root entity and everything under it, cut at
 * as_of. Its life: loading -> sealed -> active -> retired -> dropped. What it
 * spans and where its windows begin is fixed when it is created; later changes
 * of the tree or of `overlap` do not touch it.
 *
 * Three locks serialize the verbs, all held until the transaction ends. The one
 * on the context, shared, keeps entities from being dropped or altered under a verb.
 * The one on the dataset keeps a verb from working on what another verb is changing.
 * The one on the root belongs to whatever moves the active dataset, the floor
 * or the coverage; nothing that takes long is done under it. The order is
 * context, dataset, root, and only then relations. Writers and readers take none.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/queryenvironment.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/varlena.h"

#include "catalog.h"
#include "compat.h"
#include "dataset.h"
#include "guest_context.h"
#include "launcher.h"
#include "progress.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_create_dataset);
PG_FUNCTION_INFO_V1(gc_dataset_table);
PG_FUNCTION_INFO_V1(gc_load_dataset);
PG_FUNCTION_INFO_V1(gc_drop_dataset);

/* Separates the lock of a root's datasets from its writer lock (tree.c). */
#define DATASET_LOCK_SUBID 2

/* Rows that load_dataset moves at a time. */
#define LOAD_BATCH_ROWS 10000

static const struct
{
	int			state;
	const char *name;
	const char *meaning;
}			states[] = {
	{GC_LOADING, "loading", "What is loaded must be sealed before it can be used."},
	{GC_SEALED, "sealed", "What is sealed is immutable."},
	{GC_ACTIVE, "active", "It is the one that is read now."},
	{GC_RETIRED, "retired", "It was active once; what is sealed is immutable."},
	{GC_DROPPED, "dropped", "Its partitions are gone, or going."},
};

char *
gc_entity_label(const GcEntity *entity)
{
	return psprintf("%s.%s", entity->schema, entity->name);
}

void
gc_require_argument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" cannot be null", name)));
}

/*
 * In REPEATABLE READ a verb would decide by the past: rows loaded, records
 * written or a dataset activated since would be overlooked.
 */
void
gc_require_read_committed(const char *verb)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot %s in a transaction that is not READ COMMITTED", verb),
				 errdetail("It must see what others have committed up to now."),
				 errhint("BEGIN ISOLATION LEVEL READ COMMITTED;")));
}

GcEntity *
gc_dataset_root(Oid relation, const char *function, const char *arguments)
{
	GcEntity   *entity = gc_entity_get(relation, false);

	gc_entity_check_owner(entity);
	if (entity->parent_id != 0)
	{
		GcEntity   *root = gc_entity_by_id(entity->root_id);

		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("entity \"%s\" is not a root", gc_entity_label(entity)),
				 errdetail("A dataset spans a whole context, and the root of this one is \"%s\".",
						   gc_entity_label(root)),
				 errhint("SELECT guest_context.%s(%s%s);", function,
						 quote_literal_cstr(gc_quoted_name(root->view)), arguments)));
	}
	return entity;
}

void
gc_dataset_lock_root(const GcEntity *root)
{
	gc_context_lock(root->entity_id, ShareLock);
	gc_entity_check_exists(root, root->versions);
	LockDatabaseObject(RelationRelationId, root->versions, DATASET_LOCK_SUBID, ExclusiveLock);
}

/*
 * Reading the catalogue
 */

static int
state_from_name(const char *name)
{
	for (int i = 0; i < lengthof(states); i++)
		if (strcmp(states[i].name, name) == 0)
			return states[i].state;
	elog(ERROR, "unexpected state \"%s\" of a dataset", name);	/* cannot happen */
	return 0;
}

/* The members, in the order of the tree. Entities dropped since are left out. */
static List *
read_members(int32 dataset_id, List *tree)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(dataset_id)};
	List	   *members = NIL;

	SPI_connect();
	gc_catalog_execute("SELECT entity_id, window_start, staging, leaf, rows, max_version"
					   " FROM guest_context._dataset_entity"
					   " WHERE dataset_id OPERATOR(pg_catalog.=) $1 ORDER BY entity_id",
					   1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		ListCell   *lc;

		foreach(lc, tree)
		{
			GcEntity   *entity = lfirst(lc);
			GcMember   *member;
			MemoryContext spi;

			if (entity->entity_id != DatumGetInt32(gc_catalog_value(row, "entity_id", 0)))
				continue;
			spi = MemoryContextSwitchTo(caller);
			member = palloc0(sizeof(GcMember));
			member->entity = entity;
			member->window_start = DatumGetTimestampTz(gc_catalog_value(row, "window_start", 0));
			member->staging = DatumGetObjectId(gc_catalog_value(row, "staging", ObjectIdGetDatum(InvalidOid)));
			member->leaf = DatumGetObjectId(gc_catalog_value(row, "leaf", ObjectIdGetDatum(InvalidOid)));
			member->rows = DatumGetInt64(gc_catalog_value(row, "rows", Int64GetDatum(0)));
			member->max_version = DatumGetTimestampTz(gc_catalog_value(row, "max_version",
															 TimestampTzGetDatum(DT_NOBEGIN)));
			member->expected = GC_NOT_EXPECTED;
			members = lappend(members, member);
			MemoryContextSwitchTo(spi);
		}
	}
	SPI_finish();
	return members;
}

GcDataset *
gc_dataset_get(int64 dataset_id)
{
	GcDataset  *dataset = palloc0(sizeof(GcDataset));
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(dataset_id)};
	HeapTuple	row;
	int32		root_id;
	List	   *tree;

	SPI_connect();
	gc_catalog_execute("SELECT * FROM guest_context._dataset WHERE dataset_id OPERATOR(pg_catalog.=) $1",
					   1, types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("dataset %lld does not exist", (long long) dataset_id),
				 errhint("SELECT dataset, root, state FROM guest_context.dataset;")));
	row = SPI_tuptable->vals[0];
	dataset->dataset_id = (int32) dataset_id;
	root_id = DatumGetInt32(gc_catalog_value(row, "root_id", 0));
	dataset->state = state_from_name(gc_catalog_text(row, "state"));
	dataset->as_of = DatumGetTimestampTz(gc_catalog_value(row, "as_of", 0));
	dataset->built = DatumGetBool(gc_catalog_value(row, "built", 0));
	dataset->activate = DatumGetBool(gc_catalog_value(row, "activate", 0));
	dataset->verified_active = DatumGetInt32(gc_catalog_value(row, "verified_active", Int32GetDatum(-1)));
	dataset->verified = dataset->verified_active >= 0;
	dataset->verified_ok = DatumGetBool(gc_catalog_value(row, "verified_ok", BoolGetDatum(false)));
	dataset->regressions = DatumGetInt64(gc_catalog_value(row, "regressions", Int64GetDatum(0)));
	SPI_finish();

	tree = gc_entity_tree(root_id); /* parents come before children */
	if (tree != NIL && ((GcEntity *) linitial(tree))->entity_id == root_id)
		dataset->members = read_members(dataset->dataset_id, tree);
	if (dataset->members == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the entities of dataset %d are gone", dataset->dataset_id),
				 errdetail("Their tables have been dropped by hand, or the catalogue of guest_context was not restored whole.")));
	dataset->root = linitial(tree);
	return dataset;
}

int64
gc_dataset_active_rows(const GcEntity *entity)
{
	return gc_catalog_run_bigint(SPI_OK_SELECT,
								 "SELECT m.rows FROM guest_context._window w"
								 " JOIN guest_context._dataset_entity m"
								 "   ON m.dataset_id OPERATOR(pg_catalog.=) w.dataset_id"
								 "  AND m.entity_id OPERATOR(pg_catalog.=) w.entity_id"
								 " WHERE w.entity_id OPERATOR(pg_catalog.=) $1", 1,
								 INT4OID, Int32GetDatum(entity->entity_id));
}

/* The first member whose partition is gone or detached; NULL = the dataset is whole. */
static GcMember *
broken_member(const GcDataset *dataset)
{
	ListCell   *lc;

	foreach(lc, dataset->members)
	{
		GcMember   *member = lfirst(lc);

		if (gc_catalog_run_bigint(SPI_OK_SELECT,
								  "SELECT 1::pg_catalog.int8 FROM pg_catalog.pg_inherits"
								  " WHERE inhrelid OPERATOR(pg_catalog.=) $1"
								  "   AND inhparent OPERATOR(pg_catalog.=) $2 AND NOT inhdetachpending", 2,
								  OIDOID, ObjectIdGetDatum(member->leaf),
								  OIDOID, ObjectIdGetDatum(member->entity->batch)) == 0)
			return member;
	}
	return NULL;
}

/* In an ereport: what was done to it by hand. */
static int
errdetail_broken(const GcMember *member)
{
	if (get_rel_name(member->leaf) == NULL)
		return errdetail("It was dropped by hand.");
	return errdetail("\"%s\" was detached by hand.", get_rel_name(member->leaf));
}

/* What makes it whole again, or NULL. */
static char *
attach_command(int32 dataset_id, const GcMember *member)
{
	if (get_rel_name(member->leaf) == NULL)
		return NULL;
	return psprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES IN (%d);",
					gc_quoted_name(member->entity->batch), gc_quoted_name(member->leaf), dataset_id);
}

void
gc_dataset_check_leaves(const GcDataset *dataset, const char *verb)
{
	GcMember   *member = broken_member(dataset);
	char	   *attach;

	if (member == NULL)
		return;
	attach = attach_command(dataset->dataset_id, member);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s dataset %d because its partition of entity \"%s\" is gone",
					verb, dataset->dataset_id, gc_entity_label(member->entity)),
			 errdetail_broken(member),
			 attach ? errhint("%s", attach) :
			 errhint("SELECT guest_context.drop_dataset(%d);", dataset->dataset_id)));
}

void
gc_dataset_check_active(int32 active, const char *verb, const char *remedy)
{
	GcDataset  *dataset = active == 0 ? NULL : gc_dataset_get(active);
	GcMember   *member = dataset == NULL ? NULL : broken_member(dataset);
	char	   *attach;

	if (member == NULL)
		return;
	attach = attach_command(active, member);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s because the partition of entity \"%s\" in active dataset %d is gone",
					verb, gc_entity_label(member->entity), active),
			 errdetail_broken(member),
			 errhint("%s", attach ? attach : remedy)));
}

bool
gc_dataset_is_broken(int32 dataset_id)
{
	return dataset_id != 0 && broken_member(gc_dataset_get(dataset_id)) != NULL;
}

/* SELECT guest_context.create_dataset('shop.guests', as_of => …): a snapshot of now. */
static char *
create_command(const GcEntity *root)
{
	return psprintf("SELECT guest_context.create_dataset(%s, as_of => now());",
					quote_literal_cstr(gc_quoted_name(root->view)));
}

/* What can be done next by who wanted to do that with a dataset in this state. */
static char *
next_command(const GcDataset *dataset, const char *verb)
{
	int32		id = dataset->dataset_id;
	bool		load = strcmp(verb, "load") == 0;

	switch (dataset->state)
	{
		case GC_LOADING:
			return dataset->built ? pstrdup("SELECT * FROM guest_context.run_maintenance();") :
				psprintf("SELECT guest_context.seal_dataset(%d);", id);
		case GC_ACTIVE:
			return psprintf("SELECT dataset, state, as_of FROM guest_context.dataset WHERE root = %s::regclass;",
							quote_literal_cstr(gc_quoted_name(dataset->root->view)));
		case GC_SEALED:
		case GC_RETIRED:
			if (!load)
				return psprintf("SELECT * FROM guest_context.verify_dataset(%d);", id);
			/* what was sealed too early is of no use to anybody */
			return dataset->state == GC_RETIRED ? create_command(dataset->root) :
				psprintf("SELECT guest_context.drop_dataset(%d); %s", id,
						 create_command(dataset->root));
		default:
			return create_command(dataset->root);
	}
}

/* The dataset as it is now, if it may be worked on. */
static GcDataset *
get_checked(int64 dataset_id, const char *verb, int allowed)
{
	GcDataset  *dataset = gc_dataset_get(dataset_id);

	if (dataset->state & allowed)
		return dataset;
	for (int i = 0; i < lengthof(states); i++)
		if (states[i].state == dataset->state)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot %s dataset %d while it is %s", verb, dataset->dataset_id,
							states[i].name),
					 errdetail_internal("%s", dataset->built && dataset->state == GC_LOADING ?
										"It is being built, or waits for that." : states[i].meaning),
					 errhint("%s", next_command(dataset, verb))));
	return NULL;
}

GcDataset *
gc_dataset_open(int64 dataset_id, const char *verb, int allowed, LOCKMODE mode, bool lock_root)
{
	GcDataset  *dataset = gc_dataset_get(dataset_id);

	gc_entity_check_owner(dataset->root);
	gc_context_lock(dataset->root->entity_id, ShareLock);
	LockDatabaseObject(gc_catalog_relid("_dataset"), (Oid) dataset->dataset_id, 0, mode);
	if (lock_root)
		gc_dataset_lock_root(dataset->root);
	return get_checked(dataset_id, verb, allowed);	/* as whoever held the lock left it */
}

GcMember *
gc_dataset_member(const GcDataset *dataset, Oid relation)
{
	GcEntity   *entity = gc_entity_get(relation, false);
	ListCell   *lc;

	foreach(lc, dataset->members)
	{
		GcMember   *member = lfirst(lc);

		if (member->entity->entity_id == entity->entity_id)
			return member;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("dataset %d does not span entity \"%s\"", dataset->dataset_id,
					gc_entity_label(entity)),
			 entity->root_id == dataset->root->entity_id ?
			 errdetail("The entity was created after the dataset.") :
			 errdetail("The dataset spans the context of \"%s\".", gc_entity_label(dataset->root)),
			 errhint("%s", create_command(gc_entity_by_id(entity->root_id)))));
	return NULL;
}

/*
 * Creating
 */

/*
 * The lowest window start of all datasets that are not dropped, loading ones
 * included: so neither activation nor rollback ever crosses the floor. Minus
 * infinity while there is no active dataset, and for an entity that one of
 * those datasets does not span, for then all of its speed table may count.
 */
void
gc_floor_recompute(int32 root_id)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(root_id)};

	SPI_connect();
	gc_catalog_execute("UPDATE guest_context._window w SET floor = f.floor"
					   " FROM (SELECT e.entity_id,"
					   "              CASE WHEN pg_catalog.bool_or(d.state OPERATOR(pg_catalog.=) 'active')"
					   "                        AND pg_catalog.bool_and(m.entity_id IS NOT NULL)"
					   "                   THEN pg_catalog.min(m.window_start)"
					   "                   ELSE '-infinity' END AS floor"
					   "       FROM guest_context._entity e"
					   "       LEFT JOIN guest_context._dataset d ON d.root_id OPERATOR(pg_catalog.=) e.root_id"
					   "        AND d.state OPERATOR(pg_catalog.<>) 'dropped'"
					   "       LEFT JOIN guest_context._dataset_entity m"
					   "         ON m.dataset_id OPERATOR(pg_catalog.=) d.dataset_id"
					   "        AND m.entity_id OPERATOR(pg_catalog.=) e.entity_id"
					   "       WHERE e.root_id OPERATOR(pg_catalog.=) $1 GROUP BY e.entity_id) f"
					   " WHERE w.entity_id OPERATOR(pg_catalog.=) f.entity_id"
					   "   AND w.floor OPERATOR(pg_catalog.<>) f.floor"
					   " RETURNING w.versions",
					   1, types, values, NULL, SPI_OK_UPDATE_RETURNING);
	/* the floor is a constant in cached plans */
	for (uint64 i = 0; i < SPI_processed; i++)
		CacheInvalidateRelcacheByRelid(DatumGetObjectId(gc_catalog_value(SPI_tuptable->vals[i], "versions", 0)));
	SPI_finish();
}

int32
gc_dataset_register(const GcEntity *root, TimestampTz as_of, bool built, bool activate)
{
	TimestampTz window_start = gc_timestamp_minus(as_of, root->overlap);
	int32		dataset_id;
	ListCell   *lc;

	foreach(lc, gc_entity_tree(root->entity_id))
		gc_entity_check_columns(lfirst(lc));
	dataset_id = (int32)
		gc_catalog_run_bigint(SPI_OK_INSERT_RETURNING,
							  "INSERT INTO guest_context._dataset (root_id, as_of, built, activate, created_by)"
							  " VALUES ($1, $2, $3, $4, $5) RETURNING dataset_id::pg_catalog.int8", 5,
							  INT4OID, Int32GetDatum(root->entity_id),
							  TIMESTAMPTZOID, TimestampTzGetDatum(as_of),
							  BOOLOID, BoolGetDatum(built),
							  BOOLOID, BoolGetDatum(activate),
							  TEXTOID, CStringGetTextDatum(GetUserNameFromId(GetUserId(), false)));
	gc_catalog_run(SPI_OK_INSERT,
				   "INSERT INTO guest_context._dataset_entity (dataset_id, entity_id, window_start)"
				   " SELECT $1, e.entity_id, $2 FROM guest_context._entity e"
				   " WHERE e.root_id OPERATOR(pg_catalog.=) $3", 3,
				   INT4OID, Int32GetDatum(dataset_id),
				   TIMESTAMPTZOID, TimestampTzGetDatum(window_start),
				   INT4OID, Int32GetDatum(root->entity_id));
	gc_floor_recompute(root->entity_id);
	return dataset_id;
}

/* An empty table of the shape's columns, of the types that the tree has. */
static void
create_staging(int32 dataset_id, const GcMember *member)
{
	const GcEntity *entity = member->entity;
	char	   *relname = psprintf("%s_d%d_staging", get_rel_name(entity->batch), dataset_id);
	char	   *name = quote_qualified_identifier(entity->schema, relname);

	gc_run_ddl(psprintf("CREATE TABLE %s AS SELECT %s FROM %s WITH NO DATA", name,
						gc_column_list(entity->shape_columns, ""),
						gc_quoted_name(entity->versions)), entity->owner);
	gc_run_ddl(psprintf("ALTER TABLE %s ADD COLUMN gc_deleted boolean NOT NULL DEFAULT false", name),
			   entity->owner);
	gc_run_ddl(psprintf("COMMENT ON TABLE %s IS 'dataset %d is loaded here until it is sealed'",
						name, dataset_id), entity->owner);
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset_entity SET staging = $3"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1 AND entity_id OPERATOR(pg_catalog.=) $2", 3,
				   INT4OID, Int32GetDatum(dataset_id),
				   INT4OID, Int32GetDatum(entity->entity_id),
				   OIDOID, ObjectIdGetDatum(get_relname_relid(relname, get_rel_namespace(entity->versions))));
}

/* A cut in the future could not have been made; infinity is none at all. */
static void
check_as_of(TimestampTz as_of)
{
	TimestampTz latest = GetCurrentTimestamp() + gc_max_future_skew * USECS_PER_SEC;

	if (TIMESTAMP_NOT_FINITE(as_of))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("as_of must be finite"),
				 errhint("Give the time at which the snapshot was cut.")));
	if (as_of > latest)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("as_of lies in the future"),
				 errdetail("It is %s, and with guest_context.max_future_skew the latest is %s.",
						   gc_timestamp_literal(as_of), gc_timestamp_literal(latest)),
				 errhint("Give the time at which the snapshot was cut.")));
}

/*
 * create_dataset(root regclass, as_of timestamptz) -> bigint
 */
Datum
gc_create_dataset(PG_FUNCTION_ARGS)
{
	GcEntity   *root;
	TimestampTz as_of;
	int32		dataset_id;
	int			guc_level = gc_enter();
	ListCell   *lc;

	gc_require_argument(fcinfo, 0, "root");
	gc_require_argument(fcinfo, 1, "as_of");
	as_of = PG_GETARG_TIMESTAMPTZ(1);
	check_as_of(as_of);
	root = gc_dataset_root(PG_GETARG_OID(0), "create_dataset",
						   psprintf(", as_of => '%s'", gc_timestamp_literal(as_of)));

	gc_dataset_lock_root(root);
	dataset_id = gc_dataset_register(root, as_of, false, false);
	gc_coverage_check(root, dataset_id, "create");
	foreach(lc, gc_dataset_get(dataset_id)->members)
		create_staging(dataset_id, lfirst(lc));
	gc_leave(guc_level);
	PG_RETURN_INT64(dataset_id);
}

/*
 * Loading
 */

void
gc_dataset_check_external(const GcDataset *dataset, const char *verb)
{
	if (dataset->built)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot %s dataset %d, for it is built from the current truth",
						verb, dataset->dataset_id),
				 errdetail("Nothing is loaded into it."),
				 errhint("%s", create_command(dataset->root))));
}

/*
 * dataset_table(dataset bigint, entity regclass) -> regclass
 *
 * The staging table: any tool may COPY or INSERT into it, as the owner.
 */
Datum
gc_dataset_table(PG_FUNCTION_ARGS)
{
	GcDataset  *dataset;
	GcMember   *member;
	int			guc_level = gc_enter();

	gc_require_argument(fcinfo, 0, "dataset");
	gc_require_argument(fcinfo, 1, "entity");
	dataset = gc_dataset_open(PG_GETARG_INT64(0), "load", GC_LOADING, ShareLock, false);
	gc_dataset_check_external(dataset, "load");
	member = gc_dataset_member(dataset, PG_GETARG_OID(1));
	gc_leave(guc_level);
	PG_RETURN_OID(member->staging);
}

/* The text of a query, for a source that names a table. */
static char *
source_query(const char *source)
{
	List	   *names;

	/* A dotted name and nothing else; VALUES(…) without a blank would pass for one. */
	if (!SplitIdentifierString(pstrdup(source), '.', &names) || names == NIL ||
		strchr(source, '(') != NULL)
		return pstrdup(source);
	return psprintf("TABLE %s", source);
}

/* Does the source have a column of this name? */
static bool
source_has(TupleDesc source, const char *name)
{
	for (int i = 0; i < source->natts; i++)
		if (strcmp(NameStr(TupleDescAttr(source, i)->attname), name) == 0)
			return true;
	return false;
}

/*
 * The columns of the staging table that the source fills, by name: all of the shape's,
 * but those that the shape got after the dataset was created.
 */
static List *
match_columns(const GcMember *member, TupleDesc source)
{
	List	   *matched = NIL;
	List	   *missing = NIL;
	ListCell   *lc;

	foreach(lc, member->entity->shape_columns)
	{
		const char *name = strVal(lfirst(lc));

		if (get_attnum(member->staging, name) == InvalidAttrNumber)
			continue;
		if (source_has(source, name))
			matched = lappend(matched, lfirst(lc));
		else
			missing = lappend(missing, lfirst(lc));
	}
	if (missing != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("the source lacks columns of entity \"%s\"", gc_entity_label(member->entity)),
				 errdetail("Missing: %s.", gc_column_list(missing, "")),
				 errhint("Columns are matched by name: give them an alias, such as SELECT id AS %s, …",
						 gc_column_list(list_make1(linitial(missing)), ""))));
	if (source_has(source, "gc_deleted"))
		matched = lappend(matched, makeString("gc_deleted"));
	return matched;
}

/*
 * Rows of the source, as a relation that the insert reads. The source runs with
 * the caller's rights; casts, domains and triggers on the way into the table run
 * as its owner. So the two are never in one query.
 */
typedef struct Transfer
{
	EphemeralNamedRelationData relation;
	SPIPlanPtr	insert;
	Oid			owner;
} Transfer;

#define TRANSFER_NAME "guest_context_source"

static void
prepare_transfer(Transfer *transfer, const GcMember *member, TupleDesc source)
{
	char	   *columns = gc_column_list(match_columns(member, source), "");
	GcCaller	caller;

	memset(transfer, 0, sizeof(*transfer));
	transfer->owner = member->entity->owner;
	transfer->relation.md.name = TRANSFER_NAME;
	transfer->relation.md.reliddesc = InvalidOid;
	transfer->relation.md.tupdesc = source;
	transfer->relation.md.enrtype = ENR_NAMED_TUPLESTORE;
	if (SPI_register_relation(&transfer->relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the source of a load");	/* cannot happen */

	gc_owner_enter(transfer->owner, &caller);
	transfer->insert = SPI_prepare(psprintf("INSERT INTO %s (%s) SELECT %s FROM %s",
											gc_quoted_name(member->staging), columns, columns,
											TRANSFER_NAME), 0, NULL);
	gc_owner_leave(&caller);
}

/* Moves the rows of the last fetch. */
static void
transfer_rows(Transfer *transfer)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	SPITupleTable *rows = SPI_tuptable;
	uint64		count = SPI_processed;
	GcCaller	caller;
	int			result;

	for (uint64 i = 0; i < count; i++)
		tuplestore_puttuple(store, rows->vals[i]);
	SPI_freetuptable(rows);
	transfer->relation.md.enrtuples = count;
	transfer->relation.reldata = store;
	gc_owner_enter(transfer->owner, &caller);
	result = SPI_execute_plan(transfer->insert, NULL, NULL, false, 0);
	gc_owner_leave(&caller);
	if (result != SPI_OK_INSERT)
		elog(ERROR, "unexpected result %d of loading", result); /* cannot happen */
	tuplestore_end(store);
}

/*
 * load_dataset(dataset bigint, entity regclass, source text) -> bigint
 *
 * Returns how many rows the source had. May be called several times; what a
 * failed call brought goes with its transaction.
 */
Datum
gc_load_dataset(PG_FUNCTION_ARGS)
{
	GcDataset  *dataset;
	GcMember   *member;
	char	   *source;
	SPIPlanPtr	plan;
	Portal		portal;
	Transfer	transfer;
	int64		total = 0;

	gc_require_argument(fcinfo, 0, "dataset");
	gc_require_argument(fcinfo, 1, "entity");
	gc_require_argument(fcinfo, 2, "source");
	dataset = gc_dataset_open(PG_GETARG_INT64(0), "load", GC_LOADING, ShareLock, false);
	gc_dataset_check_external(dataset, "load");
	member = gc_dataset_member(dataset, PG_GETARG_OID(1));
	source = text_to_cstring(PG_GETARG_TEXT_PP(2));

	/* names in the source are the caller's: search_path stays as it is */
	SPI_connect();
	plan = SPI_prepare(source_query(source), 0, NULL);
	if (plan == NULL || !SPI_is_cursor_plan(plan))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the source of a load must be a table or one query that returns rows"),
				 errhint("SELECT guest_context.load_dataset(%d, %s, 'SELECT … FROM …');",
						 dataset->dataset_id,
						 quote_literal_cstr(gc_quoted_name(member->entity->view)))));
	gc_progress_start(GC_PROGRESS_LOAD, dataset->dataset_id, member->entity->view);
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, false);
	prepare_transfer(&transfer, member, portal->tupDesc);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, LOAD_BATCH_ROWS);
		if (SPI_processed == 0)
			break;
		total += SPI_processed;
		transfer_rows(&transfer);
		gc_progress_update(total, 0);
	}
	gc_progress_end();
	SPI_cursor_close(portal);
	SPI_finish();
	PG_RETURN_INT64(total);
}

/*
 * Dropping
 */

static void
mark_dropped(int32 dataset_id)
{
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset SET state = 'dropped', dropped_at = pg_catalog.clock_timestamp()"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1", 1,
				   INT4OID, Int32GetDatum(dataset_id));
}

/*
 * drop_dataset(dataset bigint) -> void
 *
 * At once it can no longer be activated and holds no window open. Staging tables
 * go here; leaves are detached and dropped by maintenance, which no reader waits for.
 */
Datum
gc_drop_dataset(PG_FUNCTION_ARGS)
{
	GcDataset  *dataset;
	int			guc_level = gc_enter();
	ListCell   *lc;

	gc_require_argument(fcinfo, 0, "dataset");
	dataset = gc_dataset_open(PG_GETARG_INT64(0), "drop", GC_LOADING | GC_SEALED | GC_RETIRED,
							  ExclusiveLock, false);
	foreach(lc, dataset->members)
	{
		GcMember   *member = lfirst(lc);

		if (OidIsValid(member->staging) && get_rel_name(member->staging) != NULL)
			gc_run_ddl(psprintf("DROP TABLE %s", gc_quoted_name(member->staging)),
					   member->entity->owner);
		if (OidIsValid(member->leaf))
			gc_maintenance_wake(member->entity->owner);
	}
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset_entity SET staging = NULL"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1", 1,
				   INT4OID, Int32GetDatum(dataset->dataset_id));
	gc_dataset_lock_root(dataset->root);
	mark_dropped(dataset->dataset_id);
	gc_floor_recompute(dataset->root->entity_id);
	gc_audit("drop_dataset", psprintf("dataset %d", dataset->dataset_id), NULL, NULL);
	gc_leave(guc_level);
	PG_RETURN_VOID();
}

List *
gc_dataset_leaves_to_drop(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *garbage = NIL;

	SPI_connect();
	gc_catalog_execute("SELECT m.dataset_id, m.entity_id, m.leaf, e.batch, c.relowner, d.dropped_at"
					   " FROM guest_context._dataset_entity m"
					   " JOIN guest_context._dataset d ON d.dataset_id OPERATOR(pg_catalog.=) m.dataset_id"
					   " JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) m.entity_id"
					   " JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) e.batch"
					   " WHERE d.state OPERATOR(pg_catalog.=) 'dropped' AND m.leaf IS NOT NULL"
					   " ORDER BY m.dataset_id, m.entity_id", 0, NULL, NULL, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		MemoryContext spi = MemoryContextSwitchTo(caller);
		GcDatasetGarbage *item = palloc(sizeof(GcDatasetGarbage));

		item->dataset_id = DatumGetInt32(gc_catalog_value(row, "dataset_id", 0));
		item->entity_id = DatumGetInt32(gc_catalog_value(row, "entity_id", 0));
		item->leaf = DatumGetObjectId(gc_catalog_value(row, "leaf", 0));
		item->batch = DatumGetObjectId(gc_catalog_value(row, "batch", 0));
		item->owner = DatumGetObjectId(gc_catalog_value(row, "relowner", 0));
		item->dropped_at = DatumGetTimestampTz(gc_catalog_value(row, "dropped_at", 0));
		garbage = lappend(garbage, item);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return garbage;
}

void
gc_dataset_leaf_gone(int32 dataset_id, int32 entity_id)
{
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset_entity SET leaf = NULL"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1 AND entity_id OPERATOR(pg_catalog.=) $2", 2,
				   INT4OID, Int32GetDatum(dataset_id), INT4OID, Int32GetDatum(entity_id));
}
