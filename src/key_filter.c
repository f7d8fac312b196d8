/*
 * key_filter.c: a filter of keys as an index access method, gc_key_filter.
 *
 * A read of one key descends the key index of every leaf of the window, and nearly all
 * of them do not have it. Leaves in which no records arrive any more get this index too:
 * a Bloom filter of their keys, 12 bits each, as the tables of an LSM tree have. It says
 * "no" for nearly all keys that a leaf does not have, at the cost of one page that is in
 * memory, where a descent takes several and compares keys.
 *
 * As an index it needs nothing of its own for what else must hold: building it takes a lock
 * that readers do not mind, a row that somebody puts into the leaf by hand goes into the filter in
 * the same moment, and logging, standbys, REINDEX, dumps and dropping are PostgreSQL's. What
 * is deleted stays in the filter, which may say "perhaps" too often but never "no" wrongly.
 *
 * The planner never uses it: it gives no rows. window.c asks it before it probes.
 *
 * Its pages have no order among them. A key's hash chooses a page, in it a line as a
 * processor caches it, and in that four bits ("blocked Bloom filter", Putze, Sanders and
 * Singler 2007). The number of pages is fixed when it is built.
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/generic_xlog.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xloginsert.h"
#include "catalog/index.h"
#include "commands/vacuum.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "optimizer/plancat.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "compat.h"
#include "key_filter.h"
#include "maintenance.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_key_filter_handler);

#define BITS_PER_KEY	12
#define LINE_BYTES		64
#define LINES_PER_PAGE	((int) ((BLCKSZ - MAXALIGN(SizeOfPageHeaderData)) / LINE_BYTES))
#define BITS_PER_PAGE	(LINES_PER_PAGE * LINE_BYTES * 8)

/* All bits of the result depend on all bits of the argument (the finalizer of murmur3). */
static inline uint64
mix64(uint64 x)
{
	x = (x ^ (x >> 33)) * UINT64CONST(0xFF51AFD7ED558CCD);
	x = (x ^ (x >> 33)) * UINT64CONST(0xC4CEB9FE1A85EC53);
	return x ^ (x >> 33);
}

/*
 * Hashing. Equal keys, by the type's default operator class and the column's collation, have
 * equal hashes; those are PostgreSQL's own, so they are the same on every server of a major version.
 */

void
gc_key_filter_column(GcFilterColumn *column, Oid type, Oid collation)
{
	TypeCacheEntry *cache = lookup_type_cache(type, TYPECACHE_HASH_PROC_FINFO |
											  TYPECACHE_HASH_EXTENDED_PROC_FINFO);

	column->collation = collation;
	column->extended = OidIsValid(cache->hash_extended_proc);
	if (!OidIsValid(cache->hash_proc))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("type %s cannot be hashed", format_type_be(type))));
	fmgr_info_copy(&column->hash, column->extended ? &cache->hash_extended_proc_finfo :
				   &cache->hash_proc_finfo, CurrentMemoryContext);
}

uint64
gc_key_filter_hash(GcFilterColumn *columns, int ncolumns, const Datum *values)
{
	uint64		hash = 0;

	for (int i = 0; i < ncolumns; i++)
	{
		GcFilterColumn *column = &columns[i];
		uint64		part = column->extended ?
			DatumGetUInt64(FunctionCall2Coll(&column->hash, column->collation, values[i], UInt64GetDatum(0))) :
			mix64(DatumGetUInt32(FunctionCall1Coll(&column->hash, column->collation, values[i])));

		hash = i == 0 ? part : hash_combine64(hash, part);
	}
	return hash;
}

static GcFilterColumn *
columns_of(Relation index)
{
	TupleDesc	desc = RelationGetDescr(index);
	GcFilterColumn *columns = palloc(sizeof(GcFilterColumn) * desc->natts);

	for (int i = 0; i < desc->natts; i++)
		gc_key_filter_column(&columns[i], TupleDescAttr(desc, i)->atttypid, index->rd_indcollation[i]);
	return columns;
}

/*
 * Places
 */

typedef struct Place
{
	BlockNumber page;
	int			line;
	uint64		bits[LINE_BYTES / 8];
} Place;

static void
place_of(uint64 hash, BlockNumber npages, Place *place)
{
	uint64		more = mix64(hash);

	place->page = (hash >> 32) * npages >> 32;
	place->line = (hash & 0xFFFFFFFF) * LINES_PER_PAGE >> 32;
	memset(place->bits, 0, sizeof(place->bits));
	for (int i = 0; i < 4; i++, more >>= 9)
		place->bits[(more >> 6) & 7] |= UINT64CONST(1) << (more & 63);
}

