/*
 * entity.h: what the verbs of entities share.
 */
#ifndef GC_ENTITY_H
#define GC_ENTITY_H

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "catalog.h"

#define GC_DEFAULT_PARTITION_INTERVAL	"1 day"
#define GC_DEFAULT_RETENTION			"7 days"
#define GC_DEFAULT_OVERLAP				"12 hours"

/* A text[] argument as String nodes; NIL for NULL. ERROR for NULL elements and duplicates. */
extern List *gc_list_argument(FunctionCallInfo fcinfo, int arg, const char *name);

/* String nodes as a text[]. */
extern Datum gc_list_datum(List *list);

/* An interval from our own text. */
extern Interval *gc_interval_parse(const char *text);

/* ERROR: a child was given options (or NULL) that its root has; the hint gives them to that. */
extern void gc_root_options_error(const GcEntity *entity, const Interval *overlap,
								  const Interval *rebuild_every);

/* ERROR when an interval among the options makes no sense. */
extern void gc_entity_check_options(const GcEntity *entity);

#endif							/* GC_ENTITY_H */
