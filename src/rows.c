/*
 * rows.c: decoded records into a leaf of the speed table, by COPY's machinery.
 *
 * Called by apply() and by the ingest worker. Rows are collected as COPY text, all with the
 * same columns, and written by one COPY as the tree's owner in a security-restricted
 * context, since defaults, checks and triggers are the owner's. The caller holds the
 * root's writer lock and has read the clock after it.
 *
 * Payloads do not get into the server's log: COPY and the core's constraints quote whole rows,
 * so their errors are caught and made anew. gc_rows_failed says which record was at fault.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/copy.h"
#include "commands/copyfrom_internal.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "rows.h"
#include "tree.h"

struct GcRows
{
	const GcEntity *entity;
	const GcMappingSpec *spec;
	Relation	leaf;			/* while open */
	char	   *arrived_at;		/* literal and a tab */
	bool	   *has_default;	/* of each column */
	bool	   *absent;			/* columns that these rows leave to their DEFAULT */
	bool	   *absent_next;
	StringInfoData text;		/* COPY text format */
	StringInfoData records;		/* the number of each row's record, an int64 */
	int64		failed;			/* record of the last error, 0 = not known */
};

/* What COPY reads; its callback has no argument. */
static StringInfo copy_source;

void		(*gc_rows_meanwhile) (void) = NULL;

static int
read_source(void *buffer, int minimum, int maximum)
{
	int			count = Min(maximum, copy_source->len - copy_source->cursor);

	memcpy(buffer, copy_source->data + copy_source->cursor, count);
	copy_source->cursor += count;
	if (gc_rows_meanwhile != NULL)
		gc_rows_meanwhile();
	return count;
}

static GcColumnKind
kind_of_type(Oid type)
{
	switch (getBaseType(type))
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
			return GC_KIND_TEXT;
		case JSONOID:
		case JSONBOID:
			return GC_KIND_JSON;
		case TIMESTAMPTZOID:
			return GC_KIND_TIMESTAMPTZ;
		case TIMESTAMPOID:
			return GC_KIND_TIMESTAMP;
		case DATEOID:
			return GC_KIND_DATE;
		default:
			return OidIsValid(get_base_element_type(type)) ? GC_KIND_ARRAY : GC_KIND_OTHER;
	}
}

/* The decoder's view of an entity's columns. */
GcMappingSpec *
gc_entity_spec(const GcEntity *entity)
{
	int			ncolumns = list_length(entity->shape_columns);
	GcDecodeColumn *columns = palloc0(sizeof(GcDecodeColumn) * ncolumns);
	GcMappingSpec *spec = palloc0(sizeof(GcMappingSpec));

	for (int i = 0; i < ncolumns; i++)
	{
		const char *name = strVal(list_nth(entity->shape_columns, i));
		Oid			type = get_atttype(entity->versions, get_attnum(entity->versions, name));

		columns[i].name = name;
		columns[i].kind = kind_of_type(type);
		if (columns[i].kind == GC_KIND_ARRAY)
			columns[i].element = kind_of_type(get_base_element_type(type));
		columns[i].is_key = list_member(entity->key_columns, makeString((char *) name));
		columns[i].is_version = strcmp(name, entity->version_column) == 0;
		columns[i].is_unmapped = entity->unmapped_column != NULL &&
			strcmp(name, entity->unmapped_column) == 0;
	}
	spec->columns = columns;
	spec->ncolumns = ncolumns;
	spec->mapping = entity->mapping;
	return spec;
}

/* The leaf for records that arrive now, made if maintenance is late; locked. */
static Relation
open_leaf(const GcEntity *entity, TimestampTz arrived_at)
{
	for (bool made = false;; made = true)
	{
		GcSpeedLeaf *leaves;
		int			count = gc_speed_leaves(entity->speed, &leaves);

		for (int i = count - 1; i >= 0; i--)
			if (leaves[i].lower <= arrived_at && arrived_at < leaves[i].upper)
				return table_open(leaves[i].relid, RowExclusiveLock);
		if (made)
			ereport(ERROR,
					(errcode(ERRCODE_CHECK_VIOLATION),
					 errmsg("entity \"%s.%s\" has no partition for records that arrive at %s",
							entity->schema, entity->name, gc_timestamp_literal(arrived_at)),
					 errdetail("The clock stands before partitions that have been dropped already."),
					 errhint("Correct the server's clock.")));
		gc_speed_leaves_ensure(entity, arrived_at + 1);
	}
}

