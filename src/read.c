/*
 * read.c: execution of a view of truth: _active_dataset, _plan_ok, _is_current.
 *
 * All three work on one state per statement and tree (GcRead). It belongs to
 * the executor: it lives in the query's memory context (fn_mcxt) and is
 * forgotten by that context's reset callback, so it ends with the statement,
 * however that ends. It is never kept across statements: transaction and
 * command ids do not tell two snapshots apart. Between calls of a function it
 * holds no relation, no pin and no scan; a key scan (key_scan.c) has its leaves
 * open from its first key to its end, as any scan node.
 *
 * _is_current answers for one version: is it in the active dataset or in the
 * window, and is there no newer version of its key? It has three ways to know:
 *
 *	 probe	 look the key up in the key index of every leaf that counts: right
 *			 for the few rows of a point read;
 *	 map	 read the window once into a hash map of newest positions: right for
 *			 scans. Begun when the probes made have cost as much as reading the
 *			 window would, so the total is at most twice the better of the two;
 *	 filter	 when the map would outgrow window_memory: Bloom filters of the keys
 *			 that the window has once, and more than once, in front of probes.
 *
 * A version in the batch leaf can only be beaten by the window, since a leaf
 * holds one version per key. A version in the window can be beaten by the window
 * too and, when it is older than the newest version of the batch leaf, by that:
 * such rows are probed there, or found in a map of the leaf's recent rows (those
 * with a version not before the window's start: a partial index lists them).
 *
 * Tables are read through the access methods, never by SPI: row security must
 * not hide a newer version. Rights were checked by the executor on the tree
 * that the arguments are columns of (planner.c).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "catalog/pg_am.h"
#include "catalog/pg_opclass.h"
#include "executor/tuptable.h"
#include "lib/bloomfilter.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "guest_context.h"
#include "read.h"

PG_FUNCTION_INFO_V1(gc_active_dataset);
PG_FUNCTION_INFO_V1(gc_plan_ok);
PG_FUNCTION_INFO_V1(gc_is_current);

/*
 * Costs in units of one probe of one leaf: about a microsecond and a half to
 * open, descend and close, against reading and hashing a row of the window.
 */
#define ROW_COST			0.12
#define RECENT_ROW_COST		0.5		/* fetched through an index */

/* A leaf that may hold a newer version. */
typedef struct Leaf
{
	Oid			relid;
	Oid			key_index;		/* on (key…, version); InvalidOid when there is none */
	bool		check_arrival;	/* part of it lies before the window */
	TupleDesc	desc;			/* NULL until the leaf is first opened */
	TupleTableSlot *slot;
	TupleConversionMap *to_root;	/* NULL: laid out as the root */
	Relation	rel;			/* open while key scans are under way, see gc_read_newest */
	Relation	index;
	IndexScanDesc scan;
	AttrNumber	arrived_at;
	AttrNumber	version;
	AttrNumber	source;
	AttrNumber	partition;
	AttrNumber	offset;
	AttrNumber *key;
} Leaf;

typedef enum ReadMode
{
	MODE_PROBE,
	MODE_MAP,
	MODE_FILTER
} ReadMode;

struct GcRead
{
	dlist_node	node;
	MemoryContext owner;		/* the query's context */
	MemoryContext context;		/* of this state; a child of owner */
	MemoryContextCallback forget;
	Oid			versions;
	GcWindow	window;			/* in the statement's snapshot */
	const GcPlan *checked_plan; /* the plan that was found to cover it */

	int			nscans;			/* key scans under way; only they keep leaves open */
	Snapshot	snapshot;		/* theirs, the executor's */

