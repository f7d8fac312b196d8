/*
 * window.c: looking into the window, and into the active dataset, for the newest
 * version of a key.
 *
 * There are three ways to know about the window:
 *
 *	 probe	 look the key up in the key index of every leaf that counts: right
 *			 for the few rows of a point read;
 *	 map	 read the window once into a hash map of newest positions: right for
 *			 scans. Begun when the probes made have cost as much as reading the
 *			 window would, so the total is at most twice the better of the two;
 *	 filter	 when the map would outgrow window_memory: Bloom filters of the keys
 *			 that the window has once, and more than once, in front of probes.
 *
 * The dataset is asked about versions of the window that are not newer than all
 * of it, and in ties: by a probe, or by a map of its leaf's recent rows (those with a
 * version not before the window's start, which a partial index lists).
 *
 * Called by read.c. Tables are read through the access methods, never by
 * SPI: row security must not hide a newer version.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "access/relation.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_opclass.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/value.h"
#include "optimizer/plancat.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "compat.h"
#include "guest_context.h"
#include "tree.h"
#include "window.h"

/*
 * Costs in units of one probe of one leaf: about a microsecond and a half to
 * open, descend and close, against reading and hashing a row of the window.
 */
#define FILTER_COST			0.15	/* to ask a leaf's key filter first */
#define ROW_COST			0.12
#define RECENT_ROW_COST		0.5		/* fetched through an index */

/*
 * Does equality of the type mean equality of bytes? Its btree operator class knows, but for
 * bpchar: blanks at the end do not count there, and a key may have any number of them.
 */
static bool
is_bytewise(const GcKeyColumn *column)
{
	Oid			equal_image = get_opfamily_proc(column->opfamily, column->opcintype,
												column->opcintype, BTEQUALIMAGE_PROC);

	return OidIsValid(equal_image) && column->opcintype != BPCHAROID &&
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
	read->arrived_at = gc_own_column(read->versions, "gc_arrived_at");
	read->version = plan->version_attno;
	read->source = gc_own_column(read->versions, "gc_source");
	read->partition = gc_own_column(read->versions, "gc_partition");
	read->offset = gc_own_column(read->versions, "gc_offset");
	read->key.seed = pg_prng_uint64(&pg_global_prng_state);
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
 * are empty; a minute is allowed for a clock that was set back, and what a plan reads is
 * looked into in any case, so that all plans agree.
 */
static void
prepare_leaves(GcRead *read, const GcPlan *plan)
{
	TimestampTz now = Max(GetCurrentTimestamp() + USECS_PER_MINUTE, plan->ceiling - 1);
	Relation	rel;
	PartitionDesc speed;

	/*
	 * Who asks only a leaf's filter has no lock of the leaf, so he is not waited for when
	 * the filter is replaced concurrently. It is enough to hear now that it was: what is
	 * written after this statement's snapshot it need not see.
	 */
	AcceptInvalidationMessages();
	speed = speed_partitions(read, &rel);
	if (newest_bound(speed) < read->window.leaves_until)
	{
		/* Somebody attached a leaf, and this transaction has not heard of it. */
		table_close(rel, NoLock);
		AcceptInvalidationMessages();
		speed = speed_partitions(read, &rel);
		if (newest_bound(speed) < Min(read->window.leaves_until, now))
			gc_read_cannot_cover(read, "Records arrive in a partition that this session does not know yet.");
	}
	read->speed = palloc0(sizeof(GcLeaf) * Max(speed->nparts, 1));
	for (int i = speed->boundinfo ? speed->boundinfo->ndatums - 1 : 0; i > 0; i--)
	{
		int			index = speed->boundinfo->indexes[i];	/* the leaf that ends at datum i */

		if (bound_at(speed, i) <= read->window.window_start)
			break;
		if (index < 0 || bound_at(speed, i - 1) > now)
			continue;
		read->speed[read->nspeed].relid = speed->oids[index];
		read->speed[read->nspeed].check_arrival = bound_at(speed, i - 1) < read->window.window_start;
		read->speed[read->nspeed].number = read->nspeed;
		read->nspeed++;
	}
	if (speed->boundinfo != NULL)
		gc_read_check_dropped(read, bound_at(speed, 0));
	table_close(rel, NoLock);

	if (read->window.dataset_id != 0 &&
		gc_dataset_leaf_read(read->window.dataset_id, read->window.entity_id,
							 GetActiveSnapshot(), &read->dataset))
		read->batch.relid = read->dataset.leaf;
	read->batch.number = GC_NO_LEAF;
}

/* The valid btree index of a leaf on (key…, version), or InvalidOid. */
static Oid
find_key_index(GcRead *read, Relation rel, GcLeaf *leaf)
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
		index_close(index, fits ? NoLock : AccessShareLock);
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
prepare_leaf(GcRead *read, Relation rel, GcLeaf *leaf)
{
	MemoryContext caller = MemoryContextSwitchTo(read->context);

	leaf->arrived_at = leaf_column(read, rel, read->arrived_at);
	leaf->version = leaf_column(read, rel, read->version);
	leaf->source = leaf_column(read, rel, read->source);
	leaf->partition = leaf_column(read, rel, read->partition);
	leaf->offset = leaf_column(read, rel, read->offset);
	leaf->deleted = leaf_column(read, rel, gc_own_column(read->versions, "gc_deleted"));
	leaf->key = palloc(sizeof(AttrNumber) * read->key.ncolumns);
	for (int i = 0; i < read->key.ncolumns; i++)
		leaf->key[i] = leaf_column(read, rel, read->key.columns[i].attno);
	leaf->key_index = find_key_index(read, rel, leaf);
	MemoryContextSwitchTo(caller);
}

Relation
gc_leaf_open(GcRead *read, GcLeaf *leaf)
{
	Relation	rel = try_table_open(leaf->relid, AccessShareLock);

	if (rel == NULL)
		gc_read_cannot_cover(read, "A table that this snapshot sees has been dropped.");
	if (leaf->key == NULL)
		prepare_leaf(read, rel, leaf);
	return rel;
}

Relation
gc_leaf_open_index(GcRead *read, GcLeaf *leaf, Relation rel)
{
	List	   *columns = NIL;

	if (OidIsValid(leaf->key_index))
		return index_open(leaf->key_index, AccessShareLock);

	for (int i = 0; i < read->key.ncolumns; i++)
		columns = lappend(columns, makeString(NameStr(TupleDescAttr(read->root, read->key.columns[i].attno - 1)->attname)));
	columns = lappend(columns, makeString(NameStr(TupleDescAttr(read->root, read->version - 1)->attname)));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("\"%s\" has no valid index on the key and version of its entity",
					RelationGetRelationName(rel)),
			 errhint("CREATE INDEX ON %s (%s); or, where it is not valid, REINDEX TABLE %s;",
					 gc_quoted_name(read->versions), gc_column_list(columns, ""),
					 gc_quoted_name(RelationGetRelid(rel)))));
}

