/*
 * shape.h: the table or composite type that names an entity's columns.
 */
#ifndef GC_SHAPE_H
#define GC_SHAPE_H

#include "nodes/pg_list.h"

typedef struct GcShapeColumn
{
	char	   *name;
	Oid			type;
	int32		typmod;
	Oid			collation;
	bool		not_null;
	char	   *default_sql;	/* or NULL */
} GcShapeColumn;

typedef struct GcShapeCheck
{
	char	   *name;
	char	   *sql;			/* the condition */
	List	   *columns;		/* String nodes: those it looks at */
} GcShapeCheck;

typedef struct GcShape
{
	int			ncolumns;
	GcShapeColumn *columns;		/* in the shape's order */
	List	   *checks;			/* of GcShapeCheck */
} GcShape;

/*
 * Reads and judges a shape. ERROR, naming what and why, for anything that a
 * tree of versions cannot keep. `key_columns`: a UNIQUE or PRIMARY KEY of just
 * these is accepted, for it holds by construction.
 */
extern GcShape *gc_shape_read(Oid relid, List *key_columns);

/* No control characters: they would be code in a dump or a log. */
extern bool gc_name_is_plain(const char *name);

/* The column of that name, or NULL. */
extern GcShapeColumn *gc_shape_column(const GcShape *shape, const char *name);

/* "total" numeric(10,2) COLLATE pg_catalog."C": for CREATE TABLE */
extern char *gc_shape_column_sql(const GcShapeColumn *column);

/* CONSTRAINT … CHECK (gc_deleted OR …) */
extern char *gc_shape_check_sql(const GcShapeCheck *check);

/* CHECK constraint of the tree that stands for a column's NOT NULL; NULL if none */
extern char *gc_shape_not_null_sql(const GcShapeColumn *column);

#endif							/* GC_SHAPE_H */
