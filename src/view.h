/*
 * view.h: the SQL of the view of truth.
 */
#ifndef GC_VIEW_H
#define GC_VIEW_H

#include "catalog.h"

/*
 * The condition under which a row of the tree, with the given alias, is the
 * newest version of its key in the active dataset and the window. Tombstones
 * pass when with_deleted; the entity's expiry is not part of it.
 */
extern char *gc_truth_where(const GcEntity *entity, const char *alias, bool with_deleted);

/* (v.modified_at, v.gc_source, …): the place in the total order, to compare as a row */
extern char *gc_position_sql(const GcEntity *entity, const char *alias);

/*
 * l.a = r.b AND …: by the equality of the types of columns `left` of `relation`,
 * which those of `right` share.
 */
extern char *gc_columns_equal_sql(Oid relation, List *left, const char *left_alias,
								  List *right, const char *right_alias);

/* The view's query. */
extern char *gc_truth_sql(const GcEntity *entity);

/* The same answer by anti-joins over the tree, without any function of ours. */
extern char *gc_truth_sql_portable(const GcEntity *entity);

/*
 * Makes the view, or replaces its query after columns or expiry changed; it keeps its
 * options then.
 */
extern void gc_view_create(const GcEntity *entity, bool replace);

#endif							/* GC_VIEW_H */