void
gc_read_set_leaves(GcRead *read, Oid batch, int nspeed)
{
	read->batch.relid = batch;
	read->speed = MemoryContextAllocZero(read->context, sizeof(GcLeaf) * Max(nspeed, 1));
	read->nspeed = nspeed;
}

void
gc_read_set_leaf(GcRead *read, int number, Oid relid, bool check_arrival)
{
	read->speed[number].relid = relid;
	read->speed[number].check_arrival = check_arrival;
	read->speed[number].number = number;
}

/* Opens a leaf, until the last scan node of the statement ends. */
void
gc_leaf_hold(GcRead *read, GcLeaf *leaf)
{
	MemoryContext caller;

	if (leaf->rel != NULL)
		return;
	caller = MemoryContextSwitchTo(read->context);
	leaf->rel = gc_leaf_open(read, leaf);
	MemoryContextSwitchTo(caller);
}

/* And a scan of its key index: key = …, version >= …. */
static void
hold_index(GcRead *read, GcLeaf *leaf)
{
	MemoryContext caller;

	if (leaf->scan != NULL)
		return;
	caller = MemoryContextSwitchTo(read->context);
	gc_leaf_hold(read, leaf);
	leaf->index = gc_leaf_open_index(read, leaf, leaf->rel);
	leaf->scan_slot = table_slot_create(leaf->rel, NULL);
	leaf->scan = gc_index_beginscan(leaf->rel, leaf->index, read->snapshot, read->key.ncolumns + 1);
	MemoryContextSwitchTo(caller);
}

