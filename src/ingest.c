/*
 * ingest.c: the ingest worker: change records from one server into the entities of one owner.
 *
 * A background worker, one per (database, server, owner), connected as the owner; or as many as
 * guest_context.workers says, and each reads some of the partitions of each topic. It starts a
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
 * from what the catalogue says: a topic whose changelogs have changed, or of which somebody else has moved one on, is forgotten and
 * loaded anew, beside the others, which read on; when the reader dies, or after trouble, that is done with all of
 * them. So it is when the number of workers has changed: whose a
 * partition is decides who reads it, and the ledger alone who moves it on, so it does not matter that not all
 * of them change at the same moment. No transaction is open while it waits. Twice a second
 * it looks whether somebody wants the database to himself, and leaves.
 *
 * The exit code says whether the postmaster is to start it again: 1 when it leaves for a moment only, because somebody
 * copies or renames the database; 0 when there is nothing to do any more, and when it cannot connect,
 * which maintenance then sees and says.
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "common/relpath.h"
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
#include "freshness.h"
#include "guest_context.h"
#include "ingest.h"
#include "launcher.h"
#include "maintenance.h"
#include "reader_process.h"
#include "tree.h"

#define GATHER_MS			50 /* for which a batch waits to become large, when there is much to come */
#define LARGE_PART			3	/* of guest_context.batch_rows: a batch of a third of them is large */
#define LOOK_MS				500		/* how often the catalogue and the database are looked at */
#define RESTART_SECONDS		5
#define LONGEST_PAUSE_MS	10000
#define SAY_AGAIN_MS		60000	/* the same error */

/* What the worker is told. */
typedef struct Order
{
	Oid			database;
	Oid			tablespace;		/* of the database */
	Oid			owner;
	Oid			server;
	int			worker;			/* its number, from 0 on */
} Order;

GcWork		gc_work;

static int	failures = 0;		/* in a row, of loading or before anything came */
static TimestampTz failed_at = 0;
static TimestampTz gathering_since = 0;
static bool connected = false;

PGDLLEXPORT void gc_ingest_main(Datum arg);

/*
 * Starting
 */

/* The lock of a worker: of session length, on the server, by owner and number. */
static void
worker_tag(LOCKTAG *tag, Oid owner, Oid server, int worker)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, server, owner, 7 + worker);
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

/* False when the server has no slot for it. */
static bool
start_worker(Oid owner, const ForeignServer *server, int number)
{
	Order		what = {.database = MyDatabaseId, .tablespace = MyDatabaseTableSpace, .owner = owner,
	.server = server->serverid, .worker = number};
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "guest_context", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "gc_ingest_main", sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "guest_context ingest %d (%s)", number, server->servername);
	strlcpy(worker.bgw_type, "guest_context ingest", sizeof(worker.bgw_type));
	memcpy(worker.bgw_extra, &what, sizeof(what));
	return RegisterDynamicBackgroundWorker(&worker, &handle);
}

/* Those from this number on that do not run. False when there was no slot for one. */
static bool
start_workers(Oid owner, const ForeignServer *server, int from)
{
	bool		all = true;

	for (int i = from; i < gc_workers; i++)
	{
		LOCKTAG		tag;

		worker_tag(&tag, owner, server->serverid, i);
		if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
			continue;			/* it runs */
		LockRelease(&tag, ExclusiveLock, true);
		all &= start_worker(owner, server, i);
	}
	return all;
}

bool
gc_ingest_start(Oid owner)
{
	bool		all = true;
	ListCell   *lc;

	foreach(lc, gc_changelog_servers(owner))
	{
		ForeignServer *server = GetForeignServerByName(lfirst(lc), true);

		if (server != NULL)		/* else it was dropped: the status says so */
			all &= start_workers(owner, server, 0);
	}
	return all;
}

void
gc_ingest_yield(void)
{
	if (gc_database_wanted(MyDatabaseId))
		proc_exit(1);
}

/* At exit. */
static void
give_up_unconnected(int code, Datum arg)
{
	if (!connected)
		proc_exit(0);
}

/* Ends the process when changelogs are not to be read here any more. In a transaction. */
static void
leave_when_over(void)
{
	if (!gc_ingest_enabled || !gc_catalog_exists())
		proc_exit(0);
}

