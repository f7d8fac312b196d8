/*
 * catalog.c: reading and writing the extension's own tables.
 *
 * Verbs read and write through SPI with the rights of the extension's owner
 * (nobody else may write these tables). A statement's read of its window is on
 * the path of every query, so it goes straight through the index, under a
 * snapshot that the caller chooses. Columns are always found by name: a later
 * version of the script may have added some.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"

#define GC_SEARCH_PATH	"pg_catalog, pg_temp"

/*
 * A table that reads go to directly: its index and the numbers of its columns,
 * looked up once a session.
 */
typedef struct DirectTable
{
	const char *name;
	const char *index_name;
	const char *columns[8];		/* NULL-terminated */
	Oid			table;			/* InvalidOid when not known */
	Oid			index;
	AttrNumber	attnos[8];
} DirectTable;

enum
{
	WINDOW_VERSIONS, WINDOW_ENTITY_ID, WINDOW_DATASET_ID, WINDOW_START, WINDOW_FLOOR,
	WINDOW_LEAVES_UNTIL, WINDOW_DROPPED_BEFORE, WINDOW_GONE_BEFORE
};

static DirectTable window_table = {
	"_window", "_window_pkey",
	{"versions", "entity_id", "dataset_id", "window_start", "floor", "leaves_until", "dropped_before",
	"gone_before"}
};

enum
{
	DATASET_ID, DATASET_ENTITY_ID, DATASET_LEAF, DATASET_RECENT_ROWS, DATASET_MAX_VERSION
};

static DirectTable dataset_entity_table = {
	"_dataset_entity", "_dataset_entity_pkey",
	{"dataset_id", "entity_id", "leaf", "recent_rows", "max_version"}
};

enum
{
	PURGED_ENTITY_ID, PURGED_KEY, PURGED_VERSION
};

static DirectTable purged_table = {
	"_purged", "_purged_pkey",
	{"entity_id", "key", "version"}
};

/* Our schema; InvalidOid when it is not the extension's own. */
static Oid
find_schema(void)
{
	Oid			extension = get_extension_oid("guest_context", true);
	Oid			schema = get_namespace_oid("guest_context", true);

	if (!OidIsValid(extension) || !OidIsValid(schema) ||
		getExtensionOfObject(NamespaceRelationId, schema) != extension)
		return InvalidOid;
	return schema;
}

/* Who drops the extension locks it first, and looks at the rest afterwards. */
bool
gc_catalog_exists(void)
{
	Oid			extension = get_extension_oid("guest_context", true);

	if (!OidIsValid(extension))
		return false;
	LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
	return OidIsValid(find_schema());
}

static Oid
our_schema(void)
{
	Oid			schema = find_schema();

	if (!OidIsValid(schema))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"guest_context\" is not installed in this database"),
				 errhint("CREATE EXTENSION guest_context;")));
	return schema;
}

Oid
gc_catalog_relid(const char *name)
{
	Oid			relid = get_relname_relid(name, our_schema());

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"guest_context.%s\" does not exist", name),
				 errhint("ALTER EXTENSION guest_context UPDATE;")));
	return relid;
}

