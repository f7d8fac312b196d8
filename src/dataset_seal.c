/*
 * dataset_seal.c: seal_dataset: what was loaded becomes immutable leaves.
 *
 * One transaction: a failure leaves the dataset loading and the staging tables as
 * they were. Loaders that are still writing are waited for. Of each key the newest
 * version is kept, and of rows with equal version the one with the greater bytes,
 * which depends on nothing but the rows themselves.
 *
 * A snapshot seldom says what has been deleted; it just does not have it. When
 * its window begins behind a tombstone, nothing would be left to hold a record that is older
 * than the delete and comes after it: between verify and activate, or later. So sealing
 * takes such tombstones over, as a build does, for keys that the snapshot does not have.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "common/fault_point.h"
#include "compat.h"
#include "dataset.h"
#include "purge.h"
#include "tree.h"
#include "view.h"

PG_FUNCTION_INFO_V1(gc_seal_dataset);

static int64
expected_count(const char *name, JsonbValue *value)
{
	if (value->type == jbvNumeric)
	{
		Datum		count = NumericGetDatum(value->val.numeric);
		int64		whole = DatumGetInt64(DirectFunctionCall1(numeric_int8, count));

		if (whole >= 0 &&
			DatumGetBool(DirectFunctionCall2(numeric_eq, count,
											 DirectFunctionCall1(int8_numeric, Int64GetDatum(whole)))))
			return whole;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the expected count of \"%s\" must be a whole number, zero or more", name)));
	return 0;
}

/*
 * SELECT guest_context.seal_dataset(17, '{"shop.orders": 0, …}'): the counts that were given,
 * and this one's.
 */
static char *
seal_command(const GcDataset *dataset, const GcMember *counted, int64 count)
{
	StringInfoData json;
	ListCell   *lc;

	initStringInfo(&json);
	foreach(lc, dataset->members)
	{
		GcMember   *member = lfirst(lc);
		int64		expected = member == counted ? count : member->expected;

		if (expected == GC_NOT_EXPECTED)
			continue;
		appendStringInfoString(&json, json.len > 0 ? ", " : "");
		escape_json(&json, gc_quoted_name(member->entity->view));
		appendStringInfo(&json, ": %lld", (long long) expected);
	}
	return psprintf("SELECT guest_context.seal_dataset(%d, %s);", dataset->dataset_id,
					quote_literal_cstr(psprintf("{%s}", json.data)));
}

/*
 * Notes {"shop.orders": 812345} in the members. Names are looked up with the
 * caller's search_path.
 */
static void
read_expected(const GcDataset *dataset, Jsonb *expected)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(expected))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"expected\" must be an object of counts"),
				 errhint("%s", seal_command(dataset, linitial(dataset->members), 812345))));
	iterator = JsonbIteratorInit(&expected->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		char	   *name;
		Oid			relation;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		relation = DatumGetObjectId(DirectFunctionCall1(regclassin, CStringGetDatum(name)));
		JsonbIteratorNext(&iterator, &value, true);
		gc_dataset_member(dataset, relation)->expected = expected_count(name, &value);
	}
}

/*
 * The counts must be the expected ones. An empty entity is more often a load that
 * was forgotten than the truth: once somebody counts, or the active dataset has
 * rows of it, emptiness must be said.
 */
static void
check_counts(const GcDataset *dataset, const GcMember *member, const GcLeafCounts *counts,
			 int64 superseded, bool counted)
{
	const char *label = gc_entity_label(member->entity);

	if (member->expected != GC_NOT_EXPECTED && member->expected != counts->rows)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("dataset %d has %lld rows of entity \"%s\" instead of %lld",
						dataset->dataset_id, (long long) counts->rows, label,
						(long long) member->expected),
				 errdetail("Besides, it has %lld tombstones, and %lld older versions were left out.",
						   (long long) counts->tombstones, (long long) superseded),
				 counts->rows < member->expected ?
				 errhint("Load what is missing into %s, or correct the expected count, then seal again.",
						 gc_quoted_name(member->staging)) :
				 errhint("Delete what is too much from %s, or correct the expected count, then seal again.",
						 gc_quoted_name(member->staging))));
	if (counts->rows == 0 && member->expected == GC_NOT_EXPECTED &&
		(counted || gc_dataset_active_rows(member->entity) > 0))
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("dataset %d has no rows of entity \"%s\"", dataset->dataset_id, label),
				 counted ? errdetail("Its count is not among the expected ones.") :
				 errdetail("The active dataset has rows of it."),
				 errhint("If that is right: %s", seal_command(dataset, member, 0))));
}

/* The newest version per key, as SQL for FROM; its alias is no column's name. */
static char *
newest_loaded(const GcMember *member)
{
	char	   *keys = gc_column_list(member->entity->key_columns, "gc_row.");

	return psprintf("(SELECT DISTINCT ON (%s) gc_row.* FROM %s gc_row"
					" ORDER BY %s, gc_row.%s DESC, gc_row USING OPERATOR(pg_catalog.*>)) v",
					keys, gc_quoted_name(member->staging), keys,
					quote_identifier(member->entity->version_column));
}

