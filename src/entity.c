/*
 * entity.c: create_entity, grant_reader; what entity_alter.c shares with them.
 *
 * Each verb is one transaction's work: DDL as the tree's owner, rows of our own
 * catalogue as the extension's owner, search_path pinned throughout. Names that
 * the caller gives are resolved before the path is pinned.
 *
 * The columns of a tree stand in an order that is cheap to read: first what every
 * read of a dataset's leaf needs (version, gc_deleted, key), then the rest of
 * the shape, last what only the window's rows and ties are asked for, and what
 * a dataset's leaf does not store (dataset_leaf.c). The view shows the shape's order.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

#include "apply.h"
#include "catalog.h"
#include "compat.h"
#include "dataset.h"
#include "entity.h"
#include "guest_context.h"
#include "launcher.h"
#include "shape.h"
#include "tree.h"
#include "view.h"

PG_FUNCTION_INFO_V1(gc_create_entity);
PG_FUNCTION_INFO_V1(gc_grant_reader);
PG_FUNCTION_INFO_V1(gc_refuse_write);

/* Room for the longest suffix: _batch_d2147483647_staging */
#define MAX_ENTITY_NAME (NAMEDATALEN - 1 - 26)

/* As many columns as a hint shows. */
#define HINT_COLUMNS 12

/* Arguments of create_entity, in the order of its declaration. */
enum
{
	ARG_NAME, ARG_SHAPE, ARG_KEY, ARG_VERSION, ARG_PARENT, ARG_PARENT_REF,
	ARG_MAPPING, ARG_UNMAPPED, ARG_EXPIRE_AFTER, ARG_PARTITION_INTERVAL,
	ARG_RETENTION, ARG_OVERLAP, ARG_REBUILD_EVERY, ARG_SECURITY_INVOKER,
	ARG_IF_NOT_EXISTS
};

static char *
text_argument(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

static Interval *
interval_argument(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : PG_GETARG_INTERVAL_P(arg);
}

List *
gc_list_argument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *list = NIL;

	if (PG_ARGISNULL(arg))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		String	   *column;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" cannot hold a null", name)));
		column = makeString(TextDatumGetCString(elements[i]));
		if (list_member(list, column))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("column \"%s\" appears twice in argument \"%s\"", strVal(column), name)));
		list = lappend(list, column);
	}
	return list;
}

Datum
gc_list_datum(List *list)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(list_length(list), 1));

	for (int i = 0; i < list_length(list); i++)
		elements[i] = CStringGetTextDatum(strVal(list_nth(list, i)));
	return PointerGetDatum(construct_array(elements, list_length(list), TEXTOID,
										   -1, false, TYPALIGN_INT));
}

/*
 * An interval without negative parts, of `minimum` seconds to `maximum` days. Beyond the
 * longest ones times would leave the range of their type, in every read.
 */
static void
check_interval(const char *name, const Interval *interval, int64 minimum, int64 maximum)
{
	if (interval == NULL)
		return;
	if (interval->month < 0 || interval->day < 0 || interval->time < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s cannot be negative, not even in part", name),
				 errdetail("It is %s.", gc_interval_literal(interval))));
	if (interval->month * INT64CONST(30) + interval->day + interval->time / USECS_PER_DAY > maximum)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long", name),
				 errdetail("At most %lld days are allowed.", (long long) maximum)));
	if (interval->month == 0 &&
		interval->time + interval->day * USECS_PER_DAY < minimum * USECS_PER_SEC)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too short", name),
				 errdetail("It is %s, and at least %lld seconds are needed.",
						   gc_interval_literal(interval), (long long) minimum)));
}

void
gc_entity_check_options(const GcEntity *entity)
{
	const int64 millennium = 365250;

	if (entity->partition_interval->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition_interval cannot be counted in months"),
				 errdetail("Months differ in length."),
				 errhint("Say it in days, such as '30 days'.")));
	check_interval("partition_interval", entity->partition_interval, 60, 366);
	check_interval("retention", entity->retention, 60, millennium);
	check_interval("overlap", entity->overlap, 0, millennium);
	check_interval("expire_after", entity->expire_after, 1, millennium);
	check_interval("rebuild_every", entity->rebuild_every, 60, millennium);
}

