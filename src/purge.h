/*
 * purge.h: versions that an operator has taken out, and that must not come back.
 */
#ifndef GC_PURGE_H
#define GC_PURGE_H

#include "catalog.h"
#include "executor/tuptable.h"
#include "nodes/pg_list.h"

/* Is a row of a leaf one of those that gc_purged_read has? `version` is where its version stands. */
extern bool gc_purged_is(const GcEntity *entity, const List *purged, TupleTableSlot *row, AttrNumber version);

/* Takes them out of a staging table, as the owner, with a notice of how many they were. */
extern void gc_purged_leave_out(const GcEntity *entity, Oid staging);

#endif							/* GC_PURGE_H */