/* The role that owns the extension. */
static Oid
extension_owner(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			owner = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("guest_context"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (!OidIsValid(owner))
		our_schema();			/* raises the error */
	return owner;
}

/*
 * Our own statements run with the rights of the extension's owner, and so would whatever a search path finds for them: IS
 * DISTINCT FROM takes the first "=" of it. A verb pins the path, but an owner's trigger may set another meanwhile. Returns
 * 0 where it is the right one already.
 */
static int
pin_search_path(void)
{
	int			level;

	if (strcmp(namespace_search_path, GC_SEARCH_PATH) == 0)
		return 0;
	level = NewGUCNestLevel();
	set_config_option("search_path", GC_SEARCH_PATH, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

static void
unpin_search_path(int level)
{
	if (level > 0)
		AtEOXact_GUC(false, level);
}

void
gc_catalog_execute(const char *sql, int nargs, Oid *types, Datum *values,
				   const char *nulls, int expected)
{
	int			level = pin_search_path();
	Oid			save_user;
	int			save_context;
	int			result;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(extension_owner(),
						   save_context | SECURITY_LOCAL_USERID_CHANGE);
	result = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
	SetUserIdAndSecContext(save_user, save_context);
	unpin_search_path(level);
	if (result != expected)
		elog(ERROR, "unexpected result %d of internal query: %s", result, sql); /* cannot happen */
}

void
gc_catalog_execute_kept(GcKeptPlan *plan, const char *sql, int nargs, Oid *types, Datum *values,
						const char *nulls, int expected)
{
	int			level = pin_search_path();
	Oid			save_user;
	int			save_context;
	int			result;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(extension_owner(),
						   save_context | SECURITY_LOCAL_USERID_CHANGE);
	if (*plan == NULL)
	{
		SPIPlanPtr	made = SPI_prepare(sql, nargs, types);

		if (made == NULL || SPI_keepplan(made) != 0)
			elog(ERROR, "cannot prepare internal query: %s", sql);	/* cannot happen */
		*plan = made;
	}
	result = SPI_execute_plan(*plan, values, nulls, false, 0);
	SetUserIdAndSecContext(save_user, save_context);
	unpin_search_path(level);
	if (result != expected)
		elog(ERROR, "unexpected result %d of internal query: %s", result, sql); /* cannot happen */
}

/* Executes with (Oid type, Datum value) pairs, in the caller's SPI connection. */
static void
execute_pairs(int expected, const char *sql, int nargs, va_list args)
{
	Oid			types[8];
	Datum		values[8];

	Assert(nargs <= (int) lengthof(types));
	for (int i = 0; i < nargs; i++)
	{
		types[i] = va_arg(args, Oid);
		values[i] = va_arg(args, Datum);
	}
	gc_catalog_execute(sql, nargs, types, values, NULL, expected);
}

uint64
gc_catalog_run(int expected, const char *sql, int nargs, ...)
{
	va_list		args;
	uint64		count;

	SPI_connect();
	va_start(args, nargs);
	execute_pairs(expected, sql, nargs, args);
	va_end(args);
	count = SPI_processed;
	SPI_finish();
	return count;
}

int64
gc_catalog_run_bigint(int expected, const char *sql, int nargs, ...)
{
	va_list		args;
	int64		result = 0;

	SPI_connect();
	va_start(args, nargs);
	execute_pairs(expected, sql, nargs, args);
	va_end(args);
	if (SPI_processed > 0)
	{
		bool		isnull;
		Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		result = isnull ? 0 : DatumGetInt64(value);
	}
	SPI_finish();
	return result;
}

/* A text[] column as a list of String nodes in the current context. */
static List *
text_array_list(Datum array)
{
	Datum	   *elements;
	int			count;
	List	   *list = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &count);
	for (int i = 0; i < count; i++)
		list = lappend(list, makeString(TextDatumGetCString(elements[i])));
	return list;
}

static int
column_number(const char *name)
{
	int			attno = SPI_fnumber(SPI_tuptable->tupdesc, name);

	if (attno <= 0)
		elog(ERROR, "column \"%s\" is missing", name);	/* cannot happen */
	return attno;
}

Datum
gc_catalog_value(HeapTuple row, const char *name, Datum otherwise)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, SPI_tuptable->tupdesc, column_number(name), &isnull);

	return isnull ? otherwise : value;
}

char *
gc_catalog_text(HeapTuple row, const char *name)
{
	return SPI_getvalue(row, SPI_tuptable->tupdesc, column_number(name));
}

static Interval *
interval_column(HeapTuple tuple, const char *name)
{
	Datum		value = gc_catalog_value(tuple, name, (Datum) 0);
	Interval   *copy;

	if (value == (Datum) 0)
		return NULL;
	copy = palloc(sizeof(Interval));
	memcpy(copy, DatumGetIntervalP(value), sizeof(Interval));
	return copy;
}

