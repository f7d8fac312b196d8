/*
 * dataset.h: snapshots of a whole context: their state, their leaves, and which
 * one is active.
 */
#ifndef GC_DATASET_H
#define GC_DATASET_H

#include "catalog.h"
#include "datatype/timestamp.h"
#include "storage/lock.h"

/* States, as a set: a verb says which ones it works on. */
#define GC_LOADING	0x01
#define GC_SEALED	0x02
#define GC_ACTIVE	0x04
#define GC_RETIRED	0x08
#define GC_DROPPED	0x10

/* What a dataset holds of one entity. */
typedef struct GcMember
{
	GcEntity   *entity;
	TimestampTz window_start;	/* as_of - overlap */
	Oid			staging;		/* InvalidOid when there is none (any more) */
	Oid			leaf;			/* likewise */
	int64		rows;			/* live rows, once sealed */
	TimestampTz max_version;	/* once sealed; DT_NOBEGIN for an empty leaf */
	int64		expected;		/* live rows that seal_dataset was told of */
} GcMember;

#define GC_NOT_EXPECTED (-1)

typedef struct GcDataset
{
	int32		dataset_id;
	GcEntity   *root;
	int			state;
	TimestampTz as_of;
	bool		built;			/* from the truth, by build_dataset */
	bool		activate;		/* build_dataset was told to */
	bool		verified;		/* is there a verdict? */
	int32		verified_active;	/* the dataset that was active then; 0 = none */
	bool		verified_ok;	/* no check but regressions failed */
	int64		regressions;
	List	   *members;		/* of GcMember, parents before children */
} GcDataset;

/* What was written into a leaf. */
typedef struct GcLeafCounts
{
	int64		rows;			/* live */
	int64		tombstones;
	int64		recent;			/* rows with version >= window start */
	TimestampTz max_version;
} GcLeafCounts;

/* dataset.c */

/* The dataset as it is now; ERROR when there is none of that number. */
extern GcDataset *gc_dataset_get(int64 dataset_id);

/*
 * The same for a verb: the caller must own the root and the dataset be in one
 * of the states. Locked against other verbs until the transaction ends: Share for
 * loading, Exclusive for the rest; its root as well where asked. Its context is kept
 * as it is.
 */
extern GcDataset *gc_dataset_open(int64 dataset_id, const char *verb, int states, LOCKMODE mode,
								  bool lock_root);

/* The dataset's member that a view or tree root is; ERROR when it spans no such entity. */
extern GcMember *gc_dataset_member(const GcDataset *dataset, Oid relation);

/* ERROR for a dataset that is built from the truth: nobody loads or seals it. */
extern void gc_dataset_check_external(const GcDataset *dataset, const char *verb);

/*
 * The root entity given to a verb; ERROR for a child or somebody else's. The hint is the
 * verb's call with the root, its other arguments as given ("" or ", …").
 */
extern GcEntity *gc_dataset_root(Oid relation, const char *function, const char *arguments);

/*
 * Serializes what moves the active dataset, the floor or the coverage of a root; keeps
 * its context as it is, too.
 */
extern void gc_dataset_lock_root(const GcEntity *root);

/* Registers a dataset with its members and lowers the floor; its number. */
extern int32 gc_dataset_register(const GcEntity *root, TimestampTz as_of, bool built, bool activate);

/*
 * ERROR when a partition of the dataset was dropped or detached by hand: what it holds
 * is not there.
 */
extern void gc_dataset_check_leaves(const GcDataset *dataset, const char *verb);

/*
 * ERROR when that is so of the active dataset (0 = none): nothing can be compared with the
 * truth then. `remedy` is the call that does without.
 */
extern void gc_dataset_check_active(int32 active, const char *verb, const char *remedy);

/* Has the dataset (0 = none) lost one of its partitions? */
extern bool gc_dataset_is_broken(int32 dataset_id);

/* How many live rows the active dataset has of an entity; 0 without one. */
extern int64 gc_dataset_active_rows(const GcEntity *entity);

/* Sets _window.floor of every entity of the root by what its datasets need. */
extern void gc_floor_recompute(int32 root_id);

