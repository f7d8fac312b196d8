/*
 * verify.c: verify_dataset, what activation would break; diff_dataset, what it
 * would change.
 *
 * All checks look with one snapshot, taken after every record that arrived before
 * the dataset's window start has been committed: so what they find about the
 * records that are to leave the window stays true, and activation need not look
 * again. (A record that arrives afterwards, older than a tombstone that left, is what
 * tombstones in a dataset are for; sealing and building take them over.) The verdict is stored with the dataset that was active then and holds
 * for no other.
 *
 * Queries over the tree run as its owner, security-restricted; operators on keys are
 * the key types' own.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "dataset.h"
#include "progress.h"
#include "guest_context.h"
#include "tree.h"
#include "view.h"

PG_FUNCTION_INFO_V1(gc_verify_dataset);
PG_FUNCTION_INFO_V1(gc_diff_dataset);

/*
 * Bounds of the checks that are a matter of degree. Rows: between 80 % and 200 % of
 * the active dataset's, where a difference of up to 1,000 never counts. Orphans: those
 * that there are now, and up to 1 % of the rows more.
 */
#define ROWS_MIN_PERCENT	80
#define ROWS_MAX_PERCENT	200
#define ROWS_SLACK			1000
#define ORPHANS_MAX_PERCENT 1

/* A row of the tree that would count if the dataset were active. */
static char *
would_count(const GcDataset *dataset, const GcMember *member, const char *alias)
{
	return psprintf("(%1$s.gc_dataset = %2$d OR %1$s.gc_dataset = 0 AND %1$s.gc_arrived_at >= '%3$s')",
					alias, dataset->dataset_id, gc_timestamp_literal(member->window_start));
}

/*
 * Regressions: keys whose winner now is a record that arrived before the new window
 * start, when the dataset does not have that version and an older one, or
 * nothing, would show instead. A tombstone that leaves is none as long as the key
 * stays deleted.
 *
 * n is the dataset's row of the key. A version that is as new as the winner and says
 * the same about deletion is that version: rows from outside have source -1 and would
 * otherwise all lose against the records they came from.
 */
int64
gc_count_regressions(const GcDataset *dataset, const GcMember *member)
{
	const GcEntity *entity = member->entity;
	const char *versions = gc_quoted_name(entity->versions);
	const char *version = quote_identifier(entity->version_column);
	const char *start = gc_timestamp_literal(member->window_start);
	GcWindow	now;

	gc_window_read(entity->versions, GetActiveSnapshot(), &now);
	if (member->window_start <= now.window_start)
		return 0;				/* nothing leaves the window */
	return gc_owner_count(entity->owner, psprintf(
		"SELECT count(*) FROM %1$s v"
		" LEFT JOIN %1$s n ON n.gc_dataset = %2$d AND %3$s"
		" WHERE v.gc_dataset = 0 AND v.gc_arrived_at < '%4$s' AND %5$s"
		"   AND (n.%6$s IS NULL OR n.%6$s < v.%6$s"
		"        OR n.%6$s = v.%6$s AND n.gc_deleted <> v.gc_deleted)"
		"   AND (NOT v.gc_deleted OR NOT coalesce("
		"        (SELECT s.gc_deleted FROM %1$s s WHERE %7$s"
		"           AND s.gc_dataset = 0 AND s.gc_arrived_at >= '%4$s'"
		"           AND (n.%6$s IS NULL OR %8$s > %9$s)"
		"         ORDER BY %8$s DESC LIMIT 1), n.gc_deleted, true))",
		versions, dataset->dataset_id,
		gc_columns_equal_sql(entity->versions, entity->key_columns, "n", entity->key_columns, "v"),
		start, gc_truth_where(entity, "v", true), version,
		gc_columns_equal_sql(entity->versions, entity->key_columns, "s", entity->key_columns, "v"),
		gc_position_sql(entity, "s"), gc_position_sql(entity, "n")));
}

/*
 * The checks. Each fills ok, value and expected of a finding.
 */

static void
check_regressions(const GcDataset *dataset, const GcMember *member, GcFinding *finding)
{
	finding->count = gc_count_regressions(dataset, member);
	finding->ok = finding->count == 0;
	finding->value = psprintf("%lld", (long long) finding->count);
	finding->expected = "0";
}

/* Live children of `child_where` that name a parent which `parent_where` does not have alive. */
static int64
count_orphans(const GcEntity *entity, const GcEntity *parent, const char *child_where,
			  const char *parent_where)
{
	return gc_owner_count(entity->owner, psprintf(
		"SELECT count(*) FROM %s c WHERE %s AND NOT c.gc_deleted AND (%s) IS NOT NULL"
		" AND NOT EXISTS (SELECT FROM %s p WHERE %s AND %s AND NOT p.gc_deleted)",
		gc_quoted_name(entity->versions), child_where,
		gc_column_list(entity->parent_columns, "c."), gc_quoted_name(parent->versions),
		gc_columns_equal_sql(parent->versions, parent->key_columns, "p", entity->parent_columns, "c"),
		parent_where));
}

