/*
 * apply.c: apply(), change records from SQL into the speed table.
 *
 * A record goes the way of one from a changelog: through the decoder
 * (src/common/), which makes texts of columns or an error, and through COPY's
 * machinery into the leaf of the moment. Source is 0, the offset comes
 * from the entity's own sequence, so that of two records with one version the
 * one applied later wins.
 *
 * The caller needs INSERT on the view, which refuses direct INSERTs, so that the right to
 * apply is no right to write rows past every rule. Writing itself runs as the
 * tree's owner in a security-restricted context, since defaults, checks and
 * triggers are the owner's. The root's writer lock is taken before the clock is
 * read and held to the end of the transaction: see gc_writers_check.
 *
 * Payloads do not get into the server's log. An error is about one record, says which,
 * and names the column or the constraint; what quotes the payload is in its DETAIL, for
 * the client alone, and the statement is not logged with it. COPY and the core's
 * constraints quote whole rows, so their errors are caught and made anew.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_type.h"
#include "commands/copy.h"
#include "commands/copyfrom_internal.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "apply.h"
#include "catalog.h"
#include "common/decode.h"
#include "compat.h"
#include "dataset.h"
#include "guest_context.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_apply);

#define UNIX_EPOCH_US ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* Said to the log in place of a detail that may quote the payload. */
#define NOT_LOGGED "It may quote the record, so only the client is told."

/* Which record of the payload is at fault, for the error's context. */
typedef struct Progress
{
	const GcEntity *entity;
	int64		record;			/* counted from 1; 0 = not known */
} Progress;

/* Rows of one COPY: all have the same columns. */
typedef struct Batch
{
	Progress   *progress;
	const GcEntity *entity;
	const GcMappingSpec *spec;
	Relation	leaf;
	bool	   *has_default;	/* of each column */
	bool	   *absent;			/* columns that these rows leave to their DEFAULT */
	StringInfoData rows;		/* COPY text format */
	StringInfoData records;		/* the number of each row's record, an int64 */
	char	   *arrived_at;		/* literal */
} Batch;

/* What COPY reads; its callback has no argument. */
static StringInfo copy_source;