/* A type whose default hash and btree operator classes share the equality. */
static void
check_key_type(const GcShapeColumn *column)
{
	TypeCacheEntry *type = lookup_type_cache(column->type,
											 TYPECACHE_BTREE_OPFAMILY |
											 TYPECACHE_EQ_OPR | TYPECACHE_HASH_PROC);

	if (!OidIsValid(type->btree_opf) || !OidIsValid(type->eq_opr) || !OidIsValid(type->hash_proc))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("column \"%s\" cannot be a key", column->name),
				 errdetail("Type %s has no default btree and hash operator classes with the same equality.",
						   format_type_be(column->type)),
				 errhint("Use a type such as text, bigint or uuid.")));
}

static GcShapeColumn *
require_column(const GcShape *shape, const char *name, const char *role)
{
	GcShapeColumn *column = gc_shape_column(shape, name);

	if (column == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("the shape has no column \"%s\"", name),
				 errdetail("It is named as %s.", role),
				 errhint("Add it to the shape, or name another column.")));
	return column;
}

/* Key, version and unmapped must be columns of the shape of the right types. */
static void
check_columns(const GcEntity *entity, const GcShape *shape)
{
	GcShapeColumn *version;
	ListCell   *lc;

	if (entity->key_columns == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an entity needs at least one key column"),
				 errhint("Name it: key => '{ref}'.")));
	if (list_length(entity->key_columns) > INDEX_MAX_KEYS - 1)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("a key cannot have more than %d columns", INDEX_MAX_KEYS - 1)));
	foreach(lc, entity->key_columns)
		check_key_type(require_column(shape, strVal(lfirst(lc)), "key"));

	version = require_column(shape, entity->version_column, "version");
	if (getBaseType(version->type) != TIMESTAMPTZOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("version column \"%s\" must be of type timestamp with time zone", version->name),
				 errdetail("It is of type %s.", format_type_be(version->type))));
	if (list_member(entity->key_columns, makeString(entity->version_column)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("column \"%s\" cannot be both key and version", version->name)));

	if (entity->unmapped_column != NULL)
	{
		GcShapeColumn *unmapped = require_column(shape, entity->unmapped_column, "unmapped");

		if (unmapped->type != JSONBOID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("unmapped column \"%s\" must be of type jsonb", unmapped->name),
					 errdetail("It is of type %s.", format_type_be(unmapped->type))));
	}
}

/* parent_ref must hold the parent's key: as many columns, of the same types. */
static void
check_parent(const GcEntity *entity, const GcShape *shape, const GcEntity *parent)
{
	if (parent->owner != entity->owner)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of entity \"%s.%s\"", parent->schema, parent->name),
				 errdetail("A context has one owner.")));
	if (list_length(entity->parent_columns) != list_length(parent->key_columns))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parent_ref must name %d column(s)", list_length(parent->key_columns)),
				 errdetail("The key of \"%s.%s\" is (%s).", parent->schema, parent->name,
						   gc_column_list(parent->key_columns, "")),
				 errhint("parent_ref => '{…}' names the columns here that hold it.")));
	for (int i = 0; i < list_length(parent->key_columns); i++)
	{
		const char *parent_name = strVal(list_nth(parent->key_columns, i));
		GcShapeColumn *column = require_column(shape, strVal(list_nth(entity->parent_columns, i)),
											   "parent_ref");
		AttrNumber	attno = get_attnum(parent->versions, parent_name);
		Oid			type;
		int32		typmod;
		Oid			collation;

		get_atttypetypmodcoll(parent->versions, attno, &type, &typmod, &collation);
		if (column->type != type || column->collation != collation)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" cannot hold key column \"%s\" of \"%s.%s\"",
							column->name, parent_name, parent->schema, parent->name),
					 column->type != type ?
					 errdetail("Their types differ: %s here, %s there.",
							   format_type_be(column->type), format_type_be(type)) :
					 errdetail("Their collations differ: \"%s\" here, \"%s\" there.",
							   get_collation_name(column->collation), get_collation_name(collation))));
	}
}

/*
 * Before 17 a background worker cannot log in as a role without LOGIN, and
 * maintenance runs as the owner.
 */
static void
check_owner(Oid owner)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(owner));
	bool		can_login = HeapTupleIsValid(tuple) &&
		((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (GC_WORKER_NEEDS_LOGIN && !can_login)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("role \"%s\" cannot own an entity", GetUserNameFromId(owner, false)),
				 errdetail("Workers run as the owner, and before PostgreSQL 17 they cannot do so without the LOGIN attribute."),
				 errhint("ALTER ROLE %s LOGIN;",
						 quote_identifier(GetUserNameFromId(owner, false)))));
	if (superuser_arg(owner))
		ereport(WARNING,
				(errmsg("the entity is owned by a superuser"),
				 errdetail("Expressions of its shape run with a superuser's rights whenever records are written."),
				 errhint("Create entities as an ordinary role.")));
}

