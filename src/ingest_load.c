/*
 * ingest_load.c: what an ingest worker works on, and where it goes on.
 *
 * gc_ingest_load() reads the catalogue, starts a reader if there is none that can go on, asks it for the partitions of topics
 * whose changelogs have changed, and finds the position of each changelog in each of them. It is the one place that compares positions with what the
 * server has, so whatever is wrong with a topic is found here, at start and after
 * every trouble: a position below the first offset is data loss, one behind the end or an anchor that has become
 * another record is a replaced topic; both halt the changelog and say which verb goes on. A topic that
 * does not answer, or that is not there, is left out and waited for.
 *
 * Of several workers each looks after its own partitions. A changelog's first positions alone are made for all of them at
 * once, by whoever comes first: a partition without a position beside one that has one has been added later.
 *
 * In the worker of ingest.c, at top level.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "common/fault_point.h"
#include "compat.h"
#include "dataset.h"
#include "guest_context.h"
#include "ingest.h"
#include "launcher.h"
#include "server_options.h"

#define LEAST_CREDIT		(256 * 1024)

static uint32 epoch = 0;
static bool careful = false;	/* the reader fetches batch by batch */
static GcPartition *asked_of;	/* of which a record was asked for last, NULL = of none */

/* The server's name, NULL when it has been dropped. In a transaction. */
static char *
server_name(void)
{
	ForeignServer *server = GetForeignServerExtended(gc_work.server, FSV_MISSING_OK);

	return server == NULL ? NULL : server->servername;
}

/* Another text when the options of the server, or the owner's mapping on it, are others. In a transaction. */
static char *
connection_version(void)
{
	HeapTuple	server = SearchSysCache1(FOREIGNSERVEROID, ObjectIdGetDatum(gc_work.server));
	HeapTuple	mapping = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(gc_work.owner), ObjectIdGetDatum(gc_work.server));
	char	   *text = psprintf("%u/%u ", HeapTupleIsValid(server) ? HeapTupleHeaderGetRawXmin(server->t_data) : 0,
								HeapTupleIsValid(mapping) ? HeapTupleHeaderGetRawXmin(mapping->t_data) : 0);

	if (HeapTupleIsValid(server))
		ReleaseSysCache(server);
	if (HeapTupleIsValid(mapping))
		ReleaseSysCache(mapping);
	return text;
}

/* What the worker works on, as a text: another one means that it must load anew. In a transaction. */
char *
gc_ingest_catalogue(void)
{
	Oid			types[3] = {OIDOID, OIDOID, TEXTOID};
	char	   *name = server_name();
	Datum		values[3] = {ObjectIdGetDatum(gc_work.owner), ObjectIdGetDatum(MyDatabaseId),
	name ? CStringGetTextDatum(name) : (Datum) 0};
	char	   *text = NULL;
	MemoryContext caller = CurrentMemoryContext;

	if (name == NULL)
		return pstrdup("");
	SPI_connect();
	gc_catalog_execute("SELECT pg_catalog.string_agg(pg_catalog.concat_ws('|', c.changelog_id, s.changes, c.generation, c.topic, c.source,"
					   " c.envelope, c.mapping, c.filter, c.on_error, e.mapping, e.shape_columns), '/' ORDER BY c.changelog_id)"
					   " FROM guest_context._changelog c"
					   " JOIN guest_context._changelog_state s ON s.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
					   " JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) c.entity_id"
					   " JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) e.versions"
					   " WHERE t.relowner OPERATOR(pg_catalog.=) $1 AND s.database OPERATOR(pg_catalog.=) $2"
					   " AND c.server OPERATOR(pg_catalog.=) $3 AND NOT s.paused AND NOT s.halted",
					   3, types, values, NULL, SPI_OK_SELECT);
	text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	text = MemoryContextStrdup(caller, text ? text : "");
	SPI_finish();
	return *text == '\0' ? text : psprintf("%s%s", connection_version(), text);	/* nothing to do stays nothing */
}