/* Settings of the role or the database must not change what a worker does. */
static void
pin_settings(void)
{
	static const char *const settings[][2] = {
		{"row_security", "off"},
		{"session_replication_role", "origin"},
		{"datestyle", "ISO, YMD"},
		{"bytea_output", "hex"},
		{"client_encoding", "UTF8"},
		/* its queries are by key, and plans that are kept must not be of the time when tables were empty */
		{"enable_seqscan", "off"},
	};

	/* shorter than any deadlock_timeout: nobody is cancelled because of us */
	gc_worker_pin_settings("500ms");
	SetConfigOption("application_name", MyBgworkerEntry->bgw_name, PGC_SUSET, PGC_S_OVERRIDE);
	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* The view of states tells by it whether a worker goes on. */
void
gc_ingest_alive(bool busy)
{
	if (gc_is_background_worker())
		pgstat_report_activity(busy ? STATE_RUNNING : STATE_IDLE, NULL);
}

void
gc_ingest_begin(void)
{
	gc_ingest_alive(true);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
gc_ingest_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	gc_ingest_alive(false);
	MemoryContextSwitchTo(gc_work.turn_context);
}

static void
pause_until(TimestampTz until)
{
	while (GetCurrentTimestamp() < until)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(LOOK_MS, Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until))), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		gc_ingest_yield();
	}
}

/*
 * The loop
 */

/* Takes what has come, up to a batch. True when there is more. */
static bool
take_frames(void)
{
	GcFrame		frame;
	int			taken = 0;

	gc_work.full = false;
	for (;;)
	{
		if (!gc_reader_next(gc_work.reader, &frame))
		{
			gc_reader_pump(gc_work.reader);
			if (!gc_reader_next(gc_work.reader, &frame))
				return false;
		}
		gc_ingest_take(&frame);
		if (gc_work.full || ++taken >= gc_batch_rows)
			return true;
		if (taken % 64 == 0)
			CHECK_FOR_INTERRUPTS();
	}
}

/*
 * While a topic has more than a batch to come, what is there waits a little to become a large part of one: the
 * larger the batch, the cheaper its rows, and they are late anyway. Returns how long, in ms.
 */
static long
gather(void)
{
	bool		worth = false;
	long		waited;
	ListCell   *lc;

	foreach(lc, gc_work.topics)
	{
		GcTopic    *topic = lfirst(lc);
		int64		to_come = 0;
		ListCell   *lc2;

		for (int i = 0; i < topic->npartitions; i++)
			if (topic->partitions[i].epoch != 0)
				to_come += Max(topic->partitions[i].high - topic->partitions[i].reached, 0);
		worth |= to_come >= gc_batch_rows;
		foreach(lc2, topic->ingests)
			if (((GcIngest *) lfirst(lc2))->nitems >= gc_batch_rows / LARGE_PART)
				return 0;
	}
	if (!worth)
		return 0;
	if (gathering_since == 0)
		gathering_since = GetCurrentTimestamp();
	waited = TimestampDifferenceMilliseconds(gathering_since, GetCurrentTimestamp());
	return Max(GATHER_MS - waited, 0);
}

/* Applies what is pending; returns how long until the next attempt, at most `until` ms. */
static long
apply_all(long until)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	gc_work.no_space = gc_short_of_space();
	if (gc_work.no_space != NULL)
		return LOOK_MS;
	foreach(lc, gc_work.topics)
	{
		GcTopic    *topic = lfirst(lc);
		ListCell   *lc2;

		foreach(lc2, topic->ingests)
		{
			GcIngest   *ingest = lfirst(lc2);

			if (!ingest->stopped && !ingest->moved && ingest->halt_reason != NULL)
			{
				gc_ingest_halt(ingest, GC_HALT_RECORD, ingest->halt_partition, ingest->halt_offset, ingest->halt_reason,
							   gc_ingest_skip_hint(ingest, ingest->halt_partition, ingest->halt_offset, ingest->halt_through));
			}
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
					topic->stale = gc_work.refresh = true;	/* without it, or from where it is now */
					break;
			}
			MemoryContextSwitchTo(gc_work.turn_context);
		}
		for (int i = 0; i < topic->npartitions; i++)
			if (topic->partitions[i].owed > 0)
			{
				gc_partition_say(&topic->partitions[i], GC_FRAME_CREDIT, topic->partitions[i].owed);
				topic->partitions[i].owed = 0;
			}
	}
	return until;
}

