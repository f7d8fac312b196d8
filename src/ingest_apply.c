/*
 * ingest_apply.c: what is pending of a changelog goes into its tables.
 *
 * A batch is one transaction: rows into the leaf of the moment (rows.c), dead letters, and the
 * ledger, which says how far each partition has been read. The ledger's row is the
 * compare-and-set: it is written only where the newest one ends at the offset that this process
 * began with and the changelog's generation is still the same; of two processes that try,
 * one violates its primary key.
 *
 * Errors have three classes:
 *
 *	 transient	 deadlock, lock timeout, disk full, out of memory, cancel, …: the transaction is
 *				 aborted, the offset has not moved, and the same is tried again after a pause, for ever
 *	 record		 class 22, 23 or 54 of a row: the batch is written again. Its rows are checked in subtransactions,
 *				 which write nothing, so the one that fails becomes a dead letter and no other is
 *				 written twice. What shows only in writing, a trigger's or an index's complaint, is written a third
 *				 time: in the order of offsets, up to the row that fails, and on behind it; after BAD_PER_BATCH of
 *				 them the batch ends there and is committed
 *	 structural	 everything else: the changelog halts and says why
 *
 * Runs as the entities' owner, in the worker of ingest.c, at top level.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "common/fault_point.h"
#include "compat.h"
#include "freshness.h"
#include "guest_context.h"
#include "ingest.h"
#include "tree.h"

#define BAD_PER_BATCH		32		/* that are found by writing */
#define DEAD_PER_BATCH		1000	/* then it is time to look whether something is wrong with all */
#define LONGEST_PAUSE_MS	10000

/* Dead letters that are too many: more than half of this many records. */
#define BREAKER_RECORDS		1000

/* What is wrong with a record. */
typedef struct Bad
{
	const char *sqlstate;
	const char *message;
	const char *detail;			/* or NULL */
} Bad;

/* What becomes of a batch. */
typedef struct Batch
{
	GcIngest   *ingest;
	int			nitems;			/* how many of those pending it takes */
	TimestampTz now;
	Bad		  **bad;			/* by item; NULL = nothing */
	int			nbad;
	int			nrows;
	int			ndead;
	bool		booked;			/* their numbers, with the first partition's row of the ledger */
	const char *halt;			/* it ends before an item that halts the changelog: why */
	bool		counted;		/* room is known */
	int64		room;			/* for dead letters, by guest_context.dead_letter_limit */
	bool		no_room;		/* it halts because of that */
} Batch;

/* How it is written: each when the one before has met a record that fails. */
typedef enum WriteMode
{
	FAST, CHECKED, CAREFUL
} WriteMode;

typedef enum ErrorClass
{
	TRANSIENT, RECORD, STRUCTURAL
} ErrorClass;

static ErrorClass
class_of(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:	/* a value that is too long for an index */
			return RECORD;
		case ERRCODE_T_R_SERIALIZATION_FAILURE:	/* category 40 */
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'):
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_SYSTEM_ERROR:
			return TRANSIENT;
		default:
			return sqlerrcode == ERRCODE_READ_ONLY_SQL_TRANSACTION ? TRANSIENT : STRUCTURAL;
	}
}

/*
 * Dead letters
 */

static Datum
bytea_of(const char *bytes, size_t len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), bytes, len);
	return PointerGetDatum(result);
}

static Datum
text_of(GcFrame *frame, bool *isnull)
{
	size_t		len;
	const char *text = gc_frame_get_text(frame, &len);

	*isnull = text == NULL;
	return text ? bytea_of(text, len) : (Datum) 0;
}

/* name, value, name, value, … */
static Datum
headers_of(GcFrame *frame, bool *isnull)
{
	int			n = gc_frame_get_u32(frame) * 2;
	Datum	   *values = palloc(sizeof(Datum) * n);
	bool	   *nulls = palloc(n);
	int			lower = 1;

	for (int i = 0; i < n; i++)
		values[i] = text_of(frame, &nulls[i]);
	*isnull = n == 0;
	return PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lower, BYTEAOID, -1, false, TYPALIGN_INT));
}

