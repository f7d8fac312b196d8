/*
 * maintenance.c: the maintenance worker: one cycle over one owner's entities.
 *
 * A short-lived background worker, connected to one database as the owner of the
 * entities (never as somebody who then takes on a role). It is started by the
 * launcher every minute, by run_maintenance(), or at the commit of a verb that
 * ordered something, and ends when it has done its cycle:
 *
 *	 leaves		speed leaves ahead, so that no record finds its day missing
 *	 retention	speed leaves that nobody needs any more are dropped (retention.c)
 *	 dataset	leaves of dropped datasets likewise
 *	 analyze	statistics of the whole tree, which autovacuum never makes
 *	 build		datasets of the current truth, ordered or on schedule (schedule.c)
 *
 * Every step of every entity is a transaction of its own, or several. An error ends
 * that step alone; it is logged when it is new, and stays in guest_context._maintenance,
 * where the entity's view shows it, until a cycle gets past it. After an error the
 * step is left out for a minute, then two, then four, up to an hour.
 *
 * Nobody waits for this worker: it takes only locks that readers and writers do not
 * mind, or looks first whether a lock is free, and lock_timeout is short. It holds no
 * transaction while it waits. Between steps it looks whether somebody wants the
 * database to himself (DROP, RENAME, TEMPLATE), and leaves.
 *
 * At most one worker per owner is in its cycle, and one more waits to begin: whoever
 * comes third leaves at once, for the one that waits will do what it was to do.
 * Building can take long, so it begins after that lock is released; the next cycle
 * then runs beside it.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "executor/spi.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "dataset.h"
#include "guest_context.h"
#include "ingest.h"
#include "key_filter.h"
#include "launcher.h"
#include "maintenance.h"
#include "tree.h"

/* Naps: how long one is, and all of them in a cycle. */
#define NAP_MS			100
#define NAPS_PER_CYCLE	10

/* Locks on the owner, in this database, of session length. */
#define LOCK_WAITING	1
#define LOCK_CYCLE		2
#define LOCK_BUILDING	3

/* ANALYZE when the tree's size differs by more than this from what statistics say. */
#define ANALYZE_FRACTION	0.2
#define ANALYZE_ROWS		1000

/* Dead letters of one transaction that ends their time. */
#define EXPIRE_AT_ONCE		5000

/* What earlier cycles could not do. */
typedef struct Note
{
	int32		entity_id;
	char	   *action;
	char	   *message;
	int			failures;		/* errors in a row; 0 = it only waits */
	TimestampTz retry_at;
	bool		holds;			/* this cycle has not got past it either */
} Note;

static GcWorkerOrder order;
static MemoryContext cycle_context;
static shm_mq_handle *report = NULL;
static List *notes = NIL;
static int	naps = 0;

PGDLLEXPORT void gc_maintenance_main(Datum arg);

int
gc_worker_caller(void)
{
	return order.caller_pid;
}

/*
 * Transactions
 */

void
gc_step_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
gc_step_end(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(cycle_context);
}

/*
 * Settings of the role or the database must not change what a worker does: a
 * read-only default would stop it, a timeout would make it fail half way.
 */
void
gc_worker_pin_settings(const char *lock_timeout)
{
	static const char *const pinned[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"transaction_timeout", "0"},	/* from 17 on */
		{"idle_in_transaction_session_timeout", "0"},
		{"default_table_access_method", "heap"},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"extra_float_digits", "1"},
	};

	for (int i = 0; i < lengthof(pinned); i++)
		if (GetConfigOption(pinned[i][0], true, false) != NULL)
			SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", lock_timeout, PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Telling
 */

/* One row of run_maintenance: the entity's view, the action, the detail. */
static void
send_row(Oid view, const char *action, const char *detail)
{
	shm_mq_iovec parts[3];

	if (report == NULL)
		return;
	parts[0].data = (const char *) &view;
	parts[0].len = sizeof(view);
	parts[1].data = action;
	parts[1].len = strlen(action) + 1;
	parts[2].data = detail;
	parts[2].len = strlen(detail) + 1;
	/* a caller that has gone away changes nothing */
	(void) shm_mq_sendv(report, parts, 3, false, true);
}

/* Has nobody interrupted run_maintenance? */
static bool
caller_listens(void)
{
	return report != NULL && shm_mq_wait_for_attach(report) == SHM_MQ_SUCCESS;
}

