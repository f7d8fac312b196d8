/*
 * freshness.c: what readers may know of how far changelogs have been read: offsets,
 * wait_for, wait_for_head.
 *
 * All answer from the ledger, which is committed with the rows: what it says can be read is there
 * to be read by the next statement. Who may read the entity may ask.
 *
 * A wait looks into the ledger, each time with a new snapshot, and sleeps until something has changed.
 * On a primary whose server preloads the library it sleeps on a condition variable: one of a fixed array in
 * shared memory, chosen by database and entity. Whoever moves a changelog of the entity on, stops
 * or drops it, says so in its transaction, and the variable is broadcast once that has been committed and can be
 * seen. One prepares to sleep before the look that the sleep rests on, so no commit is missed; entities that
 * share a variable wake each other for nothing. The end of a prepared transaction is somebody else's and says
 * nothing: the worker does, when it notices what has changed. Everywhere else, on a standby above all, where
 * commits come by replay, a wait looks every LOOK_MS.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "changelog.h"
#include "compat.h"
#include "dataset.h"
#include "freshness.h"
#include "reader_process.h"
#include "server_options.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_offsets);
PG_FUNCTION_INFO_V1(gc_wait_for);
PG_FUNCTION_INFO_V1(gc_wait_for_head);

#define LOOK_MS			10
#define LEAST_ANSWER_MS	5000	/* that a server has to say where a topic ends, whatever the timeout */
#define LONGEST_ANSWER_MS	(60 * 60 * 1000)
#define ASK_AGAIN_MS	500		/* where a topic ends that ends too early */
#define VARIABLES		64

static ConditionVariable *variables = NULL; /* stays NULL without preloading */
static uint64 changed = 0;		/* those of them that this transaction is to broadcast */

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

/*
 * Waking
 */

static void
request_shared(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(sizeof(ConditionVariable) * VARIABLES);
}

static void
startup_shared(void)
{
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	variables = ShmemInitStruct("guest_context freshness", sizeof(ConditionVariable) * VARIABLES, &found);
	for (int i = 0; i < VARIABLES && !found; i++)
		ConditionVariableInit(&variables[i]);
	LWLockRelease(AddinShmemInitLock);
}

void
gc_freshness_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shared;
}

static int
variable_of(int32 entity_id)
{
	return hash_combine(murmurhash32(MyDatabaseId), murmurhash32(entity_id)) % VARIABLES;
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	uint64		mine = changed;

	if (mine == 0 || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	changed = 0;
	for (int i = 0; i < VARIABLES && event == XACT_EVENT_COMMIT; i++)
		if (mine & (UINT64CONST(1) << i))
			ConditionVariableBroadcast(&variables[i]);
}

void
gc_freshness_changed(const GcEntity *entity)
{
	static bool registered = false;

	if (variables == NULL)
		return;
	if (!registered)
		RegisterXactCallback(at_end_of_transaction, NULL);
	registered = true;
	changed |= UINT64CONST(1) << variable_of(entity->entity_id);
}

/*
 * Looking
 */

static GcEntity *
readable_entity(FunctionCallInfo fcinfo)
{
	GcEntity   *entity;

	gc_require_argument(fcinfo, 0, "entity");
	entity = gc_entity_get(PG_GETARG_OID(0), false);
	if (pg_class_aclcheck(entity->view, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, gc_entity_label(entity));
	return entity;
}

/* offsets(entity) -> setof (changelog, topic, partition, next_offset) */
Datum
gc_offsets(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcEntity   *entity = readable_entity(fcinfo);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(entity->entity_id)};

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	gc_catalog_execute("SELECT c.name, c.topic, p.partition, p.to_offset FROM guest_context._changelog c"
					   " JOIN guest_context._position p ON p.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
					   " WHERE c.entity_id OPERATOR(pg_catalog.=) $1 ORDER BY c.name, p.partition",
					   1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		row[4];
		bool		nulls[4];

		for (int j = 0; j < 4; j++)
			row[j] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, j + 1, &nulls[j]);
		tuplestore_putvalues(result->setResult, result->setDesc, row, nulls);
	}
	SPI_finish();
	gc_leave(guc_level);
	return (Datum) 0;
}