static void
bury(Batch *batch, const GcItem *item, const Bad *bad)
{
	static GcKeptPlan plan = NULL;
	GcChangelog *changelog = batch->ingest->changelog;
	GcFrame		raw = item->raw;
	Oid			types[11] = {INT4OID, INT4OID, INT4OID, INT8OID, TIMESTAMPTZOID, BYTEAOID, BYTEAOID, BYTEAARRAYOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[11] = {Int32GetDatum(changelog->changelog_id), Int32GetDatum(changelog->source),
		Int32GetDatum(batch->ingest->topic->partitions[item->partition].partition), Int64GetDatum(item->offset),
	TimestampTzGetDatum(item->time_us - GC_UNIX_EPOCH_US)};
	char		nulls[12] = "           ";
	bool		isnull;

	nulls[4] = item->time_us == GC_NO_TIMESTAMP ? 'n' : ' ';
	values[5] = text_of(&raw, &isnull);
	nulls[5] = isnull ? 'n' : ' ';
	values[6] = text_of(&raw, &isnull);
	nulls[6] = isnull ? 'n' : ' ';
	values[7] = headers_of(&raw, &isnull);
	nulls[7] = isnull ? 'n' : ' ';
	values[8] = CStringGetTextDatum(bad->sqlstate);
	values[9] = CStringGetTextDatum(bad->message);
	values[10] = bad->detail && *bad->detail ? CStringGetTextDatum(bad->detail) : (Datum) 0;
	nulls[10] = bad->detail && *bad->detail ? ' ' : 'n';
	GC_FAULT("before a dead letter");
	SPI_connect();
	gc_catalog_execute_kept(&plan, "INSERT INTO guest_context._dead_letter (changelog_id, source, partition, record_offset, record_time,"
					   " key, value, headers, sqlstate, message, detail)"
					   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING",
					   11, types, values, nulls, SPI_OK_INSERT);
	SPI_finish();
	batch->ndead++;
	GC_FAULT("dead letter written");
}

/* It ends before this item, and, where `halt` says why, the changelog halts there. */
static void
end_at(Batch *batch, const GcItem *item, const char *halt)
{
	batch->nitems = item - batch->ingest->items;
	batch->halt = halt ? MemoryContextStrdup(gc_work.turn_context, halt) : NULL;
	batch->no_room = false;
}

/*
 * With more bad records than the changelog may have dead letters it ends before the first one that is too many, which
 * is not written yet: marked are those that the decoder refuses, and then others in the order of offsets.
 */
static void
cut_to_room(Batch *batch)
{
	int64		before = 0;

	if (gc_dead_letter_limit == 0)
		return;
	if (!batch->counted)
		batch->room = gc_dead_letter_limit -
			gc_catalog_run_bigint(SPI_OK_SELECT,
								  "SELECT pg_catalog.count(*) FROM (SELECT FROM guest_context._dead_letter"
								  " WHERE changelog_id OPERATOR(pg_catalog.=) $1 LIMIT $2) d", 2,
								  INT4OID, Int32GetDatum(batch->ingest->changelog->changelog_id),
								  INT8OID, Int64GetDatum(gc_dead_letter_limit));
	batch->counted = true;
	for (int i = 0; i < batch->nitems && batch->nbad > batch->room; i++)
	{
		if (batch->bad[i] == NULL || before++ < batch->room)
			continue;
		end_at(batch, &batch->ingest->items[i],
			   psprintf("%d dead letters are waiting, as many as guest_context.dead_letter_limit allows", gc_dead_letter_limit));
		batch->no_room = true;
	}
}

/* This record is bad: it will be a dead letter, or ends the batch. False when it does, or when there are enough. */
static bool
mark(Batch *batch, const GcItem *item, const char *sqlstate, const char *message, const char *detail)
{
	Bad		   *bad;

	if (item->status == GC_DECODE_HALT || !batch->ingest->changelog->dead_letters)
	{
		end_at(batch, item, message);
		return false;
	}
	bad = palloc(sizeof(Bad));
	bad->sqlstate = sqlstate;
	bad->message = message;
	bad->detail = detail;
	batch->bad[item - batch->ingest->items] = bad;
	batch->nbad++;
	cut_to_room(batch);
	if (item >= &batch->ingest->items[batch->nitems])
		return false;
	if (batch->nbad < DEAD_PER_BATCH)
		return true;
	end_at(batch, item + 1, NULL);
	return false;
}

static bool
mark_error(Batch *batch, const GcItem *item, const ErrorData *error)
{
	return mark(batch, item, pstrdup(unpack_sql_state(error->sqlerrcode)), error->message, error->detail);
}

/* In the order of offsets. */
static void
bury_bad(Batch *batch)
{
	for (int i = 0; i < batch->nitems && batch->nbad > 0; i++)
		if (batch->bad[i] != NULL)
			bury(batch, &batch->ingest->items[i], batch->bad[i]);
}

/* What is wrong with a record before anything is written: a dead letter, or NULL. */
static const char *
future_version(const Batch *batch, const GcItem *item)
{
	TimestampTz version = item->version_us - GC_UNIX_EPOCH_US;

	if (version <= batch->now + gc_max_future_skew * USECS_PER_SEC)
		return NULL;
	return psprintf("version %s lies too far ahead: the clock was %s", gc_timestamp_literal(version),
					gc_timestamp_literal(batch->now));
}

/*
 * The ledger
 */

void
gc_ledger_begin(const GcChangelog *changelog, int32 partition, int64 offset)
{
	gc_catalog_run(SPI_OK_INSERT,
				   "INSERT INTO guest_context._ledger (changelog_id, generation, partition, from_offset, to_offset)"
				   " SELECT s.changelog_id, $2, $3, -1, $4 FROM guest_context._changelog_state s"
				   " WHERE s.changelog_id OPERATOR(pg_catalog.=) $1 AND NOT s.paused AND NOT s.halted FOR SHARE"
				   " ON CONFLICT DO NOTHING", 4,
				   INT4OID, Int32GetDatum(changelog->changelog_id), INT4OID, Int32GetDatum(changelog->generation),
				   INT4OID, Int32GetDatum(partition), INT8OID, Int64GetDatum(offset));
	gc_freshness_changed(changelog->entity);
}

/* Moves the partition on; false when somebody else has. */
static bool
advance(Batch *batch, int partition, int64 to_offset, GcAnchor anchor)
{
	GcIngest   *ingest = batch->ingest;
	GcChangelog *changelog = ingest->changelog;
	GcProgress *progress = &ingest->progress[partition];
	GcPartition *read = &ingest->topic->partitions[partition];
	static GcKeptPlan plan = NULL;
	Oid			types[12] = {INT4OID, INT4OID, INT4OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, INT4OID, INT4OID,
	INT8OID, TIMESTAMPTZOID, INT8OID};
	Datum		values[12] = {Int32GetDatum(changelog->changelog_id), Int32GetDatum(changelog->generation),
		Int32GetDatum(read->partition), Int64GetDatum(progress->committed), Int64GetDatum(to_offset),
		Int64GetDatum(Max(read->high, to_offset)), TimestampTzGetDatum(progress->record_time),
		Int32GetDatum(batch->booked ? 0 : batch->nrows), Int32GetDatum(batch->booked ? 0 : batch->ndead),
		Int64GetDatum(anchor.offset), TimestampTzGetDatum(anchor.time_us - GC_UNIX_EPOCH_US),
	Int64GetDatum((int64) anchor.crc)};
	char		nulls[13] = "            ";
	bool		moved;

	nulls[6] = progress->record_time == DT_NOBEGIN ? 'n' : ' ';
	nulls[9] = nulls[11] = anchor.offset < 0 ? 'n' : ' ';
	nulls[10] = anchor.offset < 0 || anchor.time_us == GC_NO_TIMESTAMP ? 'n' : ' ';
	SPI_connect();
	gc_catalog_execute_kept(&plan, "INSERT INTO guest_context._ledger (changelog_id, generation, partition, from_offset, to_offset, high,"
					   " record_time, rows, dead, anchor_offset, anchor_time, anchor_crc)"
					   " SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12"
					   " FROM guest_context._changelog c WHERE c.changelog_id OPERATOR(pg_catalog.=) $1"
					   " AND c.generation OPERATOR(pg_catalog.=) $2"
					   " AND (SELECT l.to_offset FROM guest_context._ledger l WHERE l.changelog_id OPERATOR(pg_catalog.=) $1"
					   "  AND l.generation OPERATOR(pg_catalog.=) $2 AND l.partition OPERATOR(pg_catalog.=) $3"
					   "  ORDER BY l.from_offset DESC LIMIT 1) OPERATOR(pg_catalog.=) $4",
					   12, types, values, nulls, SPI_OK_INSERT);
	moved = SPI_processed == 1;
	SPI_finish();
	batch->booked = true;
	gc_freshness_changed(changelog->entity);
	GC_FAULT("row of the ledger written");
	return moved;
}

/* How far the first n items reach in a partition: behind its last one, or where it was. */
static int64
reach_of(const GcIngest *ingest, int partition, int nitems)
{
	if (nitems == ingest->nitems)
		return ingest->progress[partition].reached;
	for (int i = nitems - 1; i >= 0; i--)
		if (ingest->items[i].partition == partition)
			return ingest->items[i].offset + 1;
	return ingest->progress[partition].committed;
}

/* The last record among them, which the partition is to be known by. */
static GcAnchor
anchor_of(const GcIngest *ingest, int partition, int nitems)
{
	if (nitems == ingest->nitems)
		return ingest->progress[partition].anchor;
	for (int i = nitems - 1; i >= 0; i--)
	{
		const GcItem *item = &ingest->items[i];
		GcAnchor	anchor = {.offset = item->offset, .time_us = item->time_us, .crc = item->crc};

		if (item->partition == partition)
			return anchor;
	}
	return ingest->progress[partition].committed_anchor;
}

/*
 * Writing rows
 */

static bool
has_row(const GcItem *item)
{
	return item->status == GC_DECODE_UPSERT || item->status == GC_DECODE_TOMBSTONE;
}

/* Its number for gc_rows_failed is its place in ingest->items, from 1 on. */
static void
add_item(Batch *batch, GcItem *item)
{
	GcIngest   *ingest = batch->ingest;

	CHECK_FOR_INTERRUPTS();
	gc_rows_add(ingest->rows, item->fields, item->version_us, item->status == GC_DECODE_TOMBSTONE,
				ingest->changelog->source, ingest->topic->partitions[item->partition].partition, item->offset,
				item - ingest->items + 1);
}

/* Writes these items. */
static void
write_items(Batch *batch, GcItem **items, int nitems)
{
	GcIngest   *ingest = batch->ingest;

	gc_rows_open(ingest->rows, batch->now);
	for (int i = 0; i < nitems; i++)
		add_item(batch, items[i]);
	gc_rows_close(ingest->rows);
}

/* The batch's records that can be written; the others are bad, or end it. */
static GcItem **
sift(Batch *batch, int *count)
{
	GcIngest   *ingest = batch->ingest;
	GcItem	  **items = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(GcItem *) * Max(batch->nitems, 1));
	int			n = 0;

	batch->bad = MemoryContextAllocExtended(CurrentMemoryContext, sizeof(Bad *) * Max(batch->nitems, 1),
											MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < batch->nitems; i++)
	{
		GcItem	   *item = &ingest->items[i];
		const char *too_new = has_row(item) ? future_version(batch, item) : NULL;

		if (too_new != NULL)
			mark(batch, item, "22008", too_new, NULL);
		else if (has_row(item))
			items[n++] = item;
		else
			mark(batch, item, item->error->sqlstate, item->error->message, item->error->detail);
	}
	*count = n;
	return items;
}

