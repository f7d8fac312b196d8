/*
 * shape.c: reading the table or composite type that names an entity's columns,
 * and refusing what a tree of versions cannot keep.
 *
 * The shape is copied and not needed afterwards. NOT NULL and CHECK become
 * "gc_deleted OR …", so that a tombstone, which has a key and nothing else, fits.
 * What holds between rows (UNIQUE, foreign keys) cannot hold over versions, and
 * what makes values up (identity, generated columns) has no place in states
 * that come from elsewhere: both are refused with the reason.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/pg_attrdef.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "shape.h"

/* ERROR with one SQLSTATE for everything that a shape must not be. */
#define REFUSE(reason, ...) \
	ereport(ERROR, \
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION), \
			 errmsg("cannot use \"%s\" as the shape of an entity", RelationGetRelationName(rel)), \
			 errdetail(reason, ##__VA_ARGS__)))

bool
gc_name_is_plain(const char *name)
{
	for (const char *p = name; *p; p++)
		if ((unsigned char) *p < 0x20 || *p == 0x7f)
			return false;
	return true;
}

static void
check_relation(Relation rel)
{
	char		kind = rel->rd_rel->relkind;

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE &&
		kind != RELKIND_COMPOSITE_TYPE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table or composite type", RelationGetRelationName(rel)),
				 errhint("CREATE TYPE … AS (ref text, modified_at timestamptz, …);")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		REFUSE("It is temporary; the columns of an entity must outlive a session.");
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		REFUSE("It is unlogged; an entity's tables never are, since a crash would empty them.");
	if (kind != RELKIND_COMPOSITE_TYPE &&
		pg_class_aclcheck(RelationGetRelid(rel), GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, RelationGetRelationName(rel));
}

/* Does a DEFAULT use one of the sequences that the shape's own columns own (serial)? */
static bool
uses_own_sequence(Relation rel, Oid attrdef)
{
	List	   *sequences = getOwnedSequences(RelationGetRelid(rel));
	Relation	depend;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	if (sequences == NIL)
		return false;
	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(AttrDefaultRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(attrdef));
	scan = systable_beginscan(depend, DependDependerIndexId, true, NULL, 2, keys);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		found = form->refclassid == RelationRelationId && list_member_oid(sequences, form->refobjid);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return found;
}

/* The SQL of a column's DEFAULT, or NULL. */
static char *
default_sql(Relation rel, AttrNumber attno)
{
	Relation	attrdef = table_open(AttrDefaultRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *result = NULL;

	ScanKeyInit(&keys[0], Anum_pg_attrdef_adrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationGetRelid(rel)));
	ScanKeyInit(&keys[1], Anum_pg_attrdef_adnum, BTEqualStrategyNumber, F_INT2EQ,
				Int16GetDatum(attno));
	scan = systable_beginscan(attrdef, AttrDefaultIndexId, true, NULL, 2, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		expression = heap_getattr(tuple, Anum_pg_attrdef_adbin,
											  RelationGetDescr(attrdef), &isnull);

		if (uses_own_sequence(rel, ((Form_pg_attrdef) GETSTRUCT(tuple))->oid))
			REFUSE("The default of column \"%s\" takes numbers from a sequence of the shape; an entity's values come from its records.",
				   NameStr(TupleDescAttr(RelationGetDescr(rel), attno - 1)->attname));
		result = TextDatumGetCString(DirectFunctionCall2(pg_get_expr, expression,
														 ObjectIdGetDatum(RelationGetRelid(rel))));
	}
	systable_endscan(scan);
	table_close(attrdef, AccessShareLock);
	return result;
}

/* Is a domain that forbids NULL behind this type? */
static bool
domain_not_null(Oid type)
{
	bool		not_null = false;

	while (!not_null && get_typtype(type) == TYPTYPE_DOMAIN)
	{
		HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
		Form_pg_type form = (Form_pg_type) GETSTRUCT(tuple);

		not_null = form->typnotnull;
		type = form->typbasetype;
		ReleaseSysCache(tuple);
	}
	return not_null;
}

static void
read_column(Relation rel, Form_pg_attribute att, List *key_columns, GcShapeColumn *column)
{
	const char *name = NameStr(att->attname);

	if (strncmp(name, "gc_", 3) == 0)
		REFUSE("Column \"%s\" begins with \"gc_\", which is kept for guest_context.", name);
	if (SystemAttributeByName(name) != NULL)
		REFUSE("Column \"%s\" has the name of a system column.", name);
	if (!gc_name_is_plain(name))
		REFUSE("The name of column %d holds a control character.", att->attnum);
	if (att->attidentity)
		REFUSE("Column \"%s\" is an identity column; an entity's values come from its records.", name);
	if (att->attgenerated)
		REFUSE("Column \"%s\" is a generated column; compute it in a view over the entity.", name);
	if (!list_member(key_columns, makeString((char *) name)) && domain_not_null(att->atttypid))
		REFUSE("The domain of column \"%s\" is NOT NULL; a tombstone has no value there.", name);

	column->name = pstrdup(name);
	column->type = att->atttypid;
	column->typmod = att->atttypmod;
	column->collation = att->attcollation;
	column->not_null = att->attnotnull;
	column->default_sql = att->atthasdef ? default_sql(rel, att->attnum) : NULL;
}

/* The columns of a constraint, as String nodes. */
static List *
constraint_columns(Relation rel, HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		conkey = heap_getattr(tuple, Anum_pg_constraint_conkey, desc, &isnull);
	ArrayType  *array;
	List	   *columns = NIL;

	if (isnull)
		return NIL;
	array = DatumGetArrayTypeP(conkey);
	for (int i = 0; i < ARR_DIMS(array)[0]; i++)
		columns = lappend(columns, makeString(get_attname(RelationGetRelid(rel),
														  ((int16 *) ARR_DATA_PTR(array))[i], false)));
	return columns;
}

static List *
read_constraints(Relation rel, List *key_columns)
{
	Relation	constraints = table_open(ConstraintRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *checks = NIL;

	ScanKeyInit(&key, Anum_pg_constraint_conrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationGetRelid(rel)));
	scan = systable_beginscan(constraints, ConstraintRelidTypidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);
		bool		isnull;
		Datum		value;
		List	   *columns;
		GcShapeCheck *check;

		switch (form->contype)
		{
			case CONSTRAINT_CHECK:
				value = heap_getattr(tuple, Anum_pg_constraint_conbin,
									 RelationGetDescr(constraints), &isnull);
				check = palloc(sizeof(GcShapeCheck));
				if (!gc_name_is_plain(NameStr(form->conname)))
					REFUSE("The name of a constraint holds a control character.");
				check->name = pstrdup(NameStr(form->conname));
				check->columns = constraint_columns(rel, tuple, RelationGetDescr(constraints));
				check->sql = TextDatumGetCString(DirectFunctionCall2(pg_get_expr, value,
																	 ObjectIdGetDatum(RelationGetRelid(rel))));
				checks = lappend(checks, check);
				break;
			case CONSTRAINT_PRIMARY:
			case CONSTRAINT_UNIQUE:
				columns = constraint_columns(rel, tuple, RelationGetDescr(constraints));
				if (list_length(columns) != list_length(key_columns) ||
					list_difference(columns, key_columns) != NIL)
					REFUSE("Constraint \"%s\" is UNIQUE on other columns than the key; versions of different entities may share those values.",
						   NameStr(form->conname));
				break;
			case CONSTRAINT_FOREIGN:
				REFUSE("Constraint \"%s\" is a foreign key; records of parent and child arrive in any order.",
					   NameStr(form->conname));
				break;
			case CONSTRAINT_EXCLUSION:
				REFUSE("Constraint \"%s\" is an exclusion constraint; it cannot hold over versions.",
					   NameStr(form->conname));
				break;
			default:			/* NOT NULL (a row here since 18) is read from the column */
				break;
		}
	}
	systable_endscan(scan);
	table_close(constraints, AccessShareLock);
	return checks;
}

GcShape *
gc_shape_read(Oid relid, List *key_columns)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);
	GcShape    *shape = palloc0(sizeof(GcShape));
	TupleDesc	desc;

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	check_relation(rel);
	desc = RelationGetDescr(rel);
	shape->columns = palloc0(sizeof(GcShapeColumn) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped)
			read_column(rel, att, key_columns, &shape->columns[shape->ncolumns++]);
	}
	shape->checks = read_constraints(rel, key_columns);
	relation_close(rel, NoLock);
	return shape;
}

