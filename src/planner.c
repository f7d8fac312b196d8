/*
 * planner.c: what the planner is told about a view of truth.
 *
 * When the planner simplifies the functions in a view, the support functions
 * here put constants there: for _floor and _ceiling the bounds of arrival
 * between which the plan reads, so that leaves of the past and of the days ahead
 * are pruned without being opened; for the others what the plan was made with
 * (GcPlan), so that execution can tell when that is not enough.
 *
 * That must be checked even when the plan returns no row at all. The check is in
 * _active_dataset, which partition pruning evaluates when the executor starts.
 * Where a plan may have no such pruning, _plan_ok stays in it as a one-time filter on
 * every leaf, which costs every row a little; elsewhere it is simplified away.
 *
 * The constants of one planning come from one reading, kept beside the
 * planner's own state: were the floor of _floor newer than that of _plan_ok, a
 * plan could miss leaves and not know it. Partition bounds are taken from the very
 * descriptors that the planner expands the tree with.
 *
 * Here also is the check that makes _is_current safe for everybody to call: its
 * arguments must be columns of the tree in the same query, which the executor
 * then checks the reader's rights on.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "optimizer/cost.h"
#include "optimizer/paths.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "planner.h"
#include "read.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_plan_support);
PG_FUNCTION_INFO_V1(gc_newest_support);
PG_FUNCTION_INFO_V1(gc_floor_support);
PG_FUNCTION_INFO_V1(gc_ceiling_support);
PG_FUNCTION_INFO_V1(gc_plan_in);
PG_FUNCTION_INFO_V1(gc_plan_out);
PG_FUNCTION_INFO_V1(gc_plan_unplanned);

/*
 * Most versions that a scan meets are current: those that are not number at
 * most as many as the window's rows, a small part of the whole.
 */
#define CURRENT_SELECTIVITY 0.97

/* What was read for one tree in one run of the planner. */
typedef struct Reading
{
	struct Reading *next;
	PlannerGlobal *glob;		/* the run */
	GcPlan	   *plan;
	Oid		   *dataset_leaves; /* as plan->datasets */
	MemoryContextCallback forget;
} Reading;

static Reading *readings = NULL;

/* The type of the constants, as it was when the last one was planted. */
static Oid	plan_type = InvalidOid;

/* The run's memory goes: so does what was read for it. */
static void
forget_reading(void *arg)
{
	for (Reading **link = &readings; *link != NULL; link = &(*link)->next)
		if (*link == arg)
		{
			*link = (*link)->next;
			return;
		}
}

/*
 * A plan reads up to the end of the leaf after the one of this moment: what
 * lies further ahead is empty, and in that time the next leaf is attached and the plan
 * made anew.
 */
static void
set_bounds(GcPlan *plan, PartitionBoundInfo bounds)
{
	TimestampTz now = GetCurrentTimestamp();
	int			i;

	if (bounds == NULL || bounds->ndatums == 0)
	{
		plan->leaves_from = plan->ceiling = DT_NOBEGIN;
		return;
	}
	plan->leaves_from = DatumGetTimestampTz(bounds->datums[0][0]);
	for (i = bounds->ndatums - 1; i > 0; i--)
		if (DatumGetTimestampTz(bounds->datums[i][0]) <= now)
			break;
	plan->ceiling = DatumGetTimestampTz(bounds->datums[Min(i + 2, bounds->ndatums - 1)][0]);
	for (int j = i + 1; j > 0 && DatumGetTimestampTz(bounds->datums[j - 1][0]) > plan->floor; j--)
		plan->nleaves++;
	plan->two_leaves = i + 2 <= bounds->ndatums - 1 && plan->floor < now;
}

