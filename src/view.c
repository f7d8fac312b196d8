/*
 * view.c: the SQL of the view of truth, in the fast form and as an oracle.
 *
 * The fast form is one scan of the tree with functions of ours (read.c,
 * planner.c). The portable form says the same in plain SQL: a row counts when
 * no newer row of its key counts. Tests compare the two.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "dataset.h"
#include "tree.h"
#include "view.h"

PG_FUNCTION_INFO_V1(gc_truth_sql_text);

/* 'shop.orders_versions'::regclass */
static char *
tree_literal(const GcEntity *entity)
{
	return psprintf("%s::pg_catalog.regclass",
					quote_literal_cstr(gc_quoted_name(entity->versions)));
}

/* AND v.modified_at >= now() - interval '…', or nothing */
static char *
expiry_condition(const GcEntity *entity, const char *alias)
{
	if (entity->expire_after == NULL)
		return pstrdup("");
	return psprintf("\n  AND %s.%s >= pg_catalog.now() - %s::pg_catalog.interval",
					alias, quote_identifier(entity->version_column),
					quote_literal_cstr(gc_interval_literal(entity->expire_after)));
}

char *
gc_truth_where(const GcEntity *entity, const char *alias, bool with_deleted)
{
	char	   *tree = tree_literal(entity);
	char	   *keys = gc_column_list(entity->key_columns, psprintf("%s.", alias));

	/*
	 * The first condition is there for partition pruning, and each arm names
	 * the partition keys of both tiers, so that each prunes the other's leaves.
	 */
	return psprintf("(%1$s.gc_arrived_at = 'infinity' AND %1$s.gc_dataset = guest_context._active_dataset(guest_context._plan(%2$s))\n"
					"    OR %1$s.gc_dataset = 0 AND %1$s.gc_arrived_at >= guest_context._floor(%2$s) AND %1$s.gc_arrived_at < guest_context._ceiling(%2$s))\n"
					"%5$s"
					"  AND guest_context._is_current(guest_context._plan(%2$s), %1$s.gc_dataset, %1$s.gc_arrived_at,\n"
					"        %1$s.%3$s, %1$s.gc_source, %1$s.gc_partition, %1$s.gc_offset, %1$s.ctid, %4$s)\n"
					"  AND guest_context._plan_ok(guest_context._plan(%2$s))",
					alias, tree, quote_identifier(entity->version_column), keys,
					with_deleted ? "" : psprintf("  AND NOT %s.gc_deleted\n", alias));
}

char *
gc_truth_sql(const GcEntity *entity)
{
	return psprintf("SELECT %s\nFROM %s v\nWHERE %s%s",
					gc_column_list(entity->shape_columns, "v."),
					gc_quoted_name(entity->versions),
					gc_truth_where(entity, "v", false),
					expiry_condition(entity, "v"));
}

/* A row in the window or in the active dataset. */
static char *
counts_condition(const char *alias)
{
	return psprintf("(%1$s.gc_dataset = 0 AND %1$s.gc_arrived_at >= w.window_start"
					" OR %1$s.gc_dataset <> 0 AND %1$s.gc_dataset = w.dataset_id)", alias);
}

char *
gc_position_sql(const GcEntity *entity, const char *alias)
{
	return psprintf("(%1$s.%2$s, %1$s.gc_source, %1$s.gc_partition, %1$s.gc_offset,"
					" %1$s.gc_arrived_at, %1$s.ctid)",
					alias, quote_identifier(entity->version_column));
}

/* Operators are the key types' own, whatever search_path finds first. */
char *
gc_columns_equal_sql(Oid relation, List *left, const char *left_alias,
					 List *right, const char *right_alias)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < list_length(left); i++)
	{
		const char *left_name = strVal(list_nth(left, i));
		const char *right_name = strVal(list_nth(right, i));
		Oid			type = get_atttype(relation, get_attnum(relation, left_name));
		Oid			operator = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;

		if (i > 0)
			appendStringInfoString(&sql, " AND ");
		generate_operator_clause(&sql,
								 psprintf("%s.%s", left_alias, quote_identifier(left_name)), type,
								 operator,
								 psprintf("%s.%s", right_alias, quote_identifier(right_name)), type);
	}
	return sql.data;
}

char *
gc_truth_sql_portable(const GcEntity *entity)
{
	return psprintf("SELECT %s\nFROM %s v\nJOIN guest_context._window w ON w.versions = %s\n"
					"WHERE %s\n  AND NOT v.gc_deleted\n"
					"  AND NOT EXISTS (SELECT FROM %s n\n"
					"    WHERE %s AND %s\n"
					"      AND %s\n        > %s)%s",
					gc_column_list(entity->shape_columns, "v."),
					gc_quoted_name(entity->versions),
					tree_literal(entity),
					counts_condition("v"),
					gc_quoted_name(entity->versions),
					gc_columns_equal_sql(entity->versions, entity->key_columns, "n",
										 entity->key_columns, "v"),
					counts_condition("n"),
					gc_position_sql(entity, "n"), gc_position_sql(entity, "v"),
					expiry_condition(entity, "v"));
}

/*
 * truth_sql(entity regclass, portable boolean) -> text
 */
Datum
gc_truth_sql_text(PG_FUNCTION_ARGS)
{
	GcEntity   *entity;

	gc_require_argument(fcinfo, 0, "entity");
	gc_require_argument(fcinfo, 1, "portable");
	entity = gc_entity_get(PG_GETARG_OID(0), false);
	PG_RETURN_TEXT_P(cstring_to_text(PG_GETARG_BOOL(1) ?
									 gc_truth_sql_portable(entity) :
									 gc_truth_sql(entity)));
}

/* The storage options of a relation, as DefElem nodes. */
static List *
relation_options(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	List	   *options = NIL;
	Datum		value;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		return NIL;
	value = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	if (!isnull)
		options = untransformRelOptions(value);
	ReleaseSysCache(tuple);
	return options;
}

/*
 * WITH (…): the options that the view has, which replacing it would otherwise reset,
 * and security_invoker as the entity says.
 */
static char *
view_options(const GcEntity *entity, bool replace)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "security_invoker = %s", entity->security_invoker ? "true" : "false");
	foreach(lc, replace ? relation_options(entity->view) : NIL)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, "security_invoker") != 0)
			appendStringInfo(&sql, ", %s = %s", quote_identifier(option->defname),
							 quote_literal_cstr(defGetString(option)));
	}
	return sql.data;
}

void
gc_view_create(const GcEntity *entity, bool replace)
{
	char	   *name = replace ? gc_quoted_name(entity->view) :
		quote_qualified_identifier(entity->schema, entity->name);

	gc_run_ddl(psprintf("CREATE %sVIEW %s WITH (%s) AS\n%s",
						replace ? "OR REPLACE " : "", name, view_options(entity, replace),
						gc_truth_sql(entity)),
			   entity->owner);
	if (!replace)
		gc_run_ddl(psprintf("CREATE TRIGGER gc_refuse_write INSTEAD OF INSERT OR UPDATE OR DELETE ON %s"
							" FOR EACH ROW EXECUTE FUNCTION guest_context._refuse_write()", name),
				   entity->owner);
}
