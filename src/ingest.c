/*
 * ingest.c: the ingest worker: change records from one server into the entities of one owner.
 *
 * A background worker, one per (database, server, owner), connected as the owner. It starts a
 * reader program (reader_process.c), tells it which partitions to read from where, takes records
 * from it, collects them per changelog, and has them applied (ingest_apply.c). While it writes, the
 * reader fetches and decodes on; what has come meanwhile is the next batch, so batches
 * grow with the backlog and are small when there is none.
 *
 * A topic that several changelogs read is one subscription, read from the least of their
 * positions; each of them skips what it has already.
 *
 * The reader may send as many bytes of a partition as it has been given credit for. Credit for a
 * record is given back when every changelog that it went to has committed it, so an entity
 * that cannot be written stops its own topic and nothing else, and memory is bounded.
 *
 * It is started by maintenance, which looks every minute and whenever a verb says so at its
 * commit (gc_ingest_start); the postmaster starts it again when it dies. Whatever happens, it begins
 * from what the catalogue says: when changelogs change, when somebody else has moved one on, or when the reader
 * dies, it forgets everything and loads it anew. No transaction is open while it waits. Twice a second
 * it looks whether somebody wants the database to himself, and leaves.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guest_context.h"
#include "ingest.h"
#include "launcher.h"
#include "reader_process.h"
#include "tree.h"

#define LOOK_MS				500		/* how often the catalogue and the database are looked at */
#define TOPICS_SECONDS		10		/* how often new partitions are looked for */
#define RESTART_SECONDS		5
#define ANSWER_MS			10000
#define LONGEST_PAUSE_MS	10000
#define LEAST_CREDIT		(256 * 1024)

/* What the worker is told. */
typedef struct Order
{
	Oid			database;
	Oid			owner;
	Oid			server;
} Order;

static Order order;
static MemoryContext load_context;	/* all that was loaded */
static MemoryContext turn_context;	/* of one turn of the loop */
static GcReader *reader = NULL;
static List *topics = NIL;		/* GcTopic */
static char *loaded = NULL;		/* what the catalogue said, as a text */
static uint64 credit;			/* bytes that a partition may have on the way */
static bool reload = false;
static uint32 epoch = 0;
static int	failures = 0;		/* of loading, in a row */
static TimestampTz topics_asked = 0;

static void take_frame(GcFrame *frame);

PGDLLEXPORT void gc_ingest_main(Datum arg);

/*
 * Starting
 */

/* The lock of a worker: of session length, on the server, by owner. */
static void
worker_tag(LOCKTAG *tag, Oid owner, Oid server)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, server, owner, 7);
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

static void
start_worker(Oid owner, Oid server)
{
	Order		what = {.database = MyDatabaseId, .owner = owner, .server = server};
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "guest_context", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "gc_ingest_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "guest_context ingest", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "guest_context ingest", sizeof(worker.bgw_type));
	memcpy(worker.bgw_extra, &what, sizeof(what));
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("out of background worker slots for reading changelogs"),
				 errhint("You might need to increase max_worker_processes.")));
}

void
gc_ingest_start(Oid owner)
{
	ListCell   *lc;

	foreach(lc, gc_changelog_servers(owner))
	{
		ForeignServer *server = GetForeignServerByName(lfirst(lc), true);
		LOCKTAG		tag;

		if (server == NULL)
			continue;			/* dropped: the status says so */
		worker_tag(&tag, owner, server->serverid);
		if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
			continue;			/* one runs */
		LockRelease(&tag, ExclusiveLock, true);
		start_worker(owner, server->serverid);
	}
}

/* Settings of the role or the database must not change what a worker does. */
static void
pin_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"lock_timeout", "5s"},
		{"row_security", "off"},
		{"session_replication_role", "origin"},
		{"datestyle", "ISO, YMD"},
		{"intervalstyle", "postgres"},
		{"timezone", "UTC"},
		{"bytea_output", "hex"},
		{"client_encoding", "UTF8"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

static void
begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(turn_context);
}

/*
 * Loading
 */

/* The server's name, NULL when it has been dropped. In a transaction. */
static char *
server_name(void)
{
	ForeignServer *server = GetForeignServerExtended(order.server, FSV_MISSING_OK);

	return server == NULL ? NULL : server->servername;
}