static int
read_source(void *buffer, int minimum, int maximum)
{
	int			count = Min(maximum, copy_source->len - copy_source->cursor);

	memcpy(buffer, copy_source->data + copy_source->cursor, count);
	copy_source->cursor += count;
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

/* about_payload: the detail may quote it. */
static void
report(const GcDecodeError *error, bool about_payload)
{
	ereport(ERROR,
			(errcode(GC_DECODE_ERRCODE(error)),
			 errmsg_internal("%s", error->message),
			 error->detail[0] ? errdetail_internal("%s", error->detail) : 0,
			 error->detail[0] && about_payload ? errdetail_log(NOT_LOGGED) : 0,
			 error->hint[0] ? errhint("%s", error->hint) : 0));
}

/* The decoder's view of an entity's columns. */
static GcMappingSpec *
mapping_spec(const GcEntity *entity)
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

void
gc_mapping_check(const GcEntity *entity)
{
	GcDecodeError error;
	GcMapping  *mapping = gc_mapping_compile(mapping_spec(entity), &error);

	if (mapping == NULL)
		report(&error, false);
	gc_mapping_free(mapping);
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

/* Appends a field in COPY's text format. */
static void
append_field(StringInfo buf, const char *text)
{
	for (const char *p = text; *p; p++)
	{
		switch (*p)
		{
			case '\\':
				appendStringInfoString(buf, "\\\\");
				break;
			case '\t':
				appendStringInfoString(buf, "\\t");
				break;
			case '\n':
				appendStringInfoString(buf, "\\n");
				break;
			case '\r':
				appendStringInfoString(buf, "\\r");
				break;
			default:
				appendStringInfoCharMacro(buf, *p);
		}
	}
}

/* The error of a row whose values must not be told to everybody. */
static void
hide_values(const Batch *batch, const CopyFromState copy, ErrorData *error)
{
	const GcEntity *entity = batch->entity;
	char	   *copy_context;

	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:	/* the message quotes the value */
			error->detail = error->detail == NULL ? error->message :
				psprintf("%s\n%s", error->message, error->detail);
			error->detail_log = pstrdup(NOT_LOGGED);
			if (copy->cur_attname == NULL)
				error->message = psprintf("cannot store a record of entity \"%s.%s\"",
										  entity->schema, entity->name);
			else
			{
				error->message = psprintf("cannot store a record of entity \"%s.%s\": its value for column \"%s\" is not valid",
										  entity->schema, entity->name, copy->cur_attname);
				error->schema_name = get_namespace_name(RelationGetNamespace(batch->leaf));
				error->table_name = pstrdup(RelationGetRelationName(batch->leaf));
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
copy_rows(Batch *batch, CopyFromState copy)
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
		uint64		nrows = batch->records.len / sizeof(int64);

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		hide_values(batch, copy, error);
		/* triggers that fire after all rows were read may be about any of them */
		batch->progress->record = copy->cur_lineno == 0 || copy->cur_lineno > nrows ? 0 :
			((int64 *) batch->records.data)[copy->cur_lineno - 1];
		ThrowErrorData(error);
	}
	PG_END_TRY();
}

/* Writes the batch's rows, as the owner. */
static void
flush(Batch *batch)
{
	List	   *columns = NIL;
	ParseState *pstate;
	CopyFromState copy;
	Oid			save_user;
	int			save_context;
	static const char *const own[] = {"gc_arrived_at", "gc_offset", "gc_dataset",
	"gc_source", "gc_partition", "gc_deleted"};

	if (batch->rows.len == 0)
		return;
	batch->progress->record = 0;
	for (int i = 0; i < lengthof(own); i++)
		columns = lappend(columns, makeString(pstrdup(own[i])));
	for (int i = 0; i < batch->spec->ncolumns; i++)
		if (!batch->absent[i])
			columns = lappend(columns, makeString(pstrdup(batch->spec->columns[i].name)));

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(batch->entity->owner, save_context | SECURITY_RESTRICTED_OPERATION);
	pstate = make_parsestate(NULL);
	addRangeTableEntryForRelation(pstate, batch->leaf, RowExclusiveLock, NULL, false, false);
	copy_source = &batch->rows;
	copy = BeginCopyFrom(pstate, batch->leaf, NULL, NULL, false, read_source, columns,
						 list_make1(makeDefElem("encoding", (Node *) makeString("UTF8"), -1)));
	copy_rows(batch, copy);
	EndCopyFrom(copy);
	free_parsestate(pstate);
	SetUserIdAndSecContext(save_user, save_context);
	resetStringInfo(&batch->rows);
	resetStringInfo(&batch->records);
}

/* Adds one decoded record; rows with other columns absent start a new COPY. */
static void
add_row(Batch *batch, const GcDecoded *record, int64 number, int64 offset)
{
	int			ncolumns = batch->spec->ncolumns;
	bool	   *absent = palloc(ncolumns);

	for (int i = 0; i < ncolumns; i++)
		absent[i] = batch->has_default[i] && record->status == GC_DECODE_UPSERT &&
			record->fields[i].state == GC_FIELD_ABSENT;
	if (memcmp(absent, batch->absent, ncolumns) != 0)
	{
		flush(batch);
		memcpy(batch->absent, absent, ncolumns);
	}
	pfree(absent);

	appendStringInfo(&batch->rows, "%s\t" INT64_FORMAT "\t0\t0\t0\t%s", batch->arrived_at, offset,
					 record->status == GC_DECODE_TOMBSTONE ? "t" : "f");
	for (int i = 0; i < ncolumns; i++)
	{
		if (batch->absent[i])
			continue;
		appendStringInfoChar(&batch->rows, '\t');
		if (record->fields[i].state == GC_FIELD_TEXT)
			append_field(&batch->rows, record->fields[i].text);
		else
			appendStringInfoString(&batch->rows, "\\N");
	}
	appendStringInfoChar(&batch->rows, '\n');
	appendBinaryStringInfo(&batch->records, (char *) &number, sizeof(number));
}

/* Says which record was at fault; the statement, which may have the payload in it, is not logged. */
static void
say_record(void *arg)
{
	const Progress *progress = arg;

	errhidestmt(true);
	if (progress->record > 0)
		errcontext("applying record %lld of the payload to entity \"%s.%s\"",
				   (long long) progress->record, progress->entity->schema, progress->entity->name);
	else
		errcontext("applying records to entity \"%s.%s\"",
				   progress->entity->schema, progress->entity->name);
}

/* Who may write, and whether COPY can do it for them. */
static void
check_rights(const GcEntity *entity)
{
	Oid			user = GetUserId();

	/* who may write any row into the tree may apply too */
	if (pg_class_aclcheck(entity->view, user, ACL_INSERT) != ACLCHECK_OK &&
		pg_class_aclcheck(entity->versions, user, ACL_INSERT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to apply records to entity \"%s.%s\"",
						entity->schema, entity->name),
				 errdetail("Role \"%s\" has no INSERT on the view.", GetUserNameFromId(user, false)),
				 errhint("GRANT INSERT ON %s TO %s;", gc_quoted_name(entity->view),
						 quote_identifier(GetUserNameFromId(user, false)))));
	if (check_enable_rls(entity->versions, InvalidOid, false) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot apply records to entity \"%s.%s\" under row security",
						entity->schema, entity->name),
				 errdetail("Policies on \"%s\" apply to role \"%s\".", get_rel_name(entity->versions),
						   GetUserNameFromId(GetUserId(), false)),
				 GetUserId() == entity->owner ?
				 errhint("ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;", gc_quoted_name(entity->versions)) :
				 errhint("Apply as the owner, role \"%s\".", GetUserNameFromId(entity->owner, false))));
}

