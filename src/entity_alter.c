/*
 * entity_alter.c: alter_entity, drop_entity.
 *
 * Like create_entity each is one transaction's work: DDL as the tree's owner, rows
 * of our own catalogue as the extension's owner, search_path pinned throughout. Both
 * cope with what users did to the tree by hand.
 *
 * What drops an entity or changes its columns takes the context's lock exclusively
 * before anything else: it waits there for transactions that load, seal or activate a
 * dataset, while it holds nothing that they might come to need. Of relations, staging
 * tables come first, then the view, then the tree: the order of an INSERT … SELECT
 * and of whoever reads the view.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/value.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "apply.h"
#include "catalog.h"
#include "dataset.h"
#include "entity.h"
#include "freshness.h"
#include "shape.h"
#include "tree.h"
#include "view.h"

PG_FUNCTION_INFO_V1(gc_alter_entity);
PG_FUNCTION_INFO_V1(gc_drop_entity);

static void
add_column(GcEntity *entity, const GcShapeColumn *column)
{
	if (column->not_null)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("cannot add column \"%s\", for it is NOT NULL", column->name),
				 errdetail("Versions that are already stored have no value for it.")));
	gc_run_ddl(psprintf("ALTER TABLE %s ADD COLUMN %s", gc_quoted_name(entity->versions),
						gc_shape_column_sql(column)), entity->owner);
	entity->shape_columns = lappend(entity->shape_columns, makeString(column->name));
}

/* Constraints that come with columns that are new; others would judge stored versions anew. */
static void
add_checks(const GcEntity *entity, const GcShape *shape, List *old_columns)
{
	ListCell   *lc;

	foreach(lc, shape->checks)
	{
		GcShapeCheck *check = lfirst(lc);

		if (OidIsValid(get_relation_constraint_oid(entity->versions, check->name, true)))
			continue;
		if (list_difference(check->columns, old_columns) == NIL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("cannot add constraint \"%s\" to entity \"%s.%s\"",
							check->name, entity->schema, entity->name),
					 errdetail("It is about columns that are already there; only new columns can be added.")));
		gc_run_ddl(psprintf("ALTER TABLE %s ADD %s", gc_quoted_name(entity->versions),
							gc_shape_check_sql(check)), entity->owner);
	}
}

/* Adds the columns that the new shape has more; any other difference is refused. */
static void
add_columns(GcEntity *entity, Oid shape_relid)
{
	GcShape    *shape = gc_shape_read(shape_relid, entity->key_columns);
	List	   *old_columns = list_copy(entity->shape_columns);
	ListCell   *lc;

	foreach(lc, old_columns)
	{
		const char *name = strVal(lfirst(lc));
		GcShapeColumn *column = gc_shape_column(shape, name);
		Oid			type;
		int32		typmod;
		Oid			collation;

		get_atttypetypmodcoll(entity->versions, get_attnum(entity->versions, name),
							  &type, &typmod, &collation);
		if (column == NULL || column->type != type || column->typmod != typmod ||
			column->collation != collation)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("cannot change column \"%s\" of entity \"%s.%s\"",
							name, entity->schema, entity->name),
					 column == NULL ?
					 errdetail("The new shape does not have it; only new columns can be added.") :
					 column->type == type && column->typmod == typmod ?
					 errdetail("Its collation is \"%s\", the new shape says \"%s\"; only new columns can be added.",
							   get_collation_name(collation), get_collation_name(column->collation)) :
					 errdetail("Its type is %s, the new shape says %s; only new columns can be added.",
							   format_type_with_typemod(type, typmod),
							   format_type_with_typemod(column->type, column->typmod))));
	}
	for (int i = 0; i < shape->ncolumns; i++)
	{
		if (list_member(old_columns, makeString(shape->columns[i].name)))
			continue;
		/* the view, which is made anew, before the tree: the order of its readers */
		LockRelationOid(entity->view, AccessExclusiveLock);
		add_column(entity, &shape->columns[i]);
	}
	add_checks(entity, shape, old_columns);
	if (list_length(entity->shape_columns) == list_length(old_columns))
		ereport(NOTICE,
				(errmsg("the shape has no column that entity \"%s.%s\" lacks",
						entity->schema, entity->name)));
}

