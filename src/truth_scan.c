/*
 * truth_scan.c: reading all of a view of truth, as a scan node of its own.
 *
 * A query that reads most of an entity could do so through an Append of scans of
 * the leaves with _is_current as a filter, and where indexes help it does. For the rest
 * this node is better, because it knows that it will see every row:
 *
 *	 1. it reads the window into a map first (window.c), without probing before;
 *	 2. it reads the dataset's leaf. A row is current when the map has no newer
 *		version of its key. When it has an older one, that is noted in the map;
 *	 3. it reads the window's leaves again. Which of their rows are the newest
 *		in the window is known by place, from the map; which of those the
 *		dataset beats was noted in step 2, so the dataset is never probed.
 *
 * In a parallel plan the leader does step 1 before it starts workers, and puts the map
 * into shared memory. Each process reads its share of each leaf. One that comes to step 3
 * while others are in step 2 does not know yet what they will note there, so it looks
 * rows that the dataset might beat up in the dataset. A map that is too large for memory is
 * a filter instead, and every process makes its own.
 *
 * Compared with the Append it also saves a scan node, a call of a function and an
 * evaluation of conditions for every row. What a plan of a view must check at execution
 * (planner.c) is not needed here: leaves are looked up when the scan starts, not
 * when it was planned.
 *
 * Planned by truth_path.c. Holds what any scan holds: locks of relations to
 * the end of the transaction. State in the query's context.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "catalog/pg_am.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/value.h"
#include "optimizer/optimizer.h"
#include "port/atomics.h"
#include "storage/bufmgr.h"
#include "storage/shm_toc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include GC_EXPLAIN_HEADER
#include "planner.h"
#include "window.h"

/* What the processes of a parallel scan share. */
typedef struct SharedScan
{
	pg_atomic_uint32 reading;	/* processes that have begun to read the dataset's leaf … */
	pg_atomic_uint32 finished;	/* … and that have come to its end */
	Size		map;			/* offset of a copy of the leader's map; 0 = none */
	int32		nspeed;
	struct SharedLeaf
	{
		Oid			relid;
		bool		check_arrival;
		Size		scan;		/* offset of its ParallelTableScanDesc; 0 = none */
	}			leaves[FLEXIBLE_ARRAY_MEMBER];	/* the dataset's, then the window's */
} SharedScan;

/* State of one scan. */
typedef struct TruthScan
{
	CustomScanState css;
	GcRead	   *read;
	GcWindowMap *map;			/* of the window; NULL = not yet, or it is a filter */
	bool		with_deleted;
	int			next;			/* the leaf to read next: 0 = the dataset's, 1 … = the window's */
	GcLeaf	   *leaf;			/* the one being read, or NULL */
	TableScanDesc scan;
	TupleTableSlot *slot;		/* of the leaf's row */
	TupleTableSlot **slots;		/* of all leaves, made when needed */
	AttrNumber	last;			/* last column that the plan uses, where that stands in the same place */
	TupleConversionMap **conversions;	/* of all leaves, once they are known */
	bool	   *conversion_known;
	TupleConversionMap *conversion; /* of the leaf's rows to the root's layout, or NULL */
	bool		dataset_read;	/* the dataset's leaf, to its end, by whomever */
	bool		marked;			/* the winners are, if they can be */
	uint64	  **winners;		/* for each leaf of the window, a bit for each place */
	BlockNumber *blocks;		/* and how many blocks that covers */
	SharedScan *shared;
} TruthScan;

static Node *create_truth_scan(CustomScan *scan);
static void begin_truth_scan(CustomScanState *node, EState *estate, int eflags);
static TupleTableSlot *exec_truth_scan(CustomScanState *node);
static void end_truth_scan(CustomScanState *node);
static void rescan_truth_scan(CustomScanState *node);
static Size estimate_shared(CustomScanState *node, ParallelContext *pcxt);
static void initialize_shared(CustomScanState *node, ParallelContext *pcxt, void *coordinate);
static void reinitialize_shared(CustomScanState *node, ParallelContext *pcxt, void *coordinate);
static void initialize_worker(CustomScanState *node, shm_toc *toc, void *coordinate);
static void shutdown_truth_scan(CustomScanState *node);
static void explain_truth_scan(CustomScanState *node, List *ancestors, ExplainState *es);

