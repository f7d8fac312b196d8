/*
 * planner.h: what planner.c, which plants what a plan was made with, shares
 * with key_scan.c, which makes paths of it.
 */
#ifndef GC_PLANNER_H
#define GC_PLANNER_H

#include "nodes/primnodes.h"
#include "read.h"

/* Is this a planted constant? Does an expression hold one? */
extern bool gc_is_plan_const(Node *node);
extern bool gc_has_plan_const(Node *node);

/* A constant for a plan that was planted in this planning. */
extern Const *gc_plan_const(GcPlan *plan);

/* Installs the hooks of key_scan.c. */
extern void gc_key_scan_init(void);

#endif							/* GC_PLANNER_H */