static void
say_how_to_quote(void *arg)
{
	if (geterrcode() == ERRCODE_INVALID_NAME)
		errhint("Write a name with capitals or blanks in double quotes: 'shop.\"My Orders\"'.");
}

/* Splits 'shop.orders' and settles where the entity goes. */
static void
resolve_name(GcEntity *entity, const char *name)
{
	ErrorContextCallback context = {.callback = say_how_to_quote, .previous = error_context_stack};
	RangeVar   *range;
	Oid			schema;

	error_context_stack = &context;
	range = makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name)));
	error_context_stack = context.previous;

	if (range->catalogname != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("\"%s\" names a database too", name),
				 errhint("Write schema and name, such as 'shop.orders'.")));
	entity->name = range->relname;
	entity->schema = get_namespace_name(RangeVarGetCreationNamespace(range));
	if (!gc_name_is_plain(entity->name) || !gc_name_is_plain(entity->schema))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("the name of an entity cannot hold control characters")));
	if (strlen(entity->name) > MAX_ENTITY_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("entity name \"%s\" is too long", entity->name),
				 errdetail("Its tables add up to %d bytes to it; %d are left.",
						   NAMEDATALEN - 1 - MAX_ENTITY_NAME, MAX_ENTITY_NAME)));
	schema = get_namespace_oid(entity->schema, false);
	if (isTempNamespace(schema))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("an entity cannot be temporary")));
	if (gc_schema_aclcheck(schema, GetUserId(), ACL_CREATE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, entity->schema);
}

/* The columns of the tree, in the order in which they are stored. */
static List *
tree_columns(const GcEntity *entity, const GcShape *shape)
{
	List	   *columns = NIL;
	ListCell   *lc;

	columns = lappend(columns, gc_shape_column(shape, entity->version_column));
	foreach(lc, entity->key_columns)
		columns = lappend(columns, gc_shape_column(shape, strVal(lfirst(lc))));
	for (int i = 0; i < shape->ncolumns; i++)
		columns = list_append_unique_ptr(columns, &shape->columns[i]);
	return columns;
}

static void
create_versions(const GcEntity *entity, const GcShape *shape, const char *versions)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (", versions);
	foreach(lc, tree_columns(entity, shape))
	{
		GcShapeColumn *column = lfirst(lc);
		String	   *name = makeString(column->name);

		appendStringInfoString(&sql, gc_shape_column_sql(column));
		if (list_member(entity->key_columns, name) ||
			strcmp(column->name, entity->version_column) == 0)
			appendStringInfoString(&sql, " NOT NULL");
		else if (gc_shape_not_null_sql(column) != NULL)
			appendStringInfo(&sql, " %s", gc_shape_not_null_sql(column));
		appendStringInfoString(&sql, ", ");
		if (foreach_current_index(lc) == 0)
			appendStringInfoString(&sql, "gc_deleted boolean NOT NULL, ");
	}
	appendStringInfoString(&sql, "gc_source integer NOT NULL, gc_partition integer NOT NULL,"
						   " gc_offset bigint NOT NULL, gc_dataset integer NOT NULL,"
						   " gc_arrived_at timestamptz NOT NULL");
	foreach(lc, shape->checks)
		appendStringInfo(&sql, ", %s", gc_shape_check_sql(lfirst(lc)));
	appendStringInfoString(&sql, ") PARTITION BY RANGE (gc_dataset)");
	gc_run_ddl(sql.data, entity->owner);
}

static void
comment_on_table(Oid owner, const char *table, const char *comment)
{
	gc_run_ddl(psprintf("COMMENT ON TABLE %s IS %s", table, quote_literal_cstr(comment)), owner);
}