const CustomScanMethods gc_truth_scan_methods = {
	.CustomName = "TruthScan",
	.CreateCustomScanState = create_truth_scan,
};

static const CustomExecMethods exec_methods = {
	.CustomName = "TruthScan",
	.BeginCustomScan = begin_truth_scan,
	.ExecCustomScan = exec_truth_scan,
	.EndCustomScan = end_truth_scan,
	.ReScanCustomScan = rescan_truth_scan,
	.EstimateDSMCustomScan = estimate_shared,
	.InitializeDSMCustomScan = initialize_shared,
	.ReInitializeDSMCustomScan = reinitialize_shared,
	.InitializeWorkerCustomScan = initialize_worker,
	.ShutdownCustomScan = shutdown_truth_scan,
	.ExplainCustomScan = explain_truth_scan,
};

static Node *
create_truth_scan(CustomScan *scan)
{
	TruthScan  *state = palloc0(sizeof(TruthScan));

	NodeSetTag(state, T_CustomScanState);
	state->css.methods = &exec_methods;
	return (Node *) state;
}

/*
 * The executor has prepared the node for slots of its own. Rows are returned in
 * those of their leaves, so expressions are compiled again for slots of any kind.
 */
static void
return_any_slot(CustomScanState *node)
{
	PlanState  *ps = &node->ss.ps;

	ps->scanopsset = true;
	ps->scanopsfixed = false;
	ps->scanops = NULL;
	ExecAssignScanProjectionInfoWithVarno(&node->ss, ((Scan *) ps->plan)->scanrelid);
	ps->qual = ExecInitQual(ps->plan->qual, ps);
}

/*
 * How to turn the leaf's rows into the root's layout; NULL where the columns that
 * the plan uses stand in the same places anyway.
 */
static TupleConversionMap *
conversion_of(TruthScan *state, Relation rel)
{
	ScanState  *node = &state->css.ss;
	Index		varno = ((Scan *) node->ps.plan)->scanrelid;
	TupleDesc	leaf = RelationGetDescr(rel);
	TupleDesc	root = state->read->root;
	Bitmapset  *used = NULL;
	int			i = -1;

	pull_varattnos((Node *) node->ps.plan->targetlist, varno, &used);
	pull_varattnos((Node *) node->ps.plan->qual, varno, &used);
	while ((i = bms_next_member(used, i)) >= 0)
	{
		AttrNumber	attno = i + FirstLowInvalidHeapAttributeNumber;

		if (attno < 0)
			continue;			/* a slot of any layout has those */
		if (attno == 0 || attno > leaf->natts || TupleDescAttr(leaf, attno - 1)->attisdropped ||
			strcmp(NameStr(TupleDescAttr(leaf, attno - 1)->attname),
				   NameStr(TupleDescAttr(root, attno - 1)->attname)) != 0)
			return convert_tuples_by_name(leaf, root);
		state->last = Max(state->last, attno);
	}
	return NULL;
}

/* For what there is once a leaf. */
static void
make_room(TruthScan *state, int leaves)
{
	state->slots = palloc0(sizeof(TupleTableSlot *) * leaves);
	state->conversions = palloc0(sizeof(TupleConversionMap *) * leaves);
	state->conversion_known = palloc0(sizeof(bool) * leaves);
}

static void
begin_truth_scan(CustomScanState *node, EState *estate, int eflags)
{
	TruthScan  *state = (TruthScan *) node;
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;
	Const	   *plan = castNode(Const, linitial(scan->custom_exprs));

	return_any_slot(node);
	state->with_deleted = intVal(linitial(scan->custom_private));
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	state->read = gc_read_begin(estate, (GcPlan *) DatumGetPointer(plan->constvalue));
	make_room(state, state->read->nspeed + 1);
}