GcShapeColumn *
gc_shape_column(const GcShape *shape, const char *name)
{
	for (int i = 0; i < shape->ncolumns; i++)
		if (strcmp(shape->columns[i].name, name) == 0)
			return &shape->columns[i];
	return NULL;
}

/* pg_catalog."C", or "" when the type's own collation is meant */
static char *
collation_sql(Oid collation, Oid type)
{
	HeapTuple	tuple;
	Form_pg_collation form;
	char	   *sql;

	if (!OidIsValid(collation) || collation == get_typcollation(type))
		return "";
	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation); /* cannot happen */
	form = (Form_pg_collation) GETSTRUCT(tuple);
	sql = psprintf(" COLLATE %s",
				   quote_qualified_identifier(get_namespace_name(form->collnamespace),
											  NameStr(form->collname)));
	ReleaseSysCache(tuple);
	return sql;
}

char *
gc_shape_column_sql(const GcShapeColumn *column)
{
	return psprintf("%s %s%s%s%s", quote_identifier(column->name),
					format_type_extended(column->type, column->typmod,
										 FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY),
					collation_sql(column->collation, column->type),
					column->default_sql ? " DEFAULT " : "",
					column->default_sql ? column->default_sql : "");
}

char *
gc_shape_check_sql(const GcShapeCheck *check)
{
	return psprintf("CONSTRAINT %s CHECK (gc_deleted OR (%s))",
					quote_identifier(check->name), check->sql);
}

char *
gc_shape_not_null_sql(const GcShapeColumn *column)
{
	if (!column->not_null)
		return NULL;
	return psprintf("CHECK (gc_deleted OR %s IS NOT NULL)", quote_identifier(column->name));
}
