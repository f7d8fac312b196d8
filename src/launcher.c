/*
 * launcher.c: who starts maintenance workers, and when.
 *
 * The launcher is one process without a database, there only when the server
 * preloads the library. When it starts, which is also after a crash and after a
 * promotion, a scout looks into each database once and notes whose entities it
 * holds. From then on nothing is probed: the launcher starts a short-lived worker
 * for each (database, owner) every minute, and earlier when a verb says at its
 * commit that there is work. Without the launcher the verb's own backend starts that
 * worker, and nothing is automatic.
 *
 * Shared memory holds plain values only: owners with the time of their next
 * cycle, and the pids of running workers. One lock protects all of it, held for
 * moments, by nobody who waits for anything else.
 *
 * The launcher never does what can fail because of a user: no connection to a
 * database, no SQL. An error there ends it and the server starts it again after
 * RESTART_SECONDS. A worker that dies before it has done its cycle is started again after
 * a minute, then two, then four, up to an hour. Nothing is logged for that but what
 * the worker itself logged.
 *
 * DROP, RENAME and CREATE DATABASE … TEMPLATE want a database for themselves. Workers
 * look for that between their steps; inside a long step they cannot, so the
 * launcher looks for them and ends them. Where there is no launcher each worker starts a
 * companion for itself that does so, a process without a database like the
 * launcher, and ends it when it ends. Nothing inside the worker could: no hook is called
 * in the middle of a statement, and a signal handler may not ask for locks.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "guest_context.h"
#include "launcher.h"

PG_FUNCTION_INFO_V1(gc_maintenance_obstacle);

#define CYCLE_SECONDS		60
#define RESTART_SECONDS		10
#define WATCH_MS			500 /* how often a running worker's database is looked at */
#define MAX_AT_ONCE			3	/* workers that the launcher has in their cycle */
#define MAX_OWNERS			256
#define MAX_WORKERS			64

/* One (database, owner) that has entities. */
typedef struct Owner
{
	Oid			database;		/* InvalidOid: a free place */
	Oid			owner;
	TimestampTz due;
	bool		in_cycle;		/* a worker was started and its cycle is not done */
	int			failures;		/* cycles in a row that were not done */
} Owner;

/* A worker that runs, in its cycle or building. */
typedef struct Worker
{
	int32		pid;			/* 0: a free place */
	Oid			database;
} Worker;

typedef struct Shared
{
	int32		launcher_pid;	/* 0 = it does not run */
	bool		no_slot;		/* the last worker could not be started */
	Owner		owners[MAX_OWNERS];
	Worker		workers[MAX_WORKERS];
} Shared;

static Shared *shared = NULL;	/* stays NULL without preloading */
static LWLock *shared_lock;

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

PGDLLEXPORT void gc_launcher_main(Datum arg);
PGDLLEXPORT void gc_scout_main(Datum arg);
PGDLLEXPORT void gc_companion_main(Datum arg);

/*
 * Loading
 */

static void
request_shared(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(sizeof(Shared));
	RequestNamedLWLockTranche("guest_context", 1);
}

static void
startup_shared(void)
{
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("guest_context", sizeof(Shared), &found);
	if (!found)
		memset(shared, 0, sizeof(Shared));
	shared_lock = &(GetNamedLWLockTranche("guest_context"))[0].lock;
	LWLockRelease(AddinShmemInitLock);
}

/* What all our processes have in common. */
static void
fill_worker(BackgroundWorker *worker, const char *function, const char *name)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_library_name, "guest_context", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, function, sizeof(worker->bgw_function_name));
	strlcpy(worker->bgw_name, name, sizeof(worker->bgw_name));
	strlcpy(worker->bgw_type, name, sizeof(worker->bgw_type));
}

void
gc_launcher_init(void)
{
	BackgroundWorker worker;

	/* pg_upgrade's server must not do anything by itself */
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shared;

	fill_worker(&worker, "gc_launcher_main", "guest_context launcher");
	worker.bgw_restart_time = RESTART_SECONDS;
	RegisterBackgroundWorker(&worker);
}

/*
 * Starting workers
 */