/* The map of the window, unless that is too large for one. */
static void
load_map(TruthScan *state)
{
	gc_window_build(state->read);
	if (state->read->mode == GC_MODE_MAP)
		state->map = state->read->map;
}

/* The i-th leaf to read, opened; NULL when there is none in that place. */
static GcLeaf *
leaf_at(TruthScan *state, int i)
{
	GcLeaf	   *leaf = i == 0 ? &state->read->batch : &state->read->speed[i - 1];

	if (!OidIsValid(leaf->relid))
		return NULL;
	gc_leaf_hold(state->read, leaf);
	return leaf;
}

static ParallelTableScanDesc
shared_scan(SharedScan *shared, int i)
{
	return (ParallelTableScanDesc) ((char *) shared + shared->leaves[i].scan);
}

static inline Size
place_of(const ItemPointerData *tid)
{
	return (Size) ItemPointerGetBlockNumber(tid) * MaxHeapTuplesPerPage +
		ItemPointerGetOffsetNumber(tid) - 1;
}

/* The leaf of a key's newest version. Looked at once: other processes may note that there is none. */
static inline int
winner_leaf(const GcPosition *position)
{
	return *(volatile const int16 *) &position->leaf;
}

/* gc_window_map_visit */
static void
mark_winner(void *context, const GcPosition *position)
{
	int			leaf = winner_leaf(position);
	Size		place = place_of(&position->tid);

	if (leaf != GC_NO_LEAF)
		((TruthScan *) context)->winners[leaf][place / 64] |= UINT64CONST(1) << (place % 64);
}

static Size
size_of_marks(BlockNumber blocks)
{
	return ((Size) blocks * MaxHeapTuplesPerPage / 64 + 1) * sizeof(uint64);
}

/*
 * Turns the map into bits, one for each place in the window's leaves, so that reading
 * them again needs no look-up of keys. Left out where a table's access method may
 * number its rows as it likes.
 */
static void
mark_winners(TruthScan *state)
{
	GcRead	   *read = state->read;
	MemoryContext query = state->css.ss.ps.state->es_query_cxt;

	state->marked = true;
	for (int i = 0; i < read->nspeed; i++)
		if (read->speed[i].rel != NULL && read->speed[i].rel->rd_rel->relam != HEAP_TABLE_AM_OID)
			return;
	state->blocks = MemoryContextAllocZero(query, sizeof(BlockNumber) * read->nspeed);
	state->winners = MemoryContextAlloc(query, sizeof(uint64 *) * read->nspeed);
	for (int i = 0; i < read->nspeed; i++)
	{
		state->blocks[i] = RelationGetNumberOfBlocks(leaf_at(state, i + 1)->rel);
		state->winners[i] = MemoryContextAllocExtended(query, size_of_marks(state->blocks[i]),
													   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	}
	gc_window_map_visit(state->map, mark_winner, state);
}

/* Marks them again: others have noted since what the dataset beats. */
static void
mark_again(TruthScan *state)
{
	if (state->winners == NULL)
		return;
	for (int i = 0; i < state->read->nspeed; i++)
		memset(state->winners[i], 0, size_of_marks(state->blocks[i]));
	gc_window_map_visit(state->map, mark_winner, state);
}

/*
 * Has everything been noted that there is to note? Asked when this process has come to the end of
 * the dataset's leaf; then there is nothing left of it for another one to begin with, and those that
 * did begin must have come to its end too.
 */
static bool
all_is_noted(SharedScan *shared)
{
	if (shared == NULL)
		return true;
	if (shared->map == 0 ||
		pg_atomic_read_u32(&shared->finished) != pg_atomic_read_u32(&shared->reading))
		return false;
	pg_memory_barrier();		/* then what they noted is to be seen too */
	return true;
}

/* Is it known of every key of the map whether the dataset beats it? */
static bool
dataset_is_read(TruthScan *state)
{
	if (!state->dataset_read && all_is_noted(state->shared))
	{
		state->dataset_read = true;
		mark_again(state);
	}
	return state->dataset_read;
}

/* Begins to read the next leaf; false when there are no more. */
static bool
next_leaf(TruthScan *state)
{
	EState	   *estate = state->css.ss.ps.state;
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);
	int			i = 0;

	while (state->leaf == NULL && state->next <= state->read->nspeed)
	{
		i = state->next++;
		state->leaf = leaf_at(state, i);
	}
	if (state->leaf != NULL)
	{
		Relation	rel = state->leaf->rel;

		if (i > 0 && state->map != NULL && !state->marked)
		{
			state->dataset_read = all_is_noted(state->shared);
			mark_winners(state);
		}
		if (i == 0 && state->shared != NULL)
			pg_atomic_fetch_add_u32(&state->shared->reading, 1);

		if (state->slots[i] == NULL)
			state->slots[i] = table_slot_create(rel, NULL);
		state->slot = state->slots[i];
		if (!state->conversion_known[i])
			state->conversions[i] = conversion_of(state, rel);
		state->conversion_known[i] = true;
		state->conversion = state->conversions[i];
		state->scan = state->shared == NULL ?
			table_beginscan(rel, estate->es_snapshot, 0, NULL) :
			table_beginscan_parallel(rel, shared_scan(state->shared, i));
	}
	MemoryContextSwitchTo(caller);
	return state->leaf != NULL;
}