/* All at once. */
static void
write_fast(Batch *batch)
{
	int			n;
	GcItem	  **items = sift(batch, &n);

	write_items(batch, items, n);
	batch->nrows = n;
}

/* Checks a row in the subtransaction that is open; when it fails, that is aborted, and begun again. */
static ErrorData *
try_item(Batch *batch, GcItem *item, MemoryContext caller, ResourceOwner owner)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		add_item(batch, item);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
	}
	PG_END_TRY();
	if (error != NULL && class_of(error->sqlerrcode) != RECORD)
		ThrowErrorData(error);
	return error;
}

/* Around the rows that fail before they are written. */
static void
write_checked(Batch *batch)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	GcIngest   *ingest = batch->ingest;
	int			n;
	GcItem	  **items = sift(batch, &n);
	bool		open = false;

	gc_rows_open(ingest->rows, batch->now);
	if (!gc_rows_reserve(ingest->rows))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION), errmsg("a trigger must see each row")));	/* the next mode is for that */
	for (int i = 0; i < n && items[i] < &ingest->items[batch->nitems]; i++)
	{
		ErrorData  *error;

		if (open && gc_rows_full(ingest->rows))
		{
			ReleaseCurrentSubTransaction();
			open = false;
			MemoryContextSwitchTo(caller);
			CurrentResourceOwner = owner;
			gc_rows_write(ingest->rows);
		}
		if (!open)
		{
			BeginInternalSubTransaction(NULL);
			MemoryContextSwitchTo(caller);
			open = true;
		}
		error = try_item(batch, items[i], caller, owner);
		if (error == NULL)
		{
			batch->nrows++;
			continue;
		}
		open = false;
		if (!mark_error(batch, items[i], error))
			break;
	}
	if (open)
	{
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
	}
	gc_rows_close(ingest->rows);
}