bool
gc_worker_start(const GcWorkerOrder *order, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	StaticAssertStmt(sizeof(GcWorkerOrder) <= BGW_EXTRALEN, "an order must fit into a registration");
	fill_worker(&worker, "gc_maintenance_main", "guest_context maintenance");
	memcpy(worker.bgw_extra, order, sizeof(*order));
	worker.bgw_notify_pid = handle != NULL ? MyProcPid : 0;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

const char *
gc_worker_obstacle(Oid database, Oid owner, char **hint)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(owner));
	const char *obstacle = NULL;

	*hint = NULL;
	if (!HeapTupleIsValid(tuple))
		return psprintf("role with OID %u does not exist", owner);
	if (GC_WORKER_NEEDS_LOGIN && !((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin)
	{
		const char *name = NameStr(((Form_pg_authid) GETSTRUCT(tuple))->rolname);

		obstacle = psprintf("role \"%s\" may not log in, and before PostgreSQL 17 no worker can run as it", name);
		*hint = psprintf("ALTER ROLE %s LOGIN;", quote_identifier(name));
	}
	else if (gc_database_aclcheck(database, owner, ACL_CONNECT) != ACLCHECK_OK)
	{
		const char *name = NameStr(((Form_pg_authid) GETSTRUCT(tuple))->rolname);
		char	   *database_name = get_database_name(database);

		obstacle = psprintf("role \"%s\" may not connect to database \"%s\"", name, database_name);
		*hint = psprintf("GRANT CONNECT ON DATABASE %s TO %s;", quote_identifier(database_name),
						 quote_identifier(name));
	}
	ReleaseSysCache(tuple);
	return obstacle;
}

/*
 * _maintenance_obstacle(owner oid) -> text: why no worker can run for this owner's entities
 * here, NULL when one can; for the views.
 */
Datum
gc_maintenance_obstacle(PG_FUNCTION_ARGS)
{
	char	   *hint;
	const char *obstacle = gc_worker_obstacle(MyDatabaseId, PG_GETARG_OID(0), &hint);

	if (obstacle == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(obstacle));
}

bool
gc_database_wanted(Oid database)
{
	LOCKTAG		tag;

	/* what a connecting backend takes, and what DROP, RENAME and TEMPLATE keep out */
	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	if (LockAcquire(&tag, RowExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, true);
	return false;
}

bool
gc_launcher_preloaded(bool *no_slot)
{
	*no_slot = false;
	if (shared == NULL)
		return false;
	LWLockAcquire(shared_lock, LW_SHARED);
	*no_slot = shared->no_slot;
	LWLockRelease(shared_lock);
	return true;
}

/*
 * Waking at commit
 */

/* Owners to be told of, in the transaction's own memory. */
static List *to_wake = NIL;
static List *to_announce = NIL;
static bool wake_nobody = false;

/* The place of an owner, made if need be; NULL when all are taken. Under the lock. */
static Owner *
owner_place(Oid database, Oid owner)
{
	Owner	   *free_place = NULL;

	for (int i = 0; i < MAX_OWNERS; i++)
	{
		Owner	   *place = &shared->owners[i];

		if (place->database == database && place->owner == owner)
			return place;
		if (!OidIsValid(place->database) && free_place == NULL)
			free_place = place;
	}
	if (free_place != NULL)
	{
		memset(free_place, 0, sizeof(*free_place));
		free_place->database = database;
		free_place->owner = owner;
		free_place->due = DT_NOEND;
	}
	return free_place;
}

/* Lets the launcher look at what there is, if it runs. */
static void
wake_launcher(int launcher_pid)
{
	PGPROC	   *launcher = launcher_pid == 0 ? NULL : BackendPidGetProc(launcher_pid);

	if (launcher != NULL)
		SetLatch(&launcher->procLatch);
}

/* The owner has work at `due`, or earlier if that was known already. */
static void
note_due(Oid database, Oid owner, TimestampTz due)
{
	Owner	   *place;
	int			launcher_pid;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place = owner_place(database, owner);
	if (place != NULL && due < place->due)
		place->due = due;
	launcher_pid = shared->launcher_pid;
	LWLockRelease(shared_lock);
	if (place == NULL)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("guest_context maintains the entities of at most %d owners by itself", MAX_OWNERS),
				 errhint("Let fewer roles own entities, or call guest_context.run_maintenance() on a schedule.")));
	wake_launcher(launcher_pid);
}