	/* from here on set by the first _is_current or key scan */
	bool		ready;
	GcKey		key;
	TupleDesc	root;			/* of the tree's root */
	AttrNumber	arrived_at;		/* columns of the root */
	AttrNumber	version;
	AttrNumber	source;
	AttrNumber	partition;
	AttrNumber	offset;
	ScanKeyData *scan_keys;		/* key columns = …, version >= … */
	int			nspeed;
	Leaf	   *speed;			/* leaves of the window */
	Leaf		batch;			/* leaf of the active dataset, if any */
	GcDatasetLeaf dataset;
	ReadMode	mode;
	double		probe_cost;		/* what the probes cost so far */
	double		build_cost;		/* what reading the window would; 0 = not estimated yet */
	double		window_rows;	/* estimate */
	GcWindowMap *map;
	bloom_filter *seen;			/* keys that the window has */
	bloom_filter *seen_again;	/* keys that it has more than once */
	double		recent_cost;	/* what probes for recent batch rows cost so far */
	GcWindowMap *recent;		/* the batch leaf's rows with version >= window start */
};

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
static void
cannot_cover(const GcRead *read, const char *reason)
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
 * An old snapshot may want a leaf that retention has dropped since. Leaves go
 * oldest first and the drop is announced before it begins, so only when the
 * window reaches below the oldest leaf is there more to look at.
 */