static uint64 *
line_of(Page page, const Place *place)
{
	return (uint64 *) (PageGetContents(page) + place->line * LINE_BYTES);
}

/* The number of pages never changes; kept with the relation. */
static BlockNumber
pages_of(Relation index)
{
	if (index->rd_amcache == NULL)
	{
		BlockNumber *npages = MemoryContextAlloc(index->rd_indexcxt, sizeof(BlockNumber));

		*npages = RelationGetNumberOfBlocks(index);
		index->rd_amcache = npages;
	}
	return *(BlockNumber *) index->rd_amcache;
}

bool
gc_key_filter_has(Relation index, uint64 hash)
{
	BlockNumber npages = pages_of(index);
	Place		place;
	Buffer		buffer;
	uint64	   *line;
	bool		has = true;

	if (npages == 0)			/* cannot happen: it has one page at least */
		return true;
	place_of(hash, npages, &place);
	buffer = ReadBuffer(index, place.page);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	line = line_of(BufferGetPage(buffer), &place);
	for (int i = 0; has && i < LINE_BYTES / 8; i++)
		has = (line[i] & place.bits[i]) == place.bits[i];
	UnlockReleaseBuffer(buffer);
	return has;
}

static void
init_page(Page page)
{
	PageInit(page, BLCKSZ, 0);
	/* all of it is data, which the log must not take for a hole */
	((PageHeader) page)->pd_lower = ((PageHeader) page)->pd_upper;
}

/*
 * The access method
 */

typedef struct Build
{
	GcFilterColumn *columns;
	BlockNumber npages;
	double		rows;
	MemoryContext row;
} Build;

static void
count_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	((Build *) arg)->rows++;
}

/* No key has a NULL, and nobody asks for one; but somebody may make a filter of anything. */
static bool
has_null(Relation index, const bool *isnull)
{
	for (int i = 0; i < RelationGetDescr(index)->natts; i++)
		if (isnull[i])
			return true;
	return false;
}

/* Sets the key's bits in a page that nobody else sees yet. */
static void
build_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *arg)
{
	Build	   *build = arg;
	MemoryContext caller;
	Place		place;
	Buffer		buffer;
	uint64	   *line;

	if (has_null(index, isnull))
		return;
	caller = MemoryContextSwitchTo(build->row);
	place_of(gc_key_filter_hash(build->columns, RelationGetDescr(index)->natts, values),
			 build->npages, &place);
	buffer = ReadBuffer(index, place.page);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	line = line_of(BufferGetPage(buffer), &place);
	for (int i = 0; i < LINE_BYTES / 8; i++)
		line[i] |= place.bits[i];
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(build->row);
}

static void
add_page(Relation index, ForkNumber fork)
{
	Buffer		buffer = ReadBufferExtended(index, fork, P_NEW, RBM_ZERO_AND_LOCK, NULL);

	init_page(BufferGetPage(buffer));
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
}

/* ambuild */
static IndexBuildResult *
build_filter(Relation heap, Relation index, IndexInfo *info)
{
	IndexBuildResult *result = palloc0(sizeof(IndexBuildResult));
	Build		build = {0};

	if (RelationGetNumberOfBlocks(index) != 0)
		elog(ERROR, "index \"%s\" already contains data", RelationGetRelationName(index));	/* cannot happen */

	/* once to know how large it will be, and again to fill it */
	table_index_build_scan(heap, index, info, true, true, count_row, &build, NULL);
	build.npages = 1 + (BlockNumber) (build.rows * BITS_PER_KEY / BITS_PER_PAGE);
	for (BlockNumber i = 0; i < build.npages; i++)
	{
		CHECK_FOR_INTERRUPTS();
		add_page(index, MAIN_FORKNUM);
	}
	build.columns = columns_of(index);
	build.row = AllocSetContextCreate(CurrentMemoryContext, "guest_context filter row",
									  ALLOCSET_SMALL_SIZES);
	result->heap_tuples = table_index_build_scan(heap, index, info, true, true, build_row, &build, NULL);
	result->index_tuples = build.rows;
	MemoryContextDelete(build.row);
	if (RelationNeedsWAL(index))
		log_newpage_range(index, MAIN_FORKNUM, 0, build.npages, true);
	return result;
}