/* Reads floor, bounds and datasets of a tree; no key yet. */
static void
read_tree(Reading *reading, Oid versions)
{
	PlannerGlobal *glob = reading->glob;
	GcWindow	window;
	GcWindow	latest;
	Relation	rel;
	PartitionDesc root;
	PartitionDesc speed;
	PartitionDesc batch;
	GcPlan	   *plan;
	int			ndatasets;

	/*
	 * A plan made under an old snapshot may be kept and run under a new one: it
	 * reads from the lower floor of the two.
	 */
	gc_window_read(versions, ActiveSnapshotSet() ? GetActiveSnapshot() : NULL, &window);
	gc_window_read(versions, NULL, &latest);

	/* The planner would make it in a moment, in this context and in this way. */
	if (glob->partition_directory == NULL)
		glob->partition_directory = CreatePartitionDirectory(CurrentMemoryContext, true);
	rel = table_open(versions, AccessShareLock);
	root = PartitionDirectoryLookup(glob->partition_directory, rel);
	table_close(rel, NoLock);
	if (root->nparts != 2)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" does not have the two partitions of an entity", get_rel_name(versions))));
	rel = table_open(root->oids[0], AccessShareLock);
	speed = PartitionDirectoryLookup(glob->partition_directory, rel);
	table_close(rel, NoLock);
	rel = table_open(root->oids[1], AccessShareLock);
	batch = PartitionDirectoryLookup(glob->partition_directory, rel);
	table_close(rel, NoLock);

	ndatasets = batch->boundinfo ? batch->boundinfo->ndatums : 0;
	plan = palloc0(offsetof(GcPlan, datasets) + sizeof(int32) * ndatasets);
	SET_VARSIZE(plan, offsetof(GcPlan, datasets) + sizeof(int32) * ndatasets);
	plan->versions = versions;
	plan->floor = Min(window.floor, latest.floor);
	set_bounds(plan, speed->boundinfo);
	plan->ndatasets = ndatasets;
	reading->dataset_leaves = palloc(sizeof(Oid) * Max(ndatasets, 1));
	for (int i = 0; i < ndatasets; i++)
	{
		plan->datasets[i] = DatumGetInt32(batch->boundinfo->datums[i][0]);
		reading->dataset_leaves[i] = batch->oids[batch->boundinfo->indexes[i]];
	}
	reading->plan = plan;
}

/* The reading of this run of the planner for this tree; made at the first call. */
static Reading *
reading_of_tree(PlannerInfo *root, Oid versions)
{
	MemoryContext run = GetMemoryChunkContext(root->glob);
	MemoryContext caller;
	Reading    *reading;

	for (reading = readings; reading != NULL; reading = reading->next)
		if (reading->glob == root->glob && reading->plan->versions == versions)
			return reading;

	caller = MemoryContextSwitchTo(run);
	reading = palloc0(sizeof(Reading));
	reading->glob = root->glob;
	read_tree(reading, versions);
	reading->forget.func = forget_reading;
	reading->forget.arg = reading;
	MemoryContextRegisterResetCallback(run, &reading->forget);
	reading->next = readings;
	readings = reading;
	MemoryContextSwitchTo(caller);
	return reading;
}

/* The tree of an argument: a regclass constant, or _plan() of one. */
static Oid
tree_argument(Node *arg)
{
	if (IsA(arg, FuncExpr) && list_length(((FuncExpr *) arg)->args) == 1)
		arg = linitial(((FuncExpr *) arg)->args);
	if (IsA(arg, Const) && ((Const *) arg)->consttype == REGCLASSOID &&
		!((Const *) arg)->constisnull)
		return DatumGetObjectId(((Const *) arg)->constvalue);
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("functions of the view of truth cannot be called directly"),
			 errhint("Read the entity's view.")));
	return InvalidOid;			/* keep the compiler quiet */
}

/* An argument without the relabelling that makes its base type of a domain. */
static Var *
bare_argument(List *args, int position)
{
	Node	   *arg = list_nth(args, position);

	while (IsA(arg, RelabelType))
		arg = (Node *) ((RelabelType *) arg)->arg;
	return (Var *) arg;
}

/*
 * The column of the tree that an argument of _is_current is, all of one
 * reference to it; ERROR for anything else, and for more than a key can have.
 */
static AttrNumber
column_argument(PlannerInfo *root, List *args, int position, Oid versions)
{
	Var		   *first = bare_argument(args, GC_ARG_DATASET);
	Var		   *var = bare_argument(args, position);

	if (IsA(var, Var) && var->varlevelsup == 0 &&
		IsA(first, Var) && var->varno == first->varno &&
		position < GC_ARG_KEY + INDEX_MAX_KEYS)
	{
		RangeTblEntry *rte = rt_fetch(var->varno, root->parse->rtable);

		if (rte->rtekind == RTE_RELATION && rte->relid == versions &&
			(var->varattno > 0 || position == GC_ARG_TID))
			return var->varattno;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("arguments of guest_context._is_current must be columns of its own tree"),
			 errhint("Read the entity's view.")));
	return InvalidAttrNumber;	/* keep the compiler quiet */
}