void
gc_step_did(const GcEntity *entity, const char *action, const char *format,...)
{
	StringInfoData detail;
	va_list		args;
	int			needed;

	initStringInfo(&detail);
	for (;;)
	{
		va_start(args, format);
		needed = appendStringInfoVA(&detail, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&detail, needed);
	}
	ereport(LOG,
			(errmsg("maintenance of \"%s.%s\": %s", entity->schema, entity->name, detail.data)));
	send_row(entity->view, action, detail.data);
}

static Note *
find_note(int32 entity_id, const char *action)
{
	ListCell   *lc;

	foreach(lc, notes)
	{
		Note	   *note = lfirst(lc);

		if (note->entity_id == entity_id && strcmp(note->action, action) == 0)
			return note;
	}
	return NULL;
}

static void
write_note(const Note *note)
{
	gc_catalog_run(SPI_OK_INSERT,
				   "INSERT INTO guest_context._maintenance AS m (entity_id, action, message, failures, retry_at)"
				   " SELECT $1, $2, $3, $4, $5 FROM guest_context._entity e WHERE e.entity_id OPERATOR(pg_catalog.=) $1"
				   " ON CONFLICT (entity_id, action) DO UPDATE SET message = excluded.message,"
				   "  failures = excluded.failures, retry_at = excluded.retry_at", 5,
				   INT4OID, Int32GetDatum(note->entity_id),
				   TEXTOID, CStringGetTextDatum(note->action),
				   TEXTOID, CStringGetTextDatum(note->message),
				   INT4OID, Int32GetDatum(note->failures),
				   TIMESTAMPTZOID, TimestampTzGetDatum(note->retry_at));
}

/* Keeps what could not be done; true when that is news. */
static bool
take_note(const GcEntity *entity, const char *action, const char *message, bool error)
{
	MemoryContext caller = MemoryContextSwitchTo(cycle_context);
	Note	   *note = find_note(entity->entity_id, action);
	bool		news = note == NULL || strcmp(note->message, message) != 0;

	if (note == NULL)
	{
		note = palloc0(sizeof(Note));
		note->entity_id = entity->entity_id;
		note->action = pstrdup(action);
		notes = lappend(notes, note);
	}
	note->holds = true;
	note->message = pstrdup(message);
	note->failures = error ? note->failures + 1 : 0;
	note->retry_at = !error ? DT_NOBEGIN :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									Min(1 << Min(note->failures - 1, 6), 60) * INT64CONST(60000));
	MemoryContextSwitchTo(caller);
	if (news || error)
	{
		gc_step_begin();
		if (gc_catalog_exists())
			write_note(note);
		gc_step_end();
	}
	send_row(entity->view, action, message);
	return news;
}

void
gc_step_waits(const GcEntity *entity, const char *action, const char *format,...)
{
	char	   *message;
	va_list		args;
	char		buffer[1024];

	va_start(args, format);
	vsnprintf(buffer, sizeof(buffer), format, args);
	va_end(args);
	message = pstrdup(buffer);
	if (take_note(entity, action, message, false))
		ereport(LOG,
				(errmsg("maintenance of \"%s.%s\" waits: %s", entity->schema, entity->name, message)));
}

static void
read_notes(void)
{
	MemoryContext spi;

	SPI_connect();
	gc_catalog_execute("SELECT entity_id, action, message, failures, retry_at"
					   " FROM guest_context._maintenance", 0, NULL, NULL, NULL, SPI_OK_SELECT);
	spi = MemoryContextSwitchTo(cycle_context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Note	   *note = palloc0(sizeof(Note));
		bool		isnull;

		note->entity_id = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
		note->action = TextDatumGetCString(SPI_getbinval(row, desc, 2, &isnull));
		note->message = TextDatumGetCString(SPI_getbinval(row, desc, 3, &isnull));
		note->failures = DatumGetInt32(SPI_getbinval(row, desc, 4, &isnull));
		note->retry_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 5, &isnull));
		notes = lappend(notes, note);
	}
	MemoryContextSwitchTo(spi);
	SPI_finish();
}

/*
 * What this cycle got past is history, and so is what belonged to an entity that is
 * gone. Builds have their own time.
 */
