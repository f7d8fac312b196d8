/*
 * dead_letter.c: requeue and discard: what becomes of records that could not be applied.
 *
 * A record that is requeued keeps its source, partition and offset, so it takes the place in the
 * order that it always had: it does not win over what has come since. It goes through the
 * decoder with the changelog's mapping of now, and through COPY, in the caller's transaction.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "changelog.h"
#include "compat.h"
#include "dataset.h"
#include "rows.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_requeue);
PG_FUNCTION_INFO_V1(gc_discard);

/* A dead letter, copied out of its table. */
typedef struct Letter
{
	int64		id;
	char	   *changelog;
	int32		source;
	int32		partition;
	int64		offset;
	int64		time_us;
	bytea	   *key;
	bytea	   *value;
	ArrayType  *headers;
} Letter;

static void *
copy_column(HeapTuple row, const char *name)
{
	Datum		value = gc_catalog_value(row, name, (Datum) 0);

	return value == (Datum) 0 ? NULL : PG_DETOAST_DATUM_COPY(value);
}

/* The letters of these ids, in the order of changelog, partition and offset. */
static List *
read_letters(ArrayType *ids)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {INT8ARRAYOID};
	Datum		values[1] = {PointerGetDatum(ids)};
	List	   *letters = NIL;

	SPI_connect();
	gc_catalog_execute("SELECT dl.*, c.name"
					   " FROM guest_context._dead_letter dl"
					   " JOIN guest_context._changelog c ON c.changelog_id OPERATOR(pg_catalog.=) dl.changelog_id"
					   " WHERE dl.dead_letter_id OPERATOR(pg_catalog.=) ANY ($1)"
					   " ORDER BY dl.changelog_id, dl.partition, dl.record_offset FOR UPDATE OF dl",
					   1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		MemoryContext spi = MemoryContextSwitchTo(caller);
		Letter	   *letter = palloc0(sizeof(Letter));
		TimestampTz time;

		letter->id = DatumGetInt64(gc_catalog_value(row, "dead_letter_id", 0));
		letter->changelog = gc_catalog_text(row, "name");
		letter->source = DatumGetInt32(gc_catalog_value(row, "source", 0));
		letter->partition = DatumGetInt32(gc_catalog_value(row, "partition", 0));
		letter->offset = DatumGetInt64(gc_catalog_value(row, "record_offset", 0));
		time = DatumGetTimestampTz(gc_catalog_value(row, "record_time", TimestampTzGetDatum(DT_NOBEGIN)));
		letter->time_us = time == DT_NOBEGIN ? GC_NO_TIMESTAMP : time + GC_UNIX_EPOCH_US;
		letter->key = copy_column(row, "key");
		letter->value = copy_column(row, "value");
		letter->headers = copy_column(row, "headers");
		letters = lappend(letters, letter);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return letters;
}

/* array_agg of no ids is NULL. */
static List *
letters_argument(FunctionCallInfo fcinfo)
{
	return PG_ARGISNULL(0) ? NIL : read_letters(PG_GETARG_ARRAYTYPE_P(0));
}

static void
delete_letters(List *letters)
{
	ListCell   *lc;

	foreach(lc, letters)
		gc_catalog_run(SPI_OK_DELETE,
					   "DELETE FROM guest_context._dead_letter WHERE dead_letter_id OPERATOR(pg_catalog.=) $1", 1,
					   INT8OID, Int64GetDatum(((Letter *) lfirst(lc))->id));
}

/* ERROR unless the caller owns all the entities that the letters are of. */
static void
check_letters(List *letters)
{
	ListCell   *lc;

	foreach(lc, letters)
		gc_entity_check_owner(gc_changelog_get(((Letter *) lfirst(lc))->changelog)->entity);
}