/* Sets one interval option unless the argument is NULL. */
static void
alter_interval(FunctionCallInfo fcinfo, int arg, Interval **option)
{
	if (!PG_ARGISNULL(arg))
		*option = PG_GETARG_INTERVAL_P(arg);
}

/* ERROR for an option that is both given and put back to its default. */
static void
check_reset(FunctionCallInfo fcinfo, List *names)
{
	static const char *const arguments[] = {NULL, "retention", "overlap", "partition_interval",
	"expire_after", "rebuild_every", "mapping", "unmapped"};

	for (int i = 1; i < lengthof(arguments); i++)
		if (!PG_ARGISNULL(i) && list_member(names, makeString(pstrdup(arguments[i]))))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" cannot be both set and reset", arguments[i]),
					 errhint("Leave out one of the two.")));
}

/* Puts options back to their defaults. */
static void
reset_options(GcEntity *entity, List *names)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		const char *name = strVal(lfirst(lc));

		if (strcmp(name, "retention") == 0)
			entity->retention = gc_interval_parse(GC_DEFAULT_RETENTION);
		else if (strcmp(name, "partition_interval") == 0)
			entity->partition_interval = gc_interval_parse(GC_DEFAULT_PARTITION_INTERVAL);
		else if (strcmp(name, "overlap") == 0 && entity->parent_id == 0)
			entity->overlap = gc_interval_parse(GC_DEFAULT_OVERLAP);
		else if (strcmp(name, "rebuild_every") == 0)
			entity->rebuild_every = NULL;
		else if (strcmp(name, "expire_after") == 0)
			entity->expire_after = NULL;
		else if (strcmp(name, "mapping") == 0)
			entity->mapping = NULL;
		else if (strcmp(name, "unmapped") == 0)
			entity->unmapped_column = NULL;
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" cannot be reset", name),
					 errhint("retention, partition_interval, overlap, rebuild_every, expire_after, mapping and unmapped can.")));
	}
}

static void
update_entity(const GcEntity *entity)
{
	Oid			types[] = {INT4OID, INTERVALOID, INTERVALOID, INTERVALOID, INTERVALOID,
	INTERVALOID, TEXTOID, TEXTOID, TEXTARRAYOID, OIDOID, BOOLOID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types)];

	memset(nulls, ' ', sizeof(nulls));
	values[0] = Int32GetDatum(entity->entity_id);
	values[1] = IntervalPGetDatum(entity->retention);
	values[2] = IntervalPGetDatum(entity->partition_interval);
	values[3] = IntervalPGetDatum(entity->overlap);
	nulls[3] = entity->overlap ? ' ' : 'n';
	values[4] = IntervalPGetDatum(entity->rebuild_every);
	nulls[4] = entity->rebuild_every ? ' ' : 'n';
	values[5] = IntervalPGetDatum(entity->expire_after);
	nulls[5] = entity->expire_after ? ' ' : 'n';
	values[6] = entity->mapping ? CStringGetTextDatum(entity->mapping) : (Datum) 0;
	nulls[6] = entity->mapping ? ' ' : 'n';
	values[7] = entity->unmapped_column ? CStringGetTextDatum(entity->unmapped_column) : (Datum) 0;
	nulls[7] = entity->unmapped_column ? ' ' : 'n';
	values[8] = gc_list_datum(entity->shape_columns);
	values[9] = ObjectIdGetDatum(entity->view);
	values[10] = BoolGetDatum(entity->security_invoker);
	SPI_connect();
	gc_catalog_execute("UPDATE guest_context._entity SET retention = $2, partition_interval = $3,"
					   " overlap = $4, rebuild_every = $5, expire_after = $6,"
					   " mapping = $7::pg_catalog.jsonb, unmapped_column = $8, shape_columns = $9,"
					   " view = $10, security_invoker = $11"
					   " WHERE entity_id OPERATOR(pg_catalog.=) $1",
					   lengthof(types), types, values, nulls, SPI_OK_UPDATE);
	SPI_finish();
}

