/*
 * key_scan.c: reading one key of a view of truth, as a scan node of its own.
 *
 * A point read through an Append costs more for starting and ending a scan node
 * on every leaf than for the descents themselves, and then _is_current descends
 * once more. Where the whole key is given, by constants, parameters or the outer
 * side of a join, this node asks each leaf's key index for the newest version
 * and returns the newest of all, which is what the other conditions of the
 * query then apply to: newest first, filter afterwards.
 *
 * How it comes into a plan:
 *
 *	 key by constants or parameters	  no other plan can be better, so the tree is
 *			 not even expanded: get_relation_info_hook makes it a plain relation
 *			 before the planner opens a single leaf
 *	 key by a join					  a parameterized path beside the planner's own
 *
 * What a plan of a view must check at execution (planner.c) is not needed here:
 * leaves are looked up when the scan starts, not when it was planned.
 *
 * Called by the planner through hooks, by the executor through custom scan
 * methods. Holds what any scan holds: a relation's lock to the end of the
 * transaction. State in the query's context.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "access/tupconvert.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_opfamily.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/plancat.h"
#include "optimizer/restrictinfo.h"
#include "parser/parse_coerce.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "compat.h"
#include "planner.h"
#include "read.h"

/*
 * Cost of one descent. The leaves of a window are small and hot, so far less
 * than the random page that an index scan is charged with.
 */
#define PROBE_COST	0.3

/* State of one scan. */
typedef struct KeyScan
{
	CustomScanState css;
	GcRead	   *read;
	List	   *values;			/* ExprStates of the key's columns */
	bool		done;
	MemoryContext result;		/* of the row that was found */
} KeyScan;

static get_relation_info_hook_type previous_relation_hook;
static set_rel_pathlist_hook_type previous_path_hook;

static Plan *plan_key_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
						   List *tlist, List *clauses, List *custom_plans);
static Node *create_key_scan(CustomScan *scan);
static void begin_key_scan(CustomScanState *node, EState *estate, int eflags);
static TupleTableSlot *exec_key_scan(CustomScanState *node);
static void end_key_scan(CustomScanState *node);
static void rescan_key_scan(CustomScanState *node);

static const CustomPathMethods path_methods = {
	.CustomName = "KeyScan",
	.PlanCustomPath = plan_key_scan,
};

static const CustomScanMethods scan_methods = {
	.CustomName = "KeyScan",
	.CreateCustomScanState = create_key_scan,
};

static const CustomExecMethods exec_methods = {
	.CustomName = "KeyScan",
	.BeginCustomScan = begin_key_scan,
	.ExecCustomScan = exec_key_scan,
	.EndCustomScan = end_key_scan,
	.ReScanCustomScan = rescan_key_scan,
};

/*
 * Planning
 */