/* A list of texts; NIL for NULL. */
static List *
list_column(HeapTuple tuple, const char *name)
{
	Datum		value = gc_catalog_value(tuple, name, (Datum) 0);

	return value == (Datum) 0 ? NIL : text_array_list(value);
}

/* Builds the struct from a row of the current SPI result, in the current context. */
static GcEntity *
entity_from_tuple(HeapTuple tuple)
{
	GcEntity   *entity = palloc0(sizeof(GcEntity));

	entity->entity_id = DatumGetInt32(gc_catalog_value(tuple, "entity_id", (Datum) 0));
	entity->view = DatumGetObjectId(gc_catalog_value(tuple, "view", (Datum) 0));
	entity->versions = DatumGetObjectId(gc_catalog_value(tuple, "versions", (Datum) 0));
	entity->speed = DatumGetObjectId(gc_catalog_value(tuple, "speed", (Datum) 0));
	entity->batch = DatumGetObjectId(gc_catalog_value(tuple, "batch", (Datum) 0));
	entity->root_id = DatumGetInt32(gc_catalog_value(tuple, "root_id", (Datum) 0));
	entity->parent_id = DatumGetInt32(gc_catalog_value(tuple, "parent_id", Int32GetDatum(0)));
	entity->parent_columns = list_column(tuple, "parent_columns");
	entity->key_columns = list_column(tuple, "key_columns");
	entity->version_column = gc_catalog_text(tuple, "version_column");
	entity->shape_columns = list_column(tuple, "shape_columns");
	entity->mapping = gc_catalog_text(tuple, "mapping");
	entity->unmapped_column = gc_catalog_text(tuple, "unmapped_column");
	entity->expire_after = interval_column(tuple, "expire_after");
	entity->partition_interval = interval_column(tuple, "partition_interval");
	entity->retention = interval_column(tuple, "retention");
	entity->overlap = interval_column(tuple, "overlap");
	entity->rebuild_every = interval_column(tuple, "rebuild_every");
	entity->security_invoker = DatumGetBool(gc_catalog_value(tuple, "security_invoker", (Datum) 0));
	entity->owner = DatumGetObjectId(gc_catalog_value(tuple, "owner", (Datum) 0));
	entity->schema = gc_catalog_text(tuple, "schema");
	entity->name = gc_catalog_text(tuple, "name");
	return entity;
}

/*
 * Entities that satisfy `condition` on _entity e with $1 = argument. One whose tree
 * was dropped by hand is none any more; one whose view was is known by its tree.
 */
static List *
fetch_entities(const char *condition, Oid type, Datum argument)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *list = NIL;
	char	   *sql = psprintf("SELECT e.entity_id, coalesce(w.oid, c.oid) AS view, e.versions, e.speed, e.batch, e.root_id,"
							   " e.parent_id, e.parent_columns, e.key_columns, e.version_column,"
							   " e.shape_columns, e.mapping::pg_catalog.text AS mapping, e.unmapped_column,"
							   " e.expire_after, e.partition_interval, e.retention, e.overlap,"
							   " e.rebuild_every, CASE WHEN w.oid IS NULL THEN e.security_invoker ELSE"
							   "  coalesce((SELECT o.option_value::pg_catalog.bool"
							   "            FROM pg_catalog.pg_options_to_table(w.reloptions) o"
							   "            WHERE o.option_name OPERATOR(pg_catalog.=) 'security_invoker'), false)"
							   "  END AS security_invoker,"
							   " c.relowner AS owner,"
							   " n.nspname::pg_catalog.text AS schema,"
							   " coalesce(w.relname, c.relname)::pg_catalog.text AS name"
							   " FROM guest_context._entity e"
							   " JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) e.versions"
							   " LEFT JOIN pg_catalog.pg_class w ON w.oid OPERATOR(pg_catalog.=) e.view"
							   " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
							   " WHERE %s ORDER BY e.entity_id", condition);

	our_schema();
	SPI_connect();
	gc_catalog_execute(sql, 1, &type, &argument, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		list = lappend(list, entity_from_tuple(SPI_tuptable->vals[i]));
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return list;
}

