/*
 * build.c: build_dataset: a dataset made of the current truth.
 *
 * build_dataset only registers it; the maintenance worker builds it in the
 * background with gc_dataset_build, and _build_dataset_now does the same within
 * the caller's transaction. as_of is the time of the call. Records that arrive from
 * its window start on are in the window of the new dataset; all that arrived before
 * must be in the snapshot that the leaves are written from. So writers that began
 * before the window start are waited for, and only then is the snapshot taken.
 *
 * Rows keep the source, partition and offset they came with. Tombstones are
 * kept for `retention` before as_of: a record that arrives late must not raise
 * the dead.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "catalog.h"
#include "common/fault_point.h"
#include "compat.h"
#include "dataset.h"
#include "launcher.h"
#include "maintenance.h"
#include "progress.h"
#include "tree.h"
#include "view.h"

PG_FUNCTION_INFO_V1(gc_build_dataset);
PG_FUNCTION_INFO_V1(gc_build_dataset_now);

/* How long a build waits for older writers, in seconds. */
#define WRITERS_TIMEOUT 600

/*
 * build_dataset(root regclass, activate boolean) -> bigint
 */
Datum
gc_build_dataset(PG_FUNCTION_ARGS)
{
	GcEntity   *root;
	int32		dataset_id;
	const char *obstacle;
	char	   *hint;
	int			guc_level = gc_enter();

	gc_require_argument(fcinfo, 0, "root");
	gc_require_argument(fcinfo, 1, "activate");
	root = gc_dataset_root(PG_GETARG_OID(0), "build_dataset",
						   PG_GETARG_BOOL(1) ? ", activate => true" : "");
	dataset_id = gc_dataset_order_build(root, PG_GETARG_BOOL(1));
	obstacle = gc_worker_obstacle(MyDatabaseId, root->owner, &hint);
	if (obstacle == NULL)
		gc_maintenance_wake(root->owner);
	else
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dataset %d cannot be built as things are", dataset_id),
				 errdetail("Maintenance cannot run: %s.", obstacle),
				 hint ? errhint("%s", hint) : 0));
	gc_leave(guc_level);
	PG_RETURN_INT64(dataset_id);
}

int32
gc_dataset_order_build(const GcEntity *root, bool activate)
{
	int64		other;
	int32		dataset_id;
	GcWindow	now;

	gc_dataset_lock_root(root);
	gc_window_read(root->versions, NULL, &now);
	gc_dataset_check_active(now.dataset_id, "build a dataset of the current truth",
							psprintf("SELECT guest_context.rollback_dataset(%s);",
									 quote_literal_cstr(gc_quoted_name(root->view))));
	other = gc_catalog_run_bigint(SPI_OK_SELECT,
								  "SELECT dataset_id::pg_catalog.int8 FROM guest_context._dataset"
								  " WHERE root_id OPERATOR(pg_catalog.=) $1 AND built"
								  "   AND state OPERATOR(pg_catalog.=) 'loading' AND message IS NULL", 1,
								  INT4OID, Int32GetDatum(root->entity_id));
	if (other != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("dataset %lld of \"%s\" is still being built", (long long) other,
						gc_entity_label(root)),
				 errhint("Wait for it, or SELECT guest_context.drop_dataset(%lld);", (long long) other)));
	dataset_id = gc_dataset_register(root, GetCurrentTimestamp(), true, activate);
	gc_coverage_check(root, dataset_id, "build");
	return dataset_id;
}

/* The truth, tombstones included, as SQL for FROM. */
static char *
truth(const GcDataset *dataset, const GcEntity *entity)
{
	TimestampTz horizon = gc_timestamp_minus(dataset->as_of, entity->retention);

	return psprintf("%s v WHERE %s AND (NOT v.gc_deleted OR v.%s >= '%s')",
					gc_quoted_name(entity->versions), gc_truth_where(entity, "v", true),
					quote_identifier(entity->version_column), gc_timestamp_literal(horizon));
}

/* When records must have arrived to be in the dataset's window. */
static TimestampTz
window_start(const GcDataset *dataset)
{
	return ((GcMember *) linitial(dataset->members))->window_start;
}