/* The tables, their indexes, and the sequence that numbers apply()'s records. */
static void
create_tree(GcEntity *entity, const GcShape *shape)
{
	char	   *versions = quote_qualified_identifier(entity->schema, psprintf("%s_versions", entity->name));
	char	   *speed = quote_qualified_identifier(entity->schema, psprintf("%s_speed", entity->name));
	char	   *batch = quote_qualified_identifier(entity->schema, psprintf("%s_batch", entity->name));
	Oid			schema = get_namespace_oid(entity->schema, false);
	Oid			owner = entity->owner;

	create_versions(entity, shape, versions);
	gc_run_ddl(psprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (0) TO (1)"
						" PARTITION BY RANGE (gc_arrived_at)", speed, versions), owner);
	gc_run_ddl(psprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (1) TO (MAXVALUE)"
						" PARTITION BY LIST (gc_dataset)", batch, versions), owner);
	gc_run_ddl(psprintf("CREATE INDEX ON %s (%s, %s)", versions,
						gc_column_list(entity->key_columns, ""),
						quote_identifier(entity->version_column)), owner);
	if (entity->parent_columns != NIL && !equal(entity->parent_columns, entity->key_columns))
		gc_run_ddl(psprintf("CREATE INDEX ON %s (%s)", versions,
							gc_column_list(entity->parent_columns, "")), owner);
	gc_run_ddl(psprintf("CREATE SEQUENCE %s OWNED BY %s.gc_offset",
						quote_qualified_identifier(entity->schema,
												   psprintf("%s_offset_seq", entity->name)),
						versions), owner);

	entity->versions = get_relname_relid(psprintf("%s_versions", entity->name), schema);
	entity->speed = get_relname_relid(psprintf("%s_speed", entity->name), schema);
	entity->batch = get_relname_relid(psprintf("%s_batch", entity->name), schema);

	comment_on_table(owner, versions, psprintf("every version of every tier of %s; read the view instead", entity->name));
	comment_on_table(owner, speed, psprintf("change records of %s by arrival time; kept by guest_context", entity->name));
	comment_on_table(owner, batch, psprintf("datasets of %s; kept by guest_context", entity->name));
}

/* Forgets entities whose tables were dropped by hand, by DROP SCHEMA for one. */
static void
forget_dropped(void)
{
	static const char *const commands[] = {
		"DELETE FROM guest_context._entity e WHERE NOT EXISTS"
		" (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) e.versions)",
		"DELETE FROM guest_context._window w WHERE NOT EXISTS"
		" (SELECT FROM guest_context._entity e WHERE e.entity_id OPERATOR(pg_catalog.=) w.entity_id)",
		"DELETE FROM guest_context._dataset d WHERE NOT EXISTS"
		" (SELECT FROM guest_context._entity e WHERE e.entity_id OPERATOR(pg_catalog.=) d.root_id)",
		"DELETE FROM guest_context._dataset_entity m WHERE NOT EXISTS"
		" (SELECT FROM guest_context._entity e WHERE e.entity_id OPERATOR(pg_catalog.=) m.entity_id)",
		"DELETE FROM guest_context._purged p WHERE NOT EXISTS"
		" (SELECT FROM guest_context._entity e WHERE e.entity_id OPERATOR(pg_catalog.=) p.entity_id)",
	};

	for (int i = 0; i < lengthof(commands); i++)
		gc_catalog_run(SPI_OK_DELETE, commands[i], 0);
}

/* Rows of _entity and _window; sets entity_id and root_id. */
static void
insert_entity(GcEntity *entity)
{
	Oid			types[] = {OIDOID, OIDOID, OIDOID, OIDOID, INT4OID, TEXTARRAYOID, TEXTARRAYOID,
		TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, INTERVALOID, INTERVALOID, INTERVALOID,
	INTERVALOID, INTERVALOID, BOOLOID, INT4OID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types)];
	bool		isnull;

#define SET(i, is_null, value) (nulls[i] = (is_null) ? 'n' : ' ', values[i] = (is_null) ? (Datum) 0 : (value))
	SET(0, false, ObjectIdGetDatum(entity->view));
	SET(1, false, ObjectIdGetDatum(entity->versions));
	SET(2, false, ObjectIdGetDatum(entity->speed));
	SET(3, false, ObjectIdGetDatum(entity->batch));
	SET(4, entity->parent_id == 0, Int32GetDatum(entity->parent_id));
	SET(5, entity->parent_columns == NIL, gc_list_datum(entity->parent_columns));
	SET(6, false, gc_list_datum(entity->key_columns));
	SET(7, false, CStringGetTextDatum(entity->version_column));
	SET(8, false, gc_list_datum(entity->shape_columns));
	SET(9, entity->mapping == NULL, CStringGetTextDatum(entity->mapping));
	SET(10, entity->unmapped_column == NULL, CStringGetTextDatum(entity->unmapped_column));
	SET(11, entity->expire_after == NULL, IntervalPGetDatum(entity->expire_after));
	SET(12, false, IntervalPGetDatum(entity->partition_interval));
	SET(13, false, IntervalPGetDatum(entity->retention));
	SET(14, entity->overlap == NULL, IntervalPGetDatum(entity->overlap));
	SET(15, entity->rebuild_every == NULL, IntervalPGetDatum(entity->rebuild_every));
	SET(16, false, BoolGetDatum(entity->security_invoker));
	SET(17, entity->root_id == 0, Int32GetDatum(entity->root_id));