static void
check_dropped(GcRead *read, TimestampTz leaves_from)
{
	GcWindow	latest;

	if (leaves_from <= read->window.window_start)
		return;
	gc_window_read(read->versions, NULL, &latest);
	if (latest.dropped_before >= leaves_from)
		cannot_cover(read, "A part of the window that this snapshot sees has been dropped.");
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
		cannot_cover(read, "The window begins before the oldest partition that the plan reads.");
	if (read->window.dataset_id != 0 && !plan_has_dataset(plan, read->window.dataset_id))
		cannot_cover(read, "The active dataset is not among those that the plan reads.");
	if (read->window.leaves_until > plan->ceiling &&
		GetCurrentTimestamp() >= plan->ceiling)
		cannot_cover(read, "Records arrive in a partition that the plan does not read.");

	check_dropped(read, plan->leaves_from);
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
 * Preparing: the key, the leaves
 */

/* Does equality of the type mean equality of bytes? Its btree operator class knows. */
static bool
is_bytewise(const GcKeyColumn *column)
{
	Oid			equal_image = get_opfamily_proc(column->opfamily, column->opcintype,
												column->opcintype, BTEQUALIMAGE_PROC);

	return OidIsValid(equal_image) &&
		DatumGetBool(OidFunctionCall1Coll(equal_image, column->collation,
										  ObjectIdGetDatum(column->opcintype)));
}

/* The key's columns with their types' functions, and scan keys for probes. */
static void
prepare_key(GcRead *read, const GcPlan *plan)
{
	Relation	rel = table_open(read->versions, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);

	read->root = CreateTupleDescCopy(desc); /* not counted: holds nothing */
	read->arrived_at = get_attnum(read->versions, "gc_arrived_at");
	read->version = plan->version_attno;
	read->source = get_attnum(read->versions, "gc_source");
	read->partition = get_attnum(read->versions, "gc_partition");
	read->offset = get_attnum(read->versions, "gc_offset");
	read->key.ncolumns = plan->nkeys;
	read->key.columns = palloc0(sizeof(GcKeyColumn) * plan->nkeys);
	read->scan_keys = palloc0(sizeof(ScanKeyData) * (plan->nkeys + 1));
	for (int i = 0; i < plan->nkeys; i++)
	{
		GcKeyColumn *column = &read->key.columns[i];
		Form_pg_attribute att = TupleDescAttr(desc, plan->key_attnos[i] - 1);
		TypeCacheEntry *type = lookup_type_cache(att->atttypid,
												 TYPECACHE_HASH_PROC_FINFO |
												 TYPECACHE_EQ_OPR_FINFO |
												 TYPECACHE_BTREE_OPFAMILY);

		column->attno = att->attnum;
		column->type = att->atttypid;
		column->collation = att->attcollation;
		column->typlen = att->attlen;
		column->typbyval = att->attbyval;
		column->opfamily = type->btree_opf;
		column->opcintype = type->btree_opintype;
		column->bytewise = is_bytewise(column);
		fmgr_info_copy(&column->hash, &type->hash_proc_finfo, read->context);
		fmgr_info_copy(&column->equal, &type->eq_opr_finfo, read->context);
		ScanKeyEntryInitialize(&read->scan_keys[i], 0, i + 1, BTEqualStrategyNumber,
							   InvalidOid, att->attcollation,
							   get_opcode(get_opfamily_member(column->opfamily, column->opcintype,
															  column->opcintype, BTEqualStrategyNumber)),
							   (Datum) 0);
	}
	ScanKeyEntryInitialize(&read->scan_keys[plan->nkeys], 0, plan->nkeys + 1,
						   BTGreaterEqualStrategyNumber, InvalidOid, InvalidOid,
						   F_TIMESTAMPTZ_GE, (Datum) 0);
	table_close(rel, NoLock);
}

/* The partitions of the speed table; the caller closes *rel. */
static PartitionDesc
speed_partitions(GcRead *read, Relation *rel)
{
	Relation	root = table_open(read->versions, AccessShareLock);
	Oid			speed = RelationGetPartitionDesc(root, true)->oids[0];

	table_close(root, NoLock);
	*rel = table_open(speed, AccessShareLock);
	return RelationGetPartitionDesc(*rel, true);
}

static TimestampTz
bound_at(PartitionDesc desc, int i)
{
	return DatumGetTimestampTz(desc->boundinfo->datums[i][0]);
}

/* The upper bound of the newest leaf. */
static TimestampTz
newest_bound(PartitionDesc desc)
{
	return desc->boundinfo == NULL ? DT_NOBEGIN : bound_at(desc, desc->boundinfo->ndatums - 1);
}

/*
 * Leaves of the window and of the active dataset. Leaves that begin after now
 * are empty; a minute is allowed for a clock that was set back.
 */
static void
prepare_leaves(GcRead *read)
{
	TimestampTz now = GetCurrentTimestamp() + USECS_PER_MINUTE;
	Relation	rel;
	PartitionDesc speed = speed_partitions(read, &rel);

	if (newest_bound(speed) < read->window.leaves_until)
	{
		/* Somebody attached a leaf, and this transaction has not heard of it. */
		table_close(rel, NoLock);
		AcceptInvalidationMessages();
		speed = speed_partitions(read, &rel);
		if (newest_bound(speed) < Min(read->window.leaves_until, now))
			cannot_cover(read, "Records arrive in a partition that this session does not know yet.");
	}
	read->speed = palloc0(sizeof(Leaf) * Max(speed->nparts, 1));
	for (int i = speed->boundinfo ? speed->boundinfo->ndatums - 1 : 0; i > 0; i--)
	{
		int			index = speed->boundinfo->indexes[i];	/* the leaf that ends at datum i */

		if (bound_at(speed, i) <= read->window.window_start)
			break;
		if (index < 0 || bound_at(speed, i - 1) > now)
			continue;
		read->speed[read->nspeed].relid = speed->oids[index];
		read->speed[read->nspeed].check_arrival = bound_at(speed, i - 1) < read->window.window_start;
		read->nspeed++;
	}
	if (speed->boundinfo != NULL)
		check_dropped(read, bound_at(speed, 0));
	table_close(rel, NoLock);

	if (read->window.dataset_id != 0 &&
		gc_dataset_leaf_read(read->window.dataset_id, read->window.entity_id,
							 GetActiveSnapshot(), &read->dataset))
		read->batch.relid = read->dataset.leaf;
}

/* The valid btree index of a leaf on (key…, version), or InvalidOid. */
static Oid
find_key_index(GcRead *read, Relation rel, Leaf *leaf)
{
	List	   *indexes = RelationGetIndexList(rel);
	Oid			found = InvalidOid;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;
		bool		fits = index->rd_rel->relam == BTREE_AM_OID && form->indisvalid &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) &&
			form->indnkeyatts == read->key.ncolumns + 1 &&
			form->indkey.values[read->key.ncolumns] == leaf->version;

		for (int i = 0; fits && i < read->key.ncolumns; i++)
			fits = form->indkey.values[i] == leaf->key[i] &&
				index->rd_opfamily[i] == read->key.columns[i].opfamily &&
				index->rd_indcollation[i] == read->key.columns[i].collation;
		index_close(index, AccessShareLock);
		if (fits)
		{
			found = lfirst_oid(lc);
			break;
		}
	}
	list_free(indexes);
	return found;
}

