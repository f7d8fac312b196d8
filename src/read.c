/*
 * read.c: execution of a view of truth: _active_dataset, _plan_ok, _is_current.
 *
 * All three work on one state per statement and tree (GcRead). It belongs to
 * the executor: it lives in the query's memory context (fn_mcxt) and is
 * forgotten by that context's reset callback, so it ends with the statement,
 * however that ends. It is never kept across statements: transaction and
 * command ids do not tell two snapshots apart. From the start of the query to its end, which
 * hooks tell, it holds leaves open as a scan node does; outside of that, it holds no
 * relation, no pin and no scan between calls of a function.
 *
 * _is_current answers for one version: is it in the active dataset or in the
 * window, and is there no newer version of its key? A version of the dataset can
 * only be beaten by the window, since its leaf holds one version per key; a
 * version of the window by the window too and by the dataset. On a leaf of one dataset
 * the planner puts _is_newest in its place, which says the same of fewer columns.
 *
 * Rights were checked by the executor on the tree that the arguments are columns
 * of (planner.c).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "window.h"

PG_FUNCTION_INFO_V1(gc_active_dataset);
PG_FUNCTION_INFO_V1(gc_plan_ok);
PG_FUNCTION_INFO_V1(gc_is_current);
PG_FUNCTION_INFO_V1(gc_is_newest);

/* States of the statements under way in this process, newest first. */
static dlist_head reads = DLIST_STATIC_INIT(reads);

/* Reset callback: the query's context goes. */
static void
forget_read(void *arg)
{
	dlist_delete(&((GcRead *) arg)->node);
}

/* The state of a query for a tree; made at the first call. */
static GcRead *
find_read(MemoryContext owner, Oid versions)
{
	MemoryContext context;
	GcRead	   *read;
	dlist_iter	iter;

	dlist_foreach(iter, &reads)
	{
		read = dlist_container(GcRead, node, iter.cur);
		if (read->owner == owner && read->versions == versions)
			return read;
	}

	context = AllocSetContextCreate(owner, "guest_context read", ALLOCSET_DEFAULT_SIZES);
	read = MemoryContextAllocZero(context, sizeof(GcRead));
	read->owner = owner;
	read->context = context;
	read->versions = versions;
	gc_window_read(versions, ActiveSnapshotSet() ? GetActiveSnapshot() : NULL, &read->window);
	read->forget.func = forget_read;
	read->forget.arg = read;
	MemoryContextRegisterResetCallback(context, &read->forget);
	dlist_push_head(&reads, &read->node);
	return read;
}

/*
 * Executor hooks. A query whose plan has run-time pruning has its state when it has started;
 * from then to its end the functions may hold leaves open too, as scan nodes do. After an error
 * the end is not reached: then what is held goes with its resource owner.
 */
static ExecutorStart_hook_type previous_start_hook;
static ExecutorEnd_hook_type previous_end_hook;

static void
start_query(QueryDesc *query, int eflags)
{
	dlist_iter	iter;

	if (previous_start_hook)
		previous_start_hook(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
	dlist_foreach(iter, &reads)
	{
		GcRead	   *read = dlist_container(GcRead, node, iter.cur);

		if (read->owner == query->estate->es_query_cxt && !read->of_query)
		{
			read->of_query = true;
			read->nscans++;
			read->snapshot = query->estate->es_snapshot;
		}
	}
}

static void
end_query(QueryDesc *query)
{
	dlist_iter	iter;

	dlist_foreach(iter, &reads)
	{
		GcRead	   *read = dlist_container(GcRead, node, iter.cur);

		if (read->owner == query->estate->es_query_cxt && read->of_query)
		{
			read->of_query = false;
			gc_read_end(read);
		}
	}
	if (previous_end_hook)
		previous_end_hook(query);
	else
		standard_ExecutorEnd(query);
}

/* The state of the query that calls a function; kept with the call. */
static GcRead *
get_read(FunctionCallInfo fcinfo, Oid versions)
{
	if (fcinfo->flinfo->fn_extra == NULL)
		fcinfo->flinfo->fn_extra = find_read(fcinfo->flinfo->fn_mcxt, versions);
	return fcinfo->flinfo->fn_extra;
}

/*
 * The plan does not cover what the statement must see. Plans kept by this
 * session are dropped first, so that a retry has a new one for sure.
 */
void
gc_read_cannot_cover(const GcRead *read, const char *reason)
{
	ResetPlanCache();
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not read \"%s\" because of a concurrent change of its window",
					get_rel_name(read->versions)),
			 errdetail("%s", reason),
			 errhint("The transaction might succeed if retried.")));
}

static bool
plan_has_dataset(const GcPlan *plan, int32 dataset_id)
{
	for (int i = plan->ndatasets - 1; i >= 0; i--)
		if (plan->datasets[i] == dataset_id)
			return true;
	return false;
}