/*
 * The entity whose view or tree root `relation` is. Verbs take either, since
 * both name it without doubt.
 */
GcEntity *
gc_entity_get(Oid relation, bool missing_ok)
{
	List	   *found = fetch_entities("$1 OPERATOR(pg_catalog.=) e.view OR $1 OPERATOR(pg_catalog.=) e.versions",
									   OIDOID, ObjectIdGetDatum(relation));

	if (found == NIL)
	{
		char	   *name = get_rel_name(relation);

		if (missing_ok)
			return NULL;
		if (name == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", relation)));
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation \"%s\" is not an entity", name),
				 errdetail("Neither an entity's view nor its versions table has that name."),
				 errhint("SELECT entity FROM guest_context.entity;")));
	}
	if (!missing_ok)
		gc_entity_check_columns(linitial(found));
	return linitial(found);
}

/* The table is its owner's, who may have renamed, dropped or retyped what we read and write by number. */
AttrNumber
gc_own_column(Oid versions, const char *name)
{
	static const struct
	{
		const char *name;
		Oid			type;
	}			columns[] = {
		{"gc_arrived_at", TIMESTAMPTZOID}, {"gc_offset", INT8OID}, {"gc_dataset", INT4OID},
		{"gc_source", INT4OID}, {"gc_partition", INT4OID}, {"gc_deleted", BOOLOID}
	};
	AttrNumber	attno = get_attnum(versions, name);

	for (int i = 0; i < lengthof(columns); i++)
		if (strcmp(columns[i].name, name) == 0 && get_atttype(versions, attno) == columns[i].type)
			return attno;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("table \"%s\" has lost its column \"%s\"", get_rel_name(versions), name),
			 errdetail("It was renamed, dropped or given another type, and belongs to an entity of guest_context.")));
}

void
gc_entity_check_columns(const GcEntity *entity)
{
	static const char *const own[] = {"gc_arrived_at", "gc_offset", "gc_dataset", "gc_source", "gc_partition", "gc_deleted"};
	ListCell   *lc;

	for (int i = 0; i < lengthof(own); i++)
		(void) gc_own_column(entity->versions, own[i]);
	foreach(lc, entity->shape_columns)
	{
		const char *name = strVal(lfirst(lc));
		AttrNumber	attno = get_attnum(entity->versions, name);

		if (attno == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("entity \"%s.%s\" has lost its column \"%s\"",
							entity->schema, entity->name, name),
					 errdetail("It was renamed or dropped in \"%s\".", get_rel_name(entity->versions)),
					 errhint("ALTER TABLE %s RENAME COLUMN … TO %s;",
							 quote_qualified_identifier(entity->schema, get_rel_name(entity->versions)),
							 quote_identifier(name))));
		if (get_attgenerated(entity->versions, attno) != '\0')
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("column \"%s\" of entity \"%s.%s\" has become a generated column",
							name, entity->schema, entity->name),
					 errhint("ALTER TABLE %s ALTER COLUMN %s DROP EXPRESSION;",
							 quote_qualified_identifier(entity->schema, get_rel_name(entity->versions)),
							 quote_identifier(name))));
		if (strcmp(name, entity->version_column) == 0 &&
			getBaseType(get_atttype(entity->versions, attno)) != TIMESTAMPTZOID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("version \"%s\" of entity \"%s.%s\" is not of type timestamp with time zone any more",
							name, entity->schema, entity->name)));
	}
}

GcEntity *
gc_entity_by_id(int32 entity_id)
{
	List	   *found = fetch_entities("e.entity_id OPERATOR(pg_catalog.=) $1",
									   INT4OID, Int32GetDatum(entity_id));

	if (found == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("entity %d does not exist", entity_id),
				 errdetail("Its tables were dropped by hand, and there are entities under it."),
				 errhint("Drop those too: SELECT guest_context.drop_entity(…);")));
	return linitial(found);
}