/* The number of a column of the root in a leaf; nearly always the same one. */
static AttrNumber
leaf_column(GcRead *read, Relation rel, AttrNumber root_attno)
{
	const char *name = NameStr(TupleDescAttr(read->root, root_attno - 1)->attname);
	TupleDesc	desc = RelationGetDescr(rel);

	if (root_attno <= desc->natts &&
		strcmp(NameStr(TupleDescAttr(desc, root_attno - 1)->attname), name) == 0)
		return root_attno;
	return get_attnum(RelationGetRelid(rel), name);
}

/* First opening of a leaf: where its columns are, which index to probe. */
static void
prepare_leaf(GcRead *read, Relation rel, Leaf *leaf)
{
	MemoryContext caller = MemoryContextSwitchTo(read->context);

	leaf->arrived_at = leaf_column(read, rel, read->arrived_at);
	leaf->version = leaf_column(read, rel, read->version);
	leaf->source = leaf_column(read, rel, read->source);
	leaf->partition = leaf_column(read, rel, read->partition);
	leaf->offset = leaf_column(read, rel, read->offset);
	leaf->key = palloc(sizeof(AttrNumber) * read->key.ncolumns);
	for (int i = 0; i < read->key.ncolumns; i++)
		leaf->key[i] = leaf_column(read, rel, read->key.columns[i].attno);
	leaf->key_index = find_key_index(read, rel, leaf);
	leaf->desc = CreateTupleDescCopy(RelationGetDescr(rel));
	leaf->slot = MakeTupleTableSlot(leaf->desc, table_slot_callbacks(rel));
	leaf->to_root = convert_tuples_by_name(leaf->desc, read->root);
	MemoryContextSwitchTo(caller);
}

static Relation
open_leaf(GcRead *read, Leaf *leaf)
{
	Relation	rel = try_table_open(leaf->relid, AccessShareLock);

	if (rel == NULL)
		cannot_cover(read, "A table that this snapshot sees has been dropped.");
	if (leaf->desc == NULL)
		prepare_leaf(read, rel, leaf);
	return rel;
}

/* The first _is_current of a statement. */
static void
prepare(GcRead *read, const GcPlan *plan)
{
	MemoryContext caller = MemoryContextSwitchTo(read->context);

	prepare_key(read, plan);
	prepare_leaves(read);
	read->ready = true;
	MemoryContextSwitchTo(caller);
}

/*
 * Reading leaves
 */

/* The position of the row in a slot; false when it arrived before the window. */
static bool
slot_position(GcRead *read, Leaf *leaf, TupleTableSlot *slot, GcPosition *position)
{
	bool		isnull;

	position->arrived_at = DatumGetTimestampTz(slot_getattr(slot, leaf->arrived_at, &isnull));
	if (leaf->check_arrival && position->arrived_at < read->window.window_start)
		return false;
	position->version = DatumGetTimestampTz(slot_getattr(slot, leaf->version, &isnull));
	position->source = DatumGetInt32(slot_getattr(slot, leaf->source, &isnull));
	position->partition = DatumGetInt32(slot_getattr(slot, leaf->partition, &isnull));
	position->offset = DatumGetInt64(slot_getattr(slot, leaf->offset, &isnull));
	position->tid = slot->tts_tid;
	return true;
}

/*
 * Has this leaf a newer version of the key? The index gives the newest first, and
 * none that is older than the one asked about.
 */