/* Writes all leaves under one snapshot, taken now: no older writer is left. */
static void
build(const GcDataset *dataset)
{
	ListCell   *lc;

	PushActiveSnapshot(GetLatestSnapshot());
	foreach(lc, dataset->members)
	{
		GcMember   *member = lfirst(lc);
		GcLeafCounts counts;

		gc_leaf_make(dataset, member, truth(dataset, member->entity), &counts);
	}
	PopActiveSnapshot();
	gc_dataset_sealed(dataset);
}

static GcDataset *
open_for_build(int64 dataset_id)
{
	GcDataset  *dataset = gc_dataset_open(dataset_id, "build", GC_LOADING, ExclusiveLock, false);

	if (!dataset->built)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot build dataset %d, for it is loaded from outside", dataset->dataset_id),
				 errhint("SELECT guest_context.seal_dataset(%d);", dataset->dataset_id)));
	return dataset;
}

/*
 * _build_dataset_now(dataset bigint) -> bigint
 *
 * All of it in this transaction; does not wait for older writers but names them.
 */
Datum
gc_build_dataset_now(PG_FUNCTION_ARGS)
{
	GcDataset  *dataset;
	int			guc_level = gc_enter();

	gc_require_read_committed("build a dataset");
	dataset = open_for_build(PG_GETARG_INT64(0));
	gc_writers_check(dataset->root->versions, window_start(dataset),
					 psprintf("build dataset %d", dataset->dataset_id));
	build(dataset);
	if (dataset->activate)
	{
		gc_dataset_verify(gc_dataset_get(dataset->dataset_id));
		gc_dataset_activate(dataset->dataset_id, GC_ANY_DATASET, false);
	}
	gc_leave(guc_level);
	PG_RETURN_INT64(dataset->dataset_id);
}

/*
 * In the background. Each step is a transaction of its own, in READ COMMITTED
 * whatever the role's default is.
 */

static void
begin_step(void)
{
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
end_step(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Waits between transactions until no writer is older than the window start. */
static void
wait_for_writers(int32 dataset_id)
{
	for (int i = 0;; i++)
	{
		GcDataset  *dataset;
		TimestampTz start;
		bool		older;

		begin_step();
		dataset = gc_dataset_get(dataset_id);
		if (i == WRITERS_TIMEOUT)
			gc_writers_check(dataset->root->versions, window_start(dataset),
							 psprintf("build dataset %d", dataset_id));
		older = gc_writers_find_older(dataset->root->versions, window_start(dataset), &start) != 0;
		end_step();
		if (!older)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000L,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		gc_worker_yield();
	}
}

static void
build_leaves(int32 dataset_id)
{
	int			guc_level;

	wait_for_writers(dataset_id);
	begin_step();
	guc_level = gc_enter();
	build(open_for_build(dataset_id));
	gc_leave(guc_level);
	GC_FAULT("before the commit of a built dataset");
	end_step();
	GC_FAULT("built dataset committed");
}

/* All that is still to do: an earlier attempt may have come as far as the seal. */
static void
build_steps(int32 dataset_id)
{
	GcDataset  *dataset;
	bool		sealed;
	bool		activate;
	int			guc_level;

	begin_step();
	dataset = gc_dataset_get(dataset_id);
	sealed = dataset->state == GC_SEALED;
	activate = dataset->activate;
	end_step();
	if (!sealed)
		build_leaves(dataset_id);
	if (!activate)
		return;

	begin_step();
	guc_level = gc_enter();
	gc_dataset_verify(gc_dataset_open(dataset_id, "verify", GC_SEALED, ExclusiveLock, false));
	gc_leave(guc_level);
	end_step();

	begin_step();
	guc_level = gc_enter();
	gc_dataset_activate(dataset_id, GC_ANY_DATASET, false);
	gc_leave(guc_level);
	end_step();
}

/* Notes why a build ended, where the dataset view shows it. */
static void
store_message(int32 dataset_id, const char *message)
{
	begin_step();
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset SET message = $2"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1", 2,
				   INT4OID, Int32GetDatum(dataset_id), TEXTOID, CStringGetTextDatum(message));
	end_step();
}

char *
gc_dataset_build(int32 dataset_id)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;
	char	   *failure;

	PG_TRY();
	{
		build_steps(dataset_id);
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
	if (error == NULL)
		return NULL;
	failure = gc_error_text(error);
	FreeErrorData(error);
	store_message(dataset_id, failure);
	MemoryContextSwitchTo(caller);
	return failure;
}
