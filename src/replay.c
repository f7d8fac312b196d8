/*
 * replay.c: replay: a topic's records again, from a time on, up to where the changelog is.
 *
 * For rows that somebody deleted, a mapping that was wrong, a table that was restored without its newest
 * partition. A record that is applied again has the same source, partition and offset, so it shows once, and
 * replaying changes nothing where nothing was missing. The changelog itself is not touched: it may run, be paused or
 * halted, and its ledger says what it said.
 *
 * It does what an ingest worker does, with the same parts (ingest.h), in the caller's session: a reader of its own,
 * the owner's user mapping, credit, dead letters. But it is one transaction, the caller's, and every batch is a
 * subtransaction, so that a bad record can be buried. What an operator has skipped or given up stays left out. An error undoes
 * everything.
 *
 * It holds the writer lock from the first batch on, to the end of the transaction, as every writer does.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "dataset.h"
#include "guest_context.h"
#include "ingest.h"
#include "progress.h"
#include "server_options.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_replay);

#define SILENT_SECONDS	30		/* without a record or a position */
#define WAIT_MS			100		/* for more records, before those that are there are written */

/* Offsets that an operator gave up. */
typedef struct Gap
{
	int32		partition;
	int64		from;
	int64		to;				/* the first one behind it */
} Gap;

/* What is read of a partition: [from, to). */
typedef struct Range
{
	int64		from;
	int64		to;
	GcAnchor	anchor;			/* the last record that the changelog has read */
} Range;

typedef struct Replay
{
	GcIngest   *ingest;
	TimestampTz since;
	Range	   *ranges;			/* by partition */
	Gap		   *gaps;
	int			ngaps;
	int64		rows;			/* applied */
} Replay;

static GcTopic *
topic_of(const Replay *replay)
{
	return replay->ingest->topic;
}

static void
cannot_read(const Replay *replay, const char *problem)
{
	const GcChangelog *changelog = replay->ingest->changelog;

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not replay changelog \"%s\": %s", changelog->name, problem),
			 errhint("SELECT * FROM guest_context.check_server(%s);", quote_literal_cstr(changelog->server))));
}

static void
cannot_go_on(const Replay *replay, int32 partition, int64 offset, const char *problem)
{
	const GcChangelog *changelog = replay->ingest->changelog;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot replay changelog \"%s\" at partition %d, offset %lld: %s", changelog->name, partition,
					(long long) offset, problem),
			 errhint("A later start leaves that out.")));
}

static void
another_topic(const Replay *replay, int32 partition)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot replay changelog \"%s\": topic replaced", replay->ingest->changelog->name),
			 errdetail("Offset %lld of partition %d is another record than was read there.",
					   (long long) replay->ranges[partition].anchor.offset, partition),
			 errhint("SELECT * FROM guest_context.status;")));
}

/*
 * What is to be read
 */

/* How far the changelog is, in the partitions that it has a position in. */
static void
read_positions(Replay *replay)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(replay->ingest->changelog->changelog_id)};

	SPI_connect();
	gc_catalog_execute("SELECT partition, to_offset, anchor_offset, anchor_time, anchor_crc FROM guest_context._position"
					   " WHERE changelog_id OPERATOR(pg_catalog.=) $1", 1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		int32		partition = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
		Range	   *range = &replay->ranges[partition];
		Datum		time;

		if (partition >= topic_of(replay)->npartitions)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot replay changelog \"%s\": topic replaced", replay->ingest->changelog->name),
					 errdetail("It has %d partitions, and partition %d was read.", topic_of(replay)->npartitions, partition),
					 errhint("SELECT * FROM guest_context.status;")));
		range->to = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
		range->anchor.offset = DatumGetInt64(SPI_getbinval(row, desc, 3, &isnull));
		if (isnull)
		{
			range->anchor.offset = -1;
			continue;
		}
		time = SPI_getbinval(row, desc, 4, &isnull);
		gc_anchor_set(&range->anchor, range->anchor.offset,
					  isnull ? GC_NO_TIMESTAMP : DatumGetTimestampTz(time) + GC_UNIX_EPOCH_US,
					  (uint32) DatumGetInt64(SPI_getbinval(row, desc, 5, &isnull)));
	}
	SPI_finish();
}

static void
read_gaps(Replay *replay)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {INT4OID, INT4OID};
	Datum		values[2] = {Int32GetDatum(replay->ingest->changelog->changelog_id),
	Int32GetDatum(replay->ingest->changelog->source)};

	SPI_connect();
	gc_catalog_execute("SELECT partition, from_offset, to_offset FROM guest_context._gap"
					   " WHERE changelog_id OPERATOR(pg_catalog.=) $1 AND source OPERATOR(pg_catalog.=) $2"
					   " ORDER BY 1, 2", 2, types, values, NULL, SPI_OK_SELECT);
	replay->ngaps = SPI_processed;
	replay->gaps = MemoryContextAlloc(caller, sizeof(Gap) * (replay->ngaps + 1));
	for (int i = 0; i < replay->ngaps; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;

		replay->gaps[i].partition = DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		replay->gaps[i].from = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		replay->gaps[i].to = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &isnull));
	}
	SPI_finish();
}

