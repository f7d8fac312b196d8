/*
 * dataset_activate.c: activate_dataset and rollback_dataset.
 *
 * Both move the pointer in guest_context._window: dataset and window of all entities
 * of the root in one transaction, so that a statement's snapshot sees one dataset and
 * one window. Nobody is waited for but another activation of the same root, and
 * nothing here grows with the data; what takes long was done by seal and verify. The
 * one exception is a rollback to a dataset whose window begins later than the active
 * one's, after `overlap` was raised: it must look for regressions itself.
 *
 * Records in flight: one that arrived before the new window start and commits after
 * the switch would be lost. So every transaction that holds the writer lock must
 * have begun after the new window start; arrival times are taken under that lock.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "common/fault_point.h"
#include "compat.h"
#include "dataset.h"
#include "guest_context.h"
#include "launcher.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_activate_dataset);
PG_FUNCTION_INFO_V1(gc_rollback_dataset);

/*
 * An entity that the dataset does not span has all of its speed table as window. Records that were dropped cannot
 * be read in any window; those that have never come are missing only where a snapshot from elsewhere is to be
 * completed by them. A dataset that was built from the truth needs none that did not come before that.
 */
void
gc_coverage_check(const GcEntity *root, int32 dataset_id, const char *verb)
{
	Oid			types[2] = {INT4OID, INT4OID};
	Datum		values[2] = {Int32GetDatum(root->entity_id), Int32GetDatum(dataset_id)};

	SPI_connect();
	gc_catalog_execute("SELECT e.entity_id, n.since, n.until, n.dropped"
					   " FROM guest_context._entity e"
					   " JOIN guest_context._window w ON w.entity_id OPERATOR(pg_catalog.=) e.entity_id"
					   " JOIN guest_context._dataset d ON d.dataset_id OPERATOR(pg_catalog.=) $2"
					   " LEFT JOIN guest_context._dataset_entity m"
					   "   ON m.entity_id OPERATOR(pg_catalog.=) e.entity_id"
					   "  AND m.dataset_id OPERATOR(pg_catalog.=) $2,"
					   " LATERAL (VALUES (coalesce(m.window_start, '-infinity'), w.dropped_before, true),"
					   "  (CASE WHEN d.built AND m.entity_id IS NOT NULL THEN d.as_of ELSE coalesce(m.window_start, '-infinity') END,"
					   /* with and without the dataset there are the records that have come, and no others */
					   "   CASE WHEN m.entity_id IS NULL AND w.dataset_id OPERATOR(pg_catalog.=) 0 THEN '-infinity' ELSE w.covered_since END, false))"
					   "  n (since, until, dropped)"
					   " WHERE e.root_id OPERATOR(pg_catalog.=) $1 AND n.since OPERATOR(pg_catalog.<) n.until"
					   " ORDER BY e.entity_id, n.until DESC", 2, types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		GcEntity   *entity = gc_entity_by_id(DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull)));
		TimestampTz from = DatumGetTimestampTz(SPI_getbinval(row, desc, 2, &isnull));
		TimestampTz until = DatumGetTimestampTz(SPI_getbinval(row, desc, 3, &isnull));
		bool		dropped = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot %s dataset %d because records of entity \"%s\" that it needs are gone",
						verb, dataset_id, gc_entity_label(entity)),
				 dropped ?
				 errdetail("Its window begins at %s, and records that arrived before %s have been dropped: [%s, %s) is not covered.",
						   gc_timestamp_literal(from), gc_timestamp_literal(until),
						   gc_timestamp_literal(from), gc_timestamp_literal(until)) :
				 errdetail("It needs all records since %s, and some from before %s have never come: [%s, %s) is not covered.",
						   gc_timestamp_literal(from), gc_timestamp_literal(until),
						   gc_timestamp_literal(from), gc_timestamp_literal(until)),
				 errhint("Load a snapshot of that time or later: SELECT guest_context.create_dataset(%s, as_of => '%s');",
						 quote_literal_cstr(gc_quoted_name(root->view)),
						 gc_timestamp_literal(gc_timestamp_plus(until, root->overlap)))));
	}
	SPI_finish();
}

TimestampTz
gc_coverage_since(const GcEntity *entity)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(entity->entity_id)};
	TimestampTz since = DT_NOBEGIN;
	bool		isnull;

	SPI_connect();
	gc_catalog_execute("SELECT covered_since FROM guest_context._window WHERE entity_id OPERATOR(pg_catalog.=) $1",
					   1, types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed > 0)
		since = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return since;
}

