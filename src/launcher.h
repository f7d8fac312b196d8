/*
 * launcher.h: starting maintenance workers: on request, at a commit, on schedule.
 */
#ifndef GC_LAUNCHER_H
#define GC_LAUNCHER_H

#include "postmaster/bgworker.h"
#include "storage/dsm.h"

/* What a worker is told; travels in its registration. */
typedef struct GcWorkerOrder
{
	Oid			database;
	Oid			owner;			/* of the entities; the worker connects as it */
	int32		caller_pid;		/* of run_maintenance, which waits; 0 = nobody does */
	dsm_handle	report;			/* where to tell it, when somebody waits */
} GcWorkerOrder;

/* In _PG_init: registers the launcher, when the server preloads the library. */
extern void gc_launcher_init(void);

/*
 * Registers a maintenance worker; false when the server has no slot for it. With a
 * handle the caller's process is told when it starts and ends.
 */
extern bool gc_worker_start(const GcWorkerOrder *order, BackgroundWorkerHandle **handle);

/* Why a worker cannot connect to a database as this role: NULL when it can; *hint is the remedy. */
extern const char *gc_worker_obstacle(Oid database, Oid owner, char **hint);

/* Is there a launcher, which starts workers by itself? *no_slot: it could not start the last one. */
extern bool gc_launcher_preloaded(bool *no_slot);

/* When this transaction commits, maintenance of the owner's entities begins. */
extern void gc_maintenance_wake(Oid owner);

/* When this transaction commits, the launcher, if there is one, knows this owner. */
extern void gc_maintenance_announce(Oid owner);

/* In a worker: verbs that it calls need wake nobody. */
extern void gc_maintenance_wake_nobody(void);

/*
 * The worker's part: it has begun, and somebody looks whether its database is wanted; its
 * cycle is done (entities: is there anything to do ever?).
 */
extern void gc_launcher_worker_begins(const GcWorkerOrder *order);
extern void gc_launcher_cycle_done(const GcWorkerOrder *order, bool entities);

/* Likewise: another cycle soon, for what could not be done in this one. */
extern void gc_launcher_again(const GcWorkerOrder *order);

/* Does somebody want to drop, rename or copy the database? Takes no lock for long. */
extern bool gc_database_wanted(Oid database);

#endif							/* GC_LAUNCHER_H */