static void
delete_notes(List *entities, bool builds)
{
	ListCell   *lc;

	foreach(lc, notes)
	{
		Note	   *note = lfirst(lc);
		bool		ours = false;
		ListCell   *e;

		foreach(e, entities)
			ours |= ((GcEntity *) lfirst(e))->entity_id == note->entity_id;
		if (!ours || note->holds || (strcmp(note->action, "build") == 0) != builds)
			continue;
		gc_catalog_run(SPI_OK_DELETE,
					   "DELETE FROM guest_context._maintenance"
					   " WHERE entity_id OPERATOR(pg_catalog.=) $1 AND action OPERATOR(pg_catalog.=) $2", 2,
					   INT4OID, Int32GetDatum(note->entity_id), TEXTOID, CStringGetTextDatum(note->action));
	}
	gc_catalog_run(SPI_OK_DELETE,
				   "DELETE FROM guest_context._maintenance m WHERE NOT EXISTS"
				   " (SELECT FROM guest_context._entity e WHERE e.entity_id OPERATOR(pg_catalog.=) m.entity_id)", 0);
}

/*
 * Leaving
 */

void
gc_worker_yield(void)
{
	CHECK_FOR_INTERRUPTS();
	if (gc_database_wanted(MyDatabaseId))
		proc_exit(0);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

static void
nap(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, NAP_MS,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	gc_worker_yield();
}

bool
gc_worker_nap(void)
{
	if (naps++ >= NAPS_PER_CYCLE)
		return false;
	nap();
	return true;
}

/*
 * Steps
 */

/* After an error: the extension, or the entity, may be what has gone. */
static bool
still_there(const GcEntity *entity)
{
	bool		there;

	gc_step_begin();
	if (!gc_catalog_exists())
		proc_exit(0);
	there = gc_entity_get(entity->view, true) != NULL;
	gc_step_end();
	return there;
}

/* The details of data errors quote rows, which are not for everybody who sees a message. */
char *
gc_error_text(const ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	if (error->detail == NULL || category == ERRCODE_DATA_EXCEPTION ||
		category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
		return pstrdup(error->message);
	return psprintf("%s: %s", error->message, error->detail);
}

static void
note_error(const GcEntity *entity, const char *action, const ErrorData *error)
{
	const char *text = gc_error_text(error);

	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		gc_step_waits(entity, action, "somebody else holds a lock");
	else if (error->sqlerrcode == ERRCODE_OBJECT_IN_USE)
		gc_step_waits(entity, action, "%s", text);
	else if (take_note(entity, action, text, true))
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("maintenance of \"%s.%s\" failed: %s", entity->schema, entity->name, text),
				 errcontext("%s", action)));
}

void
gc_step_run(const GcEntity *entity, const char *action, GcStep step, void *arg)
{
	Note	   *note = find_note(entity->entity_id, action);
	ErrorData  *volatile error = NULL;

	gc_worker_yield();
	if (note != NULL && note->failures > 0 && order.caller_pid == 0 &&
		note->retry_at > GetCurrentTimestamp())
	{
		note->holds = true;
		return;
	}

	PG_TRY();
	{
		step(entity, arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cycle_context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cycle_context);
	if (error != NULL && still_there(entity))
		note_error(entity, action, error);
}

/* Step: speed leaves ahead. */
static void
make_leaves(const GcEntity *entity, void *arg)
{
	int			made;
	TimestampTz until;

	gc_step_begin();
	until = gc_speed_leaves_target(entity);
	made = gc_speed_leaves_ensure(entity, until);
	gc_step_end();
	if (made > 0)
		gc_step_did(entity, "leaves", "made %d partition%s ahead", made, made == 1 ? "" : "s");
}

/*
 * Do the leaves, whose sizes autovacuum keeps, hold much more or less than the
 * tree's statistics were made from? Those are -1 when there are none.
 */
static bool
statistics_are_old(const GcEntity *entity)
{
	return gc_catalog_run_bigint(SPI_OK_SELECT,
								 "SELECT 1::pg_catalog.int8 FROM pg_catalog.pg_class t,"
								 " LATERAL (SELECT coalesce(pg_catalog.sum(c.reltuples) FILTER (WHERE c.reltuples OPERATOR(pg_catalog.>) 0), 0) AS rows"
								 "          FROM pg_catalog.pg_partition_tree(t.oid) p"
								 "          JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.relid WHERE p.isleaf) l"
								 " WHERE t.oid OPERATOR(pg_catalog.=) $1 AND CASE WHEN t.reltuples OPERATOR(pg_catalog.<) 0"
								 "  THEN l.rows OPERATOR(pg_catalog.>) 0"
								 "  ELSE pg_catalog.abs(l.rows OPERATOR(pg_catalog.-) t.reltuples) OPERATOR(pg_catalog.>)"
								 "   ($2 OPERATOR(pg_catalog.+) ($3 OPERATOR(pg_catalog.*) t.reltuples)) END", 3,
								 OIDOID, ObjectIdGetDatum(entity->versions),
								 FLOAT8OID, Float8GetDatum(ANALYZE_ROWS),
								 FLOAT8OID, Float8GetDatum(ANALYZE_FRACTION)) != 0;
}

/* Step: statistics of the whole tree. */
static void
analyze_tree(const GcEntity *entity, void *arg)
{
	bool		needed;

	gc_step_begin();
	needed = statistics_are_old(entity);
	if (needed)
		gc_tree_analyze(entity);
	gc_step_end();
	if (needed)
		gc_step_did(entity, "analyze", "analyzed the tree");
}

/*
 * The cycle
 */

/*
 * Of the lock method of advisory locks: those of session length outlive errors, and
 * are released when the process ends, which others are not.
 */
static void
owner_tag(LOCKTAG *tag, int which)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, AuthIdRelationId, order.owner, which);
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