#undef SET

	SPI_connect();
	gc_catalog_execute("WITH id AS (SELECT pg_catalog.nextval('guest_context._entity_id_seq')::integer AS id)"
					   " INSERT INTO guest_context._entity (entity_id, root_id, view, versions, speed, batch,"
					   " parent_id, parent_columns, key_columns, version_column, shape_columns, mapping,"
					   " unmapped_column, expire_after, partition_interval, retention, overlap,"
					   " rebuild_every, security_invoker)"
					   " SELECT id, coalesce($18, id), $1, $2, $3, $4, $5, $6, $7, $8, $9,"
					   " $10::pg_catalog.jsonb, $11, $12, $13, $14, $15, $16, $17 FROM id"
					   " RETURNING entity_id, root_id",
					   lengthof(types), types, values, nulls, SPI_OK_INSERT_RETURNING);
	entity->entity_id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	entity->root_id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	values[0] = values[1];
	types[1] = INT4OID;
	values[1] = Int32GetDatum(entity->entity_id);
	gc_catalog_execute("INSERT INTO guest_context._window (versions, entity_id) VALUES ($1, $2)",
					   2, types, values, NULL, SPI_OK_INSERT);
	SPI_finish();
}

/* ERROR when one of the tables behind the entity could not have its name. */
static void
check_free(const GcEntity *entity)
{
	static const char *const suffixes[] = {"versions", "speed", "batch", "offset_seq"};

	for (int i = 0; i < lengthof(suffixes); i++)
	{
		char	   *name = psprintf("%s_%s", entity->name, suffixes[i]);
		Oid			relid = get_relname_relid(name, get_namespace_oid(entity->schema, false));

		if (OidIsValid(relid))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_TABLE),
					 errmsg("relation \"%s\" already exists in schema \"%s\"", name, entity->schema),
					 errdetail("Entity \"%s\" needs that name for itself.", entity->name),
					 gc_entity_get(relid, true) != NULL ?
					 errhint("It is an entity that has lost its view: SELECT guest_context.alter_entity(%s);",
							 quote_literal_cstr(gc_quoted_name(relid))) :
					 errhint("Rename that one, or choose another name.")));
	}
}

/* The entity of that name, if there is one already; ERROR if the name is taken otherwise. */
static Oid
find_existing(const GcEntity *entity, bool if_not_exists)
{
	Oid			existing = get_relname_relid(entity->name, get_namespace_oid(entity->schema, false));
	GcEntity   *found;

	if (!OidIsValid(existing))
	{
		check_free(entity);
		return InvalidOid;
	}
	found = if_not_exists ? gc_entity_get(existing, true) : NULL;
	if (found == NULL || found->view != existing)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists in schema \"%s\"",
						entity->name, entity->schema),
				 !if_not_exists && (found = gc_entity_get(existing, true)) != NULL &&
				 found->view == existing ?
				 errhint("It is an entity: if_not_exists => true leaves it as it is.") :
				 errhint("Rename that one, or choose another name.")));
	ereport(NOTICE,
			(errcode(ERRCODE_DUPLICATE_TABLE),
			 errmsg("entity \"%s.%s\" already exists, skipping", entity->schema, entity->name)));
	return existing;
}

void
gc_root_options_error(const GcEntity *entity, const Interval *overlap, const Interval *rebuild_every)
{
	GcEntity   *root = gc_entity_by_id(entity->root_id);

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("overlap and rebuild_every belong to the root"),
			 errdetail("Entity \"%s.%s\" has a parent and follows its root.", entity->schema, entity->name),
			 errhint("SELECT guest_context.alter_entity(%s%s%s);",
					 quote_literal_cstr(gc_quoted_name(root->view)),
					 overlap == NULL ? "" : psprintf(", overlap => '%s'", gc_interval_literal(overlap)),
					 rebuild_every == NULL ? "" :
					 psprintf(", rebuild_every => '%s'", gc_interval_literal(rebuild_every)))));
}