static GcHeader *
headers_of(const Letter *letter, int *count)
{
	Datum	   *values;
	bool	   *nulls;
	int			n;
	GcHeader   *headers;

	*count = 0;
	if (letter->headers == NULL)
		return NULL;
	deconstruct_array(letter->headers, BYTEAOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	headers = palloc0(sizeof(GcHeader) * (n / 2 + 1));
	for (int i = 0; i + 1 < n; i += 2)
	{
		headers[*count].name = text_to_cstring(DatumGetTextPP(values[i]));
		headers[*count].value = nulls[i + 1] ? NULL : VARDATA_ANY(DatumGetPointer(values[i + 1]));
		headers[*count].value_len = nulls[i + 1] ? 0 : VARSIZE_ANY_EXHDR(DatumGetPointer(values[i + 1]));
		(*count)++;
	}
	return headers;
}

/* For the error's context. */
static void
say_letter(void *arg)
{
	const Letter *letter = *(Letter **) arg;

	errhidestmt(true);
	if (letter != NULL)
		errcontext("applying dead letter %lld of changelog \"%s\", partition %d, offset %lld",
				   (long long) letter->id, letter->changelog, letter->partition, (long long) letter->offset);
}

static void
apply_letter(const Letter *letter)
{
	GcChangelog *changelog = gc_changelog_get(letter->changelog);
	GcEntity   *entity = changelog->entity;
	GcEntity   *root = entity->parent_id == 0 ? entity : gc_entity_by_id(entity->root_id);
	GcMappingSpec *spec = gc_changelog_spec(changelog);
	GcRows	   *rows = gc_rows_create(entity, spec);
	GcDecodeError error;
	GcMapping  *mapping = gc_mapping_compile(spec, &error);
	GcDecodeInput input = {.timestamp_us = letter->time_us};
	GcDecoded	record;

	LockRelationOid(entity->view, AccessShareLock);
	gc_entity_check_exists(entity, entity->view);
	gc_writer_lock(root->versions, RowExclusiveLock);
	if (letter->key != NULL)
	{
		input.key = VARDATA_ANY(letter->key);
		input.key_len = VARSIZE_ANY_EXHDR(letter->key);
	}
	if (letter->value != NULL)
	{
		input.value = VARDATA_ANY(letter->value);
		input.value_len = VARSIZE_ANY_EXHDR(letter->value);
	}
	input.headers = headers_of(letter, &input.nheaders);
	if (mapping != NULL)
		gc_decode(mapping, &input, &record);
	if (mapping == NULL || record.status == GC_DECODE_BAD || record.status == GC_DECODE_HALT)
	{
		const GcDecodeError *why = mapping == NULL ? &error : &record.error;

		ereport(ERROR,
				(errcode(GC_DECODE_ERRCODE(why)),
				 errmsg_internal("%s", why->message),
				 why->detail[0] ? errdetail_internal("%s", why->detail) : 0,
				 why->detail[0] ? errdetail_log(GC_NOT_LOGGED) : 0,
				 why->hint[0] ? errhint("%s", why->hint) :
				 errhint("Change the mapping by alter_changelog, or leave %lld out of the ids.", (long long) letter->id)));
	}
	if (record.status == GC_DECODE_UPSERT || record.status == GC_DECODE_TOMBSTONE)
	{
		gc_rows_open(rows, GetCurrentTimestamp());
		gc_rows_add(rows, record.fields, record.version_us, record.status == GC_DECODE_TOMBSTONE, letter->source, letter->partition,
					letter->offset, 1);
		gc_rows_close(rows);
	}
	gc_mapping_free(mapping);
}

/* requeue(ids) -> how many were applied */
Datum
gc_requeue(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	const Letter *current = NULL;
	ErrorContextCallback context = {.callback = say_letter, .arg = (void *) &current, .previous = error_context_stack};
	List	   *letters;
	ListCell   *lc;

	letters = letters_argument(fcinfo);
	check_letters(letters);
	error_context_stack = &context;
	foreach(lc, letters)
	{
		current = lfirst(lc);
		apply_letter(current);
	}
	error_context_stack = context.previous;
	delete_letters(letters);
	gc_leave(guc_level);
	PG_RETURN_INT64(list_length(letters));
}

/* discard(ids) -> how many were deleted */
Datum
gc_discard(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	List	   *letters;
	ListCell   *lc;

	letters = letters_argument(fcinfo);
	check_letters(letters);
	foreach(lc, letters)
	{
		Letter	   *letter = lfirst(lc);

		gc_audit("discard", letter->changelog, NULL, psprintf("{\"partition\": %d, \"offset\": %lld}",
															   letter->partition, (long long) letter->offset));
	}
	delete_letters(letters);
	gc_leave(guc_level);
	PG_RETURN_INT64(list_length(letters));
}
