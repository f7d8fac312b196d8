/*
 * truth_path.c: planning to read all of a view of truth (truth_scan.c).
 *
 * Called by key_scan.c's hook when the planner has made its own paths of a tree; adds paths for the
 * whole, with costs of their own, and keeps them where the planner would drop them.
 */
#include "postgres.h"

#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planner.h"
#include "optimizer/restrictinfo.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "planner.h"

/* Costs in cpu_operator_cost: to look a row's key up in the map, and to put one in. */
#define LOOKUP_COST		2
#define MAP_COST		10

static Plan *plan_truth_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
							 List *tlist, List *clauses, List *custom_plans);

static const CustomPathMethods path_methods = {
	.CustomName = "TruthScan",
	.PlanCustomPath = plan_truth_scan,
};

/* How much a part of the tree has to read. */
typedef struct Extent
{
	double		pages;
	double		tuples;
} Extent;

/* Adds up the leaves that the planner has not pruned. */
static void
add_leaves(RelOptInfo *rel, Extent *extent)
{
	if (rel == NULL || IS_DUMMY_REL(rel))
		return;
	if (rel->part_rels == NULL)
	{
		extent->pages += rel->pages;
		extent->tuples += rel->tuples;
		return;
	}
	for (int i = 0; i < rel->nparts; i++)
		add_leaves(rel->part_rels[i], extent);
}

/* Is this the condition NOT gc_deleted? */
static bool
is_not_deleted(Node *clause, Index varno, Oid versions)
{
	Var		   *var;

	if (!IsA(clause, BoolExpr) || ((BoolExpr *) clause)->boolop != NOT_EXPR)
		return false;
	var = linitial(((BoolExpr *) clause)->args);
	return IsA(var, Var) && var->varno == varno && var->varlevelsup == 0 &&
		var->varattno == get_attnum(versions, "gc_deleted");
}

/* What is left of the conditions for the node to evaluate. */
static List *
other_conditions(List *clauses, Index varno, Oid versions)
{
	List	   *others = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
		if (!gc_is_window_condition(lfirst(lc)) && !is_not_deleted(lfirst(lc), varno, versions))
			others = lappend(others, lfirst(lc));
	return others;
}

static void
add_truth_scan(PlannerInfo *root, RelOptInfo *rel, Cost startup, Cost run, Cost cpu, int workers)
{
	CustomPath *path = makeNode(CustomPath);
	double		divisor = workers;

	/* as the planner divides a scan: the leader has less and less time of its own */
	if (workers == 0)
		divisor = 1;
	else if (parallel_leader_participation && workers < 4)
		divisor += 1 - 0.3 * workers;
	path->path.pathtype = T_CustomScan;
	path->path.parent = rel;
	path->path.pathtarget = rel->reltarget;
	path->path.param_info = get_baserel_parampathinfo(root, rel, rel->lateral_relids);
	path->path.parallel_aware = workers > 0;
	path->path.parallel_safe = rel->consider_parallel;
	path->path.parallel_workers = workers;
	path->path.rows = clamp_row_est(rel->rows / divisor);
	path->path.startup_cost = startup;
	path->path.total_cost = startup + run + cpu / divisor +
		rel->reltarget->cost.per_tuple * path->path.rows;
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	path->methods = &path_methods;
	if (workers > 0)
		add_partial_path(rel, (Path *) path);
	else
		add_path(rel, (Path *) path);
}

/*
 * A query of one partitioned table: the planner replaces all its paths by Appends of
 * its partitions' (apply_scanjoin_target_to_paths), so where ours is the best one, the table must
 * not look partitioned until that is over.
 */
typedef struct Hidden
{
	struct Hidden *next;
	PlannerInfo *root;
	RelOptInfo *rel;
	int			nparts;
	MemoryContextCallback forget;
} Hidden;

static Hidden *hidden = NULL;
static create_upper_paths_hook_type previous_upper_hook;

/* The planner's memory goes. */
static void
forget_hidden(void *arg)
{
	for (Hidden **link = &hidden; *link != NULL; link = &(*link)->next)
		if (*link == arg)
		{
			*link = (*link)->next;
			return;
		}
}

