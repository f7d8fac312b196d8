/*
 * freshness.c: what readers may know of how far changelogs have been read: offsets,
 * wait_for.
 *
 * Both answer from the ledger, which is committed with the rows: what it says can be read is there
 * to be read by the next statement. Who may read the entity may ask.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "changelog.h"
#include "compat.h"
#include "dataset.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_offsets);
PG_FUNCTION_INFO_V1(gc_wait_for);

#define LOOK_MS 10

static GcEntity *
readable_entity(FunctionCallInfo fcinfo)
{
	GcEntity   *entity;

	gc_require_argument(fcinfo, 0, "entity");
	entity = gc_entity_get(PG_GETARG_OID(0), false);
	if (pg_class_aclcheck(entity->view, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, gc_entity_label(entity));
	return entity;
}

/* offsets(entity) -> setof (changelog, topic, partition, next_offset) */
Datum
gc_offsets(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcEntity   *entity = readable_entity(fcinfo);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(entity->entity_id)};

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	gc_catalog_execute("SELECT c.name, c.topic, p.partition, p.to_offset FROM guest_context._changelog c"
					   " JOIN guest_context._position p ON p.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
					   " WHERE c.entity_id OPERATOR(pg_catalog.=) $1 ORDER BY c.name, p.partition",
					   1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		row[4];
		bool		nulls[4];

		for (int j = 0; j < 4; j++)
			row[j] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, j + 1, &nulls[j]);
		tuplestore_putvalues(result->setResult, result->setDesc, row, nulls);
	}
	SPI_finish();
	gc_leave(guc_level);
	return (Datum) 0;
}

/*
 * Has the record been read by every changelog of the entity that reads the topic? ERROR when there
 * is none, or one that does not go on by itself. Looks with a new snapshot.
 */
static bool
has_been_read(const GcEntity *entity, const char *topic, int32 partition, int64 offset)
{
	Oid			types[5] = {INT4OID, TEXTOID, INT4OID, INT8OID, OIDOID};
	Datum		values[5] = {Int32GetDatum(entity->entity_id), CStringGetTextDatum(topic), Int32GetDatum(partition),
	Int64GetDatum(offset), ObjectIdGetDatum(MyDatabaseId)};
	char	   *stopped;
	bool		isnull;
	bool		read;
	int64		changelogs;

	SPI_connect();
	gc_catalog_execute("SELECT pg_catalog.count(*), coalesce(pg_catalog.bool_and(p.to_offset OPERATOR(pg_catalog.>) $4), false),"
					   " pg_catalog.min(c.name) FILTER (WHERE s.database IS DISTINCT FROM $5 OR s.paused OR s.halted)"
					   " FROM guest_context._changelog c"
					   " LEFT JOIN guest_context._changelog_state s ON s.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
					   " LEFT JOIN guest_context._position p ON p.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
					   "  AND p.partition OPERATOR(pg_catalog.=) $3"
					   " WHERE c.entity_id OPERATOR(pg_catalog.=) $1 AND c.topic OPERATOR(pg_catalog.=) $2",
					   5, types, values, NULL, SPI_OK_SELECT);
	changelogs = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	read = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	stopped = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3);
	if (changelogs == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("entity \"%s\" has no changelog of topic \"%s\"", gc_entity_label(entity), topic),
				 errhint("SELECT changelog, entity, topic FROM guest_context.changelog;")));
	if (!read && stopped != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("changelog \"%s\" has stopped", stopped),
				 errhint("SELECT * FROM guest_context.status;")));
	SPI_finish();
	return read;
}

/* wait_for(entity, topic, partition, record_offset, timeout) -> boolean */
Datum
gc_wait_for(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcEntity   *entity = readable_entity(fcinfo);
	TimestampTz until;
	bool		read;

	gc_require_argument(fcinfo, 1, "topic");
	gc_require_argument(fcinfo, 2, "partition");
	gc_require_argument(fcinfo, 3, "record_offset");
	gc_require_argument(fcinfo, 4, "timeout");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot wait for a record in a transaction that keeps its snapshot"),
				 errdetail("It would not see the record when that is there."),
				 errhint("Wait in a transaction of isolation level READ COMMITTED.")));
	until = gc_timestamp_plus(GetCurrentTimestamp(), PG_GETARG_INTERVAL_P(4));
	for (;;)
	{
		read = has_been_read(entity, text_to_cstring(PG_GETARG_TEXT_PP(1)), PG_GETARG_INT32(2), PG_GETARG_INT64(3));
		if (read || GetCurrentTimestamp() >= until)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	gc_leave(guc_level);
	PG_RETURN_BOOL(read);
}