/* Tries to write items in a subtransaction; NULL, or why not. */
static ErrorData *
try_items(Batch *batch, GcItem **items, int nitems)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		write_items(batch, items, nitems);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	if (error != NULL && class_of(error->sqlerrcode) != RECORD)
		ThrowErrorData(error);
	return error;
}

/*
 * In the order of offsets, around the rows that fail. Where the failing row cannot be named, it
 * is looked for by halves.
 */
static void
write_careful(Batch *batch)
{
	GcIngest   *ingest = batch->ingest;
	int			n;
	GcItem	  **items = sift(batch, &n);
	int			from = 0;
	int			until = n;
	int			bad = 0;

	while (from < n)
	{
		ErrorData  *error = try_items(batch, items + from, until - from);
		int64		failed = gc_rows_failed(ingest->rows);

		if (error == NULL)
		{
			batch->nrows += until - from;
			from = until;
			until = n;
			continue;
		}
		if (failed > 0)
		{
			int			at = from;

			while (at < until && items[at] != &ingest->items[failed - 1])
				at++;
			if (at > from && at < until)
			{
				until = at;		/* those before it first; then it is the first itself */
				continue;
			}
			if (at == until)
				failed = 0;		/* cannot happen */
		}
		if (failed == 0 && until - from > 1)
		{
			until = from + (until - from) / 2;
			continue;
		}
		if (bad++ == BAD_PER_BATCH)
		{
			end_at(batch, items[from], NULL);
			return;
		}
		if (!mark_error(batch, items[from], error))
			return;
		while (n > from + 1 && items[n - 1] >= &ingest->items[batch->nitems])
			n--;				/* it ends earlier */
		from++;
		until = n;
	}
}