/* Those who wait for what is read here look again: who changed it may have said so to nobody. */
static void
say_changed(void)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, gc_work.topics)
		foreach(lc2, ((GcTopic *) lfirst(lc))->ingests)
			gc_freshness_changed(((GcIngest *) lfirst(lc2))->changelog->entity);
}

/* Looks at what changes without the reader; ends the process when there is nothing to do. */
static void
look_around(void)
{
	int			workers = gc_workers;
	char	   *text;

	gc_ingest_yield();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	gc_ingest_begin();
	leave_when_over();
	text = gc_ingest_catalogue();
	if (gc_work.loaded == NULL || strcmp(text, gc_work.loaded) != 0)
	{
		gc_work.refresh = true;
		say_changed();
	}
	if (gc_workers != workers)
	{
		ForeignServer *server = GetForeignServerExtended(gc_work.server, FSV_MISSING_OK);

		gc_work.reload = true;
		if (gc_work.worker == 0 && server != NULL)
			(void) start_workers(gc_work.owner, server, 1);
	}
	gc_ingest_commit();
}

/* One turn: takes, applies, waits. */
static void
turn(void)
{
	static TimestampTz looked = 0;
	bool		more;
	long		wait;

	MemoryContextReset(gc_work.turn_context);
	MemoryContextSwitchTo(gc_work.turn_context);
	more = take_frames();
	wait = more ? 0 : gather();
	if (wait == 0)
	{
		wait = apply_all(more ? 0 : LOOK_MS);
		gathering_since = 0;
	}
	gc_reader_pump(gc_work.reader);
	if (TimestampDifferenceExceeds(looked, GetCurrentTimestamp(), LOOK_MS))
	{
		look_around();
		if (!gc_work.reload)
			gc_watch(!more);
		looked = GetCurrentTimestamp();
	}
	if (gc_work.reader->closed)
	{
		char	   *how = gc_reader_death(gc_work.reader);

		gc_unreadable_died_reading(how);
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the reader %s", how)));
	}
	gc_unreadable_turn();
	if (!gc_work.reload && !gc_work.refresh && wait > 0)
		gc_ingest_wait(wait);
}

static void
all_wait(const char *reason, const char *hint)
{
	ListCell   *lc;

	foreach(lc, gc_work.topics)
	{
		ListCell   *lc2;

		foreach(lc2, ((GcTopic *) lfirst(lc))->ingests)
			if (!((GcIngest *) lfirst(lc2))->stopped)
				gc_ingest_waits(lfirst(lc2), reason, hint);
	}
}

/* Tells the log, once when it is news and once a minute while it goes on. */
static void
say_error(const ErrorData *error)
{
	static char said[256] = "";
	static TimestampTz said_at = 0;
	static int	times = 0;
	TimestampTz now = GetCurrentTimestamp();

	times++;
	/* somebody else's moment, unless it stays so */
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE && strncmp(said, error->message, sizeof(said) - 1) != 0)
	{
		strlcpy(said, error->message, sizeof(said));
		said_at = now;
	}
	if (strncmp(said, error->message, sizeof(said) - 1) == 0 && !TimestampDifferenceExceeds(said_at, now, SAY_AGAIN_MS))
		return;
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("reading changelogs begins again: %s", error->message),
			 times > 1 ? errdetail("It was tried %d times since this was said last.", times) : 0));
	strlcpy(said, error->message, sizeof(said));
	said_at = now;
	times = 0;
}