/*
 * Adds to what was loaded the truth's tombstones that the dataset's window will not have, as
 * far back as `retention`. A key that was loaded as alive is left alone: whether that takes a
 * delete back is for verify to say and for `force` to decide. Not seen are tombstones of
 * transactions that are older than the window start and still open. While the active
 * dataset has lost a partition there is no truth to ask, and the records' own are taken.
 */
static void
take_over_tombstones(const GcDataset *dataset, const GcMember *member)
{
	const GcEntity *entity = member->entity;
	const char *staging = gc_quoted_name(member->staging);
	const char *version = quote_identifier(entity->version_column);
	TimestampTz horizon = gc_timestamp_minus(dataset->as_of, entity->retention);
	const char *truth;
	GcWindow	now;
	GcCaller	caller;

	gc_window_read(entity->versions, NULL, &now);
	truth = gc_dataset_is_broken(now.dataset_id) ? "v.gc_dataset = 0" : gc_truth_where(entity, "v", true);
	gc_owner_enter(entity->owner, &caller);
	/* few tombstones are expected where there may be many, and the staging table has no index */
	set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION,
					  GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	if (SPI_execute(psprintf("INSERT INTO %1$s (%2$s, %3$s, gc_deleted) SELECT %4$s, v.%3$s, true FROM %5$s v"
							 " WHERE %6$s AND v.gc_deleted AND v.%3$s >= '%7$s'"
							 "   AND (v.gc_dataset <> 0 OR v.gc_arrived_at < '%8$s')"
							 "   AND NOT EXISTS (SELECT FROM %1$s s WHERE %9$s AND NOT s.gc_deleted)",
							 staging, gc_column_list(entity->key_columns, ""), version,
							 gc_column_list(entity->key_columns, "v."), gc_quoted_name(entity->versions),
							 truth, gc_timestamp_literal(horizon),
							 gc_timestamp_literal(member->window_start),
							 gc_columns_equal_sql(entity->versions, entity->key_columns, "s",
												  entity->key_columns, "v")),
					false, 0) != SPI_OK_INSERT)
		elog(ERROR, "unexpected result of taking over tombstones");	/* cannot happen */
	SPI_finish();
	gc_owner_leave(&caller);
}

static int64
seal_member(const GcDataset *dataset, GcMember *member, bool counted)
{
	char	   *staging = gc_quoted_name(member->staging);
	GcLeafCounts counts;
	int64		loaded;
	int64		superseded;

	/* Waits for loaders; the snapshot comes after, so that it sees their rows. */
	gc_run_ddl(psprintf("LOCK TABLE %s IN ACCESS EXCLUSIVE MODE", staging), member->entity->owner);
	gc_purged_leave_out(member->entity, member->staging);
	take_over_tombstones(dataset, member);
	PushActiveSnapshot(GetLatestSnapshot());
	loaded = gc_owner_count(member->entity->owner, psprintf("SELECT count(*) FROM %s", staging));
	gc_leaf_make(dataset, member, newest_loaded(member), &counts);
	GC_FAULT("leaf of a sealed dataset made");
	PopActiveSnapshot();

	superseded = loaded - counts.rows - counts.tombstones;
	check_counts(dataset, member, &counts, superseded, counted);
	gc_run_ddl(psprintf("DROP TABLE %s", staging), member->entity->owner);
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset_entity SET staging = NULL, superseded = $3"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1 AND entity_id OPERATOR(pg_catalog.=) $2", 3,
				   INT4OID, Int32GetDatum(dataset->dataset_id),
				   INT4OID, Int32GetDatum(member->entity->entity_id),
				   INT8OID, Int64GetDatum(superseded));
	return counts.rows;
}

void
gc_dataset_sealed(const GcDataset *dataset)
{
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset SET state = 'sealed',"
				   " sealed_at = pg_catalog.clock_timestamp(), message = NULL"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1", 1,
				   INT4OID, Int32GetDatum(dataset->dataset_id));
}

/*
 * seal_dataset(dataset bigint, expected jsonb) -> bigint
 *
 * Returns the live rows of all entities together.
 */
Datum
gc_seal_dataset(PG_FUNCTION_ARGS)
{
	GcDataset  *dataset;
	int64		rows = 0;
	int			guc_level;
	ListCell   *lc;

	gc_require_argument(fcinfo, 0, "dataset");
	gc_require_read_committed("seal a dataset");
	dataset = gc_dataset_open(PG_GETARG_INT64(0), "seal", GC_LOADING, ExclusiveLock, false);
	gc_dataset_check_external(dataset, "seal");
	if (!PG_ARGISNULL(1))
		read_expected(dataset, PG_GETARG_JSONB_P(1));

	guc_level = gc_enter();
	foreach(lc, dataset->members)
		rows += seal_member(dataset, lfirst(lc), !PG_ARGISNULL(1));
	gc_dataset_sealed(dataset);
	GC_FAULT("dataset sealed");
	gc_leave(guc_level);
	PG_RETURN_INT64(rows);
}