int
gc_ingest_write(GcIngest *ingest, int nitems, int *rows, const char **halt)
{
	Batch		batch = {.ingest = ingest, .nitems = nitems, .now = GetCurrentTimestamp()};

	write_careful(&batch);
	bury_bad(&batch);
	*rows = batch.nrows;
	*halt = batch.halt;
	return batch.nitems;
}

/*
 * A batch
 */

void
gc_ingest_forget(GcIngest *ingest, int nitems)
{
	for (int i = 0; i < nitems; i++)
	{
		GcCredit   *credit = ingest->items[i].credit;

		if (--credit->users > 0)
			continue;
		credit->partition->owed += credit->bytes;
		pfree(credit);
	}
	ingest->nitems -= nitems;
	if (ingest->nitems > 0)
	{
		memmove(ingest->items, ingest->items + nitems, sizeof(GcItem) * ingest->nitems);
		return;
	}
	MemoryContextReset(ingest->pending);
	ingest->items = NULL;
	ingest->room = 0;
	ingest->bytes = 0;
}

/* May it go on as it was loaded? Whoever pauses or alters it waits for this batch, and there is none as before after that. */
static bool
lock_changelog(const GcChangelog *changelog)
{
	static GcKeptPlan plan = NULL;
	Oid			types[3] = {INT4OID, OIDOID, TEXTOID};
	Datum		values[3] = {Int32GetDatum(changelog->changelog_id), ObjectIdGetDatum(MyDatabaseId),
	CStringGetTextDatum(changelog->row_version)};
	bool		found;

	gc_changelog_lock(changelog->changelog_id, ShareLock);
	LockRelationOid(changelog->entity->view, AccessShareLock);
	SPI_connect();
	gc_catalog_execute_kept(&plan, "SELECT 1 FROM guest_context._changelog_state s"
							" JOIN guest_context._changelog c ON c.changelog_id OPERATOR(pg_catalog.=) s.changelog_id"
							" JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) c.entity_id"
							" WHERE s.changelog_id OPERATOR(pg_catalog.=) $1 AND NOT s.paused AND NOT s.halted"
							" AND s.database OPERATOR(pg_catalog.=) $2"
							" AND pg_catalog.concat(c.xmin, '/', e.xmin) OPERATOR(pg_catalog.=) $3",
							3, types, values, NULL, SPI_OK_SELECT);
	found = SPI_processed == 1;
	SPI_finish();
	return found;
}