/* The same for a key column: one that can be hashed and compared, as a key can. */
static AttrNumber
key_argument(PlannerInfo *root, List *args, int position, Oid versions)
{
	AttrNumber	attno = column_argument(root, args, position, versions);
	TypeCacheEntry *type = lookup_type_cache(get_atttype(versions, attno),
											 TYPECACHE_HASH_PROC | TYPECACHE_EQ_OPR |
											 TYPECACHE_BTREE_OPFAMILY);

	if (!OidIsValid(type->hash_proc) || !OidIsValid(type->eq_opr) || !OidIsValid(type->btree_opf))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("column \"%s\" cannot be a key", get_attname(versions, attno, false)),
				 errhint("Read the entity's view.")));
	return attno;
}

/*
 * Will the executor surely evaluate _active_dataset when it starts? Partition
 * pruning does so for an Append, that is when two or more leaves are read and
 * their scans are not spread over joins or aggregates of single leaves.
 */
static bool
checked_at_start(const GcPlan *plan)
{
	return plan->two_leaves && enable_partition_pruning &&
		!enable_partitionwise_join && !enable_partitionwise_aggregate;
}

/* _is_current: columns of one reference to the tree, which are noted in the plan. */
static GcPlan *
plan_with_key(PlannerInfo *root, const GcPlan *plan, List *args)
{
	GcPlan	   *result = palloc(VARSIZE(plan));

	memcpy(result, plan, VARSIZE(plan));
	for (int i = GC_ARG_DATASET; i < GC_ARG_KEY; i++)
		column_argument(root, args, i, plan->versions);
	result->version_attno = column_argument(root, args, GC_ARG_VERSION, plan->versions);
	result->nkeys = list_length(args) - GC_ARG_KEY;
	for (int i = 0; i < result->nkeys; i++)
	{
		/* refuses the column that the array has no room for */
		AttrNumber	attno = key_argument(root, args, GC_ARG_KEY + i, plan->versions);

		result->key_attnos[i] = attno;
	}
	return result;
}

/*
 * When the planner carries the conditions over to the leaves, a leaf of a
 * dataset is found to need less: dataset, arrival and tid are the same or
 * without meaning for all its rows, and the rest of the position matters in ties only.
 */
static Node *
simplify_on_leaf(PlannerInfo *root, FuncExpr *call)
{
	GcPlan	   *plan = (GcPlan *) DatumGetPointer(((Const *) linitial(call->args))->constvalue);
	Var		   *var = bare_argument(call->args, GC_ARG_DATASET);
	Oid			leaf = rt_fetch(var->varno, root->parse->rtable)->relid;
	Reading    *reading;
	List	   *args;

	if (leaf == plan->versions)
		return NULL;
	reading = reading_of_tree(root, plan->versions);
	for (int i = 0; i < reading->plan->ndatasets; i++)
	{
		if (reading->dataset_leaves[i] != leaf)
			continue;
		plan = (GcPlan *) DatumGetPointer(datumCopy(PointerGetDatum(plan), false, -1));
		plan->dataset = reading->plan->datasets[i];
		args = list_make2(gc_plan_const(plan), list_nth(call->args, GC_ARG_VERSION));
		args = list_concat(args, list_copy_tail(call->args, GC_ARG_KEY));
		return (Node *) makeFuncExpr(LookupFuncName(list_make2(makeString(get_namespace_name(get_func_namespace(call->funcid))),
															   makeString("_is_newest")),
													-1, NULL, false),
									 BOOLOID, args, InvalidOid, call->inputcollid,
									 COERCE_EXPLICIT_CALL);
	}
	return NULL;
}

/* Puts a constant of type _plan in the place of the call of _plan(). */
static Node *
plant_plan(SupportRequestSimplify *request)
{
	FuncExpr   *call = request->fcall;
	Node	   *first = linitial(call->args);
	GcPlan	   *plan;

	/* Without a query there is no plan. */
	if (request->root == NULL)
		return NULL;
	if (IsA(first, Const))
		return list_length(call->args) > 1 ? simplify_on_leaf(request->root, call) : NULL;
	plan = reading_of_tree(request->root, tree_argument(first))->plan;
	if (call->funcresulttype == BOOLOID && list_length(call->args) == 1 && checked_at_start(plan))
		return makeBoolConst(true, false);	/* _plan_ok */
	if (list_length(call->args) > 1)
		plan = plan_with_key(request->root, plan, call->args);
	plan_type = exprType(first);
	call = copyObject(call);
	linitial(call->args) = gc_plan_const(plan);
	return (Node *) call;
}