void
gc_leaf_release(GcLeaf *leaf)
{
	if (leaf->scan != NULL)
	{
		ExecDropSingleTupleTableSlot(leaf->scan_slot);
		index_endscan(leaf->scan);
		index_close(leaf->index, NoLock);
		leaf->scan = NULL;
	}
	if (leaf->filter != NULL)
		index_close(leaf->filter, NoLock);
	leaf->filter = NULL;
	if (leaf->rel != NULL)
		table_close(leaf->rel, NoLock);
	leaf->rel = NULL;
}

/*
 * Serializable transactions do without: that a key is not there is noted by descending
 * the index that it would be in.
 */
static Relation
open_filter(GcRead *read, GcLeaf *leaf)
{
	Relation	filter;

	if (!leaf->filter_known)
	{
		leaf->filter_index = IsolationIsSerializable() ? InvalidOid :
			gc_key_filter_of(leaf->relid, read->root, &read->key);
		leaf->filter_known = true;
	}
	if (leaf->filter != NULL || !OidIsValid(leaf->filter_index))
		return leaf->filter;
	filter = try_relation_open(leaf->filter_index, AccessShareLock);
	if (filter == NULL)
		leaf->filter_index = InvalidOid;	/* dropped: then the leaf itself is asked */
	else if (read->nscans > 0)
		leaf->filter = filter;
	return filter;
}

static uint64
hash_for_filters(GcRead *read, const Datum *key)
{
	if (read->filter_columns == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(read->context);

		read->filter_columns = palloc(sizeof(GcFilterColumn) * read->key.ncolumns);
		for (int i = 0; i < read->key.ncolumns; i++)
			gc_key_filter_column(&read->filter_columns[i], read->key.columns[i].type,
								 read->key.columns[i].collation);
		MemoryContextSwitchTo(caller);
	}
	return gc_key_filter_hash(read->filter_columns, read->key.ncolumns, key);
}

bool
gc_leaf_lacks(GcRead *read, GcLeaf *leaf, const Datum *key, GcFilterHash *hash)
{
	Relation	filter = open_filter(read, leaf);
	bool		lacks;

	if (filter == NULL)
		return false;
	if (!hash->done)
	{
		hash->hash = hash_for_filters(read, key);
		hash->done = true;
	}
	lacks = !gc_key_filter_has(filter, hash->hash);
	if (leaf->filter == NULL)
		index_close(filter, AccessShareLock);
	return lacks;
}

/* The first _is_current of a statement. */
void
gc_window_prepare(GcRead *read, const GcPlan *plan)
{
	MemoryContext caller = MemoryContextSwitchTo(read->context);

	prepare_key(read, plan);
	prepare_leaves(read, plan);
	read->ready = true;
	MemoryContextSwitchTo(caller);
}

/*
 * Reading leaves
 */

/* Opens a leaf for a function, with a slot that holds nothing of it afterwards. */
static Relation
open_with_slot(GcRead *read, GcLeaf *leaf)
{
	Relation	rel = gc_leaf_open(read, leaf);

	if (leaf->slot == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(read->context);

		leaf->slot = MakeTupleTableSlot(CreateTupleDescCopyConstr(RelationGetDescr(rel)),
										table_slot_callbacks(rel));
		MemoryContextSwitchTo(caller);
	}
	return rel;
}

/* The position of the row in a slot; false when it arrived before the window. */
bool
gc_leaf_position(GcRead *read, GcLeaf *leaf, TupleTableSlot *slot, GcPosition *position)
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
	position->leaf = leaf->number;
	return true;
}

/* Sets off a scan of the leaf's key index for versions of the key from `version` on, newest first. */
static void
start_probe(GcRead *read, IndexScanDesc scan, const Datum *key, TimestampTz version)
{
	int			nkeys = read->key.ncolumns;

	for (int i = 0; i < nkeys; i++)
		read->scan_keys[i].sk_argument = key[i];
	read->scan_keys[nkeys].sk_argument = TimestampTzGetDatum(version);
	index_rescan(scan, read->scan_keys, nkeys + 1, NULL, 0);
}

/* A held scan keeps what it has noted, as of dead rows, from one key to the next: in memory that stays. */
void
gc_leaf_probe(GcRead *read, GcLeaf *leaf, const Datum *key, TimestampTz version)
{
	MemoryContext caller = MemoryContextSwitchTo(read->context);

	hold_index(read, leaf);
	start_probe(read, leaf->scan, key, version);
	MemoryContextSwitchTo(caller);
}