/* One transaction. False when somebody else has moved the changelog on. */
static bool
write_batch(Batch *batch, WriteMode mode)
{
	GcIngest   *ingest = batch->ingest;
	GcEntity   *entity = ingest->changelog->entity;

	if (!lock_changelog(ingest->changelog))
		return false;
	gc_entity_check_exists(entity, entity->view);
	gc_writer_lock(ingest->root->versions, RowExclusiveLock);
	batch->now = GetCurrentTimestamp();
	GC_FAULT("before rows");
	if (mode == FAST)
		write_fast(batch);
	else if (mode == CHECKED)
		write_checked(batch);
	else
		write_careful(batch);
	GC_FAULT("rows written");
	bury_bad(batch);
	for (int i = 0; i < ingest->topic->npartitions; i++)
	{
		int64		to_offset = reach_of(ingest, i, batch->nitems);

		if (to_offset != ingest->progress[i].committed && !advance(batch, i, to_offset, anchor_of(ingest, i, batch->nitems)))
			return false;
	}
	return true;
}

void
gc_ingest_waits(GcIngest *ingest, const char *reason, const char *hint)
{
	bool		written;

	if (ingest->noted_known && (reason == NULL) == (ingest->noted == NULL) &&
		(reason == NULL || strcmp(reason, ingest->noted) == 0))
		return;
	gc_ingest_begin();
	written = gc_changelog_note(ingest->changelog->changelog_id, gc_work.worker, GC_HALT_NONE, -1, -1, reason, hint);
	GC_FAULT("before the commit of a wait");
	gc_ingest_commit();
	if (reason != NULL && ingest->noted == NULL)
		ereport(LOG,
				(errmsg("changelog \"%s\" waits: %s", ingest->changelog->name, reason)));
	else if (reason == NULL && ingest->noted != NULL)
		ereport(LOG,
				(errmsg("changelog \"%s\" goes on", ingest->changelog->name)));
	if (ingest->noted != NULL)
		pfree(ingest->noted);
	ingest->noted = reason == NULL ? NULL : MemoryContextStrdup(ingest->topic->context, reason);
	ingest->noted_known = written || reason == NULL;	/* else another worker's may stand there: again */
}

