/*
 * apply.h: change records into the speed table.
 */
#ifndef GC_APPLY_H
#define GC_APPLY_H

#include "catalog.h"

/* ERROR (22023) unless the entity's mapping fits its columns. */
extern void gc_mapping_check(const GcEntity *entity);

#endif							/* GC_APPLY_H */
