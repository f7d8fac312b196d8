/*
 * tree.h: the tables of one entity: names, leaves, locks.
 */
#ifndef GC_TREE_H
#define GC_TREE_H

#include "catalog.h"
#include "datatype/timestamp.h"
#include "storage/lock.h"

/* A leaf of the speed table. */
typedef struct GcSpeedLeaf
{
	Oid			relid;
	TimestampTz lower;			/* inclusive, by arrival */
	TimestampTz upper;			/* exclusive */
} GcSpeedLeaf;

/* schema-qualified, quoted name of a relation; palloc'd */
extern char *gc_quoted_name(Oid relid);

/* "a, b, c", each quoted, with an optional prefix such as "v." */
extern char *gc_column_list(List *columns, const char *prefix);

/* Runs one command as the owner of a tree, security-restricted. */
extern void gc_run_ddl(const char *sql, Oid owner);

/* ISO text in UTC that no setting of the session changes; palloc'd. */
extern char *gc_timestamp_literal(TimestampTz t);

/* The same for an interval. */
extern char *gc_interval_literal(const Interval *interval);

/* Makes and attaches one leaf of the speed table. */
extern void gc_speed_leaf_create(const GcEntity *entity, TimestampTz lower, TimestampTz upper);

/* Leaves of the speed table, oldest first (array palloc'd, count returned). */
extern int	gc_speed_leaves(Oid speed, GcSpeedLeaf **leaves);

/*
 * Makes speed leaves until `until` is covered, and those that somebody took away of the
 * present one and later ones; returns how many were made.
 */
extern int	gc_speed_leaves_ensure(const GcEntity *entity, TimestampTz until);

/* How far ahead leaves are made: now + 4 partition intervals. */
extern TimestampTz gc_speed_leaves_target(const GcEntity *entity);

/*
 * The lock of a context: its first one, so that verbs of several steps, and transactions
 * of several verbs, cannot wait for each other in a circle. ShareLock for verbs
 * that need entities to stay what they are, ExclusiveLock for those that drop one or
 * change its columns. Neither readers nor writers of records take it.
 */
extern void gc_context_lock(int32 root_id, LOCKMODE mode);

/*
 * The entity whose view (or tree root) this is, with its context locked; its columns are
 * not checked. ERROR unless the caller owns it, and when it is dropped meanwhile.
 */
extern GcEntity *gc_entity_lock(Oid relation, LOCKMODE mode);

/* ERROR (42P01) when the relation, looked up before a lock was waited for, has been dropped. */
extern void gc_entity_check_exists(const GcEntity *entity, Oid relation);

/*
 * The lock that every writer of a context holds until its transaction ends
 * (RowExclusiveLock); create_feed and others take it exclusively. Arrival times are
 * taken after it, so that lock holder's transaction start bounds them below.
 */
extern void gc_writer_lock(Oid root_versions, LOCKMODE mode);

/*
 * ERROR (55006) naming the pid when a transaction that holds the writer lock
 * began before `bound`: it may still commit rows with an older arrival.
 */
extern void gc_writers_check(Oid root_versions, TimestampTz bound, const char *verb);

/*
 * The same as a question: the pid of such a transaction (-1: a prepared one,
 * 0: there is none); *start is when it began, 0 when that is not known.
 */
extern int	gc_writers_find_older(Oid root_versions, TimestampTz bound, TimestampTz *start);

/* timestamptz + interval, timestamptz - interval */
extern TimestampTz gc_timestamp_plus(TimestampTz t, const Interval *i);
extern TimestampTz gc_timestamp_minus(TimestampTz t, const Interval *i);

#endif							/* GC_TREE_H */