void
gc_coverage_raise(const GcEntity *entity, TimestampTz since)
{
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._window w SET covered_since = n.since"
				   " FROM (SELECT least($2, pg_catalog.clock_timestamp()) AS since) n"
				   " WHERE w.entity_id OPERATOR(pg_catalog.=) $1 AND w.covered_since OPERATOR(pg_catalog.<) n.since", 2,
				   INT4OID, Int32GetDatum(entity->entity_id), TIMESTAMPTZOID, TimestampTzGetDatum(since));
}

/* The active dataset of a root, 0 = none. Exact under the root's lock. */
static int32
active_dataset(const GcEntity *root)
{
	return (int32)
		gc_catalog_run_bigint(SPI_OK_SELECT,
							  "SELECT dataset_id::pg_catalog.int8 FROM guest_context._dataset"
							  " WHERE root_id OPERATOR(pg_catalog.=) $1 AND state OPERATOR(pg_catalog.=) 'active'", 1,
							  INT4OID, Int32GetDatum(root->entity_id));
}

/*
 * Moves the pointer. The caller holds the root's lock and has done the checks that
 * can be forced; those that cannot are here.
 */
static void
switch_to(const GcDataset *dataset, int32 active, const char *verb, const char *function, bool force)
{
	TimestampTz window_start = ((GcMember *) linitial(dataset->members))->window_start;
	const GcEntity *root = dataset->root;
	ListCell   *lc;

	gc_coverage_check(root, dataset->dataset_id, verb);
	gc_writers_check(root->versions, window_start,
					 psprintf("%s dataset %d", verb, dataset->dataset_id));

	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset SET"
				   " state = CASE WHEN dataset_id OPERATOR(pg_catalog.=) $1 THEN 'active' ELSE 'retired' END,"
				   " activated_at = CASE WHEN dataset_id OPERATOR(pg_catalog.=) $1"
				   "                THEN pg_catalog.clock_timestamp() ELSE activated_at END,"
				   " retired_at = CASE WHEN dataset_id OPERATOR(pg_catalog.=) $1"
				   "              THEN NULL ELSE pg_catalog.clock_timestamp() END"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1 OR dataset_id OPERATOR(pg_catalog.=) $2", 2,
				   INT4OID, Int32GetDatum(dataset->dataset_id), INT4OID, Int32GetDatum(active));
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._window w SET"
				   " dataset_id = coalesce(m.dataset_id, 0),"
				   " window_start = coalesce(m.window_start, '-infinity')"
				   " FROM guest_context._entity e"
				   " LEFT JOIN guest_context._dataset_entity m"
				   "   ON m.entity_id OPERATOR(pg_catalog.=) e.entity_id AND m.dataset_id OPERATOR(pg_catalog.=) $1"
				   " WHERE e.root_id OPERATOR(pg_catalog.=) $2 AND w.entity_id OPERATOR(pg_catalog.=) e.entity_id", 2,
				   INT4OID, Int32GetDatum(dataset->dataset_id), INT4OID, Int32GetDatum(root->entity_id));

	/* it has come through gc_coverage_check: it knows what was deleted until then */
	if (!dataset->built)
		gc_catalog_run(SPI_OK_UPDATE,
					   "UPDATE guest_context._changelog_state s SET deletes_unproven_since = NULL"
					   " FROM guest_context._changelog c"
					   " JOIN guest_context._dataset_entity m ON m.entity_id OPERATOR(pg_catalog.=) c.entity_id"
					   " WHERE m.dataset_id OPERATOR(pg_catalog.=) $1 AND s.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
					   " AND s.deletes_unproven_since IS NOT NULL", 1,
					   INT4OID, Int32GetDatum(dataset->dataset_id));
	GC_FAULT("active dataset switched");

	/* cached plans know the leaves of the dataset before */
	foreach(lc, gc_entity_tree(root->entity_id))
		CacheInvalidateRelcacheByRelid(((GcEntity *) lfirst(lc))->versions);
	gc_audit(function, psprintf("dataset %d", dataset->dataset_id), NULL,
			 psprintf("{\"before\": %d, \"force\": %s}", active, force ? "true" : "false"));
}

