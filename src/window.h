/*
 * window.h: the state of a statement's reading of one tree, shared by read.c
 * (when it begins and ends, what is asked of it) and window.c (how the window
 * is looked into).
 */
#ifndef GC_WINDOW_H
#define GC_WINDOW_H

#include "access/genam.h"
#include "access/tupconvert.h"
#include "executor/tuptable.h"
#include "lib/bloomfilter.h"
#include "lib/ilist.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "catalog.h"
#include "key_filter.h"
#include "read.h"

/* A leaf that may hold a newer version. */
typedef struct GcLeaf
{
	Oid			relid;
	Oid			key_index;		/* on (key…, version); InvalidOid when there is none */
	bool		check_arrival;	/* part of it lies before the window */
	bool		filter_known;
	Oid			filter_index;	/* its key filter, InvalidOid when there is none to ask */
	Relation	filter;			/* held as rel is */
	TupleTableSlot *slot;		/* for functions: holds nothing of the relation */
	Relation	rel;			/* held while scan nodes are under way, see gc_leaf_hold */
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *scan_slot;
	TupleConversionMap *to_root;	/* of rows, where they are laid out otherwise than in the root */
	bool		to_root_known;
	AttrNumber	arrived_at;
	AttrNumber	version;
	AttrNumber	source;
	AttrNumber	partition;
	AttrNumber	offset;
	AttrNumber	deleted;
	AttrNumber *key;			/* NULL until the leaf is first opened */
	int16		number;			/* of a leaf of the window; what GcPosition.leaf says */
} GcLeaf;

/* GcPosition.leaf of a row of the dataset, or of a key whose newest version is there. */
#define GC_NO_LEAF (-1)

typedef enum GcReadMode
{
	GC_MODE_PROBE,
	GC_MODE_MAP,
	GC_MODE_FILTER
} GcReadMode;

struct GcRead
{
	dlist_node	node;
	MemoryContext owner;		/* the query's context */
	MemoryContext context;		/* of this state; a child of owner */
	MemoryContextCallback forget;
	Oid			versions;
	GcWindow	window;			/* in the statement's snapshot */
	const GcPlan *checked_plan; /* the plan that was found to cover it */

	bool		of_query;		/* between the hooks at a query's start and end, which count as a scan node */
	int			nscans;			/* scan nodes under way; only they keep leaves open */
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
	GcFilterColumn *filter_columns; /* how filters hash the key; NULL until one is asked */
	int			nspeed;
	GcLeaf	   *speed;			/* leaves of the window */
	GcLeaf		batch;			/* leaf of the active dataset, if any */
	GcDatasetLeaf dataset;
	GcReadMode	mode;
	double		probe_cost;		/* what the probes cost so far */
	double		build_cost;		/* what reading the window would; 0 = not estimated yet */
	double		window_rows;	/* estimate */
	GcWindowMap *map;
	bloom_filter *seen;			/* keys that the window has */
	bloom_filter *seen_again;	/* keys that it has more than once */
	double		recent_cost;	/* what probes for recent batch rows cost so far */
	GcWindowMap *recent;		/* the batch leaf's rows with version >= window start */
};

/* ERROR (40001): what this snapshot must see is not all there (any more). */
extern _Noreturn void gc_read_cannot_cover(const GcRead *read, const char *reason);
extern void gc_read_check_dropped(GcRead *read, TimestampTz leaves_from);

/* Finds the key's columns and the leaves that count. */
extern void gc_window_prepare(GcRead *read, const GcPlan *plan);

/* Opens a leaf, with AccessShareLock; the first time looks its columns up. */
extern Relation gc_leaf_open(GcRead *read, GcLeaf *leaf);

/* Opens the key index of an open leaf likewise; ERROR when there is none that is valid. */
extern Relation gc_leaf_open_index(GcRead *read, GcLeaf *leaf, Relation rel);

/*
 * In a parallel worker, before anything is read: its leaves are those of the leader,
 * whatever it has found itself.
 */
extern void gc_read_set_leaves(GcRead *read, Oid batch, int nspeed);
extern void gc_read_set_leaf(GcRead *read, int number, Oid relid, bool check_arrival);

/* Keeps a leaf open until gc_read_end: for scan nodes only. */
extern void gc_leaf_hold(GcRead *read, GcLeaf *leaf);
extern void gc_leaf_release(GcLeaf *leaf);

/* The hash of a key for filters, once it was needed. */
typedef struct GcFilterHash
{
	bool		done;
	uint64		hash;
} GcFilterHash;

/* Does the leaf's filter say that it has no version of the key? */
extern bool gc_leaf_lacks(GcRead *read, GcLeaf *leaf, const Datum *key, GcFilterHash *hash);

/*
 * A held scan of the leaf's versions of a key, none older than `version`; then the next one of
 * them, newest first, into the leaf's scan_slot; false when there are no more.
 */
extern void gc_leaf_probe(GcRead *read, GcLeaf *leaf, const Datum *key, TimestampTz version);
extern bool gc_leaf_probe_next(GcRead *read, GcLeaf *leaf);

/* Reads the window into a map or filter now: who is going to ask for all of it need not probe. */
extern void gc_window_build(GcRead *read);

/* The position of the row in a slot; false when it arrived before the window. */
extern bool gc_leaf_position(GcRead *read, GcLeaf *leaf, TupleTableSlot *slot,
							 GcPosition *position);

/*
 * The newest position of the key in the window, or in the active dataset;
 * false when there is none, or none that is not older than `version`. `in_window`:
 * the version asked for is itself in the window.
 */
extern bool gc_window_newest(GcRead *read, const Datum *key, TimestampTz version,
							 bool in_window, GcPosition *newest);
extern bool gc_batch_newest(GcRead *read, const Datum *key, TimestampTz version,
							GcPosition *newest);

#endif							/* GC_WINDOW_H */