static void
hide_partitions(PlannerInfo *root, RelOptInfo *rel)
{
	MemoryContext run = GetMemoryChunkContext(root->glob);
	Hidden	   *entry = MemoryContextAlloc(run, sizeof(Hidden));

	entry->root = root;
	entry->rel = rel;
	entry->nparts = rel->nparts;
	entry->forget.func = forget_hidden;
	entry->forget.arg = entry;
	MemoryContextRegisterResetCallback(run, &entry->forget);
	entry->next = hidden;
	hidden = entry;
	rel->nparts = 0;
}

/*
 * create_upper_paths_hook: a query's paths are complete. Plans are made of them next,
 * with pruning at run time, which needs the partitions. The query may hold one that
 * the planner made for a min() or max(), for which it calls no hook.
 */
static void
show_partitions(PlannerInfo *root, UpperRelationKind stage, RelOptInfo *input, RelOptInfo *output,
				void *extra)
{
	if (previous_upper_hook)
		previous_upper_hook(root, stage, input, output, extra);
	if (stage == UPPERREL_FINAL)
		for (Hidden *entry = hidden; entry != NULL; entry = entry->next)
			if (entry->root == root || entry->root->parent_root == root)
				entry->rel->nparts = entry->nparts;
}

/* Is this the only relation of the query, and our path the best of it? */
static bool
should_hide_partitions(PlannerInfo *root, RelOptInfo *rel)
{
	Path	   *best = linitial(rel->pathlist);
	ListCell   *lc;

	if (bms_membership(root->all_baserels) != BMS_SINGLETON ||
		enable_partitionwise_join || enable_partitionwise_aggregate)
		return false;
	foreach(lc, rel->pathlist)
		if (((Path *) lfirst(lc))->total_cost < best->total_cost)
			best = lfirst(lc);
	return IsA(best, CustomPath) && ((CustomPath *) best)->methods == &path_methods;
}

void
gc_truth_scan_add_paths(PlannerInfo *root, RelOptInfo *rel, const GcPlan *plan)
{
	Extent		window = {0};
	Extent		all;
	QualCost	conditions;
	Cost		startup;
	Cost		cpu;

	if (!enable_seqscan || rel->part_rels == NULL || rel->nparts != 2)
		return;
	add_leaves(rel->part_rels[0], &window);
	all = window;
	add_leaves(rel->part_rels[1], &all);
	cost_qual_eval(&conditions,
				   other_conditions(extract_actual_clauses(rel->baserestrictinfo, false), rel->relid, plan->versions),
				   root);
	startup = conditions.startup + rel->reltarget->cost.startup + window.pages * seq_page_cost +
		window.tuples * (cpu_tuple_cost + MAP_COST * cpu_operator_cost);
	cpu = all.tuples * (cpu_tuple_cost + LOOKUP_COST * cpu_operator_cost + conditions.per_tuple);

	add_truth_scan(root, rel, startup, all.pages * seq_page_cost, cpu, 0);
	if (rel->consider_parallel && rel->partial_pathlist != NIL && bms_is_empty(rel->lateral_relids))
		add_truth_scan(root, rel, startup, all.pages * seq_page_cost, cpu,
					   ((Path *) linitial(rel->partial_pathlist))->parallel_workers);
	if (should_hide_partitions(root, rel))
		hide_partitions(root, rel);
}

static Plan *
plan_truth_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
				List *tlist, List *clauses, List *custom_plans)
{
	CustomScan *scan = makeNode(CustomScan);
	GcPlan	   *plan = gc_find_is_current(rel->baserestrictinfo, rel->relid);
	bool		with_deleted = true;
	ListCell   *lc;

	clauses = extract_actual_clauses(clauses, false);
	foreach(lc, clauses)
		if (is_not_deleted(lfirst(lc), rel->relid, plan->versions))
			with_deleted = false;
	scan->scan.plan.targetlist = tlist;
	scan->scan.plan.qual = other_conditions(clauses, rel->relid, plan->versions);
	scan->scan.scanrelid = rel->relid;
	scan->flags = path->flags;
	scan->custom_exprs = list_make1(gc_plan_const(plan));
	scan->custom_private = list_make1(makeInteger(with_deleted));
	scan->methods = &gc_truth_scan_methods;
	return (Plan *) scan;
}

/* Called once, when the library is loaded. */
void
gc_truth_scan_init(void)
{
	RegisterCustomScanMethods(&gc_truth_scan_methods);
	previous_upper_hook = create_upper_paths_hook;
	create_upper_paths_hook = show_partitions;
}