static GcTopic *
topic_of(const char *name)
{
	GcTopic    *topic;
	ListCell   *lc;

	foreach(lc, gc_work.topics)
		if (strcmp(((GcTopic *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	topic = palloc0(sizeof(GcTopic));
	topic->subscription = list_length(gc_work.topics) + 1;
	topic->name = pstrdup(name);
	topic->anchor_partition = -1;
	topic->context = AllocSetContextCreate(gc_work.load_context, "guest_context ingest topic", ALLOCSET_DEFAULT_SIZES);
	gc_work.topics = lappend(gc_work.topics, topic);
	return topic;
}

GcIngest *
gc_ingest_create(GcChangelog *changelog)
{
	GcIngest   *ingest = palloc0(sizeof(GcIngest));

	ingest->changelog = changelog;
	ingest->root = gc_entity_by_id(changelog->entity->root_id);
	ingest->topic = topic_of(changelog->topic);
	/* first, so that an error in what follows is noted for it too */
	ingest->topic->ingests = lappend(ingest->topic->ingests, ingest);
	if (changelog->waits_for != NULL && (changelog->worker == gc_work.worker || changelog->worker >= gc_workers))
		ingest->noted = pstrdup(changelog->waits_for);
	ingest->noted_known = true;
	ingest->spec = gc_changelog_spec(ingest->changelog);
	ingest->rows = gc_rows_create(ingest->changelog->entity, ingest->spec);
	ingest->key_columns = palloc(sizeof(int) * ingest->spec->ncolumns);
	for (int i = 0; i < ingest->spec->ncolumns; i++)
		if (ingest->spec->columns[i].is_key)
			ingest->key_columns[ingest->nkeys++] = i;
	ingest->pending = AllocSetContextCreate(ingest->topic->context, "guest_context pending records", ALLOCSET_DEFAULT_SIZES);
	return ingest;
}

/* Forgets what a topic was; its number stays, and what is still to come of it is stale. */
static void
unload_topic(GcTopic *topic)
{
	GcTopic		empty = {.subscription = topic->subscription, .name = topic->name, .anchor_partition = -1, .context = topic->context};

	gc_frame_begin(&gc_work.reader->out, GC_FRAME_SUBSCRIBE);
	gc_frame_put_u32(&gc_work.reader->out, topic->subscription);
	gc_frame_put_string(&gc_work.reader->out, topic->name);
	gc_frame_put_u32(&gc_work.reader->out, 0);
	gc_frame_finish(&gc_work.reader->out);
	MemoryContextReset(topic->context);
	*topic = empty;
}

/* The changelogs of a topic as they are, as a text: NULL = there are none. */
static char *
changelogs_text(List *changelogs, const char *topic)
{
	char	   *text = NULL;
	ListCell   *lc;

	foreach(lc, changelogs)
	{
		const GcChangelog *changelog = lfirst(lc);

		if (strcmp(changelog->topic, topic) == 0)
			text = psprintf("%s %d %d %s", text ? text : "", changelog->changelog_id, changelog->changes, changelog->row_version);
	}
	return text;
}

/*
 * Loads the topics whose changelogs are others than before, and forgets those that have none any more; the rest goes on.
 * Returns those that are to be placed. In a transaction, with the turn's memory current.
 */
static List *
load_topics(List *changelogs)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *changed = NIL;
	ListCell   *lc;

	MemoryContextSwitchTo(gc_work.load_context);
	foreach(lc, changelogs)
		(void) topic_of(((GcChangelog *) lfirst(lc))->topic);
	MemoryContextSwitchTo(caller);
	foreach(lc, gc_work.topics)
	{
		GcTopic    *topic = lfirst(lc);
		char	   *text = changelogs_text(changelogs, topic->name);
		ListCell   *lc2;

		if (topic->loaded != NULL)
		{
			if (!topic->stale && text != NULL && strcmp(text, topic->loaded) == 0)
				continue;
			unload_topic(topic);
		}
		if (text == NULL)
			continue;
		MemoryContextSwitchTo(topic->context);
		foreach(lc2, changelogs)
			if (strcmp(((GcChangelog *) lfirst(lc2))->topic, topic->name) == 0)
				gc_ingest_create(gc_changelog_get(((GcChangelog *) lfirst(lc2))->name));
		topic->loaded = pstrdup(text);
		MemoryContextSwitchTo(caller);
		changed = lappend(changed, topic);
	}
	return changed;
}

/* Of what a reader would be told now. In a transaction. */
static uint32
connection_hash(void)
{
	uint32		hash = gc_reader_memory;
	ListCell   *lc;

	foreach(lc, gc_server_settings(gc_work.server, gc_work.owner))
	{
		const GcServerSetting *setting = lfirst(lc);

		hash = hash_combine(hash, hash_bytes((const unsigned char *) setting->name, strlen(setting->name)));
		hash = hash_combine(hash, hash_bytes((const unsigned char *) setting->value, strlen(setting->value)));
	}
	return hash;
}

static void
unload(void)
{
	if (gc_work.reader != NULL)
		gc_reader_stop(gc_work.reader);
	gc_work.reader = NULL;
	gc_work.topics = NIL;
	gc_work.loaded = NULL;
	gc_work.server_problem = NULL;
	gc_work.refused_at = 0;
	gc_work.silent = false;
	MemoryContextReset(gc_work.load_context);
}

/*
 * Positions
 */

/* Does this worker read it? The topic counts too, so that topics of one partition spread. */
static bool
is_ours(const GcTopic *topic, int partition)
{
	uint32		first = hash_bytes((const unsigned char *) topic->name, strlen(topic->name)) % gc_workers;

	return (first + partition) % gc_workers == gc_work.worker;
}

/* Asks for the first offset since a time, or with -1 for the end; -1 and *problem when that cannot be told. */
static int64
ask_offset(const GcTopic *topic, int partition, int64 what, int64 high, char **problem)
{
	GcFrame		answer;
	int64		offset;

	if (!gc_ingest_ask(GC_QUERY_OFFSET, topic->name, partition, what, &answer, problem))
		return -1;
	if (gc_frame_get_u32(&answer) < 1)
		return high;
	(void) gc_frame_get_u32(&answer);
	offset = gc_string_number(gc_frame_string(&answer));
	return offset < 0 ? high : offset;
}

/* Where a partition begins; -1 and *problem when that cannot be told. */
static int64
start_of(GcIngest *ingest, int partition, int64 low, int64 high, char **problem)
{
	GcStart		start;

	gc_start_parse(ingest->changelog->start, &start);
	if (start.kind == GC_START_EARLIEST)
		return low;
	if (start.kind == GC_START_LATEST)
		return high;
	if (start.kind == GC_START_OFFSETS)
	{
		for (int i = 0; i < start.noffsets; i++)
			if (start.partitions[i] == partition)
				return start.offsets[i];
		return low;
	}
	return ask_offset(ingest->topic, partition, start.time_us, high, problem);
}

/* What the ledger has of a partition. */
typedef struct Position
{
	int64		offset;			/* -1 = nothing */
	TimestampTz at;				/* when it came so far */
	GcAnchor	anchors[2];		/* the newest, and the oldest that is kept */
} Position;

static GcAnchor
read_anchor(HeapTuple row, TupleDesc desc, int column)
{
	GcAnchor	anchor = {.offset = -1};
	bool		isnull;
	Datum		value = SPI_getbinval(row, desc, column, &isnull);

	if (isnull)
		return anchor;
	anchor.offset = DatumGetInt64(value);
	value = SPI_getbinval(row, desc, column + 1, &isnull);
	anchor.time_us = isnull ? GC_NO_TIMESTAMP : DatumGetTimestampTz(value) + GC_UNIX_EPOCH_US;
	anchor.crc = (uint32) DatumGetInt64(SPI_getbinval(row, desc, column + 2, &isnull));
	return anchor;
}

/* The positions that the ledger has, by partition. Returns how many it has. In a transaction. */
static int
read_positions(GcIngest *ingest, Position *positions, const int64 *lows)
{
	int			npartitions = ingest->topic->npartitions;
	Oid			types[2] = {INT4OID, INT8ARRAYOID};
	Datum	   *numbers = palloc(sizeof(Datum) * npartitions);
	Datum		values[2] = {Int32GetDatum(ingest->changelog->changelog_id)};
	int			known = 0;

	for (int i = 0; i < npartitions; i++)
		numbers[i] = Int64GetDatum(lows[i]);
	values[1] = PointerGetDatum(construct_array(numbers, npartitions, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	SPI_connect();
	gc_catalog_execute("SELECT p.partition, p.to_offset, p.anchor_offset, p.anchor_time, p.anchor_crc,"
					   " o.anchor_offset, o.anchor_time, o.anchor_crc, p.at"
					   " FROM guest_context._position p"
					   " LEFT JOIN LATERAL (SELECT l.* FROM guest_context._ledger l"
					   "  WHERE l.changelog_id OPERATOR(pg_catalog.=) p.changelog_id AND l.generation OPERATOR(pg_catalog.=) p.generation"
					   "  AND l.partition OPERATOR(pg_catalog.=) p.partition"
					   "  AND l.anchor_offset OPERATOR(pg_catalog.>=) ($2)[p.partition OPERATOR(pg_catalog.+) 1]"
					   "  ORDER BY l.from_offset LIMIT 1) o ON true"
					   " WHERE p.changelog_id OPERATOR(pg_catalog.=) $1",
					   2, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		int32		partition = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));

		known = Max(known, partition + 1);
		if (partition >= npartitions)
			continue;
		positions[partition].offset = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
		positions[partition].anchors[0] = read_anchor(row, desc, 3);
		positions[partition].anchors[1] = read_anchor(row, desc, 6);
		positions[partition].at = DatumGetTimestampTz(SPI_getbinval(row, desc, 9, &isnull));
	}
	SPI_finish();
	return known;
}

/* A time of an answer. */
static int64
parse_time(const char *text)
{
	if (text == NULL)
		return GC_NO_TIMESTAMP;
	return DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
												   Int32GetDatum(-1))) + GC_UNIX_EPOCH_US;
}

/*
 * The time of the first record from an offset on, and its own offset; GC_NO_TIMESTAMP when there is none, or it cannot
 * be read now: what depends on it must not wait for that.
 */
static int64
first_record(const GcIngest *ingest, int partition, int64 from, int64 *offset)
{
	GcFrame		answer;
	char	   *problem;

	*offset = -1;
	if (!gc_ingest_ask(GC_QUERY_RECORD, ingest->topic->name, partition, from, &answer, &problem) ||
		gc_frame_get_u32(&answer) < 1)
		return GC_NO_TIMESTAMP;
	(void) gc_frame_get_u32(&answer);
	*offset = gc_string_number(gc_frame_string(&answer));
	return parse_time(gc_frame_string(&answer));
}

static int64
first_time(const GcIngest *ingest, int partition, int64 from)
{
	int64		offset;

	return first_record(ingest, partition, from, &offset);
}

/*
 * Anchors
 */

void
gc_anchor_set(GcAnchor *anchor, int64 offset, int64 time_us, uint32 crc)
{
	anchor->offset = offset;
	anchor->time_us = time_us;
	anchor->crc = crc;
}

bool
gc_anchor_differs(const GcAnchor *anchor, GcFrame *answer, bool *proven)
{
	uint32		nrows = gc_frame_get_u32(answer);
	int64		offset;
	char	   *time;
	char	   *crc;
	int64		time_us;

	*proven = false;
	(void) gc_frame_get_u32(answer);
	if (nrows < 1)
		return false;
	offset = gc_string_number(gc_frame_string(answer));
	time = gc_frame_string(answer);
	crc = gc_frame_string(answer);
	if (answer->bad || crc == NULL || offset != anchor->offset)
		return false;			/* compaction or retention took it */
	time_us = parse_time(time);

	/* a time that no text can have is none in the answer */
	*proven = (uint32) gc_string_number(crc) == anchor->crc && (time == NULL || time_us == anchor->time_us);
	return !*proven;
}

/* Is the topic the one that the position is of? Halts it when not; false: it cannot be told now. */
static bool
check_anchors(GcIngest *ingest, int partition, const Position *position, char **problem)
{
	GcPartition *of = &ingest->topic->partitions[partition];

	for (int i = 0; i < lengthof(position->anchors); i++)
	{
		const GcAnchor *anchor = &position->anchors[i];
		GcFrame		answer;
		bool		proven;

		if (anchor->offset < 0 || (i > 0 && anchor->offset == position->anchors[0].offset) ||
			(of->proven.offset == anchor->offset && of->proven.crc == anchor->crc))
			continue;
		asked_of = of;
		of->reached = position->offset;
		if (!gc_ingest_ask(GC_QUERY_RECORD, ingest->topic->name, partition, anchor->offset, &answer, problem))
			return false;
		if (gc_anchor_differs(anchor, &answer, &proven))
		{
			gc_ingest_halt(ingest, GC_HALT_TOPIC, partition, position->offset,
						   psprintf("topic replaced: offset %lld of partition %d is another record than was read there",
									(long long) anchor->offset, partition), NULL);
			return true;
		}
		if (proven && anchor->offset > of->proven.offset)
			of->proven = *anchor;
	}
	return true;
}

/*
 * Places
 */

/* Has the changelog all that was in front of this offset, from before it was sought elsewhere? */
static bool
has_read(const GcIngest *ingest, int partition, int64 offset)
{
	int64		read;

	if (offset == 0)
		return true;
	gc_ingest_begin();
	read = gc_catalog_run_bigint(SPI_OK_SELECT,
								 "SELECT pg_catalog.max(to_offset) FROM guest_context._ledger"
								 " WHERE changelog_id OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2", 2,
								 INT4OID, Int32GetDatum(ingest->changelog->changelog_id), INT4OID, Int32GetDatum(partition));
	gc_ingest_commit();
	return offset <= read;
}

/*
 * The first positions of a changelog, in all partitions; false when they cannot be told now. Where there were records in
 * front of one, the entity is covered only since the first one behind it.
 */
static bool
begin_changelog(GcIngest *ingest, const int64 *lows, const int64 *highs, char **problem)
{
	GcTopic    *topic = ingest->topic;
	int64	   *offsets = palloc(sizeof(int64) * topic->npartitions);
	TimestampTz covered = DT_NOBEGIN;

	for (int i = 0; i < topic->npartitions; i++)
	{
		offsets[i] = start_of(ingest, i, lows[i], highs[i], problem);
		if (offsets[i] < 0)
			return false;
		if (offsets[i] <= highs[i])
			continue;
		gc_ingest_halt(ingest, GC_HALT_OTHER, i, offsets[i],
					   psprintf("it is to begin at offset %lld of partition %d, which ends at offset %lld",
								(long long) offsets[i], i, (long long) highs[i]),
					   psprintf("SELECT guest_context.pause(%s), guest_context.seek(%s, 'earliest');",
								quote_literal_cstr(ingest->changelog->name), quote_literal_cstr(ingest->changelog->name)));
		return true;
	}
	for (int i = 0; i < topic->npartitions; i++)
		if (!has_read(ingest, i, offsets[i]))
		{
			int64		since = first_time(ingest, i, offsets[i]);

			covered = Max(covered, since == GC_NO_TIMESTAMP ? DT_NOEND : since - GC_UNIX_EPOCH_US);
		}
	gc_ingest_begin();
	if (covered != DT_NOBEGIN)
		gc_coverage_raise(ingest->changelog->entity, covered);
	for (int i = 0; i < topic->npartitions; i++)
		gc_ledger_begin(ingest->changelog, i, offsets[i]);
	gc_ingest_commit();
	GC_FAULT("partition begun");
	return true;
}

/* The same of a partition that was added later: at its start, and what it does not have any more is lost. */
static int64
begin_partition(GcIngest *ingest, int partition)
{
	gc_ingest_begin();
	gc_ledger_begin(ingest->changelog, partition, 0);
	gc_ingest_commit();
	return 0;
}

static int
positions_of(GcIngest *ingest, Position *positions, const int64 *lows)
{
	int			known;

	for (int i = 0; i < ingest->topic->npartitions; i++)
		positions[i].offset = positions[i].anchors[0].offset = positions[i].anchors[1].offset = -1;
	gc_ingest_begin();
	known = read_positions(ingest, positions, lows);
	gc_ingest_commit();
	return known;
}

/* How long tombstones of the topic are kept, in microseconds; -1: for ever, or nobody says. */
static int64
deletes_kept(const GcIngest *ingest)
{
	GcFrame		answer;
	char	   *problem;
	int64		ms;

	if (!gc_ingest_ask(GC_QUERY_DELETES, ingest->topic->name, -1, 0, &answer, &problem) ||
		gc_frame_get_u32(&answer) < 1)
		return -1;
	(void) gc_frame_get_u32(&answer);
	ms = gc_string_number(gc_frame_string(&answer));
	return ms > PG_INT64_MAX / 1000 ? -1 : ms * 1000;
}

/*
 * Compaction takes tombstones away some time after they came. Who has not read for longer may never learn of some
 * deletes. What is next tells otherwise when it has come since.
 */
static void
check_deletes(GcIngest *ingest, const Position *positions, const int64 *highs)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz since = DT_NOEND;
	int64		kept = -2;		/* not asked for */

	for (int i = 0; i < ingest->topic->npartitions; i++)
	{
		const Position *position = &positions[i];
		int64		offset;
		int64		time_us;

		if (position->at == 0 || position->offset >= highs[i])
			continue;			/* it begins now, or nothing has come */
		if (kept == -2)
			kept = deletes_kept(ingest);
		if (kept < 0 || position->at >= now - kept)
			continue;
		time_us = first_record(ingest, i, position->offset, &offset);
		if (offset != position->offset || time_us == GC_NO_TIMESTAMP || time_us - GC_UNIX_EPOCH_US < now - kept)
			since = Min(since, position->at);
	}
	if (since == DT_NOEND)
		return;
	gc_ingest_begin();
	gc_changelog_note_deletes(ingest->changelog, since);
	gc_coverage_raise(ingest->changelog->entity, now - kept);
	gc_ingest_commit();
	ereport(LOG,
			(errmsg("changelog \"%s\" may have missed deletes since %s", ingest->changelog->name, timestamptz_to_str(since))));
}