GcRows *
gc_rows_create(const GcEntity *entity, const GcMappingSpec *spec)
{
	GcRows	   *rows = palloc0(sizeof(GcRows));

	rows->entity = entity;
	rows->spec = spec;
	rows->has_default = palloc0(spec->ncolumns);
	rows->absent = palloc0(spec->ncolumns);
	rows->absent_next = palloc0(spec->ncolumns);
	initStringInfo(&rows->text);
	initStringInfo(&rows->records);
	return rows;
}

void
gc_rows_open(GcRows *rows, TimestampTz arrived_at)
{
	rows->arrived_at = psprintf("%s\t", gc_timestamp_literal(arrived_at));
	rows->leaf = open_leaf(rows->entity, arrived_at);
	for (int i = 0; i < rows->spec->ncolumns; i++)
	{
		AttrNumber	attno = get_attnum(RelationGetRelid(rows->leaf), rows->spec->columns[i].name);

		rows->has_default[i] = TupleDescAttr(RelationGetDescr(rows->leaf), attno - 1)->atthasdef;
	}
	resetStringInfo(&rows->text);
	resetStringInfo(&rows->records);
	rows->failed = 0;
}

void
gc_rows_close(GcRows *rows)
{
	table_close(rows->leaf, NoLock);
	rows->leaf = NULL;
}

int64
gc_rows_failed(const GcRows *rows)
{
	return rows->failed;
}

/* Appends a field in COPY's text format. */
static void
append_field(StringInfo buf, const char *text, size_t len)
{
	char	   *to;

	enlargeStringInfo(buf, 2 * len);
	to = buf->data + buf->len;
	for (size_t i = 0; i < len; i++)
	{
		char		c = text[i];

		if (c == '\\' || c == '\t' || c == '\n' || c == '\r')
		{
			*to++ = '\\';
			c = c == '\t' ? 't' : c == '\n' ? 'n' : c == '\r' ? 'r' : c;
		}
		*to++ = c;
	}
	*to = '\0';
	buf->len = to - buf->data;
}

static void
append_number(StringInfo buf, int64 number)
{
	enlargeStringInfo(buf, MAXINT8LEN + 1);
	buf->len += pg_lltoa(number, buf->data + buf->len);
	appendStringInfoCharMacro(buf, '\t');
}

/* The error of a row whose values must not be told to everybody. */
static void
hide_values(const GcRows *rows, const CopyFromState copy, ErrorData *error)
{
	const GcEntity *entity = rows->entity;
	char	   *copy_context;

	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:	/* the message quotes the value */
			error->detail = error->detail == NULL ? error->message :
				psprintf("%s\n%s", error->message, error->detail);
			error->detail_log = pstrdup(GC_NOT_LOGGED);
			if (copy->cur_attname == NULL)
				error->message = psprintf("cannot store a record of entity \"%s.%s\"",
										  entity->schema, entity->name);
			else
			{
				error->message = psprintf("cannot store a record of entity \"%s.%s\": its value for column \"%s\" is not valid",
										  entity->schema, entity->name, copy->cur_attname);
				error->schema_name = get_namespace_name(RelationGetNamespace(rows->leaf));
				error->table_name = pstrdup(RelationGetRelationName(rows->leaf));
				error->column_name = pstrdup(copy->cur_attname);
			}
			error->context = NULL;
			break;
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:	/* the detail quotes the row */
			error->detail = error->detail_log = NULL;
			error->context = NULL;
			break;
		default:
			/* what a trigger says of itself stands before what COPY says, which quotes the row */
			copy_context = error->context == NULL ? NULL : strstr(error->context, "\nCOPY ");
			if (copy_context != NULL)
				*copy_context = '\0';
			else
				error->context = NULL;
			break;
	}
}

