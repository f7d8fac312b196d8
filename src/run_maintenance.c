/*
 * run_maintenance.c: run_maintenance(): asks for a cycle, waits for it, reports.
 *
 * The work is a worker's, because DETACH CONCURRENTLY must be at top level. It tells
 * what it does through a queue in dynamic shared memory: reading from that ends when
 * the worker ends, however it ends, and can be interrupted. The worker then goes on
 * alone.
 *
 * The caller's own statement has a snapshot, which must not count as one that needs
 * what is to be dropped: the worker is told who waits. A transaction that looks at
 * the past (REPEATABLE READ) could lose what it looks at, and is refused.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/dsm.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "launcher.h"

PG_FUNCTION_INFO_V1(gc_run_maintenance);

#define QUEUE_SIZE 8192

/* Owners of entities whose rights the caller has: himself, for a superuser everybody. */
static List *
find_owners(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *owners = NIL;

	SPI_connect();
	gc_catalog_execute("SELECT DISTINCT c.relowner FROM guest_context._entity e"
					   " JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) e.versions"
					   " ORDER BY c.relowner", 0, NULL, NULL, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		bool		isnull;
		Oid			owner = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
														   SPI_tuptable->tupdesc, 1, &isnull));

		if (has_privs_of_role(GetUserId(), owner))
			owners = lappend_oid(owners, owner);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return owners;
}

static void
check_allowed(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot run maintenance on a standby server"),
				 errhint("Run it on the primary: SELECT * FROM guest_context.run_maintenance();")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot run maintenance in a transaction that is not READ COMMITTED"),
				 errdetail("Its snapshot would keep what is to be dropped, and would not see what was done."),
				 errhint("COMMIT; SELECT * FROM guest_context.run_maintenance();")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(NOTICE,
				(errmsg("maintenance does not see what this transaction has not committed yet")));
}

/* Puts the worker's rows into the result; true when it said that it reached its end. */
static bool
read_report(shm_mq_handle *queue, ReturnSetInfo *result)
{
	Size		size;
	void	   *data;

	while (shm_mq_receive(queue, &size, &data, false) == SHM_MQ_SUCCESS)
	{
		Oid			view;
		char	   *action = (char *) data + sizeof(Oid);
		Datum		values[3];
		bool		nulls[3] = {false, false, false};

		memcpy(&view, data, sizeof(Oid));
		if (!OidIsValid(view))
			return true;
		values[0] = ObjectIdGetDatum(view);
		values[1] = CStringGetTextDatum(action);
		values[2] = CStringGetTextDatum(action + strlen(action) + 1);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return false;
}

/* One owner's worker: started, listened to. */
static void
run_worker(Oid owner, ReturnSetInfo *result)
{
	char	   *hint;
	const char *obstacle = gc_worker_obstacle(MyDatabaseId, owner, &hint);
	dsm_segment *segment;
	shm_mq	   *queue;
	shm_mq_handle *reader;
	BackgroundWorkerHandle *worker;
	GcWorkerOrder order = {.database = MyDatabaseId, .owner = owner, .caller_pid = MyProcPid};
	bool		done;

	if (obstacle != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot run maintenance: %s", obstacle),
				 hint ? errhint("%s", hint) : 0));

	segment = dsm_create(QUEUE_SIZE, 0);
	queue = shm_mq_create(dsm_segment_address(segment), QUEUE_SIZE);
	shm_mq_set_receiver(queue, MyProc);
	order.report = dsm_segment_handle(segment);
	if (!gc_worker_start(&order, &worker))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is free for maintenance"),
				 errhint("Try again, or raise max_worker_processes.")));
	reader = shm_mq_attach(queue, segment, worker);
	done = read_report(reader, result);
	shm_mq_detach(reader);
	dsm_detach(segment);
	if (!done)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the maintenance worker of role \"%s\" ended before it was done",
						GetUserNameFromId(owner, false)),
				 errhint("The server's log says why.")));
}

/*
 * run_maintenance() -> table (entity regclass, action text, detail text)
 */
Datum
gc_run_maintenance(PG_FUNCTION_ARGS)
{
	ListCell   *lc;
	List	   *owners;

	check_allowed();
	InitMaterializedSRF(fcinfo, 0);
	owners = find_owners();
	foreach(lc, owners)
		run_worker(lfirst_oid(lc), (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