/* What the worker works on, as a text: another one means that it must load anew. In a transaction. */
static char *
catalogue_says(void)
{
	Oid			types[3] = {OIDOID, OIDOID, TEXTOID};
	char	   *name = server_name();
	Datum		values[3] = {ObjectIdGetDatum(order.owner), ObjectIdGetDatum(MyDatabaseId),
	name ? CStringGetTextDatum(name) : (Datum) 0};
	char	   *text = NULL;
	MemoryContext caller = CurrentMemoryContext;

	if (name == NULL)
		return pstrdup("");
	SPI_connect();
	gc_catalog_execute("SELECT pg_catalog.string_agg(pg_catalog.concat_ws('|', c.changelog_id, c.generation, c.topic, c.source,"
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
	return text;
}

static GcTopic *
topic_of(const char *name)
{
	GcTopic    *topic;
	ListCell   *lc;

	foreach(lc, topics)
		if (strcmp(((GcTopic *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	topic = palloc0(sizeof(GcTopic));
	topic->subscription = list_length(topics) + 1;
	topic->name = pstrdup(name);
	topics = lappend(topics, topic);
	return topic;
}

/* In a transaction, with load_context current. */
static void
load_changelogs(const char *server)
{
	ListCell   *lc;

	foreach(lc, gc_changelogs_at(order.owner, server))
	{
		GcIngest   *ingest = palloc0(sizeof(GcIngest));

		ingest->changelog = lfirst(lc);
		ingest->topic = topic_of(ingest->changelog->topic);
		ingest->spec = gc_changelog_spec(ingest->changelog);
		ingest->rows = gc_rows_create(ingest->changelog->entity, ingest->spec);
		ingest->key_columns = palloc(sizeof(int) * ingest->spec->ncolumns);
		for (int i = 0; i < ingest->spec->ncolumns; i++)
			if (ingest->spec->columns[i].is_key)
				ingest->key_columns[ingest->nkeys++] = i;
		ingest->pending = AllocSetContextCreate(load_context, "guest_context pending records", ALLOCSET_DEFAULT_SIZES);
		ingest->topic->ingests = lappend(ingest->topic->ingests, ingest);
	}
}

static void
unload(void)
{
	if (reader != NULL)
		gc_reader_stop(reader);
	reader = NULL;
	topics = NIL;
	loaded = NULL;
	topics_asked = 0;
	MemoryContextReset(load_context);
}

/*
 * Talking to the reader
 */

static void
pause_until(TimestampTz until)
{
	while (GetCurrentTimestamp() < until)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(LOOK_MS, Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until))), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (gc_database_wanted(MyDatabaseId))
			proc_exit(0);
	}
}

/* Waits for the reader, or for what else there is to do, so many milliseconds. */
static void
wait_for_reader(long milliseconds)
{
	int			events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | WL_SOCKET_READABLE;

	if (reader->out.len > 0)
		events |= WL_SOCKET_WRITEABLE;
	(void) WaitLatchOrSocket(MyLatch, events, reader->socket, milliseconds, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
say_log(GcFrame *frame)
{
	size_t		len;
	uint8		level = gc_frame_get_u8(frame);
	const char *text = gc_frame_get_text(frame, &len);

	if (text != NULL)
		ereport(level <= 3 ? LOG : DEBUG1, (errmsg("guest_context reader: %.*s", (int) len, text)));
}

static char *
frame_text(GcFrame *frame)
{
	size_t		len;
	const char *text = gc_frame_get_text(frame, &len);

	return text == NULL ? NULL : pnstrdup(text, len);
}

static void
all_wait(const char *reason, const char *hint)
{
	ListCell   *lc;

	foreach(lc, topics)
	{
		ListCell   *lc2;

		foreach(lc2, ((GcTopic *) lfirst(lc))->ingests)
			gc_ingest_waits(lfirst(lc2), reason, hint);
	}
}

static void
server_state(GcFrame *frame)
{
	uint8		state = gc_frame_get_u8(frame);
	char	   *text = frame_text(frame);

	if (state == GC_SERVER_UP)
		all_wait(NULL, NULL);
	else
		all_wait(psprintf("%s: %s", state == GC_SERVER_AUTHENTICATION ? "the server refuses the login" :
						  state == GC_SERVER_FAILED ? "the reader cannot go on" : "no broker can be reached", text ? text : ""),
				 NULL);
}

/* Asks, and waits for the answer: its frame, behind the number; NULL and *problem when there is none. */
static bool
ask(GcQuery what, const char *topic, int32 partition, int64 number, GcFrame *answer, char **problem)
{
	static uint32 last = 0;
	uint32		query = ++last;
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ANSWER_MS + 1000);

	gc_frame_begin(&reader->out, GC_FRAME_QUERY);
	gc_frame_put_u32(&reader->out, query);
	gc_frame_put_u8(&reader->out, what);
	gc_frame_put_u32(&reader->out, ANSWER_MS);
	gc_frame_put_string(&reader->out, topic);
	gc_frame_put_u32(&reader->out, partition);
	gc_frame_put_u64(&reader->out, number);
	gc_frame_finish(&reader->out);
	for (;;)
	{
		gc_reader_pump(reader);
		while (gc_reader_next(reader, answer))
		{
			if (answer->type != GC_FRAME_ANSWER)
				take_frame(answer);
			else if (gc_frame_get_u32(answer) == query)
			{
				bool		ok = gc_frame_get_u8(answer);
				char	   *text = frame_text(answer);

				(void) gc_frame_get_u8(answer);
				*problem = text ? text : pstrdup("unknown");
				return ok;
			}
		}
		if (reader->closed)
			*problem = psprintf("the reader %s", gc_reader_death(reader));
		else if (GetCurrentTimestamp() > until)
			*problem = pstrdup("no answer in time");
		else
		{
			wait_for_reader(100);
			if (gc_database_wanted(MyDatabaseId))
				proc_exit(0);
			continue;
		}
		return false;
	}
}

static int64
text_to_number(const char *text)
{
	return text == NULL ? -1 : strtoll(text, NULL, 10);
}

/* What the reader says of a topic's partitions: an array by partition of low and high. */
static int
read_partitions(GcFrame *answer, int64 **lows, int64 **highs)
{
	uint32		nrows = gc_frame_get_u32(answer);
	uint32		ncolumns = gc_frame_get_u32(answer);
	int			npartitions = 0;

	*lows = palloc0(sizeof(int64) * (nrows + 1));
	*highs = palloc0(sizeof(int64) * (nrows + 1));
	for (uint32 i = 0; i < nrows && !answer->bad; i++)
	{
		char	   *columns[4] = {NULL};

		for (uint32 j = 0; j < ncolumns; j++)
		{
			char	   *text = frame_text(answer);

			if (j < 4)
				columns[j] = text;
		}
		if (text_to_number(columns[1]) >= 0 && text_to_number(columns[1]) < nrows)
		{
			int			partition = text_to_number(columns[1]);

			(*lows)[partition] = text_to_number(columns[2]);
			(*highs)[partition] = text_to_number(columns[3]);
			npartitions = Max(npartitions, partition + 1);
		}
	}
	return npartitions;
}

/*
 * Positions
 */

/* Where a partition that has no position begins; -1 and *problem when that cannot be told. */
static int64
start_of(GcIngest *ingest, int partition, int64 low, int64 high, bool is_new, char **problem)
{
	GcStart		start;
	GcFrame		answer;
	int64		offset;

	gc_start_parse(ingest->changelog->start, &start);
	if (is_new || start.kind == GC_START_EARLIEST)
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
	if (!ask(GC_QUERY_OFFSET, ingest->topic->name, partition, start.time_us, &answer, problem))
		return -1;
	if (gc_frame_get_u32(&answer) < 1)
		return high;
	(void) gc_frame_get_u32(&answer);
	offset = text_to_number(frame_text(&answer));
	return offset < 0 ? high : offset;
}

/* The positions that the ledger has; -1 for partitions without one. Returns how many it has. In a transaction. */
static int
read_positions(GcIngest *ingest)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(ingest->changelog->changelog_id)};
	int			known = 0;

	SPI_connect();
	gc_catalog_execute("SELECT partition, to_offset FROM guest_context._position WHERE changelog_id OPERATOR(pg_catalog.=) $1",
					   1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int32		partition = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));

		known = Max(known, partition + 1);
		if (partition < ingest->topic->npartitions)
			ingest->progress[partition].committed =
				DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull));
	}
	SPI_finish();
	return known;
}