/* The column of relation `varno` that an expression is, or 0. */
static AttrNumber
column_of(Node *node, Index varno)
{
	Var		   *var;

	if (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	var = (Var *) node;
	if (IsA(node, Var) && var->varno == varno && var->varlevelsup == 0)
		return var->varattno;
	return InvalidAttrNumber;
}

/*
 * What a key column is compared with, as a value of the column's type: as it is, or cast where
 * the operator is the equality of two integer types and the value's type is the narrower
 * one (bigint = 7), so that the cast never fails. NULL where it is no such operator.
 */
static Node *
as_key(OpExpr *op, bool commuted, Node *other, Oid column_type)
{
	TypeCacheEntry *type = lookup_type_cache(column_type, TYPECACHE_EQ_OPR | TYPECACHE_BTREE_OPFAMILY);
	Oid			opno = commuted ? get_commutator(op->opno) : op->opno;
	Oid			left;
	Oid			right;
	Oid			cast;
	int			strategy;

	if (opno == type->eq_opr)
		return other;
	if (!OidIsValid(opno) || !op_in_opfamily(opno, type->btree_opf) ||
		type->btree_opf != INTEGER_BTREE_FAM_OID)
		return NULL;
	get_op_opfamily_properties(opno, type->btree_opf, false, &strategy, &left, &right);
	if (strategy != BTEqualStrategyNumber || left != type->btree_opintype || right != exprType(other) ||
		find_coercion_pathway(left, right, COERCION_IMPLICIT, &cast) != COERCION_PATH_FUNC)
		return NULL;
	return (Node *) makeFuncExpr(cast, left, list_make1(other), InvalidOid, InvalidOid, COERCE_IMPLICIT_CAST);
}

/*
 * If the clause is "key column = something that the relation does not hold",
 * by an equality that the key index works with: the something; else NULL.
 */
static Node *
equal_to(PlannerInfo *root, Node *clause, Index varno, Oid relid, AttrNumber attno)
{
	OpExpr	   *op = (OpExpr *) clause;
	Node	   *other;
	bool		commuted;
	Oid			column_type;
	int32		typmod;
	Oid			collation;

	if (!IsA(clause, OpExpr) || list_length(op->args) != 2)
		return NULL;
	commuted = column_of(linitial(op->args), varno) != attno;
	if (commuted && column_of(lsecond(op->args), varno) != attno)
		return NULL;
	other = commuted ? linitial(op->args) : lsecond(op->args);
	get_atttypetypmodcoll(relid, attno, &column_type, &typmod, &collation);
	if (op->inputcollid != collation || bms_is_member(varno, pull_varnos(root, other)) ||
		contain_volatile_functions(other))
		return NULL;
	return as_key(op, commuted, other, column_type);
}

/* Among `clauses` (bare or RestrictInfo), one value for every key column; NIL if one is missing. */
static List *
key_values(PlannerInfo *root, List *clauses, Index varno, const GcPlan *plan)
{
	List	   *values = NIL;

	for (int i = 0; i < plan->nkeys; i++)
	{
		Node	   *value = NULL;
		ListCell   *lc;

		foreach(lc, clauses)
		{
			Node	   *clause = lfirst(lc);

			if (IsA(clause, RestrictInfo))
				clause = (Node *) ((RestrictInfo *) clause)->clause;
			value = equal_to(root, clause, varno, plan->versions, plan->key_attnos[i]);
			if (value != NULL)
				break;
		}
		if (value == NULL)
			return NIL;
		values = lappend(values, value);
	}
	return values;
}

/*
 * The plan that _is_current among these clauses carries, if it is of this relation. NULL too
 * where there are two of them, with keys of their own: that is for execution to refuse.
 */
GcPlan *
gc_find_is_current(List *clauses, Index varno)
{
	GcPlan	   *found = NULL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		Node	   *clause = lfirst(lc);
		FuncExpr   *call;

		if (IsA(clause, RestrictInfo))
			clause = (Node *) ((RestrictInfo *) clause)->clause;
		call = (FuncExpr *) clause;
		if (!IsA(clause, FuncExpr) || list_length(call->args) <= GC_ARG_KEY ||
			!gc_is_plan_const(linitial(call->args)) ||
			column_of(list_nth(call->args, GC_ARG_DATASET), varno) == InvalidAttrNumber)
			continue;
		if (found != NULL)
			return NULL;
		found = (GcPlan *) DatumGetPointer(((Const *) linitial(call->args))->constvalue);
	}
	return found;
}

/*
 * The conditions that hold for every row of relation `varno`: those above it in
 * the join tree, as far as only inner joins lie between. False when it is
 * not under `node`.
 */
static bool
conditions_on(Node *node, Index varno, List **conditions)
{
	bool		found = false;

	if (IsA(node, RangeTblRef))
		return ((RangeTblRef *) node)->rtindex == varno;
	if (IsA(node, FromExpr))
	{
		ListCell   *lc;

		foreach(lc, ((FromExpr *) node)->fromlist)
			found = found || conditions_on(lfirst(lc), varno, conditions);
		if (found)
			*conditions = list_concat(*conditions, (List *) ((FromExpr *) node)->quals);
	}
	else if (IsA(node, JoinExpr) && ((JoinExpr *) node)->jointype == JOIN_INNER)
	{
		found = conditions_on(((JoinExpr *) node)->larg, varno, conditions) ||
			conditions_on(((JoinExpr *) node)->rarg, varno, conditions);
		if (found)
			*conditions = list_concat(*conditions, (List *) ((JoinExpr *) node)->quals);
	}
	return found;
}