static void
end_leaf(TruthScan *state)
{
	if (state->leaf == NULL)
		return;
	ExecClearTuple(state->slot);
	table_endscan(state->scan);
	state->scan = NULL;
	state->leaf = NULL;
}

static void
load_key(GcRead *read, GcLeaf *leaf, TupleTableSlot *slot, Datum *key)
{
	bool		isnull;

	for (int i = 0; i < read->key.ncolumns; i++)
		key[i] = slot_getattr(slot, leaf->key[i], &isnull);
}

/*
 * Is the row of the dataset's leaf newer than all of its key in the window? Notes in
 * the map that it is.
 */
static inline bool
dataset_row_wins(TruthScan *state, TupleTableSlot *slot)
{
	GcRead	   *read = state->read;
	GcLeaf	   *leaf = &read->batch;
	GcPosition	own;
	GcPosition	found;
	GcPosition *newest;
	TimestampTz version;
	Datum		key[INDEX_MAX_KEYS];
	bool		isnull;

	if (read->nspeed == 0)
		return true;
	load_key(read, leaf, slot, key);
	version = DatumGetTimestampTz(slot_getattr(slot, leaf->version, &isnull));
	if (likely(state->map != NULL))
	{
		newest = gc_window_map_find(state->map, key);
		if (newest == NULL)
			return true;
	}
	else
	{
		newest = &found;
		if (!gc_window_newest(read, key, version, false, newest))
			return true;
	}
	if (newest->version != version)
	{
		if (newest->version > version)
			return false;
	}
	else
	{
		gc_leaf_position(read, leaf, slot, &own);
		if (gc_position_compare(&own, newest) < 0)
			return false;
	}
	newest->leaf = GC_NO_LEAF;
	return true;
}

