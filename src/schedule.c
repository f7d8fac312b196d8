/*
 * schedule.c: datasets that are built in the background: when, and after what failed.
 *
 * build_dataset orders one; so does rebuild_every, when the newest dataset of a root
 * has become that old. The order is a row of the catalogue, in state loading, and stays
 * one until a worker has built it: a worker that dies leaves nothing behind, and the
 * next one begins again. What failed is tried again with growing pauses and no second
 * order is made meanwhile; the reason stands in the dataset's message and at the entity.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "dataset.h"
#include "maintenance.h"
#include "tree.h"

/*
 * What background work is still to do for a root: the newest built dataset, when it
 * is not built yet, or built to be activated and not activated. One older than what
 * is active now is not worth it any more.
 */
static int32
find_order(const GcEntity *root)
{
	return (int32)
		gc_catalog_run_bigint(SPI_OK_SELECT,
							  "SELECT CASE WHEN d.state OPERATOR(pg_catalog.=) 'loading'"
							  "  OR (d.state OPERATOR(pg_catalog.=) 'sealed' AND d.activate AND d.activated_at IS NULL"
							  "   AND NOT EXISTS (SELECT FROM guest_context._dataset n"
							  "    WHERE n.root_id OPERATOR(pg_catalog.=) d.root_id"
							  "      AND n.state OPERATOR(pg_catalog.=) 'active' AND n.as_of OPERATOR(pg_catalog.>) d.as_of))"
							  "  THEN d.dataset_id::pg_catalog.int8 END"
							  " FROM guest_context._dataset d"
							  " WHERE d.root_id OPERATOR(pg_catalog.=) $1 AND d.built"
							  "   AND d.state OPERATOR(pg_catalog.<>) 'dropped'"
							  " ORDER BY d.dataset_id DESC LIMIT 1", 1,
							  INT4OID, Int32GetDatum(root->entity_id));
}

/* Is the newest snapshot of the root, or the root itself, older than rebuild_every? */
static bool
is_due(const GcEntity *root)
{
	return gc_catalog_run_bigint(SPI_OK_SELECT,
								 "SELECT 1::pg_catalog.int8 FROM guest_context._entity e"
								 " WHERE e.entity_id OPERATOR(pg_catalog.=) $1"
								 "   AND e.rebuild_every OPERATOR(pg_catalog.+) coalesce((SELECT pg_catalog.max(d.as_of)"
								 "    FROM guest_context._dataset d WHERE d.root_id OPERATOR(pg_catalog.=) $1"
								 "     AND d.state OPERATOR(pg_catalog.<>) 'dropped'), e.created_at)"
								 "    OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()", 1,
								 INT4OID, Int32GetDatum(root->entity_id)) != 0;
}

void
gc_schedule_order(const GcEntity *root, void *arg)
{
	int32		dataset_id = 0;

	if (root->rebuild_every == NULL)
		return;
	gc_step_begin();
	if (find_order(root) == 0 && is_due(root))
		dataset_id = gc_dataset_order_build(root, true);
	gc_step_end();
	if (dataset_id != 0)
		gc_step_did(root, "schedule", "ordered dataset %d, for rebuild_every is over", dataset_id);
}

/* Step: builds, verifies, activates; as much of it as is still to do. */
static void
build_dataset(const GcEntity *root, void *arg)
{
	int32		dataset_id;
	bool		active;
	char	   *failure;

	gc_step_begin();
	dataset_id = find_order(root);
	gc_step_end();
	if (dataset_id == 0)
		return;

	failure = gc_dataset_build(dataset_id);
	if (failure != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dataset %d: %s", dataset_id, failure)));

	gc_step_begin();
	active = gc_dataset_get(dataset_id)->state == GC_ACTIVE;
	gc_step_end();
	gc_step_did(root, "build", "dataset %d is %s", dataset_id, active ? "built and active" : "built");
}

void
gc_schedule_build(List *entities)
{
	ListCell   *lc;

	foreach(lc, entities)
		if (((GcEntity *) lfirst(lc))->parent_id == 0)
			gc_step_run(lfirst(lc), "build", build_dataset, NULL);
}