/* ambuildempty: the fork that an unlogged table begins with after a crash */
static void
build_empty(Relation index)
{
	Buffer		buffer = ReadBufferExtended(index, INIT_FORKNUM, P_NEW, RBM_ZERO_AND_LOCK, NULL);

	START_CRIT_SECTION();
	init_page(BufferGetPage(buffer));
	MarkBufferDirty(buffer);
	log_newpage_buffer(buffer, true);
	END_CRIT_SECTION();
	UnlockReleaseBuffer(buffer);
}

/* aminsert: somebody writes to a leaf of the past by hand */
static bool
insert_key(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
		   IndexUniqueCheck check, bool unchanged, IndexInfo *info)
{
	MemoryContext row;
	MemoryContext caller;
	Place		place;
	Buffer		buffer;
	uint64	   *line;
	bool		has = true;

	if (has_null(index, isnull))
		return false;
	row = AllocSetContextCreate(CurrentMemoryContext, "guest_context filter row", ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(row);
	place_of(gc_key_filter_hash(columns_of(index), RelationGetDescr(index)->natts, values),
			 pages_of(index), &place);
	buffer = ReadBuffer(index, place.page);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	line = line_of(BufferGetPage(buffer), &place);
	for (int i = 0; has && i < LINE_BYTES / 8; i++)
		has = (line[i] & place.bits[i]) == place.bits[i];
	if (!has)
	{
		GenericXLogState *state = GenericXLogStart(index);

		line = line_of(GenericXLogRegisterBuffer(state, buffer, 0), &place);
		for (int i = 0; i < LINE_BYTES / 8; i++)
			line[i] |= place.bits[i];
		GenericXLogFinish(state);
	}
	UnlockReleaseBuffer(buffer);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(row);
	return false;
}

/* ambulkdelete, amvacuumcleanup: what has been in the filter stays */
static IndexBulkDeleteResult *
bulk_delete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats, IndexBulkDeleteCallback callback,
			void *arg)
{
	return stats != NULL ? stats : palloc0(sizeof(IndexBulkDeleteResult));
}

static IndexBulkDeleteResult *
vacuum_cleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
	if (info->analyze_only)
		return stats;
	if (stats == NULL)
		stats = palloc0(sizeof(IndexBulkDeleteResult));
	stats->num_pages = RelationGetNumberOfBlocks(info->index);
	stats->num_index_tuples = info->num_heap_tuples;
	stats->estimated_count = true;
	return stats;
}

/* amcostestimate: not called, since there is no way to scan it */
static void
estimate_cost(struct PlannerInfo *root, struct IndexPath *path, double loops, Cost *startup,
			  Cost *total, Selectivity *selectivity, double *correlation, double *pages)
{
	*startup = *total = 1e10;
	*selectivity = 1;
	*correlation = 0;
	*pages = 1;
}

static bytea *
no_options(Datum reloptions, bool validate)
{
	return build_reloptions(reloptions, validate, RELOPT_KIND_LOCAL, 0, NULL, 0);
}

static bool
validate_class(Oid opclass)
{
	return true;
}

/* gc_key_filter_handler(internal) -> index_am_handler */
Datum
gc_key_filter_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *am = makeNode(IndexAmRoutine);

	am->amcanmulticol = true;
	am->amoptionalkey = true;
	am->amkeytype = InvalidOid;
	am->ambuild = build_filter;
	am->ambuildempty = build_empty;
	am->aminsert = insert_key;
	am->ambulkdelete = bulk_delete;
	am->amvacuumcleanup = vacuum_cleanup;
	am->amcostestimate = estimate_cost;
	am->amoptions = no_options;
	am->amvalidate = validate_class;
	PG_RETURN_POINTER(am);
}

/* Is the index a filter of a leaf's rows by just these columns, in this order and with their own collations? */
static bool
is_filter(Relation leaf, Relation index, List *key)
{
	Form_pg_index form = index->rd_index;
	ListCell   *lc;

	if (index->rd_indam->ambuild != build_filter || !form->indisvalid ||
		form->indnatts != list_length(key) ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		return false;
	foreach(lc, key)
	{
		int			i = foreach_current_index(lc);
		AttrNumber	attno = form->indkey.values[i];
		Form_pg_attribute att;

		if (attno <= 0)			/* an expression */
			return false;
		att = TupleDescAttr(RelationGetDescr(leaf), attno - 1);
		if (strcmp(NameStr(att->attname), strVal(lfirst(lc))) != 0 ||
			index->rd_indcollation[i] != att->attcollation)
			return false;
	}
	return true;
}

/* May it be asked, by this transaction's snapshots? (The planner's rule for any index.) */
static bool
may_be_asked(Relation index)
{
	return index->rd_index->indisready &&
		(!index->rd_index->indcheckxmin ||
		 TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data), TransactionXmin));
}