static bool
probe(GcRead *read, Leaf *leaf, const Datum *key, const GcPosition *position)
{
	Relation	rel = open_leaf(read, leaf);
	Relation	index;
	IndexScanDesc scan;
	int			nkeys = read->key.ncolumns;
	bool		newer = false;

	for (int i = 0; i < nkeys; i++)
		read->scan_keys[i].sk_argument = key[i];
	read->scan_keys[nkeys].sk_argument = TimestampTzGetDatum(position->version);

	index = index_open(leaf->key_index, AccessShareLock);
	scan = gc_index_beginscan(rel, index, GetActiveSnapshot(), nkeys + 1);
	index_rescan(scan, read->scan_keys, nkeys + 1, NULL, 0);
	while (!newer && index_getnext_slot(scan, BackwardScanDirection, leaf->slot))
	{
		GcPosition	other;

		newer = slot_position(read, leaf, leaf->slot, &other) &&
			gc_position_compare(&other, position) > 0;
	}
	ExecClearTuple(leaf->slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return newer;
}

static bool
probe_window(GcRead *read, const Datum *key, const GcPosition *position)
{
	for (int i = 0; i < read->nspeed; i++)
		if (probe(read, &read->speed[i], key, position))
			return true;
	return false;
}

/* What to do with a row of the window; false = stop. */
typedef bool (*RowVisitor) (GcRead *read, const Datum *key, const GcPosition *position);

/* Shows the row in a leaf's slot to the visitor, if it lies in the window. */
static bool
visit_slot(GcRead *read, Leaf *leaf, RowVisitor visit)
{
	GcPosition	position;
	Datum		key[INDEX_MAX_KEYS];
	bool		isnull;

	if (!slot_position(read, leaf, leaf->slot, &position))
		return true;
	for (int i = 0; i < read->key.ncolumns; i++)
		key[i] = slot_getattr(leaf->slot, leaf->key[i], &isnull);
	return visit(read, key, &position);
}

/* Reads all leaves of the window; false when the visitor stopped it. */
static bool
visit_window(GcRead *read, RowVisitor visit)
{
	MemoryContext row = AllocSetContextCreate(read->context, "guest_context row",
											  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = CurrentMemoryContext;
	bool		going = true;

	for (int i = 0; going && i < read->nspeed; i++)
	{
		Leaf	   *leaf = &read->speed[i];
		Relation	rel = open_leaf(read, leaf);
		TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);

		while (going && table_scan_getnextslot(scan, ForwardScanDirection, leaf->slot))
		{
			CHECK_FOR_INTERRUPTS();
			MemoryContextSwitchTo(row);
			going = visit_slot(read, leaf, visit);
			MemoryContextReset(row);
			MemoryContextSwitchTo(caller);
		}
		ExecClearTuple(leaf->slot);
		table_endscan(scan);
		table_close(rel, AccessShareLock);
	}
	MemoryContextDelete(row);
	return going;
}

static bool
add_to_map(GcRead *read, const Datum *key, const GcPosition *position)
{
	return gc_window_map_add(read->map, key, position);
}

static bool
add_to_recent(GcRead *read, const Datum *key, const GcPosition *position)
{
	return gc_window_map_add(read->recent, key, position);
}

static bool
add_to_filters(GcRead *read, const Datum *key, const GcPosition *position)
{
	uint32		hash = gc_key_hash(&read->key, key);

	if (bloom_lacks_element(read->seen, (unsigned char *) &hash, sizeof(hash)))
		bloom_add_element(read->seen, (unsigned char *) &hash, sizeof(hash));
	else
		bloom_add_element(read->seen_again, (unsigned char *) &hash, sizeof(hash));
	return true;
}

/* How many rows the window has, by the planner's own estimate of each leaf. */
static void
estimate_window(GcRead *read)
{
	bool		indexed = true;

	read->window_rows = 0;
	for (int i = 0; i < read->nspeed; i++)
	{
		Relation	rel = open_leaf(read, &read->speed[i]);
		BlockNumber pages;
		double		tuples;
		double		visible;

		estimate_rel_size(rel, NULL, &pages, &tuples, &visible);
		read->window_rows += tuples;
		indexed = indexed && OidIsValid(read->speed[i].key_index);
		table_close(rel, AccessShareLock);
	}
	/* Somebody dropped an index: only the map is left. */
	read->build_cost = indexed ? 1 + read->window_rows * ROW_COST : -1;
}

static MemoryContext
map_context(GcRead *read)
{
	return AllocSetContextCreate(read->context, "guest_context window map",
								 ALLOCSET_DEFAULT_SIZES);
}

/* Reads the window into a map or, where that grows too large, into filters. */
static void
build(GcRead *read)
{
	MemoryContext caller = MemoryContextSwitchTo(read->context);
	MemoryContext context = map_context(read);
	Size		limit = read->build_cost < 0 ? 0 : (Size) gc_window_memory * 1024;

	read->map = gc_window_map_create(context, &read->key, limit);
	if (visit_window(read, add_to_map))
		read->mode = MODE_MAP;
	else
	{
		read->map = NULL;
		MemoryContextDelete(context);
		read->seen = bloom_create((int64) read->window_rows + 1, gc_window_memory / 2, 0);
		read->seen_again = bloom_create((int64) read->window_rows + 1, gc_window_memory / 2, 1);
		visit_window(read, add_to_filters);
		read->mode = MODE_FILTER;
	}
	MemoryContextSwitchTo(caller);
}

/* Reads the batch leaf's recent rows into a map of their own. */
static void
build_recent(GcRead *read)
{
	MemoryContext caller = MemoryContextSwitchTo(read->context);
	MemoryContext row = AllocSetContextCreate(read->context, "guest_context row",
											  ALLOCSET_SMALL_SIZES);
	Leaf	   *leaf = &read->batch;
	Relation	rel = open_leaf(read, leaf);
	Relation	index = index_open(read->dataset.recent_index, AccessShareLock);
	IndexScanDesc scan = gc_index_beginscan(rel, index, GetActiveSnapshot(), 0);

	read->recent = gc_window_map_create(map_context(read), &read->key, 0);
	index_rescan(scan, NULL, 0, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, leaf->slot))
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(row);
		visit_slot(read, leaf, add_to_recent);
		MemoryContextReset(row);
		MemoryContextSwitchTo(read->context);
	}
	ExecClearTuple(leaf->slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	MemoryContextDelete(row);
	MemoryContextSwitchTo(caller);
}