/*
 * An old snapshot may want a leaf that retention has dropped since: not here,
 * where it is waited for, but on a standby, or when it was imported. Leaves go
 * oldest first and gone_before is raised before each, so only when the window
 * reaches below the oldest leaf is there more to look at.
 */
void
gc_read_check_dropped(GcRead *read, TimestampTz leaves_from)
{
	GcWindow	latest;

	if (leaves_from <= read->window.window_start)
		return;
	gc_window_read(read->versions, NULL, &latest);
	if (latest.gone_before >= leaves_from)
		gc_read_cannot_cover(read, "A part of the window that this snapshot sees has been dropped.");
}

/*
 * ERROR unless the leaves that the plan knows hold all that the statement's
 * snapshot must see. No message of another process is needed to be right:
 * everything is compared with what the snapshot itself sees, and with the clock.
 */
static void
check_plan(GcRead *read, const GcPlan *plan)
{
	if (read->checked_plan == plan)
		return;
	if (read->window.window_start < plan->floor)
		gc_read_cannot_cover(read, "The window begins before the oldest partition that the plan reads.");
	if (read->window.dataset_id != 0 && !plan_has_dataset(plan, read->window.dataset_id))
		gc_read_cannot_cover(read, "The active dataset is not among those that the plan reads.");
	if (read->window.leaves_until > plan->ceiling &&
		GetCurrentTimestamp() >= plan->ceiling)
		gc_read_cannot_cover(read, "Records arrive in a partition that the plan does not read.");

	gc_read_check_dropped(read, plan->leaves_from);
	read->checked_plan = plan;
}

/* _active_dataset(_plan) -> integer, 0 = none; or ERROR */
Datum
gc_active_dataset(PG_FUNCTION_ARGS)
{
	GcRead	   *read = fcinfo->flinfo->fn_extra;

	if (unlikely(read == NULL))
	{
		const GcPlan *plan = (const GcPlan *) PG_GETARG_POINTER(0);

		read = get_read(fcinfo, plan->versions);
		check_plan(read, plan);
	}
	PG_RETURN_INT32(read->window.dataset_id);
}

/* _plan_ok(_plan) -> true, or ERROR */
Datum
gc_plan_ok(PG_FUNCTION_ARGS)
{
	const GcPlan *plan = (const GcPlan *) PG_GETARG_POINTER(0);

	check_plan(get_read(fcinfo, plan->versions), plan);
	PG_RETURN_BOOL(true);
}

/*
 * Functions of a leaf's rows
 */

/* Ready for the plan's key: one key for all that read a tree in a statement. */
static void
prepare_read(GcRead *read, const GcPlan *plan)
{
	bool		same;

	if (!read->ready)
		gc_window_prepare(read, plan);
	same = read->version == plan->version_attno && read->key.ncolumns == plan->nkeys;
	for (int i = 0; same && i < plan->nkeys; i++)
		same = read->key.columns[i].attno == plan->key_attnos[i];
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("a statement cannot read \"%s\" by two keys", get_rel_name(read->versions)),
				 errhint("Read the entity's view.")));
}

/* The state of the query that calls a function of a leaf's rows. */
static GcRead *
ready_read(FunctionCallInfo fcinfo)
{
	const GcPlan *plan = (const GcPlan *) PG_GETARG_POINTER(GC_ARG_PLAN);
	GcRead	   *read = get_read(fcinfo, plan->versions);

	check_plan(read, plan);
	prepare_read(read, plan);
	return read;
}

/*
 * _is_newest(plan, version, VARIADIC key) -> boolean
 *
 * For the rows of one dataset's leaf. Beside its version a row's position is
 * asked for only in a tie with the window, and then looked up.
 */
Datum
gc_is_newest(PG_FUNCTION_ARGS)
{
	GcRead	   *read = fcinfo->flinfo->fn_extra;
	TimestampTz version = PG_GETARG_TIMESTAMPTZ(GC_NEWEST_VERSION);
	Datum		key[INDEX_MAX_KEYS];
	GcPosition	newest;
	GcPosition	own;

	if (unlikely(read == NULL))
		read = ready_read(fcinfo);
	if (((const GcPlan *) PG_GETARG_POINTER(GC_NEWEST_PLAN))->dataset != read->window.dataset_id)
		PG_RETURN_BOOL(false);

	for (int i = 0; i < read->key.ncolumns; i++)
		key[i] = PG_GETARG_DATUM(GC_NEWEST_KEY + i);
	if (!gc_window_newest(read, key, version, false, &newest) || newest.version < version)
		PG_RETURN_BOOL(true);
	if (newest.version > version)
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(gc_batch_newest(read, key, version, &own) &&
				   gc_position_compare(&own, &newest) > 0);
}

/*
 * _is_current(plan, dataset, arrived_at, version, source, partition, offset,
 *     tid, VARIADIC key) -> boolean
 */