/* Finds out where a changelog goes on; false when it cannot be told now. Halts it where it may not. */
static bool
place_changelog(GcIngest *ingest, const int64 *lows, const int64 *highs, char **problem)
{
	GcTopic    *topic = ingest->topic;
	int			known;

	ingest->progress = MemoryContextAllocZero(load_context, sizeof(GcProgress) * topic->npartitions);
	for (int i = 0; i < topic->npartitions; i++)
	{
		ingest->progress[i].committed = -1;
		ingest->progress[i].record_time = DT_NOBEGIN;
	}
	begin();
	known = read_positions(ingest);
	commit();
	if (known > topic->npartitions)
	{
		gc_ingest_halt(ingest, topic->npartitions, -1,
					   psprintf("topic replaced: it has %d partitions and had %d", topic->npartitions, known), NULL);
		return true;
	}
	for (int i = 0; i < topic->npartitions && !ingest->stopped; i++)
	{
		GcProgress *progress = &ingest->progress[i];

		if (progress->committed < 0)
		{
			int64		offset = start_of(ingest, i, lows[i], highs[i], known > 0, problem);

			if (offset < 0)
				return false;
			if (known > 0 && offset > 0)
				gc_ingest_halt(ingest, i, offset, psprintf("data loss: new partition %d begins at offset %lld", i, (long long) offset), NULL);
			begin();
			gc_ledger_begin(ingest->changelog, i, offset);
			commit();
			progress->committed = offset;
		}
		else if (progress->committed < lows[i])
			gc_ingest_halt(ingest, i, progress->committed,
						   psprintf("data loss: offsets %lld to %lld of partition %d are gone", (long long) progress->committed,
									(long long) lows[i] - 1, i), NULL);
		else if (progress->committed > highs[i])
			gc_ingest_halt(ingest, i, progress->committed,
						   psprintf("topic replaced: partition %d ends at offset %lld", i, (long long) highs[i]), NULL);
		progress->reached = progress->committed;
	}
	return true;
}