/* Options of the context belong to its root; a child may only repeat the default. */
static void
settle_root_options(GcEntity *entity, const Interval *default_overlap)
{
	if (entity->parent_id == 0)
		return;
	if (DatumGetBool(DirectFunctionCall2(interval_eq, IntervalPGetDatum(entity->overlap),
										 IntervalPGetDatum(default_overlap))))
		entity->overlap = NULL;
	if (entity->rebuild_every != NULL || entity->overlap != NULL)
		gc_root_options_error(entity, entity->overlap, entity->rebuild_every);
}

Interval *
gc_interval_parse(const char *text)
{
	return DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
												 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/*
 * create_entity(name text, shape regclass, key text[], version text,
 *     parent regclass, parent_ref text[], mapping jsonb, unmapped text,
 *     expire_after interval, partition_interval interval, retention interval,
 *     overlap interval, rebuild_every interval, security_invoker boolean,
 *     if_not_exists boolean) -> regclass of the view
 */
Datum
gc_create_entity(PG_FUNCTION_ARGS)
{
	static const struct
	{
		int			arg;
		const char *name;
	}			required[] = {
		{ARG_NAME, "name"}, {ARG_SHAPE, "shape"}, {ARG_KEY, "key"}, {ARG_VERSION, "version"},
		{ARG_PARTITION_INTERVAL, "partition_interval"}, {ARG_RETENTION, "retention"},
		{ARG_OVERLAP, "overlap"}, {ARG_SECURITY_INVOKER, "security_invoker"},
		{ARG_IF_NOT_EXISTS, "if_not_exists"},
	};
	GcEntity	entity = {0};
	GcEntity   *parent = NULL;
	GcShape    *shape;
	Oid			existing;
	int			guc_level;

	gc_check_encoding();
	for (int i = 0; i < lengthof(required); i++)
		gc_require_argument(fcinfo, required[i].arg, required[i].name);
	if (PG_ARGISNULL(ARG_PARENT) != PG_ARGISNULL(ARG_PARENT_REF))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parent and parent_ref go together"),
				 errhint("parent => 'shop.guests', parent_ref => '{guest_ref}'")));

	resolve_name(&entity, text_argument(fcinfo, ARG_NAME));
	existing = find_existing(&entity, PG_GETARG_BOOL(ARG_IF_NOT_EXISTS));
	if (OidIsValid(existing))
		PG_RETURN_OID(existing);

	entity.owner = GetUserId();
	entity.key_columns = gc_list_argument(fcinfo, ARG_KEY, "key");
	entity.version_column = text_argument(fcinfo, ARG_VERSION);
	entity.parent_columns = gc_list_argument(fcinfo, ARG_PARENT_REF, "parent_ref");
	entity.mapping = PG_ARGISNULL(ARG_MAPPING) ? NULL :
		DatumGetCString(DirectFunctionCall1(jsonb_out, PG_GETARG_DATUM(ARG_MAPPING)));
	entity.unmapped_column = text_argument(fcinfo, ARG_UNMAPPED);
	entity.expire_after = interval_argument(fcinfo, ARG_EXPIRE_AFTER);
	entity.partition_interval = interval_argument(fcinfo, ARG_PARTITION_INTERVAL);
	entity.retention = interval_argument(fcinfo, ARG_RETENTION);
	entity.overlap = interval_argument(fcinfo, ARG_OVERLAP);
	entity.rebuild_every = interval_argument(fcinfo, ARG_REBUILD_EVERY);
	entity.security_invoker = PG_GETARG_BOOL(ARG_SECURITY_INVOKER);

	guc_level = gc_enter();
	gc_entity_check_options(&entity);
	shape = gc_shape_read(PG_GETARG_OID(ARG_SHAPE), entity.key_columns);
	check_columns(&entity, shape);
	if (!PG_ARGISNULL(ARG_PARENT))
	{
		parent = gc_entity_get(PG_GETARG_OID(ARG_PARENT), false);
		check_parent(&entity, shape, parent);
		parent = gc_entity_lock(PG_GETARG_OID(ARG_PARENT), ShareLock);
		entity.parent_id = parent->entity_id;
		entity.root_id = parent->root_id;
	}
	settle_root_options(&entity, gc_interval_parse(GC_DEFAULT_OVERLAP));
	for (int i = 0; i < shape->ncolumns; i++)
		entity.shape_columns = lappend(entity.shape_columns, makeString(shape->columns[i].name));
	check_owner(entity.owner);

	create_tree(&entity, shape);
	gc_mapping_check(&entity);
	gc_view_create(&entity, false);
	entity.view = get_relname_relid(entity.name, get_namespace_oid(entity.schema, false));
	forget_dropped();
	insert_entity(&entity);
	gc_speed_leaves_ensure(&entity, gc_speed_leaves_target(&entity));
	gc_maintenance_announce(entity.owner);
	gc_leave(guc_level);
	PG_RETURN_OID(entity.view);
}