/* Makes a view that was dropped by hand again: shop.orders, from shop.orders_versions. */
static void
restore_view(GcEntity *entity)
{
	int			length = strlen(entity->name) - strlen("_versions");

	if (length <= 0 || strcmp(entity->name + length, "_versions") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("entity \"%s.%s\" has lost its view of truth", entity->schema, entity->name),
				 errdetail("The name of its tree does not tell that of the view."),
				 errhint("ALTER TABLE %s RENAME TO …_versions;", gc_quoted_name(entity->versions))));
	entity->name = pnstrdup(entity->name, length);
	gc_view_create(entity, false);
	entity->view = get_relname_relid(entity->name, get_namespace_oid(entity->schema, false));
	ereport(NOTICE,
			(errmsg("view \"%s\" was made again with security_invoker = %s", entity->name,
					entity->security_invoker ? "true" : "false"),
			 errdetail("Rights on it, and options that it had, went with the one that was dropped.")));
}

/* A view for the rights of its reader, or of its owner; replaced as well only when it must be. */
static void
set_security_invoker(GcEntity *entity, bool security_invoker)
{
	if (entity->view != entity->versions && security_invoker != entity->security_invoker)
		gc_run_ddl(psprintf("ALTER VIEW %s SET (security_invoker = %s)", gc_quoted_name(entity->view),
							security_invoker ? "true" : "false"), entity->owner);
	entity->security_invoker = security_invoker;
}

/*
 * alter_entity(entity regclass, retention interval, overlap interval,
 *     partition_interval interval, expire_after interval, rebuild_every interval,
 *     mapping jsonb, unmapped text, shape regclass, security_invoker boolean,
 *     reset text[]) -> void
 *
 * NULL leaves an option as it is. A new overlap holds for datasets created
 * from now on, a new partition_interval for leaves made from now on. Called with the
 * tree's name it makes a view that was dropped by hand again.
 */
Datum
gc_alter_entity(PG_FUNCTION_ARGS)
{
	GcEntity   *entity;
	char	   *query;
	List	   *reset;
	int			guc_level;

	gc_require_argument(fcinfo, 0, "entity");
	guc_level = gc_enter();
	entity = gc_entity_lock(PG_GETARG_OID(0), PG_ARGISNULL(8) ? ShareLock : ExclusiveLock);
	gc_entity_check_columns(entity);
	query = gc_truth_sql(entity);
	if (entity->parent_id != 0 && (!PG_ARGISNULL(2) || !PG_ARGISNULL(5)))
		gc_root_options_error(entity, PG_ARGISNULL(2) ? NULL : PG_GETARG_INTERVAL_P(2),
							  PG_ARGISNULL(5) ? NULL : PG_GETARG_INTERVAL_P(5));

	reset = gc_list_argument(fcinfo, 10, "reset");
	check_reset(fcinfo, reset);
	reset_options(entity, reset);
	alter_interval(fcinfo, 1, &entity->retention);
	alter_interval(fcinfo, 2, &entity->overlap);
	alter_interval(fcinfo, 3, &entity->partition_interval);
	alter_interval(fcinfo, 4, &entity->expire_after);
	alter_interval(fcinfo, 5, &entity->rebuild_every);
	gc_entity_check_options(entity);
	if (!PG_ARGISNULL(6))
		entity->mapping = DatumGetCString(DirectFunctionCall1(jsonb_out, PG_GETARG_DATUM(6)));
	if (!PG_ARGISNULL(8))
		add_columns(entity, PG_GETARG_OID(8));
	if (!PG_ARGISNULL(7))
	{
		Oid			type = InvalidOid;

		entity->unmapped_column = text_to_cstring(PG_GETARG_TEXT_PP(7));
		if (list_member(entity->shape_columns, makeString(entity->unmapped_column)))
			type = get_atttype(entity->versions, get_attnum(entity->versions, entity->unmapped_column));
		if (type != JSONBOID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("unmapped column \"%s\" must be of type jsonb", entity->unmapped_column),
					 OidIsValid(type) ? errdetail("It is of type %s.", format_type_be(type)) :
					 errdetail("The entity does not have it."),
					 errhint("Add one with a new shape: alter_entity(…, shape => …, unmapped => …).")));
	}
	gc_mapping_check(entity);
	if (!PG_ARGISNULL(9))
		set_security_invoker(entity, PG_GETARG_BOOL(9));
	if (entity->view == entity->versions)
		restore_view(entity);
	else if (strcmp(query, gc_truth_sql(entity)) != 0)
		gc_view_create(entity, true);	/* readers wait, so only when they must */
	update_entity(entity);
	gc_leave(guc_level);
	PG_RETURN_VOID();
}