static void
say_halt(GcIngest *ingest, int32 partition, int64 offset, const char *reason)
{
	ereport(LOG,
			(errmsg("changelog \"%s\" has halted: %s", ingest->changelog->name, reason),
			 partition >= 0 ? errdetail("Partition %d, offset %lld.", partition, (long long) offset) : 0));
	ingest->stopped = true;

	/* so that it is seen when somebody lets it go on at once */
	ingest->topic->stale = gc_work.refresh = true;
}

char *
gc_ingest_skip_hint(const GcIngest *ingest, int32 partition, int64 offset, int64 through)
{
	const char *name = quote_literal_cstr(ingest->changelog->name);
	char	   *hint = psprintf("SELECT guest_context.skip(%s, %d, %lld, 'reason');\nor mend it, then SELECT guest_context.resume(%s);",
								name, partition, (long long) through, name);

	return through == offset ? hint :
		psprintf("the first offset behind it that can be read is %lld:\n%s", (long long) through + 1, hint);
}

void
gc_ingest_halt(GcIngest *ingest, GcHalt kind, int32 partition, int64 offset, const char *reason, const char *hint)
{
	const char *name = quote_literal_cstr(ingest->changelog->name);

	if (kind == GC_HALT_TOPIC)
		gc_work.reload = true;	/* this one's library knows the old topic */
	if (hint == NULL && kind == GC_HALT_TOPIC)
		hint = psprintf("SELECT guest_context.accept_topic(%s, 'reason');", name);
	else if (hint == NULL && kind == GC_HALT_RECORD && partition >= 0 && offset >= 0)
		hint = gc_ingest_skip_hint(ingest, partition, offset, offset);
	else if (hint == NULL)
		hint = psprintf("SELECT guest_context.resume(%s);", name);
	gc_ingest_begin();
	(void) gc_changelog_note(ingest->changelog->changelog_id, gc_work.worker, kind, partition, offset, reason, hint);
	gc_freshness_changed(ingest->changelog->entity);
	GC_FAULT("before the commit of a halt");
	gc_ingest_commit();
	GC_FAULT("halt committed");
	say_halt(ingest, partition, offset, reason);
}