/*
 * Children whose parent neither dataset nor window has. Parents do get deleted before
 * their children, so what matters is whether there would be many more than now;
 * counting those takes a while and is done only when it decides.
 */
static void
check_orphans(const GcDataset *dataset, const GcMember *member, GcFinding *finding)
{
	const GcEntity *entity = member->entity;
	int64		bound = member->rows * ORPHANS_MAX_PERCENT / 100;

	if (entity->parent_id != 0)
	{
		GcEntity   *parent = gc_entity_by_id(entity->parent_id);

		finding->count = count_orphans(entity, parent,
									   psprintf("c.gc_dataset = %d", dataset->dataset_id),
									   would_count(dataset, member, "p"));
		if (finding->count > bound)
			bound += count_orphans(entity, parent, gc_truth_where(entity, "c", false),
								   gc_truth_where(parent, "p", false));
	}
	finding->ok = finding->count <= bound;
	finding->value = psprintf("%lld", (long long) finding->count);
	finding->expected = psprintf("at most %lld", (long long) bound);
}

/* Versions from a clock that is ahead: no honest record could replace them. */
static void
check_future(const GcDataset *dataset, const GcMember *member, GcFinding *finding)
{
	TimestampTz latest = dataset->as_of + gc_max_future_skew * USECS_PER_SEC;

	if (member->max_version > latest)
		finding->count = gc_owner_count(member->entity->owner, psprintf(
			"SELECT count(*) FROM %s v WHERE v.gc_dataset = %d AND v.%s > '%s'",
			gc_quoted_name(member->entity->versions), dataset->dataset_id,
			quote_identifier(member->entity->version_column), gc_timestamp_literal(latest)));
	finding->ok = finding->count == 0;
	finding->value = psprintf("%lld", (long long) finding->count);
	finding->expected = "0";
}

static void
check_rows(const GcDataset *dataset, const GcMember *member, GcFinding *finding)
{
	int64		active = gc_dataset_active_rows(member->entity);
	int64		least = Min(active * ROWS_MIN_PERCENT / 100, active - ROWS_SLACK);
	int64		most = Max(active * ROWS_MAX_PERCENT / 100, active + ROWS_SLACK);

	least = Max(least, 0);
	finding->ok = active == 0 || (member->rows >= least && member->rows <= most);
	finding->value = psprintf("%lld", (long long) member->rows);
	finding->expected = active == 0 ? "any" :
		psprintf("%lld to %lld", (long long) least, (long long) most);
}

static void
check_coverage(const GcDataset *dataset, const GcMember *member, GcFinding *finding)
{
	GcWindow	now;
	TimestampTz least;

	gc_window_read(member->entity->versions, GetActiveSnapshot(), &now);
	least = gc_coverage_since(member->entity);
	/* one that was built since then has all that has come */
	if (dataset->built && dataset->as_of >= least)
		least = DT_NOBEGIN;
	least = Max(least, now.dropped_before);
	finding->ok = member->window_start >= least;
	finding->value = gc_timestamp_literal(member->window_start);
	finding->expected = psprintf("not before %s", gc_timestamp_literal(least));
}

static const struct
{
	const char *name;
	void		(*run) (const GcDataset *dataset, const GcMember *member, GcFinding *finding);
}			checks[] = {
	{"regressions", check_regressions},
	{"orphans", check_orphans},
	{"future versions", check_future},
	{"rows", check_rows},
	{"coverage", check_coverage},
};

static void
store_verdict(const GcDataset *dataset, int32 active, List *findings)
{
	int64		regressions = 0;
	bool		ok = true;
	ListCell   *lc;

	foreach(lc, findings)
	{
		GcFinding  *finding = lfirst(lc);

		if (strcmp(finding->check, "regressions") == 0)
			regressions += finding->count;
		else
			ok = ok && finding->ok;
	}
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset SET verified_at = pg_catalog.clock_timestamp(),"
				   " verified_active = $2, verified_ok = $3, regressions = $4"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1", 4,
				   INT4OID, Int32GetDatum(dataset->dataset_id), INT4OID, Int32GetDatum(active),
				   BOOLOID, BoolGetDatum(ok), INT8OID, Int64GetDatum(regressions));
}

/* Without the rows of either there is nothing to compare. */
static void
check_leaves(const GcDataset *dataset, int32 active, const char *verb)
{
	gc_dataset_check_leaves(dataset, verb);
	gc_dataset_check_active(active, psprintf("%s dataset %d", verb, dataset->dataset_id),
							psprintf("SELECT guest_context.activate_dataset(%d, force => true);",
									 dataset->dataset_id));
}