/* From where the reader must read a partition: the least that one of the changelogs needs; -1 = none does. */
static int64
needed_from(GcTopic *topic, int partition)
{
	int64		least = -1;
	ListCell   *lc;

	foreach(lc, topic->ingests)
	{
		GcIngest   *ingest = lfirst(lc);

		if (!ingest->stopped && (least < 0 || ingest->progress[partition].reached < least))
			least = ingest->progress[partition].reached;
	}
	return least;
}

static void
subscribe(GcTopic *topic)
{
	GcFrameBuffer *out = &reader->out;
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

static void
give_credit(GcPartition *partition, uint64 bytes)
{
	gc_frame_begin(&reader->out, GC_FRAME_CREDIT);
	gc_frame_put_u32(&reader->out, partition->topic->subscription);
	gc_frame_put_u32(&reader->out, partition->partition);
	gc_frame_put_u32(&reader->out, partition->epoch);
	gc_frame_put_u64(&reader->out, bytes);
	gc_frame_finish(&reader->out);
}

static void
assign(GcPartition *partition, int64 offset)
{
	partition->epoch = ++epoch;
	gc_frame_begin(&reader->out, GC_FRAME_ASSIGN);
	gc_frame_put_u32(&reader->out, partition->topic->subscription);
	gc_frame_put_u32(&reader->out, partition->partition);
	gc_frame_put_u32(&reader->out, partition->epoch);
	gc_frame_put_u64(&reader->out, offset);
	gc_frame_finish(&reader->out);
	give_credit(partition, credit);
}

/* Learns of a topic's partitions and where to go on; false and *problem when that cannot be now. */
static bool
place_topic(GcTopic *topic, char **problem)
{
	GcFrame		answer;
	int64	   *lows;
	int64	   *highs;
	ListCell   *lc;

	if (!ask(GC_QUERY_TOPICS, topic->name, -1, 0, &answer, problem))
		return false;
	topic->npartitions = read_partitions(&answer, &lows, &highs);
	if (topic->npartitions == 0)
	{
		*problem = psprintf("topic \"%s\" does not exist", topic->name);
		return false;
	}
	topic->partitions = MemoryContextAllocZero(load_context, sizeof(GcPartition) * topic->npartitions);
	for (int i = 0; i < topic->npartitions; i++)
	{
		topic->partitions[i].topic = topic;
		topic->partitions[i].partition = i;
		topic->partitions[i].high = highs[i];
	}
	foreach(lc, topic->ingests)
		if (!place_changelog(lfirst(lc), lows, highs, problem))
			return false;
	return true;
}

/* Loads all there is to do and sets the reader off. False: later again. */
static bool
load(void)
{
	char	   *name;
	char	   *problem = NULL;
	int			npartitions = 0;
	ListCell   *lc;

	unload();
	reload = false;
	begin();
	MemoryContextSwitchTo(load_context);
	name = server_name();
	/* first what is compared later: what changes in between is loaded again */
	loaded = catalogue_says();
	if (name != NULL)
		load_changelogs(name);
	commit();
	if (topics == NIL)
		proc_exit(0);			/* nothing to do: a verb will start another one */
	begin();
	MemoryContextSwitchTo(load_context);
	reader = gc_reader_start(order.server, order.owner, (uint64) gc_reader_memory * 1024);
	commit();
	MemoryContextSwitchTo(load_context);
	foreach(lc, topics)
	{
		GcTopic    *topic = lfirst(lc);
		ListCell   *lc2;

		if (place_topic(topic, &problem))
		{
			npartitions += topic->npartitions;
			continue;
		}
		foreach(lc2, topic->ingests)
			gc_ingest_waits(lfirst(lc2), problem, NULL);
		topic->npartitions = 0;
		topics_asked = 0;
	}
	if (npartitions == 0)
		return false;
	credit = Max((uint64) gc_batch_bytes * 1024 / npartitions, LEAST_CREDIT);
	foreach(lc, topics)
	{
		GcTopic    *topic = lfirst(lc);

		if (topic->npartitions == 0)
			continue;
		subscribe(topic);
		for (int i = 0; i < topic->npartitions; i++)
			if (needed_from(topic, i) >= 0)
				assign(&topic->partitions[i], needed_from(topic, i));
	}
	topics_asked = GetCurrentTimestamp();
	return true;
}

/*
 * Records
 */

static GcTopic *
topic_by_number(uint32 subscription)
{
	return subscription >= 1 && subscription <= list_length(topics) ? list_nth(topics, subscription - 1) : NULL;
}

/* The partition that a frame is about; NULL when it is stale. */
static GcPartition *
partition_of(GcFrame *frame, GcTopic **topic)
{
	uint32		subscription = gc_frame_get_u32(frame);
	int32		partition = gc_frame_get_u32(frame);
	uint32		of_epoch = gc_frame_get_u32(frame);

	*topic = topic_by_number(subscription);
	if (*topic == NULL || partition < 0 || partition >= (*topic)->npartitions ||
		(*topic)->partitions[partition].epoch != of_epoch)
		return NULL;
	return &(*topic)->partitions[partition];
}

static char *
keep_text(MemoryContext context, GcFrame *frame, size_t *len)
{
	const char *text = gc_frame_get_text(frame, len);
	char	   *copy;

	if (text == NULL)
		return NULL;
	copy = MemoryContextAllocHuge(context, *len + 1);
	memcpy(copy, text, *len);
	copy[*len] = '\0';
	return copy;
}

static void
keep_error(GcFrame *frame, char *to, size_t room)
{
	size_t		len;
	const char *text = gc_frame_get_text(frame, &len);

	if (text == NULL)
		len = 0;
	len = Min(len, room - 1);
	memcpy(to, text ? text : "", len);
	to[len] = '\0';
}

static GcIngest *
ingest_of(GcTopic *topic, int32 changelog_id)
{
	ListCell   *lc;

	foreach(lc, topic->ingests)
		if (((GcIngest *) lfirst(lc))->changelog->changelog_id == changelog_id)
			return lfirst(lc);
	return NULL;
}

static GcItem *
new_item(GcIngest *ingest)
{
	if (ingest->nitems == ingest->room)
	{
		ingest->room = Max(64, ingest->room * 2);
		ingest->items = ingest->items == NULL ?
			MemoryContextAllocHuge(ingest->pending, sizeof(GcItem) * ingest->room) :
			repalloc_huge(ingest->items, sizeof(GcItem) * ingest->room);
	}
	memset(&ingest->items[ingest->nitems], 0, sizeof(GcItem));
	return &ingest->items[ingest->nitems];
}

/* What the decoder made of the record, into the item, or past it where there is none. */
static void
read_decoding(GcFrame *frame, GcIngest *ingest, GcItem *item, GcDecodeStatus status)
{
	MemoryContext context = ingest ? ingest->pending : CurrentMemoryContext;

	if (status == GC_DECODE_UPSERT || status == GC_DECODE_TOMBSTONE)
	{
		uint32		ncolumns;
		GcField    *fields;

		item->version_us = gc_frame_get_u64(frame);
		ncolumns = gc_frame_get_u32(frame);
		if (frame->bad || (ingest && ncolumns != ingest->spec->ncolumns))
		{
			frame->bad = true;
			return;
		}
		fields = MemoryContextAllocZero(context, sizeof(GcField) * ncolumns);
		for (uint32 i = 0; i < ncolumns && !frame->bad; i++)
		{
			fields[i].state = gc_frame_get_u8(frame);
			if (fields[i].state == GC_FIELD_TEXT)
				fields[i].text = keep_text(context, frame, &fields[i].len);
			if (fields[i].state > GC_FIELD_TEXT || (fields[i].state == GC_FIELD_TEXT && fields[i].text == NULL))
				frame->bad = true;
		}
		item->fields = fields;
	}
	else if (status == GC_DECODE_BAD || status == GC_DECODE_HALT)
	{
		GcDecodeError *error = MemoryContextAllocZero(context, sizeof(GcDecodeError));

		keep_error(frame, error->sqlstate, sizeof(error->sqlstate));
		keep_error(frame, error->message, sizeof(error->message));
		keep_error(frame, error->detail, sizeof(error->detail));
		keep_error(frame, error->hint, sizeof(error->hint));
		item->error = error;
	}
	else
		frame->bad = true;
	item->status = status;
}

/* The raw record, read again from the frame for each changelog that keeps it. */
static void
read_raw(GcFrame *frame, MemoryContext context, GcItem *item)
{
	uint32		nheaders;

	item->key = keep_text(context, frame, &item->key_len);
	item->value = keep_text(context, frame, &item->value_len);
	nheaders = gc_frame_get_u32(frame);
	if (frame->bad || nheaders > (frame->end - frame->at) / 8)
	{
		frame->bad = true;
		return;
	}
	item->nheaders = nheaders;
	item->headers = MemoryContextAllocZero(context, sizeof(GcHeader) * (nheaders + 1));
	for (uint32 i = 0; i < nheaders && !frame->bad; i++)
	{
		size_t		len;

		item->headers[i].name = keep_text(context, frame, &len);
		item->headers[i].value = keep_text(context, frame, &item->headers[i].value_len);
		if (item->headers[i].name == NULL)
			frame->bad = true;
	}
}

static void
skip_raw(GcFrame *frame)
{
	size_t		len;
	uint32		nheaders;

	(void) gc_frame_get_text(frame, &len);
	(void) gc_frame_get_text(frame, &len);
	nheaders = gc_frame_get_u32(frame);
	for (uint32 i = 0; i < nheaders && !frame->bad; i++)
	{
		(void) gc_frame_get_text(frame, &len);
		(void) gc_frame_get_text(frame, &len);
	}
}

static void
broken_frame(const GcFrame *frame)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("the reader has sent a frame of type \"%c\" that cannot be read", frame->type)));
}