void
gc_ingest_halt_lost(GcIngest *ingest, const int64 *lost, int nlost)
{
	GcChangelog *changelog = ingest->changelog;
	Datum	   *numbers = palloc(sizeof(Datum) * nlost * GC_LOST_NUMBERS);
	char	   *reason;

	for (int i = 0; i < nlost * GC_LOST_NUMBERS; i++)
		numbers[i] = Int64GetDatum(lost[i]);
	gc_ingest_begin();
	reason = gc_changelog_note_lost(changelog,
									construct_array(numbers, nlost * GC_LOST_NUMBERS, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	reason = MemoryContextStrdup(gc_work.turn_context, reason);
	gc_ingest_commit();
	say_halt(ingest, lost[0], lost[1], reason);
}

/* Too many records became dead letters: something is wrong with more than a record. */
static bool
breaks(GcIngest *ingest, int nitems, int ndead)
{
	bool		too_many;

	ingest->recent += nitems;
	ingest->recent_dead += ndead;
	if (ingest->recent < BREAKER_RECORDS)
		return false;
	too_many = ingest->recent_dead * 2 > ingest->recent;
	ingest->recent = ingest->recent_dead = 0;
	return too_many;
}

static GcOutcome
failed(GcIngest *ingest, ErrorData *error)
{
	int64		pause = Min(100 * (INT64CONST(1) << Min(ingest->failures, 10)), LONGEST_PAUSE_MS);
	GcItem	   *first = ingest->nitems > 0 ? &ingest->items[0] : NULL;

	if (class_of(error->sqlerrcode) != TRANSIENT)
	{
		char	   *hint = NULL;

		/* hints of ours say what to run first */
		if (error->hint != NULL && error->hint[0] != '\0' && error->hint[strlen(error->hint) - 1] == ';')
			hint = psprintf("%s SELECT guest_context.resume(%s);", error->hint, quote_literal_cstr(ingest->changelog->name));
		gc_ingest_halt(ingest, GC_HALT_OTHER, first ? ingest->topic->partitions[first->partition].partition : -1,
					   first ? first->offset : -1, error->message, hint);
		return GC_HALTED;
	}
	ingest->failures++;
	ingest->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause);
	if (ingest->failure != NULL)
		pfree(ingest->failure);
	ingest->failure = MemoryContextStrdup(ingest->topic->context, error->message);
	gc_watch_changelog(ingest);
	return GC_WAITS;
}

GcOutcome
gc_ingest_apply(GcIngest *ingest)
{
	MemoryContext caller = CurrentMemoryContext;

	for (volatile WriteMode mode = FAST;; mode++)
	{
		Batch		batch = {.ingest = ingest, .nitems = ingest->nitems};
		ErrorData  *volatile error = NULL;
		volatile bool written = false;
		volatile int ndead = 0;

		PG_TRY();
		{
			gc_ingest_begin();
			written = write_batch(&batch, mode);
			GC_FAULT("before the commit of a batch");
			if (written)
				gc_ingest_commit();
			else
				AbortCurrentTransaction();
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(caller);
			error = CopyErrorData();
			FlushErrorState();
			AbortCurrentTransaction();
		}
		PG_END_TRY();
		MemoryContextSwitchTo(caller);
		GC_FAULT("batch committed");
		ndead = batch.ndead;

		if (error != NULL)
		{
			if (mode != CAREFUL && class_of(error->sqlerrcode) == RECORD)
				continue;
			return failed(ingest, error);
		}
		if (!written)
			return GC_RELOAD;
		for (int i = 0; i < ingest->topic->npartitions; i++)
		{
			ingest->progress[i].committed_anchor = anchor_of(ingest, i, batch.nitems);
			ingest->progress[i].committed = reach_of(ingest, i, batch.nitems);
		}
		ingest->moved = batch.nitems < ingest->nitems;
		ingest->failures = 0;
		if (batch.halt != NULL)
		{
			GcItem	   *item = &ingest->items[batch.nitems];
			const char *name = quote_literal_cstr(ingest->changelog->name);
			int32		partition = ingest->topic->partitions[item->partition].partition;

			gc_ingest_halt(ingest, GC_HALT_RECORD, partition, item->offset, batch.halt, !batch.no_room ?
						   psprintf("%s%s%s", item->error ? item->error->hint : "", item->error && *item->error->hint ? "\n" : "",
									gc_ingest_skip_hint(ingest, partition, item->offset, item->offset)) :
						   psprintf("SELECT * FROM guest_context.dead_letter WHERE changelog = %s; requeue or discard them, then SELECT guest_context.resume(%s);",
									name, name));
			return GC_HALTED;
		}
		if (breaks(ingest, batch.nitems, ndead))
		{
			gc_ingest_halt(ingest, GC_HALT_OTHER, -1, -1, "more than half of the last records became dead letters",
						   psprintf("SELECT * FROM guest_context.dead_letter WHERE changelog = %s;",
									quote_literal_cstr(ingest->changelog->name)));
			return GC_HALTED;
		}
		gc_ingest_forget(ingest, batch.nitems);
		if (ingest->noted != NULL)
			gc_watch_changelog(ingest);
		return GC_DONE;
	}
}
