/*
 * key_filter.h: which keys a leaf of the past does not have (key_filter.c).
 */
#ifndef GC_KEY_FILTER_H
#define GC_KEY_FILTER_H

#include "utils/rel.h"

#include "catalog.h"
#include "read.h"

/* The name of the access method. */
#define GC_KEY_FILTER "gc_key_filter"

/* How a value is hashed for a filter. */
typedef struct GcFilterColumn
{
	FmgrInfo	hash;
	Oid			collation;
	bool		extended;		/* the function has 64 bits and takes a seed */
} GcFilterColumn;

/* Describes a column of this type; the function's memory is in the current context. */
extern void gc_key_filter_column(GcFilterColumn *column, Oid type, Oid collation);

extern uint64 gc_key_filter_hash(GcFilterColumn *columns, int ncolumns, const Datum *values);

/*
 * The filter of a leaf's keys, InvalidOid when it has none that may be asked. Kept in the session:
 * the caller has accepted invalidation messages since he took his snapshot.
 */
extern Oid	gc_key_filter_of(Oid leaf, TupleDesc root, const GcKey *key);

/* False when the indexed table surely has no row with a key of this hash. */
extern bool gc_key_filter_has(Relation index, uint64 hash);

/* Step: makes the filters of leaves in which no records arrive any more. */
extern void gc_key_filter_make(const GcEntity *entity, void *arg);

#endif							/* GC_KEY_FILTER_H */