Datum
gc_is_current(PG_FUNCTION_ARGS)
{
	GcRead	   *read = fcinfo->flinfo->fn_extra;
	int32		dataset = PG_GETARG_INT32(GC_ARG_DATASET);
	GcPosition	position;
	GcPosition	newest;
	Datum		key[INDEX_MAX_KEYS];

	if (unlikely(read == NULL))
		read = ready_read(fcinfo);

	position.arrived_at = PG_GETARG_TIMESTAMPTZ(GC_ARG_ARRIVED_AT);
	if (dataset == 0 ? position.arrived_at < read->window.window_start
		: dataset != read->window.dataset_id)
		PG_RETURN_BOOL(false);

	position.version = PG_GETARG_TIMESTAMPTZ(GC_ARG_VERSION);
	position.source = PG_GETARG_INT32(GC_ARG_SOURCE);
	position.partition = PG_GETARG_INT32(GC_ARG_PARTITION);
	position.offset = PG_GETARG_INT64(GC_ARG_OFFSET);
	position.tid = *(ItemPointer) PG_GETARG_POINTER(GC_ARG_TID);
	for (int i = 0; i < read->key.ncolumns; i++)
		key[i] = PG_GETARG_DATUM(GC_ARG_KEY + i);

	if (gc_window_newest(read, key, position.version, dataset == 0, &newest) &&
		gc_position_compare(&newest, &position) > 0)
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(dataset != 0 ||
				   !gc_batch_newest(read, key, position.version, &newest) ||
				   gc_position_compare(&newest, &position) <= 0);
}

/*
 * Key scans
 */

GcRead *
gc_read_begin(EState *estate, const GcPlan *plan)
{
	GcRead	   *read = find_read(estate->es_query_cxt, plan->versions);

	prepare_read(read, plan);
	read->nscans++;
	read->snapshot = estate->es_snapshot;
	return read;
}

void
gc_read_end(GcRead *read)
{
	if (--read->nscans > 0)
		return;
	for (int i = 0; i < read->nspeed; i++)
		gc_leaf_release(&read->speed[i]);
	gc_leaf_release(&read->batch);
}

/* The newest version seen so far by gc_read_newest. */
typedef struct Newest
{
	GcPosition	position;
	GcLeaf	   *leaf;			/* NULL: none yet */
	HeapTuple	tuple;
} Newest;

/* Keeps the row in a leaf's slot if it is newer; false when the leaf's others cannot be. */
static bool
keep_newest(GcRead *read, GcLeaf *leaf, Newest *newest)
{
	GcPosition	position;

	if (!gc_leaf_position(read, leaf, leaf->scan_slot, &position))
		return true;
	if (newest->leaf != NULL)
	{
		if (position.version < newest->position.version)
			return false;
		if (gc_position_compare(&position, &newest->position) <= 0)
			return true;
		heap_freetuple(newest->tuple);
	}
	newest->position = position;
	newest->leaf = leaf;
	newest->tuple = ExecCopySlotHeapTuple(leaf->scan_slot);
	return true;
}

/* The leaf's versions of a key, newest first, until there can be no newer one. */
static void
newest_of_leaf(GcRead *read, GcLeaf *leaf, const Datum *key, Newest *newest)
{
	gc_leaf_probe(read, leaf, key, newest->leaf == NULL ? DT_NOBEGIN : newest->position.version);
	while (gc_leaf_probe_next(read, leaf))
		if (!keep_newest(read, leaf, newest))
			break;
	ExecClearTuple(leaf->scan_slot);
}

/* The leaf's row laid out as the tree's root. */
static HeapTuple
to_root(GcRead *read, GcLeaf *leaf, HeapTuple tuple)
{
	if (!leaf->to_root_known)
	{
		MemoryContext caller = MemoryContextSwitchTo(read->context);

		leaf->to_root = convert_tuples_by_name(RelationGetDescr(leaf->rel), read->root);
		leaf->to_root_known = true;
		MemoryContextSwitchTo(caller);
	}
	return leaf->to_root ? execute_attr_map_tuple(tuple, leaf->to_root) : tuple;
}

HeapTuple
gc_read_newest(GcRead *read, const Datum *key)
{
	Newest		newest = {0};
	GcFilterHash hash = {0};

	for (int i = 0; i < read->nspeed; i++)
		if (!gc_leaf_lacks(read, &read->speed[i], key, &hash))
			newest_of_leaf(read, &read->speed[i], key, &newest);

	/* Where the window has a version newer than all of the dataset's, that is it. */
	if (OidIsValid(read->batch.relid) &&
		(newest.leaf == NULL || newest.position.version <= read->dataset.max_version))
		newest_of_leaf(read, &read->batch, key, &newest);
	if (newest.leaf == NULL)
		return NULL;
	return to_root(read, newest.leaf, newest.tuple);
}

/* Called once, when the library is loaded. */
void
gc_read_init(void)
{
	previous_start_hook = ExecutorStart_hook;
	ExecutorStart_hook = start_query;
	previous_end_hook = ExecutorEnd_hook;
	ExecutorEnd_hook = end_query;
}