/* What a wait is for: positions of the entity's changelogs, as arguments of the query that looks. */
typedef struct Goal
{
	const GcEntity *entity;
	char	   *topic;			/* for the message that there is no changelog; NULL = any */
	Datum		values[7];
} Goal;

/* One partition of a topic is to have been read up to this offset, without it. */
typedef struct Mark
{
	const char *server;			/* "" = any */
	const char *topic;
	int32		partition;
	int64		first_offset;	/* next_offset: there is nothing to be read, so it need not have been begun */
	int64		next_offset;
} Mark;

static void
goal_set(Goal *goal, const GcEntity *entity, const char *topic, const Mark *marks, int nmarks)
{
	Datum	   *columns[5];

	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = palloc(sizeof(Datum) * nmarks);
	for (int i = 0; i < nmarks; i++)
	{
		columns[0][i] = CStringGetTextDatum(marks[i].server);
		columns[1][i] = CStringGetTextDatum(marks[i].topic);
		columns[2][i] = Int32GetDatum(marks[i].partition);
		columns[3][i] = Int64GetDatum(marks[i].first_offset);
		columns[4][i] = Int64GetDatum(marks[i].next_offset);
	}
	goal->entity = entity;
	goal->topic = topic ? pstrdup(topic) : NULL;
	goal->values[0] = Int32GetDatum(entity->entity_id);
	goal->values[1] = ObjectIdGetDatum(MyDatabaseId);
	for (int i = 0; i < 2; i++)
		goal->values[2 + i] = PointerGetDatum(construct_array(columns[i], nmarks, TEXTOID, -1, false, TYPALIGN_INT));
	goal->values[4] = PointerGetDatum(construct_array(columns[2], nmarks, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	for (int i = 3; i < 5; i++)
		goal->values[2 + i] = PointerGetDatum(construct_array(columns[i], nmarks, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static void
complain_of_none(const GcEntity *entity, const char *topic)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 topic ? errmsg("entity \"%s\" has no changelog of topic \"%s\"", gc_entity_label(entity), topic) :
			 errmsg("entity \"%s\" has no changelog", gc_entity_label(entity)),
			 errhint("SELECT changelog, entity, topic FROM guest_context.changelog;")));
}

static void
complain_of_stopped(const char *changelog)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("changelog \"%s\" has stopped", changelog),
			 errhint("SELECT * FROM guest_context.status;")));
}

/*
 * Has every changelog that the goal is about come so far? ERROR when there is none, or one has not and
 * does not go on by itself. Looks with a new snapshot.
 */
static bool
is_reached(Goal *goal)
{
	Oid			types[7] = {INT4OID, OIDOID, TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID};
	HeapTuple	row;
	char	   *stopped;
	bool		isnull;
	bool		reached;

	SPI_connect();
	gc_catalog_execute("SELECT pg_catalog.count(*), coalesce(pg_catalog.bool_and("
					   "  coalesce(l.to_offset OPERATOR(pg_catalog.>=) m.next_offset, m.first_offset OPERATOR(pg_catalog.=) m.next_offset)), false),"
					   " pg_catalog.min(c.name) FILTER (WHERE s.database IS DISTINCT FROM $2 OR s.paused OR s.halted)"
					   " FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6),"
					   "  pg_catalog.unnest($7)) m (server, topic, partition, first_offset, next_offset)"
					   " JOIN guest_context._changelog c ON c.topic OPERATOR(pg_catalog.=) m.topic"
					   "  AND (m.server OPERATOR(pg_catalog.=) '' OR c.server OPERATOR(pg_catalog.=) m.server)"
					   " LEFT JOIN guest_context._changelog_state s ON s.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
					   " LEFT JOIN LATERAL (SELECT l.to_offset FROM guest_context._ledger l"
					   "  WHERE l.changelog_id OPERATOR(pg_catalog.=) c.changelog_id AND l.generation OPERATOR(pg_catalog.=) c.generation"
					   "  AND l.partition OPERATOR(pg_catalog.=) m.partition ORDER BY l.from_offset DESC LIMIT 1) l ON true"
					   " WHERE c.entity_id OPERATOR(pg_catalog.=) $1",
					   7, types, goal->values, NULL, SPI_OK_SELECT);
	row = SPI_tuptable->vals[0];
	if (DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull)) == 0)
		complain_of_none(goal->entity, goal->topic);
	reached = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
	stopped = SPI_getvalue(row, SPI_tuptable->tupdesc, 3);
	if (!reached && stopped != NULL)
		complain_of_stopped(stopped);
	SPI_finish();
	return reached;
}