/* The gap that an offset is in, or NULL. */
static const Gap *
gap_of(const Replay *replay, int32 partition, int64 offset)
{
	for (int i = 0; i < replay->ngaps; i++)
		if (replay->gaps[i].partition == partition && offset >= replay->gaps[i].from && offset < replay->gaps[i].to)
			return &replay->gaps[i];
	return NULL;
}

static void
ask(const Replay *replay, GcQuery what, int32 partition, int64 number, GcFrame *answer)
{
	char	   *problem;

	if (!gc_ingest_ask(what, topic_of(replay)->name, partition, number, answer, &problem))
		cannot_read(replay, gc_work.server_problem ? gc_work.server_problem : problem);
}

/* The first offset that `since` asks for. */
static int64
first_offset(const Replay *replay, int32 partition, int64 low)
{
	GcFrame		answer;
	int64		offset;

	if (replay->since + GC_UNIX_EPOCH_US <= 0 || TIMESTAMP_IS_NOBEGIN(replay->since))
		return low;
	ask(replay, GC_QUERY_OFFSET, partition, replay->since + GC_UNIX_EPOCH_US, &answer);
	(void) gc_frame_get_u32(&answer);
	(void) gc_frame_get_u32(&answer);
	offset = gc_string_number(gc_frame_string(&answer));
	return Max(offset, low);
}

/* From where to where each partition is read; partitions are made, and shown to have the records that were read. */
static void
find_ranges(Replay *replay)
{
	GcTopic    *topic = topic_of(replay);
	GcFrame		answer;
	int64	   *lows;
	int64	   *highs;

	ask(replay, GC_QUERY_TOPICS, -1, 0, &answer);
	topic->npartitions = gc_answer_partitions(&answer, &lows, &highs);
	if (topic->npartitions == 0)
		cannot_read(replay, psprintf("topic \"%s\" does not exist", topic->name));
	topic->partitions = palloc0(sizeof(GcPartition) * topic->npartitions);
	replay->ingest->progress = palloc0(sizeof(GcProgress) * topic->npartitions);
	replay->ranges = palloc0(sizeof(Range) * topic->npartitions);
	read_positions(replay);
	read_gaps(replay);
	for (int i = 0; i < topic->npartitions; i++)
	{
		GcPartition *partition = &topic->partitions[i];
		Range	   *range = &replay->ranges[i];
		bool		proven;

		partition->topic = topic;
		partition->partition = i;
		partition->anchor.offset = partition->proven.offset = -1;
		if (range->to == 0 || TIMESTAMP_IS_NOEND(replay->since))
			continue;
		if (lows[i] < 0 || highs[i] < 0)
			cannot_read(replay, psprintf("partition %d of topic \"%s\" has no leader that answers", i, topic->name));
		if (range->anchor.offset >= 0)
		{
			ask(replay, GC_QUERY_RECORD, i, range->anchor.offset, &answer);
			if (range->anchor.offset >= highs[i] || gc_anchor_differs(&range->anchor, &answer, &proven))
				another_topic(replay, i);
		}
		range->to = Min(range->to, highs[i]);	/* an operator may have skipped what is not there yet */
		range->from = first_offset(replay, i, lows[i]);
		if (lows[i] > 0 && range->from == lows[i])
			ereport(NOTICE,
					(errmsg("records of partition %d before offset %lld are gone", i, (long long) lows[i])));
		range->from = Min(range->from, range->to);
		replay->ingest->progress[i].reached = partition->reached = range->from;
	}
}

/*
 * Reading
 */

static bool
is_done(const Replay *replay, int partition)
{
	return topic_of(replay)->partitions[partition].reached >= replay->ranges[partition].to;
}

static void
assign(Replay *replay, int partition, int64 offset)
{
	gc_partition_assign(&topic_of(replay)->partitions[partition], offset);
	replay->ingest->progress[partition].reached = offset;
}

static void
unassign(GcPartition *partition)
{
	GcFrameBuffer *out = &gc_work.reader->out;

	gc_frame_begin(out, GC_FRAME_UNASSIGN);
	gc_frame_put_u32(out, partition->topic->subscription);
	gc_frame_put_u32(out, partition->partition);
	gc_frame_finish(out);
	partition->epoch = 0;
}