List *
gc_entities_of(Oid owner)
{
	return fetch_entities("c.relowner OPERATOR(pg_catalog.=) $1",
						  OIDOID, ObjectIdGetDatum(owner));
}

/* A child always has a higher number than its parent, so the order is by number. */
List *
gc_entity_tree(int32 root_id)
{
	return fetch_entities("e.root_id OPERATOR(pg_catalog.=) $1",
						  INT4OID, Int32GetDatum(root_id));
}

void
gc_entity_check_owner(const GcEntity *entity)
{
	if (!has_privs_of_role(GetUserId(), entity->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of entity \"%s.%s\"", entity->schema, entity->name),
				 errdetail("It belongs to role \"%s\".", GetUserNameFromId(entity->owner, false))));
}

/* Relcache callback: forget where a table is when it changes or goes. */
static void
forget_table(Datum arg, Oid relid)
{
	DirectTable *table = (DirectTable *) DatumGetPointer(arg);

	if (relid == InvalidOid || relid == table->table)
		table->table = InvalidOid;
}

static void
find_table(DirectTable *table)
{
	Oid			relid;

	if (OidIsValid(table->table))
		return;
	if (!OidIsValid(table->index))	/* the first time */
		CacheRegisterRelcacheCallback(forget_table, PointerGetDatum(table));
	relid = gc_catalog_relid(table->name);
	table->index = gc_catalog_relid(table->index_name);
	for (int i = 0; i < lengthof(table->columns) && table->columns[i] != NULL; i++)
	{
		table->attnos[i] = get_attnum(relid, table->columns[i]);
		if (table->attnos[i] == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"guest_context.%s\" does not exist",
							table->columns[i], table->name),
					 errhint("ALTER EXTENSION guest_context UPDATE;")));
	}
	table->table = relid;
}

/*
 * Reads the row of a table whose first nkeys columns, those of its index, have
 * these values, under a snapshot. False when there is none.
 */
static bool
read_row(DirectTable *table, Snapshot snapshot, int nkeys, const Datum *keys,
		 const RegProcedure *equal, Datum *values, bool *nulls)
{
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData scan_keys[2];
	HeapTuple	tuple;

	find_table(table);
	rel = table_open(table->table, AccessShareLock);
	for (int i = 0; i < nkeys; i++)
		ScanKeyInit(&scan_keys[i], table->attnos[i], BTEqualStrategyNumber, equal[i], keys[i]);
	scan = systable_beginscan(rel, table->index, true, snapshot, nkeys, scan_keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		for (int i = 0; i < lengthof(table->columns) && table->columns[i] != NULL; i++)
			values[i] = heap_getattr(tuple, table->attnos[i], RelationGetDescr(rel), &nulls[i]);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

void
gc_window_read(Oid versions, Snapshot snapshot, GcWindow *window)
{
	const RegProcedure equal[] = {F_OIDEQ};
	Datum		key = ObjectIdGetDatum(versions);
	Datum		values[8];
	bool		nulls[8];
	bool		found = read_row(&window_table, snapshot, 1, &key, equal, values, nulls);

	/*
	 * An entity made since the snapshot was taken: nothing of it is visible yet. A
	 * function that made it plans its queries so, with its caller's snapshot.
	 */
	if (!found && snapshot != NULL)
	{
		found = read_row(&window_table, NULL, 1, &key, equal, values, nulls);
		values[WINDOW_DATASET_ID] = Int32GetDatum(0);
		values[WINDOW_START] = values[WINDOW_FLOOR] = TimestampTzGetDatum(DT_NOBEGIN);
	}
	if (!found)
	{
		char	   *name = get_rel_name(versions);

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("entity of \"%s\" is not in the catalogue of guest_context",
						name ? name : "(dropped)"),
				 errdetail("Its row in guest_context._window is missing, or not visible to this statement."),
				 errhint("Restore the rows of the tables in schema guest_context too; a dump of the schema alone (pg_dump -s) leaves them out.")));
	}
	window->entity_id = DatumGetInt32(values[WINDOW_ENTITY_ID]);
	window->dataset_id = DatumGetInt32(values[WINDOW_DATASET_ID]);
	window->window_start = DatumGetTimestampTz(values[WINDOW_START]);
	window->floor = DatumGetTimestampTz(values[WINDOW_FLOOR]);
	window->leaves_until = DatumGetTimestampTz(values[WINDOW_LEAVES_UNTIL]);
	window->dropped_before = DatumGetTimestampTz(values[WINDOW_DROPPED_BEFORE]);
	window->gone_before = DatumGetTimestampTz(values[WINDOW_GONE_BEFORE]);
}