static void
take_record(GcFrame *frame)
{
	uint32		bytes = frame->end - frame->at;
	GcTopic    *topic;
	GcPartition *partition = partition_of(frame, &topic);
	int64		offset;
	int64		time_us;
	GcFrame		raw;
	uint32		ndecodings;
	GcCredit   *owed;
	ListCell   *lc;
	int			index;

	if (partition == NULL)
		return;
	index = partition->partition;
	offset = gc_frame_get_u64(frame);
	time_us = gc_frame_get_u64(frame);
	raw = *frame;
	skip_raw(frame);
	ndecodings = gc_frame_get_u32(frame);
	owed = MemoryContextAlloc(load_context, sizeof(GcCredit));
	owed->partition = partition;
	owed->bytes = bytes;
	owed->users = 1;			/* this function */
	for (uint32 i = 0; i < ndecodings && !frame->bad; i++)
	{
		GcIngest   *ingest = ingest_of(topic, gc_frame_get_u32(frame));
		GcDecodeStatus status = gc_frame_get_u8(frame);
		GcItem		nobodys = {0};
		GcItem	   *item = &nobodys;
		GcFrame		again = raw;

		if (ingest != NULL && (ingest->stopped || offset < ingest->progress[index].reached))
			ingest = NULL;		/* it has it already */
		if (ingest != NULL)
			item = new_item(ingest);
		read_decoding(frame, ingest, item, status);
		if (ingest == NULL || frame->bad)
			continue;
		read_raw(&again, ingest->pending, item);
		item->partition = index;
		item->offset = offset;
		item->time_us = time_us;
		item->credit = owed;
		owed->users++;
		ingest->nitems++;
		ingest->bytes += bytes;
	}
	if (!gc_frame_end(frame))
		broken_frame(frame);
	foreach(lc, topic->ingests)
	{
		GcIngest   *ingest = lfirst(lc);

		if (ingest->stopped || offset < ingest->progress[index].reached)
			continue;
		ingest->progress[index].reached = offset + 1;
		if (time_us != GC_NO_TIMESTAMP)
			ingest->progress[index].record_time = time_us - GC_UNIX_EPOCH_US;
		ingest->moved = true;
	}
	if (--owed->users == 0)
	{
		partition->owed += owed->bytes;
		pfree(owed);
	}
}

