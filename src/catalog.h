/*
 * catalog.h: the extension's own tables, as the rest of the code sees them.
 */
#ifndef GC_CATALOG_H
#define GC_CATALOG_H

#include "access/attnum.h"
#include "access/htup.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/snapshot.h"

/* One entity, copied out of guest_context._entity into the caller's context. */
typedef struct GcEntity
{
	int32		entity_id;
	Oid			view;			/* the view of truth; `versions` when it was dropped by hand */
	Oid			versions;		/* root of the tree: every version of every tier */
	Oid			speed;			/* its partition for change records */
	Oid			batch;			/* its partition for datasets */
	int32		root_id;
	int32		parent_id;		/* 0 for a root */
	List	   *parent_columns; /* String nodes; columns that hold the parent's key */
	List	   *key_columns;	/* String nodes */
	char	   *version_column;
	List	   *shape_columns;	/* String nodes, in the shape's order */
	char	   *mapping;		/* JSON text or NULL */
	char	   *unmapped_column;	/* or NULL */
	Interval   *expire_after;	/* or NULL */
	Interval   *partition_interval;
	Interval   *retention;
	Interval   *overlap;		/* NULL for children */
	Interval   *rebuild_every;	/* or NULL */
	bool		security_invoker;	/* as the view has it; of a lost view, as it had it last */
	Oid			owner;			/* of the tree */
	char	   *schema;			/* name of the schema of the tree */
	char	   *name;			/* name of the view, without schema */
} GcEntity;

/* One row of guest_context._window. */
typedef struct GcWindow
{
	int32		entity_id;
	int32		dataset_id;		/* 0 = none */
	TimestampTz window_start;
	TimestampTz floor;
	TimestampTz leaves_until;
	TimestampTz dropped_before;
	TimestampTz gone_before;
} GcWindow;

/* What a read needs of guest_context._dataset_entity. */
typedef struct GcDatasetLeaf
{
	Oid			leaf;			/* InvalidOid when there is none (any more) */
	int64		recent_rows;	/* how many have a version not before the window's start */
	TimestampTz max_version;	/* DT_NOBEGIN when the leaf is empty */
} GcDatasetLeaf;

/* A version that an operator has taken out, a row of guest_context._purged. */
typedef struct GcPurged
{
	char	   *key;			/* as its types write it; a row literal where it has several columns */
	TimestampTz version;
} GcPurged;

/* Is the extension there, with our schema? Then it stays until the transaction ends. */
extern bool gc_catalog_exists(void);

/* The OID of our table or index `name`; ERROR when the extension is gone. */
extern Oid	gc_catalog_relid(const char *name);

/*
 * Runs SQL on our own tables with the rights of the extension's owner and a
 * pinned search_path, inside the caller's SPI connection. Parameters as in
 * SPI_execute_with_args; `expected` is the SPI_OK_… code that must come back.
 * Afterwards SPI_tuptable and SPI_processed are the caller's to read.
 */
extern void gc_catalog_execute(const char *sql, int nargs, Oid *types,
							   Datum *values, const char *nulls, int expected);

/* The same for what runs again and again: *plan, static and NULL at first, is where its plan is kept. */
typedef struct _SPI_plan *GcKeptPlan;

extern void gc_catalog_execute_kept(GcKeptPlan *plan, const char *sql, int nargs, Oid *types, Datum *values,
									const char *nulls, int expected);

/* A column of a row of its result, by name; `otherwise` for NULL. */
extern Datum gc_catalog_value(HeapTuple row, const char *name, Datum otherwise);

/* The same as a text in the current context, NULL for NULL. */
extern char *gc_catalog_text(HeapTuple row, const char *name);

/*
 * The same in a connection of its own, with pairs (Oid type, Datum value), none of
 * them NULL: for statements whose rows nobody reads; how many they were.
 */
extern uint64 gc_catalog_run(int expected, const char *sql, int nargs, ...);

/* For statements that return one bigint: it, or 0 for NULL and for no row. */
extern int64 gc_catalog_run_bigint(int expected, const char *sql, int nargs, ...);

/*
 * The entity whose view (or tree root) this is, its columns checked; ERROR "… is not an
 * entity". With missing_ok nothing is checked, and NULL says that it is none.
 */
extern GcEntity *gc_entity_get(Oid relation, bool missing_ok);

/* ERROR when a column was renamed, dropped or changed by hand so that it cannot be used: all SQL and records name them. */
extern void gc_entity_check_columns(const GcEntity *entity);

/* Where one of our own columns stands; ERROR when it is not there any more, or of another type. */
extern AttrNumber gc_own_column(Oid versions, const char *name);

extern GcEntity *gc_entity_by_id(int32 entity_id);

/* The entities whose trees a role owns, by number. */
extern List *gc_entities_of(Oid owner);

/* The root and everything under it, parents before children. */
extern List *gc_entity_tree(int32 root_id);

/* ERROR unless the current user owns the entity. */
extern void gc_entity_check_owner(const GcEntity *entity);

/* Reads the window's row under a given snapshot; ERROR when it is missing. */
extern void gc_window_read(Oid versions, Snapshot snapshot, GcWindow *window);

/* Reads what a dataset holds of an entity; false when there is no such row. */
extern bool gc_dataset_leaf_read(int32 dataset_id, int32 entity_id,
								 Snapshot snapshot, GcDatasetLeaf *result);

/* The entity's GcPurged as last committed; under the writer lock nobody can add to them. */
extern List *gc_purged_read(int32 entity_id);

/* Writes one line to the audit table. */
extern void gc_audit(const char *verb, const char *object, const char *reason,
					 const char *detail_json);

/*
 * Pins search_path and the settings that texts of values depend on, until
 * gc_leave or the end of the (sub)transaction.
 */
extern int	gc_enter(void);
extern void gc_leave(int guc_level);

#endif							/* GC_CATALOG_H */