/* Finds out where a changelog goes on; false when it cannot be told now. Halts it where it may not. */
static bool
place_changelog(GcIngest *ingest, const int64 *lows, const int64 *highs, char **problem)
{
	GcTopic    *topic = ingest->topic;
	Position   *positions = palloc0(sizeof(Position) * topic->npartitions);
	int64	   *lost = palloc(sizeof(int64) * GC_LOST_NUMBERS * topic->npartitions);
	int			nlost = 0;
	int			known;

	ingest->progress = MemoryContextAllocZero(topic->context, sizeof(GcProgress) * topic->npartitions);
	known = positions_of(ingest, positions, lows);
	if (known == 0)
	{
		if (!begin_changelog(ingest, lows, highs, problem))
			return false;
		if (ingest->stopped)
			return true;
		known = positions_of(ingest, positions, lows);	/* somebody else may have been first */
	}
	if (known == 0)
	{
		ingest->stopped = topic->stale = gc_work.refresh = true;	/* it has been stopped just now */
		return true;
	}
	if (known > topic->npartitions)
	{
		gc_ingest_halt(ingest, GC_HALT_TOPIC, topic->npartitions, -1,
					   psprintf("topic replaced: it has %d partitions and had %d", topic->npartitions, known), NULL);
		return true;
	}
	for (int i = 0; i < topic->npartitions && !ingest->stopped; i++)
	{
		GcProgress *progress = &ingest->progress[i];
		Position   *position = &positions[i];
		int64		high = highs[i];

		progress->record_time = DT_NOBEGIN;
		if (position->offset < 0 && is_ours(topic, i))
			position->offset = begin_partition(ingest, i);
		progress->committed = progress->reached = position->offset;
		progress->anchor = progress->committed_anchor = position->anchors[0];
		if (!is_ours(topic, i))
			continue;

		/* who had the partition before may have read on since the end was asked for */
		if (position->offset > high)
			high = ask_offset(topic, i, -1, high, problem);
		if (high < 0)
			return false;
		if (position->offset > high)
			gc_ingest_halt(ingest, GC_HALT_TOPIC, i, position->offset,
						   psprintf("topic replaced: partition %d ends at offset %lld and was read up to %lld", i,
									(long long) high, (long long) position->offset), NULL);
		else if (!check_anchors(ingest, i, position, problem))
			return false;
		if (position->offset < lows[i])
		{
			int64	   *of = &lost[GC_LOST_NUMBERS * nlost++];

			of[0] = i;
			of[1] = position->offset;
			of[2] = lows[i];
			of[3] = first_time(ingest, i, lows[i]);
		}
	}
	if (nlost > 0 && !ingest->stopped)
		gc_ingest_halt_lost(ingest, lost, nlost);
	if (!ingest->stopped)
		check_deletes(ingest, positions, highs);
	return true;
}