static bool
lock_owner(int which)
{
	LOCKTAG		tag;

	owner_tag(&tag, which);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

static void
unlock_owner(int which)
{
	LOCKTAG		tag;

	owner_tag(&tag, which);
	LockRelease(&tag, ExclusiveLock, true);
}

/* Waits until no other worker of this owner is in its cycle; false when one waits already. */
static bool
begin_cycle(void)
{
	while (!lock_owner(LOCK_WAITING))
	{
		/* somebody who waits for us wants a cycle that began after he asked */
		if (order.caller_pid == 0)
			return false;
		nap();
	}
	while (!lock_owner(LOCK_CYCLE))
		nap();
	unlock_owner(LOCK_WAITING);
	return true;
}

/* Building is for one worker; who is waited for waits for that one. */
static bool
begin_building(void)
{
	while (!lock_owner(LOCK_BUILDING))
	{
		if (order.caller_pid == 0 || !caller_listens())
			return false;
		nap();
	}
	return true;
}

/* The owner's entities, in the cycle's memory; NIL also when the extension is gone. */
static List *
read_entities(void)
{
	List	   *entities = NIL;

	gc_step_begin();
	MemoryContextSwitchTo(cycle_context);
	if (gc_catalog_exists())
	{
		entities = gc_entities_of(order.owner);
		read_notes();
	}
	gc_step_end();
	return entities;
}

/* Step, of all the owner's entities together. */
static void
start_ingest(const GcEntity *entity, void *arg)
{
	bool		all;

	gc_step_begin();
	all = !gc_ingest_enabled || gc_ingest_start(order.owner);
	gc_step_end();
	if (all)
		return;
	gc_launcher_again(&order);
	gc_step_waits(entity, "ingest", "waiting for a worker slot: raise max_worker_processes, or let others end");
}

/* Step, of one entity: rows of the ledger that only tell what has been. */
static void
prune_ledger(const GcEntity *entity, void *arg)
{
	gc_step_begin();
	gc_catalog_run(SPI_OK_DELETE,
				   "DELETE FROM guest_context._ledger l USING guest_context._changelog c"
				   " WHERE c.entity_id OPERATOR(pg_catalog.=) $1 AND l.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
				   " AND l.at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) '1 hour'::pg_catalog.interval)"
				   /* what was read before a seek is asked for when the partition begins anew */
				   " AND EXISTS (SELECT FROM guest_context._ledger n"
				   "  WHERE n.changelog_id OPERATOR(pg_catalog.=) l.changelog_id AND n.partition OPERATOR(pg_catalog.=) l.partition"
				   "  AND (n.generation, n.from_offset) OPERATOR(pg_catalog.>) (l.generation, l.from_offset))", 1,
				   INT4OID, Int32GetDatum(entity->entity_id));
	gc_step_end();
}

/* Step, of one entity: dead letters that have waited too long, if a setting says so. */
static void
expire_dead_letters(const GcEntity *entity, void *arg)
{
	while (gc_dead_letter_retention > 0)
	{
		int64		expired;

		gc_step_begin();
		expired = gc_catalog_run_bigint(SPI_OK_SELECT,
										"WITH gone AS (DELETE FROM guest_context._dead_letter WHERE dead_letter_id OPERATOR(pg_catalog.=) ANY"
										"  (ARRAY(SELECT dl.dead_letter_id FROM guest_context._dead_letter dl JOIN guest_context._changelog c"
										"   ON c.changelog_id OPERATOR(pg_catalog.=) dl.changelog_id WHERE c.entity_id OPERATOR(pg_catalog.=) $1"
										"   AND dl.at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(mins => $2))"
										"   ORDER BY dl.dead_letter_id LIMIT $3)) RETURNING changelog_id, at),"
										" audit AS (INSERT INTO guest_context._audit (role, verb, object, reason, detail)"
										"  SELECT $4, 'discard', c.name, 'guest_context.dead_letter_retention',"
										"   pg_catalog.jsonb_build_object('dead_letters', pg_catalog.count(*), 'until', pg_catalog.max(g.at))"
										"  FROM gone g JOIN guest_context._changelog c ON c.changelog_id OPERATOR(pg_catalog.=) g.changelog_id GROUP BY c.name)"
										" SELECT pg_catalog.count(*) FROM gone", 4,
										INT4OID, Int32GetDatum(entity->entity_id),
										INT4OID, Int32GetDatum(gc_dead_letter_retention),
										INT8OID, Int64GetDatum(EXPIRE_AT_ONCE),
										TEXTOID, CStringGetTextDatum(GetUserNameFromId(GetUserId(), false)));
		gc_step_end();
		if (expired > 0)
			gc_step_did(entity, "dead letters", "discarded %lld dead letters, as guest_context.dead_letter_retention says",
						(long long) expired);
		if (expired < EXPIRE_AT_ONCE)
			break;
		gc_worker_yield();
	}
}

static void
cycle(List *entities)
{
	ListCell   *lc;

	if (entities != NIL)
		gc_step_run(linitial(entities), "ingest", start_ingest, NULL);
	foreach(lc, entities)
		gc_step_run(lfirst(lc), "leaves", make_leaves, NULL);
	foreach(lc, entities)
	{
		gc_step_run(lfirst(lc), "retention", gc_retention_decide, NULL);
		gc_step_run(lfirst(lc), "dataset", gc_retention_decide_datasets, NULL);
	}
	gc_retention_drop(entities);
	foreach(lc, entities)
	{
		gc_step_run(lfirst(lc), "ledger", prune_ledger, NULL);
		gc_step_run(lfirst(lc), "dead letters", expire_dead_letters, NULL);
	}
	foreach(lc, entities)
		gc_step_run(lfirst(lc), "filters", gc_key_filter_make, NULL);
	foreach(lc, entities)
		gc_step_run(lfirst(lc), "analyze", analyze_tree, NULL);
	foreach(lc, entities)
		if (((GcEntity *) lfirst(lc))->parent_id == 0)
			gc_step_run(lfirst(lc), "schedule", gc_schedule_order, NULL);
}

static void
settle_notes(List *entities, bool builds)
{
	gc_step_begin();
	if (gc_catalog_exists())
		delete_notes(entities, builds);
	gc_step_end();
}

static void
attach_report(void)
{
	dsm_segment *segment;
	shm_mq	   *queue;

	if (order.caller_pid == 0)
		return;
	segment = dsm_attach(order.report);
	if (segment == NULL)
		return;					/* the caller has gone away */
	dsm_pin_mapping(segment);
	queue = dsm_segment_address(segment);
	shm_mq_set_sender(queue, MyProc);
	report = shm_mq_attach(queue, segment, NULL);
}

static void
maintain(void)
{
	List	   *entities;

	if (!begin_cycle())
	{
		gc_launcher_cycle_done(&order, true);
		return;
	}
	entities = read_entities();
	cycle(entities);
	settle_notes(entities, false);
	unlock_owner(LOCK_CYCLE);
	gc_launcher_cycle_done(&order, entities != NIL);
	if (entities != NIL && begin_building())
	{
		/* its locks are of kinds that only other maintenance minds */
		SetConfigOption("lock_timeout", "1min", PGC_SUSET, PGC_S_OVERRIDE);
		gc_schedule_build(entities);
		settle_notes(entities, true);
	}
	send_row(InvalidOid, "", "");	/* the end, reached in good order */
}

void
gc_maintenance_main(Datum arg)
{
	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(order.database, order.owner, GC_WORKER_CONNECT_FLAGS);
	cycle_context = AllocSetContextCreate(CurrentMemoryContext, "guest_context maintenance",
										  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(cycle_context);
	attach_report();
	gc_launcher_worker_begins(&order);
	gc_maintenance_wake_nobody();
	/* shorter than any deadlock_timeout: nobody is cancelled because of us */
	gc_worker_pin_settings("200ms");

	PG_TRY();
	{
		maintain();
	}
	PG_CATCH();
	{
		/* outside of a step: somebody has locked the catalogue, or drops the extension; a later cycle sees */
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE || order.caller_pid != 0)
			PG_RE_THROW();
	}
	PG_END_TRY();
	proc_exit(0);
}
