/*
 * maintenance.h: what the steps of a maintenance worker share.
 */
#ifndef GC_MAINTENANCE_H
#define GC_MAINTENANCE_H

#include "catalog.h"

/*
 * Transactions of a step: at top level, READ COMMITTED, with settings pinned and an
 * active snapshot. Memory that the step allocates in between goes with them.
 */
extern void gc_step_begin(void);
extern void gc_step_end(void);

/*
 * Runs a step of the maintenance of one entity, outside of any transaction. An error
 * in it ends this step alone: it is logged and noted for the entity's view.
 */
typedef void (*GcStep) (const GcEntity *entity, void *arg);

extern void gc_step_run(const GcEntity *entity, const char *action, GcStep step, void *arg);

/*
 * At the start of a worker: settings of the role or the database must not change what it does.
 * The ingest worker begins so too.
 */
extern void gc_worker_pin_settings(const char *lock_timeout);

/* An error in one line, for catalogues and views. */
extern char *gc_error_text(const ErrorData *error);

/* Tells the log, and who waits for this worker, what was done. In a transaction or not. */
extern void gc_step_did(const GcEntity *entity, const char *action, const char *format,...) pg_attribute_printf(3, 4);

/*
 * Notes what could not be done yet, so that the step does nothing more now and the
 * next cycle tries again. Outside of a transaction.
 */
extern void gc_step_waits(const GcEntity *entity, const char *action, const char *format,...) pg_attribute_printf(3, 4);

/*
 * Between transactions: lets some time pass, and ends the worker when somebody
 * wants it or the database to himself. Naps of one cycle are limited: false, without
 * waiting, once they are used up.
 */
extern bool gc_worker_nap(void);

/* Between transactions: ends the worker when somebody wants the database to himself. */
extern void gc_worker_yield(void);

/* The process that waits for this worker in run_maintenance; 0 = none. */
extern int	gc_worker_caller(void);

/* retention.c */

/* Step: decides which speed leaves nobody needs any more, and says so in the catalogue. */
extern void gc_retention_decide(const GcEntity *entity, void *arg);

/* Step: likewise the leaves of datasets that have been dropped. */
extern void gc_retention_decide_datasets(const GcEntity *entity, void *arg);

/* Detaches and drops, for this owner, all that was decided and nobody can reach any more. */
extern void gc_retention_drop(List *entities);

/* schedule.c */

/* Step, of a root: orders a build when rebuild_every says so. */
extern void gc_schedule_order(const GcEntity *root, void *arg);

/* Builds what was ordered for the owner's roots, one after the other. */
extern void gc_schedule_build(List *entities);

#endif							/* GC_MAINTENANCE_H */