/* The transaction is committed: no error may be raised any more. */
static void
wake_owners(List *wake, List *announce)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, announce)
		if (shared != NULL)
			note_due(MyDatabaseId, lfirst_oid(lc),
					 TimestampTzPlusMilliseconds(now, CYCLE_SECONDS * 1000));
	foreach(lc, wake)
	{
		GcWorkerOrder order = {.database = MyDatabaseId, .owner = lfirst_oid(lc)};

		if (shared != NULL)
			note_due(MyDatabaseId, lfirst_oid(lc), now);
		else if (IsUnderPostmaster && !gc_worker_start(&order, NULL))
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("no background worker is free to do what was ordered"),
					 errhint("SELECT * FROM guest_context.run_maintenance(); later, and raise max_worker_processes.")));
	}
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	List	   *wake = to_wake;
	List	   *announce = to_announce;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	to_wake = to_announce = NIL;
	if (event == XACT_EVENT_COMMIT && !IsBinaryUpgrade)
		wake_owners(wake, announce);
}

static void
remember_owner(List **list, Oid owner)
{
	static bool registered = false;
	MemoryContext caller;

	if (wake_nobody)
		return;
	if (!registered)
		RegisterXactCallback(at_end_of_transaction, NULL);
	registered = true;
	caller = MemoryContextSwitchTo(TopTransactionContext);
	*list = list_append_unique_oid(*list, owner);
	MemoryContextSwitchTo(caller);
}

void
gc_maintenance_wake(Oid owner)
{
	remember_owner(&to_wake, owner);
}

void
gc_maintenance_announce(Oid owner)
{
	remember_owner(&to_announce, owner);
}

void
gc_maintenance_wake_nobody(void)
{
	wake_nobody = true;
}

/*
 * The workers' part
 */

/* At exit of a worker. */
static void
forget_worker(int code, Datum arg)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_WORKERS; i++)
		if (shared->workers[i].pid == MyProcPid)
			shared->workers[i].pid = 0;
	LWLockRelease(shared_lock);
}

/* At exit of a worker that has a companion. */
static void
end_companion(int code, Datum companion)
{
	TerminateBackgroundWorker((BackgroundWorkerHandle *) DatumGetPointer(companion));
}

/* Without a free slot for it nobody looks while a step runs. */
static void
start_companion(Oid database)
{
	Worker		me = {.pid = MyProcPid, .database = database};
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	fill_worker(&worker, "gc_companion_main", "guest_context companion");
	memcpy(worker.bgw_extra, &me, sizeof(me));
	if (RegisterDynamicBackgroundWorker(&worker, &handle))
		before_shmem_exit(end_companion, PointerGetDatum(handle));
}

void
gc_launcher_worker_begins(const GcWorkerOrder *order)
{
	int			launcher_pid;

	if (shared == NULL)
	{
		start_companion(order->database);
		return;
	}
	before_shmem_exit(forget_worker, (Datum) 0);
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_WORKERS; i++)
		if (shared->workers[i].pid == 0)
		{
			shared->workers[i].pid = MyProcPid;
			shared->workers[i].database = order->database;
			break;				/* one too many is not watched, no more */
		}
	launcher_pid = shared->launcher_pid;
	LWLockRelease(shared_lock);
	wake_launcher(launcher_pid);	/* it has somebody to watch now */
}

void
gc_launcher_cycle_done(const GcWorkerOrder *order, bool entities)
{
	Owner	   *place;

	if (shared == NULL)
		return;
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	place = owner_place(order->database, order->owner);
	if (place != NULL)
	{
		place->in_cycle = false;
		place->failures = 0;
		if (place->due == DT_NOEND)
			place->due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CYCLE_SECONDS * 1000);
		if (!entities)
			memset(place, 0, sizeof(*place));
	}
	LWLockRelease(shared_lock);
}

void
gc_launcher_again(const GcWorkerOrder *order)
{
	if (shared != NULL)
		note_due(order->database, order->owner,
				 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RESTART_SECONDS * 1000));
}

/* Started by the launcher in a database: whose entities are in it? */
void
gc_scout_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "1s", PGC_SUSET, PGC_S_OVERRIDE);

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (gc_catalog_exists())
	{
		SPI_connect();
		gc_catalog_execute("SELECT DISTINCT c.relowner FROM guest_context._entity e"
						   " JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) e.versions",
						   0, NULL, NULL, NULL, SPI_OK_SELECT);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			bool		isnull;
			Datum		owner = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

			note_due(database, DatumGetObjectId(owner), GetCurrentTimestamp());
		}
		SPI_finish();
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	proc_exit(0);
}