/* What is said while COPY works and is not caught: a trigger's NOTICE, the end of the session. */
static void
hide_context(void *arg)
{
	errhidestmt(true);
	errhidecontext(true);		/* COPY's has the row */
}

static void
copy_rows(GcRows *rows, CopyFromState copy)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorContextCallback context = {.callback = hide_context};

	PG_TRY();
	{
		/* nothing else: what is outside is added when the error is made anew */
		error_context_stack = &context;
		CopyFrom(copy);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		uint64		nrows = rows->records.len / sizeof(int64);

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		hide_values(rows, copy, error);
		/* triggers that fire after all rows were read may be about any of them */
		rows->failed = copy->cur_lineno == 0 || copy->cur_lineno > nrows ? 0 :
			((int64 *) rows->records.data)[copy->cur_lineno - 1];
		ThrowErrorData(error);
	}
	PG_END_TRY();
}

/* Writes the batch's rows, as the owner. */
void
gc_rows_flush(GcRows *rows)
{
	List	   *columns = NIL;
	ParseState *pstate;
	CopyFromState copy;
	Oid			save_user;
	int			save_context;
	static const char *const own[] = {"gc_arrived_at", "gc_offset", "gc_dataset",
	"gc_source", "gc_partition", "gc_deleted"};

	if (rows->text.len == 0)
		return;
	rows->failed = 0;
	for (int i = 0; i < lengthof(own); i++)
		columns = lappend(columns, makeString(pstrdup(own[i])));
	for (int i = 0; i < rows->spec->ncolumns; i++)
		if (!rows->absent[i])
			columns = lappend(columns, makeString(pstrdup(rows->spec->columns[i].name)));

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(rows->entity->owner, save_context | SECURITY_RESTRICTED_OPERATION);
	pstate = make_parsestate(NULL);
	addRangeTableEntryForRelation(pstate, rows->leaf, RowExclusiveLock, NULL, false, false);
	copy_source = &rows->text;
	copy = BeginCopyFrom(pstate, rows->leaf, NULL, NULL, false, read_source, columns,
						 list_make1(makeDefElem("encoding", (Node *) makeString("UTF8"), -1)));
	copy_rows(rows, copy);
	EndCopyFrom(copy);
	free_parsestate(pstate);
	SetUserIdAndSecContext(save_user, save_context);
	resetStringInfo(&rows->text);
	resetStringInfo(&rows->records);
}

bool
gc_rows_add(GcRows *rows, const GcField *fields, bool tombstone, int32 source, int32 partition,
			int64 offset, int64 number)
{
	int			ncolumns = rows->spec->ncolumns;

	for (int i = 0; i < ncolumns; i++)
		rows->absent_next[i] = rows->has_default[i] && !tombstone && fields[i].state == GC_FIELD_ABSENT;
	if (memcmp(rows->absent_next, rows->absent, ncolumns) != 0)
	{
		if (rows->text.len > 0)
			return false;
		memcpy(rows->absent, rows->absent_next, ncolumns);
	}
	appendStringInfoString(&rows->text, rows->arrived_at);
	append_number(&rows->text, offset);
	appendBinaryStringInfo(&rows->text, "0\t", 2);
	append_number(&rows->text, source);
	append_number(&rows->text, partition);
	appendStringInfoCharMacro(&rows->text, tombstone ? 't' : 'f');
	for (int i = 0; i < ncolumns; i++)
	{
		if (rows->absent[i])
			continue;
		appendStringInfoCharMacro(&rows->text, '\t');
		if (fields[i].state == GC_FIELD_TEXT)
			append_field(&rows->text, fields[i].text, fields[i].len);
		else
			appendBinaryStringInfo(&rows->text, "\\N", 2);
	}
	appendStringInfoChar(&rows->text, '\n');
	appendBinaryStringInfo(&rows->records, (char *) &number, sizeof(number));
	return true;
}