bool
gc_leaf_probe_next(GcRead *read, GcLeaf *leaf)
{
	MemoryContext caller = MemoryContextSwitchTo(read->context);
	bool		found = index_getnext_slot(leaf->scan, BackwardScanDirection, leaf->scan_slot);

	MemoryContextSwitchTo(caller);
	return found;
}

/* The rest of probe(); `scan` is NULL for the leaf's held one. */
static void
newest_in_scan(GcRead *read, GcLeaf *leaf, IndexScanDesc scan, TupleTableSlot *slot, GcPosition *newest)
{
	GcPosition	position;

	while (scan == NULL ? gc_leaf_probe_next(read, leaf) : index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		if (!gc_leaf_position(read, leaf, slot, &position))
			continue;
		if (position.version < newest->version)
			break;
		if (newest->version == DT_NOBEGIN || gc_position_compare(&position, newest) > 0)
			*newest = position;
	}
	ExecClearTuple(slot);
}

/*
 * Puts the leaf's newest position of the key into *newest, where that is newer
 * than what is there (version DT_NOBEGIN: nothing yet). Versions older than
 * `version` do not count. The index gives the newest first.
 */
static void
probe(GcRead *read, GcLeaf *leaf, const Datum *key, TimestampTz version, GcPosition *newest)
{
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;

	version = Max(version, newest->version);
	if (read->nscans > 0)
	{
		gc_leaf_probe(read, leaf, key, version);
		newest_in_scan(read, leaf, NULL, leaf->scan_slot, newest);
		return;
	}
	rel = open_with_slot(read, leaf);
	index = gc_leaf_open_index(read, leaf, rel);
	scan = gc_index_beginscan(rel, index, GetActiveSnapshot(), read->key.ncolumns + 1);
	start_probe(read, scan, key, version);
	newest_in_scan(read, leaf, scan, leaf->slot, newest);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/* The window's newest position of the key, if its version is not older than `version`. */
static bool
probe_window(GcRead *read, const Datum *key, TimestampTz version, GcPosition *newest)
{
	GcFilterHash hash = {0};

	newest->version = DT_NOBEGIN;
	for (int i = 0; i < read->nspeed; i++)
	{
		read->probe_cost += FILTER_COST;
		if (gc_leaf_lacks(read, &read->speed[i], key, &hash))
			continue;
		read->probe_cost += 1;
		probe(read, &read->speed[i], key, version, newest);
	}
	return newest->version != DT_NOBEGIN;
}

/* What to do with a row of the window; false = stop. */
typedef bool (*RowVisitor) (GcRead *read, const Datum *key, const GcPosition *position);

/* Shows the row in a leaf's slot to the visitor, if it lies in the window. */
static bool
visit_slot(GcRead *read, GcLeaf *leaf, RowVisitor visit)
{
	GcPosition	position;
	Datum		key[INDEX_MAX_KEYS];
	bool		isnull;

	if (!gc_leaf_position(read, leaf, leaf->slot, &position))
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
		GcLeaf	   *leaf = &read->speed[i];
		Relation	rel = open_with_slot(read, leaf);
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
		Relation	rel = gc_leaf_open(read, &read->speed[i]);
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

	read->map = gc_window_map_create(context, &read->key, limit, read->window_rows);
	if (visit_window(read, add_to_map) && gc_window_map_finish(read->map))
		read->mode = GC_MODE_MAP;
	else
	{
		read->map = NULL;
		MemoryContextDelete(context);
		read->seen = bloom_create((int64) read->window_rows + 1, gc_window_memory / 2, 0);
		read->seen_again = bloom_create((int64) read->window_rows + 1, gc_window_memory / 2, 1);
		visit_window(read, add_to_filters);
		read->mode = GC_MODE_FILTER;
	}
	MemoryContextSwitchTo(caller);
}

void
gc_window_build(GcRead *read)
{
	if (read->mode != GC_MODE_PROBE || read->nspeed == 0)
		return;
	if (read->build_cost == 0)
		estimate_window(read);
	build(read);
}

/* Is the index a list of just the rows with version >= bound, for a bound not after `from`? */
static bool
lists_recent(Relation index, AttrNumber version, TimestampTz from)
{
	List	   *predicate = RelationGetIndexPredicate(index);
	OpExpr	   *op = predicate == NIL ? NULL : linitial(predicate);
	Var		   *left;
	Const	   *right;

	if (list_length(predicate) != 1 || !IsA(op, OpExpr) || get_opcode(op->opno) != F_TIMESTAMPTZ_GE)
		return false;
	left = (Var *) strip_implicit_coercions(linitial(op->args));
	right = lsecond(op->args);
	return IsA(left, Var) && left->varattno == version &&
		IsA(right, Const) && !right->constisnull && DatumGetTimestampTz(right->constvalue) <= from;
}

/*
 * The dataset's index of recent rows, InvalidOid when somebody has dropped it. Found by what
 * it says: a dump cannot carry its name beside the rows, and REINDEX makes a new one.
 */
static Oid
find_recent_index(GcRead *read, Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	Oid			found = InvalidOid;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indisvalid &&
			lists_recent(index, read->batch.version, read->window.window_start))
			found = lfirst_oid(lc);
		index_close(index, AccessShareLock);
		if (OidIsValid(found))
			break;
	}
	list_free(indexes);
	return found;
}