/*
 * get_relation_info_hook: a tree whose whole key is given by constants or
 * parameters is not expanded; the relation stays alone and gets its one path below.
 */
static void
do_not_expand(PlannerInfo *root, Oid relid, bool inhparent, RelOptInfo *rel)
{
	RangeTblEntry *rte;
	List	   *conditions = NIL;
	List	   *values;
	GcPlan	   *plan;

	if (previous_relation_hook)
		previous_relation_hook(root, relid, inhparent, rel);
	/* Rows that may be fetched again, as those beside an UPDATE's target, need their leaves. */
	if (!inhparent || rel->reloptkind != RELOPT_BASEREL || root->rowMarks != NIL ||
		root->parse->resultRelation == rel->relid)
		return;
	rte = planner_rt_fetch(rel->relid, root);
	if (rte->tablesample != NULL)
		return;
	/* Row security must not be run after a comparison that might leak. */
	if (rte->relkind != RELKIND_PARTITIONED_TABLE || rte->securityQuals != NIL ||
		!conditions_on((Node *) root->parse->jointree, rel->relid, &conditions))
		return;
	plan = gc_find_is_current(conditions, rel->relid);
	if (plan == NULL)
		return;
	values = key_values(root, conditions, rel->relid, plan);
	if (values != NIL && !contain_var_clause((Node *) values))
		rte->inh = false;
}

static void
add_key_scan(PlannerInfo *root, RelOptInfo *rel, const GcPlan *plan, Relids outer, List *values)
{
	CustomPath *path = makeNode(CustomPath);

	path->path.pathtype = T_CustomScan;
	path->path.parent = rel;
	path->path.pathtarget = rel->reltarget;
	path->path.param_info = get_baserel_parampathinfo(root, rel, outer);
	path->path.parallel_safe = rel->consider_parallel;
	path->path.rows = 1;
	path->path.startup_cost = 0;
	path->path.total_cost = (plan->nleaves + 1) * PROBE_COST + cpu_tuple_cost +
		rel->baserestrictcost.startup + rel->baserestrictcost.per_tuple;
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	path->custom_private = values;
	path->methods = &path_methods;
	add_path(rel, (Path *) path);
}

/* generate_implied_equalities_for_column: is this member the column in question? */
static bool
member_is_column(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec,
				 EquivalenceMember *em, void *attno)
{
	return column_of((Node *) em->em_expr, rel->relid) == *(AttrNumber *) attno;
}

/* Clauses that give key columns values of other relations of the query. */
static List *
join_clauses(PlannerInfo *root, RelOptInfo *rel, const GcPlan *plan)
{
	List	   *clauses = NIL;
	ListCell   *lc;

	foreach(lc, rel->joininfo)
	{
		RestrictInfo *clause = lfirst(lc);

		if (join_clause_is_movable_to(clause, rel))
			clauses = lappend(clauses, clause);
	}
	for (int i = 0; i < plan->nkeys; i++)
	{
		AttrNumber	attno = plan->key_attnos[i];

		clauses = list_concat(clauses,
							  generate_implied_equalities_for_column(root, rel, member_is_column,
																	 &attno, rel->lateral_referencers));
	}
	return clauses;
}

/*
 * One path for each relation that a join takes the first key column from; the
 * other columns may come from there, from further relations or from constants.
 */
