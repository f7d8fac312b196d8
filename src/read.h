/*
 * read.h: what planning (planner.c) hands to execution (read.c) of a view of
 * truth, and what execution builds on (window_map.c).
 */
#ifndef GC_READ_H
#define GC_READ_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "storage/itemptr.h"

/*
 * What a plan was made with: a varlena of type guest_context._plan, a constant
 * in the plan. Only the planner's support function makes one, after it has
 * checked that the arguments beside it are columns of this very tree; so
 * whoever holds one may read the tree without further checks.
 */
typedef struct GcPlan
{
	int32		vl_len_;
	Oid			versions;		/* root of the tree */
	TimestampTz floor;			/* the plan reads arrivals from here … */
	TimestampTz ceiling;		/* … up to here */
	TimestampTz leaves_from;	/* lower bound of the oldest speed leaf known */
	bool		two_leaves;		/* it reads two speed leaves or more */
	int16		nleaves;		/* how many, about */
	int16		version_attno;	/* of the root; 0 in a plan without key */
	int16		nkeys;
	int16		key_attnos[INDEX_MAX_KEYS];
	int32		dataset;		/* a leaf of this dataset alone; 0: any leaf */
	int32		ndatasets;
	int32		datasets[FLEXIBLE_ARRAY_MEMBER];	/* dataset leaves known, ascending */
} GcPlan;

/* Positions of the arguments of _is_current. */
enum
{
	GC_ARG_PLAN, GC_ARG_DATASET, GC_ARG_ARRIVED_AT, GC_ARG_VERSION, GC_ARG_SOURCE,
	GC_ARG_PARTITION, GC_ARG_OFFSET, GC_ARG_TID, GC_ARG_KEY
};

/* The same for _is_newest. */
enum
{
	GC_NEWEST_PLAN, GC_NEWEST_VERSION, GC_NEWEST_KEY
};

/* The place of a version in the total order: later fields break ties. */
typedef struct GcPosition
{
	TimestampTz version;
	TimestampTz arrived_at;
	int64		offset;
	int32		source;
	int32		partition;
	ItemPointerData tid;
	int16		leaf;			/* not of the order: see window.c */
} GcPosition;

/* < 0, 0, > 0: the one total order of versions of a key */
static inline int
gc_position_compare(const GcPosition *a, const GcPosition *b)
{
	if (a->version != b->version)
		return a->version < b->version ? -1 : 1;
	if (a->source != b->source)
		return a->source < b->source ? -1 : 1;
	if (a->partition != b->partition)
		return a->partition < b->partition ? -1 : 1;
	if (a->offset != b->offset)
		return a->offset < b->offset ? -1 : 1;
	if (a->arrived_at != b->arrived_at)
		return a->arrived_at < b->arrived_at ? -1 : 1;
	return ItemPointerCompare(unconstify(ItemPointerData *, &a->tid),
							  unconstify(ItemPointerData *, &b->tid));
}

/* How the key of a tree is hashed and compared: as its btree operator classes do. */
typedef struct GcKeyColumn
{
	AttrNumber	attno;			/* in the root of the tree */
	Oid			type;
	Oid			collation;
	int16		typlen;
	bool		typbyval;
	char		typalign;
	Oid			opfamily;		/* default btree family */
	Oid			opcintype;
	bool		bytewise;		/* equal values have equal bytes, and only they */
	FmgrInfo	hash;			/* for the others: the type's own */
	FmgrInfo	equal;
} GcKeyColumn;

typedef struct GcKey
{
	uint64		seed;			/* of this statement, so that nobody can choose keys that collide */
	int			ncolumns;
	GcKeyColumn *columns;
} GcKey;

extern uint32 gc_key_hash(GcKey *key, const Datum *values);

/* The state of a statement's reading of one tree; see read.c. */
typedef struct GcRead GcRead;

/* Installs the hooks of read.c. */
extern void gc_read_init(void);

/* Begins a key scan in a query; every one is ended, or dies with the query. */
extern GcRead *gc_read_begin(EState *estate, const GcPlan *plan);
extern void gc_read_end(GcRead *read);

/*
 * The newest version of a key (a tombstone too) in the active dataset and the
 * window, or NULL; a copy in the current memory context, laid out as the tree's root.
 */
extern HeapTuple gc_read_newest(GcRead *read, const Datum *key);

/* The map of a window: key -> newest position. */
typedef struct GcWindowMap GcWindowMap;

extern GcWindowMap *gc_window_map_create(MemoryContext context, GcKey *key, Size limit, double rows);
extern bool gc_window_map_add(GcWindowMap *map, const Datum *values, const GcPosition *position);
extern bool gc_window_map_finish(GcWindowMap *map);
extern GcPosition *gc_window_map_find(GcWindowMap *map, const Datum *values);
extern void gc_window_map_visit(GcWindowMap *map,
								void (*visit) (void *context, const GcPosition *position), void *context);
extern Size gc_window_map_shared_size(const GcWindowMap *map);
extern void gc_window_map_copy(const GcWindowMap *map, char *to);
extern GcWindowMap *gc_window_map_attach(MemoryContext context, GcKey *key, char *from);

#endif							/* GC_READ_H */
