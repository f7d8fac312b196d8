/*
 * planner.c: what the planner is told about a view of truth.
 *
 * The view calls _floor, _plan_ok and _is_current. When the planner simplifies
 * them, this support function puts constants there: the window's floor, so that
 * leaves of the past are pruned without being opened, and what the plan was
 * made with (GcPlan), so that execution can tell when that is not enough.
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
#include "parser/parsetree.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "read.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_plan_support);
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
	MemoryContextCallback forget;
} Reading;

static Reading *readings = NULL;

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

/* Reads floor, bounds and datasets of a tree; no key yet. */
static GcPlan *
read_tree(PlannerGlobal *glob, Oid versions)
{
	GcWindow	window;
	Relation	rel;
	PartitionDesc root;
	PartitionDesc speed;
	PartitionDesc batch;
	GcPlan	   *plan;
	int			ndatasets;

	gc_window_read(versions, ActiveSnapshotSet() ? GetActiveSnapshot() : NULL, &window);

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
	plan->floor = window.floor;
	if (speed->boundinfo == NULL || speed->boundinfo->ndatums == 0)
		plan->leaves_from = plan->leaves_until = DT_NOBEGIN;
	else
	{
		PartitionBoundInfo bounds = speed->boundinfo;

		plan->leaves_from = DatumGetTimestampTz(bounds->datums[0][0]);
		plan->leaves_until = DatumGetTimestampTz(bounds->datums[bounds->ndatums - 1][0]);
	}
	plan->ndatasets = ndatasets;
	for (int i = 0; i < ndatasets; i++)
		plan->datasets[i] = DatumGetInt32(batch->boundinfo->datums[i][0]);
	return plan;
}

/* The reading of this run of the planner for this tree; made at the first call. */
static GcPlan *
plan_for_tree(PlannerInfo *root, Oid versions)
{
	MemoryContext run = GetMemoryChunkContext(root->glob);
	MemoryContext caller;
	Reading    *reading;

	for (reading = readings; reading != NULL; reading = reading->next)
		if (reading->glob == root->glob && reading->plan->versions == versions)
			return reading->plan;

	caller = MemoryContextSwitchTo(run);
	reading = palloc0(sizeof(Reading));
	reading->glob = root->glob;
	reading->plan = read_tree(root->glob, versions);
	reading->forget.func = forget_reading;
	reading->forget.arg = reading;
	MemoryContextRegisterResetCallback(run, &reading->forget);
	reading->next = readings;
	readings = reading;
	MemoryContextSwitchTo(caller);
	return reading->plan;
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

/*
 * The column of the tree that an argument of _is_current is, all of one
 * reference to it; ERROR for anything else.
 */
static AttrNumber
column_argument(PlannerInfo *root, List *args, int position, Oid versions)
{
	Var		   *first = linitial_node(Var, list_copy_tail(args, GC_ARG_DATASET));
	Var		   *var = list_nth(args, position);

	if (IsA(var, Var) && var->varlevelsup == 0 && var->varno == first->varno)
	{
		RangeTblEntry *rte = rt_fetch(var->varno, root->parse->rtable);

		if (rte->rtekind == RTE_RELATION && rte->relid == versions)
			return var->varattno;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("arguments of guest_context._is_current must be columns of its own tree"),
			 errhint("Read the entity's view.")));
	return InvalidAttrNumber;	/* keep the compiler quiet */
}

/* A constant of type _plan in place of the call of _plan(). */
static Const *
plan_const(Oid type, GcPlan *plan)
{
	return makeConst(type, -1, InvalidOid, -1, PointerGetDatum(plan), false, false);
}

static Node *
simplify(SupportRequestSimplify *request)
{
	FuncExpr   *call = request->fcall;
	Node	   *first = linitial(call->args);
	GcPlan	   *plan;
	Const	   *planted;

	/* Without a query there is no plan; a planted one stays as it is. */
	if (request->root == NULL)
		return NULL;
	if (exprType(first) != REGCLASSOID && IsA(first, Const))
		return NULL;

	plan = plan_for_tree(request->root, tree_argument(first));
	if (exprType(first) == REGCLASSOID) /* _floor */
		return (Node *) makeConst(TIMESTAMPTZOID, -1, InvalidOid, sizeof(TimestampTz),
								  TimestampTzGetDatum(plan->floor), false, FLOAT8PASSBYVAL);

	if (list_length(call->args) > 1)	/* _is_current */
	{
		GcPlan	   *with_key = palloc(VARSIZE(plan));
		int			nkeys = list_length(call->args) - GC_ARG_KEY;

		if (!IsA(list_nth(call->args, GC_ARG_DATASET), Var) || nkeys > INDEX_MAX_KEYS)
			column_argument(request->root, call->args, GC_ARG_PLAN, plan->versions);
		memcpy(with_key, plan, VARSIZE(plan));
		for (int i = GC_ARG_DATASET; i < GC_ARG_KEY; i++)
			column_argument(request->root, call->args, i, plan->versions);
		with_key->version_attno = column_argument(request->root, call->args,
												  GC_ARG_VERSION, plan->versions);
		with_key->nkeys = nkeys;
		for (int i = 0; i < nkeys; i++)
			with_key->key_attnos[i] = column_argument(request->root, call->args,
													  GC_ARG_KEY + i, plan->versions);
		plan = with_key;
	}
	planted = plan_const(exprType(first), plan);
	call = (FuncExpr *) copyObject(call);
	linitial(call->args) = planted;
	return (Node *) call;
}

/* _plan_support(internal) -> internal */
Datum
gc_plan_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	Node	   *result = NULL;

	if (IsA(request, SupportRequestSimplify))
		result = simplify((SupportRequestSimplify *) request);
	else if (IsA(request, SupportRequestSelectivity))
	{
		((SupportRequestSelectivity *) request)->selectivity = CURRENT_SELECTIVITY;
		result = request;
	}
	PG_RETURN_POINTER(result);
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

	PG_RETURN_CSTRING(psprintf("floor %s, leaves until %s, %d datasets",
							   gc_timestamp_literal(plan->floor),
							   gc_timestamp_literal(plan->leaves_until),
							   plan->ndatasets));
}

/* _plan(regclass) -> _plan: only there to be replaced */
Datum
gc_plan_unplanned(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("functions of the view of truth cannot be called directly"),
			 errhint("Read the entity's view.")));
	PG_RETURN_NULL();
}