/* The reader has read so far, records or not. */
static void
take_position(GcFrame *frame)
{
	GcTopic    *topic;
	GcPartition *partition = partition_of(frame, &topic);
	int64		position;
	int64		high;
	ListCell   *lc;

	if (partition == NULL)
		return;
	position = gc_frame_get_u64(frame);
	high = gc_frame_get_u64(frame);
	(void) gc_frame_get_u8(frame);
	if (!gc_frame_end(frame))
		broken_frame(frame);
	if (high >= 0)
		partition->high = high;
	foreach(lc, topic->ingests)
	{
		GcIngest   *ingest = lfirst(lc);
		GcProgress *progress = &ingest->progress[partition->partition];

		if (ingest->stopped)
			continue;
		if (ingest->changelog->waiting && ingest->failures == 0)
			gc_ingest_waits(ingest, NULL, NULL);
		if (position <= progress->reached)
			continue;
		progress->reached = position;
		ingest->moved = true;
	}
}

static void
take_trouble(GcFrame *frame)
{
	uint32		subscription = gc_frame_get_u32(frame);
	int32		partition = gc_frame_get_u32(frame);
	uint32		of_epoch = gc_frame_get_u32(frame);
	GcTrouble	trouble = gc_frame_get_u8(frame);
	int64		offset = gc_frame_get_u64(frame);
	int64		low = gc_frame_get_u64(frame);
	int64		high = gc_frame_get_u64(frame);
	char	   *text = frame_text(frame);
	GcTopic    *topic = topic_by_number(subscription);
	ListCell   *lc;

	if (!gc_frame_end(frame))
		broken_frame(frame);
	if (topic == NULL || (partition >= 0 && (partition >= topic->npartitions || topic->partitions[partition].epoch != of_epoch)))
		return;
	foreach(lc, topic->ingests)
	{
		GcIngest   *ingest = lfirst(lc);

		if (ingest->stopped)
			continue;
		switch (trouble)
		{
			case GC_TROUBLE_OUT_OF_RANGE:
				gc_ingest_halt(ingest, partition, offset, low > offset ?
							   psprintf("data loss: offsets %lld to %lld are gone", (long long) offset, (long long) low - 1) :
							   psprintf("topic replaced: it ends at offset %lld", (long long) high), NULL);
				break;
			case GC_TROUBLE_UNREADABLE:
			case GC_TROUBLE_TOO_LARGE:
				gc_ingest_halt(ingest, partition, offset, psprintf("unreadable: %s", text), NULL);
				break;
			default:
				gc_ingest_waits(ingest, text, NULL);
				break;
		}
	}
	if (trouble != GC_TROUBLE_TRANSIENT)
		reload = true;
}