/* Datasets that were active before, beyond those that are kept for rollback. */
static void
drop_old_datasets(const GcEntity *root)
{
	uint64		dropped =
		gc_catalog_run(SPI_OK_UPDATE,
					   "UPDATE guest_context._dataset d SET state = 'dropped', dropped_at = pg_catalog.clock_timestamp()"
					   " FROM (SELECT dataset_id FROM guest_context._dataset"
					   "       WHERE root_id OPERATOR(pg_catalog.=) $1 AND state OPERATOR(pg_catalog.=) 'retired'"
					   "       ORDER BY retired_at DESC, dataset_id DESC OFFSET $2) old"
					   " WHERE d.dataset_id OPERATOR(pg_catalog.=) old.dataset_id", 2,
					   INT4OID, Int32GetDatum(root->entity_id), INT8OID, Int64GetDatum(gc_keep_datasets));

	if (dropped > 0)
		gc_maintenance_wake(root->owner);
}

/* There must be a verdict, and for the dataset that is active. */
static void
check_verdict(const GcDataset *dataset, int32 active)
{
	if (dataset->verified && dataset->verified_active == active)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("dataset %d has not been verified against what is active now", dataset->dataset_id),
			 !dataset->verified ? errdetail("It has not been verified at all.") :
			 dataset->verified_active == 0 ?
			 errdetail("No dataset was active then; %d is now.", active) :
			 active == 0 ?
			 errdetail("Dataset %d was active then; none is now.", dataset->verified_active) :
			 errdetail("Dataset %d was active then; %d is now.", dataset->verified_active, active),
			 errhint("SELECT * FROM guest_context.verify_dataset(%d);", dataset->dataset_id)));
}

static char *
force_command(int32 dataset_id)
{
	return psprintf("SELECT guest_context.activate_dataset(%d, force => true);", dataset_id);
}

/* What only force overrides. */
static void
check_unforced(const GcDataset *dataset, int32 active)
{
	StringInfoData reasons;

	initStringInfo(&reasons);
	if (dataset->regressions > 0)
		appendStringInfo(&reasons, "%lld keys would go back to an older version or vanish. ",
						 (long long) dataset->regressions);
	if (!dataset->verified_ok)
		appendStringInfoString(&reasons, "Other checks of verify_dataset failed. ");
	if (active != 0)
	{
		TimestampTz before = gc_dataset_get(active)->as_of;

		if (dataset->as_of < before)
			appendStringInfo(&reasons, "It is as of %s, and active dataset %d as of %s. ",
							 gc_timestamp_literal(dataset->as_of), active, gc_timestamp_literal(before));
	}
	if (reasons.len == 0)
		return;
	reasons.data[reasons.len - 1] = '\0';
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot activate dataset %d", dataset->dataset_id),
			 errdetail_internal("%s", reasons.data),
			 errhint("SELECT * FROM guest_context.verify_dataset(%d) WHERE NOT ok; then, to do it nevertheless: %s",
					 dataset->dataset_id, force_command(dataset->dataset_id))));
}

int32
gc_dataset_activate(int64 dataset_id, int64 expected_active, bool force)
{
	GcDataset  *dataset;
	int32		active;

	gc_require_read_committed("activate a dataset");
	dataset = gc_dataset_open(dataset_id, "activate", GC_SEALED | GC_RETIRED, ExclusiveLock, true);
	active = active_dataset(dataset->root);
	if (expected_active != GC_ANY_DATASET && expected_active != active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 active == 0 ? errmsg("no dataset is active, and %lld was expected", (long long) expected_active) :
				 errmsg("dataset %d is active, and %lld was expected", active, (long long) expected_active),
				 errhint("SELECT dataset, state, activated_at FROM guest_context.dataset ORDER BY activated_at;")));
	gc_dataset_check_leaves(dataset, "activate");
	/* while the active one has lost rows, there is nothing that a verdict could be about */
	if (!force)
		gc_dataset_check_active(active, psprintf("activate dataset %d", dataset->dataset_id),
								force_command(dataset->dataset_id));
	if (!force || !gc_dataset_is_broken(active))
		check_verdict(dataset, active);
	if (!force)
		check_unforced(dataset, active);
	switch_to(dataset, active, "activate", "activate_dataset", force);
	drop_old_datasets(dataset->root);
	gc_floor_recompute(dataset->root->entity_id);
	return active;
}

/*
 * activate_dataset(dataset bigint, expected_active bigint, force boolean) -> bigint
 *
 * Returns the dataset that was active, NULL when there was none.
 */