int64
gc_ingest_needed(GcTopic *topic, int partition)
{
	int64		least = -1;
	ListCell   *lc;

	if (!is_ours(topic, partition))
		return -1;

	foreach(lc, topic->ingests)
	{
		GcIngest   *ingest = lfirst(lc);

		if (!ingest->stopped && (least < 0 || ingest->progress[partition].reached < least))
			least = ingest->progress[partition].reached;
	}
	return least;
}

void
gc_topic_subscribe(GcTopic *topic)
{
	GcFrameBuffer *out = &gc_work.reader->out;
	ListCell   *lc;

	gc_frame_begin(out, GC_FRAME_SUBSCRIBE);
	gc_frame_put_u32(out, topic->subscription);
	gc_frame_put_string(out, topic->name);
	gc_frame_put_u32(out, list_length(topic->ingests));
	foreach(lc, topic->ingests)
	{
		GcIngest   *ingest = lfirst(lc);
		GcMappingSpec *spec = ingest->spec;

		gc_frame_put_u32(out, ingest->changelog->changelog_id);
		gc_frame_put_u8(out, spec->envelope);
		gc_frame_put_string(out, spec->mapping);
		gc_frame_put_string(out, spec->filter);
		gc_frame_put_u64(out, spec->max_value_bytes);
		gc_frame_put_u32(out, spec->ncolumns);
		for (int i = 0; i < spec->ncolumns; i++)
		{
			const GcDecodeColumn *column = &spec->columns[i];

			gc_frame_put_string(out, column->name);
			gc_frame_put_u8(out, column->kind);
			gc_frame_put_u8(out, column->element);
			gc_frame_put_u8(out, column->is_key | column->is_version << 1 | column->is_unmapped << 2);
		}
	}
	gc_frame_finish(out);
}