static void
add_joined_key_scans(PlannerInfo *root, RelOptInfo *rel, const GcPlan *plan)
{
	List	   *clauses = join_clauses(root, rel, plan);
	List	   *seen = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		RestrictInfo *first = lfirst(lc);
		List	   *candidates;
		List	   *values;
		Relids		outer;
		ListCell   *old;

		/* This clause before all others, constants before other joins. */
		candidates = list_concat(list_make1(first),
								 list_concat_copy(rel->baserestrictinfo, clauses));
		values = key_values(root, candidates, rel->relid, plan);
		if (values == NIL)
			continue;
		outer = bms_difference(pull_varnos(root, (Node *) values), rel->relids);
		outer = bms_union(outer, rel->lateral_relids);
		if (bms_is_empty(outer))
			continue;
		foreach(old, seen)
			if (bms_equal(lfirst(old), outer))
				break;
		if (old != NULL)
			continue;
		seen = lappend(seen, outer);
		add_key_scan(root, rel, plan, outer, values);
	}
}

/*
 * A leaf's rows need no test of what pruning has settled and _is_current
 * tests again: the clause stays with the tree, for pruning, and goes from its leaves.
 */
static void
drop_pruning_clause(RelOptInfo *rel)
{
	ListCell   *lc;

	foreach(lc, rel->baserestrictinfo)
	{
		RestrictInfo *clause = lfirst(lc);

		if (IsA(clause->clause, BoolExpr) && gc_has_plan_const((Node *) clause->clause))
		{
			ListCell   *index;

			foreach(index, rel->indexlist)
			{
				IndexOptInfo *info = lfirst(index);

				if (info->indrestrictinfo != rel->baserestrictinfo)
					info->indrestrictinfo = list_delete_ptr(info->indrestrictinfo, clause);
			}
			/* In place: indexes share this list. */
			rel->baserestrictinfo = list_delete_ptr(rel->baserestrictinfo, clause);
			return;
		}
	}
}

/* The size of a relation that is one key: one row of about this width. */
static void
set_one_row(RelOptInfo *rel)
{
	ListCell   *lc;

	rel->rows = 1;
	rel->reltarget->width = 0;
	foreach(lc, rel->reltarget->exprs)
		rel->reltarget->width += get_typavgwidth(exprType(lfirst(lc)), exprTypmod(lfirst(lc)));
}

/* set_rel_pathlist_hook */
static void
add_paths(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	GcPlan	   *plan;
	List	   *values;

	if (previous_path_hook)
		previous_path_hook(root, rel, rti, rte);
	if (rte->rtekind != RTE_RELATION || rel->baserestrictinfo == NIL)
		return;
	if (rel->reloptkind == RELOPT_OTHER_MEMBER_REL)
	{
		drop_pruning_clause(rel);
		return;
	}
	if (rte->relkind != RELKIND_PARTITIONED_TABLE || root->rowMarks != NIL ||
		root->parse->resultRelation == rti || rte->tablesample != NULL)
		return;
	plan = gc_find_is_current(rel->baserestrictinfo, rti);
	if (plan == NULL)
		return;

	if (!rte->inh)
	{
		/*
		 * Not expanded by do_not_expand, and so taken for empty. The conditions are
		 * read where that read them: what the planner has derived from
		 * several equal constants may compare with one of another type.
		 */
		List	   *conditions = NIL;

		conditions_on((Node *) root->parse->jointree, rti, &conditions);
		values = key_values(root, conditions, rti, plan);
		if (values == NIL)		/* cannot happen: it was there a moment ago */
			elog(ERROR, "the key of a key scan is gone");
		rel->pathlist = NIL;
		rel->partial_pathlist = NIL;
		set_one_row(rel);
		add_key_scan(root, rel, plan, rel->lateral_relids, values);
	}
	else
	{
		gc_truth_scan_add_paths(root, rel, plan);
		if (rte->securityQuals != NIL)
			return;
		values = key_values(root, rel->baserestrictinfo, rti, plan);
		if (values != NIL)
			add_key_scan(root, rel, plan, rel->lateral_relids, values);
		else
			add_joined_key_scans(root, rel, plan);
	}
}

