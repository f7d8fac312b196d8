/*
 * freshness.h: waking those who wait for changelogs.
 */
#ifndef GC_FRESHNESS_H
#define GC_FRESHNESS_H

#include "catalog.h"

/* In _PG_init: shared memory, when the server preloads the library. */
extern void gc_freshness_init(void);

/*
 * This transaction moves a changelog of the entity on, stops it or drops it: when it commits, those who wait for
 * the entity look again.
 */
extern void gc_freshness_changed(const GcEntity *entity);

#endif							/* GC_FRESHNESS_H */