/* After an error outside of a batch: says so where it can be read, and waits a little. */
static void
after_error(ErrorData *error)
{
	MemoryContext caller = CurrentMemoryContext;
	LOCKTAG		tag;

	failures++;
	PG_TRY();
	{
		gc_ingest_begin();
		leave_when_over();
		gc_ingest_commit();
		say_error(error);
		if (gc_work.topics != NIL)
			all_wait(error->message, error->hint);
	}
	PG_CATCH();
	{
		/* a disk is full, or whatever else it was */
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);

	/* not even the catalogue could be read: without the lock the status says that nobody reads */
	worker_tag(&tag, gc_work.owner, gc_work.server, gc_work.worker);
	if (gc_work.topics == NIL)
		LockRelease(&tag, ExclusiveLock, true);
	pause_until(TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											Min(100 * (INT64CONST(1) << Min(failures, 10)), LONGEST_PAUSE_MS)));
	failed_at = GetCurrentTimestamp();
	if (gc_work.topics == NIL && LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		proc_exit(0);
}

/*
 * Nothing to do. A verb that gives us something may have found our lock held just now and started nobody: so look
 * once more without it.
 */
static void
leave(void)
{
	LOCKTAG		tag;
	char	   *text;

	worker_tag(&tag, gc_work.owner, gc_work.server, gc_work.worker);
	LockRelease(&tag, ExclusiveLock, true);
	gc_ingest_begin();
	text = gc_ingest_catalogue();
	gc_ingest_commit();
	if (*text == '\0' || LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		proc_exit(0);
	gc_work.reload = true;
}

static void
load(void)
{
	pause_until(gc_work.reload_at);
	gc_work.reload_at = 0;
	gc_ingest_begin();
	leave_when_over();
	gc_ingest_commit();
	if (gc_work.worker >= gc_workers)
		proc_exit(0);			/* there are fewer now */
	MemoryContextReset(gc_work.turn_context);
	MemoryContextSwitchTo(gc_work.turn_context);
	gc_ingest_load();
	if (gc_work.topics == NIL)
		leave();
}

/*
 * A batch's memory is needed again by the next one: malloc is not to give it back to the system each time. Clearing its
 * pages anew is a tenth of the time of a batch.
 */
static void
keep_memory(void)
{
#ifdef __GLIBC__
	mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024);
	mallopt(M_TRIM_THRESHOLD, 256 * 1024 * 1024);
#endif
}

/* While rows are written the reader is not to wait. */
static void
read_on(void)
{
	gc_ingest_alive(true);
	gc_reader_pump(gc_work.reader);
}

void
gc_ingest_main(Datum arg)
{
	Order		order;
	LOCKTAG		tag;
	MemoryContext worker_context;
	char	   *directory;

	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	gc_work.database = order.database;
	gc_work.owner = order.owner;
	gc_work.server = order.server;
	gc_work.worker = order.worker;
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	on_proc_exit(give_up_unconnected, (Datum) 0);
	BackgroundWorkerUnblockSignals();
	/* without a word about a database that was dropped */
	directory = GetDatabasePath(order.database, order.tablespace);
	if (access(directory, F_OK) != 0)
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(gc_work.database, gc_work.owner, GC_WORKER_CONNECT_FLAGS);
	connected = true;
	worker_context = AllocSetContextCreate(CurrentMemoryContext, "guest_context ingest", ALLOCSET_DEFAULT_SIZES);
	gc_work.load_context = AllocSetContextCreate(worker_context, "guest_context ingest load", ALLOCSET_DEFAULT_SIZES);
	gc_work.turn_context = AllocSetContextCreate(worker_context, "guest_context ingest turn", ALLOCSET_DEFAULT_SIZES);
	gc_maintenance_wake_nobody();
	pin_settings();
	worker_tag(&tag, gc_work.owner, gc_work.server, gc_work.worker);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		proc_exit(0);
	keep_memory();
	gc_work.reload = true;
	gc_rows_meanwhile = read_on;

	for (;;)
	{
		ErrorData  *volatile error = NULL;

		PG_TRY();
		{
			for (;;)
			{
				while (gc_work.reload || gc_work.refresh)
					load();
				turn();
				/* a reader that comes to nothing has not gone on */
				if (gc_work.heard_at > gc_work.asked_at || TimestampDifferenceExceeds(failed_at, GetCurrentTimestamp(), LONGEST_PAUSE_MS))
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
		MemoryContextSwitchTo(gc_work.turn_context);
		gc_work.reload = true;
		after_error(error);
		FreeErrorData(error);
	}
}