static Plan *
plan_key_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
			  List *tlist, List *clauses, List *custom_plans)
{
	CustomScan *scan = makeNode(CustomScan);
	GcPlan	   *plan = gc_find_is_current(rel->baserestrictinfo, rel->relid);
	List	   *quals = NIL;
	ListCell   *lc;

	/* What is left after the newest version is known. */
	foreach(lc, extract_actual_clauses(clauses, false))
		if (!gc_is_window_condition(lfirst(lc)))
			quals = lappend(quals, lfirst(lc));

	scan->scan.plan.targetlist = tlist;
	scan->scan.plan.qual = quals;
	scan->scan.scanrelid = rel->relid;
	scan->flags = path->flags;
	scan->custom_exprs = lcons(gc_plan_const(plan), copyObject(path->custom_private));
	scan->methods = &scan_methods;
	return (Plan *) scan;
}

/*
 * Execution
 */

static Node *
create_key_scan(CustomScan *scan)
{
	KeyScan    *state = palloc0(sizeof(KeyScan));

	NodeSetTag(state, T_CustomScanState);
	state->css.methods = &exec_methods;
	return (Node *) state;
}

static void
begin_key_scan(CustomScanState *node, EState *estate, int eflags)
{
	KeyScan    *state = (KeyScan *) node;
	List	   *exprs = ((CustomScan *) node->ss.ps.plan)->custom_exprs;
	GcPlan	   *plan = (GcPlan *) DatumGetPointer(castNode(Const, linitial(exprs))->constvalue);

	state->values = ExecInitExprList(list_copy_tail(exprs, 1), &node->ss.ps);
	state->result = AllocSetContextCreate(estate->es_query_cxt, "guest_context key scan",
										  ALLOCSET_SMALL_SIZES);
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		state->read = gc_read_begin(estate, plan);
}

/* ExecScan's access method: the newest version of the key, once. */
static TupleTableSlot *
next_row(ScanState *node)
{
	KeyScan    *state = (KeyScan *) node;
	TupleTableSlot *slot = node->ss_ScanTupleSlot;
	ExprContext *econtext = node->ps.ps_ExprContext;
	Datum		key[INDEX_MAX_KEYS];
	MemoryContext caller;
	HeapTuple	tuple;
	ListCell   *lc;

	ExecClearTuple(slot);
	if (state->done)
		return slot;
	state->done = true;
	MemoryContextReset(state->result);
	caller = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	foreach(lc, state->values)
	{
		bool		isnull;

		key[foreach_current_index(lc)] = ExecEvalExpr(lfirst(lc), econtext, &isnull);
		if (isnull)
		{
			MemoryContextSwitchTo(caller);
			return slot;		/* no key is NULL */
		}
	}
	MemoryContextSwitchTo(state->result);
	tuple = gc_read_newest(state->read, key);
	MemoryContextSwitchTo(caller);
	if (tuple != NULL)
	{
		heap_deform_tuple(tuple, slot->tts_tupleDescriptor, slot->tts_values, slot->tts_isnull);
		ExecStoreVirtualTuple(slot);
	}
	return slot;
}

/* ExecScan's recheck method: never called, since row locks keep this node out. */
static bool
recheck_row(ScanState *node, TupleTableSlot *slot)
{
	return true;
}

static TupleTableSlot *
exec_key_scan(CustomScanState *node)
{
	return ExecScan(&node->ss, next_row, recheck_row);
}

static void
rescan_key_scan(CustomScanState *node)
{
	((KeyScan *) node)->done = false;
	ExecScanReScan(&node->ss);
}

static void
end_key_scan(CustomScanState *node)
{
	KeyScan    *state = (KeyScan *) node;

	if (state->read != NULL)
		gc_read_end(state->read);
	MemoryContextDelete(state->result);
}

/* Called once, when the library is loaded. */
void
gc_key_scan_init(void)
{
	RegisterCustomScanMethods(&scan_methods);
	previous_relation_hook = get_relation_info_hook;
	get_relation_info_hook = do_not_expand;
	previous_path_hook = set_rel_pathlist_hook;
	set_rel_pathlist_hook = add_paths;
}