bool
gc_dataset_leaf_read(int32 dataset_id, int32 entity_id, Snapshot snapshot,
					 GcDatasetLeaf *result)
{
	const RegProcedure equal[] = {F_INT4EQ, F_INT4EQ};
	Datum		keys[] = {Int32GetDatum(dataset_id), Int32GetDatum(entity_id)};
	Datum		values[8];
	bool		nulls[8];

	if (!read_row(&dataset_entity_table, snapshot, 2, keys, equal, values, nulls))
		return false;
	result->leaf = nulls[DATASET_LEAF] ? InvalidOid : DatumGetObjectId(values[DATASET_LEAF]);
	result->recent_rows = nulls[DATASET_RECENT_ROWS] ? 0 : DatumGetInt64(values[DATASET_RECENT_ROWS]);
	result->max_version = nulls[DATASET_MAX_VERSION] ? DT_NOBEGIN :
		DatumGetTimestampTz(values[DATASET_MAX_VERSION]);
	return true;
}

List *
gc_purged_read(int32 entity_id)
{
	List	   *purged = NIL;
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	find_table(&purged_table);
	rel = table_open(purged_table.table, AccessShareLock);
	ScanKeyInit(&key, purged_table.attnos[PURGED_ENTITY_ID], BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(entity_id));
	scan = systable_beginscan(rel, purged_table.index, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		GcPurged   *one = palloc(sizeof(GcPurged));
		bool		isnull;

		one->key = TextDatumGetCString(heap_getattr(tuple, purged_table.attnos[PURGED_KEY], RelationGetDescr(rel), &isnull));
		one->version = DatumGetTimestampTz(heap_getattr(tuple, purged_table.attnos[PURGED_VERSION], RelationGetDescr(rel), &isnull));
		purged = lappend(purged, one);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return purged;
}

void
gc_audit(const char *verb, const char *object, const char *reason, const char *detail_json)
{
	Oid			types[5] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[5];
	char		nulls[5] = {' ', ' ', ' ', ' ', ' '};

	values[0] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	values[1] = CStringGetTextDatum(verb);
	values[2] = CStringGetTextDatum(object);
	values[3] = reason ? CStringGetTextDatum(reason) : (Datum) 0;
	values[4] = detail_json ? CStringGetTextDatum(detail_json) : (Datum) 0;
	nulls[3] = reason ? ' ' : 'n';
	nulls[4] = detail_json ? ' ' : 'n';
	SPI_connect();
	gc_catalog_execute("INSERT INTO guest_context._audit (role, verb, object, reason, detail)"
					   " VALUES ($1, $2, $3, $4, $5::pg_catalog.jsonb)",
					   5, types, values, nulls, SPI_OK_INSERT);
	SPI_finish();
}

int
gc_enter(void)
{
	static const char *const pinned[][2] = {
		{"search_path", GC_SEARCH_PATH},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"extra_float_digits", "1"},
	};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(pinned); i++)
		set_config_option(pinned[i][0], pinned[i][1], PGC_USERSET, PGC_S_SESSION,
						  GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/* Settings of the owner's functions, which have run meanwhile, do not outlive them: the session may be somebody else's. */
void
gc_leave(int guc_level)
{
	AtEOXact_GUC(false, guc_level);
}