/*
 * grant_reader(entity regclass, role name) -> void; 'public' is everybody, as for GRANT
 *
 * SELECT on the view, USAGE on its schema, and with security_invoker SELECT on
 * the tree's root, which is what the reader's own rights are checked against.
 */
Datum
gc_grant_reader(PG_FUNCTION_ARGS)
{
	GcEntity   *entity;
	const char *role;
	int			guc_level;

	gc_require_argument(fcinfo, 0, "entity");
	gc_require_argument(fcinfo, 1, "role");
	guc_level = gc_enter();
	entity = gc_entity_get(PG_GETARG_OID(0), false);
	gc_entity_check_owner(entity);
	if (entity->view == entity->versions)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("entity \"%s.%s\" has lost its view of truth", entity->schema, entity->name),
				 errhint("SELECT guest_context.alter_entity(%s);",
						 quote_literal_cstr(gc_quoted_name(entity->versions)))));
	role = NameStr(*PG_GETARG_NAME(1));
	if (strcmp(role, "public") == 0)
		role = "PUBLIC";		/* no role can have that name */
	else
		role = quote_identifier(GetUserNameFromId(get_role_oid(role, false), false));
	gc_run_ddl(psprintf("GRANT USAGE ON SCHEMA %s TO %s",
						quote_identifier(get_namespace_name(get_rel_namespace(entity->view))), role),
			   GetUserId());
	gc_run_ddl(psprintf("GRANT SELECT ON %s TO %s", gc_quoted_name(entity->view), role),
			   entity->owner);
	if (entity->security_invoker)
		gc_run_ddl(psprintf("GRANT SELECT ON %s TO %s", gc_quoted_name(entity->versions), role),
				   entity->owner);
	gc_leave(guc_level);
	PG_RETURN_VOID();
}

/*
 * SELECT guest_context.apply('shop.orders', '{"ref": "…", "modified_at": "…", …}'), with all
 * fields as long as that is a hint: what they do not give is NULL afterwards.
 */
static char *
apply_command(const GcEntity *entity, bool deleted)
{
	List	   *columns = lappend(list_copy(entity->key_columns), makeString(entity->version_column));
	StringInfoData json;
	ListCell   *lc;

	if (!deleted && list_length(entity->shape_columns) <= HINT_COLUMNS)
		columns = entity->shape_columns;
	initStringInfo(&json);
	foreach(lc, columns)
	{
		appendStringInfoString(&json, json.len > 0 ? ", " : "{");
		escape_json(&json, strVal(lfirst(lc)));
		appendStringInfoString(&json, ": \"…\"");
	}
	appendStringInfoString(&json, "}");
	return psprintf("SELECT guest_context.apply(%s, %s%s);",
					quote_literal_cstr(gc_quoted_name(entity->view)), quote_literal_cstr(json.data),
					deleted ? ", deleted => true" : "");
}

/* _refuse_write() -> trigger: the view of truth is read-only. */
Datum
gc_refuse_write(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	GcEntity   *entity;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager", "guest_context._refuse_write")));
	entity = gc_entity_get(RelationGetRelid(data->tg_relation), true);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the view of truth cannot be written to"),
			 TRIGGER_FIRED_BY_DELETE(data->tg_event) ?
			 errdetail("Its rows are chosen among versions; a newer tombstone takes one away.") :
			 errdetail("Its rows are chosen among versions; a newer version, with all its fields, changes them."),
			 entity == NULL ? 0 :
			 errhint("%s", apply_command(entity, TRIGGER_FIRED_BY_DELETE(data->tg_event)))));
	PG_RETURN_NULL();
}