/* A version that lies too far ahead could not be replaced for as long. */
static void
check_version(const GcEntity *entity, const GcDecoded *record, TimestampTz now)
{
	TimestampTz version = record->version_us - UNIX_EPOCH_US;

	if (version > now + gc_max_future_skew * USECS_PER_SEC)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_FIELD_OVERFLOW),
				 errmsg("version of a record of entity \"%s.%s\" lies too far ahead",
						entity->schema, entity->name),
				 errdetail("Column \"%s\" is %s, the clock is %s, guest_context.max_future_skew is %d s.",
						   entity->version_column, gc_timestamp_literal(version),
						   gc_timestamp_literal(now), gc_max_future_skew),
				 errhint("Correct the clock it comes from, or declare the unit of its times in the mapping.")));
}

/*
 * apply(entity regclass, payload json, deleted boolean) -> bigint
 *
 * Applies one JSON object, or an array of them; returns how many records were
 * written. All or none: the first bad record is an ERROR.
 */
Datum
gc_apply(PG_FUNCTION_ARGS)
{
	text	   *payload;
	GcEntity   *entity;
	GcEntity   *root;
	GcMapping  *mapping;
	GcElements *elements;
	GcDecodeError error;
	GcDecodeInput input = {0};
	GcDecoded	record;
	TimestampTz now;
	Batch		batch = {0};
	Oid			sequence;
	Progress	progress = {0};
	ErrorContextCallback context = {.callback = say_record, .arg = &progress};
	int64		decoded = 0;
	int64		count = 0;
	int			guc_level;

	gc_require_argument(fcinfo, 0, "entity");
	gc_require_argument(fcinfo, 1, "payload");
	gc_require_argument(fcinfo, 2, "deleted");
	PreventCommandIfReadOnly("apply()");
	guc_level = gc_enter();
	payload = PG_GETARG_TEXT_PP(1);
	entity = gc_entity_get(PG_GETARG_OID(0), false);
	check_rights(entity);
	/* before the leaf, as readers do: whoever drops the entity waits here for all of it */
	LockRelationOid(entity->view, AccessShareLock);
	gc_entity_check_exists(entity, entity->view);
	root = entity->parent_id == 0 ? entity : gc_entity_by_id(entity->root_id);
	gc_writer_lock(root->versions, RowExclusiveLock);
	now = GetCurrentTimestamp();

	progress.entity = entity;
	context.previous = error_context_stack;
	error_context_stack = &context;

	batch.progress = &progress;
	batch.entity = entity;
	batch.spec = mapping_spec(entity);
	batch.arrived_at = gc_timestamp_literal(now);
	batch.leaf = open_leaf(entity, now);
	batch.absent = palloc0(batch.spec->ncolumns);
	batch.has_default = palloc(batch.spec->ncolumns);
	for (int i = 0; i < batch.spec->ncolumns; i++)
	{
		AttrNumber	attno = get_attnum(RelationGetRelid(batch.leaf), batch.spec->columns[i].name);

		batch.has_default[i] = TupleDescAttr(RelationGetDescr(batch.leaf), attno - 1)->atthasdef;
	}
	initStringInfo(&batch.rows);
	initStringInfo(&batch.records);

	mapping = gc_mapping_compile(batch.spec, &error);
	if (mapping == NULL)
		report(&error, false);
	elements = gc_elements_begin(VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload), &error);
	if (elements == NULL)
		report(&error, true);
	sequence = linitial_oid(getOwnedSequences(entity->versions));
	input.timestamp_us = now + UNIX_EPOCH_US;
	input.deleted = PG_GETARG_BOOL(2);
	while (gc_elements_next(elements, &input.value, &input.value_len))
	{
		CHECK_FOR_INTERRUPTS();
		progress.record = ++decoded;
		switch (gc_decode(mapping, &input, &record))
		{
			case GC_DECODE_UPSERT:
			case GC_DECODE_TOMBSTONE:
				check_version(entity, &record, now);
				add_row(&batch, &record, decoded, nextval_internal(sequence, false));
				count++;
				break;
			case GC_DECODE_FILTERED:
			case GC_DECODE_IGNORED:
				break;
			case GC_DECODE_BAD:
			case GC_DECODE_HALT:
				report(&record.error, true);
		}
	}
	flush(&batch);
	error_context_stack = context.previous;
	table_close(batch.leaf, NoLock);
	gc_mapping_free(mapping);
	gc_leave(guc_level);
	PG_RETURN_INT64(count);
}