/*
 * The launcher
 */

/* Workers that the launcher has started, as long as it cares about their end. */
static BackgroundWorkerHandle *handles[MAX_OWNERS];

/* Said once a state, not once a cycle. */
static bool said_no_slot = false;
static bool said_obstacle[MAX_OWNERS];

static void
note_slot(bool free)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->no_slot = !free;
	LWLockRelease(shared_lock);
}

static void
log_no_slot(void)
{
	note_slot(false);
	if (!said_no_slot)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("guest_context maintenance waits for a free background worker"),
				 errhint("You might need to increase max_worker_processes.")));
	said_no_slot = true;
}

static void
all_due(void)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_OWNERS; i++)
		shared->owners[i].due = GetCurrentTimestamp();
	LWLockRelease(shared_lock);
}

static void
nap(long milliseconds)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 milliseconds, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	/* not 0, which would mean that it is not to be started again */
	if (ShutdownRequestPending)
		proc_exit(1);
	if (ConfigReloadPending)
	{
		bool		enabled = gc_ingest_enabled;

		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		if (gc_ingest_enabled && !enabled)
			all_due();			/* to start the ingest workers */
	}
}

/* Can a worker connect to this database now, without waiting? In a transaction. */
static bool
database_open(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		open = HeapTupleIsValid(tuple) && ((Form_pg_database) GETSTRUCT(tuple))->datallowconn;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return open && !gc_database_wanted(database);
}

/* Databases to look into; templates stay as they are. */
static List *
list_databases(MemoryContext context)
{
	List	   *list = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datallowconn && !form->datistemplate)
		{
			MemoryContext caller = MemoryContextSwitchTo(context);

			list = lappend_oid(list, form->oid);
			MemoryContextSwitchTo(caller);
		}
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return list;
}

/* One scout after the other; a database that is busy being dropped or copied is left out. */
static void
scout_databases(void)
{
	List	   *databases = list_databases(CurrentMemoryContext);
	ListCell   *lc;

	foreach(lc, databases)
	{
		BackgroundWorker worker;
		BackgroundWorkerHandle *handle;
		pid_t		pid;
		bool		open;

		StartTransactionCommand();
		open = database_open(lfirst_oid(lc));
		CommitTransactionCommand();
		if (!open)
			continue;
		fill_worker(&worker, "gc_scout_main", "guest_context scout");
		worker.bgw_main_arg = ObjectIdGetDatum(lfirst_oid(lc));
		worker.bgw_notify_pid = MyProcPid;
		while (!RegisterDynamicBackgroundWorker(&worker, &handle))
		{
			log_no_slot();
			nap(5000L);
		}
		while (GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED)
			nap(1000L);
		pfree(handle);
	}
	list_free(databases);
}

/* One that ended without having done its cycle waits before the next. */
static void
note_ended(int i, TimestampTz now)
{
	pid_t		pid;

	if (handles[i] == NULL || GetBackgroundWorkerPid(handles[i], &pid) != BGWH_STOPPED)
		return;
	pfree(handles[i]);
	handles[i] = NULL;
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	if (shared->owners[i].in_cycle)
	{
		Owner	   *place = &shared->owners[i];
		int			minutes = 1 << Min(place->failures, 6);

		place->in_cycle = false;
		place->failures++;
		place->due = TimestampTzPlusMilliseconds(now, Min(minutes, 60) * INT64CONST(60000));
	}
	LWLockRelease(shared_lock);
}

/* The database or the role was dropped: so is its place. In a transaction. */
static bool
forget_dropped(int i, const Owner *place)
{
	if (SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(place->database)) &&
		SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(place->owner)))
		return false;
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	memset(&shared->owners[i], 0, sizeof(Owner));
	LWLockRelease(shared_lock);
	return true;
}