/*
 * Waiting
 */

static void
require_new_snapshots(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot wait for a record in a transaction that keeps its snapshot"),
				 errdetail("It would not see the record when that is there."),
				 errhint("Wait in a transaction of isolation level READ COMMITTED.")));
}

/* Until the entity's changelogs may have come further, or so many milliseconds. */
static void
sleep_until_changed(const GcEntity *entity, long left)
{
	if (variables != NULL && !RecoveryInProgress())
	{
		/* who has not prepared to sleep yet is only prepared, and looks again */
		(void) ConditionVariableTimedSleep(&variables[variable_of(entity->entity_id)], left, PG_WAIT_EXTENSION);
		return;
	}
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, Min(left, LOOK_MS), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* False when the time is over. */
static bool
wait_until(Goal *goal, TimestampTz until)
{
	bool		reached;
	long		left;

	for (;;)
	{
		reached = is_reached(goal);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		if (reached || left <= 0)
			break;
		sleep_until_changed(goal->entity, left);
	}
	ConditionVariableCancelSleep();
	return reached;
}

/* wait_for(entity, topic, partition, record_offset, timeout) -> boolean */
Datum
gc_wait_for(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcEntity   *entity = readable_entity(fcinfo);
	Mark		mark = {.server = "", .first_offset = -1};
	Goal		goal;
	bool		reached;

	gc_require_argument(fcinfo, 1, "topic");
	gc_require_argument(fcinfo, 2, "partition");
	gc_require_argument(fcinfo, 3, "record_offset");
	gc_require_argument(fcinfo, 4, "timeout");
	require_new_snapshots();
	mark.topic = text_to_cstring(PG_GETARG_TEXT_PP(1));
	mark.partition = PG_GETARG_INT32(2);
	/* no offset has none behind it, and none is that large */
	mark.next_offset = Min(PG_GETARG_INT64(3), PG_INT64_MAX - 1) + 1;
	goal_set(&goal, entity, mark.topic, &mark, 1);
	reached = wait_until(&goal, gc_timestamp_plus(GetCurrentTimestamp(), PG_GETARG_INTERVAL_P(4)));
	gc_leave(guc_level);
	PG_RETURN_BOOL(reached);
}

/*
 * The head
 */

/* Topics that the entity's changelogs read, as Marks without a position; ERROR when a changelog has stopped. */
static List *
topics_of(const GcEntity *entity)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {INT4OID, OIDOID};
	Datum		values[2] = {Int32GetDatum(entity->entity_id), ObjectIdGetDatum(MyDatabaseId)};
	List	   *topics = NIL;

	SPI_connect();
	gc_catalog_execute("SELECT c.server, c.topic, pg_catalog.min(c.name) FILTER (WHERE s.database IS DISTINCT FROM $2 OR s.paused OR s.halted)"
					   " FROM guest_context._changelog c"
					   " LEFT JOIN guest_context._changelog_state s ON s.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
					   " WHERE c.entity_id OPERATOR(pg_catalog.=) $1 GROUP BY 1, 2 ORDER BY 3, 1, 2",
					   2, types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed == 0)
		complain_of_none(entity, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		char	   *stopped = SPI_getvalue(row, SPI_tuptable->tupdesc, 3);
		MemoryContext spi;
		Mark	   *topic;

		if (stopped != NULL)
			complain_of_stopped(stopped);
		spi = MemoryContextSwitchTo(caller);
		topic = palloc0(sizeof(Mark));
		topic->server = SPI_getvalue(row, SPI_tuptable->tupdesc, 1);
		topic->topic = SPI_getvalue(row, SPI_tuptable->tupdesc, 2);
		topics = lappend(topics, topic);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return topics;
}

/* How far the entity's changelogs have read a topic, the furthest of each partition; with a new snapshot. */
static GcRange *
positions_of(const GcEntity *entity, const Mark *topic, int *count)
{
	Oid			types[3] = {INT4OID, TEXTOID, TEXTOID};
	Datum		values[3] = {Int32GetDatum(entity->entity_id), CStringGetTextDatum(topic->server), CStringGetTextDatum(topic->topic)};
	MemoryContext caller = CurrentMemoryContext;
	GcRange    *positions;

	SPI_connect();
	gc_catalog_execute("SELECT p.partition, pg_catalog.max(p.to_offset) FROM guest_context._changelog c"
					   " JOIN guest_context._position p ON p.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
					   " WHERE c.entity_id OPERATOR(pg_catalog.=) $1 AND c.server OPERATOR(pg_catalog.=) $2"
					   " AND c.topic OPERATOR(pg_catalog.=) $3 GROUP BY 1",
					   3, types, values, NULL, SPI_OK_SELECT);
	*count = (int) SPI_processed;
	positions = MemoryContextAlloc(caller, sizeof(GcRange) * (*count + 1));
	for (int i = 0; i < *count; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;

		positions[i].partition = DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		positions[i].low = positions[i].high = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
	}
	SPI_finish();
	return positions;
}

/* Has more been read than there is? Then these are offsets of another topic, or of a broker that is behind. */
static bool
ends_too_early(const GcRange *positions, int npositions, const GcRange *ranges, int nranges)
{
	for (int i = 0; i < npositions; i++)
	{
		int			j = 0;

		while (j < nranges && ranges[j].partition != positions[i].partition)
			j++;
		if (j == nranges || ranges[j].high < positions[i].high)
			return true;
	}
	return false;
}

/*
 * Where a topic ends. One that was made anew can be shorter than what has been read of the one before, and then an offset
 * behind its end proves nothing: it is asked again until the worker has noticed and halted, which is an
 * error, or somebody has accepted it. False when the time is over.
 */
static bool
find_head(const GcEntity *entity, const Mark *topic, long answer_ms, TimestampTz until, GcRange **ranges, int *nranges)
{
	Oid			server = gc_server_oid(topic->server);

	gc_server_check_usage(server, entity->owner);
	for (;;)
	{
		int			npositions;
		GcRange    *positions = positions_of(entity, topic, &npositions);
		long		left;

		*ranges = gc_topic_ranges(server, entity->owner, topic->topic, (int) answer_ms, nranges);
		if (!ends_too_early(positions, npositions, *ranges, *nranges))
			return true;
		(void) topics_of(entity);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		if (left <= 0)
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, Min(left, ASK_AGAIN_MS), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * wait_for_head(entity, timeout) -> boolean
 *
 * The server is asked with the login of the entity's owner, by a reader of this session's own. Who may read the
 * entity learns from that no more than `status` says.
 */
Datum
gc_wait_for_head(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcEntity   *entity = readable_entity(fcinfo);
	Mark	   *marks = NULL;
	int			nmarks = 0;
	TimestampTz until;
	long		answer_ms;
	Goal		goal;
	ListCell   *lc;
	bool		reached;

	gc_require_argument(fcinfo, 1, "timeout");
	require_new_snapshots();
	until = gc_timestamp_plus(GetCurrentTimestamp(), PG_GETARG_INTERVAL_P(1));
	answer_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
	answer_ms = Min(Max(answer_ms, LEAST_ANSWER_MS), LONGEST_ANSWER_MS);
	foreach(lc, topics_of(entity))
	{
		Mark	   *topic = lfirst(lc);
		GcRange    *ranges;
		int			nranges;

		if (!find_head(entity, topic, answer_ms, until, &ranges, &nranges))
		{
			gc_leave(guc_level);
			PG_RETURN_BOOL(false);
		}
		marks = marks ? repalloc(marks, sizeof(Mark) * (nmarks + nranges)) : palloc(sizeof(Mark) * nranges);
		for (int i = 0; i < nranges; i++)
		{
			topic->partition = ranges[i].partition;
			topic->first_offset = ranges[i].low;
			topic->next_offset = ranges[i].high;
			marks[nmarks++] = *topic;
		}
	}
	goal_set(&goal, entity, NULL, marks, nmarks);
	reached = wait_until(&goal, until);
	gc_leave(guc_level);
	PG_RETURN_BOOL(reached);
}