/*
 * The answer
 */

/* Does the window hold a newer version? `in_window`: the version asked about is there itself. */
static bool
window_has_newer(GcRead *read, const Datum *key, const GcPosition *position, bool in_window)
{
	const GcPosition *newest;
	uint32		hash;

	if (read->mode == MODE_PROBE)
	{
		if (read->build_cost == 0 && read->nspeed > 0)
			estimate_window(read);
		if (read->probe_cost < read->build_cost || read->nspeed == 0)
		{
			read->probe_cost += read->nspeed;
			return probe_window(read, key, position);
		}
		build(read);
	}
	if (read->mode == MODE_MAP)
	{
		newest = gc_window_map_find(read->map, key);
		return newest != NULL && gc_position_compare(newest, position) > 0;
	}
	hash = gc_key_hash(&read->key, key);
	return !bloom_lacks_element(in_window ? read->seen_again : read->seen,
								(unsigned char *) &hash, sizeof(hash)) &&
		probe_window(read, key, position);
}

/* Does the active dataset hold a newer version than this one of the window? */
static bool
batch_has_newer(GcRead *read, const Datum *key, const GcPosition *position)
{
	if (!OidIsValid(read->batch.relid) || position->version > read->dataset.max_version)
		return false;
	if (position->version >= read->window.window_start &&
		OidIsValid(read->dataset.recent_index))
	{
		const GcPosition *newest;

		if (read->recent == NULL &&
			read->recent_cost++ >= read->dataset.recent_rows * RECENT_ROW_COST)
			build_recent(read);
		if (read->recent != NULL)
		{
			newest = gc_window_map_find(read->recent, key);
			return newest != NULL && gc_position_compare(newest, position) > 0;
		}
	}
	return probe(read, &read->batch, key, position);
}