/* Is the row of a leaf of the window current? */
static bool
window_row_wins(TruthScan *state, TupleTableSlot *slot)
{
	GcRead	   *read = state->read;
	GcLeaf	   *leaf = state->leaf;
	Datum		key[INDEX_MAX_KEYS];
	GcPosition	own;
	GcPosition	newest;

	if (state->winners != NULL)
	{
		Size		place = place_of(&slot->tts_tid);

		if (ItemPointerGetBlockNumber(&slot->tts_tid) >= state->blocks[leaf->number] ||
			(state->winners[leaf->number][place / 64] & (UINT64CONST(1) << (place % 64))) == 0)
			return false;
		if (state->dataset_read)
			return true;
	}
	if (!gc_leaf_position(read, leaf, slot, &own))
		return false;
	load_key(read, leaf, slot, key);
	if (state->map != NULL)
	{
		GcPosition *noted = gc_window_map_find(state->map, key);

		if (noted == NULL)		/* cannot happen: the map was made of these rows */
			elog(ERROR, "a row of the window is not in its map");
		if (gc_position_compare(noted, &own) > 0)
			return false;
		if (dataset_is_read(state) || noted->leaf == GC_NO_LEAF)
			return noted->leaf != GC_NO_LEAF;
	}
	else if (gc_window_newest(read, key, own.version, true, &newest) &&
			 gc_position_compare(&newest, &own) > 0)
		return false;
	return !gc_batch_newest(read, key, own.version, &newest) ||
		gc_position_compare(&newest, &own) <= 0;
}

static inline bool
row_counts(TruthScan *state, TupleTableSlot *slot)
{
	bool		isnull;

	return (state->leaf == &state->read->batch ? dataset_row_wins(state, slot) :
			window_row_wins(state, slot)) &&
		(state->with_deleted || !DatumGetBool(slot_getattr(slot, state->leaf->deleted, &isnull)));
}

/* The leaf's row in the layout of the root. */
static TupleTableSlot *
convert_row(TruthScan *state)
{
	TupleTableSlot *slot = execute_attr_map_slot(state->conversion->attrMap, state->slot,
												 state->css.ss.ss_ScanTupleSlot);

	slot->tts_tid = state->slot->tts_tid;
	slot->tts_tableOid = state->slot->tts_tableOid;
	return slot;
}

/* ExecScan's access method: the next row that is current. */
static TupleTableSlot *
next_row(ScanState *node)
{
	TruthScan  *state = (TruthScan *) node;

	if (state->map == NULL)
		load_map(state);
	while (state->leaf != NULL || next_leaf(state))
	{
		while (table_scan_getnextslot(state->scan, ForwardScanDirection, state->slot))
		{
			MemoryContext caller = MemoryContextSwitchTo(node->ps.ps_ExprContext->ecxt_per_tuple_memory);
			bool		counts;

			/* all columns at once: most rows count */
			if (state->conversion == NULL)
				slot_getsomeattrs(state->slot, state->last);
			counts = row_counts(state, state->slot);
			MemoryContextSwitchTo(caller);
			if (counts)
				return state->conversion == NULL ? state->slot : convert_row(state);
			InstrCountFiltered2(node, 1);
			ResetExprContext(node->ps.ps_ExprContext);
			CHECK_FOR_INTERRUPTS();
		}
		if (state->leaf == &state->read->batch && state->shared != NULL)
			pg_atomic_fetch_add_u32(&state->shared->finished, 1);
		end_leaf(state);
	}
	return ExecClearTuple(node->ss_ScanTupleSlot);
}

/* ExecScan's recheck method: never called, since row locks keep this node out. */
static bool
recheck_row(ScanState *node, TupleTableSlot *slot)
{
	return true;
}

static TupleTableSlot *
exec_truth_scan(CustomScanState *node)
{
	return ExecScan(&node->ss, next_row, recheck_row);
}

static void
rescan_truth_scan(CustomScanState *node)
{
	TruthScan  *state = (TruthScan *) node;

	end_leaf(state);
	state->next = 0;
	if (state->shared != NULL)
		state->dataset_read = false;	/* what has been noted stays true, and is noted again */
	ExecScanReScan(&node->ss);
}

static void
end_truth_scan(CustomScanState *node)
{
	TruthScan  *state = (TruthScan *) node;

	if (state->read == NULL)
		return;
	end_leaf(state);
	for (int i = 0; i <= state->read->nspeed; i++)
		if (state->slots[i] != NULL)
			ExecDropSingleTupleTableSlot(state->slots[i]);
	gc_read_end(state->read);
}