/* Reads the batch leaf's recent rows into a map of their own, if an index lists them. */
static void
build_recent(GcRead *read)
{
	MemoryContext caller = MemoryContextSwitchTo(read->context);
	MemoryContext row = AllocSetContextCreate(read->context, "guest_context row",
											  ALLOCSET_SMALL_SIZES);
	GcLeaf	   *leaf = &read->batch;
	Relation	rel = open_with_slot(read, leaf);
	Oid			index_oid = find_recent_index(read, rel);
	Relation	index;
	IndexScanDesc scan;

	if (!OidIsValid(index_oid))
	{
		read->dataset.recent_rows = PG_INT64_MAX;	/* probe, and look no more */
		table_close(rel, AccessShareLock);
		MemoryContextDelete(row);
		MemoryContextSwitchTo(caller);
		return;
	}
	index = index_open(index_oid, AccessShareLock);
	scan = gc_index_beginscan(rel, index, GetActiveSnapshot(), 0);
	read->recent = gc_window_map_create(map_context(read), &read->key, 0, read->dataset.recent_rows);
	index_rescan(scan, NULL, 0, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, leaf->slot))
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(row);
		visit_slot(read, leaf, add_to_recent);
		MemoryContextReset(row);
		MemoryContextSwitchTo(read->context);
	}
	gc_window_map_finish(read->recent);
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

/*
 * The window's newest position of the key; false when it has none, or none with
 * a version that is not older than `version`. `in_window`: the version asked for is
 * itself in the window.
 */
bool
gc_window_newest(GcRead *read, const Datum *key, TimestampTz version, bool in_window,
				 GcPosition *newest)
{
	uint32		hash;

	if (read->mode == GC_MODE_PROBE)
	{
		if (read->build_cost == 0 && read->nspeed > 0)
			estimate_window(read);
		if (read->probe_cost < read->build_cost || read->nspeed == 0)
			return probe_window(read, key, version, newest);
		build(read);
	}
	if (read->mode == GC_MODE_MAP)
	{
		const GcPosition *found = gc_window_map_find(read->map, key);

		if (found == NULL)
			return false;
		*newest = *found;
		return true;
	}
	hash = gc_key_hash(&read->key, key);
	return !bloom_lacks_element(in_window ? read->seen_again : read->seen,
								(unsigned char *) &hash, sizeof(hash)) &&
		probe_window(read, key, version, newest);
}

/*
 * The active dataset's position of the key; false when it has none, or one with
 * a version older than `version`.
 */
bool
gc_batch_newest(GcRead *read, const Datum *key, TimestampTz version, GcPosition *newest)
{
	if (!OidIsValid(read->batch.relid) || version > read->dataset.max_version)
		return false;
	if (version >= read->window.window_start)
	{
		const GcPosition *found;

		if (read->recent == NULL &&
			read->recent_cost++ >= read->dataset.recent_rows * RECENT_ROW_COST)
			build_recent(read);
		if (read->recent != NULL)
		{
			found = gc_window_map_find(read->recent, key);
			if (found == NULL)
				return false;
			*newest = *found;
			return true;
		}
	}
	newest->version = DT_NOBEGIN;
	probe(read, &read->batch, key, version, newest);
	return newest->version != DT_NOBEGIN;
}