/* Something is wrong with a partition: it goes away by itself, or an operator has given that up, or it is the end. */
static void
take_trouble(Replay *replay, GcFrame *frame)
{
	GcTopic    *topic = topic_of(replay);
	uint32		subscription = gc_frame_get_u32(frame);
	int32		partition = gc_frame_get_u32(frame);
	uint32		epoch = gc_frame_get_u32(frame);
	GcTrouble	trouble = gc_frame_get_u8(frame);
	int64		offset = gc_frame_get_u64(frame);
	const Gap  *gap;
	char	   *text;

	(void) gc_frame_get_u64(frame);
	(void) gc_frame_get_u64(frame);
	text = gc_frame_string(frame);
	if (!gc_frame_end(frame) || subscription != topic->subscription || partition >= topic->npartitions)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the reader has sent a frame that cannot be read")));
	if (text == NULL)
		text = "unknown trouble";
	if (partition < 0 && trouble != GC_TROUBLE_TRANSIENT)
		cannot_read(replay, text);
	if (partition < 0 || topic->partitions[partition].epoch != epoch)
		return;
	if (trouble == GC_TROUBLE_TRANSIENT)
	{
		if (topic->partitions[partition].problem != NULL)
			pfree(topic->partitions[partition].problem);
		topic->partitions[partition].problem = MemoryContextStrdup(topic->context, text);
		return;
	}
	if (offset < 0)
		offset = topic->partitions[partition].reached;
	gap = gap_of(replay, partition, offset);
	if (gap == NULL)
		cannot_go_on(replay, partition, offset, text);
	assign(replay, partition, gap->to);
}

/* Takes what has come, up to a batch; true when there was something. */
static bool
take_frames(Replay *replay)
{
	GcIngest   *ingest = replay->ingest;
	GcFrame		frame;
	int			taken = 0;

	gc_reader_pump(gc_work.reader);
	while (ingest->nitems < gc_batch_rows && ingest->bytes < (Size) gc_batch_bytes * 1024 &&
		   gc_reader_next(gc_work.reader, &frame))
	{
		if (frame.type == GC_FRAME_TROUBLE)
			take_trouble(replay, &frame);
		else
			gc_ingest_take(&frame);
		if (++taken % 64 == 0)
		{
			CHECK_FOR_INTERRUPTS();
			gc_reader_pump(gc_work.reader);
		}
	}
	if (taken == 0 && gc_work.reader->closed)
		cannot_read(replay, psprintf("the reader %s", gc_reader_death(gc_work.reader)));
	return taken > 0;
}

/* Is it one of the records that were asked for? */
static bool
is_wanted(const Replay *replay, const GcItem *item)
{
	return item->offset < replay->ranges[item->partition].to &&
		(TIMESTAMP_IS_NOBEGIN(replay->since) ||
		 (item->time_us != GC_NO_TIMESTAMP && item->time_us - GC_UNIX_EPOCH_US >= replay->since)) &&
		gap_of(replay, item->partition, item->offset) == NULL;
}

/* Moves the records that were asked for to the front, in their order; how many they are. */
static int
sort_out(const Replay *replay)
{
	GcIngest   *ingest = replay->ingest;
	int			nwanted = 0;

	for (int i = 0; i < ingest->nitems; i++)
		if (is_wanted(replay, &ingest->items[i]))
		{
			GcItem		item = ingest->items[nwanted];

			ingest->items[nwanted++] = ingest->items[i];
			ingest->items[i] = item;
		}
	return nwanted;
}

/* Applies what is pending. */
static void
write_pending(Replay *replay)
{
	GcIngest   *ingest = replay->ingest;
	int			left = sort_out(replay);

	if (left > 0)
		gc_writer_lock(ingest->root->versions, RowExclusiveLock);
	while (left > 0)
	{
		int			rows;
		const char *halt;
		int			nitems = gc_ingest_write(ingest, left, &rows, &halt);

		if (halt != NULL)
			cannot_go_on(replay, ingest->items[nitems].partition, ingest->items[nitems].offset, halt);
		gc_ingest_forget(ingest, nitems);
		left -= nitems;
		replay->rows += rows;
	}
	if (ingest->nitems > 0)
		gc_ingest_forget(ingest, ingest->nitems);
	for (int i = 0; i < topic_of(replay)->npartitions; i++)
	{
		GcPartition *partition = &topic_of(replay)->partitions[i];

		if (partition->epoch != 0 && partition->owed > 0)
			gc_partition_say(partition, GC_FRAME_CREDIT, partition->owed);
		partition->owed = 0;
	}
	gc_work.heard_at = GetCurrentTimestamp();	/* nobody listened while that was written */
}

static void
show_progress(const Replay *replay)
{
	int64		done = 0;
	int64		total = 0;

	for (int i = 0; i < topic_of(replay)->npartitions; i++)
	{
		const Range *range = &replay->ranges[i];

		done += Min(topic_of(replay)->partitions[i].reached, range->to) - range->from;
		total += range->to - range->from;
	}
	gc_progress_update(done, total);
}

