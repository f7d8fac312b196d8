/*
 * planner.h: what planner.c, which plants what a plan was made with, shares
 * with key_scan.c and truth_path.c, which make paths of it.
 */
#ifndef GC_PLANNER_H
#define GC_PLANNER_H

#include "nodes/pathnodes.h"
#include "read.h"

/* Is this a planted constant? Does an expression hold one? */
extern bool gc_is_plan_const(Node *node);
extern bool gc_has_plan_const(Node *node);

/* Is this a condition that a scan node of ours meets by itself? */
extern bool gc_is_window_condition(Node *clause);

/* A constant for a plan that was planted in this planning. */
extern Const *gc_plan_const(GcPlan *plan);

/* The plan that _is_current among these clauses carries, if it is of relation `varno`; else NULL. */
extern GcPlan *gc_find_is_current(List *clauses, Index varno);

/* The scan node of the whole (truth_scan.c); adds its paths to those of a tree. */
extern const struct CustomScanMethods gc_truth_scan_methods;
extern void gc_truth_scan_add_paths(PlannerInfo *root, RelOptInfo *rel, const GcPlan *plan);

/* Install the scan nodes and the hooks that make paths of them. */
extern void gc_key_scan_init(void);
extern void gc_truth_scan_init(void);

#endif							/* GC_PLANNER_H */