static void
explain_truth_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	Instrumentation *instrument = node->ss.ps.instrument;

	if (es->analyze && instrument != NULL && instrument->nloops > 0)
		ExplainPropertyFloat("Rows Superseded", NULL, instrument->nfiltered2 / instrument->nloops, 0, es);
}

/*
 * In parallel. The leader says which leaves are read, so that all read the same.
 */

static Size
shared_size(TruthScan *state, SharedScan *shared)
{
	Snapshot	snapshot = state->css.ss.ps.state->es_snapshot;
	int			n = state->read->nspeed + 1;
	Size		size = MAXALIGN(offsetof(SharedScan, leaves) + sizeof(struct SharedLeaf) * n);

	load_map(state);
	for (int i = 0; i < n; i++)
	{
		GcLeaf	   *leaf = leaf_at(state, i);

		if (shared != NULL)
		{
			shared->leaves[i].relid = leaf != NULL ? leaf->relid : InvalidOid;
			shared->leaves[i].check_arrival = leaf != NULL && leaf->check_arrival;
			shared->leaves[i].scan = size;
			if (leaf != NULL)
				table_parallelscan_initialize(leaf->rel, shared_scan(shared, i), snapshot);
		}
		if (leaf != NULL)
			size += MAXALIGN(table_parallelscan_estimate(leaf->rel, snapshot));
	}
	if (shared != NULL)
		shared->map = state->map == NULL ? 0 : size;
	if (state->map != NULL)
		size += gc_window_map_shared_size(state->map);
	return size;
}

/* Uses the map in shared memory, if there is one. */
static void
attach_map(TruthScan *state)
{
	if (state->shared->map != 0)
		state->map = gc_window_map_attach(state->css.ss.ps.state->es_query_cxt, &state->read->key,
										  (char *) state->shared + state->shared->map);
}

static Size
estimate_shared(CustomScanState *node, ParallelContext *pcxt)
{
	return shared_size((TruthScan *) node, NULL);
}

static void
initialize_shared(CustomScanState *node, ParallelContext *pcxt, void *coordinate)
{
	TruthScan  *state = (TruthScan *) node;

	state->shared = coordinate;
	state->shared->nspeed = state->read->nspeed;
	pg_atomic_init_u32(&state->shared->reading, 0);
	pg_atomic_init_u32(&state->shared->finished, 0);
	shared_size(state, state->shared);
	if (state->shared->map != 0)
		gc_window_map_copy(state->map, (char *) coordinate + state->shared->map);
	attach_map(state);
}

static void
reinitialize_shared(CustomScanState *node, ParallelContext *pcxt, void *coordinate)
{
	TruthScan  *state = (TruthScan *) node;

	pg_atomic_write_u32(&state->shared->reading, 0);
	pg_atomic_write_u32(&state->shared->finished, 0);
	for (int i = 0; i <= state->shared->nspeed; i++)
		if (OidIsValid(state->shared->leaves[i].relid))
			table_parallelscan_reinitialize(leaf_at(state, i)->rel, shared_scan(state->shared, i));
}

static void
initialize_worker(CustomScanState *node, shm_toc *toc, void *coordinate)
{
	TruthScan  *state = (TruthScan *) node;
	SharedScan *shared = coordinate;

	state->shared = shared;
	gc_read_set_leaves(state->read, shared->leaves[0].relid, shared->nspeed);
	for (int i = 0; i < shared->nspeed; i++)
		gc_read_set_leaf(state->read, i, shared->leaves[i + 1].relid, shared->leaves[i + 1].check_arrival);
	make_room(state, shared->nspeed + 1);
	attach_map(state);
}

/*
 * The shared memory goes, and what was noted there; in the leader while other parts of the query may
 * still be under way, which may also begin this scan again.
 */
static void
shutdown_truth_scan(CustomScanState *node)
{
	TruthScan  *state = (TruthScan *) node;

	if (state->shared != NULL)
	{
		state->map = NULL;
		state->dataset_read = false;
	}
	state->shared = NULL;
}