List *
gc_dataset_verify(const GcDataset *dataset)
{
	TimestampTz window_start = ((GcMember *) linitial(dataset->members))->window_start;
	List	   *findings = NIL;
	GcWindow	now;
	ListCell   *lc;

	gc_require_read_committed("verify a dataset");
	if (window_start > GetCurrentTimestamp())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot verify dataset %d before its window begins", dataset->dataset_id),
				 errdetail("That is at %s; records that will leave the window may still arrive.",
						   gc_timestamp_literal(window_start)),
				 errhint("Wait until then, or give the root a longer overlap.")));
	gc_writers_check(dataset->root->versions, window_start,
					 psprintf("verify dataset %d", dataset->dataset_id));

	PushActiveSnapshot(GetLatestSnapshot());
	gc_window_read(dataset->root->versions, GetActiveSnapshot(), &now);
	check_leaves(dataset, now.dataset_id, "verify");
	foreach(lc, dataset->members)
	{
		GcMember   *member = lfirst(lc);

		for (int i = 0; i < lengthof(checks); i++)
		{
			GcFinding  *finding = palloc0(sizeof(GcFinding));

			finding->entity = member->entity;
			finding->check = checks[i].name;
			checks[i].run(dataset, member, finding);
			findings = lappend(findings, finding);
		}
	}
	PopActiveSnapshot();
	store_verdict(dataset, now.dataset_id, findings);
	return findings;
}

/*
 * verify_dataset(dataset bigint)
 *     -> TABLE(entity regclass, check_name text, ok boolean, value text, expected text)
 */
Datum
gc_verify_dataset(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	GcDataset  *dataset;
	int			guc_level = gc_enter();
	ListCell   *lc;

	gc_require_argument(fcinfo, 0, "dataset");
	InitMaterializedSRF(fcinfo, 0);
	dataset = gc_dataset_open(PG_GETARG_INT64(0), "verify", GC_SEALED | GC_RETIRED, ExclusiveLock, false);
	foreach(lc, gc_dataset_verify(dataset))
	{
		GcFinding  *finding = lfirst(lc);
		Datum		values[5];
		bool		nulls[5] = {false};

		values[0] = ObjectIdGetDatum(finding->entity->view);
		values[1] = CStringGetTextDatum(finding->check);
		values[2] = BoolGetDatum(finding->ok);
		values[3] = CStringGetTextDatum(finding->value);
		values[4] = CStringGetTextDatum(finding->expected);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	gc_leave(guc_level);
	return (Datum) 0;
}

/*
 * One row of four counts. b is what shows now, a what would show: of all versions
 * that would count, the newest per key, unless it is a tombstone. Rows are compared
 * by their bytes. Expiry is left out of both sides.
 */
static char *
diff_sql(const GcDataset *dataset, const GcMember *member)
{
	const GcEntity *entity = member->entity;
	const char *keys = gc_column_list(entity->key_columns, "v.");

	return psprintf(
		"SELECT count(*) FILTER (WHERE b.gc_dataset IS NULL),"
		" count(*) FILTER (WHERE a.gc_dataset IS NULL),"
		" count(*) FILTER (WHERE a.%1$s >= b.%1$s AND ROW(%2$s)::record OPERATOR(pg_catalog.*<>) ROW(%3$s)::record),"
		" count(*) FILTER (WHERE a.%1$s < b.%1$s)"
		" FROM (SELECT v.* FROM %4$s v WHERE %5$s) b"
		" FULL JOIN (SELECT n.* FROM (SELECT DISTINCT ON (%6$s) v.* FROM %4$s v WHERE %7$s"
		"                             ORDER BY %6$s, %8$s DESC) n"
		"            WHERE NOT n.gc_deleted) a ON %9$s",
		quote_identifier(entity->version_column),
		gc_column_list(entity->shape_columns, "a."), gc_column_list(entity->shape_columns, "b."),
		gc_quoted_name(entity->versions), gc_truth_where(entity, "v", false),
		keys, would_count(dataset, member, "v"), gc_position_sql(entity, "v"),
		gc_columns_equal_sql(entity->versions, entity->key_columns, "a", entity->key_columns, "b"));
}

/*
 * diff_dataset(dataset bigint)
 *     -> TABLE(entity regclass, added bigint, removed bigint, changed bigint, older bigint)
 *
 * What SQL would see change if the dataset were activated now.
 */
Datum
gc_diff_dataset(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	GcDataset  *dataset;
	GcWindow	now;
	int			guc_level = gc_enter();
	ListCell   *lc;

	gc_require_argument(fcinfo, 0, "dataset");
	InitMaterializedSRF(fcinfo, 0);
	dataset = gc_dataset_open(PG_GETARG_INT64(0), "compare", GC_SEALED | GC_RETIRED, ShareLock, false);
	PushActiveSnapshot(GetLatestSnapshot());
	gc_window_read(dataset->root->versions, GetActiveSnapshot(), &now);
	check_leaves(dataset, now.dataset_id, "compare");
	foreach(lc, dataset->members)
	{
		GcMember   *member = lfirst(lc);
		int64		counts[4];
		Datum		values[5];
		bool		nulls[5] = {false};

		gc_progress_start(GC_PROGRESS_DIFF, dataset->dataset_id, member->entity->view);
		gc_progress_update(0, member->rows);
		gc_owner_counts(member->entity->owner, diff_sql(dataset, member), counts, lengthof(counts));
		gc_progress_end();
		values[0] = ObjectIdGetDatum(member->entity->view);
		for (int i = 0; i < lengthof(counts); i++)
			values[i + 1] = Int64GetDatum(counts[i]);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	PopActiveSnapshot();
	gc_leave(guc_level);
	return (Datum) 0;
}