/*
 * The filters of leaves, as far as this session has asked; forgotten when the relation
 * cache hears of a change of the leaf.
 */
typedef struct Known
{
	Oid			leaf;
	Oid			filter;
} Known;

static HTAB *known = NULL;

/* Relation cache callback: a relation, or all of them, may have changed. */
static void
forget_known(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	Known	   *entry;

	if (OidIsValid(relid))
	{
		hash_search(known, &relid, HASH_REMOVE, NULL);
		return;
	}
	hash_seq_init(&status, known);
	while ((entry = hash_seq_search(&status)) != NULL)
		hash_search(known, &entry->leaf, HASH_REMOVE, NULL);
}

static void
make_known(void)
{
	HASHCTL		control = {.keysize = sizeof(Oid), .entrysize = sizeof(Known), .hcxt = CacheMemoryContext};

	known = hash_create("guest_context key filters", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(forget_known, (Datum) 0);
}

/* *later: there is one that may not be asked yet. */
static Oid
find_filter(Oid leaf, List *key, bool *later)
{
	Relation	rel = try_table_open(leaf, AccessShareLock);
	Oid			found = InvalidOid;
	List	   *indexes;
	ListCell   *lc;

	*later = false;
	if (rel == NULL)
		return InvalidOid;
	indexes = RelationGetIndexList(rel);
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (is_filter(rel, index, key))
		{
			if (may_be_asked(index))
				found = lfirst_oid(lc);
			else
				*later = true;
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	table_close(rel, AccessShareLock);
	return found;
}

Oid
gc_key_filter_of(Oid leaf, TupleDesc root, const GcKey *key)
{
	Known	   *entry;
	Oid			filter;
	List	   *columns = NIL;
	bool		later;

	if (known == NULL)
		make_known();
	entry = hash_search(known, &leaf, HASH_FIND, NULL);
	if (entry != NULL)
		return entry->filter;
	for (int i = 0; i < key->ncolumns; i++)
		columns = lappend(columns, makeString(NameStr(TupleDescAttr(root, key->columns[i].attno - 1)->attname)));
	/* what is heard of while it is looked up comes before the entry is made */
	filter = find_filter(leaf, columns, &later);
	list_free_deep(columns);
	if (OidIsValid(filter) || !later)
	{
		entry = hash_search(known, &leaf, HASH_ENTER, NULL);
		entry->filter = filter;
	}
	return filter;
}

/*
 * Making them
 */

/* Has the leaf rows, and no filter yet? */
static bool
wants_filter(Oid leaf, List *key)
{
	Relation	rel = try_table_open(leaf, AccessShareLock);
	bool		wants;
	bool		later;

	if (rel == NULL)
		return false;
	wants = RelationGetNumberOfBlocks(rel) > 0 && !OidIsValid(find_filter(leaf, key, &later)) && !later;
	table_close(rel, AccessShareLock);
	return wants;
}

/*
 * A leaf whose time is over for a minute gets no records any more, but those of a transaction
 * that began before; CREATE INDEX waits for it, as long as lock_timeout says. Leaves that no
 * dataset needs are not read by key.
 */
void
gc_key_filter_make(const GcEntity *entity, void *arg)
{
	TimestampTz past = GetCurrentTimestamp() - USECS_PER_MINUTE;
	GcSpeedLeaf *leaves;
	int			nleaves;
	GcWindow	window;
	int			made = 0;

	gc_step_begin();
	gc_window_read(entity->versions, GetActiveSnapshot(), &window);
	nleaves = gc_speed_leaves(entity->speed, &leaves);
	for (int i = 0; i < nleaves; i++)
		if (leaves[i].upper > window.floor && leaves[i].upper <= past && wants_filter(leaves[i].relid, entity->key_columns))
		{
			gc_run_ddl(psprintf("CREATE INDEX ON %s USING " GC_KEY_FILTER " (%s)",
								gc_quoted_name(leaves[i].relid), gc_column_list(entity->key_columns, "")),
					   entity->owner);
			made++;
		}
	gc_step_end();
	if (made > 0)
		gc_step_did(entity, "filters", "made the key filter%s of %d partition%s of the past",
					made == 1 ? "" : "s", made, made == 1 ? "" : "s");
}