void
gc_credit_share(int npartitions)
{
	gc_work.credit = Max((uint64) gc_batch_bytes * 1024 / Max(npartitions, 1), LEAST_CREDIT);
}

void
gc_partition_assign(GcPartition *partition, int64 offset)
{
	partition->epoch = ++epoch;
	partition->reached = offset;
	gc_partition_say(partition, GC_FRAME_ASSIGN, offset);
	gc_partition_say(partition, GC_FRAME_CREDIT, gc_work.credit);
}

/* Learns of a topic's partitions and where to go on; false and *problem when that cannot be now. */
static bool
place_topic(GcTopic *topic, char **problem)
{
	GcFrame		answer;
	int64	   *lows;
	int64	   *highs;
	ListCell   *lc;

	if (!gc_ingest_ask(GC_QUERY_TOPICS, topic->name, -1, 0, &answer, problem))
		return false;
	topic->npartitions = gc_answer_partitions(&answer, &lows, &highs);
	if (topic->npartitions == 0)
	{
		*problem = pstrdup("no such topic");
		return false;
	}
	for (int i = 0; i < topic->npartitions; i++)
		if (lows[i] < 0 || highs[i] < 0)
		{
			*problem = psprintf("partition %d has no leader that answers", i);
			return false;
		}
	topic->partitions = MemoryContextAllocZero(topic->context, sizeof(GcPartition) * topic->npartitions);
	for (int i = 0; i < topic->npartitions; i++)
	{
		topic->partitions[i].topic = topic;
		topic->partitions[i].partition = i;
		topic->partitions[i].high = highs[i];
		topic->partitions[i].anchor.offset = topic->partitions[i].proven.offset = -1;
	}
	foreach(lc, topic->ingests)
		if (!place_changelog(lfirst(lc), lows, highs, problem))
			return false;
	return true;
}

