/*
 * aggregate.h: what the support functions of aggregates share.
 */
#ifndef GC_AGGREGATE_H
#define GC_AGGREGATE_H

#include "fmgr.h"

/*
 * The memory context that lives as long as the group that is being aggregated.
 * Only the executor gets here: SQL has no value of type internal to call a
 * support function with.
 */
static inline MemoryContext
gc_aggregate_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate support function called outside of its aggregate");	/* cannot happen */
	return context;
}

#endif							/* GC_AGGREGATE_H */