GcRead *
gc_read_begin(EState *estate, const GcPlan *plan)
{
	GcRead	   *read = find_read(estate->es_query_cxt, plan->versions);

	if (!read->ready)
		prepare(read, plan);
	read->nscans++;
	read->snapshot = estate->es_snapshot;
	return read;
}

static void
close_leaf(Leaf *leaf)
{
	if (leaf->scan == NULL)
		return;
	index_endscan(leaf->scan);
	index_close(leaf->index, NoLock);
	table_close(leaf->rel, NoLock);
	leaf->scan = NULL;
}

void
gc_read_end(GcRead *read)
{
	if (--read->nscans > 0)
		return;
	for (int i = 0; i < read->nspeed; i++)
		close_leaf(&read->speed[i]);
	close_leaf(&read->batch);
}

/* The newest version seen so far by gc_read_newest. */
typedef struct Newest
{
	GcPosition	position;
	Leaf	   *leaf;			/* NULL: none yet */
	HeapTuple	tuple;
} Newest;

/* Keeps the row in a leaf's slot if it is newer; false when the leaf's others cannot be. */
static bool
keep_newest(GcRead *read, Leaf *leaf, Newest *newest)
{
	GcPosition	position;

	if (!slot_position(read, leaf, leaf->slot, &position))
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
	newest->tuple = ExecCopySlotHeapTuple(leaf->slot);
	return true;
}

/* Opens a leaf for key scans, until the last of them ends. */
static void
open_for_scans(GcRead *read, Leaf *leaf)
{
	MemoryContext caller = MemoryContextSwitchTo(read->context);

	leaf->rel = open_leaf(read, leaf);
	if (!OidIsValid(leaf->key_index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" has no valid index on the key and version of its entity",
						RelationGetRelationName(leaf->rel)),
				 errhint("Create it as on the other partitions, or REINDEX TABLE %s.",
						 quote_identifier(RelationGetRelationName(leaf->rel)))));
	leaf->index = index_open(leaf->key_index, AccessShareLock);
	leaf->scan = gc_index_beginscan(leaf->rel, leaf->index, read->snapshot, read->key.ncolumns);
	MemoryContextSwitchTo(caller);
}

/* The leaf's versions of a key, newest first, until there can be no newer one. */
static void
newest_of_leaf(GcRead *read, Leaf *leaf, Newest *newest)
{
	if (leaf->scan == NULL)
		open_for_scans(read, leaf);
	index_rescan(leaf->scan, read->scan_keys, read->key.ncolumns, NULL, 0);
	while (index_getnext_slot(leaf->scan, BackwardScanDirection, leaf->slot))
		if (!keep_newest(read, leaf, newest))
			break;
	ExecClearTuple(leaf->slot);
}

HeapTuple
gc_read_newest(GcRead *read, const Datum *key)
{
	Newest		newest = {0};

	for (int i = 0; i < read->key.ncolumns; i++)
		read->scan_keys[i].sk_argument = key[i];
	for (int i = 0; i < read->nspeed; i++)
		newest_of_leaf(read, &read->speed[i], &newest);

	/* Where the window has a version newer than all of the dataset's, that is it. */
	if (OidIsValid(read->batch.relid) &&
		(newest.leaf == NULL || newest.position.version <= read->dataset.max_version))
		newest_of_leaf(read, &read->batch, &newest);
	if (newest.leaf == NULL)
		return NULL;
	return newest.leaf->to_root ? execute_attr_map_tuple(newest.tuple, newest.leaf->to_root) :
		newest.tuple;
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
	Datum		key[INDEX_MAX_KEYS];

	if (unlikely(read == NULL || !read->ready))
	{
		const GcPlan *plan = (const GcPlan *) PG_GETARG_POINTER(GC_ARG_PLAN);

		read = get_read(fcinfo, plan->versions);
		check_plan(read, plan);
		if (!read->ready)
			prepare(read, plan);
	}

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

	if (window_has_newer(read, key, &position, dataset == 0))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(dataset != 0 || !batch_has_newer(read, key, &position));
}