Datum
gc_activate_dataset(PG_FUNCTION_ARGS)
{
	int32		before;
	int			guc_level = gc_enter();

	gc_require_argument(fcinfo, 0, "dataset");
	gc_require_argument(fcinfo, 2, "force");
	before = gc_dataset_activate(PG_GETARG_INT64(0),
								 PG_ARGISNULL(1) ? GC_ANY_DATASET : PG_GETARG_INT64(1),
								 PG_GETARG_BOOL(2));
	gc_leave(guc_level);
	if (before == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(before);
}

/* The newest snapshot that was active before and is older than the active one; 0 = none. */
static int32
earlier_dataset(const GcEntity *root)
{
	return (int32)
		gc_catalog_run_bigint(SPI_OK_SELECT,
							  "SELECT d.dataset_id::pg_catalog.int8"
							  " FROM guest_context._dataset a JOIN guest_context._dataset d"
							  "   ON d.root_id OPERATOR(pg_catalog.=) a.root_id"
							  "  AND (d.as_of, d.dataset_id) OPERATOR(pg_catalog.<) (a.as_of, a.dataset_id)"
							  " WHERE a.root_id OPERATOR(pg_catalog.=) $1"
							  "   AND a.state OPERATOR(pg_catalog.=) 'active' AND d.state OPERATOR(pg_catalog.=) 'retired'"
							  " ORDER BY d.as_of DESC, d.dataset_id DESC LIMIT 1", 1,
							  INT4OID, Int32GetDatum(root->entity_id));
}

static int32
require_earlier_dataset(const GcEntity *root)
{
	int32		dataset_id = earlier_dataset(root);

	if (dataset_id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no earlier dataset of \"%s\" to roll back to", gc_entity_label(root)),
				 errdetail("Only one that was active before and is older than the active one can be."),
				 errhint("SELECT dataset, state, as_of FROM guest_context.dataset ORDER BY as_of;")));
	return dataset_id;
}

/* When anything leaves the window: its verdict, if it has one, was about another dataset. */
static void
check_rollback(const GcDataset *dataset, int32 active)
{
	int64		regressions = 0;
	ListCell   *lc;

	if (dataset->members != NIL &&
		((GcMember *) linitial(dataset->members))->window_start >
		((GcMember *) linitial(gc_dataset_get(active)->members))->window_start)
		gc_dataset_check_active(active, psprintf("roll back to dataset %d", dataset->dataset_id),
								psprintf("SELECT guest_context.rollback_dataset(%s, force => true);",
										 quote_literal_cstr(gc_quoted_name(dataset->root->view))));

	PushActiveSnapshot(GetLatestSnapshot());
	foreach(lc, dataset->members)
		regressions += gc_count_regressions(dataset, lfirst(lc));
	PopActiveSnapshot();
	if (regressions > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot roll back to dataset %d", dataset->dataset_id),
				 errdetail("Its window begins later than the active one's, and %lld keys would go back to an older version or vanish.",
						   (long long) regressions),
				 errhint("To do it nevertheless: SELECT guest_context.rollback_dataset(%s, force => true);",
						 quote_literal_cstr(gc_quoted_name(dataset->root->view)))));
}

/*
 * rollback_dataset(root regclass, force boolean) -> bigint
 *
 * To the next older dataset, called again to the one before that; returns the one
 * that is active now. Its window begins earlier, so no record leaves it, and there is
 * nothing to verify; the exception is `overlap` raised in between.
 */
Datum
gc_rollback_dataset(PG_FUNCTION_ARGS)
{
	GcEntity   *root;
	GcDataset  *dataset;
	int32		active;
	int			guc_level = gc_enter();

	gc_require_argument(fcinfo, 0, "root");
	gc_require_argument(fcinfo, 1, "force");
	gc_require_read_committed("roll back a dataset");
	root = gc_dataset_root(PG_GETARG_OID(0), "rollback_dataset", PG_GETARG_BOOL(1) ? ", force => true" : "");
	dataset = gc_dataset_open(require_earlier_dataset(root), "roll back to", GC_RETIRED, ExclusiveLock, true);
	if (earlier_dataset(root) != dataset->dataset_id)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("another dataset of \"%s\" has become active meanwhile", gc_entity_label(root)),
				 errhint("SELECT dataset, state, activated_at FROM guest_context.dataset ORDER BY activated_at;")));
	gc_dataset_check_leaves(dataset, "roll back to");
	active = active_dataset(root);
	if (!PG_GETARG_BOOL(1))
		check_rollback(dataset, active);
	switch_to(dataset, active, "roll back to", "rollback_dataset", PG_GETARG_BOOL(1));
	gc_floor_recompute(root->entity_id);
	gc_leave(guc_level);
	PG_RETURN_INT64(dataset->dataset_id);
}