/* Instead of the hint that DROP has a CASCADE. */
static void
say_no_cascade(void *arg)
{
	if (geterrcode() == ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST)
		errhint("Drop those first; guest_context.drop_entity drops nothing that is not the entity's.");
}

/*
 * drop_entity(entity regclass) -> void
 *
 * Drops the view and the tree, all versions and all datasets of a root. What
 * others built on the view keeps it from going. In whatever state the entity is.
 */
Datum
gc_drop_entity(PG_FUNCTION_ARGS)
{
	static const char *const of_changelogs[] = {"_changelog_state", "_ledger", "_gap", "_dead_letter"};
	GcEntity   *entity;
	List	   *tree;
	ListCell   *lc;
	Oid			types[1] = {INT4OID};
	Datum		values[1];
	ErrorContextCallback context = {.callback = say_no_cascade};
	int			guc_level;

	gc_require_argument(fcinfo, 0, "entity");
	guc_level = gc_enter();
	entity = gc_entity_lock(PG_GETARG_OID(0), ExclusiveLock);
	tree = gc_entity_tree(entity->root_id);
	foreach(lc, tree)
	{
		GcEntity   *child = lfirst(lc);

		if (child->parent_id == entity->entity_id)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop entity \"%s.%s\" because \"%s.%s\" is under it",
							entity->schema, entity->name, child->schema, child->name),
					 errhint("SELECT guest_context.drop_entity(%s);",
							 quote_literal_cstr(gc_quoted_name(child->view)))));
	}

	values[0] = Int32GetDatum(entity->entity_id);
	SPI_connect();
	gc_catalog_execute("SELECT staging FROM guest_context._dataset_entity"
					   " WHERE entity_id OPERATOR(pg_catalog.=) $1 AND staging IS NOT NULL",
					   1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Oid			staging = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
															 SPI_tuptable->tupdesc, 1, &isnull));

		if (get_rel_name(staging) != NULL)
			gc_run_ddl(psprintf("DROP TABLE %s", gc_quoted_name(staging)), entity->owner);
	}
	context.previous = error_context_stack;
	error_context_stack = &context;
	if (entity->view != entity->versions)
		gc_run_ddl(psprintf("DROP VIEW %s", gc_quoted_name(entity->view)), entity->owner);
	/* tables before their indexes, as autovacuum does; DROP goes the other way */
	gc_run_ddl(psprintf("LOCK TABLE %s IN ACCESS EXCLUSIVE MODE", gc_quoted_name(entity->versions)),
			   entity->owner);
	gc_run_ddl(psprintf("DROP TABLE %s", gc_quoted_name(entity->versions)), entity->owner);
	error_context_stack = context.previous;
	for (int i = 0; i < lengthof(of_changelogs); i++)
		gc_catalog_execute(psprintf("DELETE FROM guest_context.%s x USING guest_context._changelog c"
									" WHERE x.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
									" AND c.entity_id OPERATOR(pg_catalog.=) $1", of_changelogs[i]),
						   1, types, values, NULL, SPI_OK_DELETE);
	gc_catalog_execute("DELETE FROM guest_context._changelog WHERE entity_id OPERATOR(pg_catalog.=) $1",
					   1, types, values, NULL, SPI_OK_DELETE);
	gc_catalog_execute("DELETE FROM guest_context._dataset_entity WHERE entity_id OPERATOR(pg_catalog.=) $1",
					   1, types, values, NULL, SPI_OK_DELETE);
	gc_catalog_execute("DELETE FROM guest_context._dataset WHERE root_id OPERATOR(pg_catalog.=) $1",
					   1, types, values, NULL, SPI_OK_DELETE);
	gc_catalog_execute("DELETE FROM guest_context._purged WHERE entity_id OPERATOR(pg_catalog.=) $1",
					   1, types, values, NULL, SPI_OK_DELETE);
	gc_catalog_execute("DELETE FROM guest_context._window WHERE entity_id OPERATOR(pg_catalog.=) $1",
					   1, types, values, NULL, SPI_OK_DELETE);
	gc_catalog_execute("DELETE FROM guest_context._entity WHERE entity_id OPERATOR(pg_catalog.=) $1",
					   1, types, values, NULL, SPI_OK_DELETE);
	SPI_finish();
	gc_freshness_changed(entity);
	gc_leave(guc_level);
	PG_RETURN_VOID();
}