static void
take_frame(GcFrame *frame)
{
	switch (frame->type)
	{
		case GC_FRAME_RECORD:
			take_record(frame);
			break;
		case GC_FRAME_POSITION:
			take_position(frame);
			break;
		case GC_FRAME_TROUBLE:
			take_trouble(frame);
			break;
		case GC_FRAME_SERVER:
			server_state(frame);
			break;
		case GC_FRAME_LOG:
			say_log(frame);
			break;
		case GC_FRAME_HELLO:
			if (gc_frame_get_u32(frame) != GC_PROTOCOL)
				ereport(ERROR,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("the reader program is of another version than the library"),
						 errhint("Restart the server after an upgrade.")));
			break;
		default:				/* an answer that came too late */
			break;
	}
}

/*
 * The loop
 */

/* Are more records pending than a batch is to have? */
static bool
full(const GcIngest *ingest)
{
	return ingest->nitems >= gc_batch_rows || ingest->bytes >= (Size) gc_batch_bytes * 1024;
}

/* Takes what has come, up to a batch. True when there is more. */
static bool
take_frames(void)
{
	GcFrame		frame;
	ListCell   *lc;
	int			taken = 0;

	gc_reader_pump(reader);
	while (gc_reader_next(reader, &frame))
	{
		take_frame(&frame);
		if (++taken % 64 == 0)
		{
			CHECK_FOR_INTERRUPTS();
			gc_reader_pump(reader);
		}
		if (taken >= gc_batch_rows)
			return true;
		foreach(lc, topics)
		{
			ListCell   *lc2;

			/* one that waits is bounded by its credit */
			foreach(lc2, ((GcTopic *) lfirst(lc))->ingests)
				if (((GcIngest *) lfirst(lc2))->failures == 0 && full(lfirst(lc2)))
					return true;
		}
	}
	return false;
}