static void
check_silence(const Replay *replay, int partition)
{
	const char *problem = topic_of(replay)->partitions[partition].problem;

	if (!TimestampDifferenceExceeds(gc_work.heard_at, GetCurrentTimestamp(), SILENT_SECONDS * 1000))
		return;
	cannot_read(replay, psprintf("no news for %d seconds of partition %d from offset %lld on%s%s", SILENT_SECONDS, partition,
								 (long long) topic_of(replay)->partitions[partition].reached,
								 problem || gc_work.server_problem ? ": " : "",
								 problem ? problem : gc_work.server_problem ? gc_work.server_problem : ""));
}

static void
read_ranges(Replay *replay)
{
	GcTopic    *topic = topic_of(replay);
	int			left = 0;		/* a partition that is not done */

	gc_credit_share(topic->npartitions);
	gc_topic_subscribe(topic);
	for (int i = 0; i < topic->npartitions; i++)
		if (!is_done(replay, i))
			assign(replay, i, replay->ranges[i].from);
	gc_work.heard_at = GetCurrentTimestamp();
	while (left >= 0 || replay->ingest->nitems > 0)
	{
		GcIngest   *ingest = replay->ingest;
		bool		more;

		MemoryContextReset(gc_work.turn_context);
		MemoryContextSwitchTo(gc_work.turn_context);
		more = take_frames(replay);
		left = -1;
		for (int i = 0; i < topic->npartitions; i++)
		{
			if (is_done(replay, i) && topic->partitions[i].epoch != 0)
				unassign(&topic->partitions[i]);
			else if (!is_done(replay, i))
				left = i;
		}
		if (!more && left >= 0)
		{
			gc_ingest_wait(WAIT_MS);
			more = take_frames(replay);
			check_silence(replay, left);
		}
		show_progress(replay);
		if (ingest->nitems > 0 &&
			(!more || left < 0 || ingest->nitems >= gc_batch_rows || ingest->bytes >= (Size) gc_batch_bytes * 1024))
			write_pending(replay);
	}
}

/* With everything that is needed in place, in gc_work.load_context. */
static int64
replay_changelog(GcChangelog *changelog, TimestampTz since)
{
	GcEntity   *entity = changelog->entity;
	Replay		replay = {.since = since};

	replay.ingest = gc_ingest_create(changelog);
	gc_work.reader = gc_reader_start(gc_server_oid(changelog->server), entity->owner, (uint64) gc_reader_memory * 1024, false);
	find_ranges(&replay);
	gc_progress_start(GC_PROGRESS_REPLAY, 0, entity->view);
	read_ranges(&replay);
	gc_progress_end();
	return replay.rows - gc_rows_left_out(replay.ingest->rows);
}

/*
 * replay(changelog text, since timestamptz) -> bigint
 */
Datum
gc_replay(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	GcChangelog *changelog;
	TimestampTz since;
	volatile int64 rows = 0;

	gc_require_argument(fcinfo, 1, "since");
	since = PG_GETARG_TIMESTAMPTZ(1);
	PreventCommandIfReadOnly("replay()");
	changelog = gc_changelog_argument(fcinfo);
	gc_changelog_check_server(changelog->entity, changelog->server);
	if (gc_work.load_context != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("this session is replaying a changelog already")));

	/* it and its entity stay what they are, to the end of the transaction */
	LockRelationOid(changelog->entity->view, AccessShareLock);
	gc_entity_check_exists(changelog->entity, changelog->entity->view);
	gc_catalog_run(SPI_OK_SELECT,
				   "SELECT FROM guest_context._changelog WHERE changelog_id OPERATOR(pg_catalog.=) $1 FOR KEY SHARE", 1,
				   INT4OID, Int32GetDatum(changelog->changelog_id));
	context = AllocSetContextCreate(CurrentMemoryContext, "guest_context replay", ALLOCSET_DEFAULT_SIZES);
	PG_TRY();
	{
		gc_work.database = MyDatabaseId;
		gc_work.load_context = context;
		gc_work.turn_context = AllocSetContextCreate(context, "guest_context replay turn", ALLOCSET_DEFAULT_SIZES);
		MemoryContextSwitchTo(context);
		rows = replay_changelog(gc_changelog_get(changelog->name), since);
		gc_reader_stop(gc_work.reader);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
		memset(&gc_work, 0, sizeof(gc_work));
	}
	PG_END_TRY();
	gc_audit("replay", changelog->name, NULL,
			 psprintf("{\"since\": \"%s\", \"applied\": %lld}", gc_timestamp_literal(since), (long long) rows));
	gc_leave(guc_level);
	PG_RETURN_INT64(rows);
}