Const *
gc_plan_const(GcPlan *plan)
{
	return makeConst(plan_type, -1, InvalidOid, -1, PointerGetDatum(plan), false, false);
}

bool
gc_is_plan_const(Node *node)
{
	return IsA(node, Const) && ((Const *) node)->consttype == plan_type;
}

static bool
plan_const_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return gc_is_plan_const(node) || expression_tree_walker(node, plan_const_walker, context);
}

bool
gc_has_plan_const(Node *node)
{
	return plan_const_walker(node, NULL);
}

/*
 * A condition that the scan nodes meet by themselves: _is_current, _plan_ok, and the one that is there
 * for pruning. What else somebody asks of the tree's columns, with functions of ours, stays.
 */
bool
gc_is_window_condition(Node *clause)
{
	if (IsA(clause, FuncExpr))
		return ((FuncExpr *) clause)->args != NIL && gc_is_plan_const(linitial(((FuncExpr *) clause)->args));
	return IsA(clause, BoolExpr) && ((BoolExpr *) clause)->boolop == OR_EXPR && gc_has_plan_const(clause);
}

/* _plan_support(internal) -> internal */
Datum
gc_plan_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	Node	   *result = NULL;

	if (IsA(request, SupportRequestSimplify))
		result = plant_plan((SupportRequestSimplify *) request);
	else if (IsA(request, SupportRequestSelectivity))
	{
		((SupportRequestSelectivity *) request)->selectivity = CURRENT_SELECTIVITY;
		result = request;
	}
	PG_RETURN_POINTER(result);
}

/* _newest_support(internal) -> internal */
Datum
gc_newest_support(PG_FUNCTION_ARGS)
{
	SupportRequestSelectivity *request = (SupportRequestSelectivity *) PG_GETARG_POINTER(0);

	if (!IsA(request, SupportRequestSelectivity))
		PG_RETURN_POINTER(NULL);
	request->selectivity = CURRENT_SELECTIVITY;
	PG_RETURN_POINTER(request);
}

/* The plan that a bound belongs to, or NULL when this is no simplification. */
static GcPlan *
plan_of_bound(Node *request)
{
	SupportRequestSimplify *simplify = (SupportRequestSimplify *) request;

	if (!IsA(request, SupportRequestSimplify) || simplify->root == NULL)
		return NULL;
	return reading_of_tree(simplify->root, tree_argument(linitial(simplify->fcall->args)))->plan;
}

static Node *
bound_const(TimestampTz bound)
{
	return (Node *) makeConst(TIMESTAMPTZOID, -1, InvalidOid, sizeof(TimestampTz),
							  TimestampTzGetDatum(bound), false, FLOAT8PASSBYVAL);
}

/* _floor_support(internal) -> internal */
Datum
gc_floor_support(PG_FUNCTION_ARGS)
{
	GcPlan	   *plan = plan_of_bound((Node *) PG_GETARG_POINTER(0));

	PG_RETURN_POINTER(plan ? bound_const(plan->floor) : NULL);
}

/* _ceiling_support(internal) -> internal */
Datum
gc_ceiling_support(PG_FUNCTION_ARGS)
{
	GcPlan	   *plan = plan_of_bound((Node *) PG_GETARG_POINTER(0));

	PG_RETURN_POINTER(plan ? bound_const(plan->ceiling) : NULL);
}

/* _plan_in(cstring) -> _plan: nobody but the planner makes one. */
Datum
gc_plan_in(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot accept a value of type %s", "guest_context._plan")));
	PG_RETURN_NULL();
}

/* _plan_out(_plan) -> cstring, seen in EXPLAIN */
Datum
gc_plan_out(PG_FUNCTION_ARGS)
{
	GcPlan	   *plan = (GcPlan *) PG_GETARG_POINTER(0);

	PG_RETURN_CSTRING(psprintf("%s to %s, %d datasets",
							   gc_timestamp_literal(plan->floor),
							   gc_timestamp_literal(plan->ceiling),
							   plan->ndatasets));
}

/* _plan(regclass), _floor(regclass), _ceiling(regclass): only there to be replaced */
Datum
gc_plan_unplanned(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("functions of the view of truth cannot be called directly"),
			 errhint("Read the entity's view.")));
	PG_RETURN_NULL();
}