/* Applies what is pending; returns how long until the next attempt, at most `until` ms. */
static long
apply_all(long until)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, topics)
	{
		GcTopic    *topic = lfirst(lc);
		ListCell   *lc2;

		foreach(lc2, topic->ingests)
		{
			GcIngest   *ingest = lfirst(lc2);

			if (ingest->stopped || !ingest->moved)
				continue;
			if (ingest->failures > 0 && ingest->retry_at > now)
			{
				until = Min(until, TimestampDifferenceMilliseconds(now, ingest->retry_at));
				continue;
			}
			switch (gc_ingest_apply(ingest))
			{
				case GC_DONE:
					if (ingest->moved)
						until = 0;
					break;
				case GC_WAITS:
					break;
				case GC_HALTED:
				case GC_RELOAD:
					reload = true;	/* without it, or from where it is now */
					break;
			}
			MemoryContextSwitchTo(turn_context);
		}
		for (int i = 0; i < topic->npartitions; i++)
			if (topic->partitions[i].owed > 0)
			{
				give_credit(&topic->partitions[i], topic->partitions[i].owed);
				topic->partitions[i].owed = 0;
			}
	}
	return until;
}

/* Has a topic got more partitions? Then all is loaded anew. */
static void
look_for_partitions(void)
{
	ListCell   *lc;

	topics_asked = GetCurrentTimestamp();
	foreach(lc, topics)
	{
		GcTopic    *topic = lfirst(lc);
		GcFrame		answer;
		char	   *problem;
		int64	   *lows;
		int64	   *highs;

		if (!ask(GC_QUERY_TOPICS, topic->name, -1, 0, &answer, &problem))
			continue;
		if (read_partitions(&answer, &lows, &highs) != topic->npartitions)
			reload = true;
	}
}

/* Looks at what changes without the reader; ends the process when there is nothing to do. */
static void
look_around(void)
{
	char	   *text;

	if (gc_database_wanted(MyDatabaseId))
		proc_exit(0);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	begin();
	if (!gc_ingest_enabled || !gc_catalog_exists())
		proc_exit(0);
	text = catalogue_says();
	if (loaded == NULL || strcmp(text, loaded) != 0)
		reload = true;
	commit();
	if (!reload && TimestampDifferenceExceeds(topics_asked, GetCurrentTimestamp(), TOPICS_SECONDS * 1000))
		look_for_partitions();
}

/* One turn: takes, applies, waits. */
static void
turn(void)
{
	static TimestampTz looked = 0;
	bool		more;
	long		wait;

	MemoryContextReset(turn_context);
	MemoryContextSwitchTo(turn_context);
	more = take_frames();
	wait = apply_all(more ? 0 : LOOK_MS);
	gc_reader_pump(reader);
	if (TimestampDifferenceExceeds(looked, GetCurrentTimestamp(), LOOK_MS))
	{
		look_around();
		looked = GetCurrentTimestamp();
	}
	if (reader->closed)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the reader %s", gc_reader_death(reader))));
	if (!reload && wait > 0)
		wait_for_reader(wait);
}

/* After an error outside of a batch: says so where it can be read, and waits a little. */
static void
after_error(ErrorData *error)
{
	char	   *reason = pstrdup(error->message);

	failures++;
	if (topics != NIL)
		all_wait(reason, error->hint);
	pause_until(TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											Min(100 * (INT64CONST(1) << Min(failures, 10)), LONGEST_PAUSE_MS)));
}

void
gc_ingest_main(Datum arg)
{
	LOCKTAG		tag;
	MemoryContext worker_context;

	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(order.database, order.owner, GC_WORKER_CONNECT_FLAGS);
	worker_context = AllocSetContextCreate(CurrentMemoryContext, "guest_context ingest", ALLOCSET_DEFAULT_SIZES);
	load_context = AllocSetContextCreate(worker_context, "guest_context ingest load", ALLOCSET_DEFAULT_SIZES);
	turn_context = AllocSetContextCreate(worker_context, "guest_context ingest turn", ALLOCSET_DEFAULT_SIZES);
	gc_maintenance_wake_nobody();
	pin_settings();
	worker_tag(&tag, order.owner, order.server);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		proc_exit(0);
	reload = true;

	for (;;)
	{
		ErrorData  *volatile error = NULL;

		PG_TRY();
		{
			for (;;)
			{
				if (reload && !load())
				{
					failures++;
					reload = true;
					pause_until(TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															Min(100 * (INT64CONST(1) << Min(failures, 10)), LONGEST_PAUSE_MS)));
					continue;
				}
				turn();
				failures = 0;
			}
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(worker_context);
			error = CopyErrorData();
			FlushErrorState();
			AbortCurrentTransaction();
		}
		PG_END_TRY();
		MemoryContextSwitchTo(turn_context);
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("reading changelogs begins again: %s", error->message)));
		reload = true;
		after_error(error);
		FreeErrorData(error);
	}
}