/* Can what has not changed go on? In a transaction. */
static bool
reader_is_well(void)
{
	return gc_work.reader != NULL && !gc_work.reader->closed && gc_work.server_problem == NULL && !gc_work.silent &&
		gc_work.connection == connection_hash();
}

void
gc_ingest_load(void)
{
	bool		reload = gc_work.reload;
	char	   *name;
	char	   *loaded;
	char	   *problem = NULL;
	int			npartitions = 0;
	List	   *changelogs = NIL;
	List	   *changed;
	bool		suspected = gc_unreadable_suspected();
	GcPartition *alone = NULL;
	ListCell   *lc;

	gc_work.reload = gc_work.refresh = false;
	gc_ingest_begin();
	MemoryContextSwitchTo(gc_work.turn_context);
	name = server_name();
	/* first what is compared later: what changes in between is loaded again */
	loaded = gc_ingest_catalogue();
	if (name != NULL)
		changelogs = gc_changelogs_at(gc_work.owner, name);
	if (changelogs == NIL)
	{
		gc_ingest_commit();
		unload();
		return;
	}
	if (reload || suspected || careful || !reader_is_well())
		unload();
	if (gc_work.loaded != NULL)
		pfree(gc_work.loaded);
	gc_work.loaded = MemoryContextStrdup(gc_work.load_context, loaded);
	changed = load_topics(changelogs);
	gc_ingest_commit();
	if (gc_work.reader == NULL)
	{
		gc_ingest_begin();
		gc_work.connection = connection_hash();
		MemoryContextSwitchTo(gc_work.load_context);
		gc_work.reader = gc_reader_start(gc_work.server, gc_work.owner, (uint64) gc_reader_memory * 1024, suspected);
		careful = suspected;
		gc_ingest_commit();
		gc_work.heard_at = GetCurrentTimestamp();
	}
	asked_of = NULL;
	foreach(lc, changed)
	{
		GcTopic    *topic = lfirst(lc);
		ListCell   *lc2;

		if (place_topic(topic, &problem))
			continue;
		topic->npartitions = 0;
		gc_watch_problem(topic, problem);
		foreach(lc2, topic->ingests)
			gc_watch_changelog(lfirst(lc2));
	}
	/* it reads ahead of what it was asked for */
	if (gc_work.reader->closed && asked_of != NULL)
		gc_unreadable_died(asked_of->topic->name, asked_of->partition, asked_of->reached);
	if (gc_work.reader->closed)
		return;					/* told by the next turn */
	if (suspected)
		alone = gc_unreadable_alone();
	if (suspected && alone == NULL)
	{
		gc_work.reload = true;	/* with all at once again */
		return;
	}
	foreach(lc, gc_work.topics)
		for (int i = 0; i < ((GcTopic *) lfirst(lc))->npartitions; i++)
			npartitions += is_ours(lfirst(lc), i);
	gc_credit_share(npartitions);
	foreach(lc, changed)
	{
		GcTopic    *topic = lfirst(lc);
		ListCell   *lc2;

		if (topic->npartitions == 0)
			continue;
		foreach(lc2, topic->ingests)
			gc_work.reload |= ((GcIngest *) lfirst(lc2))->stopped;	/* it may run again before anybody looks */
		gc_topic_subscribe(topic);
		for (int i = 0; i < topic->npartitions; i++)
		{
			GcPartition *partition = &topic->partitions[i];
			int64		from = gc_ingest_needed(topic, i);

			if (from >= 0 && !gc_unreadable(partition, from) && (alone == NULL || alone == partition))
				gc_partition_assign(partition, from);
		}
	}
	gc_work.asked_at = GetCurrentTimestamp();
}