/* Seal, verify, activate, build: what they decide must rest on the latest commits. */
extern void gc_require_read_committed(const char *verb);

/* ERROR (22004) when the argument is NULL. */
extern void gc_require_argument(FunctionCallInfo fcinfo, int arg, const char *name);

/* "shop.orders", for messages */
extern char *gc_entity_label(const GcEntity *entity);

/*
 * Leaves of dropped datasets that are still attached, oldest first: the
 * maintenance worker detaches and drops them, then reports each one gone.
 */
typedef struct GcDatasetGarbage
{
	int32		dataset_id;
	int32		entity_id;
	Oid			batch;			/* the partitioned table */
	Oid			leaf;
	Oid			owner;
	TimestampTz dropped_at;
} GcDatasetGarbage;

extern List *gc_dataset_leaves_to_drop(void);
extern void gc_dataset_leaf_gone(int32 dataset_id, int32 entity_id);

/* dataset_leaf.c */

/*
 * Makes, fills, attaches, indexes and analyzes the leaf of one member, and
 * notes it in the catalogue. `source` is SQL for FROM, with alias v and the
 * entity's columns, run as the owner under the active snapshot.
 */
extern void gc_leaf_make(const GcDataset *dataset, GcMember *member, const char *source,
						 GcLeafCounts *counts);

/* Makes the statistics of the whole tree anew, not those of its leaves. */
extern void gc_tree_analyze(const GcEntity *entity);

/* Who the session was before gc_owner_enter. */
typedef struct GcCaller
{
	Oid			user;
	int			context;
	int			guc_level;
} GcCaller;

/*
 * Between the two, SQL runs as `owner`, security-restricted, under a pinned
 * search_path and without row security: nobody's expression runs with the rights of
 * whoever called, and no policy hides a version.
 */
extern void gc_owner_enter(Oid owner, GcCaller *caller);
extern void gc_owner_leave(const GcCaller *caller);

/* The row of bigints that a query gives, run so under the active snapshot. */
extern void gc_owner_counts(Oid owner, const char *sql, int64 *counts, int ncounts);
extern int64 gc_owner_count(Oid owner, const char *sql);

/* dataset_seal.c */

/* loading -> sealed, once every member has its leaf. */
extern void gc_dataset_sealed(const GcDataset *dataset);

/* verify.c */

/* One line of the verdict. */
typedef struct GcFinding
{
	GcEntity   *entity;
	const char *check;
	bool		ok;
	int64		count;			/* of what should not be */
	const char *value;
	const char *expected;
} GcFinding;

/* Checks the dataset against what is active now and stores the verdict. */
extern List *gc_dataset_verify(const GcDataset *dataset);

/* Under the active snapshot: how many keys of this member activation would set back. */
extern int64 gc_count_regressions(const GcDataset *dataset, const GcMember *member);

/* dataset_activate.c */

/*
 * ERROR, with the interval, when the dataset's window would begin before what is
 * still there of some entity. Nothing overrides it.
 */
extern void gc_coverage_check(const GcEntity *root, int32 dataset_id, const char *verb);

/*
 * Since when the entity's records have come completely, whatever of them was dropped; minus infinity: from the start of
 * its topics. It can only be raised, at most to now.
 */
extern TimestampTz gc_coverage_since(const GcEntity *entity);
extern void gc_coverage_raise(const GcEntity *entity, TimestampTz since);

#define GC_ANY_DATASET (-1)

/*
 * Makes the dataset the active one; returns the one before, 0 = none. ERROR when
 * another than expected_active is (0 = none, GC_ANY_DATASET = whatever it is).
 */
extern int32 gc_dataset_activate(int64 dataset_id, int64 expected_active, bool force);

/* build.c */

/* Registers a dataset to be built, as build_dataset does; its number. The caller owns the root. */
extern int32 gc_dataset_order_build(const GcEntity *root, bool activate);

/*
 * In a maintenance worker, at top level, outside a transaction: builds a registered
 * dataset. Raises no error: why it failed is returned, and stored as its message.
 */
extern char *gc_dataset_build(int32 dataset_id);

#endif							/* GC_DATASET_H */