/* Starts the worker of a place, or says once what is in its way. */
static void
start_worker(int i, const Owner *place)
{
	GcWorkerOrder order = {.database = place->database, .owner = place->owner};
	const char *obstacle;
	char	   *hint;
	bool		open;

	StartTransactionCommand();
	open = !forget_dropped(i, place) && database_open(place->database);
	obstacle = open ? gc_worker_obstacle(place->database, place->owner, &hint) : NULL;
	if (obstacle != NULL && !said_obstacle[i])
		ereport(LOG,
				(errmsg("entities in the database with OID %u are not maintained: %s",
						place->database, obstacle),
				 hint ? errhint("%s", hint) : 0));
	said_obstacle[i] = obstacle != NULL;
	CommitTransactionCommand();
	if (!open || obstacle != NULL)
		return;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->owners[i].in_cycle = true;
	LWLockRelease(shared_lock);
	if (handles[i] != NULL)
		pfree(handles[i]);		/* that one is building, and needs no care */
	handles[i] = NULL;
	if (gc_worker_start(&order, &handles[i]))
	{
		said_no_slot = false;
		note_slot(true);
		return;
	}
	log_no_slot();
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->owners[i].in_cycle = false;
	shared->owners[i].due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 5000);
	LWLockRelease(shared_lock);
}

/* Starts what is due; returns how long nothing else will be. */
static long
start_due(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = TimestampTzPlusMilliseconds(now, CYCLE_SECONDS * 1000);
	int			in_cycle = 0;

	for (int i = 0; i < MAX_OWNERS; i++)
	{
		note_ended(i, now);
		in_cycle += shared->owners[i].in_cycle;
	}
	for (int i = 0; i < MAX_OWNERS; i++)
	{
		Owner		place;
		bool		due;

		LWLockAcquire(shared_lock, LW_EXCLUSIVE);
		due = OidIsValid(shared->owners[i].database) && !shared->owners[i].in_cycle &&
			shared->owners[i].due <= now && in_cycle < MAX_AT_ONCE;
		if (due)
			shared->owners[i].due = TimestampTzPlusMilliseconds(now, CYCLE_SECONDS * 1000);
		place = shared->owners[i];
		LWLockRelease(shared_lock);
		if (due)
		{
			start_worker(i, &place);
			in_cycle++;
		}
		else if (OidIsValid(place.database) && !place.in_cycle && in_cycle < MAX_AT_ONCE &&
				 place.due < next)
			next = place.due;
	}
	return TimestampDifferenceMilliseconds(now, next);
}

/* Started by a worker, where there is no launcher: ends it when its database is wanted. */
void
gc_companion_main(Datum arg)
{
	Worker		worker;
	PGPROC	   *process;

	memcpy(&worker, MyBgworkerEntry->bgw_extra, sizeof(worker));
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	for (;;)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, WATCH_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ShutdownRequestPending)
			proc_exit(0);
		process = BackendPidGetProc(worker.pid);
		if (process == NULL || process->databaseId != worker.database)
			proc_exit(0);
		if (gc_database_wanted(worker.database))
			kill(worker.pid, SIGTERM);
	}
}

/* Ends workers whose database is wanted; returns whether any worker runs. */
static bool
watch_workers(void)
{
	bool		any = false;

	for (int i = 0; i < MAX_WORKERS; i++)
	{
		Worker		worker;

		LWLockAcquire(shared_lock, LW_SHARED);
		worker = shared->workers[i];
		LWLockRelease(shared_lock);
		if (worker.pid == 0)
			continue;
		any = true;
		if (gc_database_wanted(worker.database))
			kill(worker.pid, SIGTERM);
	}
	return any;
}

/* At exit of the launcher. */
static void
launcher_gone(int code, Datum arg)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->launcher_pid = 0;
	LWLockRelease(shared_lock);
}

void
gc_launcher_main(Datum arg)
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	context = AllocSetContextCreate(CurrentMemoryContext, "guest_context launcher",
									ALLOCSET_DEFAULT_SIZES);

	before_shmem_exit(launcher_gone, (Datum) 0);
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->launcher_pid = MyProcPid;
	for (int i = 0; i < MAX_OWNERS; i++)
		shared->owners[i].in_cycle = false; /* started by one before, which cared for it */
	LWLockRelease(shared_lock);

	MemoryContextSwitchTo(context);
	scout_databases();
	for (;;)
	{
		long		wait = start_due();

		if (watch_workers())
			wait = Min(wait, WATCH_MS);
		nap(Max(wait, 10));
		MemoryContextSwitchTo(context);
	}
}
